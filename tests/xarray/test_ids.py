# SPDX-License-Identifier: GPL-2.0-only
"""Handing out indices: limits, wrapping around, reservations, and a model of what is free."""

from __future__ import annotations

from errno import EBUSY, ENOMEM
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmref.errors import XArrayError
from mmref.xarray import UINT_MAX, XA_FLAGS_ALLOC, XA_FLAGS_ALLOC1, XA_FLAGS_ALLOC_WRAPPED, CyclicId, XArray


@pytest.mark.parametrize("chunk_shift", [1, 3, 6])
@pytest.mark.parametrize(("flags", "lowest"), [(XA_FLAGS_ALLOC, 0), (XA_FLAGS_ALLOC1, 1)])
def test_lowest_free_first(chunk_shift: int, flags: int, lowest: int) -> None:
    xa: XArray[Any] = XArray(chunk_shift, flags)
    assert [xa.alloc(f"e{k}") for k in range(200)] == list(range(lowest, lowest + 200))
    xa.check()
    for index in (150, 7, 64, lowest):
        xa.erase(index)
    assert [xa.alloc("new") for _ in range(5)] == [lowest, 7, 64, 150, lowest + 200]
    xa.check()


def test_limits() -> None:
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    assert [xa.alloc("x", 10, 12) for _ in range(3)] == [10, 11, 12]
    with pytest.raises(XArrayError, match="no index from 10 to 12 is free") as caught:
        xa.alloc("x", 10, 12)
    assert caught.value.errno == EBUSY
    with pytest.raises(XArrayError):
        xa.alloc("x", 5, 4)
    assert xa.alloc("x", UINT_MAX) == UINT_MAX
    with pytest.raises(XArrayError):
        xa.alloc("x", UINT_MAX)
    assert xa.alloc("x") == 0


def test_none_reserves() -> None:
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    assert xa.alloc(None) == 0
    assert xa.load(0) is None
    assert xa.alloc("x") == 1
    assert xa.store(0, "zero") is None
    assert xa.store(1, None) == "x"  # still taken
    assert xa.alloc("y") == 2
    xa.erase(1)
    assert xa.alloc("z") == 1
    xa.release(1)
    assert xa.load(1) == "z"
    xa.check()


def test_stores_are_taken_into_account() -> None:
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    xa.store(0, "x")
    xa.insert(1, "x")
    xa.cmpxchg(2, None, "x")
    xa.reserve(3)
    assert xa.alloc("x") == 4
    xa.release(3)
    assert xa.alloc("x") == 3


def test_no_memory() -> None:
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    xa.alloc("x")
    xa.allocator.budget(nowait=0, blocking=0)
    with pytest.raises(XArrayError) as caught:
        xa.alloc("x")
    assert caught.value.errno == ENOMEM
    with pytest.raises(XArrayError) as caught:
        xa.alloc_cyclic("x", 5)
    assert caught.value.errno == ENOMEM
    xa.allocator.budget(nowait=0)
    assert xa.alloc("x") == 1
    xa.check()


def test_cyclic() -> None:
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    following = 0
    got = []
    for _ in range(4):
        id, following, wrapped = xa.alloc_cyclic("x", following, 0, 3)
        got.append((id, wrapped))
    assert got == [(0, False), (1, False), (2, False), (3, False)]
    with pytest.raises(XArrayError, match="no index from 0 to 3 is free"):
        xa.alloc_cyclic("x", following, 0, 3)
    xa.erase(1)
    assert xa.alloc_cyclic("x", following, 0, 3) == CyclicId(1, 2, True)
    xa.erase(0)
    xa.erase(3)
    assert xa.alloc_cyclic("x", 2, 0, 3) == CyclicId(3, 4, False)
    assert xa.alloc_cyclic("x", 2, 0, 3) == CyclicId(0, 1, True)
    assert xa.alloc_cyclic("x", 1, 10, 20) == CyclicId(10, 11, False)


def test_cyclic_at_the_very_end() -> None:
    """The index after 2**32 - 1 is 0, and the call after that says that it has wrapped."""
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    assert xa.alloc_cyclic("x", UINT_MAX) == CyclicId(UINT_MAX, 0, False)
    assert xa.xa_flags & XA_FLAGS_ALLOC_WRAPPED
    assert xa.alloc_cyclic("x", 0) == CyclicId(0, 1, True)
    assert not xa.xa_flags & XA_FLAGS_ALLOC_WRAPPED
    assert xa.alloc_cyclic("x", 1) == CyclicId(1, 2, False)
    assert xa.alloc_cyclic("x", UINT_MAX) == CyclicId(2, 3, True)


Step = tuple[str, int]


@settings(deadline=None, max_examples=120)
@given(
    flags=st.sampled_from([XA_FLAGS_ALLOC, XA_FLAGS_ALLOC1]),
    chunk_shift=st.sampled_from([1, 2, 6]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["alloc", "alloc", "cyclic", "erase", "store", "none", "reserve", "release", "insert"]),
            st.integers(0, 40) | st.sampled_from([64, 65, 4096, 70000]),
        ),
        max_size=60,
    ),
)
def test_model(flags: int, chunk_shift: int, steps: list[Step]) -> None:
    """Against a dict of what is taken; "reserved" stands for a reservation."""
    xa: XArray[Any] = XArray(chunk_shift, flags)
    first = 1 if flags == XA_FLAGS_ALLOC1 else 0
    taken: dict[int, str] = {}
    high = 80000

    def free(low: int) -> int:
        return next(index for index in range(max(low, first), high + 1) if index not in taken)

    for what, index in steps:
        if index == 0 and first and what != "alloc":
            continue  # index 0 of such an array is busy or not according to whether there are nodes: see the quirks
        if what == "alloc":
            expected = free(index)
            assert xa.alloc("e", index, high) == expected
            taken[expected] = "e"
        elif what == "cyclic":
            expected = free(index)
            assert xa.alloc_cyclic("e", index, 0, high) == CyclicId(expected, expected + 1, False)
            taken[expected] = "e"
        elif what == "erase":
            old = taken.pop(index, None)
            assert xa.erase(index) == (None if old == "reserved" else old)
        elif what == "store":
            xa.store(index, "e")
            taken[index] = "e"
        elif what == "none":
            xa.store(index, None)
            taken[index] = "reserved"
        elif what == "reserve":
            xa.reserve(index)
            taken.setdefault(index, "reserved")
        elif what == "release":
            xa.release(index)
            if taken.get(index) == "reserved":
                del taken[index]
        elif index not in taken:
            xa.insert(index, None)
            taken[index] = "reserved"
        xa.check()
        assert list(xa.items()) == sorted((i, e) for i, e in taken.items() if e != "reserved")
    for index in list(taken):
        xa.erase(index)
    xa.release(0)
    assert xa.empty()
    assert xa.allocator.live == 0
