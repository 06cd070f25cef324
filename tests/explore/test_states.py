# SPDX-License-Identifier: GPL-2.0-only
"""Visited-state search: the same outcomes as brute force, few states, and a refusal where states look alike."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Mutex, explore, replay
from mmref.explore.canonical import Canon, NoKeyError
from mmref.explore.catalogue import get_scenario
from mmref.explore.frames import READABLE
from mmref.explore.locations import WRITE, Location, point
from mmref.explore.program import builder
from mmref.explore.scheduler import Run
from mmref.explore.states import StateSearch
from mmref.sync import cpu_relax

from .programs import inc, lastzero, lockinc, pc, readers
from .random_programs import brute_force, generate, outcomes

Thread = Callable[[], object]
Program = Callable[[], Sequence[Thread]]


pytestmark = pytest.mark.skipif(not READABLE, reason="this engine knows the frames of CPython 3.11 alone")


@pytest.mark.parametrize("chunk", range(15))
def test_outcomes_equal_brute_force(chunk: int) -> None:
    for seed in range(chunk * 10, chunk * 10 + 10):
        threads = generate(seed, locks=seed % 2 == 1, waits=seed % 5 == 0)
        _, expected = brute_force(threads)
        _, _, seen = outcomes(threads, StateSearch())
        assert seen == expected, f"seed {seed}: {threads}"


def all_states(program: Program) -> int:
    """Count the states of a program, those included that only differ by the order of independent steps."""
    search = StateSearch(every=True)
    build = builder(program, None)
    while True:
        run = Run(search, max_steps=1000)
        run.go(build)
        assert run.finding is None
        if not search.finish(run):
            return search.states


def test_states_are_few_where_traces_are_many() -> None:
    """The number of states grows with the square of the pages, that of traces is 10 to their power."""
    assert all_states(pc(4, 2)) == 3911  # as EXPLORERS.md has it
    report = explore(pc(8, 2), engine="states")
    assert report.exhaustive
    assert report.holds
    assert report.states is not None
    assert report.states < 28765
    assert report.verdict == f"none in {report.states} states, exhausted"


def test_a_state_is_counted_once() -> None:
    """Two CPUs with two steps each: a grid of nine states, and a tenth where both have stored in the other order."""

    def program() -> Sequence[Thread]:
        x, y, z = Cell(0, "x"), Cell(0, "y"), Cell(0, "z")
        return [lambda: (x.store(1), z.store(1)), lambda: (y.store(1), z.store(2))]

    assert all_states(program) == 10
    assert explore(program, engine="states").states == 8  # x and y are stored to in one order


@pytest.mark.parametrize("spins_last", [False, True])
def test_nobody_is_left_behind_a_loop_on_what_is_ones_own(spins_last: bool) -> None:
    """A CPU that goes around in a circle, and touches nothing that others do, does not hide what they do."""

    def program() -> Sequence[Thread]:
        mine, other = Cell(0, "mine"), Cell(0, "other")

        def spin() -> None:
            while not mine.load():
                pass

        def fail() -> None:
            other.store(1)
            raise AssertionError("here")

        return [fail, spin] if spins_last else [spin, fail]

    assert explore(program, engine="states").verdict.startswith("RACE")


@pytest.mark.parametrize("writes_last", [False, True])
def test_a_decision_that_was_too_early_is_revised(writes_last: bool) -> None:
    """What the one will do with x is not known when the other has taken its steps alone."""

    def program() -> Sequence[Thread]:
        x, y = Cell(0, "x"), Cell(0, "y")

        def write() -> None:
            x.store(1)
            x.store(2)

        def look() -> tuple[int, int]:
            y.store(1)
            return x.load(), x.load()

        return [look, write] if writes_last else [write, look]

    assert results(program, "states") == results(program, "enumerate")


def test_findings() -> None:
    report = explore(pc(4, 2, check=False), engine="states")
    assert report.verdict.startswith("RACE")
    assert report.counterexample is not None
    assert report.counterexample.schedule.switches <= 2  # shrunk, as those of the other engines
    assert not replay(report.counterexample.schedule, pc(4, 2, check=False)).verdict.holds
    assert explore(lockinc(4), engine="states").holds

    def stuck() -> Sequence[Thread]:
        a, b = Mutex("a"), Mutex("b")

        def one() -> None:
            with a, b:
                pass

        def other() -> None:
            with b, a:
                pass

        return [one, other]

    assert explore(stuck, engine="states").verdict.startswith("DEADLOCK")


def results(program: Program, engine: str) -> set[str]:
    seen: set[str] = set()
    explore(program, engine=engine, on_execution=lambda done: seen.add(repr(done.results)))
    return seen


def two_writers(reader: Callable[[Cell[int], Cell[int]], Thread]) -> Program:
    def program() -> Sequence[Thread]:
        a, b = Cell(0, "a"), Cell(0, "b")

        def writer() -> None:
            for value in range(1, 3):
                a.store(value)
                b.store(10 * value)

        return [writer, reader(a, b)]

    return program


def sum_of_two(a: Cell[int], b: Cell[int]) -> Thread:
    """Between the two loads, the first value is on the evaluation stack only."""
    return lambda: a.load() + b.load()


def list_of_loads(a: Cell[int], b: Cell[int]) -> Thread:
    return lambda: tuple([cell.load() for cell in (a, b, a)])


def loop_over_list(a: Cell[int], b: Cell[int]) -> Thread:
    """The same cell twice: the loop variable does not tell how far the iterator is."""

    def reader() -> int:
        total = 0
        for cell in [a, a, b, a]:
            total = 10 * (total % 10) + cell.load()
        return total

    return reader


def loop_variable_reused(a: Cell[int], b: Cell[int]) -> Thread:
    def reader() -> int:
        total = 0
        for i in range(3):
            total += a.load()
            i = b.load()
        return total + i

    return reader


def generator(a: Cell[int], b: Cell[int]) -> Thread:
    return lambda: max(cell.load() for cell in (a, b, a, b))


def keyword(a: Cell[int], b: Cell[int]) -> Thread:
    return lambda: dict(first=a.load(), second=b.load(), third=a.load())["third"]  # noqa: C408


def keys_of_a_sort(a: Cell[int], b: Cell[int]) -> Thread:
    """`sorted()` is written in C: nobody sees the keys that it has got so far."""
    return lambda: sorted([0, 1, 2, 3], key=lambda i: (a, b)[i % 2].load() * (-1) ** i)


def zipped(a: Cell[int], b: Cell[int]) -> Thread:
    def loads(cell: Cell[int]) -> Iterator[int]:
        while True:
            yield cell.load()

    def reader() -> list[tuple[int, int]]:
        seen = []
        for pair in zip(loads(a), loads(b), strict=True):
            seen.append(pair)
            if len(seen) == 2:
                break
        return seen

    return reader


def generators_under_way(a: Cell[int], b: Cell[int]) -> Thread:
    def loads(cell: Cell[int]) -> Iterator[int]:
        total = 0
        while True:
            total = 10 * total + cell.load()
            yield total

    def reader() -> list[int]:
        one, other = loads(a), loads(b)
        return [next(one), next(other), next(one), next(other)]

    return reader


def generator_in_a_loop(a: Cell[int], b: Cell[int]) -> Thread:
    """How far the generator is, only the iterator on its own stack tells."""

    def loads() -> Iterator[int]:
        for cell in [a, a, a, a]:
            yield cell.load()

    def reader() -> int:
        last = 0
        for value in loads():
            b.load()
            last = value
        return last

    return reader


def handled_exception(a: Cell[int], b: Cell[int]) -> Thread:
    def reader() -> object:
        try:
            raise LookupError(a.load())
        except LookupError as error:
            b.load()
            return [error.args, a.load()]

    return reader


def state_of_a_module(a: Cell[int], b: Cell[int]) -> Thread:
    SEEN.clear()

    def reader() -> list[int]:
        for cell in (a, b, a):
            value = cell.load()
            SEEN.append(value)
            value = 0  # so that it is kept in the module alone
        return list(SEEN)

    return reader


class Journal:
    """Its methods write to a variable of the module."""

    def add(self, value: int) -> int:
        SEEN.append(value)
        return len(SEEN)


def methods_that_keep_something_in_a_module(a: Cell[int], b: Cell[int]) -> Thread:
    SEEN.clear()
    journal = Journal()
    return lambda: [journal.add(a.load()), journal.add(b.load()), b.load(), sum(SEEN)]


SEEN: deque[int] = deque()


@pytest.mark.parametrize(
    "reader",
    [
        keys_of_a_sort,
        zipped,
        generators_under_way,
        generator_in_a_loop,
        handled_exception,
        state_of_a_module,
        methods_that_keep_something_in_a_module,
        sum_of_two,
        list_of_loads,
        loop_over_list,
        loop_variable_reused,
        generator,
        keyword,
    ],
)
def test_what_the_evaluation_stack_hides_is_not_merged(reader: Callable[[Cell[int], Cell[int]], Thread]) -> None:
    program = two_writers(reader)
    assert results(program, "states") == results(program, "source")


@pytest.mark.parametrize("program", [readers(4), lastzero(4), inc(3)])
def test_results_equal_those_of_dpor(program: Program) -> None:
    assert results(program, "states") == results(program, "source")


def test_busy_waits() -> None:
    def program() -> Sequence[Thread]:
        flag, data = Cell(0, "flag"), Cell(0, "data")

        def waiter() -> int:
            while not flag.load():
                cpu_relax()
            return data.load()

        return [waiter, lambda: (data.store(1), flag.store(1), data.store(2))]

    assert {one[1] for one in results(program, "states")} == {"1", "2"}

    def nobody_sets_it() -> Sequence[Thread]:
        flag = Cell(0, "flag")

        def waiter() -> None:
            while not flag.load():
                cpu_relax()

        return [waiter, lambda: flag.store(0)]

    assert explore(nobody_sets_it, engine="states").verdict.startswith("LIVELOCK")


def test_a_loop_without_end_ends() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0)

        def spin() -> None:
            while not x.load():
                pass

        return [spin, lambda: x.store(1)]

    assert explore(program, engine="states").holds


def iterator_that_is_shared() -> Sequence[Thread]:
    x = Cell(0)
    numbers = iter([1, 2])
    return [lambda: x.store(next(numbers)), x.load, lambda: (x.store(next(numbers)), x.load())[1]]


def rebound() -> Sequence[Thread]:
    x = Cell(1)
    total = 0

    def thread() -> int:
        nonlocal total
        total += x.load()
        x.store(total)
        return total

    return [thread, thread, lambda: x.fetch_add(1)]


def iterator_in_a_cell() -> Sequence[Thread]:
    x = Cell(iter([1, 2, 3]), "odd")

    def take() -> int:
        numbers = x.load()
        x.store(numbers)
        return next(numbers)

    return [take, take]


def bare_location() -> Sequence[Thread]:
    at, values = Location("values"), [0]

    def add() -> int:
        point(at, WRITE)
        values.append(values[-1] + 1)
        point(at, WRITE)
        return values.pop()

    return [add, add]


@pytest.mark.parametrize("program", [iterator_that_is_shared, rebound, iterator_in_a_cell, bare_location])
def test_what_threads_share_without_a_cell(program: Program) -> None:
    assert results(program, "states") == results(program, "enumerate")


class WithHeldLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def lock_of_the_system() -> Sequence[Thread]:
    x, holder = Cell(0), WithHeldLock()
    return [lambda: holder and x.load()]


def set_of_objects() -> Sequence[Thread]:
    x = Cell(0)
    some = {WithHeldLock, threading.Event}
    objects = {Count(1), Count(2)}
    return [lambda: x.store(len(some)), lambda: x.store(len(objects))]


class Count:
    def __init__(self, value: int) -> None:
        self.value = value


def random_numbers() -> Sequence[Thread]:
    x, numbers = Cell(0), random.Random(1)
    return [lambda: x.store(numbers.randrange(3))]


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (lock_of_the_system, "a lock does not show its state"),
        (set_of_objects, "a set of objects that are nowhere else has no order"),
        (random_numbers, "a Random does not show its state"),
    ],
)
def test_what_has_no_key_is_refused(program: Program, match: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be told apart .*{match}.*: use engine 'source' or 'optimal'"):
        explore(program, engine="states")


def key_of(value: object) -> bytes:
    canon = Canon()
    canon.add(value)
    return canon.digest()


def test_keys() -> None:
    shared = [1]
    assert key_of([shared, shared]) != key_of([[1], [1]])  # whether they are one object matters
    assert key_of(True) != key_of(1)
    assert key_of("1") != key_of(1)
    assert key_of(("a", "b")) != key_of(("a", ("b",)))
    assert key_of({"a": (1, {2})}) == key_of({"a": (1, {2})})
    assert key_of({1: 2, 3: 4}) != key_of({3: 4, 1: 2})  # the order of a dictionary can be seen
    assert key_of({"b", "a", "c"}) == key_of({"c", "b", "a"})  # that of a set says nothing
    assert key_of(Count(1)) == key_of(Count(1))
    assert key_of(Count(1)) != key_of(Count(2))
    assert key_of(iter([1, 2])) != key_of(iter([2]))
    assert key_of(bytes(100)) == key_of(bytes(99) + b"\0")
    cycle: list[object] = []
    cycle.append(cycle)
    assert key_of(cycle) == key_of(cycle)
    assert key_of(cycle) != key_of([cycle])
    with pytest.raises(NoKeyError, match="a lock does not show its state"):
        key_of(threading.Lock())


def test_a_budget() -> None:
    told = []
    report = explore(pc(8, 2), engine="states", max_seconds=0.5, progress=told.append)
    assert not report.exhaustive
    assert report.states
    assert report.verdict == f"none in {report.states} states, stopped by max_seconds=0.5"
    assert told
    assert told[-1].states <= report.states
    assert told[-1].pending > 0
    assert told[-1].estimated is None
    assert explore(pc(4, 2), engine="states", max_executions=7).reason == "stopped by max_executions=7"


# Over the twins -----------------------------------------------------------------------------------------------

STRATEGIES = ["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("seek-data", "DD"),
        ("mincore", "DD"),
        ("mincore-rollback", "DD"),
        ("read", "DD"),
        ("pin", "DD"),
        ("scan", "DD"),
        ("alone", "D.D."),
    ],
)
def test_scenarios_come_to_the_same(name: str, layout: str, strategy: str) -> None:
    scenario = replace(get_scenario(name), layout=layout)
    expected = explore(scenario, strategy)
    report = explore(scenario, strategy, engine="states")
    assert report.holds == expected.holds, f"{report}\n{expected}"
    assert report.exhaustive == expected.exhaustive
    if report.counterexample is not None and expected.counterexample is not None:
        assert report.counterexample.verdict.id == expected.counterexample.verdict.id
        assert report.counterexample.schedule.switches == expected.counterexample.schedule.switches
        again = replay(str(report.counterexample.schedule), scenario, strategy)
        assert again.verdict == report.counterexample.verdict


def outcomes_of(name: str, strategy: str, engine: str) -> set[str]:
    found: set[str] = set()
    explore(
        get_scenario(name), strategy, engine=engine, stop_at_first=False, shrink_counterexample=False,
        on_execution=lambda done: found.add(f"{done.verdict} {done.results}"),
    )  # fmt: skip
    return found


@pytest.mark.parametrize(("name", "strategy"), [("pin", "upstream-6.12"), ("collapse", "lock-and-insert-late")])
def test_outcomes_of_a_scenario_equal_those_of_dpor(name: str, strategy: str) -> None:
    assert outcomes_of(name, strategy, "states") == outcomes_of(name, strategy, "optimal")


def test_what_stateless_search_cannot_exhaust() -> None:
    """A look at eight pages that stay where they are: 300,000 executions of optimal DPOR were not enough."""
    scenario = replace(get_scenario("mincore-rollback"), layout="DDDDDDDD", chunk_shift=2)
    report = explore(scenario, "upstream-6.12", engine="states")
    assert report.exhaustive, str(report)
    assert report.holds
