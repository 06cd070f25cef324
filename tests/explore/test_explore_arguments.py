# SPDX-License-Identifier: GPL-2.0-only
"""The face of `explore()`: arguments, callbacks, reports."""

from __future__ import annotations

from typing import Any

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Completed, Execution, Progress, explore

from .programs import lastzero, readers


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"memory": "x86"}, "memory='x86' is unknown: choose one of sc, tso, pso"),
        ({"executor": object()}, "executor=<object .* cannot be used: give a concurrent.futures.Executor"),
        ({"max_seconds": 0}, "max_seconds=0 must be more than 0"),
        ({"engine": "sorce"}, "did you mean 'source'"),
        ({"bound": 2, "engine": "optimal"}, "bound=2 means nothing to engine 'optimal'"),
        ({"seed": 2, "engine": "source"}, "seed=2 means nothing to engine 'source'"),
        ({"bound": -1}, "bound=-1 must not be negative"),
        ({"bound": 0, "engine": "pct"}, "bound=0 must be at least 1"),
        ({"engine": "x"}, "choose one of source, "),
        ({"max_executions": 0}, "max_executions=0 must be at least 1"),
        ({"max_steps": -1}, "max_steps=-1 must be at least 1"),
        ({"strategy": "upstream"}, "means nothing to a bare program"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        explore(readers(2), **arguments)


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be explored"):
        explore(42)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must return one callable per thread"):
        explore(lambda: [])
    with pytest.raises(UsageError, match="must return one callable per thread"):
        explore(lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="2 CPUs but 1 names"):
        Execution([lambda: None, lambda: None], ["one"])


def test_max_executions_ends_the_search_and_says_so() -> None:
    report = explore(readers(8), max_executions=10)
    assert (report.executions, report.exhaustive) == (10, False)
    assert report.verdict == "none in 10 executions, stopped by max_executions=10"
    assert explore(readers(2), max_executions=4).exhaustive


def test_on_execution_sees_each_complete_execution() -> None:
    seen: list[Completed] = []
    report = explore(lastzero(3), on_execution=seen.append)
    assert [done.number for done in seen] == list(range(1, report.executions + 1))
    assert len({tuple(done.schedule) for done in seen}) == report.executions
    assert {done.verdict.kind for done in seen} == {"holds"}
    assert {done.results[0] for done in seen} == {0, 1, 2, 3}


def test_progress_is_reported_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("mmref.explore.explorer.monotonic", lambda: float(next(clock)))
    seen: list[Progress] = []
    explore(readers(3), progress=seen.append, engine="source")
    assert [one.executions for one in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert seen[0].pending == 2
    assert all(one.estimated is not None and 4 <= one.estimated <= 12 for one in seen)  # there are 8


@pytest.mark.parametrize("engine", ["source", "optimal"])
def test_the_estimate_gets_better(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100_000))
    monkeypatch.setattr("mmref.explore.explorer.monotonic", lambda: float(next(clock)))
    seen: list[Progress] = []
    report = explore(lastzero(7), progress=seen.append, engine=engine)
    total = report.executions + report.blocked
    estimates = [one.estimated or 0 for one in seen[len(seen) // 2 :]]
    assert all(total / 3 <= estimate <= total * 3 for estimate in estimates)
    assert total * 0.9 <= estimates[-1] <= total * 1.1


def test_report_in_one_line() -> None:
    report = explore(readers(2))
    assert str(report).startswith("readers.<locals>.program: none in 4 executions, exhausted (optimal, 0 blocked, ")


def test_a_program_without_accesses() -> None:
    report = explore(lambda: [lambda: 1, lambda: 2])
    assert (report.executions, report.steps, report.exhaustive) == (1, 0, True)


def test_a_program_that_fails_in_set_up_raises() -> None:
    def program() -> list[Any]:
        Cell(0)
        raise KeyError("set-up")

    with pytest.raises(KeyError):
        explore(program)
    assert explore(readers(2)).executions == 4


def test_a_program_may_return_an_execution_with_names_and_checks() -> None:
    def program() -> Execution:
        n = Cell(0, "n")

        def add():
            n.store(n.load() + 1)

        def check():
            assert n.peek() == 2, f"n is {n.peek()}"

        return Execution([add, add], ["A", "B"], at_rest=check)

    trace = explore(program).counterexample
    assert trace is not None
    assert (trace.cpus, trace.verdict.detail) == (("A", "B"), "n is 1")
