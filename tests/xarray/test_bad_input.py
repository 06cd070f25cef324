# SPDX-License-Identifier: GPL-2.0-only
"""Bad input gets one clear sentence, with an errno where the kernel has one, and the tree stays as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOMEM
from typing import Any

import pytest

from mmref.errors import UsageError, XArrayError
from mmref.xarray import (
    RETRY,
    ULONG_MAX,
    XA_FLAGS_ALLOC,
    ZERO,
    InvalidArgument,
    NodeAllocator,
    TaggedPointer,
    XArray,
    XaState,
    sibling,
)

Call = Callable[[XArray[Any]], Any]


def make(flags: int = 0) -> XArray[Any]:
    xa: XArray[Any] = XArray(flags=flags)
    if not flags:
        XaState(xa, 8, order=2).store("four")
    xa.store(1, "one")
    xa.store(2, 2)
    xa.store(100, "hundred")
    xa.set_mark(100, 1)
    return xa


def unchanged(call: Call, match: str, error: type[Exception] = UsageError, flags: int = 0) -> Exception:
    xa = make(flags)
    before = xa.dump()
    live = xa.allocator.live
    with pytest.raises(error, match=match) as caught:
        call(xa)
    assert xa.dump() == before
    assert xa.allocator.live == live
    assert not xa.xa_lock.locked
    assert "\n" not in str(caught.value)
    xa.check()
    return caught.value


BY_INDEX: dict[str, Callable[[XArray[Any], int], Any]] = {
    "load": lambda xa, i: xa.load(i),
    "store": lambda xa, i: xa.store(i, "x"),
    "erase": lambda xa, i: xa.erase(i),
    "insert": lambda xa, i: xa.insert(i, "x"),
    "cmpxchg": lambda xa, i: xa.cmpxchg(i, None, "x"),
    "reserve": lambda xa, i: xa.reserve(i),
    "release": lambda xa, i: xa.release(i),
    "get_order": lambda xa, i: xa.get_order(i),
    "get_mark": lambda xa, i: xa.get_mark(i, 0),
    "set_mark": lambda xa, i: xa.set_mark(i, 0),
    "clear_mark": lambda xa, i: xa.clear_mark(i, 1),
    "find": lambda xa, i: xa.find(i),
    "find_marked": lambda xa, i: xa.find(i, filter=1),
    "find_after": lambda xa, i: xa.find_after(i),
    "find max": lambda xa, i: xa.find(0, i),
    "find_after max": lambda xa, i: xa.find_after(0, i),
    "for_each": lambda xa, i: list(xa.for_each(i)),
    "extract": lambda xa, i: xa.extract(i),
    "extract max": lambda xa, i: xa.extract(0, i),
    "store_range first": lambda xa, i: xa.store_range(i, 7, "x"),
    "store_range last": lambda xa, i: xa.store_range(0, i, "x"),
    "getitem": lambda xa, i: xa[i],
    "setitem": lambda xa, i: xa.__setitem__(i, "x"),
    "delitem": lambda xa, i: xa.__delitem__(i),
    "get": lambda xa, i: xa.get(i, "x"),
    "update": lambda xa, i: xa.update({i: "x"}),
    "items": lambda xa, i: list(xa.items(i + (i > 0))),
    "items stop": lambda xa, i: list(xa.items(0, i + (i > 0))),
    "slice": lambda xa, i: xa[i + (i > 0) :],
    "slice stop": lambda xa, i: xa[: i + (i > 0)],
    "cursor": XaState,
    "cursor of an order": lambda xa, i: XaState(xa, i, 2),
    "set": lambda xa, i: XaState(xa).set(i),
    "set_order": lambda xa, i: XaState(xa).set_order(i, 2),
    "advance": lambda xa, i: XaState(xa).advance(i),
}


@pytest.mark.parametrize("name", BY_INDEX)
@pytest.mark.parametrize("index", [-1, -64, -(2**64), ULONG_MAX + 1, 2**70])
def test_index(name: str, index: int) -> None:
    shown = index + 1 if index > 0 and name.startswith(("slice", "items")) else index
    unchanged(lambda xa: BY_INDEX[name](xa, index), f"^{shown} is not an index")


def test_index_is_not_in_it() -> None:
    xa = make()
    assert -1 not in xa
    assert 2**64 not in xa
    assert "one" not in xa


BY_ENTRY: dict[str, Callable[[XArray[Any], Any], Any]] = {
    "store": lambda xa, e: xa.store(1, e),
    "store elsewhere": lambda xa, e: xa.store(3, e),
    "store far away": lambda xa, e: xa.store(2**40, e),
    "insert": lambda xa, e: xa.insert(3, e),
    "cmpxchg": lambda xa, e: xa.cmpxchg(3, None, e),
    "store_range": lambda xa, e: xa.store_range(16, 31, e),
    "setitem": lambda xa, e: xa.__setitem__(1, e),
    "slice": lambda xa, e: xa.__setitem__(slice(16, 32), e),
    "update": lambda xa, e: xa.update([(1, e)]),
}


@pytest.mark.parametrize("name", BY_ENTRY)
@pytest.mark.parametrize("entry", [RETRY, sibling(0), sibling(5), "node"], ids=repr)
def test_reserved_entry(name: str, entry: Any) -> None:
    def call(xa: XArray[Any]) -> Any:
        return BY_ENTRY[name](xa, xa.xa_head if entry == "node" else entry)

    error = unchanged(call, "is reserved for the XArray itself", InvalidArgument)
    assert isinstance(error, UsageError)
    assert isinstance(error, XArrayError)
    assert error.errno == EINVAL


@pytest.mark.parametrize("name", BY_ENTRY)
@pytest.mark.parametrize("entry", [-1, 2**63, 2**64])
def test_value_that_does_not_fit(name: str, entry: int) -> None:
    unchanged(lambda xa: BY_ENTRY[name](xa, entry), f"{entry} cannot be stored: value entries go from 0 to")


@pytest.mark.parametrize("index", [1, 2, 3, 10, 100, 2**40])
@pytest.mark.parametrize("entry", [-1, 2**63, sibling(3), "node"], ids=repr)
def test_cursor_refuses_entries(index: int, entry: Any) -> None:
    def call(xa: XArray[Any]) -> None:
        XaState(xa, index).store(xa.xa_head if entry == "node" else entry)

    unchanged(call, "cannot be stored")


def test_values_that_fit() -> None:
    xa: XArray[Any] = XArray()
    for index, value in enumerate([0, 1, 2**63 - 1, True, TaggedPointer("p", 1), ZERO]):
        xa.store(index, value)
    assert xa.load(2) == 2**63 - 1
    assert xa.xa_head.nr_values == 4  # True is a pointer, ZERO is neither
    assert xa.load(5) is None
    xa.check()


def test_zero_over_a_range() -> None:
    error = unchanged(lambda xa: xa.store_range(3, 4, ZERO), "cannot be stored over a range", InvalidArgument)
    assert isinstance(error, XArrayError)
    assert error.errno == EINVAL


@pytest.mark.parametrize(("first", "last"), [(4, 3), (ULONG_MAX, 0), (64, 63)])
def test_empty_range(first: int, last: int) -> None:
    error = unchanged(lambda xa: xa.store_range(first, last, "x"), "is empty", InvalidArgument)
    assert isinstance(error, XArrayError)
    assert error.errno == EINVAL


@pytest.mark.parametrize("order", [-1, 64, 100])
def test_order(order: int) -> None:
    unchanged(lambda xa: XaState(xa, 0, order), f"order {order} does not fit: orders go from 0 to 63")
    unchanged(lambda xa: XaState(xa).set_order(0, order), "orders go from 0 to 63")
    unchanged(lambda xa: XaState(xa).split("x", order), "orders go from 0 to 63")
    unchanged(lambda xa: XaState(xa).split_alloc("x", order), "orders go from 0 to 63")


@pytest.mark.parametrize("entry", [None, sibling(0), "node"], ids=repr)
def test_split_entry(entry: Any) -> None:
    for name in ("split", "split_alloc"):
        unchanged(
            lambda xa, name=name: getattr(XaState(xa, 8, 1), name)(xa.xa_head if entry == "node" else entry, 2),
            "cannot be stored: give the entry that takes the place",
        )


BY_MARK: dict[str, Callable[[XArray[Any], int], Any]] = {
    "get_mark": lambda xa, m: xa.get_mark(1, m),
    "set_mark": lambda xa, m: xa.set_mark(1, m),
    "clear_mark": lambda xa, m: xa.clear_mark(100, m),
    "marked": lambda xa, m: xa.marked(m),
    "items": lambda xa, m: xa.items(mark=m),
    "cursor get": lambda xa, m: XaState(xa, 1).get_mark(m),
    "cursor set": lambda xa, m: XaState(xa, 1).set_mark(m),
    "cursor clear": lambda xa, m: XaState(xa, 1).clear_mark(m),
    "find_marked": lambda xa, m: XaState(xa).find_marked(100, m),
    "next_marked": lambda xa, m: XaState(xa).next_marked(100, m),
    "for_each_marked": lambda xa, m: list(XaState(xa).for_each_marked(100, m)),
}


@pytest.mark.parametrize("name", BY_MARK)
@pytest.mark.parametrize("mark", [-1, 3, 8])
def test_mark(name: str, mark: int) -> None:
    unchanged(lambda xa: BY_MARK[name](xa, mark), f"there is no mark {mark}")


@pytest.mark.parametrize("filter", [-1, 3, 7, 9])
def test_filter(filter: int) -> None:
    for call in (
        lambda xa: xa.find(0, filter=filter),
        lambda xa: xa.find_after(0, filter=filter),
        lambda xa: xa.extract(filter=filter),
        lambda xa: list(xa.for_each(filter=filter)),
    ):
        unchanged(call, f"there is no filter {filter}")


def test_count() -> None:
    unchanged(lambda xa: xa.extract(n=-1), "-1 entries cannot be extracted")


def test_none() -> None:
    """None erases where the kernel takes NULL; insert() and alloc() reserve with it; nothing can be split into it."""
    xa = make()
    assert xa.store(1, None) == "one"
    xa.insert(1, None)
    assert xa.load(1) is None
    with pytest.raises(XArrayError, match="index 1 is taken") as caught:
        xa.insert(1, "x")
    assert caught.value.errno == EBUSY
    xa[2] = None
    assert 2 not in xa
    xa.store_range(8, 11, None)
    assert xa.extract() == ["hundred"]


def test_mapping_errors() -> None:
    xa = make()
    with pytest.raises(KeyError):
        xa[3]
    with pytest.raises(KeyError):
        del xa[3]
    unchanged(lambda xa: xa[0:10:2], "ranges of an XArray have no step")
    unchanged(lambda xa: xa.__setitem__(slice(0, 10, 1), "x"), "ranges of an XArray have no step")
    unchanged(lambda xa: xa["a":], "'a' is not an index")
    unchanged(lambda xa: xa[:1.5], "1.5 is not an index")


@pytest.mark.parametrize("errno", [0, 1, 12, -4096])
def test_set_err(errno: int) -> None:
    unchanged(lambda xa: XaState(xa).set_err(errno), f"{errno} is not an error of a cursor")


@pytest.mark.parametrize("chunk_shift", [0, 7, -1, "6", 2.5])
def test_chunk_shift(chunk_shift: Any) -> None:
    with pytest.raises(UsageError, match="chunk_shift goes from 1 to 6"):
        XArray(chunk_shift)


def test_flags() -> None:
    with pytest.raises(UsageError, match="unknown array flags 64"):
        XArray(flags=64)


@pytest.mark.parametrize("tag", [0, 2, 4, -1])
def test_tag(tag: int) -> None:
    with pytest.raises(UsageError, match=f"tag {tag}: use 1 or 3"):
        TaggedPointer("p", tag)


@pytest.mark.parametrize(("nowait", "blocking"), [(-2, 0), (0, -2)])
def test_budget(nowait: int, blocking: int) -> None:
    with pytest.raises(UsageError, match="give counts, or -1"):
        NodeAllocator().budget(nowait, blocking)


@pytest.mark.parametrize("name", ["reload", "get_order"])
def test_cursor_that_stands_nowhere(name: str) -> None:
    for prepare in (lambda xas: xas.reset(), lambda xas: xas.set_err(-ENOMEM), lambda xas: xas.find(0)):

        def call(xa: XArray[Any], prepare: Any = prepare) -> None:
            xas = XaState(xa, ULONG_MAX)
            prepare(xas)
            getattr(xas, name)()

        unchanged(call, r"(XAS_RESTART|XAS_BOUNDS|XA_ERROR\(-12\))")


LIMITS: dict[str, Call] = {
    "min": lambda xa: xa.alloc("x", min=-1),
    "max": lambda xa: xa.alloc("x", max=2**32),
    "cyclic min": lambda xa: xa.alloc_cyclic("x", 0, min=-1),
    "cyclic max": lambda xa: xa.alloc_cyclic("x", 0, max=2**32),
    "next": lambda xa: xa.alloc_cyclic("x", 2**32),
    "negative next": lambda xa: xa.alloc_cyclic("x", -1),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str) -> None:
    unchanged(LIMITS[name], r"from 0 to 2\*\*32 - 1", flags=XA_FLAGS_ALLOC)


@pytest.mark.parametrize("entry", [ZERO, RETRY, sibling(1)], ids=repr)
def test_alloc_of_reserved_entry(entry: Any) -> None:
    for call in (lambda xa: xa.alloc(entry), lambda xa: xa.alloc_cyclic(entry, 0)):
        error = unchanged(call, "reserve", InvalidArgument, flags=XA_FLAGS_ALLOC)
        assert isinstance(error, XArrayError)
        assert error.errno == EINVAL


def test_alloc_without_free_mark() -> None:
    for call in (lambda xa: xa.alloc("x"), lambda xa: xa.alloc_cyclic("x", 0)):
        error = unchanged(call, "make it with flags=XA_FLAGS_ALLOC", InvalidArgument)
        assert isinstance(error, XArrayError)
        assert error.errno == EINVAL


def test_errors_travel() -> None:
    """Errors can be sent between processes."""
    error = pickle.loads(pickle.dumps(InvalidArgument("nothing doing")))
    assert isinstance(error, InvalidArgument)
    assert (error.errno, str(error)) == (EINVAL, "nothing doing [EINVAL]")
