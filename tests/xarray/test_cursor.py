# SPDX-License-Identifier: GPL-2.0-only
"""Cursors: sticky errors, memory that runs short, ranges, splits, callbacks, conflicts, stepping."""

from __future__ import annotations

import copy
import pickle
from errno import EBUSY, EEXIST, ENOMEM
from typing import Any

import pytest

from mmref.errors import Deadlock, UsageError, XArrayError
from mmref.sync import SpinLock
from mmref.xarray import (
    RETRY,
    ULONG_MAX,
    XA_FLAGS_ACCOUNT,
    XA_FLAGS_ALLOC,
    XA_FLAGS_ALLOC1,
    XA_FLAGS_ALLOC_WRAPPED,
    XA_FLAGS_LOCK_BH,
    XA_FLAGS_LOCK_IRQ,
    XA_FLAGS_TRACK_FREE,
    XA_FLAGS_ZERO_BUSY,
    XA_FREE_MARK,
    XA_MARK_0,
    XA_MARK_1,
    XA_MARK_2,
    XA_MARK_MAX,
    XA_MAX_MARKS,
    XA_PRESENT,
    XAS_BOUNDS,
    XAS_RESTART,
    ZERO,
    NodeAllocator,
    TaggedPointer,
    XaNode,
    XArray,
    XaState,
    is_internal,
    is_node,
    is_retry,
    is_sibling,
    is_value,
    is_zero,
    sibling,
)

Array = XArray[Any]


# -- errors and memory -------------------------------------------------------------------------------------------


def test_error_is_sticky() -> None:
    xa: Array = XArray()
    xa.store(5, "five")
    xas = XaState(xa, 5)
    assert xas.error == 0
    xas.set_err(-EEXIST)
    assert xas.error == -EEXIST
    assert xas.invalid()
    assert not xas.valid()
    assert xas.load() is xas.find() is xas.find_marked(100, 0) is xas.find_conflict() is xas.next() is None
    assert xas.prev() is xas.next_entry() is xas.next_marked(100, 0) is xas.store("six") is None
    assert not xas.get_mark(0)
    xas.set_mark(0)
    xas.clear_mark(0)
    xas.init_marks()
    xas.pause()
    xas.create_range()
    xas.split("x", 1)
    assert xas.error == -EEXIST
    assert (xas.index, xa.load(5)) == (5, "five")
    assert not xas.nomem()
    assert repr(xas) == "<XaState index 5 shift 0 sibs 0 offset 0 at XA_ERROR(-17)>"
    xas.reset()
    assert xas.error == 0
    assert xas.load() == "five"
    xas.set_err(-EBUSY)
    xas.set(5)
    assert xas.load() == "five"


def test_states() -> None:
    xa: Array = XArray()
    xas = XaState(xa, 3)
    assert xas.node is XAS_RESTART
    assert xas.load() is None
    assert xas.node is XAS_BOUNDS
    assert not xas.is_node()
    xa.store(0, "zero")
    xas = XaState(xa)
    assert xas.load() == "zero"
    assert xas.node is None
    assert xas.valid()
    assert not xas.is_node()
    assert "at head" in repr(xas)
    xa.store(3, "three")
    xas.reset()
    xas.load()
    assert xas.is_node()
    assert "at <XaNode shift 0" in repr(xas)


def test_store_that_runs_out_of_memory() -> None:
    xa: Array = XArray()
    xa.allocator.budget(nowait=1)
    xas = XaState(xa, 4096)
    assert xas.store("x") is None
    assert xas.error == -ENOMEM
    assert xas.store("x") is None  # nothing happens while the error is there
    assert xa.allocator.live == 1
    assert xas.nomem()
    assert xas.alloc is not None
    assert xas.node is XAS_RESTART
    xas.store("x")
    assert xas.error == -ENOMEM  # it takes three nodes, and this was the second
    assert xas.nomem()
    xas.store("x")
    assert xas.error == 0
    assert not xas.nomem()
    assert xa.load(4096) == "x"
    assert xa.allocator.live == 3
    xa.check()


def test_blocking_allocation_that_fails() -> None:
    xa: Array = XArray()
    xa.allocator.budget(nowait=0, blocking=0)
    xas = XaState(xa, 64)
    xas.store("x")
    assert not xas.nomem()
    assert xas.error == -ENOMEM
    assert xas.alloc is None
    assert xa.empty()


def test_node_that_is_not_needed_after_all() -> None:
    xa: Array = XArray()
    xa.allocator.budget(nowait=0)
    xas = XaState(xa, 64)
    xas.store("x")
    assert xas.nomem()
    assert xa.allocator.live == 1
    xas.set(0)
    xas.store("x")
    assert xas.alloc is not None
    assert not xas.nomem()
    assert xas.alloc is None
    assert xa.allocator.live == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda xa: xa.store(64, "x"),
        lambda xa: xa.insert(64, "x"),
        lambda xa: xa.cmpxchg(64, None, "x"),
        lambda xa: xa.reserve(64),
        lambda xa: xa.store_range(64, 70, "x"),
        lambda xa: xa.__setitem__(64, "x"),
    ],
)
@pytest.mark.parametrize("blocking", [-1, 1, 0])
def test_normal_api_waits_for_memory(call: Any, blocking: int) -> None:
    xa: Array = XArray()
    xa.allocator.budget(nowait=0, blocking=blocking)
    if blocking < 0:
        call(xa)
        assert not xa.empty()
    else:
        with pytest.raises(XArrayError) as caught:
            call(xa)
        assert caught.value.errno == ENOMEM
        assert "Cannot allocate memory [ENOMEM]" in str(caught.value)
    assert not xa.xa_lock.locked
    xa.allocator.budget()
    xa.destroy()
    assert xa.allocator.live == 0


def test_allocation_drops_the_lock() -> None:
    held = []

    class Watched(XArray[Any]):
        __slots__ = ()

        def _new_node(self, blocking: bool) -> XaNode | None:
            held.append((blocking, self.xa_lock.locked))
            return super()._new_node(blocking)

    xa = Watched()
    xa.allocator.budget(nowait=0)
    xa.store(5, "x")
    assert held == [(False, True), (True, False)]


def test_allocators_can_be_shared() -> None:
    allocator = NodeAllocator()
    arrays: list[Array] = [XArray(allocator=allocator) for _ in range(3)]
    for xa in arrays:
        xa.store(1, "x")
    assert allocator.live == 3
    arrays[0].destroy()
    assert allocator.live == 2
    arrays[1].check()


# -- locks -------------------------------------------------------------------------------------------------------


def test_writers_take_the_lock() -> None:
    writes: list[Any] = [
        lambda xa: xa.store(5, "x"),
        lambda xa: xa.store(6, None),
        lambda xa: xa.erase(5),
        lambda xa: xa.insert(7, "x"),
        lambda xa: xa.cmpxchg(5, "five", "x"),
        lambda xa: xa.reserve(8),
        lambda xa: xa.release(5),
        lambda xa: xa.store_range(4, 7, "x"),
        lambda xa: xa.store_range(64, 127, "x"),
        lambda xa: xa.set_mark(5, 0),
        lambda xa: xa.clear_mark(5, 0),
        lambda xa: xa.destroy(),
    ]
    for write in writes:
        xa: Array = XArray()
        for index in (5, 6, 9, 64):
            xa.store(index, "five")
        before = xa.dump()
        with xa.xa_lock, pytest.raises(Deadlock):
            write(xa)
        assert xa.dump() == before
        assert not xa.xa_lock.locked
        write(xa)
        assert not xa.xa_lock.locked


def test_readers_do_not() -> None:
    xa: Array = XArray()
    xa.store(5, "five")
    with xa.xa_lock:
        assert xa.load(5) == "five"
        assert list(xa.items()) == [(5, "five")]
        assert xa.find(0) == xa.find_after(4) == (5, "five")
        assert not xa.get_mark(5, 0)


def test_lock_of_ones_own() -> None:
    class Counting(SpinLock):
        __slots__ = ("taken",)

        def acquire(self) -> None:
            self.taken = getattr(self, "taken", 0) + 1
            super().acquire()

    lock = Counting("mine")
    xa: Array = XArray(lock=lock)
    for index in range(5):
        xa.store(index, "x")
    xa.erase(3)
    xa.alloc  # noqa: B018 (not a write)
    assert lock.taken == 6


# -- loading, reloading, stepping --------------------------------------------------------------------------------


def test_load_goes_no_deeper_than_its_order() -> None:
    xa: Array = XArray()
    xa.store(70, "x")
    xas = XaState(xa, 64, order=6)
    assert is_node(xas.load())
    assert xas.node is xa.xa_head
    assert XaState(xa, 0, order=12).load() is xa.xa_head


def test_reload() -> None:
    xa: Array = XArray()
    XaState(xa, 8, order=2).store("four")
    xas = XaState(xa, 10)
    xas.load()
    assert xas.reload() == "four"
    xa.store(9, "new")
    assert xas.reload() == "new"
    xa = XArray()
    xa.store(0, "zero")
    xas = XaState(xa)
    xas.load()
    assert xas.reload() == "zero"


@pytest.mark.parametrize("start", [0, 1, 62, 63, 64, 127, 4095])
def test_stepping(start: int) -> None:
    xa: Array = XArray()
    for index in (0, 1, 63, 64, 65, 128, 4095, 4096):
        xa.store(index, f"e{index}")
    xas = XaState(xa, start)
    for index in range(start, start + 200):
        assert xas.next() == xa.load(index)
        assert xas.index == index
    for index in range(start + 198, start - 1, -1):
        assert xas.prev() == xa.load(index)
        assert xas.index == index


def test_steps_in_between_other_moves() -> None:
    """What next() keeps at hand is let go by everything that moves the cursor."""
    xa: Array = XArray()
    for index in range(130):
        xa.store(index, f"e{index}")
        xa.set_mark(index, 1)
    moves: list[Any] = [
        lambda xas: xas.set(64),
        lambda xas: xas.set_order(64, 0),
        lambda xas: xas.reset(),
        lambda xas: xas.retry(RETRY),
        lambda xas: xas.pause(),
        lambda xas: xas.advance(xas.index + 3),
        lambda xas: xas.load(),
        lambda xas: xas.prev(),
        lambda xas: xas.find(),
        lambda xas: xas.next_entry(),
        lambda xas: xas.find_marked(ULONG_MAX, 1),
        lambda xas: xas.next_marked(ULONG_MAX, 1),
        lambda xas: xas.store("new"),
        lambda xas: xas.create_range(),
        lambda xas: (xas.set_err(-EBUSY), xas.reset()),
        lambda xas: (xas.set(70), xas.find_conflict()),
        lambda xas: xas.split("new", 0),
    ]
    for move in moves:
        xas = XaState(xa, 10)
        for _ in range(5):
            xas.next()
        move(xas)
        restarted = xas.node is XAS_RESTART
        before = xas.index
        assert xas.next() == xa.load(before if restarted else before + 1)
        assert xas.index == (before if restarted else before + 1)


def test_failed_allocation_lets_go_as_well() -> None:
    xa: Array = XArray()
    for index in range(20):
        xa.store(index, "x")
    xas = XaState(xa, 0)
    xas.next()
    xas.next()
    xa.allocator.budget(blocking=0)
    xas.split_alloc("x", 6)
    assert xas.error == -ENOMEM
    assert xas.next() is None
    xas.reset()
    xas.next()
    xas.set_err(-ENOMEM)
    xa.allocator.budget()
    assert xas.nomem()
    assert xas.next() == "x"
    assert xas.index == 1


def test_pause_and_go_on() -> None:
    xa: Array = XArray()
    XaState(xa, 128, order=7).store("large")
    for index in (1, 2, 70, 300):
        xa.store(index, f"e{index}")
    seen = []
    xas = XaState(xa)
    for _ in xas.for_each():
        seen.append(xas.index)
        xas.pause()
    assert seen == [1, 2, 70, 128, 300]
    xas = XaState(xa, ULONG_MAX)
    xa.store(ULONG_MAX, "last")
    xas.load()
    xas.pause()
    assert (xas.index, xas.node) == (0, XAS_BOUNDS)


def test_pause_at_the_head() -> None:
    xa: Array = XArray()
    xa.store(0, "zero")
    xas = XaState(xa)
    assert [xas.pause() for _ in xas.for_each()] == [None]
    assert xas.index == 1


def test_retry() -> None:
    xa: Array = XArray()
    xa.store(3, "three")
    xas = XaState(xa, 3)
    xas.load()
    assert not xas.retry("three")
    assert not xas.retry(None)
    assert xas.retry(ZERO)
    assert xas.is_node()
    assert xas.retry(RETRY)
    assert xas.node is XAS_RESTART


def test_conflicts() -> None:
    xa: Array = XArray()
    for index in (64, 70, 200, 511, 512):
        xa.store(index, f"e{index}")
    XaState(xa, 260, order=2).store("four")
    xas = XaState(xa, 0, order=9)
    assert list(xas.for_each_conflict()) == ["e64", "e70", "e200", "four", "e511"]
    xas.store("large")
    assert (xas.index, xas.offset) == (0, 0)
    assert xa.extract() == ["large", "e512"]
    assert list(XaState(xa, 100).for_each_conflict()) == ["large"]
    assert list(XaState(xa, 700, order=1).for_each_conflict()) == []
    assert list(XaState(xa, 10**6, order=1).for_each_conflict()) == []
    xa.check()


def test_search_under_the_cursors_own_order() -> None:
    xa: Array = XArray()
    for index in range(0, 300, 10):
        xa.store(index, index)
        xa.set_mark(index, 2)
    xas = XaState(xa, 100)
    assert [xas.index for _ in xas.for_each(140)] == [100, 110, 120, 130, 140]
    assert (xas.index, xas.node is XAS_BOUNDS) == (141, False)
    xas = XaState(xa, 101)
    assert [xas.index for _ in xas.for_each_marked(140, 2)] == [110, 120, 130, 140]
    xas = XaState(xa, 5)
    assert xas.find(4) is None
    assert xas.node is XAS_BOUNDS
    assert xas.find() is None
    xas = XaState(xa, 5)
    assert xas.find_marked(4, 2) is None
    assert xas.node is XAS_RESTART


# -- ranges, splits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_shift", [1, 2, 3, 6])
@pytest.mark.parametrize("order", range(10))
def test_create_range_makes_room(chunk_shift: int, order: int) -> None:
    xa: Array = XArray(chunk_shift)
    xas = XaState(xa, 1 << order, order)
    xas.create_range()
    assert (xas.index, xas.shift, xas.sibs, xas.error) == (1 << order, 0, 0, 0)
    xa.allocator.budget(nowait=0, blocking=0)
    for index in range(1 << order, 2 << order):
        assert xas.index == index
        assert xas.store(f"e{index}") is None
        assert xas.error == 0
        xas.next()
    xa.check()
    assert len(xa) == 1 << order


def test_create_range_that_runs_out_of_memory() -> None:
    xa: Array = XArray()
    xa.allocator.budget(nowait=3)
    xas = XaState(xa, 512, order=9)
    while True:
        xas.create_range()
        if not xas.nomem():
            break
        assert (xas.index, xas.shift, xas.sibs) == (512, 6, 7)
    assert xas.error == 0
    assert xa.allocator.live == 9


@pytest.mark.parametrize("chunk_shift", [1, 2, 3, 6])
def test_splits(chunk_shift: int) -> None:
    for order in range(1, 13):
        for smaller in range(order):
            xa: Array = XArray(chunk_shift)
            XaState(xa, 1 << order, order).store("large")
            xa.set_mark(1 << order, 1)
            xas = XaState(xa, (1 << order) + 1, smaller)
            if xas.shift + 2 * chunk_shift <= order:
                with pytest.raises(UsageError, match="split it in steps"):
                    xas.split_alloc(7, order)
                continue
            updates: list[XaNode] = []
            xas.set_update(updates.append)
            xas.split_alloc(7, order)
            xas.split(7, order)
            assert xas.alloc is None
            assert updates[-1] is xas.node
            assert len(xa) == 1 << (order - smaller)
            assert all(xa.get_order(index) == smaller for index, _ in xa.items())
            assert list(xa.keys(mark=1)) == list(xa)
            assert set(xa.values()) == {7}
            xa.check()
            for index in list(xa):
                assert xa.erase(index) == 7
            assert xa.allocator.live == 0


def test_split_that_finds_nothing() -> None:
    xa: Array = XArray()
    XaState(xa, 0).split("x", 1)
    XaState(xa, 5).split("x", 1)
    xa.store(0, "zero")
    XaState(xa, 0).split("x", 0)
    assert xa.extract() == ["zero"]


def test_split_alloc_that_runs_out_of_memory() -> None:
    xa: Array = XArray()
    XaState(xa, 512, order=9).store("large")
    xa.allocator.budget(blocking=7)
    xas = XaState(xa, 512)
    xas.split_alloc("small", 9)
    assert xas.error == -ENOMEM
    assert xas.alloc is None
    assert xa.allocator.live == 1
    assert xa.load(600) == "large"


def test_updates() -> None:
    """The callback sees every change of a node's counts, and no others."""
    xa: Array = XArray()
    seen: list[tuple[int, int, int]] = []
    xas = XaState(xa, 64, update=lambda node: seen.append((node.shift, node.count, node.nr_values)))
    xas.store("x")
    assert seen == [(6, 1, 0), (0, 1, 0)]
    seen.clear()
    xas.store("y")
    assert seen == []
    xas.store(1)
    assert seen == [(0, 1, 1)]
    seen.clear()
    xas.store(None)
    assert seen == [(0, 0, 0), (6, 0, 0)]
    xas.set_update(None)
    xas.set(3)
    xas.store("x")
    assert len(seen) == 2


def test_delete_node_calls_back() -> None:
    xa: Array = XArray()
    for index in (1, 64, 65):
        xa.store(index, index)
    xas = XaState(xa, 64)
    xas.load()
    node = xas.node
    assert type(node) is XaNode
    seen: list[tuple[int, int]] = []
    xa.delete_node(node, lambda node: seen.append((node.shift, node.count)))
    assert seen == [(0, 0), (6, 1), (6, 0)]
    assert node.array is None
    assert list(xa.items()) == [(1, 1)]
    xa.check()


# -- what readers without a lock can see -------------------------------------------------------------------------


class LoggedSlots(list[Any]):
    def __init__(self, size: int, log: list[Any]) -> None:
        super().__init__([None] * size)
        self.log = log

    def __getitem__(self, offset: Any) -> Any:
        return super().__getitem__(offset)

    def __setitem__(self, offset: Any, entry: Any) -> None:
        if isinstance(offset, slice):
            for at, one in zip(range(*offset.indices(len(self))), entry, strict=True):
                self[at] = one
            return
        self.log.append((offset, entry))
        super().__setitem__(offset, entry)


class LoggedArray(XArray[Any]):
    __slots__ = ("log",)

    def __init__(self, chunk_shift: int = 6) -> None:
        self.log: list[Any] = []
        super().__init__(chunk_shift)

    def _new_slots(self) -> list[Any]:
        return LoggedSlots(self.chunk_size, self.log)

    def _free_node(self, node: XaNode) -> None:
        self.log.append("freed")
        super()._free_node(node)


def test_order_of_slot_stores() -> None:
    """The canonical slot first, its siblings after it; the same for erasing."""
    xa = LoggedArray()
    xa.store(0, "zero")
    xas = XaState(xa, 8, order=2)
    xas.create_range()
    xas.set_order(8, 2)
    xa.log.clear()
    xas.store("x")
    assert xa.log == [(8, "x"), (9, sibling(8)), (10, sibling(8)), (11, sibling(8))]
    xa.log.clear()
    xas.store(None)
    assert xa.log == [(8, None), (9, None), (10, None), (11, None), (0, RETRY), "freed"]


def test_order_of_stores_that_free_nodes() -> None:
    """A node goes as soon as its slot has been written, before the next slot is."""
    xa = LoggedArray(chunk_shift=1)
    for index in range(4, 8):
        xa.store(index, f"e{index}")
    xa.log.clear()
    XaState(xa, 4, order=2).store("x")
    assert xa.log == [(1, "x"), (0, RETRY), (1, RETRY), "freed", (0, RETRY), (1, RETRY), "freed", "freed"]

    xa = LoggedArray(chunk_shift=2)
    for index in (16, 21, 30):
        xa.store(index, f"e{index}")
    xa.log.clear()
    XaState(xa, 16, order=3).store("x")
    assert xa.log == [(0, "x"), (0, RETRY), "freed", (1, sibling(0)), (1, RETRY), "freed"]
    assert xa.load(30) == "e30"
    xa.check()


def test_order_of_a_split() -> None:
    """Smaller entries appear from the highest down, each with its canonical slot first."""
    xa = LoggedArray()
    XaState(xa, 8, order=2).store("x")
    xa.log.clear()
    XaState(xa, 8, order=1).split("y", 2)
    assert xa.log == [(10, "y"), (11, sibling(10)), (8, "y"), (9, sibling(8))]


def test_making_a_node_ready_is_no_access() -> None:
    """What is written into a node before anybody can reach it is seen by nobody."""
    xa = LoggedArray()
    xa.store(0, "zero")
    xa.store(1, "one")
    assert xa.log == [(1, "one")]
    XaState(xa, 512, order=9).store("large")
    xa.log.clear()
    xas = XaState(xa, 512, order=3)
    xas.split_alloc("small", 9)
    assert xa.log == []


def test_freed_nodes_stay_readable() -> None:
    xa: Array = XArray()
    for index in (0, 64, 65):
        xa.store(index, f"e{index}")
    xas = XaState(xa, 64)
    xas.load()
    leaf = xas.node
    assert type(leaf) is XaNode
    XaState(xa, 64, order=6).store("large")
    assert leaf.array is None
    assert leaf.slots[:3] == [RETRY, RETRY, None]
    assert (leaf.count, leaf.nr_values, leaf.parent) == (0, 0, xa.xa_head)
    assert xas.reload() is RETRY
    assert "freed" in repr(leaf)
    assert xas.next() is RETRY
    assert xas.retry(RETRY)
    assert xas.load() == "large"


def test_shrink_leaves_a_retry_entry() -> None:
    xa: Array = XArray()
    xa.store(0, "zero")
    xa.store(1, "one")
    top = xa.xa_head
    xa.erase(1)
    assert xa.xa_head == "zero"
    assert top.slots[0] is RETRY


def test_load_walks_again_at_a_retry_entry() -> None:
    """Somebody replaces a leaf by a larger entry while a reader is in it."""

    class Interfering(list[Any]):
        def __getitem__(self, offset: Any) -> Any:
            if self.then is not None:
                then, self.then = self.then, None
                then()
            return super().__getitem__(offset)

        then: Any = None

    class Interfered(XArray[Any]):
        __slots__ = ()

        def _new_slots(self) -> list[Any]:
            return Interfering([None] * self.chunk_size)

    for look in (lambda xa: xa.load(65), lambda xa: xa.find(65)[1], lambda xa: next(xa.items(65))[1]):
        xa = Interfered()
        xa.store(0, "zero")
        xa.store(65, "before")
        leaf = list.__getitem__(xa.xa_head.slots, 1)
        leaf.slots.then = lambda xa=xa: XaState(xa, 64, order=6).store("after")
        assert look(xa) == "after"


# -- entries -----------------------------------------------------------------------------------------------------


def test_kinds_of_entries() -> None:
    entries = [None, 0, 5, True, "p", TaggedPointer("p", 3), sibling(0), sibling(62), RETRY, ZERO]
    assert [is_value(entry) for entry in entries] == [False, True, True, False, False, True] + [False] * 4
    assert [is_sibling(entry) for entry in entries] == [False] * 6 + [True, True, False, False]
    assert [is_internal(entry) for entry in entries] == [False] * 6 + [True] * 4
    assert [is_retry(entry) for entry in entries] == [False] * 8 + [True, False]
    assert [is_zero(entry) for entry in entries] == [False] * 9 + [True]
    assert not any(is_node(entry) for entry in entries)
    assert [repr(entry) for entry in entries[-4:]] == ["sibling(0)", "sibling(62)", "RETRY", "ZERO"]


@pytest.mark.parametrize("entry", [RETRY, ZERO, sibling(0), sibling(62)])
def test_internal_entries_are_unique(entry: Any) -> None:
    assert pickle.loads(pickle.dumps(entry)) is entry
    assert copy.copy(entry) is copy.deepcopy(entry) is entry


def test_tagged_pointers() -> None:
    one, other = object(), object()
    assert TaggedPointer(one, 1) == TaggedPointer(one, 1)
    assert hash(TaggedPointer(one, 1)) == hash(TaggedPointer(one, 1))
    assert TaggedPointer(one, 1) != TaggedPointer(one, 3)
    assert TaggedPointer(one, 1) != TaggedPointer(other, 1)
    assert TaggedPointer(one, 1) != one
    assert repr(TaggedPointer("p", 1)) == "TaggedPointer('p', 1)"
    xa: Array = XArray()
    xa.store(3, TaggedPointer(one, 1))
    assert xa.cmpxchg(3, TaggedPointer(one, 3), "x") == TaggedPointer(one, 1)
    assert xa.cmpxchg(3, TaggedPointer(one, 1), TaggedPointer(other, 3)) == TaggedPointer(one, 1)
    assert xa.xa_head.nr_values == 1
    xa.store(3, TaggedPointer(one, 3))
    assert xa.xa_head.nr_values == 1
    xa.store(3, one)
    assert xa.xa_head.nr_values == 0
    xa.store(3, TaggedPointer(one, 3))
    xa.store(4, "x")
    xa.store(5, "x")
    xa.erase(3)
    assert xa.xa_head.nr_values == 0
    xa.check()


def test_entries_are_compared_by_identity() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("entries must not be compared")

        __hash__ = None  # type: ignore[assignment]

    xa: Array = XArray()
    one, other = Odd(), Odd()
    xa.store(1, one)
    xa.store(2, 5)
    assert xa.cmpxchg(1, other, "x") is one
    assert xa.cmpxchg(1, 5, "x") is one
    assert xa.store(1, other) is one
    xa.store_range(0, 3, one)
    xa.store_range(64, 127, one)
    xa.store_range(64, 127, other)
    assert xa.find(0) == (0, one)
    assert [entry for _, entry in xa.items()] == [one, other]
    assert xa.erase(1) is one
    XaState(xa, 64, order=6).store(other)
    xa.check()


def test_equal_values_are_one_entry() -> None:
    xa: Array = XArray()
    xa.store(1, 10**15)
    assert xa.cmpxchg(1, int("1" + "0" * 15), 3) == 10**15
    xas = XaState(xa, 1)
    seen: list[XaNode] = []
    xas.set_update(seen.append)
    assert xas.store(3) == 3
    assert seen == []


@pytest.mark.parametrize("flags", [0, XA_FLAGS_ALLOC, XA_FLAGS_ALLOC1])
def test_destroy_resets_marks(flags: int) -> None:
    xa: Array = XArray(flags=flags)
    for index in (0, 1, 5000):
        xa.store(index, "x")
        xa.set_mark(index, 1)
    xa.destroy()
    assert [xa.marked(mark) for mark in range(3)] == [flags == XA_FLAGS_ALLOC, False, False]
    xa.check()


def test_storing_the_same_again_is_no_access() -> None:
    xa = LoggedArray()
    for index in (1, 2):
        xa.store(index, "x")
    xa.log.clear()
    for index, entry in ((1, "x"), (2, "x"), (3, None)):
        xas = XaState(xa, index)
        xas.store(entry)
        xas.store(entry)
        assert xas.index == index
    xa.store(1, "x")
    xa.store(70, None)
    xa.erase(3)
    assert xa.log == []


def test_stepping_after_a_split() -> None:
    """A split leaves the cursor where the old entry began, its index where it was; steps keep the distance."""
    xa: Array = XArray()
    XaState(xa, 8, order=2).store("four")
    xas = XaState(xa, 11)
    xas.split("one", 2)
    assert (xas.index, xas.offset) == (11, 8)
    assert xas.next() == "one"
    assert (xas.index, xas.offset) == (12, 9)
    assert xas.prev() == "one"
    assert xas.prev() is None
    assert (xas.index, xas.offset) == (10, 7)


def test_stepping_past_a_leaf_reads_each_slot_once() -> None:
    """One read for the slot beside the leaf, and one for the slot that the step ends on."""
    reads: list[int] = []

    class Reading(list[Any]):
        def __getitem__(self, offset: Any) -> Any:
            entry = super().__getitem__(offset)  # there is nothing to read behind the last slot
            reads.append(offset)
            return entry

    class ReadArray(XArray[Any]):
        __slots__ = ()

        def _new_slots(self) -> list[Any]:
            return Reading([None] * self.chunk_size)

    xa = ReadArray(chunk_shift=2)
    for index in (3, 4, 12):
        xa.store(index, f"e{index}")
    xas = XaState(xa, 3)
    xas.load()
    reads.clear()
    assert xas.next() == "e4"
    assert reads == [1, 0]
    assert (xas.index, xas.offset) == (4, 0)
    for _ in range(3):
        xas.next()
    reads.clear()
    assert xas.next() is None
    assert reads == [2]
    assert (xas.index, xas.offset, xas.node is xa.xa_head) == (8, 2, True)
    for index in range(9, 12):
        assert xas.next() is None
        assert (xas.index, xas.offset) == (index, 2)
    assert xas.next() == "e12"


@pytest.mark.parametrize("order", [0, 1])
def test_part_of_an_entry_from_tagged_to_plain(order: int) -> None:
    """A tagged pointer counts as a value: no pointer may take the place of a part of it, another one may."""
    xa: Array = XArray()
    with xa.xa_lock:
        XaState(xa, 8, order=2).store(TaggedPointer("p", 1))
        before = xa.dump()
        with pytest.raises(UsageError, match="pointer to value"):
            XaState(xa, 8, order=order).store("plain")
        assert xa.dump() == before
        XaState(xa, 8, order=order).store(TaggedPointer("q", 3))
    xa.check()


def test_constants_of_the_kernel() -> None:
    assert (XA_MARK_0, XA_MARK_1, XA_MARK_2, XA_MARK_MAX, XA_FREE_MARK, XA_MAX_MARKS) == (0, 1, 2, 2, 0, 3)
    assert (XA_PRESENT, ULONG_MAX) == (8, 0xFFFF_FFFF_FFFF_FFFF)
    flags = (XA_FLAGS_LOCK_IRQ, XA_FLAGS_LOCK_BH, XA_FLAGS_TRACK_FREE, XA_FLAGS_ZERO_BUSY, XA_FLAGS_ALLOC_WRAPPED)
    assert (*flags, XA_FLAGS_ACCOUNT) == (1, 2, 4, 8, 16, 32)
    assert (XA_FLAGS_ALLOC, XA_FLAGS_ALLOC1) == (1 << 26 | 4, 4 | 8)


@pytest.mark.parametrize("chunk_shift", [1, 2, 3, 6])
def test_tree_is_no_higher_than_an_entry_at_0_asks_for(chunk_shift: int) -> None:
    """An entry of several indices at 0 does not go into the head: one index more than its own has to fit, no more."""
    for order in range(1, 20):
        xa: Array = XArray(chunk_shift=chunk_shift)
        with xa.xa_lock:
            XaState(xa, 0, order=order).store("large")
        assert xa.xa_head.shift == order - order % chunk_shift
        assert xa.allocator.live == 1
        assert xa.get_order(0) == order
