# SPDX-License-Identifier: GPL-2.0-only
"""The array as a Python mapping: what is particular to that face."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from mmref.errors import XArrayError
from mmref.xarray import ULONG_MAX, XArray


def test_like_a_dict() -> None:
    xa: XArray[str] = XArray()
    xa[5] = "five"
    xa[2**40] = "far"
    assert xa[5] == "five"
    assert dict(xa.items()) == {5: "five", 2**40: "far"}
    assert sorted(xa) == list(xa.keys()) == [5, 2**40]
    assert list(xa.values()) == ["five", "far"]
    assert len(xa) == 2
    assert xa
    assert xa.get(6) is None
    assert xa.get(6, "none") == "none"
    assert xa.get(5, "none") == "five"
    del xa[5]
    with pytest.raises(KeyError, match="5"):
        xa[5]
    del xa[2**40]
    assert not xa
    assert len(xa) == 0


def test_false_entries_count() -> None:
    xa: XArray[Any] = XArray()
    xa.update({0: 0, 1: "", 2: False, 3: []})
    assert list(xa.items()) == [(0, 0), (1, ""), (2, False), (3, [])]
    assert [xa[index] for index in range(4)] == [0, "", False, []]
    assert len(xa) == 4
    assert xa.extract() == [0, "", False, []]
    assert xa.find(0) == (0, 0)
    assert xa.find_after(0) == (1, "")
    del xa[0]
    assert 0 not in xa


def test_slices() -> None:
    xa: XArray[str] = XArray()
    xa[10:20] = "ten"
    xa[0:0] = "nothing"
    xa[9:3] = "nothing"
    assert xa[:] == {10: "ten"}
    assert xa[15:100] == {15: "ten"}
    assert xa[20:] == {}
    assert len(xa) == 1
    del xa[12:12]
    assert 15 in xa
    del xa[15:16]
    assert not xa
    xa[ULONG_MAX] = "last"
    assert xa[ULONG_MAX:] == {ULONG_MAX: "last"}
    assert xa[:ULONG_MAX] == {}
    with pytest.raises(ValueError, match="ends at"):
        xa[5:] = "to the top"


def test_slices_of_the_first_index() -> None:
    xa: XArray[str] = XArray()
    xa[:1] = "zero"
    assert xa.xa_head == "zero"
    xa[0:2] = "two"
    assert list(xa.items()) == [(0, "two")]
    assert xa.load(1) == "two"


def test_update_takes_pairs_and_mappings() -> None:
    xa: XArray[int] = XArray()
    xa.update({3: 3, 1: 1})
    xa.update((index, index) for index in (2, 0))
    other: XArray[int] = XArray()
    other.update(xa.items())
    assert list(other.items()) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_update_stops_at_an_error() -> None:
    xa: XArray[int] = XArray()
    xa.allocator.budget(nowait=0, blocking=0)
    with pytest.raises(XArrayError):
        xa.update([(0, 0), (5, 5), (0, 1)])
    assert list(xa.items()) == [(0, 0)]


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        ({}, "<XArray 0 entries, 0 nodes of 64 slots>"),
        ({0: "x"}, "<XArray 1 entry, 0 nodes of 64 slots>"),
        ({1: "x"}, "<XArray 1 entry, 1 node of 64 slots>"),
        ({1: "x", 64: "y"}, "<XArray 2 entries, 3 nodes of 64 slots>"),
    ],
)
def test_repr(contents: dict[int, str], text: str) -> None:
    xa: XArray[str] = XArray()
    xa.update(contents)
    assert repr(xa) == text


def test_reservations_do_not_show() -> None:
    xa: XArray[str] = XArray()
    xa.reserve(0)
    assert xa
    assert 0 not in xa
    assert len(xa) == 0
    xa.reserve(5)
    assert list(xa) == []
    assert len(xa) == 0
    assert repr(xa) == "<XArray 0 entries, 1 node of 64 slots>"


def test_items_of_a_part_of_a_leaf() -> None:
    xa: XArray[int] = XArray(chunk_shift=3)
    xa.update((index, index) for index in range(64))
    for start in range(0, 64, 3):
        for stop in range(start, 65, 5):
            assert list(xa.keys(start, stop)) == list(range(start, stop))
    del xa[16]
    assert list(xa.keys(15, 19)) == [15, 17, 18]


def test_items_while_the_leaf_goes() -> None:
    """The leaf is freed and replaced under the iteration: it goes on in the new one."""
    xa: XArray[str] = XArray()
    xa.update({1: "a", 5: "b", 6: "c", 200: "d"})
    seen = []
    for index, _ in xa.items():
        seen.append(index)
        if index == 5:
            xa[0:64] = None
            xa[3] = "before"
            xa[7] = "after"
    assert seen == [1, 5, 7, 200]
    seen = []
    for index, _ in xa.items(2, 100):
        seen.append(index)
        del xa[index]
        if index == 3:
            xa[99] = "y"
            xa[100] = "z"
    assert seen == [3, 7, 99]


def full(leaves: int) -> XArray[Any]:
    xa: XArray[Any] = XArray(chunk_shift=2)
    xa.update((index, f"e{index}") for index in range(4 * leaves))
    return xa


def test_items_of_full_leaves_between_others() -> None:
    """Full leaves, leaves with holes, the ends of nodes and bounds anywhere: what is found is what is there."""
    for holes in ([], [0], [5], [3, 4], [6, 21], [15, 16], [31, 32, 33], [0, 63], list(range(8, 28))):
        xa = full(16)
        for index in holes:
            del xa[index]
        del xa[40]
        xa.reserve(40)
        xa[36] = 36  # another kind of entry in a full leaf
        there = [index for index in range(64) if index not in holes and index != 40]
        for start in range(66):
            for stop in (start + 1, start + 4, start + 9, 64, 65, 1000):
                assert list(xa.keys(start, stop)) == [index for index in there if start <= index < stop]


@pytest.mark.parametrize("reserved", range(4))
def test_items_of_a_full_leaf_that_shows_less(reserved: int) -> None:
    """A leaf is full by its count; reservations and siblings in it do not show."""
    xa = full(3)
    del xa[4 + reserved]
    xa.reserve(4 + reserved)
    assert list(xa.keys()) == [index for index in range(12) if index != 4 + reserved]
    xa[8:12] = "four"
    xa[8:10] = "two"
    assert list(xa.items(8)) == [(8, "two")]  # the tail follows it


@pytest.mark.parametrize("at", range(12))
def test_items_while_full_leaves_change(at: int) -> None:
    """What is erased or stored ahead of the iteration counts, in full leaves and beside them."""
    for other in range(12):
        xa = full(3)
        seen = []
        for index in xa:
            seen.append(index)
            if index == at:
                del xa[other]
        assert seen == [index for index in range(12) if index != other or other <= at]


@pytest.mark.parametrize("at", range(12))
def test_items_while_a_full_leaf_goes(at: int) -> None:
    """The whole leaf is freed, and another one put in its place: each entry is seen once, the new ones ahead too."""
    for new in range(12):
        xa = full(3)
        seen = []
        for index in xa:
            seen.append(index)
            if index == at:
                first = at & ~3
                del xa[first : first + 4]
                xa[new] = "new"
        expected = set(range(at + 1)) | set(range((at & ~3) + 4, 12)) | ({new} if new > at else set())
        assert seen == sorted(expected)


def test_items_up_to_the_highest_index() -> None:
    xa: XArray[str] = XArray(chunk_shift=2)
    there = range(ULONG_MAX - 7, ULONG_MAX + 1)
    xa.update((index, "x") for index in there)
    assert list(xa) == list(there)
    seen = []
    for index in xa:
        seen.append(index)
        del xa[index]
    assert seen == list(there)


def test_items_while_the_array_shrinks_to_its_head() -> None:
    xa: XArray[str] = XArray()
    xa.update({0: "a", 1: "b"})
    steps = xa.items()
    assert next(steps) == (0, "a")
    del xa[1]
    assert xa.xa_head == "a"
    assert list(steps) == []
    steps = xa.items()
    next(steps)
    xa[70] = "c"
    assert list(steps) == []  # an iteration that has reached the end of the tree does not look again


def test_items_over_large_entries() -> None:
    xa: XArray[str] = XArray()
    xa[128:192] = "node"
    xa[4096:8192] = "level"
    xa[130:131] = "inside"
    xa[5] = "x"
    assert list(xa.items()) == [(5, "x"), (128, "inside"), (4096, "level")]
    assert list(xa.items(150, 5000)) == [(150, "inside"), (4096, "level")]
    xa.set_mark(150, 0)
    assert list(xa.items(150, 160, mark=0)) == [(150, "inside")]
    assert list(xa.items(160, 150, mark=0)) == list(xa.items(160, 150)) == []


def test_generic_and_weakly_referable() -> None:
    xa = XArray[int](chunk_shift=4)
    reference = weakref.ref(xa)
    assert reference() is xa
    with pytest.raises(AttributeError):
        xa.other = 1  # type: ignore[attr-defined]
    del xa
    gc.collect()
    assert reference() is None
