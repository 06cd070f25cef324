# SPDX-License-Identifier: GPL-2.0-only
"""Bounded and random search: what they find, what they say that they left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mmref.explore import Cell, explore, replay
from mmref.explore.bounded import BoundedSearch

from .programs import inc, lastzero, pc, readers
from .random_programs import brute_force, generate, outcomes

Thread = Callable[[], object]


@pytest.mark.parametrize("seed", range(40))
def test_a_generous_bound_finds_every_outcome(seed: int) -> None:
    threads = generate(seed, locks=seed % 2 == 1, waits=seed % 5 == 0)
    _, expected = brute_force(threads)
    search = BoundedSearch(100)
    complete, _, seen = outcomes(threads, search)
    assert seen == expected
    assert not search.cut
    assert complete


def needs(preemptions: int) -> Callable[[], Sequence[Thread]]:
    """A race that shows only with this number of preemptions."""

    def program() -> Sequence[Thread]:
        cells = [Cell(0, f"cell {i}") for i in range(preemptions)]

        def writer() -> None:
            for cell in cells:
                cell.store(1)
                cell.store(0)

        def reader() -> None:
            seen = [cell.load() for cell in cells]
            assert not all(seen)

        return [writer, reader]

    return program


@pytest.mark.parametrize("preemptions", [1, 3, 5])
def test_a_bound_finds_what_is_within_it(preemptions: int) -> None:
    program = needs(preemptions)
    report = explore(program, bound=0)
    assert (report.engine, report.holds, report.exhaustive) == ("bounded", True, False)
    found = explore(program, bound=2 * preemptions - 1).counterexample
    assert found is not None
    assert replay(found, program) == found


def test_a_bound_that_left_nothing_out_is_exhaustive() -> None:
    report = explore(readers(2), bound=10)
    assert (report.exhaustive, report.reason) == (True, "")
    report = explore(inc(3), bound=1)
    assert report.verdict.endswith("executions, bounded by 1 preemptions")


@pytest.mark.parametrize("engine", ["random", "pct"])
def test_random_engines_find_the_page_cache_bug(engine: str) -> None:
    program = pc(2, 1, check=False)
    report = explore(program, engine=engine, seed=1)
    assert report.counterexample is not None
    assert replay(report.counterexample, program) == report.counterexample


@pytest.mark.parametrize("engine", ["random", "pct"])
def test_random_engines_are_repeatable_and_never_exhaustive(engine: str) -> None:
    def schedules(seed: int) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []
        report = explore(
            lastzero(4), engine=engine, seed=seed, max_executions=30,
            on_execution=lambda done: seen.append(tuple(done.schedule)),
        )  # fmt: skip
        assert (report.executions, report.exhaustive) == (30, False)
        assert f"a random sample with seed {seed}" in report.verdict
        return seen

    assert schedules(1) == schedules(1)
    assert schedules(1) != schedules(2)


def test_a_seed_alone_means_a_random_walk() -> None:
    report = explore(readers(2), seed=3)
    assert (report.engine, report.executions) == ("random", 1000)


def test_random_walks_reach_every_outcome_of_a_small_program() -> None:
    seen: set[tuple[object, ...]] = set()

    def program() -> Sequence[Thread]:
        x = Cell(0)

        def thread() -> int:
            x.store(x.load() + 1)
            return x.load()

        return [thread, thread]

    explore(program, seed=0, on_execution=lambda done: seen.add(tuple(done.results)))
    expected: set[tuple[object, ...]] = set()
    explore(program, on_execution=lambda done: expected.add(tuple(done.results)))
    assert seen == expected
