# SPDX-License-Identifier: GPL-2.0-only
"""Shortcuts through the normal API, for arrays where nobody can see the difference.

What a store does to a leaf that exists and has room is one slot and one or two counts; an erase that leaves a leaf
with entries is no more. Here these are done in place, without a cursor. Everything else goes by the book, to the
method of the same name in normal.py, which also has the full description and makes all the errors.

Conventions in this file: *xa* is the array (``self``), *leaf* a node whose slots hold single indices, *there* what
a slot holds already, *kind* the type of the entry to be stored.

An array takes shortcuts only if `_quick` says so: plain slots (no traced twin looks on), a plain lock, and no free
mark to keep. The lock is then not taken but looked at: on a plain machine there is one CPU, and nothing in between
that could run on it.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, TypeVar

from mmref.sync import SpinLock
from mmref.xarray.anchor import Anchor
from mmref.xarray.entries import (
    LONG_MAX,
    SIBLINGS,
    ULONG_MAX,
    XA_FLAGS_TRACK_FREE,
    XA_MAX_MARKS,
    XA_PRESENT,
    Internal,
    TaggedPointer,
)
from mmref.xarray.ids import IdApi
from mmref.xarray.node import NodeAllocator, XaNode
from mmref.xarray.normal import NormalApi

__all__ = ["Shortcuts"]

T = TypeVar("T")

_SPANS: list[dict[int, tuple[int, int]]] = [{}] + [
    {(1 << order) - 1: (order - order % chunk_shift, 1 << order % chunk_shift) for order in range(1, 64)}
    for chunk_shift in range(1, 7)
]
"""For each chunk_shift, by the highest offset in an aligned range: the shift of its slots, and how many they are."""

_RUNS = [[SIBLINGS[offset]] * 31 for offset in range(64)]
"""For each slot, the siblings that may follow an entry there."""

_NO_LEAF = XaNode(Anchor(), [])
_NO_LEAF.array = None


class Shortcuts(IdApi[T]):
    """An array that knows the leaf of its last store.

    The leaf serves as long as it is in the tree (`XaNode.array` tells): until then it covers the same indices.
    """

    __slots__ = ("_key", "_leaf", "_quick", "_spans")

    def __init__(
        self,
        chunk_shift: int = 6,
        flags: int = 0,
        *,
        allocator: NodeAllocator | None = None,
        lock: SpinLock | None = None,
    ) -> None:
        super().__init__(chunk_shift, flags, allocator=allocator, lock=lock)
        self._quick = (
            not flags & XA_FLAGS_TRACK_FREE
            and type(self.xa_lock) is SpinLock
            and type(self)._new_slots is Anchor._new_slots
        )
        self._spans = _SPANS[chunk_shift]
        self._leaf = _NO_LEAF
        self._key = 0  # the leaf's place: its indices, shifted right by chunk_shift

    def _find_leaf(self, index: int) -> XaNode:
        """Return the leaf for an index, and keep it; `_NO_LEAF` if there is none."""
        node = self.xa_head
        if type(node) is XaNode and index >= 0:
            shift = node.shift
            if index >> shift <= self.chunk_mask:
                while shift:
                    node = node.slots[index >> shift & self.chunk_mask]
                    if type(node) is not XaNode:
                        return _NO_LEAF
                    shift = node.shift
                self._key = index >> self.chunk_shift
                self._leaf = node
                return node
        return _NO_LEAF

    def store(self, index: int, entry: T | None) -> T | None:
        """Store an entry at an index; None erases.

        Kernel: xa_store(), lib/xarray.c. Arguments, errors and context: see `NormalApi.store()`.
        """
        if self._quick:
            leaf = self._leaf
            if index >> self.chunk_shift != self._key or leaf.array is not self:
                leaf = self._find_leaf(index)
            if leaf.array is self and self.xa_lock.owner is None:
                kind = type(entry)
                slots = leaf.slots
                offset = index & self.chunk_mask
                there: Any = slots[offset]
                if there is None:
                    if kind is int:
                        if 0 <= entry <= LONG_MAX:  # type: ignore[operator]  # an int: kind is type(entry)
                            slots[offset] = entry
                            leaf.count += 1
                            leaf.nr_values += 1
                            return None
                    elif (
                        kind is not NoneType
                        and kind is not Internal
                        and kind is not TaggedPointer
                        and kind is not XaNode
                    ):
                        slots[offset] = entry
                        leaf.count += 1
                        return None
                elif type(there) is kind and kind is not Internal and (kind is not int or 0 <= entry <= LONG_MAX):  # type: ignore[operator]  # an int: kind is type(entry)
                    # A pointer for a pointer, or a value for a value: no count changes.
                    slots[offset] = entry
                    found: T | None = there
                    return found
        return NormalApi.store(self, index, entry)

    def erase(self, index: int) -> T | None:
        """Erase the entry at an index; a multi-index entry goes as a whole.

        Kernel: xa_erase(), lib/xarray.c. Arguments, errors and context: see `NormalApi.erase()`.
        """
        if self._quick:
            leaf = self._leaf
            if index >> self.chunk_shift != self._key or leaf.array is not self:
                leaf = self._find_leaf(index)
            if leaf.array is self and self.xa_lock.owner is None:
                marks = leaf.marks
                # Not if the leaf would become empty, or be the last one with a single entry at its beginning.
                if not (marks[0] or marks[1] or marks[2]) and (
                    leaf.count > 2 or (leaf.count == 2 and leaf.parent is not None)
                ):
                    slots = leaf.slots
                    offset = index & self.chunk_mask
                    there: Any = slots[offset]
                    kind = type(there)
                    if kind is not Internal and (offset == self.chunk_mask or type(slots[offset + 1]) is not Internal):
                        if there is not None:
                            slots[offset] = None
                            leaf.count -= 1
                            if kind is int or kind is TaggedPointer:
                                leaf.nr_values -= 1
                        found: T | None = there
                        return found
        return NormalApi.erase(self, index)

    def store_range(self, first: int, last: int, entry: T | None) -> None:
        """Store one entry over a range of indices; None erases.

        Kernel: xa_store_range(), lib/xarray.c. Arguments, errors and context: see `NormalApi.store_range()`.
        """
        span = self._spans.get(last - first)
        if span is None or not self._quick or not self._store_aligned(first, last, entry, span):
            NormalApi.store_range(self, first, last, entry)

    def _store_aligned(self, first: int, last: int, entry: Any, span: tuple[int, int]) -> bool:
        """Store over 2**order indices whose slots exist and hold one such entry or nothing; False if they do not."""
        node = self.xa_head
        if first < 0 or first & (last - first) or type(node) is not XaNode or self.xa_lock.owner is not None:
            return False
        # The book makes room for the index after the range, too.
        mask = self.chunk_mask
        if (last + 1) >> node.shift > mask or last >= ULONG_MAX:
            return False
        kind = type(entry)
        value = kind is int
        if value:
            if not 0 <= entry <= LONG_MAX:
                return False
        elif kind is NoneType or kind is Internal or kind is TaggedPointer or kind is XaNode:
            return False

        shift, width = span
        while node.shift > shift:
            offset = first >> node.shift & mask
            below = node.slots[offset]
            if type(below) is not XaNode:
                if below is not None or node.shift - self.chunk_shift != shift:
                    return False
                below = self._new_node(blocking=False)
                if below is None:
                    return False
                below.shift = shift
                below.offset = offset
                below.parent = node
                node.count += 1
                node.slots[offset] = below
            node = below
        if node.shift != shift:
            return False

        offset = first >> shift & mask
        end = offset + width
        slots = node.slots
        there = slots[offset]
        if there is None:
            for there in slots[offset:end]:
                if there is not None:
                    return False
            slots[offset] = entry
            slots[offset + 1 : end] = _RUNS[offset][: width - 1]
            node.count += width
            if value:
                node.nr_values += width
            return True
        kind = type(there)
        if (
            (kind is int) != value
            or kind is Internal
            or kind is TaggedPointer
            or kind is XaNode
            or (width > 1 and slots[end - 1] is not SIBLINGS[offset])
            or (end <= mask and type(slots[end]) is Internal)
        ):
            return False
        slots[offset] = entry  # the siblings stay
        return True

    def find(self, index: int, max: int = ULONG_MAX, filter: int = XA_PRESENT) -> tuple[int, T] | None:
        """Find the first entry at or after an index.

        Kernel: xa_find(), lib/xarray.c. Arguments, errors and context: see `NormalApi.find()`.
        """
        if self._quick and index >= 0 and (max is ULONG_MAX or index <= max <= ULONG_MAX):
            head = self.xa_head
            if type(head) is XaNode:
                found = None
                if filter == XA_PRESENT:
                    found = self._seek(head, index)
                elif 0 <= filter < XA_MAX_MARKS:
                    found = self._seek_marked(head, index, filter)
                if found is not None:
                    return found if max is ULONG_MAX or found[0] <= max else None
        return NormalApi.find(self, index, max, filter)

    def find_after(self, index: int, max: int = ULONG_MAX, filter: int = XA_PRESENT) -> tuple[int, T] | None:
        """Find the first entry that begins after an index.

        Kernel: xa_find_after(), lib/xarray.c. Arguments, errors and context: see `NormalApi.find_after()`.
        """
        if self._quick and filter == XA_PRESENT and index >= 0 and (max is ULONG_MAX or index < max <= ULONG_MAX):
            head = self.xa_head
            if type(head) is XaNode:
                after = index + 1
                try:
                    # Perhaps the very next index holds an entry.
                    entry: Any = head.slots[after >> head.shift]
                    while type(entry) is XaNode:
                        shift = entry.shift
                        if shift:
                            entry = entry.slots[after >> shift & self.chunk_mask]
                        else:
                            entry = entry.slots[after & self.chunk_mask]
                            if entry is not None and type(entry) is not Internal:
                                return after, entry
                            break
                except IndexError:
                    pass
                found = self._seek(head, after)
                if found is not None:
                    return found if max is ULONG_MAX or found[0] <= max else None
        return NormalApi.find_after(self, index, max, filter)

    def _seek(self, node: XaNode, index: int) -> tuple[int, T] | None:
        """Find the first entry at or after an index, from the head down; None if it takes the book to tell."""
        chunk_shift = self.chunk_shift
        mask = self.chunk_mask
        shift = node.shift
        if index >> shift > mask:
            return None
        while True:
            offset = index >> shift & mask
            entry: Any = node.slots[offset]
            if type(entry) is not XaNode:
                break
            node = entry
            shift = node.shift
        if entry is not None:
            return None if shift or type(entry) is Internal else (index, entry)

        # Nothing there: along the slots behind, up where there are no more, and down into what is found.
        offset += 1
        while True:
            for entry in node.slots[offset:]:
                if entry is not None:
                    break
                offset += 1
            else:
                offset = node.offset + 1
                if node.parent is None:
                    return None
                node = node.parent
                continue
            shift = node.shift
            index = (index >> shift >> chunk_shift << chunk_shift | offset) << shift
            if type(entry) is not XaNode:
                return None if type(entry) is Internal else (index, entry)
            node = entry
            offset = 0

    def _seek_marked(self, node: XaNode, index: int, mark: int) -> tuple[int, T] | None:
        """Find the first marked entry at or after an index, from the head down; None if it takes the book to tell."""
        chunk_shift = self.chunk_shift
        mask = self.chunk_mask
        shift = node.shift
        offset = index >> shift
        if offset > mask:
            return None
        # Down to the node above the leaf of the index. Its marks tell whether to look into that leaf at all: in a large
        # array, not to touch it saves more than anything else here.
        while shift > chunk_shift:
            entry: Any = node.slots[offset]
            if type(entry) is not XaNode:
                break
            node = entry
            shift -= chunk_shift
            offset = index >> shift & mask
        marks = node.marks[mark]
        bits = marks >> offset
        if bits << offset != marks or bits & 1:
            entry = node.slots[offset]
            if type(entry) is Internal:
                return None  # the index may belong to a marked entry that began before it
            if bits & 1:
                if type(entry) is not XaNode:
                    return None if shift or entry is None else (index, entry)
                within = index & mask
                if type(entry.slots[within]) is Internal:
                    return None
                inside = entry.marks[mark] >> within
                if inside:
                    node = entry
                    offset = within
                    bits = inside
                else:
                    bits -= 1

        # What is marked comes after the index: behind this slot, or up where that is, and down to its first one.
        while not bits:
            offset = node.offset + 1
            if node.parent is None:
                return None
            node = node.parent
            bits = node.marks[mark] >> offset
        shift = node.shift
        place = (index >> shift >> chunk_shift << chunk_shift) + offset + (bits & -bits).bit_length() - 1
        entry = node.slots[place & mask]
        while type(entry) is XaNode:
            shift = entry.shift
            bits = entry.marks[mark]
            offset = (bits & -bits).bit_length() - 1
            place = (place << chunk_shift) + offset
            entry = entry.slots[offset]
        return None if entry is None or type(entry) is Internal else (place << shift, entry)
