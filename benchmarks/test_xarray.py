# SPDX-License-Identifier: GPL-2.0-only
"""The XArray beside what one would use instead: dict, SortedDict, a C B-tree, and the specialists for ranges and sets.

    python -m pytest benchmarks/test_xarray.py --benchmark-only --benchmark-group-by=group --benchmark-json=xarray.json
    python benchmarks/plot_xarray.py xarray.json docs/xarray-speed.svg --page docs/xarray.md

One group per operation; within a group every contender does the same work, and what pytest-benchmark shows is for
the whole of that work (`operations` in `extra_info` says how many that is). Medians are what docs/xarray.md quotes.

The array is the slow part's language (pure Python); dict, SortedDict's own dict, LOBTree and pyroaring are C.
"""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from BTrees.LOBTree import LOBTree
from intervaltree import IntervalTree
from portion import IntervalDict, closedopen
from pyroaring import BitMap64
from sortedcontainers import SortedDict, SortedSet

from mmref.xarray import ULONG_MAX, XA_FLAGS_ALLOC, XArray, XaState

SMALL = 4_096
LARGE = 1_000_000
ENTRY = object()
CHANCE = random.Random(1)
KEYS = CHANCE.sample(range(SMALL), SMALL)
FEW_OF_MANY = CHANCE.sample(range(LARGE), SMALL)

Benchmark = Any  # pytest_benchmark.fixture.BenchmarkFixture, which ships no types


def array(size: int) -> XArray[Any]:
    xa: XArray[Any] = XArray()
    xa.update((index, ENTRY) for index in range(size))
    return xa


def filled(kind: type, size: int) -> Any:
    return kind([(index, ENTRY) for index in range(size)])


MAKERS: dict[str, Callable[[int], Any]] = {
    "XArray": array,
    "dict": lambda size: filled(dict, size),
    "SortedDict": lambda size: filled(SortedDict, size),
    "LOBTree": lambda size: filled(LOBTree, size),
}
ALL = list(MAKERS)
ORDERED = ["XArray", "SortedDict", "LOBTree"]


OPERATIONS: dict[str, int] = {}  # by group: what a time is to be divided by


def group(name: str, operations: int) -> pytest.MarkDecorator:
    OPERATIONS[name] = operations
    return pytest.mark.benchmark(group=name)


@pytest.fixture(autouse=True)
def _operations(benchmark: Benchmark) -> None:
    benchmark.extra_info["operations"] = OPERATIONS[benchmark.group]


# -- one key -----------------------------------------------------------------------------------------------------


@group(f"load, {SMALL} keys, random order", SMALL)
@pytest.mark.parametrize("name", ALL)
def test_load_small(benchmark: Benchmark, name: str) -> None:
    made = MAKERS[name](SMALL)
    if name == "XArray":
        load = made.load

        def run() -> None:
            for key in KEYS:
                load(key)

    else:

        def run() -> None:
            for key in KEYS:
                made[key]

    benchmark(run)


@group(f"load, {SMALL} of {LARGE} keys, random order", SMALL)
@pytest.mark.parametrize("name", ALL)
def test_load_large(benchmark: Benchmark, name: str) -> None:
    made = MAKERS[name](LARGE)
    if name == "XArray":
        load = made.load

        def run() -> None:
            for key in FEW_OF_MANY:
                load(key)

    else:

        def run() -> None:
            for key in FEW_OF_MANY:
                made[key]

    benchmark(run)


@group(f"load, {SMALL} keys in order (the XArray by cursor)", SMALL)
@pytest.mark.parametrize("name", ALL)
def test_load_in_order(benchmark: Benchmark, name: str) -> None:
    made = MAKERS[name](SMALL)
    if name == "XArray":

        def run() -> None:
            step = XaState(made).next
            for _ in range(SMALL):
                step()

    else:

        def run() -> None:
            for key in range(SMALL):
                made[key]

    benchmark(run)


@group(f"insert {LARGE} keys in order", LARGE)
@pytest.mark.parametrize("name", ALL)
def test_insert(benchmark: Benchmark, name: str) -> None:
    def with_store() -> None:
        store = XArray[Any]().store
        for key in range(LARGE):
            store(key, ENTRY)

    def with_setitem() -> None:
        made = MAKERS[name](0)
        for key in range(LARGE):
            made[key] = ENTRY

    benchmark.pedantic(with_store if name == "XArray" else with_setitem, rounds=3)


@group(f"delete {LARGE} keys in order", LARGE)
@pytest.mark.parametrize("name", ALL)
def test_delete(benchmark: Benchmark, name: str) -> None:
    def with_erase(made: Any) -> None:
        erase = made.erase
        for key in range(LARGE):
            erase(key)

    def with_delitem(made: Any) -> None:
        for key in range(LARGE):
            del made[key]

    run = with_erase if name == "XArray" else with_delitem
    benchmark.pedantic(run, setup=lambda: ((MAKERS[name](LARGE),), {}), rounds=3)


# -- in order ----------------------------------------------------------------------------------------------------


@group(f"go through {SMALL} items in order", SMALL)
@pytest.mark.parametrize("name", ALL)
def test_iterate(benchmark: Benchmark, name: str) -> None:
    made = MAKERS[name](SMALL)

    def run() -> None:
        for _index, _entry in made.items():
            pass

    benchmark(run)


@group(f"the key after each of {SMALL} keys, random order", SMALL)
@pytest.mark.parametrize("name", ["XArray", "SortedDict irange", "SortedDict bisect", "LOBTree", "pyroaring"])
def test_successor(benchmark: Benchmark, name: str) -> None:
    """The next key and what it stands for (pyroaring: the next key)."""
    made = BitMap64(range(SMALL)) if name == "pyroaring" else MAKERS[name.partition(" ")[0]](SMALL)

    def array_run() -> None:
        after = made.find_after
        for key in KEYS:
            after(key)

    def irange_run() -> None:
        irange = made.irange
        for key in KEYS:
            after = next(irange(key, inclusive=(False, True)), None)
            if after is not None:
                _ = after, made[after]

    def bisect_run() -> None:
        bisect, peek = made.bisect_right, made.peekitem
        for key in KEYS:
            place = bisect(key)
            if place < len(made):
                peek(place)

    def tree_run() -> None:
        for key in KEYS:
            if key + 1 < SMALL:
                after = made.minKey(key + 1)
                _ = after, made[after]

    def bitmap_run() -> None:
        for key in KEYS:
            if key + 1 < SMALL:
                made.next_set_bit(key + 1)

    runs = {"XArray": array_run, "SortedDict irange": irange_run, "SortedDict bisect": bisect_run}
    benchmark(runs.get(name, bitmap_run if name == "pyroaring" else tree_run))


# -- ranges ------------------------------------------------------------------------------------------------------

RANGES = range(0, 512 * 256, 512)


@group(f"one entry over 512 aligned indices, {len(RANGES)} times", len(RANGES))
@pytest.mark.parametrize("name", ["XArray", "SortedDict", "LOBTree", "intervaltree"])
def test_store_range(benchmark: Benchmark, name: str) -> None:
    def array_run() -> None:
        xa: XArray[Any] = XArray()
        store_range = xa.store_range
        for first in RANGES:
            store_range(first, first + 511, ENTRY)

    def interval_run() -> None:
        made = IntervalTree()
        for first in RANGES:
            made.addi(first, first + 512, ENTRY)

    def mapping_run() -> None:
        made = MAKERS[name](0)
        for first in RANGES:
            for index in range(first, first + 512):
                made[index] = ENTRY

    if name == "XArray":
        benchmark(array_run)
    else:
        benchmark.pedantic(interval_run if name == "intervaltree" else mapping_run, rounds=5)


@group(f"load inside ranges of 512, {SMALL} times", SMALL)
@pytest.mark.parametrize(
    "name", ["XArray", "SortedDict bisect", "SortedDict irange", "LOBTree", "intervaltree", "portion"]
)
def test_load_in_range(benchmark: Benchmark, name: str) -> None:
    """What covers an index, or nothing: who keeps ranges by where they begin has to look at the end, too."""
    places = [CHANCE.randrange(RANGES.stop) for _ in range(SMALL)]
    ranges = {first: (first + 512, ENTRY) for first in RANGES}

    def array_run() -> None:
        xa: XArray[Any] = made
        load = xa.load
        for place in places:
            load(place)

    def bisect_run() -> None:
        bisect, peek = made.bisect_right, made.peekitem
        for place in places:
            at = bisect(place)
            if at:
                _, (end, entry) = peek(at - 1)
                if place < end:
                    _ = entry

    def irange_run() -> None:
        irange = made.irange
        for place in places:
            first = next(irange(None, place, reverse=True), None)
            if first is not None:
                end, entry = made[first]
                if place < end:
                    _ = entry

    def tree_run() -> None:
        last = made.maxKey
        for place in places:
            end, entry = made[last(place)]  # there is always one that begins before
            if place < end:
                _ = entry

    def interval_run() -> None:
        for place in places:
            made[place]

    made: Any
    if name == "XArray":
        made = XArray()
        for first in RANGES:
            made.store_range(first, first + 511, ENTRY)
        benchmark(array_run)
    elif name == "intervaltree":
        made = IntervalTree.from_tuples((first, end, entry) for first, (end, entry) in ranges.items())
        benchmark(interval_run)
    elif name == "portion":
        made = IntervalDict({closedopen(first, end): first for first, (end, _) in ranges.items()})
        benchmark.pedantic(interval_run, rounds=3)
    else:
        made = LOBTree(ranges) if name == "LOBTree" else SortedDict(ranges)
        benchmark({"SortedDict bisect": bisect_run, "SortedDict irange": irange_run, "LOBTree": tree_run}[name])


# -- marks and free indices --------------------------------------------------------------------------------------


@group(f"next marked of {LARGE}, one in a thousand marked, 2000 times", 2000)
@pytest.mark.parametrize("name", ["XArray", "SortedSet", "pyroaring"])
def test_next_marked(benchmark: Benchmark, name: str) -> None:
    marked = range(0, LARGE, 1000)
    places = [CHANCE.randrange(LARGE - 1000) for _ in range(2000)]
    if name == "XArray":
        xa = array(LARGE)
        for index in marked:
            xa.set_mark(index, 1)

        def run() -> None:
            find = xa.find
            for place in places:
                find(place, ULONG_MAX, 1)

    elif name == "SortedSet":
        indices = SortedSet(marked)

        def run() -> None:
            bisect = indices.bisect_left
            for place in places:
                indices[bisect(place)]

    else:
        bitmap = BitMap64(marked)

        def run() -> None:
            for place in places:
                bitmap.next_set_bit(place)

    benchmark(run)


def ids_taken() -> XArray[Any]:
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    for index in range(LARGE):
        xa.store(index, ENTRY)
    return xa


@group(f"lowest free id of {LARGE}", 1000)
def test_alloc(benchmark: Benchmark) -> None:
    xa = ids_taken()

    def give_back() -> None:
        for id in CHANCE.sample(range(LARGE), 1000):
            xa.erase(id)

    def run() -> None:
        alloc = xa.alloc
        for _ in range(1000):
            alloc(ENTRY)

    benchmark.pedantic(run, setup=give_back, rounds=20)


@group(f"an id of {LARGE} given back, and the lowest free one taken", 1000)
def test_erase_and_alloc(benchmark: Benchmark) -> None:
    xa = ids_taken()
    ids = CHANCE.sample(range(LARGE), 1000)

    def run() -> None:
        alloc, erase = xa.alloc, xa.erase
        for id in ids:
            erase(id)
            alloc(ENTRY)

    benchmark(run)


# -- memory ------------------------------------------------------------------------------------------------------


@group(f"bytes an entry, {LARGE} keys (extra_info; the time is that of making it)", LARGE)
@pytest.mark.parametrize("name", ["XArray", "dict", "SortedDict"])
def test_memory(benchmark: Benchmark, name: str) -> None:
    keys = list(range(LARGE))  # the containers share these int objects, as the XArray needs none

    def run() -> float:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        made: Any = XArray() if name == "XArray" else {} if name == "dict" else SortedDict()
        for key in keys:
            made[key] = ENTRY
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return used / LARGE

    benchmark.extra_info["bytes an entry"] = round(benchmark.pedantic(run, rounds=1), 1)
    assert sys.getsizeof(ENTRY) > 0
