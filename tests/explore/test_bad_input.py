# SPDX-License-Identifier: GPL-2.0-only
"""Programs, schedules, files and executors that cannot be used: one clear sentence each, and nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from mmref.errors import UsageError
from mmref.explore import (
    Cell,
    Execution,
    Frontier,
    Interrupted,
    Mutex,
    NondeterministicProgram,
    OutputHeldBack,
    Trace,
    UnexplorableProgram,
    explore,
    replay,
)
from mmref.explore.locations import THREAD

from .programs import lastzero, readers

Thread = Callable[[], object]
Program = Callable[[], Sequence[Thread]]


def one_of_two(act: Callable[[], object]) -> Program:
    """Two CPUs, one of which does something that it should not, between two accesses."""

    def program() -> Sequence[Thread]:
        x = Cell(0, "x")

        def thread() -> None:
            x.load()
            act()
            x.load()

        return [lambda: x.store(1), thread]

    return program


def nothing_is_left_behind() -> None:
    assert THREAD.run is None
    assert explore(readers(3)).executions == 8


def here(function: Callable[..., object], line: int = 1) -> str:
    return f"test_bad_input.py:{function.__code__.co_firstlineno + line} "


# A program that does more than accessing what it shares ------------------------------------------------------


def sleeps() -> None:
    time.sleep(0.01)


def starts_a_thread() -> None:
    threading.Thread(target=sleeps).start()


def uses_a_pool() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sleeps)


def starts_a_process() -> None:
    subprocess.run(["true"], check=True)


def catches_everything() -> None:
    with contextlib.suppress(Exception):
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("act", "line", "match"),
    [
        (sleeps, 1, "the program sleeps at .*: no time passes in an exploration; leave it out, or wait for a cell to"),
        (starts_a_thread, 1, "the program starts a thread at .*: the explorer cannot see what it does; return one"),
        (uses_a_pool, 2, "the program starts a thread at "),
        (starts_a_process, 1, "the program starts a process at .*: the explorer cannot see what it does; do that"),
        (catches_everything, 2, "the program sleeps at "),
        (lambda: explore(readers(1)), 0, r"explore\(\) was called inside a program that is being explored: call it"),
    ],
)
@pytest.mark.parametrize("engine", ["optimal", "random", "states"])
def test_what_is_not_explored_is_refused(act: Callable[[], object], line: int, match: str, engine: str) -> None:
    before = threading.active_count()
    with pytest.raises(UnexplorableProgram, match=match) as caught:
        explore(one_of_two(act), engine=engine)
    assert not line or here(act, line) in str(caught.value)
    assert threading.active_count() == before
    nothing_is_left_behind()


def test_set_up_and_checks_must_not_sleep_either() -> None:
    def set_up() -> Sequence[Thread]:
        sleeps()
        return [lambda: None]

    with pytest.raises(UnexplorableProgram, match="the program sleeps at "):
        explore(set_up)
    with pytest.raises(UnexplorableProgram, match="the program sleeps at "):
        explore(lambda: Execution([lambda: None], at_rest=sleeps))
    nothing_is_left_behind()


def test_who_explores_may_sleep_and_start_threads() -> None:
    seen = []
    explore(readers(2), on_execution=lambda one: (time.sleep(0.0), starts_a_thread(), seen.append(one.number)))
    time.sleep(0.0)
    assert seen == [1, 2, 3, 4]


def test_a_schedule_that_is_replayed_must_not_sleep_either() -> None:
    with pytest.raises(UnexplorableProgram, match="the program sleeps at "):
        replay("v1:0,1x2", one_of_two(sleeps))


def prints() -> None:
    print("from the program")


def test_what_a_program_prints_is_held_back_and_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(OutputHeldBack) as warned:
        report = explore(one_of_two(prints), on_execution=lambda done: print("execution", done.number))
    assert report.executions == 3
    (warning,) = warned
    assert here(prints) + "(prints): explore() runs it many times and shows nothing" in str(warning.message)
    assert Path(warning.filename).name == "test_bad_input.py"
    assert capsys.readouterr().out == "execution 1\nexecution 2\nexecution 3\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay("v1:0,1x2", one_of_two(prints))
    assert capsys.readouterr().out == "from the program\n"
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


def test_a_program_that_prints_still_has_its_finding(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0, "x")

        def thread() -> None:
            print("x is", x.load())
            assert not x.peek()

        return [lambda: x.store(1), thread]

    with pytest.warns(OutputHeldBack):
        report = explore(program)
    assert not report.holds
    assert capsys.readouterr().out == ""


# A program that keeps state, or is not deterministic ---------------------------------------------------------


def test_a_cell_that_outlives_an_execution() -> None:
    x = Cell(0)
    with pytest.raises(UnexplorableProgram, match="a shared cell is used that was created outside the program: create"):
        explore(lambda: [x.load])
    nothing_is_left_behind()


def test_a_cell_of_an_earlier_execution() -> None:
    cells: list[Cell[int]] = []

    def program() -> Sequence[Thread]:
        cells.append(Cell(0))
        return [lambda: cells[0].store(1), cells[0].load]

    with pytest.raises(UnexplorableProgram, match="created outside the program"):
        explore(program)
    nothing_is_left_behind()


def with_memory(run: Callable[[Cell[int], Cell[int], int], object]) -> Program:
    """Two CPUs; the first knows how many executions there were before."""
    executions = itertools.count()

    def program() -> Sequence[Thread]:
        x, y = Cell(0, "x"), Cell(0, "y")
        number = next(executions)
        return [lambda: (run(x, y, number), x.load()), lambda: x.store(1)]

    return program


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (lambda x, y, number: (y if number else x).load(), "now does a read (load) of y"),
        (lambda _, y, number: y.store(2) if number else y.load(), "now does a write (store) of y"),
        (lambda _, y, number: None if number else y.load(), "now does a read (load) of x"),
        (lambda _, y, number: [y.load() for _ in range(3 - number)], "now does a read (load) of x"),
    ],
)
@pytest.mark.parametrize("engine", ["optimal", "source"])
def test_a_program_that_keeps_state_of_its_own(run: Any, what: str, engine: str) -> None:
    with pytest.raises(NondeterministicProgram, match="deterministic") as caught:
        explore(with_memory(run), engine=engine)
    assert f"CPU 0 {what}" in str(caught.value)
    nothing_is_left_behind()


def test_a_number_of_cpus_that_changes() -> None:
    executions = itertools.count()

    def program() -> Sequence[Thread]:
        x = Cell(0, "x")
        return [lambda: (x.load(), x.load()), *[lambda: x.store(1)] * (2 - next(executions))]

    with pytest.raises(NondeterministicProgram, match="deterministic"):
        explore(program)
    nothing_is_left_behind()


def test_values_that_are_drawn() -> None:
    """The same operations with other values: seen when a trace is replayed."""

    def program() -> Sequence[Thread]:
        x = Cell(random.random(), "x")
        return [x.load]

    trace = replay("v1:0", program)
    with pytest.raises(
        NondeterministicProgram, match=r"the replay differs at step 0: CPU 0 did load of x .*now load of x"
    ):
        replay(trace, program)


# A CPU that never ends ---------------------------------------------------------------------------------------


def never_ends() -> None:
    while True:
        pass


def never_ends_but_catches() -> None:
    while True:
        try:
            len("x")
        except Exception:
            continue


LOCKS: list[threading.Lock] = []


def waits_for_a_real_lock() -> Sequence[Thread]:
    """CPU 0 holds a real lock while CPU 1 wants it: nothing that the explorer could see."""
    lock, x = threading.Lock(), Cell(0, "x")

    def thread() -> None:
        with lock:
            x.load()

    return [thread, thread]


@pytest.mark.parametrize("act", [never_ends, never_ends_but_catches])
def test_a_loop_without_an_access(act: Callable[[], object]) -> None:
    report = explore(one_of_two(act), max_step_seconds=0.3)
    trace = report.counterexample
    assert trace is not None
    assert (trace.verdict.kind, trace.verdict.cpu) == ("step-limit", 1)
    assert "no access for 0.3 s: CPU 1 is at " in trace.verdict.detail
    assert f"({act.__name__}); the likely cause is a spin or unbounded loop there" in trace.verdict.detail
    assert report.reason == "stopped at the first finding"
    assert replay(trace, one_of_two(act), max_step_seconds=0.3).verdict.kind == "step-limit"
    nothing_is_left_behind()


def test_a_wait_for_a_real_lock() -> None:
    report = explore(waits_for_a_real_lock, max_step_seconds=0.3)
    assert report.counterexample is not None
    assert "a wait for something that is not explored" in report.counterexample.verdict.detail
    assert here(waits_for_a_real_lock, 5) in report.counterexample.verdict.detail
    nothing_is_left_behind()


def test_set_up_that_never_ends() -> None:
    def program() -> Sequence[Thread]:
        never_ends()
        return []

    with pytest.raises(UnexplorableProgram, match=r"no access for 0.2 s: the program is at .*\(never_ends\)"):
        explore(program, max_step_seconds=0.2)
    nothing_is_left_behind()


def test_a_loop_in_another_thread_of_the_system() -> None:
    reports: list[Any] = []
    thread = threading.Thread(target=lambda: reports.append(explore(one_of_two(never_ends), max_step_seconds=0.3)))
    thread.start()
    assert explore(readers(8)).executions == 256
    thread.join()
    assert reports[0].counterexample.verdict.kind == "step-limit"


def endless_in_a_worker() -> Sequence[Thread]:
    return one_of_two(never_ends)()


def test_a_loop_in_a_worker() -> None:
    with ProcessPoolExecutor(1) as executor:
        report = explore(endless_in_a_worker, executor=executor, max_step_seconds=0.3)
    assert report.counterexample is not None
    assert "(never_ends)" in report.counterexample.verdict.detail


def test_what_takes_long_is_left_alone_if_wanted() -> None:
    def takes_long() -> None:
        end = time.monotonic() + 0.25
        while time.monotonic() < end:
            pass

    assert explore(one_of_two(takes_long), max_step_seconds=None).holds
    assert explore(one_of_two(takes_long), max_step_seconds=2).holds


def test_a_debugger_is_left_alone() -> None:
    """While somebody looks at a program with pdb, no time counts."""
    globals_of_pdb: dict[str, Any] = {"__name__": "pdb", "time": time}
    exec("def interaction():\n end = time.monotonic() + 0.5\n while time.monotonic() < end: pass", globals_of_pdb)
    assert explore(one_of_two(globals_of_pdb["interaction"]), max_step_seconds=0.1).holds


CTRL_C = """
import os
from mmref.explore import Cell, Interrupted, explore

def program():
    x = Cell(0, "x")
    def endless():
        x.load()
        os.write(1, b"in the loop\\n")
        while True:
            pass
    return [lambda: x.store(1), endless]

try:
    explore(program, max_step_seconds=SECONDS)
except Interrupted as error:
    print(error.report.reason, error.report.executions)
"""


@pytest.mark.parametrize(("seconds", "presses"), [("60", 1), ("None", 2)])
def test_ctrl_c_ends_a_loop_without_an_access(seconds: str, presses: int) -> None:
    """Once is enough while the watchdog is there; without it, the second one takes effect at once."""
    code = CTRL_C.replace("SECONDS", seconds)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the loop\n"
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == "interrupted by Ctrl-C 0\n"


@pytest.mark.parametrize("value", [0, -1.0])
def test_seconds_that_are_none(value: float) -> None:
    with pytest.raises(UsageError, match=f"max_step_seconds={value} must be more than 0"):
        explore(readers(2), max_step_seconds=value)


# Schedules and files -----------------------------------------------------------------------------------------


def two_cpus() -> Sequence[Thread]:
    lock, x = Mutex("lock"), Cell(0, "x")

    def thread() -> None:
        with lock:
            x.load()

    return [thread, thread]


@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        ("v1:0,5", "the schedule does not fit: step 1 is for CPU 5, but the program has only 2 CPUs"),
        ("v1:0x9", "the schedule does not fit: step 3 is for CPU 0, which has ended by then"),
        (
            "v1:0,1",
            r"the schedule does not fit: step 1 is for CPU 1, which then waits for lock \(acquire\), held by CPU 0",
        ),
        (
            "v1:0x3,1x3,0",
            r"the schedule does not fit: the program ended after 6 steps \(holds\), but the schedule has 7",
        ),
        ("v2:0", "is a schedule of version v2; this mmref reads v1"),
        ("0,1,0", "is not a schedule: expected something like"),
        ("v1:0,a", "'a' in the schedule 'v1:0,a' is not a CPU and its number of steps"),
        ("v1:0x99999999", "more than 10000000 steps"),
    ],
)
def test_a_schedule_that_does_not_fit(schedule: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        replay(schedule, two_cpus)


def test_a_trace_file_that_is_none(tmp_path: Path) -> None:
    whole = replay("v1:0x3,1x3", two_cpus).to_json()
    path = tmp_path / "trace.json"
    other = json.loads(whole)
    other["mmref_trace"] = 99
    for text, match in (
        (whole[: len(whole) // 2], "not a whole JSON document .*cut short"),
        ("[]", "is not an mmref trace"),
        ('{"traceEvents": []}', "is not an mmref trace"),
        (json.dumps(other), "version 99; this mmref reads"),
        ("", "not a whole JSON document"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=match) as caught:
            replay(path, two_cpus)
        assert "trace.json" in str(caught.value)
        assert path.read_text() == text
    with pytest.raises(UsageError, match=r"missing.json' cannot be read"):
        Trace.load(tmp_path / "missing.json")


def test_a_frontier_that_does_not_fit(tmp_path: Path) -> None:
    part = explore(lastzero(4), max_executions=3)
    assert part.frontier is not None
    path = tmp_path / "left.json"
    part.frontier.save(path)
    text = path.read_text()
    assert explore(lastzero(4), resume=path).executions == explore(lastzero(4)).executions
    for arguments, match in (
        ({"program": two_cpus}, "the frontier is one of program 'lastzero.*', not 'two_cpus': resume it with"),
        ({"engine": "source"}, "the frontier is one of engine 'optimal', not 'source'"),
        ({"memory": "tso"}, "the frontier is one of memory model 'sc', not 'tso'"),
        ({"detect": {"lost-update"}}, "the frontier is one of detect"),
    ):
        with pytest.raises(UsageError, match=match):
            explore(**{"program": lastzero(4), "resume": path, **arguments})  # type: ignore[arg-type]
        assert path.read_text() == text
    data = json.loads(text)
    for spoil, match in (
        ({"mmref_frontier": 9}, "frontier of version 9; this mmref reads 1"),
        ({"tree": None}, "'tree' is not of type list"),
        ({"tree": [[["no", "tree"]]]}, "not a valid mmref frontier .*: explore from the start"),
        ({"engine": "random"}, "there is no engine 'random' to resume"),
    ):
        path.write_text(json.dumps({**data, **spoil}))
        with pytest.raises(UsageError, match=match) as caught:
            Frontier.load(path)
        assert "left.json" in str(caught.value)
    for cut, match in ((text[:-20], "is not a whole JSON document"), ("{}", 'it has no "mmref_frontier" key')):
        path.write_text(cut)
        with pytest.raises(UsageError, match=match):
            explore(lastzero(4), resume=path)


# Executors that lose work ------------------------------------------------------------------------------------


class Unreliable(Executor):
    """An executor that does the first pieces of work, and then something else."""

    _max_workers = 2

    def __init__(self, good: int, instead: Callable[[Future[Any]], object]) -> None:
        self.good = good
        self.instead = instead

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.good -= 1
        if self.good >= 0:
            job, states, root, _, runs = args
            future.set_result(fn(job, states, root, 0.0, runs, **kwargs))  # one execution, so that something is left
        else:
            self.instead(future)
        return future


def fails(future: Future[Any]) -> None:
    future.set_exception(OSError("the network is down"))


def returns_nonsense(future: Future[Any]) -> None:
    future.set_result("done")


def is_cancelled(future: Future[Any]) -> None:
    future.cancel()


def is_shut_down(_: Future[Any]) -> None:
    raise RuntimeError("cannot schedule new futures after shutdown")


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        (fails, "a worker was lost (OSError: the network is down)"),
        (returns_nonsense, "a worker was lost (TypeError: it returned 'done')"),
        (is_cancelled, "a worker was lost (CancelledError)"),
        (is_shut_down, "a worker was lost (RuntimeError: cannot schedule new futures after shutdown)"),
    ],
)
@pytest.mark.parametrize("good", [0, 1])
def test_work_that_is_lost_is_left_to_do(instead: Any, reason: str, good: int) -> None:
    whole = explore(lastzero(7))
    report = explore(lastzero(7), executor=Unreliable(good, instead))
    assert (report.exhaustive, report.reason) == (False, reason)
    assert reason in report.verdict
    assert report.holds
    assert report.frontier is not None
    assert explore(lastzero(7), resume=report.frontier).executions == whole.executions


def dies() -> Sequence[Thread]:
    if os.getpid() != MAIN:
        os._exit(1)
    return lastzero(5)()


MAIN = os.getpid()


def test_a_pool_whose_process_dies() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as executor:
        report = explore(dies, executor=executor)
    assert "a worker was lost (BrokenProcessPool: A process in the process pool" in report.reason
    assert report.frontier is not None
    assert explore(dies, resume=report.frontier).executions == explore(lastzero(5)).executions


def test_what_is_no_executor_and_what_cannot_be_sent() -> None:
    with pytest.raises(UsageError, match=r"executor=3 cannot be used: give a concurrent\.futures\.Executor"):
        explore(readers(2), executor=3)
    with ProcessPoolExecutor(1) as pool, pytest.raises(UsageError, match="cannot be sent to another process"):
        explore(readers(2), executor=pool)


def sleeps_in_a_worker() -> Sequence[Thread]:
    return one_of_two(sleeps)()


def test_what_a_worker_refuses_is_said_here() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(UnexplorableProgram, match="the program sleeps at "):
        explore(sleeps_in_a_worker, executor=pool)


def test_ctrl_c_keeps_what_was_done() -> None:
    def press(done: Any) -> None:
        if done.number == 5:
            os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted) as caught:
            explore(lastzero(6), on_execution=press)
    finally:
        signal.signal(signal.SIGINT, previous)
    report = caught.value.report
    assert (report.executions, report.reason) == (5, "interrupted by Ctrl-C")
    assert report.frontier is not None
    assert explore(lastzero(6), resume=report.frontier).executions == explore(lastzero(6)).executions
