# SPDX-License-Identifier: GPL-2.0-only
"""One complete execution per Mazurkiewicz trace: the counts of the literature, under three thread orders."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mmref.explore import explore
from mmref.explore.enumeration import Enumeration
from mmref.explore.locations import CONFLICTS, DEC, INC, LOCK, MODE_NAMES, READ, SHARE, TRYINC, WRITE, conflict
from mmref.explore.program import builder
from mmref.explore.scheduler import Run

from .programs import BIG_COUNTS, COUNTS, ORDERS, Order, ainc, casw, inc, lockinc, pc, readers

ENGINES = ["source", "optimal"]


def named(cases: list[tuple[Callable[..., object], tuple[int, ...], int]]) -> list[object]:
    return [
        pytest.param(program, arguments, count, id=f"{program.__name__}{arguments}")
        for program, arguments, count in cases
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
@pytest.mark.parametrize(("program", "arguments", "count"), named(COUNTS))
def test_count(program: Callable, arguments: tuple, count: int, order: Order, engine: str) -> None:
    report = explore(program(*arguments, order=order), engine=engine)
    assert report.executions == count
    assert report.exhaustive
    assert report.holds
    assert report.blocked == 0 or engine == "source"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("program", "arguments", "count"), named(BIG_COUNTS))
def test_big_count(program: Callable, arguments: tuple, count: int, engine: str) -> None:
    report = explore(program(*arguments, order=ORDERS[1]), engine=engine)
    assert (report.executions, report.exhaustive) == (count, True)
    assert report.blocked == 0 or engine == "source"


@pytest.mark.parametrize(
    ("program", "count"),
    [
        (readers(2), 4), (inc(2), 4), (inc(3), 36), (ainc(4), 24), (casw(2), 6), (casw(3), 66), (lockinc(3), 6),
        (pc(1, 2), 10),
    ],
)
def test_oracle_counts_the_same_traces(program: Callable, count: int) -> None:
    oracle = Enumeration()
    build = builder(program, None)
    while True:
        run = Run(oracle, max_steps=1000)
        run.go(build)
        if not oracle.finish(run):
            break
    assert len(oracle.traces) == count


def test_the_page_cache_bug_is_found_by_the_second_execution() -> None:
    report = explore(pc(4, 1, check=False))
    assert report.counterexample is not None
    assert report.found_in is not None
    assert report.found_in <= 2
    assert report.verdict == f"RACE in execution {report.found_in}"


def test_conflicts_are_symmetric_and_writes_conflict_with_everything() -> None:
    for mode in MODE_NAMES:
        assert conflict(WRITE, mode)
        assert conflict(LOCK, mode)
        for other in MODE_NAMES:
            assert conflict(mode, other) == conflict(other, mode)
    assert len(CONFLICTS) == max(MODE_NAMES) + 1


def test_what_commutes() -> None:
    commuting = {
        frozenset(pair)
        for pair in [(READ, READ), (INC, INC), (INC, TRYINC), (INC, DEC), (TRYINC, TRYINC), (SHARE, SHARE)]
    }
    for mode in (READ, WRITE, INC, TRYINC, DEC, LOCK, SHARE):
        for other in (READ, WRITE, INC, TRYINC, DEC, LOCK, SHARE):
            if {mode, other} & {SHARE} and {mode, other} & {INC, TRYINC, DEC}:
                continue  # one location has either a count or a lock
            assert conflict(mode, other) == (frozenset((mode, other)) not in commuting), (mode, other)
