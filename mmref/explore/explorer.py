# SPDX-License-Identifier: GPL-2.0-only
"""The front door: `explore()` and `replay()`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Protocol

from mmref.errors import UsageError
from mmref.explore.dpor import SourceDpor
from mmref.explore.errors import NondeterministicProgram, StepLimit
from mmref.explore.locations import THREAD
from mmref.explore.program import Execution, Program, Scenario, builder, describe
from mmref.explore.report import Completed, Progress, Report
from mmref.explore.schedule import FollowSchedule, FollowToTheEnd, Schedule
from mmref.explore.scheduler import BLOCKED, FAILED, Chooser, Event, Recorder, Run
from mmref.explore.trace import Trace, Verdict

__all__ = ["DEFAULT_MAX_STEPS", "ENGINES", "Engine", "Resolver", "explore", "replay"]

DEFAULT_MAX_STEPS = 20_000
_AFTERMATH_STEPS = 2_000


class Engine(Chooser, Protocol):
    """A search algorithm: chooses within one execution, and plans the next."""

    name: str
    replayed: int

    def finish(self, run: Run) -> bool:
        """Take note of the end of an execution, and prepare the next; tell whether there is one."""

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored."""

    def done(self) -> float:
        """Return the part of the search that is done, between 0 and 1, as far as can be told; 0 if it cannot."""

    def left_out(self) -> str:
        """Say by what the search was limited, if it has come to its end; "" if by nothing."""


ENGINES: dict[str, str] = {
    "source": "source-DPOR with sleep sets: one complete execution per Mazurkiewicz trace",
    "optimal": "optimal DPOR with wakeup trees: no execution is started in vain",
    "states": "every state once, for programs whose many traces meet in few states",
    "enumerate": "every schedule, for very small programs",
    "bounded": "every schedule with at most `bound` preemptions",
    "random": "random schedules, drawn with `seed`",
    "pct": "random priorities, drawn with `seed`, for bugs of depth `bound`",
}
"""The algorithms: name -> what it does."""

DEFAULT_SAMPLES = 1_000
"""Executions of an engine that never comes to an end by itself, if `max_executions` does not say."""


def _make_engine(name: str | None, bound: int | None, seed: int | None) -> Engine:
    """Return the engine that the arguments of `explore()` ask for."""
    if name is None:
        name = "bounded" if bound is not None and seed is None else "source" if seed is None else "random"
    if name not in ENGINES:
        import difflib

        close = difflib.get_close_matches(str(name), ENGINES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(ENGINES)}"
        raise UsageError(f"engine={name!r} is unknown: {hint}")
    if bound is not None and name not in {"bounded", "pct"}:
        raise UsageError(f"bound={bound!r} means nothing to engine {name!r}: use engine='bounded' or 'pct'")
    if seed is not None and name not in {"random", "pct"}:
        raise UsageError(f"seed={seed!r} means nothing to engine {name!r}: use engine='random' or 'pct'")
    match name:
        case "source":
            return SourceDpor()
        case "optimal":
            from mmref.explore.optimal import OptimalDpor

            return OptimalDpor()
        case "states":
            from mmref.explore.states import StateSearch

            return StateSearch()
        case "enumerate":
            from mmref.explore.enumeration import Enumeration

            return Enumeration()
        case "bounded":
            from mmref.explore.bounded import BoundedSearch

            return BoundedSearch(2 if bound is None else bound, preemptions_only=True)
        case "pct":
            from mmref.explore.sampling import Pct

            return Pct(seed or 0, 3 if bound is None else bound)
        case _:
            from mmref.explore.sampling import RandomWalk

            return RandomWalk(seed or 0)


Resolver = Callable[[str], tuple[Program | Scenario, object | None]]
"""Finds the program and strategy that the front part of a schedule string names."""


def explore(
    program: Program | Scenario,
    strategy: object | None = None,
    bound: int | None = None,
    memory: str = "sc",
    seed: int | None = None,
    executor: object | None = None,
    max_executions: int | None = None,
    progress: Callable[[Progress], object] | None = None,
    *,
    engine: str | None = None,
    on_execution: Callable[[Completed], object] | None = None,
    stop_at_first: bool = True,
    max_steps: int = DEFAULT_MAX_STEPS,
    shrink_counterexample: bool = True,
) -> Report:
    """Run every interleaving of a program's CPUs that matters, and report what goes wrong in one of them.

    Args:
        program: a function that creates the shared cells and returns one callable per thread, or a scenario.
        strategy: for a scenario: the strategy to judge.
        bound: for engine "bounded": the number of preemptions (2 if left out); for "pct": the depth of the bugs
            looked for (3 if left out).
        memory: the memory model; "sc" (sequential consistency) is the only one yet.
        seed: for the engines "random" and "pct".
        executor: not available yet.
        max_executions: give up after so many executions, blocked ones included; random engines, which never
            come to an end, make 1,000 if it is left out.
        progress: called a few times per second.
        engine: the algorithm, one of `ENGINES`; "source" if left out, unless a `bound` or `seed` is given.
        on_execution: called after each complete execution.
        stop_at_first: end with the first finding; otherwise explore everything and keep the first.
        max_steps: accesses after which one execution is taken to be endless.
        shrink_counterexample: look for an execution with the same finding and fewer context switches.

    Raises:
        UsageError: an argument cannot be used, or the program is not deterministic.

    >>> from mmref.explore import Cell
    >>> def program():
    ...     x = Cell(0)
    ...     return [lambda: x.store(1), x.load, x.load]
    >>> explore(program).executions
    4
    """
    if executor is not None:
        raise UsageError(f"executor={executor!r} is not available yet: leave executor out")
    if memory != "sc":
        raise UsageError(f"memory={memory!r} is not available: only 'sc' (sequential consistency) is")
    for name, value in (("max_executions", max_executions), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value} must be at least 1")
    chosen = _make_engine(engine, bound, seed)
    if max_executions is None and chosen.name in {"random", "pct"}:
        max_executions = DEFAULT_SAMPLES
    search = _Search(builder(program, strategy), chosen, max_steps, stop_at_first)
    try:
        return search.report(*describe(program, strategy), max_executions, progress, on_execution,
                             shrink_counterexample)  # fmt: skip
    finally:
        _forget_last_execution()


def replay(
    trace_or_schedule: Trace | Schedule | str | Path,
    program: Program | Scenario | None = None,
    strategy: object | None = None,
    *,
    resolve: Resolver | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Trace:
    """Run one execution again, and return its trace.

    Args:
        trace_or_schedule: a trace, a schedule, a schedule string, or the path of a trace's JSON file.
        program: what to run; needed unless the schedule names it and `resolve` finds it.
        strategy: for a scenario: the strategy.
        resolve: finds the program and strategy that the front part of a schedule string names.
        max_steps: as for `explore()`.

    Raises:
        UsageError: the schedule does not fit the program, or the file is no trace.
        NondeterministicProgram: a trace was given, and the execution is another one now.
    """
    schedule, expected = _what_to_replay(trace_or_schedule)
    if program is None:
        if resolve is None or not schedule.spec:
            raise UsageError(f"the schedule {str(schedule)!r} does not say what to run: give the program as well")
        program, strategy = resolve(schedule.spec)
    name, spec = describe(program, strategy)
    try:
        trace = record(builder(program, strategy), schedule.choices, name, spec, max_steps)
    finally:
        _forget_last_execution()
    if expected is not None:
        _compare(expected, trace)
    return trace


def record(build: Callable[[], Execution], choices: tuple[int, ...], name: str, spec: str, max_steps: int) -> Trace:
    """Run one schedule with everything recorded."""
    recorder = Recorder()
    run = Run(FollowSchedule(choices), max_steps=max(max_steps, len(choices)), recorder=recorder)
    run.go(build)
    if run.steps < len(choices):
        raise UsageError(
            f"the schedule does not fit: the program ended after {run.steps} steps ({Verdict.of(run)}), but the"
            f" schedule has {len(choices)}"
        )
    return Trace.of(run, recorder, name, spec, _aftermath(build, run, choices))


def _aftermath(build: Callable[[], Execution], run: Run, choices: tuple[int, ...]) -> list[Event]:
    """Let the other CPUs finish after a finding, and return what they do: often what came too late."""
    if run.end != FAILED or isinstance(run.finding, StepLimit):
        return []
    recorder = Recorder()
    further = Run(
        FollowToTheEnd(choices), max_steps=len(choices) + _AFTERMATH_STEPS, recorder=recorder, stop_at_finding=False
    )
    further.go(build)
    return recorder.events[len(choices) :]


class _Search:
    """One exploration: the executions, and the account of them."""

    def __init__(self, build: Callable[[], Execution], engine: Engine, max_steps: int, stop_at_first: bool) -> None:
        self.build = build
        self.engine = engine
        self.max_steps = max_steps
        self.stop_at_first = stop_at_first
        self.executions = 0
        self.blocked = 0
        self.findings = 0
        self.steps = 0
        self.found_in: int | None = None
        self.first: tuple[tuple[int, ...], Verdict] | None = None

    def report(
        self,
        name: str,
        spec: str,
        max_executions: int | None,
        progress: Callable[[Progress], object] | None,
        on_execution: Callable[[Completed], object] | None,
        shrink_counterexample: bool,
    ) -> Report:
        """Run the exploration and account for it."""
        start = monotonic()
        last_progress = start
        reason = ""
        engine = self.engine
        while True:
            run = Run(
                engine, max_steps=self.max_steps, stop_at_finding=self.stop_at_first,
                checked_steps=engine.replayed if self.stop_at_first else 0,
            )  # fmt: skip
            run.go(self.build)
            self._account(run, on_execution)
            if run.finding is not None and (self.stop_at_first or isinstance(run.finding, StepLimit)):
                reason = "stopped at the first finding"
                break
            if not engine.finish(run):
                reason = engine.left_out()
                break
            if max_executions is not None and self.executions + self.blocked >= max_executions:
                reason = engine.left_out() or f"stopped by max_executions={max_executions}"
                break
            if progress is not None and monotonic() - last_progress > 0.2:
                last_progress = monotonic()
                progress(self._progress(last_progress - start))
        trace = None
        if self.first is not None:
            choices, verdict = self.first
            if shrink_counterexample and verdict.kind != "step-limit":
                from mmref.explore.shrink import shrink

                choices = shrink(self.build, choices, verdict, self.max_steps)
            trace = record(self.build, choices, name, spec, self.max_steps)
        return Report(
            program=name, engine=engine.name, executions=self.executions, blocked=self.blocked,
            exhaustive=not reason, reason=reason, counterexample=trace, found_in=self.found_in,
            findings=self.findings, steps=self.steps, seconds=monotonic() - start,
        )  # fmt: skip

    def _progress(self, seconds: float) -> Progress:
        done = self.engine.done()
        estimated = round((self.executions + self.blocked) / done) if done else None
        return Progress(self.executions, self.blocked, self.engine.pending(), estimated, seconds)

    def _account(self, run: Run, on_execution: Callable[[Completed], object] | None) -> None:
        self.steps += run.steps
        if run.end == BLOCKED and run.finding is None:
            self.blocked += 1
            return
        self.executions += 1
        if run.finding is not None:
            self.findings += 1
            if self.first is None:
                self.found_in = self.executions
                self.first = run.schedule(), Verdict.of(run)
        if on_execution is not None:
            results = [cpu.result for cpu in run.cpus]
            on_execution(Completed(self.executions, run.schedule(), Verdict.of(run), results))


def _forget_last_execution() -> None:
    """Let the objects of the last execution go: the pooled CPUs refer to them."""
    for worker in THREAD.pool or ():
        worker.cpu.forget()


def _what_to_replay(what: Trace | Schedule | str | Path) -> tuple[Schedule, Trace | None]:
    """Tell a trace, a schedule and a file apart."""
    if isinstance(what, Trace):
        return what.schedule, what
    if isinstance(what, Schedule):
        return what, None
    if isinstance(what, Path) or what.endswith(".json"):
        trace = Trace.load(what)
        return trace.schedule, trace
    if what.lstrip().startswith("{"):
        trace = Trace.from_json(what)
        return trace.schedule, trace
    return Schedule.parse(what), None


def _compare(expected: Trace, trace: Trace) -> None:
    """Check that a replayed execution is the one that was recorded."""
    for old, new in zip(expected.events, trace.events, strict=True):
        if (old.label, old.location, old.mode, old.value) != (new.label, new.location, new.mode, new.value):
            raise NondeterministicProgram(
                f"the replay differs at step {old.step}: {expected.cpus[old.cpu]} did {old.label} of"
                f" {old.location} ({old.mode}, {old.value!r}), now {new.label} of {new.location} ({new.mode},"
                f" {new.value!r}); has the program changed since, or does it depend on more than the schedule?"
            )
    if expected.verdict != trace.verdict:
        raise NondeterministicProgram(
            f"the replay ends otherwise: {expected.verdict} was recorded, now {trace.verdict}; has the program"
            " changed since, or does it depend on more than the schedule?"
        )
