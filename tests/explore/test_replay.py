# SPDX-License-Identifier: GPL-2.0-only
"""Schedules, traces and their files; replay is exact; counterexamples are short."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Mutex, NondeterministicProgram, Schedule, Trace, explore, replay, rerun
from mmref.explore.enumeration import Enumeration
from mmref.explore.program import builder
from mmref.explore.scheduler import Run
from mmref.explore.shrink import shrink
from mmref.explore.verdict import Verdict

from .programs import casw, inc, lockinc, pc, readers

Thread = Callable[[], object]
Program = Callable[[], Sequence[Thread]]


# Schedules


@pytest.mark.parametrize(
    ("choices", "text"),
    [((), "v1:-"), ((0,), "v1:0"), ((0, 0, 1), "v1:0x2,1"), ((1, 0, 10, 10, 10), "v1:1,0,10x3")],
)
def test_schedule_strings(choices: tuple[int, ...], text: str) -> None:
    assert str(Schedule(choices)) == text
    assert Schedule.parse(text) == Schedule(choices)
    assert Schedule.parse(f"a/b:c=1:{text}\n") == Schedule(choices, "a/b:c=1")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "'' is not a schedule"),
        ("0x12", "'0x12' is not a schedule: expected something like 'v1:0x12,1x5,0'"),
        ("v1:", "'' in the schedule 'v1:' is not a CPU and its number of steps"),
        ("v1:0x2,,1", "'' in the schedule"),
        ("v1:0x2,1x0", "'1x0' in the schedule"),
        ("v1:0x2,a", "'a' in the schedule"),
        ("v1:0x2,-1", "'-1' in the schedule"),
        ("v9:0x2", "version v9; this mmref reads v1"),
        ("v1:0x99999999", "more than 10000000 steps"),
        ("v1:" + "0," * 500 + "x", "'v1:0,0,0,.*[.][.][.]'"),
    ],
)
def test_what_is_no_schedule(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Schedule.parse(text)


def waiting() -> Sequence[Thread]:
    x, lock = Cell(0, "x"), Mutex("lock")

    def thread() -> None:
        with lock:
            x.store(1)

    return [thread, thread]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("v1:0x3,2", "step 3 is for CPU 2, but the program has only 2 CPUs"),
        ("v1:0x4", "step 3 is for CPU 0, which has ended by then"),
        ("v1:0,1", r"step 1 is for CPU 1, which then waits for lock \(acquire\), held by CPU 0"),
        ("v1:0x3,1x4", "step 6 is for CPU 1, which has ended by then|ended after 6 steps"),
    ],
)
def test_a_schedule_that_does_not_fit(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        replay(text, waiting)


def test_a_schedule_that_goes_on_after_a_finding() -> None:
    schedule = explore(inc_checked).counterexample.schedule  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"the program ended after 4 steps \(violation: AssertionError: .*has 5"):
        replay(Schedule((*schedule.choices, 0)), inc_checked)


def test_a_schedule_may_end_early() -> None:
    trace = replay("v1:0x2", waiting)
    assert (len(trace.events), trace.verdict.kind) == (2, "unfinished")
    assert replay("v1:-", waiting).events == ()


def test_a_schedule_needs_a_program() -> None:
    with pytest.raises(UsageError, match="does not say what to run"):
        replay("v1:0")
    asked: list[str] = []

    def resolve(spec: str) -> tuple[Program, None]:
        asked.append(spec)
        return readers(2), None

    trace = rerun.replay("readers/n=2:v1:0,1,2", resolve=resolve)
    assert len(trace.events) == 3
    assert asked == ["readers/n=2"]


# Replay


def inc_checked() -> Sequence[Thread]:
    x = Cell(0, "x")
    done: list[int] = []

    def thread() -> None:
        x.store(x.load() + 1)
        done.append(1)
        assert len(done) < 2 or x.peek() == 2, f"x is {x.peek()}"

    return [thread, thread]


@pytest.mark.parametrize("program", [inc_checked, pc(3, 2, check=False), pc(2, 1), casw(2), lockinc(2)])
def test_replay_is_exact(program: Program, tmp_path: Path) -> None:
    """Every execution replays to the same events, results and verdict, also by way of a file."""
    schedules: list[tuple[int, ...]] = []
    verdicts: list[Verdict] = []
    explore(
        program, stop_at_first=False, max_executions=60,
        on_execution=lambda done: (schedules.append(tuple(done.schedule)), verdicts.append(done.verdict)),
    )  # fmt: skip
    for choices, verdict in zip(schedules, verdicts, strict=True):
        trace = replay(Schedule(choices), program)
        assert trace.verdict == verdict
        assert trace.schedule.choices == choices
        assert replay(trace, program) == trace
        assert replay(str(trace.schedule), program) == trace
        path = tmp_path / "trace.json"
        trace.save(path)
        assert Trace.load(path) == trace
        assert replay(path, program) == trace
        assert replay(str(path), program) == trace
        assert replay(trace.to_json(), program) == trace


def test_events_carry_values_and_stacks() -> None:
    trace = explore(inc_checked).counterexample
    assert trace is not None
    assert [(event.cpu, event.label, event.location, event.mode, event.value) for event in trace.events] == [
        (0, "load", "x", "read", 0),
        (1, "load", "x", "read", 0),
        (1, "store", "x", "write", 1),
        (0, "store", "x", "write", 1),
    ]
    functions = [function for function, _, _ in trace.events[0].stack]
    assert functions == ["inc_checked.<locals>.thread", "Cell.load"]
    assert trace.events[0].stack[0][1] == __file__


def test_waiting_is_recorded() -> None:
    trace = replay("v1:0x3,1x3", waiting)
    assert [event.waited for event in trace.events] == [False] * 6  # it came to the lock before anybody had it

    def second_has_work_first() -> Sequence[Thread]:
        x, lock = Cell(0), Mutex("lock")

        def work() -> None:
            x.load()
            lock.acquire()
            lock.release()

        return [lambda: (lock.acquire(), lock.release()), work]

    trace = replay("v1:0,1,0,1x2", second_has_work_first)
    assert [event.waited for event in trace.events] == [False, False, False, True, False]


def test_a_replay_that_differs_is_reported() -> None:
    trace = explore(inc_checked).counterexample
    assert trace is not None

    def other() -> Sequence[Thread]:
        x = Cell(5, "x")
        return [lambda: x.store(x.load() + 1)] * 2

    with pytest.raises(NondeterministicProgram, match=r"differs at step 0: CPU 0 did load of x \(read, 0\)"):
        replay(trace, other)

    def fixed() -> Sequence[Thread]:
        x = Cell(0, "x")
        return [lambda: x.store(x.load() + 1)] * 2

    with pytest.raises(NondeterministicProgram, match=r"ends otherwise: violation: .* now holds"):
        replay(trace, fixed)


# Files


def spoil(data: dict[str, Any], key: str, value: object) -> str:
    data = json.loads(json.dumps(data))
    target: Any = data
    *path, last = key.split(".")
    for part in path:
        target = target[int(part) if part.isdigit() else part]
    if isinstance(target, list):
        target[int(last)] = value
    elif value is KeyError:
        del target[last]
    else:
        target[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("mmref_trace", 7, "trace of version 7; this mmref reads 1"),
        ("mmref_trace", KeyError, 'not an mmref trace: it has no "mmref_trace" key'),
        ("events", KeyError, "the key 'events' is missing"),
        ("events", {}, "'events' is {}, not of type list"),
        ("events", [], "contradicts itself"),
        ("events.0", 3, "event 0 is 3, not an object"),
        ("events.1.cpu", 2, "event 1 has a wrong cpu or step"),
        ("events.1.step", 2, "event 1 has a wrong cpu or step"),
        ("events.1.label", None, "'label' is None, not of type str"),
        ("events.1.waited", 1, "'waited' is 1, not of type bool"),
        ("events.1.value", KeyError, "event 1 has no 'value'"),
        ("events.2.stack", ["f"], "'f' in the stack of event 2 is not"),
        ("schedule", "0,1", "'0,1' is not a schedule"),
        ("cpus", [1, 2], "a name in cpus is 1, not of type str"),
        ("verdict", None, "verdict is None, not an object"),
        ("verdict.kind", KeyError, "the key 'kind' is missing"),
        ("verdict.cpu", "0", "cpu is '0', not of type int"),
    ],
)
def test_a_spoilt_trace_is_refused(key: str, value: object, match: str) -> None:
    trace = explore(inc_checked).counterexample
    assert trace is not None
    with pytest.raises(UsageError, match=match):
        Trace.from_json(spoil(json.loads(trace.to_json()), key, value))


def test_a_foreign_or_truncated_file_is_refused(tmp_path: Path) -> None:
    trace = explore(inc_checked).counterexample
    assert trace is not None
    path = tmp_path / "trace.json"
    for text in ("", trace.to_json()[:100], "<html>"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"is not a whole JSON document .*: is the file cut short"):
            replay(path, inc_checked)
    path.write_text("[1, 2]")
    with pytest.raises(UsageError, match=r"is not an mmref trace: the document is \[1, 2\], not an object"):
        replay(path, inc_checked)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        replay(path, inc_checked)
    with pytest.raises(UsageError, match=r"'.*missing.json' cannot be read: .*No such file"):
        replay(tmp_path / "missing.json", inc_checked)


# Shrinking


def three_pages() -> Sequence[Thread]:
    """The reader must see a page between its two stores, whatever else goes on."""
    cells = [Cell(0, f"cell {i}") for i in range(3)]

    def writer() -> None:
        for cell in cells:
            cell.store(1)
            cell.store(2)

    def reader() -> None:
        seen = [cell.load() for cell in cells]
        assert seen != [2, 1, 0], "torn"

    def bystander() -> None:
        for cell in reversed(cells):
            cell.load()

    return [writer, bystander, reader]


def opposite_orders() -> Sequence[Thread]:
    a, b, x = Mutex("a"), Mutex("b"), Cell(0, "x")

    def one() -> None:
        x.load()
        with a, b:
            x.store(1)

    def other() -> None:
        with b, a:
            x.store(2)

    return [one, other]


@pytest.mark.parametrize("program", [inc_checked, pc(2, 1, check=False), three_pages, opposite_orders])
def test_shrunk_to_the_fewest_switches(program: Program) -> None:
    """Whichever schedule the shrinking starts from, it ends with as few switches as brute force finds."""
    oracle = Enumeration()
    build = builder(program, None)
    failing: list[tuple[tuple[int, ...], Verdict]] = []
    more = True
    while more:
        run = Run(oracle, max_steps=1000)
        run.go(build)
        if run.finding is not None:
            failing.append((run.schedule(), Verdict.of(run)))
        more = oracle.finish(run)
    fewest = min(Schedule(choices).switches for choices, _ in failing)
    for choices, verdict in itertools.islice(failing, 0, None, max(1, len(failing) // 40)):
        short = shrink(build, choices, verdict, 1000)
        assert Schedule(short).switches == fewest, (choices, short)
        trace = replay(Schedule(short), program)
        assert trace.verdict.same_finding(verdict)


def test_shrinking_can_be_turned_off() -> None:
    long = explore(three_pages, shrink_counterexample=False).counterexample
    short = explore(three_pages).counterexample
    assert long is not None
    assert short is not None
    assert short.schedule.switches <= long.schedule.switches


def test_lost_update_needs_two_switches() -> None:
    trace = explore(inc_checked).counterexample
    assert trace is not None
    assert str(trace.schedule) == "v1:0,1x2,0"


def test_inc_has_no_finding_to_shrink() -> None:
    assert explore(inc(2)).counterexample is None
