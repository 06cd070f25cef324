# SPDX-License-Identifier: GPL-2.0-only
"""A state machine that holds both faces of the array against a plain dict of blocks.

A block is what one multi-index entry covers. The model knows nothing of nodes, except how many slots a block takes:
that decides which index a search for a mark reports, and which stores the port refuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EBUSY
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmref.errors import UsageError, XArrayError
from mmref.xarray import ULONG_MAX, XA_PRESENT, ZERO, XArray, XaState, is_value

MARKS = st.integers(0, 2)
ENTRIES = st.one_of(st.integers(0, 3), st.integers(2**63 - 2, 2**63 - 1), st.sampled_from(["a", "b", "c"]))


class BookArray(XArray[Any]):
    """An array that takes no shortcuts, because its slots are not the plain ones."""

    __slots__ = ()

    def _new_slots(self) -> list[Any]:
        return super()._new_slots()


@dataclass
class Block:
    first: int
    last: int
    entry: Any
    shift: int = 0
    slots: int = 1
    order: int | None = 0
    marks: set[int] = field(default_factory=set)

    def clashes(self, entry: Any) -> bool:
        """Whether a store to a part of it would change pointer to value or back."""
        return self.slots > 1 and is_value(self.entry) != is_value(entry)


class ArrayMachine(RuleBasedStateMachine):
    blocks: dict[int, Block]

    @initialize(chunk_shift=st.sampled_from([1, 2, 3, 4, 6]), plain=st.booleans(), far=st.booleans())
    def start(self, chunk_shift: int, plain: bool, far: bool) -> None:
        self.xa: XArray[Any] = XArray(chunk_shift) if plain else BookArray(chunk_shift)
        self.chunk_shift = chunk_shift
        self.chunk = 1 << chunk_shift
        self.blocks = {}
        self.anchors = [0, 0, self.chunk, self.chunk**2, self.chunk**2 * 3]
        if far:
            self.anchors += [2**40, ULONG_MAX + 1 - self.chunk, ULONG_MAX + 1 - self.chunk**2]

    # -- helpers -------------------------------------------------------------------------------------------------

    def index(self, data: st.DataObject) -> int:
        """Draw an index: near one of a few places, or inside or beside something that is there."""
        edges = [edge for block in self.blocks.values() for edge in (block.first, block.last)]
        near = data.draw(st.sampled_from(self.anchors + edges))
        return max(0, min(ULONG_MAX, near + data.draw(st.integers(-2, self.chunk + 1))))

    def at(self, index: int) -> Block | None:
        return next((b for b in self.blocks.values() if b.first <= index <= b.last), None)

    def within(self, first: int, last: int) -> list[Block] | None:
        """Return the blocks inside a range; None if one sticks out of it."""
        touched = [b for b in self.blocks.values() if b.first <= last and first <= b.last]
        if any(b.first < first or b.last > last for b in touched):
            return None
        return touched

    def shape(self, order: int) -> tuple[int, int]:
        shift = order - order % self.chunk_shift
        return shift, 1 << (order - shift)

    def visible(self, block: Block | None) -> Any:
        return None if block is None or block.entry is ZERO else block.entry

    def put(self, index: int, entry: Any) -> None:
        """Store at one index, as the normal API does."""
        block = self.at(index)
        if block is not None and entry is None:
            del self.blocks[block.first]
        elif block is not None:
            block.entry = entry
        elif entry is not None:
            self.blocks[index] = Block(index, index, entry)

    # -- one index -----------------------------------------------------------------------------------------------

    @rule(data=st.data(), entry=st.none() | ENTRIES, mapping=st.booleans())
    def store(self, data: st.DataObject, entry: Any, mapping: bool) -> None:
        index = self.index(data)
        block = self.at(index)
        if entry is not None and block is not None and block.clashes(entry):
            with pytest.raises(UsageError, match="part of a multi-index entry"):
                self.xa.store(index, entry)
            return
        if mapping:
            self.xa[index] = entry
        else:
            assert self.xa.store(index, entry) == self.visible(block)
        self.put(index, entry)

    @rule(data=st.data(), mapping=st.booleans())
    def erase(self, data: st.DataObject, mapping: bool) -> None:
        index = self.index(data)
        expected = self.visible(self.at(index))
        if not mapping:
            assert self.xa.erase(index) == expected
        elif expected is not None:
            del self.xa[index]
        else:
            with pytest.raises(KeyError):
                del self.xa[index]
        self.put(index, None)

    @rule(data=st.data(), entry=st.none() | ENTRIES)
    def insert(self, data: st.DataObject, entry: Any) -> None:
        index = self.index(data)
        if self.at(index) is None:
            self.xa.insert(index, entry)
            self.put(index, ZERO if entry is None else entry)
        else:
            with pytest.raises(XArrayError) as caught:
                self.xa.insert(index, entry)
            assert caught.value.errno == EBUSY

    @rule(data=st.data(), old=st.none() | ENTRIES, entry=st.none() | ENTRIES, hit=st.booleans())
    def cmpxchg(self, data: st.DataObject, old: Any, entry: Any, hit: bool) -> None:
        index = self.index(data)
        block = self.at(index)
        if hit:
            old = block.entry if block is not None else None
        found = block.entry if block is not None else None
        if found == old and entry is not None and block is not None and block.clashes(entry):
            with pytest.raises(UsageError):
                self.xa.cmpxchg(index, old, entry)
            return
        assert self.xa.cmpxchg(index, old, entry) == self.visible(block)
        if found == old:
            self.put(index, entry)

    @rule(data=st.data())
    def reserve(self, data: st.DataObject) -> None:
        index = self.index(data)
        self.xa.reserve(index)
        if self.at(index) is None:
            self.put(index, ZERO)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = self.index(data)
        self.xa.release(index)
        block = self.at(index)
        if block is not None and block.entry is ZERO:
            self.put(index, None)

    # -- many indices --------------------------------------------------------------------------------------------

    @rule(data=st.data(), entry=st.none() | ENTRIES, order=st.integers(0, 20))
    def store_order(self, data: st.DataObject, entry: Any, order: int) -> None:
        first = self.index(data) >> order << order
        last = first + (1 << order) - 1
        shift, slots = self.shape(order)
        outer = self.at(first)
        inside = None if outer is None or outer.last < last else outer
        covered = self.within(first, last)
        if inside is None and covered is None:
            return
        xas = XaState(self.xa, first, order)
        if inside is not None and entry is not None and is_value(inside.entry) != is_value(entry):
            written = slots if shift == inside.shift else 1
            if first > inside.first or written < inside.slots:
                if inside.slots > 1:
                    with pytest.raises(UsageError, match="part of a multi-index entry"):
                        xas.store(entry)
                    return
        with self.xa.xa_lock:
            xas.store(entry)
        assert xas.error == 0
        if inside is not None:
            self.put(first, entry)
            return
        assert covered is not None
        marks = set().union(*(b.marks for b in covered))
        for block in covered:
            del self.blocks[block.first]
        if entry is not None:
            self.blocks[first] = Block(first, last, entry, shift, slots, order, marks)

    @rule(data=st.data(), entry=st.none() | ENTRIES, size=st.integers(1, 300), how=st.sampled_from("am"))
    def store_range(self, data: st.DataObject, entry: Any, size: int, how: str) -> None:
        aligned, mapping = data.draw(st.booleans()), how == "m"
        first = self.index(data)
        if aligned:
            size = 1 << size % 10
            first &= ~(size - 1)
        last = min(first + size - 1, ULONG_MAX - 1)
        covered = self.within(first, last) if first <= last else None
        if covered is None:
            return
        if mapping and entry is None:
            del self.xa[first : last + 1]
        elif mapping:
            self.xa[first : last + 1] = entry
        else:
            self.xa.store_range(first, last, entry)
        for block in covered:
            del self.blocks[block.first]
        if entry is None:
            return
        while first <= last:
            shift = 0
            while first & ((self.chunk << shift) - 1) == 0 and first + (self.chunk << shift) - 1 <= last:
                shift += self.chunk_shift
            slots = min(self.chunk - (first >> shift) % self.chunk, (last + 1 - first) >> shift)
            end = first + (slots << shift) - 1
            marks = set().union(*(b.marks for b in covered if first <= b.first <= end))
            self.blocks[first] = Block(first, end, entry, shift, slots, None, marks)
            first = end + 1

    @rule(data=st.data(), entry=ENTRIES, smaller=st.integers(1, 12))
    def split(self, data: st.DataObject, entry: Any, smaller: int) -> None:
        splittable = [b for b in self.blocks.values() if b.order and b.entry is not ZERO]
        if not splittable:
            return
        block = data.draw(st.sampled_from(splittable))
        assert block.order is not None
        order = max(block.order - smaller, 0)
        shift, slots = self.shape(order)
        if shift + 2 * self.chunk_shift <= block.order:
            return
        xas = XaState(self.xa, block.first, order)
        xas.split_alloc(entry, block.order)
        with self.xa.xa_lock:
            xas.split(entry, block.order)
        xas.destroy()
        del self.blocks[block.first]
        for first in range(block.first, block.last + 1, 1 << order):
            self.blocks[first] = Block(first, first + (1 << order) - 1, entry, shift, slots, order, set(block.marks))

    @rule()
    def destroy(self) -> None:
        self.xa.destroy()
        self.blocks.clear()

    # -- marks ---------------------------------------------------------------------------------------------------

    @rule(data=st.data(), mark=MARKS)
    def set_mark(self, data: st.DataObject, mark: int) -> None:
        index = self.index(data)
        self.xa.set_mark(index, mark)
        block = self.at(index)
        if block is not None:
            block.marks.add(mark)

    @rule(data=st.data(), mark=MARKS)
    def clear_mark(self, data: st.DataObject, mark: int) -> None:
        index = self.index(data)
        self.xa.clear_mark(index, mark)
        block = self.at(index)
        if block is not None:
            block.marks.discard(mark)

    # -- looking -------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        index = self.index(data)
        block = self.at(index)
        expected = self.visible(block)
        assert self.xa.load(index) == expected
        assert (index in self.xa) == (expected is not None)
        assert self.xa.get(index, "nothing") == ("nothing" if expected is None else expected)
        for mark in range(3):
            assert self.xa.get_mark(index, mark) == (block is not None and mark in block.marks)
        if block is not None and block.order is not None and all(b.order is not None for b in self.blocks.values()):
            assert self.xa.get_order(index) == block.order

    def following(self, index: int, filter: int) -> list[Block]:
        blocks = sorted(self.blocks.values(), key=lambda b: b.first)
        return [b for b in blocks if b.last >= index and b.entry is not ZERO and filter in (*b.marks, XA_PRESENT)]

    @rule(data=st.data(), filter=st.sampled_from([0, 1, 2, XA_PRESENT]), limit=st.none() | st.integers(0, 200))
    def find(self, data: st.DataObject, filter: int, limit: int | None) -> None:
        index = self.index(data)
        highest = ULONG_MAX if limit is None else min(index + limit, ULONG_MAX)
        expected = None
        for block in self.following(index, filter)[:1]:
            where = max(index, block.first)
            if filter != XA_PRESENT and (where - block.first) >> block.shift:
                where = block.first
            if max(index, block.first) <= highest:
                expected = (where, block.entry)
        assert self.xa.find(index, highest, filter) == expected

    @rule(data=st.data(), filter=st.sampled_from([0, 1, 2, XA_PRESENT]), limit=st.none() | st.integers(0, 200))
    def find_after(self, data: st.DataObject, filter: int, limit: int | None) -> None:
        index = self.index(data)
        highest = ULONG_MAX if limit is None else min(index + limit, ULONG_MAX)
        inside = self.at(index + 1)
        if filter != XA_PRESENT and inside is not None and filter in inside.marks and inside.first <= index < highest:
            if (index + 1 - inside.first) >> inside.shift:
                if inside.entry is not ZERO:
                    with pytest.raises(UsageError, match="over and over"):
                        self.xa.find_after(index, highest, filter)
                return
        later = [b for b in self.following(index, filter) if index < b.first <= highest]
        assert self.xa.find_after(index, highest, filter) == ((later[0].first, later[0].entry) if later else None)

    @rule(data=st.data(), size=st.integers(0, 200), mark=st.none() | MARKS, n=st.integers(0, 9))
    def look_at_range(self, data: st.DataObject, size: int, mark: int | None, n: int) -> None:
        start = self.index(data)
        stop = min(start + size, ULONG_MAX + 1)
        filter = XA_PRESENT if mark is None else mark
        blocks = [b for b in self.following(start, filter) if b.first < stop and start < stop]
        expected = [(max(start, b.first), b.entry) for b in blocks]
        assert list(self.xa.items(start, stop, mark)) == expected
        assert list(self.xa.keys(start, stop, mark)) == [index for index, _ in expected]
        assert list(self.xa.values(start, stop, mark)) == [entry for _, entry in expected]
        if stop > start:
            assert self.xa.extract(start, stop - 1, n, filter) == [entry for _, entry in expected[:n]]
        if mark is None:
            assert self.xa[start:stop] == dict(expected)
            if stop > start:
                assert list(self.xa.for_each(start, stop - 1)) == expected

    @rule(data=st.data(), steps=st.lists(st.sampled_from(["next", "prev", "load", "set", "reset"]), max_size=30))
    def walk(self, data: st.DataObject, steps: list[str]) -> None:
        """Step about with a cursor: it always shows what is at its index."""
        xas = XaState(self.xa, self.index(data))
        stepped = False
        for step in steps:
            before = xas.index
            if step == "set":
                xas.set(self.index(data))
                stepped = False
                continue
            if step == "reset":
                xas.reset()
                stepped = False
                continue
            block = self.at(before)
            if step != "load" and stepped and block is not None and block.slots > 1:
                # Line the cursor up, as its users do before they step out of a multi-index entry.
                xas.advance(block.last if step == "next" else block.first)
                before = xas.index
            entry = xas.next() if step == "next" else xas.prev() if step == "prev" else xas.load()
            if abs(xas.index - before) == ULONG_MAX:
                assert entry is None  # beyond either end, whatever is at the other one
                break
            if step == "load" or not stepped:
                assert xas.index == before
            else:
                assert xas.index == (before + (1 if step == "next" else -1)) & ULONG_MAX
            stepped = True
            there = self.at(xas.index)
            if there is None or there.slots == 1 or step == "load":
                assert entry == (None if there is None else there.entry)

    # -- always --------------------------------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "xa"):
            return
        self.xa.check()
        blocks = sorted(self.blocks.values(), key=lambda b: b.first)
        shown = [(b.first, b.entry) for b in blocks if b.entry is not ZERO]
        assert list(self.xa.items()) == shown
        assert len(self.xa) == len(shown)
        assert list(self.xa) == [index for index, _ in shown]
        assert bool(self.xa) == bool(self.blocks)
        for mark in range(3):
            marked = [b for b in blocks if mark in b.marks]
            assert self.xa.marked(mark) == bool(marked)
            assert list(self.xa.items(mark=mark)) == [(b.first, b.entry) for b in marked if b.entry is not ZERO]
        if not self.blocks:
            assert self.xa.allocator.live == 0


TestArrayMachine = ArrayMachine.TestCase
TestArrayMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
