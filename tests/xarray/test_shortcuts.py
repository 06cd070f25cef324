# SPDX-License-Identifier: GPL-2.0-only
"""The shortcuts are taken where they should be, and only there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mmref.sync import SpinLock
from mmref.xarray import ULONG_MAX, XA_FLAGS_ALLOC, XA_PRESENT, TaggedPointer, XArray, XaState
from mmref.xarray.normal import NormalApi

BOOK = ["store", "erase", "store_range", "find", "find_after"]


class ByTheBookError(Exception):
    """The operation did not take the shortcut."""


def refuse(*_: Any) -> None:
    raise ByTheBookError


def make(**options: Any) -> XArray[Any]:
    xa: XArray[Any] = XArray(**options)
    for index in (0, 1, 2, 3, 63, 64, 65, 200, 4095, 4096, 5000):
        xa.store(index, f"e{index}")
    xa.store(4, 4)
    xa.store(5, 5)
    XaState(xa, 512, order=8).store("large")
    XaState(xa, 8, order=2).store("four")
    for index in (3, 200, 5000):
        xa.set_mark(index, 1)
    return xa


@pytest.fixture
def _closed_book(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BOOK:
        monkeypatch.setattr(NormalApi, name, refuse)


Call = Callable[[XArray[Any]], Any]
SHORT: dict[str, tuple[Call, Any]] = {
    "store into a leaf": (lambda xa: xa.store(66, "new"), None),
    "store a value": (lambda xa: xa.store(66, 0), None),
    "store the largest value": (lambda xa: xa.store(66, 2**63 - 1), None),
    "replace a pointer": (lambda xa: xa.store(65, "new"), "e65"),
    "replace a value": (lambda xa: xa.store(4, 2**63 - 1), 4),
    "replace a value by the smallest": (lambda xa: xa.store(4, 0), 4),
    "replace an entry of several indices": (lambda xa: xa.store(8, "new"), "four"),
    "erase nothing": (lambda xa: xa.erase(66), None),
    "erase one of three": (lambda xa: [xa.store(66, "x"), xa.erase(65)], [None, "e65"]),
    "erase one of two below the top": (lambda xa: [xa.store(4097, "x"), xa.erase(4096)], [None, "e4096"]),
    "range over nothing": (lambda xa: xa.store_range(1024, 1535, "new"), None),
    "range over nothing, values": (lambda xa: xa.store_range(1024, 1535, 0), None),
    "range over itself": (lambda xa: xa.store_range(512, 767, "new"), None),
    "range before the last slot of the top": (lambda xa: xa.store_range(63 * 4096 - 512, 63 * 4096 - 1, "new"), None),
    "range in a leaf": (lambda xa: xa.store_range(4104, 4107, "new"), None),
    "range of one slot": (lambda xa: xa.store_range(1024, 1087, "new"), None),
    "range in a node to be made": (lambda xa: xa.store_range(8192, 8703, "new"), None),
    "range in a leaf to be made": (lambda xa: xa.store_range(2048, 2051, "new"), None),
    "find here": (lambda xa: xa.find(64), (64, "e64")),
    "find further on": (lambda xa: xa.find(66), (200, "e200")),
    "find in another node": (lambda xa: xa.find(1000), (4095, "e4095")),
    "find too far away": (lambda xa: xa.find(66, 199), None),
    "find at the limit": (lambda xa: xa.find(66, 200), (200, "e200")),
    "find marked here": (lambda xa: xa.find(3, ULONG_MAX, 1), (3, "e3")),
    "find marked further on": (lambda xa: xa.find(4, ULONG_MAX, 1), (200, "e200")),
    "find marked in another node": (lambda xa: xa.find(201, ULONG_MAX, 1), (5000, "e5000")),
    "find marked too far away": (lambda xa: xa.find(201, 4999, 1), None),
    "find after": (lambda xa: xa.find_after(63), (64, "e64")),
    "find after, further on": (lambda xa: xa.find_after(65), (200, "e200")),
    "find after, at the limit": (lambda xa: xa.find_after(65, 200), (200, "e200")),
    "find after, too far away": (lambda xa: xa.find_after(65, 199), None),
}


@pytest.mark.parametrize("name", SHORT)
def test_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, expected = SHORT[name]
    xa, by_the_book = make(), make()
    by_the_book._quick = False
    assert call(by_the_book) == expected
    with monkeypatch.context() as patch:
        for method in BOOK:
            patch.setattr(NormalApi, method, refuse)
        assert call(xa) == expected
    assert xa.dump() == by_the_book.dump()
    assert xa.allocator.live == by_the_book.allocator.live
    xa.check()


LONG: dict[str, Call] = {
    "store where there is no leaf": lambda xa: xa.store(10**6, "new"),
    "store above the tree": lambda xa: xa.store(10**9, "new"),
    "store None": lambda xa: xa.store(3, None),
    "store a tagged pointer": lambda xa: xa.store(66, TaggedPointer("p", 1)),
    "store a pointer over a value": lambda xa: xa.store(4, "new"),
    "store a value over a pointer": lambda xa: xa.store(3, 3),
    "store inside an entry": lambda xa: xa.store(9, "new"),
    "store inside a large entry": lambda xa: xa.store(600, "new"),
    "erase in a leaf with marks": lambda xa: xa.erase(2),
    "erase inside an entry": lambda xa: xa.erase(9),
    "erase where there is no leaf": lambda xa: xa.erase(10**6),
    "range that is no power of two": lambda xa: xa.store_range(1024, 1534, "new"),
    "range that is not aligned": lambda xa: xa.store_range(1025, 1536, "new"),
    "range above the tree": lambda xa: xa.store_range(2**19, 2**20 - 1, "new"),
    "range over a node": lambda xa: xa.store_range(64, 127, "new"),
    "range over entries": lambda xa: xa.store_range(0, 7, "new"),
    "range inside an entry": lambda xa: xa.store_range(512, 575, "new"),
    "range over a part of nothing": lambda xa: xa.store_range(448, 767, "new"),
    "range of tagged pointers": lambda xa: xa.store_range(1024, 1535, TaggedPointer("p", 1)),
    "range of another kind": lambda xa: xa.store_range(512, 767, 7),
    "range erased": lambda xa: xa.store_range(512, 767, None),
    "range of one index": lambda xa: xa.store_range(66, 66, "new"),
    "find from inside an entry": lambda xa: xa.find(9),
    "find beyond the last": lambda xa: xa.find(5001),
    "find above the tree": lambda xa: xa.find(10**9),
    "find marked from inside an entry": lambda xa: [xa.set_mark(9, 1), xa.find(10, ULONG_MAX, 1)],
    "find marked beyond the last": lambda xa: xa.find(5001, ULONG_MAX, 1),
    "find after, for a mark": lambda xa: xa.find_after(3, ULONG_MAX, 1),
    "find after the last": lambda xa: xa.find_after(5000),
    "find after, inside an entry": lambda xa: xa.find_after(8),
}


@pytest.mark.parametrize("name", LONG)
def test_not_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = LONG[name]
    xa, by_the_book = make(), make()
    by_the_book._quick = False
    expected = call(by_the_book)
    calls = []
    with monkeypatch.context() as patch:
        for method in BOOK:
            real = getattr(NormalApi, method)
            patch.setattr(NormalApi, method, lambda *a, real=real: (calls.append(1), real(*a))[1])
        assert call(xa) == expected
    assert calls
    assert xa.dump() == by_the_book.dump()
    assert xa.allocator.live == by_the_book.allocator.live
    xa.check()


class Slots(list[Any]):
    """Slots that are not the plain ones, and want to be asked for one at a time."""

    def __iter__(self) -> Iterator[Any]:
        raise ByTheBookError("all slots at once")


class OtherSlots(XArray[Any]):
    __slots__ = ()

    def _new_slots(self) -> list[Any]:
        return Slots([None] * self.chunk_size)


class OtherLock(SpinLock):
    __slots__ = ()


@pytest.mark.parametrize(
    "xa",
    [OtherSlots(), XArray(lock=OtherLock()), XArray(flags=XA_FLAGS_ALLOC)],
    ids=["slots", "lock", "free mark"],
)
@pytest.mark.usefixtures("_closed_book")
def test_never_taken(xa: XArray[Any]) -> None:
    with xa.xa_lock:
        XaState(xa, 5).store("five")
    calls: list[Call] = [
        lambda xa: xa.store(6, "x"),
        lambda xa: xa.erase(6),
        lambda xa: xa.store_range(8, 15, "x"),
        lambda xa: xa.find(5),
        lambda xa: xa.find_after(4),
    ]
    for call in calls:
        with pytest.raises(ByTheBookError):
            call(xa)


def test_items_of_slots_that_are_not_plain() -> None:
    xa: XArray[Any] = OtherSlots()
    for index in range(200):
        xa.store(index, f"e{index}")
    assert list(xa.items(3, 190)) == [(index, f"e{index}") for index in range(3, 190)]


def test_items_of_full_leaves_need_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    xa: XArray[Any] = XArray()
    for index in range(64 * 64):
        xa.store(index, "x")
    searches = []
    real = XaState.find
    with monkeypatch.context() as patch:
        patch.setattr(XaState, "find", lambda *a: (searches.append(1), real(*a))[1])
        assert sum(1 for _ in xa.items()) == 64 * 64
        assert len(searches) <= 2
        del xa[70]  # one leaf with a hole
        assert sum(1 for _ in xa.items()) == 64 * 64 - 1
        assert len(searches) <= 6


def test_store_range_without_memory() -> None:
    xa = make()
    xa.allocator.budget(nowait=0)
    xa.store_range(8192, 8703, "new")
    assert xa.load(8703) == "new"
    xa.check()


@pytest.mark.parametrize("chunk_shift", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(12))
def test_searches_find_what_the_book_finds(chunk_shift: int, seed: int) -> None:
    """From every index, with and without a limit, for entries and for marks, around entries of several indices."""
    chance = random.Random(seed)
    size = chance.choice([5, 60, 700])
    xa: XArray[Any] = XArray(chunk_shift=chunk_shift)
    for _ in range(chance.choice([1, 6, 60])):
        index = chance.randrange(size)
        order = chance.choice([0, 0, 0, 1, 2, 3, 5])
        first = index >> order << order
        xa.store_range(first, first + (1 << order) - 1, f"e{index}")
        if chance.random() < 0.5:
            xa.set_mark(index, chance.randrange(3))
    for index in chance.sample(range(size), min(size, 5)):
        xa.reserve(index)
    for index in range(size + 2):
        for limit in (ULONG_MAX, index, index + 1, index + 7, size):
            for filter in (XA_PRESENT, 0, 1, 2):
                assert xa.find(index, limit, filter) == NormalApi.find(xa, index, limit, filter)
            assert xa.find_after(index, limit) == NormalApi.find_after(xa, index, limit)
