# SPDX-License-Identifier: GPL-2.0-only
"""Growing the tree: nodes are allocated, put on top of the head, and hung in below it.

Conventions in this file: *xas* is the cursor (``self``), *xa* its array, *node* refers to the `XaNode` being
made or walked, *parent* to the node closer to the head, *head* and *entry* to something stored in the head or
in a slot, *shift* to how many bits of an index are resolved below a node.

A new node is filled in completely before it is put where readers can find it.
"""

from __future__ import annotations

from errno import ENOMEM
from typing import Any

from mmref.errors import MmrefInternalError
from mmref.xarray.entries import (
    RETRY,
    ULONG_MAX,
    XA_FLAGS_TRACK_FREE,
    XA_FLAGS_ZERO_BUSY,
    XA_FREE_MARK,
    XA_MAX_MARKS,
    ZERO,
    Internal,
    is_value,
    xa_flags_mark,
)
from mmref.xarray.marks import Marks
from mmref.xarray.node import XaNode
from mmref.xarray.state import NO_RUN, XAS_BOUNDS, XAS_RESTART, NodeState, xas_error_node

__all__ = ["Create"]

XAS_ENOMEM = xas_error_node(-ENOMEM)


class Create(Marks):
    """A cursor that can also make the slot that its entry goes into."""

    __slots__ = ()

    def destroy(self) -> None:
        """Free the nodes that were allocated for this cursor and not used.

        Kernel: xas_destroy(), lib/xarray.c.

        `nomem()` does this at the end of each operation; few others need to.

        Context: any; no lock needed.
        """
        node = self.alloc
        while node is not None:
            following = node.parent
            self.xa._free_node(node)
            self.alloc = node = following

    def nomem(self) -> bool:
        """Allocate a node if a store failed for want of one; the caller then stores again.

        Kernel: xas_nomem(), lib/xarray.c.

        Returns:
            True if a node was needed and is there now. Otherwise False, and what was left over is freed.

        Context: no lock held: it may sleep.

        >>> from mmref.xarray import XArray, XaState
        >>> xas = XaState(XArray(), 5)
        >>> while True:
        ...     old = xas.store("page")
        ...     if not xas.nomem():
        ...         break
        >>> xas.error
        0
        """
        if self.node is not XAS_ENOMEM:
            if self.alloc is not None:
                self.destroy()
            return False
        node = self.xa._new_node(blocking=True)
        self.alloc = node
        if node is None:
            return False
        self.reset()
        return True

    def _nomem_locked(self) -> bool:
        """Do the same with xa_lock held: it is dropped while allocating (kernel: __xas_nomem())."""
        if self.node is not XAS_ENOMEM:
            if self.alloc is not None:
                self.destroy()
            return False
        lock = self.xa.xa_lock
        lock.release()
        try:
            return self.nomem()
        finally:
            lock.acquire()

    def _alloc(self, shift: int) -> XaNode | None:
        """Take a new node for the slot the cursor is at, and count it there (kernel: xas_alloc())."""
        parent = self.node
        if type(parent) is NodeState:
            return None
        node = self.alloc
        if node is not None:
            self.alloc = None
        else:
            node = self.xa._new_node(blocking=False)
            if node is None:
                self.node = XAS_ENOMEM
                return None
        if parent is not None:
            node.offset = self.offset
            parent.count += 1
            if self.update is not None:
                self.update(parent)
        node.shift = shift
        node.count = 0
        node.nr_values = 0
        node.parent = parent
        return node

    def _max(self) -> int:
        """Return the highest index that has to exist for this store (kernel: xas_max()).

        Nothing larger than one index can be stored in the head itself, so an entry that begins at 0 needs one
        index more.
        """
        highest = self.index
        if self.shift or self.sibs:
            mask = (((self.sibs + 1) << self.shift) & ULONG_MAX) - 1
            highest |= mask
            if mask == highest:
                highest += 1
        return highest

    def _expand(self, head: Any) -> int:
        """Put nodes on top of the head until the index fits below it (kernel: xas_expand()).

        Returns:
            The shift just above the top node; -ENOMEM with the error in the cursor.
        """
        xa = self.xa
        chunk_shift = xa.chunk_shift
        node: XaNode | None = None
        shift = 0
        highest = self._max()

        if head is None:
            if highest == 0:
                return 0
            while highest >> shift >= xa.chunk_size:
                shift += chunk_shift
            return shift + chunk_shift
        if type(head) is XaNode:
            node = head
            shift = node.shift + chunk_shift
        self.node = None

        while highest > max_index(head, xa.chunk_size):
            node = self._alloc(shift)
            if node is None:
                return -ENOMEM
            node.count = 1
            if is_value(head):
                node.nr_values = 1
            list.__setitem__(node.slots, 0, head)  # no access: nobody can reach the node yet

            # What the whole array is marked with, slot 0 of the new top node is marked with.
            flags = xa.xa_flags
            for mark in range(XA_MAX_MARKS):
                if mark == XA_FREE_MARK and flags & XA_FLAGS_TRACK_FREE:
                    node.marks[mark] = (1 << xa.chunk_size) - 1
                    if not flags & xa_flags_mark(mark):
                        node.marks[mark] &= ~1
                        xa.xa_flags |= xa_flags_mark(mark)
                elif flags & xa_flags_mark(mark):
                    node.marks[mark] |= 1

            if type(head) is XaNode:
                head.offset = 0
                head.parent = node
            head = node
            xa.xa_head = head
            if self.update is not None:
                self.update(node)
            shift += chunk_shift

        self.node = node
        return shift

    def _create(self, allow_root: bool) -> Any:
        """Make the slot that the entry goes into, and stop there (kernel: xas_create()).

        Args:
            allow_root: whether the entry may sit in the head itself.

        Returns:
            What the slot holds; None also if it could not be made, with the error in the cursor.
        """
        xa = self.xa
        node = self.node
        order = self.shift
        above: XaNode | None  # the node whose slot `entry` is in; None for the head

        if node is None or node is XAS_RESTART or node is XAS_BOUNDS:
            entry = xa.xa_head
            self.node = above = None
            if type(entry) is XaNode and (self.index if not order else self._max()) >> entry.shift <= self._mask:
                shift = entry.shift + xa.chunk_shift  # high enough as it is
            else:
                if entry is None and xa.xa_flags & XA_FLAGS_ZERO_BUSY:
                    entry = ZERO
                shift = self._expand(entry)
                if shift < 0:
                    return None
                if not shift and not allow_root:
                    shift = xa.chunk_shift
                entry = xa.xa_head
        elif type(node) is NodeState:
            return None
        else:
            shift = node.shift
            above = node
            entry = node.slots[self.offset]

        while shift > order:
            shift -= xa.chunk_shift
            if entry is None:
                child = self._alloc(shift)
                if child is None:
                    break
                if xa.xa_flags & XA_FLAGS_TRACK_FREE:
                    child.marks[XA_FREE_MARK] = (1 << xa.chunk_size) - 1
                if above is None:
                    xa.xa_head = child
                else:
                    above.slots[self.offset] = child
            elif type(entry) is XaNode:
                child = entry
            else:
                break
            # One level down (kernel: xas_descend()).
            offset = (self.index >> child.shift) & self._mask
            entry = child.slots[offset]
            while type(entry) is Internal and entry.number < 64:
                offset = entry.number
                entry = child.slots[offset]
                if child.shift and type(entry) is XaNode:
                    entry = RETRY
            self.node = above = child
            self.offset = offset
        return entry

    def create_range(self) -> None:
        """Make every slot that stores to the single indices of this range will need.

        Kernel: xas_create_range(), lib/xarray.c.

        Afterwards the cursor is at the first index, with order 0. If memory is short, it carries the error and
        keeps its order. Where a multi-index entry is in the way, the slots below it are not made.

        Raises:
            UsageError: the cursor's node has left the tree.

        Context: xa_lock held.

        >>> from mmref.xarray import XArray, XaState
        >>> xa = XArray()
        >>> xas = XaState(xa, 0, order=9)
        >>> xas.create_range()
        >>> xa.allocator.live
        9
        """
        index = self.index
        shift = self.shift
        sibs = self.sibs
        chunk_mask = self._mask
        node = self.node

        if type(node) is XaNode and node.array is None:
            raise self._stale()
        self._run = NO_RUN
        self.index |= (((sibs + 1) << shift) & ULONG_MAX) - 1
        if type(node) is XaNode and node.shift == shift:
            self.offset |= sibs
        self.shift = 0
        self.sibs = 0

        while True:
            self._create(True)
            node = self.node
            if type(node) is NodeState:
                break
            if self.index <= (index | chunk_mask):
                self.index = index
                if type(node) is XaNode:
                    self.offset = (index >> node.shift) & chunk_mask
                return
            self.index -= self.xa.chunk_size
            while True:
                if node is None:
                    raise MmrefInternalError("create_range() has walked above the top node")
                if node.shift >= shift:
                    break
                offset = node.offset
                self.node = node = node.parent
                self.offset = (offset - 1) & 255
                if offset != 0:
                    break

        self.shift = shift
        self.sibs = sibs
        self.index = index


def max_index(entry: Any, chunk_size: int) -> int:
    """Return the highest index that fits below a head without growing (kernel: max_index())."""
    if type(entry) is not XaNode:
        return 0
    return ((chunk_size << entry.shift) & ULONG_MAX) - 1 & ULONG_MAX
