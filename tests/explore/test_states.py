# SPDX-License-Identifier: GPL-2.0-only
"""Visited-state search: the same outcomes as brute force, few states, and a refusal where states look alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Mutex, explore
from mmref.explore.local_state import NoKeyError, key_of
from mmref.explore.locations import WRITE, Location, point
from mmref.explore.program import builder
from mmref.explore.scheduler import Run
from mmref.explore.states import StateSearch
from mmref.sync import cpu_relax

from .programs import inc, lastzero, lockinc, pc, readers
from .random_programs import Count, Sem, brute_force, generate, outcomes

Thread = Callable[[], object]
Program = Callable[[], Sequence[Thread]]


@pytest.fixture(autouse=True)
def snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the shared objects of the random programs what this engine needs."""
    monkeypatch.setattr(Count, "snapshot", lambda self: self.value, raising=False)
    monkeypatch.setattr(Sem, "snapshot", lambda self: (self.readers, self.writer), raising=False)


@pytest.mark.parametrize("chunk", range(15))
def test_outcomes_equal_brute_force(chunk: int) -> None:
    for seed in range(chunk * 10, chunk * 10 + 10):
        threads = generate(seed, locks=seed % 2 == 1, waits=seed % 5 == 0)
        _, expected = brute_force(threads)
        _, _, seen = outcomes(threads, StateSearch())
        assert seen == expected, f"seed {seed}: {threads}"


def states(program: Program) -> int:
    search = StateSearch()
    build = builder(program, None)
    while True:
        run = Run(search, max_steps=1000)
        run.go(build)
        assert run.finding is None
        if not search.finish(run):
            return len(search.visited)


def test_states_are_few_where_traces_are_many() -> None:
    """The number of states grows with the square of the pages, that of traces is 10 to their power."""
    assert states(pc(4, 2)) == 3910
    report = explore(pc(5, 2), engine="states")
    assert report.exhaustive
    assert report.holds


def test_findings() -> None:
    report = explore(pc(4, 2, check=False), engine="states")
    assert report.verdict.startswith("RACE")
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


def results(program: Program, engine: str) -> set[tuple[object, ...]]:
    seen: set[tuple[object, ...]] = set()
    explore(program, engine=engine, on_execution=lambda done: seen.add(tuple(done.results)))
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


@pytest.mark.parametrize(
    "reader", [sum_of_two, list_of_loads, loop_over_list, loop_variable_reused, generator, keyword]
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

    assert {one for one, _ in results(program, "states")} == {1, 2}

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


def no_snapshot() -> Sequence[Thread]:
    at = Location("slot")
    return [lambda: point(at, WRITE)]


def hidden_object() -> Sequence[Thread]:
    x = Cell(0)
    numbers = iter([1, 2])
    return [lambda: x.store(next(numbers)), x.load]


def rebound() -> Sequence[Thread]:
    x = Cell(0)
    total = 0

    def thread() -> None:
        nonlocal total
        total += x.load()

    return [thread]


def odd_value() -> Sequence[Thread]:
    x = Cell(iter([1]), "odd")
    return [x.load]


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (no_snapshot, r"slot is a Location, which has no snapshot\(\)"),
        (hidden_object, "a list_iterator does not show its state"),
        (rebound, r"thread\(\) rebinds total, which is not its own"),
        (odd_value, "the value of odd: a list_iterator does not show its state"),
    ],
)
def test_what_has_no_key_is_refused(program: Program, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        explore(program, engine="states")


def test_keys() -> None:
    shared = [1]
    assert key_of([shared, shared]) != key_of([[1], [1]])  # whether they are one object matters
    assert key_of(True) != key_of(1)
    assert key_of({"a": (1, {2})}) == key_of({"a": (1, {2})})
    cycle: list[object] = []
    cycle.append(cycle)
    assert key_of(cycle) == key_of(cycle)
    with pytest.raises(NoKeyError):
        key_of(object())
