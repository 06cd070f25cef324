# SPDX-License-Identifier: GPL-2.0-only
"""A search that is left before its end can be taken up again, and the parts are the whole."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Completed, Frontier, Interrupted, explore, get_scenario
from mmref.explore.frontier import Branch

from .programs import inc, lastzero, lockinc, pc, readers
from .random_programs import Outcomes, generate
from .test_executors import outcome, shuffled

Thread = Callable[[], object]


@pytest.mark.parametrize("engine", ["source", "optimal"])
@pytest.mark.parametrize("program", [readers(4), lastzero(5), inc(3), lockinc(4), pc(2, 2)], ids=range(5))
def test_parts_are_the_whole(program: Callable[[], Sequence[Thread]], engine: str, tmp_path: Path) -> None:
    told: list[Completed] = []
    report = explore(program, engine=engine, max_executions=3, on_execution=told.append)
    while report.frontier is not None:
        runs = report.executions + report.blocked
        assert report.reason == f"stopped by max_executions={runs}"
        path = tmp_path / "frontier.json"
        report.frontier.save(path)
        report = explore(program, resume=path, max_executions=runs + 3, on_execution=told.append)
        assert report.engine == engine
    expected: list[Completed] = []
    assert outcome(report) == outcome(explore(program, engine=engine, on_execution=expected.append))
    assert told == expected


@pytest.mark.parametrize("engine", ["source", "optimal"])
def test_random_programs_in_parts_with_and_without_workers(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = 0
    for seed in range(60):
        program = Outcomes(generate(seed, locks=seed % 3 != 0, waits=seed % 5 == 0)).program
        executor = shuffled(monkeypatch, seed)
        report = explore(program, engine=engine, stop_at_first=False, max_executions=2, executor=executor)
        while report.frontier is not None:
            left += 1
            frontier = Frontier.from_json(report.frontier.to_json())
            assert frontier.executions == report.executions
            assert frontier.pending > 0
            shared = executor if left % 3 else None
            limit = report.executions + report.blocked + left % 5 + 1
            report = explore(program, stop_at_first=False, max_executions=limit, resume=frontier, executor=shared)
            assert report.executions + report.blocked <= limit
        assert outcome(report) == outcome(explore(program, engine=engine, stop_at_first=False)), f"seed {seed}"
    assert left > 100


def test_max_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100_000))
    monkeypatch.setattr("mmref.explore.explorer.monotonic", lambda: float(next(clock)))
    report = explore(readers(4), max_seconds=5)
    assert (report.executions, report.reason) == (5, "stopped by max_seconds=5")
    assert explore(readers(4), resume=report.frontier).executions == 16
    for engine in ("states", "random", "enumerate"):
        report = explore(readers(4), engine=engine, max_seconds=2)
        assert not report.exhaustive
        assert report.frontier is None


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as at a terminal: a job in the background starts with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_frontier() -> None:
    calls = 0

    def program() -> Sequence[Thread]:
        nonlocal calls
        calls += 1
        if calls == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return lastzero(6)()

    with pytest.raises(Interrupted) as caught:
        explore(program)
    report = caught.value.report
    assert (report.executions + report.blocked, report.reason) == (20, "interrupted by Ctrl-C")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert outcome(explore(program, resume=report.frontier)) == outcome(explore(program))


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_twice_does_not_wait_for_the_end_of_the_execution() -> None:
    calls = 0

    def program() -> Sequence[Thread]:
        x = Cell(0, "x")

        def thread() -> None:
            nonlocal calls
            x.load()
            calls += 1
            if calls == 2:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

        return [thread, lambda: x.store(1)]

    with pytest.raises(Interrupted) as caught:
        explore(program)
    assert caught.value.report.executions == 1
    assert explore(program, resume=caught.value.report.frontier).executions == 2


def test_nothing_is_left_of_a_search_that_came_to_its_end() -> None:
    assert explore(readers(3)).frontier is None
    assert explore(pc(2, 1, check=False)).frontier is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data.update(mmref_frontier=2), "is a frontier of version 2; this mmref reads 1"),
        (lambda data: data.pop("mmref_frontier"), 'it has no "mmref_frontier" key'),
        (lambda data: data.pop("engine"), "'engine' is not of type str"),
        (lambda data: data.update(engine="states"), "there is no engine 'states' to resume"),
        (lambda data: data["tree"][1].pop(), "is not a valid mmref frontier"),
        (lambda data: data["tree"][1][0].pop("states"), r"is not a valid mmref frontier \(KeyError"),
        (lambda data: data["tree"].pop(), "is not a valid mmref frontier"),
    ],
)
def test_what_is_no_frontier(change: Callable[[dict[str, Any]], object], match: str, tmp_path: Path) -> None:
    frontier = explore(readers(4), max_executions=3).frontier
    assert frontier is not None
    data = json.loads(frontier.to_json())
    change(data)
    path = tmp_path / "frontier.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=match):
        explore(readers(4), resume=path)


def test_a_frontier_file_that_is_cut_short_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "frontier.json"
    with pytest.raises(UsageError, match="cannot be read"):
        explore(readers(4), resume=path)
    frontier = explore(readers(4), max_executions=3).frontier
    assert frontier is not None
    path.write_text(frontier.to_json()[:-20])
    with pytest.raises(UsageError, match="is the file cut short"):
        explore(readers(4), resume=str(path))
    path.write_text("[1]")
    with pytest.raises(UsageError, match="is not an mmref frontier"):
        Frontier.load(path)


def other() -> Sequence[Thread]:
    return readers(4)()


def test_a_frontier_of_something_else() -> None:
    frontier = explore(other, engine="source", max_executions=3).frontier
    assert frontier is not None
    with pytest.raises(UsageError, match=r"one of program 'other', not 'readers.<locals>.program'"):
        explore(readers(4), resume=frontier)
    with pytest.raises(UsageError, match="one of engine 'source', not 'optimal': resume it with 'source'"):
        explore(other, resume=frontier, engine="optimal")
    scenario = get_scenario("read")
    frontier = explore(scenario, "lock-and-insert-late", max_executions=3).frontier
    assert frontier is not None
    with pytest.raises(UsageError, match=r"one of program 'read/lock-and-insert-late.*not 'read/freeze-and-replace"):
        explore(scenario, "freeze-and-replace", resume=frontier)
    assert explore(scenario, "lock-and-insert-late", resume=frontier).exhaustive


def test_a_wakeup_tree_as_a_list() -> None:
    assert Branch.of(Branch(3, ((7, 2),)).flat()).flat() == [(0, 3, ((7, 2),))]
    root = Branch(0)
    deep = root
    for number in range(5000):
        deep.children = [Branch(number % 3), Branch(1, ((number, 3),))]
        deep = deep.children[number % 2]
    assert Branch.of(json.loads(json.dumps(root.flat()))).flat() == root.flat()
