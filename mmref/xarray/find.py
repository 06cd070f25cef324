# SPDX-License-Identifier: GPL-2.0-only
"""Finding: the next present entry, the next marked one, the next one in the way.

Conventions in this file: *xas* is the cursor (``self``), *max* the highest index to look at, *mark* one of 0, 1
and 2, *node* refers to the node being searched, *parent* to the one above, *offset* to a slot in *node*, *entry*
to something stored in a slot, *advance* says whether the current slot has been dealt with.
"""

from __future__ import annotations

from typing import Any

from mmref.sync import cpu_relax
from mmref.xarray.anchor import bad_mark
from mmref.xarray.create import max_index
from mmref.xarray.entries import ULONG_MAX, XA_FLAGS_TRACK_FREE, XA_FREE_MARK, Internal, xa_flags_mark
from mmref.xarray.node import XaNode
from mmref.xarray.state import AT_CONFLICT, NO_RUN, XAS_BOUNDS, XAS_RESTART, CursorNode, NodeState
from mmref.xarray.store import Store

__all__ = ["Find"]


class Find(Store):
    """A cursor that can also search."""

    __slots__ = ()

    def find(self, max: int = ULONG_MAX) -> Any:
        """Find the next present entry: at or after the index on the first call, after it from then on.

        Kernel: xas_find(), lib/xarray.c.

        Args:
            max: the highest index to return.

        Returns:
            The entry (`ZERO` and `RETRY` included), with the cursor on it. None if there is none, with the
            cursor at the lowest index above those that were looked at, ready to store.

        Raises:
            UsageError: an earlier search stopped at the end of a node, just short of its own limit; the kernel
                would read past the node's slots. Use `set()` to go on.

        Context: xa_lock or the RCU read lock.
        """
        self._run = NO_RUN
        node = self.node
        mask = self._mask
        if type(node) is XaNode:
            if self.index > max:
                self.node = XAS_BOUNDS
                return None
            if not node.shift and self.offset != self.index & mask:
                self.offset = ((self.index - 1) & mask) + 1
        elif node is None:
            if self.index <= max:
                self.index = 1
            self.node = XAS_BOUNDS
            return None
        elif node is XAS_RESTART:
            if self.index > max:
                self.node = XAS_BOUNDS
                return None
            entry = self.load()
            if entry is not None:
                return entry
            node = self.node
            if type(node) is not XaNode:
                return None
        else:
            return None

        offset = self.offset + 1
        if offset > mask + 1:
            raise self._past_the_end()
        shift = node.shift
        chunk_shift = self.xa.chunk_shift
        index = ((self.index >> shift >> chunk_shift << chunk_shift) + offset << shift) & ULONG_MAX
        above: CursorNode = node
        while index <= max:
            if offset > mask:
                offset = node.offset + 1
                above = node.parent
                if above is None:
                    break
                node = above
                shift = node.shift
                continue
            entry = node.slots[offset]
            if type(entry) is XaNode:
                above = node = entry
                shift = node.shift
                offset = 0
                continue
            if entry is not None and (type(entry) is not Internal or entry.number >= 64):
                self.node = node
                self.offset = offset
                self.index = index
                return entry
            offset += 1
            index = ((index >> shift >> chunk_shift << chunk_shift) + offset << shift) & ULONG_MAX

        self.node = XAS_BOUNDS if above is None else above
        self.offset = offset
        self.index = index
        return None

    def next_entry(self, max: int = ULONG_MAX) -> Any:
        """Find the next present entry after the cursor; quicker than `find()` inside a leaf.

        Kernel: xas_next_entry(), include/linux/xarray.h.

        Args:
            max: the highest index to return.

        Returns:
            As `find()`.

        Context: xa_lock or the RCU read lock.
        """
        self._run = NO_RUN
        node = self.node
        if type(node) is not XaNode or node.shift:
            return self.find(max)
        mask = self._mask
        index = self.index
        offset = self.offset
        if offset != index & mask:
            return self.find(max)
        slots = node.slots
        while index < max and offset != mask:
            entry = slots[offset + 1]
            if type(entry) is Internal:
                break
            offset += 1
            index += 1
            if entry is not None:
                self.index = index
                self.offset = offset
                return entry
        self.index = index
        self.offset = offset
        return self.find(max)

    def find_marked(self, max: int, mark: int) -> Any:
        """Find the next entry with a mark: at or after the index on the first call, after it from then on.

        Kernel: xas_find_marked(), lib/xarray.c.

        In an array with the free mark, mark 0 finds free indices: then what is returned may be None, and the
        cursor's `node` tells whether something was found.

        Args:
            max: the highest index to return.
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Returns:
            The entry, with the cursor on it. None if there is none: with the cursor at the lowest index that has
            no node yet (`XAS_BOUNDS`), or at restart if `max` was reached first.

        Raises:
            UsageError: no such mark.
            Livelock: the mark is set on an empty slot, and nobody is there to clear it.

        Context: xa_lock or the RCU read lock.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        self._run = NO_RUN
        node = self.node
        if type(node) is NodeState and node.errno:
            return None
        if self.index > max:
            self.node = XAS_RESTART
            return None
        xa = self.xa
        size = xa.chunk_size
        advance = True

        if node is None:
            self.index = 1
            return self._bounds_or_restart(max)
        if type(node) is NodeState:
            advance = False
            head = xa.xa_head
            self.node = None
            if self.index > max_index(head, size):
                return self._bounds_or_restart(max)
            if type(head) is not XaNode:
                if xa.xa_flags & xa_flags_mark(mark):
                    return head
                self.index = 1
                return self._bounds_or_restart(max)
            self.node = node = head
            self.offset = self.index >> node.shift

        index = self.index
        offset = self.offset
        mask = self._mask
        chunk_shift = xa.chunk_shift
        looked_twice = False
        while index <= max:
            if offset == size:
                offset = node.offset + 1
                parent = node.parent
                if parent is None:
                    break
                node = parent
                advance = False
                continue

            shift = node.shift
            if not advance:
                entry = node.slots[offset]
                if type(entry) is Internal and entry.number < 64:
                    offset = entry.number
                    index = ((index >> shift >> chunk_shift << chunk_shift) + offset << shift) & ULONG_MAX

            chunk = offset + advance
            bits = node.marks[mark] >> chunk
            chunk = chunk + (bits & -bits).bit_length() - 1 if bits else size
            if chunk > offset:
                advance = False
                index = ((index >> shift >> chunk_shift << chunk_shift) + chunk << shift) & ULONG_MAX
                if (index - 1) & ULONG_MAX >= max:  # the index may have wrapped around to 0
                    self.node = XAS_RESTART
                    self.index = index
                    self.offset = offset
                    return None
                offset = chunk
                if offset == size:
                    continue
                looked_twice = False

            entry = node.slots[offset]
            if type(entry) is XaNode:
                node = entry
                offset = (index >> node.shift) & mask
                looked_twice = False
                continue
            if entry is not None or (mark == XA_FREE_MARK and xa.xa_flags & XA_FLAGS_TRACK_FREE):
                self.node = node
                self.index = index
                self.offset = offset
                return entry
            # Marks are cleared before their entry goes: whoever sees the mark without the entry looks again.
            if looked_twice:
                self.node = node
                self.index = index
                self.offset = offset
                cpu_relax()
            looked_twice = True

        self.index = index
        self.offset = offset
        return self._bounds_or_restart(max)

    def _bounds_or_restart(self, max: int) -> None:
        """End a search for a mark: was the limit reached, or the last node?"""
        self.node = XAS_RESTART if self.index > max else XAS_BOUNDS

    def next_marked(self, max: int, mark: int) -> Any:
        """Find the next entry with a mark after the cursor; quicker than `find_marked()` inside a leaf.

        Kernel: xas_next_marked(), include/linux/xarray.h.

        Args:
            max: the highest index to return.
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Returns:
            As `find_marked()`.

        Raises:
            UsageError: no such mark.

        Context: xa_lock or the RCU read lock.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        self._run = NO_RUN
        node = self.node
        if type(node) is not XaNode or node.shift:
            return self.find_marked(max, mark)
        mask = self._mask
        offset = self.offset + 1
        bits = node.marks[mark] >> offset
        self.offset = offset = offset + (bits & -bits).bit_length() - 1 if bits else mask + 1
        self.index = index = ((self.index & ~mask) + offset) & ULONG_MAX
        if index > max:
            return None
        if offset > mask:
            return self.find_marked(max, mark)
        entry = node.slots[offset]
        if entry is None:
            return self.find_marked(max, mark)
        return entry

    def find_conflict(self) -> Any:
        """Find the next entry inside the range that the cursor's order asks for.

        Kernel: xas_find_conflict(), lib/xarray.c.

        The cursor is then on that entry; once there are no more, it is back where a store can begin.

        Returns:
            The entry; None if there are no more.

        Context: xa_lock held.
        """
        self._run = NO_RUN
        node = self.node
        if node is None:
            return None
        if type(node) is NodeState:
            if node.errno:
                return None
            entry = self._start()
            if entry is None:
                return None
            while type(entry) is XaNode:
                entry = self._descend(entry)
            if entry is not None:
                self._run = AT_CONFLICT
                return entry
            node = self.node
            assert type(node) is XaNode

        if node.shift > self.shift:
            return None
        mask = self._mask
        sibs = self.sibs
        while True:
            if node.shift == self.shift:
                if self.offset & sibs == sibs:
                    break
            elif self.offset == mask:
                self.offset = node.offset
                self.node = parent = node.parent
                if parent is None:
                    break
                node = parent
                continue
            self.offset += 1
            entry = node.slots[self.offset]
            if type(entry) is Internal and entry.number < 64:
                continue
            while type(entry) is XaNode:
                self.node = node = entry
                self.offset = 0
                entry = node.slots[0]
            if entry is not None:
                self._run = AT_CONFLICT
                return entry
        self.offset = (self.offset - sibs) & 255
        return None
