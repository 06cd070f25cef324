# SPDX-License-Identifier: GPL-2.0-only
"""Every operation on arrays of each shape, for nodes of several sizes, with and without shortcuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmref.xarray import ULONG_MAX, XA_PRESENT, ZERO, XArray, XaState

Contents = dict[int, Any]


class BookArray(XArray[Any]):
    """An array that takes no shortcuts, because its slots are not the plain ones."""

    __slots__ = ()

    def _new_slots(self) -> list[Any]:
        return super()._new_slots()


def put(xa: XArray[Any], contents: Contents) -> Contents:
    for index, entry in contents.items():
        assert xa.store(index, entry) is None
    return contents


def empty(xa: XArray[Any]) -> Contents:
    return {}


def one(xa: XArray[Any]) -> Contents:
    return put(xa, {17: "seventeen"})


def one_at_zero(xa: XArray[Any]) -> Contents:
    return put(xa, {0: "zero"})


def value_at_zero(xa: XArray[Any]) -> Contents:
    return put(xa, {0: 0})


def sparse(xa: XArray[Any]) -> Contents:
    return put(xa, {1: "a", 63: 63, 64: "b", 4095: "c", 4096: 7, 2**32: "d", 2**50 + 5: "e"})


def dense(xa: XArray[Any]) -> Contents:
    return put(xa, {index: f"entry {index}" if index % 3 else index for index in range(200)})


def multi_index(xa: XArray[Any]) -> Contents:
    xas = XaState(xa)
    for index, order in ((8, 3), (64, 6), (512, 9), (2**40, 13)):
        xas.set_order(index, order)
        assert xas.store(f"order {order}") is None
    put(xa, {5: "single", 2000: "other"})
    return {8: "order 3", 64: "order 6", 512: "order 9", 2**40: "order 13", 5: "single", 2000: "other"}


def zero_entry(xa: XArray[Any]) -> Contents:
    for index in (0, 9, 300):
        xa.reserve(index)
    return put(xa, {10: "ten"})


def top_of_range(xa: XArray[Any]) -> Contents:
    return put(xa, {ULONG_MAX: "last", ULONG_MAX - 1: 1, 2**63: "middle"})


SHAPES = [empty, one, one_at_zero, value_at_zero, sparse, dense, multi_index, zero_entry, top_of_range]
LENGTHS = {("order 3"): 8, ("order 6"): 64, ("order 9"): 512, ("order 13"): 8192}


@pytest.fixture(params=[1, 3, 6])
def chunk_shift(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=[XArray, BookArray])
def array(request: pytest.FixtureRequest) -> type[XArray[Any]]:
    return request.param


@pytest.fixture(params=SHAPES)
def made(request: pytest.FixtureRequest, chunk_shift: int, array: type[XArray[Any]]) -> tuple[XArray[Any], Contents]:
    xa = array(chunk_shift)
    contents = request.param(xa)
    xa.check()
    return xa, dict(sorted(contents.items()))


Made = tuple[XArray[Any], Contents]


def length(entry: Any) -> int:
    return LENGTHS.get(entry, 1)


def test_load(made: Made) -> None:
    xa, contents = made
    for index, entry in contents.items():
        assert xa.load(index) == entry
        assert xa.load(index + length(entry) - 1) == entry
        assert xa[index] == entry
        assert index in xa
        for beside in (index - 1, index + length(entry)):
            if 0 <= beside <= ULONG_MAX and not any(i <= beside < i + length(e) for i, e in contents.items()):
                assert xa.load(beside) is None
                assert beside not in xa


def test_iteration(made: Made) -> None:
    xa, contents = made
    assert list(xa) == list(contents)
    assert list(xa.items()) == list(xa.for_each()) == list(contents.items())
    assert list(xa.values()) == xa.extract() == list(contents.values())
    assert len(xa) == len(contents)
    xas = XaState(xa)
    assert [(xas.index, e) for e in xas.for_each() if e is not ZERO] == list(contents.items())


def test_items_between(made: Made) -> None:
    xa, contents = made
    for start in contents:
        for stop in contents:
            expected = [(i, e) for i, e in contents.items() if start <= i < stop]
            assert list(xa.items(start, stop)) == expected
            assert xa[start:stop] == dict(expected)


def test_successors(made: Made) -> None:
    xa, contents = made
    found, index = [], -1
    step = xa.find(0)
    while step is not None:
        index, entry = step
        found.append((index, entry))
        step = xa.find_after(index)
    assert found == list(contents.items())
    for index, after in zip(contents, [*list(contents)[1:], None], strict=False):
        if after is not None:
            assert xa.find(index + length(contents[index])) == (after, contents[after])
            assert xa.find_after(index, after - 1) is None
            assert xa.find_after(index, after) == (after, contents[after])


def test_backwards(made: Made) -> None:
    xa, contents = made
    for index, entry in contents.items():
        xas = XaState(xa, index)
        assert xas.load() == entry
        before = xas.prev()
        assert xas.index == (index - 1) & ULONG_MAX
        if before is not None and before is not ZERO and index:
            assert xa.load(index - 1) is not None


def test_marks(made: Made) -> None:
    xa, contents = made
    chosen = list(contents)[::2]
    for index in chosen:
        xa.set_mark(index + length(contents[index]) - 1, 1)
    xa.check()
    assert list(xa.keys(mark=1)) == chosen
    assert [index for index in contents if xa.get_mark(index, 1)] == chosen
    assert xa.marked(1) == bool(chosen)
    assert not xa.marked(0)
    assert xa.extract(filter=1) == [contents[index] for index in chosen]
    xas = XaState(xa)
    assert [xas.index for _ in xas.for_each_marked(ULONG_MAX, 1)] == chosen
    for index in chosen:
        xa.clear_mark(index, 1)
    xa.check()
    assert not xa.marked(1)


def test_replace(made: Made) -> None:
    xa, contents = made
    for index, entry in contents.items():
        new = entry + 1 if type(entry) is int else entry + "!"
        assert xa.cmpxchg(index, object(), new) == entry
        assert xa.cmpxchg(index, xa.load(index), new) == entry
        assert xa.store(index, entry) == new
        assert xa.store(index, new) == entry
        assert xa.load(index + length(entry) - 1) == new
    xa.check()


def test_erase_all(made: Made) -> None:
    xa, contents = made
    for index, entry in contents.items():
        assert xa.erase(index) == entry
        assert xa.erase(index) is None
        xa.check()
    for index in (0, 9, 300):
        xa.release(index)
    assert xa.empty()
    assert xa.allocator.live == 0
    assert list(xa) == []


def test_destroy(made: Made) -> None:
    xa, _ = made
    xa.destroy()
    assert xa.empty()
    assert xa.allocator.live == 0
    assert xa.find(0) is None
    xa.check()


def test_erase_while_iterating(made: Made) -> None:
    xa, contents = made
    seen = []
    for index, entry in xa.items():
        seen.append((index, entry))
        xa.erase(index)
    assert seen == list(contents.items())
    assert not xa.extract()


def test_store_while_iterating(made: Made) -> None:
    xa, contents = made
    seen = []
    for index, entry in xa.items():
        seen.append(index)
        if index > 0 and xa.load(index - 1) is None:
            xa.store(index - 1, "behind")
        if type(entry) is str and not entry.endswith("new") and index < 2**62 and xa.load(index + 20) is None:
            xa.store(index + 20, "entry new")
    assert set(contents) <= set(seen)
    assert seen == sorted(seen)
    xa.check()


def test_text(made: Made) -> None:
    xa, contents = made
    assert f" {len(contents)} entr" in repr(xa)
    assert "\n" not in repr(xa)
    text = xa.dump()
    assert text.startswith("xarray: head ")
    for entry in contents.values():
        assert (f"value {entry} " if type(entry) is int else repr(entry)) in text


@pytest.mark.parametrize("shape", SHAPES)
def test_shortcuts_make_the_same_tree(shape: Callable[[XArray[Any]], Contents], chunk_shift: int) -> None:
    quick: XArray[Any] = XArray(chunk_shift)
    by_the_book = BookArray(chunk_shift)
    for xa in (quick, by_the_book):
        contents = shape(xa)
        for index in list(contents)[::3]:
            xa.erase(index)
        xa.store_range(128, 255, "aligned")
        xa.store_range(128, 255, "again")
        xa.store_range(256, 259, 5)
        xa.store(200, "inside")
    assert quick.dump() == by_the_book.dump()
    assert quick.allocator.live == by_the_book.allocator.live


def test_find_with_filters_from_everywhere(chunk_shift: int, array: type[XArray[Any]]) -> None:
    xa = array(chunk_shift)
    present = [0, 3, 4, 40, 100, 700, 701, 5000]
    put(xa, {index: f"e{index}" for index in present})
    for index in (3, 40, 701):
        xa.set_mark(index, 2)
    for start in [*range(0, 150), *range(690, 710), *range(4990, 5010)]:
        for filter, wanted in ((XA_PRESENT, present), (2, [3, 40, 701]), (0, [])):
            at = next((i for i in wanted if i >= start), None)
            assert xa.find(start, ULONG_MAX, filter) == (None if at is None else (at, f"e{at}"))
            after = next((i for i in wanted if i > start), None)
            assert xa.find_after(start, ULONG_MAX, filter) == (None if after is None else (after, f"e{after}"))


def test_search_for_a_mark_from_inside_an_entry(chunk_shift: int, array: type[XArray[Any]]) -> None:
    xa = array(chunk_shift)
    for index, order in ((8, 2), (128, 7), (4096, 12)):
        XaState(xa, index, order).store(f"order {order}")
        xa.set_mark(index, 1)
    xa.store(9000, "later")
    xa.set_mark(9000, 1)
    xas = XaState(xa)
    for index in range(8, 12):
        xas.set(index)
        assert xas.find_marked(ULONG_MAX, 1) == "order 2"
        assert xa.find(index, ULONG_MAX, 1) == (xas.index, "order 2")
    for index in (12, 127, 128, 130, 200, 255):
        xas.set(index)
        assert xas.find_marked(ULONG_MAX, 1) == "order 7"
        assert xa.find(index, ULONG_MAX, 1) == (xas.index, "order 7")
    for index in (256, 4095, 4096, 5000, 8191):
        xas.set(index)
        assert xas.find_marked(ULONG_MAX, 1) == "order 12"
        assert xa.find(index, ULONG_MAX, 1) == (xas.index, "order 12")
        assert xa.find(index)[1] == "order 12"
    assert xa.find(8192, ULONG_MAX, 1) == (9000, "later")
    assert xa.find(8192, 8999, 1) is None
    assert xa.find(8192, 9000, 1) == (9000, "later")
    assert xa.find(9001, ULONG_MAX, 1) is None
    assert xa.find(8192, ULONG_MAX, 2) is None
