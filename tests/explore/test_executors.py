# SPDX-License-Identifier: GPL-2.0-only
"""A search that is shared among workers finds what the serial one finds, execution by execution."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Completed, Frontier, Mutex, NondeterministicProgram, Report, crew, explore, get_scenario

from .programs import casw, inc, lastzero, lockinc, pc, readers
from .random_programs import Outcomes, ThreadCode, World, flat, generate

Thread = Callable[[], object]


class Shuffled(Executor):
    """An executor that does the work only when it is waited for, and in any order.

    Made for the tests: with `crew.wait` replaced, one piece of work is done at a time, chosen at random.
    """

    _max_workers = 3

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.pieces = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        return future

    def wait(self, _: object, **_how: object) -> tuple[set[Any], set[Any]]:
        self.waiting = [one for one in self.waiting if not one[0].cancelled()]
        future, fn, (job, states, root, _, runs) = self.waiting.pop(self.random.randrange(len(self.waiting)))
        self.pieces += 1
        future.set_result(fn(job, states, root, 0.0, runs))  # one execution at a time
        return {future}, set()


def outcome(report: Report) -> tuple[object, ...]:
    """Return what must not depend on who did the work."""
    return (report.executions, report.blocked, report.steps, report.findings, report.found_in, report.exhaustive,
            report.reason, report.counterexample)  # fmt: skip


def shuffled(monkeypatch: pytest.MonkeyPatch, seed: int) -> Shuffled:
    executor = Shuffled(seed)
    monkeypatch.setattr(crew, "wait", executor.wait)
    return executor


@pytest.mark.parametrize("engine", ["source", "optimal"])
@pytest.mark.parametrize(
    "program", [readers(5), lastzero(5), inc(3), casw(3), lockinc(4), pc(2, 2), pc(3, 1)], ids=range(7)
)
def test_divided_after_every_execution(
    program: Callable[[], Sequence[Thread]], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = explore(program, engine=engine)
    for seed in range(3):
        executor = shuffled(monkeypatch, seed)
        assert outcome(explore(program, engine=engine, executor=executor)) == outcome(serial)
        assert executor.pieces > 3


@pytest.mark.parametrize("engine", ["source", "optimal"])
@pytest.mark.parametrize("stop", [False, True])
def test_random_programs(engine: str, stop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    executions = findings = 0
    for seed in range(120):
        program = Outcomes(generate(seed, locks=seed % 4 != 0, waits=seed % 5 == 0)).program
        serial = explore(program, engine=engine, stop_at_first=stop, shrink_counterexample=False)
        report = explore(
            program, engine=engine, stop_at_first=stop, shrink_counterexample=False,
            executor=shuffled(monkeypatch, seed),
        )  # fmt: skip
        assert outcome(report) == outcome(serial), f"seed {seed}"
        executions += report.executions
        findings += report.findings
    assert executions > 1000
    assert findings > 5


def readers_of_seven() -> Sequence[Thread]:
    return readers(7)()


def lastzero_of_eight() -> Sequence[Thread]:
    return lastzero(8)()


def page_cache_without_check() -> Sequence[Thread]:
    return pc(4, 1, check=False)()


@pytest.mark.parametrize("engine", ["source", "optimal"])
@pytest.mark.parametrize("program", [readers_of_seven, lastzero_of_eight, page_cache_without_check])
@pytest.mark.parametrize("processes", [False, True])
def test_threads_and_processes(program: Callable[[], Sequence[Thread]], engine: str, processes: bool) -> None:
    executor: Executor = ProcessPoolExecutor(2) if processes else ThreadPoolExecutor(3)
    with executor:
        report = explore(program, engine=engine, executor=executor)
    assert outcome(report) == outcome(explore(program, engine=engine))


def test_a_scenario_in_processes() -> None:
    scenario = get_scenario("seek-data")
    with ProcessPoolExecutor(2) as executor:
        race = explore(scenario, "freeze-and-replace", executor=executor)
        none = explore(scenario, "lock-and-insert-late", executor=executor)
    assert outcome(race) == outcome(explore(scenario, "freeze-and-replace"))
    assert outcome(none) == outcome(explore(scenario, "lock-and-insert-late"))
    assert not race.holds
    assert none.holds


def test_processes_that_share_no_memory() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        report = explore(get_scenario("read"), executor=executor)
    assert outcome(report) == outcome(explore(get_scenario("read")))


def test_on_execution_is_told_in_the_order_of_the_serial_search(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lastzero(4)
    expected: list[Completed] = []
    told: list[Completed] = []
    explore(program, on_execution=expected.append)
    explore(program, on_execution=told.append, executor=shuffled(monkeypatch, 5))
    assert told == expected


def test_progress_of_a_shared_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100_000))
    monkeypatch.setattr("mmref.explore.explorer.monotonic", lambda: float(next(clock)))
    seen: list[Any] = []
    report = explore(readers(5), executor=shuffled(monkeypatch, 1), engine="source", progress=seen.append)
    assert report.executions == 32
    assert seen[-1].executions > 16
    assert all(one.estimated is None or 8 <= one.estimated <= 128 for one in seen)
    assert max(one.pending for one in seen) > 3


def in_threads(threads: list[ThreadCode]) -> Callable[[], Sequence[Thread]]:
    """Return a random program that several threads can run at once."""

    def program() -> Sequence[Thread]:
        world = World([flat(code) for code in threads])
        return [world.thread(number, code) for number, code in enumerate(threads)]

    return program


@pytest.mark.parametrize("engine", ["random", "pct"])
@pytest.mark.parametrize("stop", [False, True])
def test_random_engines(engine: str, stop: bool) -> None:
    findings = 0
    with ThreadPoolExecutor(3) as executor:
        for seed in range(12):
            program = in_threads(generate(seed, locks=True))
            told: list[Completed] = []
            expected: list[Completed] = []
            report = explore(program, engine=engine, seed=seed, stop_at_first=stop, max_executions=350,
                             shrink_counterexample=False, executor=executor, on_execution=told.append)  # fmt: skip
            serial = explore(program, engine=engine, seed=seed, stop_at_first=stop, max_executions=350,
                             shrink_counterexample=False, on_execution=expected.append)  # fmt: skip
            assert outcome(report) == outcome(serial)
            assert told == expected
            findings += report.findings
    assert findings > 3


@pytest.mark.parametrize("engine", ["random", "pct"])
def test_random_engines_in_processes(engine: str) -> None:
    with ProcessPoolExecutor(2) as executor:
        for program in (lastzero_of_eight, page_cache_without_check):
            report = explore(program, engine=engine, max_executions=501, executor=executor)
            assert outcome(report) == outcome(explore(program, engine=engine, max_executions=501))
        report = explore(dies_at_once, engine=engine, executor=executor)
    assert report.reason.startswith("a worker was lost (BrokenProcessPool")
    assert (report.executions, report.exhaustive) == (1, False)


def dies_at_once() -> Sequence[Thread]:
    if os.getpid() != MAIN:
        os._exit(1)
    return lastzero(3)()


# What goes wrong


def test_a_program_that_cannot_be_sent() -> None:
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(UsageError, match=r"cannot be sent to another process .*: give a function at the top level"),
    ):
        explore(readers(3), executor=executor)


@pytest.mark.parametrize("engine", ["states", "bounded", "enumerate"])
def test_engines_that_cannot_share(engine: str) -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(UsageError, match=f"engine '{engine}' cannot share"):
        explore(readers(3), engine=engine, executor=executor)


def dies_now_and_then() -> Sequence[Thread]:
    if os.getpid() != MAIN and random.random() < 0.02:
        os._exit(1)
    return lastzero(7)()


MAIN = os.getpid()


def test_a_killed_worker_costs_nothing_but_time() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor:
        report = explore(dies_now_and_then, executor=executor)
    assert not report.exhaustive
    assert report.reason.startswith("a worker was lost (BrokenProcessPool: A process in the process pool")
    assert report.holds
    assert report.frontier is not None
    assert "a worker was lost" in report.verdict
    assert outcome(explore(dies_now_and_then, resume=report.frontier)) == outcome(explore(dies_now_and_then))


def lastzero_of_ten() -> Sequence[Thread]:
    return lastzero(10)()


def test_a_worker_that_is_killed_from_outside() -> None:
    with ProcessPoolExecutor(2) as executor:

        def kill_one(_: object) -> None:
            processes = list(executor._processes.values())
            if processes and not killed:
                killed.append(processes[0].pid)
                os.kill(processes[0].pid, signal.SIGKILL)

        killed: list[int] = []
        report = explore(lastzero_of_ten, executor=executor, progress=kill_one)
    assert killed
    assert not report.exhaustive
    assert report.executions < 3328
    assert report.reason.startswith("a worker was lost (BrokenProcessPool: A process in the process pool")
    frontier = Frontier.from_json(report.frontier.to_json())
    assert frontier.executions == report.executions
    resumed = explore(lastzero_of_ten, resume=frontier)
    assert (resumed.executions, resumed.blocked, resumed.exhaustive) == (3328, 0, True)


class Loses(ThreadPoolExecutor):
    """An executor that loses every third task."""

    def __init__(self, how: BaseException | str) -> None:
        super().__init__(1)
        self.how = how
        self.count = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        if self.count % 3:
            return super().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        if isinstance(self.how, BaseException):
            future.set_exception(self.how)
        elif self.how == "cancel":
            future.cancel()
        else:
            future.set_result(self.how)
        return future


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (OSError("connection reset"), "a worker was lost (OSError: connection reset)"),
        ("cancel", "a worker was lost (CancelledError)"),
        ("nonsense", "a worker was lost (TypeError: it returned 'nonsense')"),
    ],
)
def test_a_lost_task(how: BaseException | str, reason: str) -> None:
    program = lastzero(6)
    parts = 0
    with Loses(how) as executor:
        report = explore(program, executor=executor, max_executions=30)
        while report.frontier is not None:
            assert not report.exhaustive
            assert report.reason == reason or report.reason.startswith("stopped by max_executions")
            parts += report.reason == reason
            more = report.executions + report.blocked + 30
            report = explore(program, executor=executor, max_executions=more, resume=report.frontier)
    assert parts > 1
    assert outcome(report) == outcome(explore(program))


def test_an_executor_that_is_shut_down() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    report = explore(readers(3), executor=executor)
    assert report.reason.startswith("a worker was lost (RuntimeError: cannot schedule new futures")
    assert (report.executions, report.exhaustive) == (0, False)
    assert explore(readers(3), resume=report.frontier).executions == 8


def counts_its_calls() -> Sequence[Thread]:
    x = Cell(0, "x")
    counts_its_calls.calls = getattr(counts_its_calls, "calls", 0) + 1  # type: ignore[attr-defined]
    if counts_its_calls.calls % 7 == 0:  # type: ignore[attr-defined]
        x = Cell(0, "y")
    return [lambda: x.store(1), lambda: x.store(x.load() + 1), x.load]


def test_what_the_program_does_wrong_is_raised_as_without_an_executor() -> None:
    with ProcessPoolExecutor(1) as executor, pytest.raises(NondeterministicProgram):
        explore(counts_its_calls, executor=executor)


def raises_in_set_up() -> Sequence[Thread]:
    raise KeyError("set-up")


def test_an_exception_of_the_set_up() -> None:
    with ProcessPoolExecutor(1) as executor, pytest.raises(KeyError, match="set-up"):
        explore(raises_in_set_up, executor=executor)


def test_a_deadlock_is_found_by_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> Sequence[Thread]:
        a, b = Mutex("a"), Mutex("b")

        def thread(one: Mutex, other: Mutex) -> Thread:
            def run() -> None:
                with one, other:
                    pass

            return run

        return [thread(a, b), thread(b, a), thread(a, b)]

    for stop in (False, True):
        serial = explore(program, stop_at_first=stop)
        assert serial.findings
        report = explore(program, stop_at_first=stop, executor=shuffled(monkeypatch, 2))
        assert outcome(report) == outcome(serial)
