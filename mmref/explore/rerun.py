# SPDX-License-Identifier: GPL-2.0-only
"""Run one known schedule again: `replay()`, and the trace of a finding."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from mmref.errors import UsageError
from mmref.explore.detect import detectors
from mmref.explore.errors import NondeterministicProgram, StepLimit
from mmref.explore.outside import refuse_what_is_not_explored
from mmref.explore.program import Execution, Program, Scenario, builder, describe
from mmref.explore.recording import Event, Recorder
from mmref.explore.schedule import FollowSchedule, FollowToTheEnd, Schedule
from mmref.explore.scheduler import DEFAULT_MAX_STEPS, FAILED, Run
from mmref.explore.trace import Trace
from mmref.explore.verdict import Verdict
from mmref.explore.watchdog import MAX_STEP_SECONDS, Watchdog
from mmref.explore.work import Interrupt, forget_last_execution

__all__ = ["Resolver", "record", "replay"]

_AFTERMATH_STEPS = 2_000

Resolver = Callable[[str], tuple[Program | Scenario, object | None]]
"""Finds the program and strategy that the front part of a schedule string names."""


def replay(
    trace_or_schedule: Trace | Schedule | str | Path,
    program: Program | Scenario | None = None,
    strategy: object | None = None,
    *,
    resolve: Resolver | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    detect: Collection[str] | None = None,
    max_step_seconds: float | None = MAX_STEP_SECONDS,
) -> Trace:
    """Run one execution again, and return its trace.

    Args:
        trace_or_schedule: a trace, a schedule, a schedule string, or the path of a trace's JSON file.
        program: what to run; needed unless the schedule names it and `resolve` finds it.
        strategy: for a scenario: the strategy.
        resolve: finds the program and strategy that the front part of a schedule string names.
        max_steps: as for `explore()`.
        detect: as for `explore()`; what a trace has found is looked for in any case.
        max_step_seconds: as for `explore()`.

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
    wanted = detectors(detect, "replay", schedule.memory)
    if expected is not None and expected.verdict.id == "LostUpdate":
        wanted |= {"lost-update"}
    refuse_what_is_not_explored()
    build = builder(program, strategy, schedule.memory, wanted)
    try:
        with Interrupt(patient=False) as interrupt, Watchdog(max_step_seconds, interrupt):
            trace = record(build, schedule.choices, name, spec, max_steps)
    finally:
        forget_last_execution()
    if expected is not None:
        _compare(expected, trace)
    return trace


def record(build: Callable[[], Execution], choices: tuple[int, ...], name: str, spec: str, max_steps: int) -> Trace:
    """Run one schedule with everything recorded."""
    recorder = Recorder()
    run = Run(FollowSchedule(choices), max_steps=max(max_steps, len(choices)), recorder=recorder, observed=True)
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
    same = expected.verdict == trace.verdict
    if trace.verdict.kind == "step-limit":  # where in a loop it was ended is a matter of time
        same = expected.verdict.same_finding(trace.verdict)
    if not same:
        raise NondeterministicProgram(
            f"the replay ends otherwise: {expected.verdict} was recorded, now {trace.verdict}; has the program"
            " changed since, or does it depend on more than the schedule?"
        )
