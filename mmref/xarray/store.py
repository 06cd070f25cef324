# SPDX-License-Identifier: GPL-2.0-only
"""Storing: one entry, several slots, and what happens to the nodes that this fills or empties.

Conventions in this file: *xas* is the cursor (``self``), *xa* its array, *entry* refers to what is being
stored, *first* and *following* to what is found in its way, *node* to the node that the slots are in, *top* to
a node that has just been cut off with everything below it, *value* says whether *entry* is a value entry.

Readers without a lock may run between any two slot stores. So the canonical slot is written first and its
siblings in ascending order, marks go before their entry does, and whatever a freed node still holds turns
into `RETRY` for those who are inside.

Reads that only the writer makes, of slots that only the holder of xa_lock may change, go past a traced list
(``list.__getitem__``): nobody can tell when they happen.
"""

from __future__ import annotations

from typing import Any

from mmref.errors import UsageError
from mmref.xarray.create import Create
from mmref.xarray.entries import (
    LONG_MAX,
    RETRY,
    SIBLINGS,
    XA_FLAGS_TRACK_FREE,
    XA_FLAGS_ZERO_BUSY,
    XA_FREE_MARK,
    ZERO,
    Internal,
    TaggedPointer,
    xa_flags_mark,
)
from mmref.xarray.node import XaNode
from mmref.xarray.state import AT_CONFLICT, NO_RUN, XAS_BOUNDS, NodeState

__all__ = ["Store"]

_peek = list.__getitem__


class Store(Create):
    """A cursor that can also store."""

    __slots__ = ()

    def store(self, entry: Any) -> Any:
        """Store an entry at the cursor's index, or over the range that its order asks for.

        Kernel: xas_store(), lib/xarray.c.

        An index inside a multi-index entry stands for all of that entry. Storing None erases it, whole.

        Args:
            entry: an object, a value from 0 to 2**63 - 1, `ZERO`, `RETRY`, or None.

        Returns:
            What was there before. Over a range this is any one of the entries that were in the way, and may be
            None or an internal entry. If the cursor carries an error afterwards (`error`, for example -ENOMEM),
            nothing has been stored.

        Raises:
            UsageError: an entry that cannot be stored; a cursor whose node has left the tree, or that is not on
                the slot of its index; a store that would turn a part of a multi-index entry from pointer to
                value or back (the kernel's counts go wrong there). The tree is unchanged.

        Context: xa_lock held.

        >>> from mmref.xarray import XArray, XaState
        >>> xa = XArray()
        >>> xas = XaState(xa, 512, order=9)
        >>> xas.store("huge page")
        >>> xa.load(512 + 511)
        'huge page'
        """
        kind = type(entry)
        if kind is int:
            if not 0 <= entry <= LONG_MAX:
                raise UsageError(f"{entry} cannot be stored: value entries go from 0 to 2**63 - 1")
            return self._store(entry, True)
        if kind is XaNode or (kind is Internal and entry.number < 64):
            raise UsageError(f"{entry!r} cannot be stored: nodes and siblings are made by the XArray alone")
        return self._store(entry, kind is TaggedPointer)

    def _store(self, entry: Any, value: bool) -> Any:
        """Do what store() does, for an entry that is known to be right."""
        node = self.node
        if type(node) is XaNode:
            self._check_place(node)
        self._run = NO_RUN
        if entry is not None:
            first = self._create(entry is not ZERO)
        else:
            first = self.load()

        node = self.node
        if type(node) is NodeState:
            return first
        if node is None:
            self._store_head(entry, first)
            return first
        if self.shift < node.shift:
            self.sibs = 0
        sibs = self.sibs
        if not sibs and (first is entry or (value and type(first) is type(entry) and first == entry)):
            return first

        kind = type(first)
        first_value = kind is int or kind is TaggedPointer
        offset = self.offset
        if entry is not None and (sibs or (first is not None and first_value != value)):
            self._check_tail(node, value)

        if sibs and (node.marks[0] or node.marks[1] or node.marks[2]):
            self._squash_marks(node)
        if entry is None:
            self._init_marks()
        elif not sibs:
            # One slot, which is what nearly every store comes down to.
            node.slots[offset] = entry
            if kind is XaNode and node.shift:
                self._free_nodes(first)
            if first is None:
                node.count += 1
                node.nr_values += value
                if self.update is not None:
                    self.update(node)
            elif first_value != value:
                node.nr_values += value - first_value
                if self.update is not None:
                    self.update(node)
            return first
        return self._store_slots(node, entry, value, first)

    def _store_slots(self, node: XaNode, entry: Any, value: bool, first: Any) -> Any:
        """Store over several slots, or erase: the loop of xas_store()."""
        slots = node.slots
        start = self.offset
        end = start + self.sibs + 1
        erase = entry is None
        if erase:
            # Erasing takes what is left of the last entry with it.
            for following in _peek(slots, slice(end, None)):
                if type(following) is not Internal or following.number >= 64:
                    break
                end += 1

        # Look first: what is in the way, and what it counts for.
        canonical = first
        kind = type(first)
        was_value = kind is int or kind is TaggedPointer
        free_below = kind is XaNode and node.shift > 0
        count = (first is None) - erase
        values = value - was_value
        for following in _peek(slots, slice(start + 1, end)):
            kind = type(following)
            if kind is not Internal or following.number >= 64:
                canonical = following
                was_value = kind is int or kind is TaggedPointer
                if kind is XaNode and node.shift:
                    free_below = True
            count += (following is None) - erase
            values += value - was_value

        # Then write: in one go if that is all there is to do, slot by slot if nodes are freed in between.
        if not free_below:
            if erase:
                slots[start:end] = [None] * (end - start)
            else:
                slots[start:end] = [entry] + [SIBLINGS[start]] * (end - start - 1)
        else:
            for slot in range(start, end):
                following = _peek(slots, slot) if slot > start else first
                slots[slot] = entry
                if type(following) is XaNode:
                    self._free_nodes(following)
                if not erase:
                    entry = SIBLINGS[start]

        if count or values:
            node.count += count
            node.nr_values += values
            if self.update is not None:
                self.update(node)
            if count < 0:
                self._delete_node()
        return canonical

    def _store_head(self, entry: Any, first: Any) -> None:
        """Store where there is no node: in the head."""
        if first is entry and not self.sibs:
            return
        if entry is None:
            self._init_marks()
        self.xa.xa_head = entry
        if type(first) is XaNode:
            self._free_nodes(first)

    def _check_place(self, node: XaNode) -> None:
        """Refuse to store through a cursor that is not on the slot of its index."""
        if node.array is not self.xa:
            raise self._stale()
        # The slot may come before the index's own: in the middle of an entry (or of one that has just been split),
        # the cursor is where the entry begins. find_conflict() leaves it further on, or further down.
        offset = self.offset
        astray = self._run is AT_CONFLICT and (
            offset > (self.index >> node.shift) & self._mask or node.shift < self.shift
        )
        if offset <= self._mask and not astray:
            there = _peek(node.slots, offset)
            if type(there) is not Internal or there.number >= 64:
                return
        raise UsageError(
            f"the cursor at index {self.index} is not on the slot of its index (it is on slot {offset} of a node "
            f"of shift {node.shift}): call reset() or set() before storing"
        )

    def _check_tail(self, node: XaNode, value: bool) -> None:
        """Refuse to turn a part of a multi-index entry from pointer to value or back."""
        slots = node.slots
        last = self.offset + self.sibs
        if last >= self._mask:
            return
        there = _peek(slots, last + 1)
        if type(there) is not Internal or there.number >= 64:
            return
        while type(there) is Internal and there.number < 64:
            there = _peek(slots, there.number)
        if (type(there) is int or type(there) is TaggedPointer) != value:
            raise self.xa._misused(
                f"storing at index {self.index} would change a part of a multi-index entry from pointer to value "
                f"or back",
                ": erase that entry first, or store over all of it",
            )

    def _shrink(self) -> None:
        """Drop top nodes that hold nothing but slot 0 (kernel: xas_shrink())."""
        xa = self.xa
        node = self.node
        assert type(node) is XaNode
        while node.count == 1:
            entry = node.slots[0]
            if entry is None:
                break
            if type(entry) is not XaNode and node.shift:
                break
            if entry is ZERO and xa.xa_flags & XA_FLAGS_ZERO_BUSY:
                entry = None
            self.node = XAS_BOUNDS

            xa.xa_head = entry
            if xa.xa_flags & XA_FLAGS_TRACK_FREE and not node.marks[XA_FREE_MARK] & 1:
                xa.xa_flags &= ~xa_flags_mark(XA_FREE_MARK)

            node.count = 0
            node.nr_values = 0
            if type(entry) is not XaNode:
                node.slots[0] = RETRY
            if self.update is not None:
                self.update(node)
            xa._free_node(node)
            if type(entry) is not XaNode:
                break
            node = entry
            node.parent = None

    def _delete_node(self) -> None:
        """Take the cursor's node out of the tree if it is empty, and so on upwards (kernel: xas_delete_node())."""
        xa = self.xa
        node = self.node
        assert type(node) is XaNode
        while not node.count:
            parent = node.parent
            self.node = parent
            self.offset = node.offset
            xa._free_node(node)
            if parent is None:
                xa.xa_head = None
                self.node = XAS_BOUNDS
                return
            parent.slots[self.offset] = None
            parent.count -= 1
            node = parent
            if self.update is not None:
                self.update(node)
        if node.parent is None:
            self._shrink()

    def _free_nodes(self, top: XaNode) -> None:
        """Free a node that has been cut off, with all nodes below it (kernel: xas_free_nodes())."""
        xa = self.xa
        size = xa.chunk_size
        node = top
        offset = 0
        while True:
            entry = _peek(node.slots, offset)
            if node.shift and type(entry) is XaNode:
                node = entry
                offset = 0
                continue
            if entry is not None:
                node.slots[offset] = RETRY
            offset += 1
            while offset == size:
                parent = node.parent
                offset = node.offset + 1
                node.count = 0
                node.nr_values = 0
                if self.update is not None:
                    self.update(node)
                xa._free_node(node)
                if node is top:
                    return
                assert parent is not None
                node = parent
