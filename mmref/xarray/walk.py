# SPDX-License-Identifier: GPL-2.0-only
"""Walking: from the head down to an index, and from there to its neighbours.

Conventions in this file: *xas* is the cursor (``self``), *index* and *offset* its own, *node* refers to an
`XaNode`, *parent* to the node closer to the head, *entry* to something stored in a slot, *mask* to the
highest slot number.

A slot is always read as ``node.slots[offset]``: each read is one access to shared memory, and a reader
without a lock can be overtaken between any two of them.
"""

from __future__ import annotations

from typing import Any

from mmref.errors import UsageError
from mmref.xarray.anchor import bad_index
from mmref.xarray.entries import RETRY, ULONG_MAX, Internal
from mmref.xarray.node import XaNode
from mmref.xarray.state import NO_RUN, XAS_BOUNDS, XAS_RESTART, NodeState, State

__all__ = ["Walk"]


class Walk(State):
    """A cursor that can load, and step to the next or previous index."""

    __slots__ = ()

    def _start(self) -> Any:
        """Begin a walk: reload if on a node or the head, else take the head (kernel: xas_start())."""
        node = self.node
        if type(node) is not NodeState:
            return self.reload()
        if node.errno:
            return None
        entry = self.xa.xa_head
        if type(entry) is XaNode:
            if self.index >> entry.shift > self._mask:
                self.node = XAS_BOUNDS
                return None
        elif self.index:
            self.node = XAS_BOUNDS
            return None
        self.node = None
        return entry

    def _descend(self, node: XaNode) -> Any:
        """Go one level down, to the slot that the index belongs to (kernel: xas_descend())."""
        offset = (self.index >> node.shift) & self._mask
        entry = node.slots[offset]
        self.node = node
        # A sibling may refer to another sibling for a moment, while a larger entry is stored over a smaller
        # one; they always refer to lower slots, so this ends. Linux cbc02854331e (v5.18)
        while type(entry) is Internal and entry.number < 64:
            offset = entry.number
            entry = node.slots[offset]
            if node.shift and type(entry) is XaNode:
                entry = RETRY
        self.offset = offset
        return entry

    def load(self) -> Any:
        """Walk to the index, and return what is there.

        Kernel: xas_load(), lib/xarray.c.

        Does nothing if the cursor carries an error. Goes no further down than the cursor's own order asks
        for, so with an order set it may return a node, or None above entries that exist.

        Returns:
            None, the entry, or an internal entry (`RETRY`, `ZERO`, a node).

        Context: xa_lock or the RCU read lock.
        """
        self._run = NO_RUN
        entry = self._start()
        if type(entry) is XaNode:
            index = self.index
            shift = self.shift
            mask = self._mask
            while shift <= entry.shift:
                node = entry
                offset = (index >> node.shift) & mask
                entry = node.slots[offset]
                if type(entry) is Internal:
                    while type(entry) is Internal and entry.number < 64:
                        offset = entry.number
                        entry = node.slots[offset]
                        if node.shift and type(entry) is XaNode:
                            entry = RETRY
                self.node = node
                self.offset = offset
                if type(entry) is not XaNode or not node.shift:
                    break
        return entry

    def reload(self) -> Any:
        """Read the current slot again, to see whether it still holds what a walk found there.

        Kernel: xas_reload(), include/linux/xarray.h.

        Returns:
            The entry at the cursor's index in the cursor's node.

        Raises:
            UsageError: the cursor stands nowhere (restart, bounds or error); use `load()` then.

        Context: xa_lock or the RCU read lock.
        """
        node = self.node
        if node is None:
            return self.xa.xa_head
        if type(node) is NodeState:
            raise UsageError(f"nothing to reload for a cursor at {node!r}: load() walks there first")
        entry = node.slots[(self.index >> node.shift) & self._mask]
        if type(entry) is Internal and entry.number < 64:
            return node.slots[entry.number]
        return entry

    def next(self) -> Any:
        """Step to the next index, and return what is there; a cursor that has not walked yet just loads.

        Kernel: xas_next(), include/linux/xarray.h.

        Wraps around to index 0 after 2**64 - 1, but returns None there: `load()` tells what index 0 holds.

        Returns:
            None, the entry, or an internal entry: a sibling inside a multi-index entry.

        Raises:
            UsageError: the cursor is in the middle of a multi-index entry (call `advance()` first), or behind
                the last slot of its node. The kernel would go on with an index and a slot that disagree.

        Context: xa_lock or the RCU read lock.
        """
        try:
            self.offset = offset = self.offset + 1
            self.index += 1
            return self._run[offset]
        except IndexError:
            self.offset = offset - 1
            self.index -= 1
            return self._next()

    def _next(self) -> Any:
        """Take a step that is not in the middle of a run: xas_next() by the book, and __xas_next()."""
        self._run = NO_RUN
        node = self.node
        mask = self._mask
        if type(node) is XaNode:
            if self.offset != (self.index >> node.shift) & mask:
                self._check_line(node)
            elif self.offset == mask and not node.shift:
                # From the end of a leaf to what is beside it.
                parent = node.parent
                if parent is not None and node.offset < mask:
                    self.index += 1
                    sister = parent.slots[node.offset + 1]
                    if type(sister) is not XaNode:
                        self.node = parent
                        self.offset = node.offset + 1
                        return sister
                    self.node = sister
                    self.offset = 0
                    self._run = sister.slots
                    return sister.slots[0]
            if self.offset > mask:
                raise self._past_the_end()
            if not node.shift and self.offset != mask:
                self.index = (self.index + 1) & ULONG_MAX
                self.offset += 1
                if self.offset == self.index & mask:
                    self._run = node.slots
                return node.slots[self.offset]

        if type(node) is not NodeState or node is XAS_BOUNDS:
            self.index = (self.index + 1) & ULONG_MAX
        if node is None:
            self.node = XAS_BOUNDS
            return None
        if type(node) is NodeState:
            return self.load()
        if self.offset != (self.index >> node.shift) & mask:
            self.offset += 1
        while self.offset > mask:
            self.offset = node.offset + 1
            self.node = parent = node.parent
            if parent is None:
                self.node = XAS_BOUNDS
                return None
            node = parent
        return self._down(node)

    def prev(self) -> Any:
        """Step to the previous index, and return what is there; a cursor that has not walked yet just loads.

        Kernel: xas_prev(), include/linux/xarray.h.

        Wraps around to 2**64 - 1 before index 0, but returns None there: `load()` tells what that index holds.

        Returns:
            None, the entry, or an internal entry: a sibling inside a multi-index entry.

        Raises:
            UsageError: the cursor is in the middle of a multi-index entry (call `advance()` first).

        Context: xa_lock or the RCU read lock.
        """
        self._run = NO_RUN
        node = self.node
        if type(node) is XaNode:
            self._check_line(node)
            if not node.shift and 0 < self.offset <= self._mask + 1:
                self.index = (self.index - 1) & ULONG_MAX
                self.offset -= 1
                return node.slots[self.offset]
        return self._prev()

    def _prev(self) -> Any:
        """Take a step that leaves the leaf, or starts anew (kernel: __xas_prev())."""
        node = self.node
        if type(node) is not NodeState or node is XAS_BOUNDS:
            self.index = (self.index - 1) & ULONG_MAX
        if node is None:
            self.node = XAS_BOUNDS
            return None
        if type(node) is NodeState:
            return self.load()
        if self.offset != (self.index >> node.shift) & self._mask:
            self.offset = (self.offset - 1) & 255
        while self.offset == 255:
            self.offset = (node.offset - 1) & 255
            self.node = parent = node.parent
            if parent is None:
                self.node = XAS_BOUNDS
                return None
            node = parent
        return self._down(node)

    def _down(self, node: XaNode) -> Any:
        """Follow the index down from a slot of this node; siblings are returned as they are."""
        while True:
            entry = node.slots[self.offset]
            if type(entry) is not XaNode:
                return entry
            self.node = node = entry
            self.offset = (self.index >> node.shift) & self._mask

    def _check_line(self, node: XaNode) -> None:
        """Refuse to step while the cursor's slot is the beginning of an entry and its index is further on."""
        offset = self.offset
        own = (self.index >> node.shift) & self._mask
        while own > offset:
            entry = list.__getitem__(node.slots, own)
            if type(entry) is not Internal or entry.number >= 64:
                return
            own = entry.number
            if own == offset:
                raise UsageError(
                    f"the cursor at index {self.index} is in the middle of an entry that begins at slot {offset}: "
                    f"call advance() with the entry's last index (or set()) before stepping"
                )

    def _past_the_end(self) -> UsageError:
        """Make the error for going on from behind the last slot of a node."""
        return UsageError(
            f"the cursor stopped behind the last slot of a node and cannot go on from there: "
            f"call set({self.index}) first"
        )

    def advance(self, index: int) -> None:
        """Move to the last index of the current entry, so that `next()` leaves it.

        Kernel: xas_advance(), include/linux/xarray.h.

        Args:
            index: an index of the entry that the cursor is on.

        Raises:
            UsageError: not an index.
        """
        if not 0 <= index <= ULONG_MAX:
            raise bad_index(index)
        node = self.node
        shift = node.shift if type(node) is XaNode else 0
        self._run = NO_RUN
        self.index = index
        self.offset = (index >> shift) & self._mask

    def pause(self) -> None:
        """Get ready to go on after the current entry, once the lock has been dropped and taken again.

        Kernel: xas_pause(), lib/xarray.c.

        Only for walks that go forwards. The index moves by the size of the entry, wherever in the entry it is:
        a pause in the middle of a multi-index entry skips indices after it, as in the kernel.

        Context: xa_lock or the RCU read lock.
        """
        node = self.node
        if type(node) is NodeState:
            return
        self.node = XAS_RESTART
        self._run = NO_RUN
        if node is None:
            self.index = (self.index + 1) & ULONG_MAX
            return
        slots = node.slots
        mask = self._mask
        offset = self.offset + 1
        while offset <= mask:
            entry = slots[offset]
            if type(entry) is not Internal or entry.number >= 64:
                break
            offset += 1
        self.index = (self.index + ((offset - self.offset) << node.shift)) & ULONG_MAX
        if self.index == 0:
            self.node = XAS_BOUNDS

    def get_order(self) -> int:
        """Return the order of the entry that `load()` found: log2 of how many indices it covers.

        Kernel: xas_get_order(), lib/xarray.c.

        A range stored by `store_range()` that is not a power of two counts as the next larger one.

        Returns:
            0 to 63.

        Raises:
            UsageError: the cursor stands nowhere.

        Context: xa_lock or the RCU read lock.
        """
        node = self.node
        if node is None:
            return 0
        if type(node) is NodeState:
            raise UsageError(f"a cursor at {node!r} is on no entry: load() first")
        order = 0
        while True:
            slot = self.offset + (1 << order)
            if slot > self._mask:
                break
            entry = node.slots[slot]
            if type(entry) is not Internal or entry.number >= 64:
                break
            order += 1
        return order + node.shift
