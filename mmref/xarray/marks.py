# SPDX-License-Identifier: GPL-2.0-only
"""Marks: three bits per entry that can be searched for, each repeated up the tree.

Conventions in this file: *xas* is the cursor (``self``), *xa* its array, *mark* refers to one of 0, 1 and 2,
*node* to an `XaNode`, *offset* to a slot number, *marks* to a bitmap, bit i for slot i.

In an array with the free mark (`XA_FLAGS_TRACK_FREE`), mark 0 is set on what is free, nodes with room
included; it is the only mark that an empty slot may carry.
"""

from __future__ import annotations

from mmref.errors import MmrefError, UsageError
from mmref.xarray.anchor import bad_mark
from mmref.xarray.entries import (
    XA_FLAGS_TRACK_FREE,
    XA_FREE_MARK,
    XA_MAX_MARKS,
    Internal,
    xa_flags_mark,
)
from mmref.xarray.node import XaNode
from mmref.xarray.state import NodeState
from mmref.xarray.walk import Walk

__all__ = ["Marks", "node_get_marks", "node_set_marks"]


def node_get_marks(node: XaNode, offset: int) -> int:
    """Return which marks one slot has, bit i for mark i (kernel function of that name)."""
    marks = 0
    for mark in range(XA_MAX_MARKS):
        if node.marks[mark] >> offset & 1:
            marks |= 1 << mark
    return marks


def node_set_marks(node: XaNode, offset: int, marks: int, child: XaNode | None = None, sibs: int = 0) -> None:
    """Give one slot some marks, and every entry of the child in it too (kernel function of that name).

    Args:
        node: the node.
        offset: its slot.
        marks: which ones, bit i for mark i.
        child: the node in that slot, if its entries are to be marked as well.
        sibs: siblings per entry in the child.
    """
    for mark in range(XA_MAX_MARKS):
        if marks & (1 << mark):
            node.marks[mark] |= 1 << offset
            if child is not None:
                for slot in range(0, len(child.slots), sibs + 1):
                    child.marks[mark] |= 1 << slot


class Marks(Walk):
    """A cursor that can also read and change marks."""

    __slots__ = ()

    def get_mark(self, mark: int) -> bool:
        """Say whether the entry under the cursor has a mark.

        Kernel: xas_get_mark(), lib/xarray.c.

        Args:
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Returns:
            False if the cursor stands nowhere.

        Raises:
            UsageError: no such mark.

        Context: xa_lock or the RCU read lock.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        node = self.node
        if type(node) is NodeState:
            return False
        if node is None:
            return bool(self.xa.xa_flags & xa_flags_mark(mark))
        return bool(node.marks[mark] >> self.offset & 1)

    def set_mark(self, mark: int) -> None:
        """Mark the entry under the cursor, and the way up to the head.

        Kernel: xas_set_mark(), lib/xarray.c.

        Does nothing if the cursor stands nowhere.

        Args:
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Raises:
            UsageError: no such mark; no entry there (in the kernel, the next search for the mark would never
                return), or a sibling; the cursor's node has left the tree.

        Context: xa_lock held.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        node = self.node
        if type(node) is NodeState:
            return
        if node is None:
            entry = self.xa._peek_head()
        else:
            if node.array is None:
                raise self._stale()
            entry = list.__getitem__(node.slots, self.offset) if self.offset <= self._mask else None
        if entry is None and not (mark == XA_FREE_MARK and self.xa.xa_flags & XA_FLAGS_TRACK_FREE):
            raise UsageError(f"nothing to mark at index {self.index}: store an entry first")
        if type(entry) is Internal and entry.number < 64:
            raise UsageError(f"index {self.index} is inside an entry, which has its marks where it begins")
        self._set_mark(mark)

    def _set_mark(self, mark: int) -> None:
        """Set a mark from the cursor's slot upwards, as far as it is not set yet."""
        node = self.node
        if type(node) is NodeState:
            return
        offset = self.offset
        while node is not None:
            marks = node.marks
            bit = 1 << offset
            if marks[mark] & bit:
                return
            marks[mark] |= bit
            offset = node.offset
            node = node.parent
        flag = xa_flags_mark(mark)
        xa = self.xa
        if not xa.xa_flags & flag:
            xa.xa_flags |= flag

    def clear_mark(self, mark: int) -> None:
        """Take a mark off the entry under the cursor, and off the nodes above that have none left.

        Kernel: xas_clear_mark(), lib/xarray.c.

        Does nothing if the cursor stands nowhere.

        Args:
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Raises:
            UsageError: no such mark, or the cursor's node has left the tree.

        Context: xa_lock held.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        node = self.node
        if type(node) is XaNode and node.array is None:
            raise self._stale()
        self._clear_mark(mark)

    def _clear_mark(self, mark: int) -> None:
        """Clear a mark from the cursor's slot upwards, until another slot has it."""
        node = self.node
        if type(node) is NodeState:
            return
        offset = self.offset
        while node is not None:
            marks = node.marks
            bit = 1 << offset
            if not marks[mark] & bit:
                return
            marks[mark] ^= bit
            if marks[mark]:
                return
            offset = node.offset
            node = node.parent
        flag = xa_flags_mark(mark)
        xa = self.xa
        if xa.xa_flags & flag:
            xa.xa_flags &= ~flag

    def init_marks(self) -> None:
        """Give the entry under the cursor the marks of an empty one: none, or just the free mark.

        Kernel: xas_init_marks(), lib/xarray.c.

        Raises:
            UsageError: the cursor's node has left the tree.

        Context: xa_lock held.
        """
        node = self.node
        if type(node) is XaNode and node.array is None:
            raise self._stale()
        self._init_marks()

    def _init_marks(self) -> None:
        """Do what init_marks() does, for a cursor that is known to be right."""
        if self.xa.xa_flags & XA_FLAGS_TRACK_FREE:
            self._set_mark(XA_FREE_MARK)
        else:
            self._clear_mark(XA_FREE_MARK)
        self._clear_mark(1)
        self._clear_mark(2)

    def _squash_marks(self, node: XaNode) -> None:
        """Move the marks of the cursor's sibling slots to its first slot (kernel: xas_squash_marks())."""
        offset = self.offset
        siblings = ((1 << self.sibs) - 1) << (offset + 1)
        marks = node.marks
        for mark in range(XA_MAX_MARKS):
            if marks[mark] & siblings:
                marks[mark] = marks[mark] & ~siblings | 1 << offset

    def _stale(self) -> MmrefError:
        """Make the error for a change through a cursor whose node has been freed."""
        return self.xa._misused(
            f"the cursor at index {self.index} is stale: its node has left the tree since",
            "; call reset() and walk again under the lock",
        )
