# SPDX-License-Identifier: GPL-2.0-only
"""Run every interleaving of simulated CPUs that matters, and show the one that goes wrong.

The engine (everything that is imported here at once) knows nothing of memory management. What binds it to the
floors below, the traced twins, the watched invariants and the catalogue of scenarios, is imported when it is asked
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.explore.cells import Cell, Mutex, SpinLock
from mmref.explore.detect import DETECTORS
from mmref.explore.errors import (
    EndlessLoop,
    Interrupted,
    NondeterministicProgram,
    OutputHeldBack,
    StepLimit,
    UnexplorableProgram,
)
from mmref.explore.explorer import explore
from mmref.explore.program import Execution, Program, Scenario
from mmref.explore.report import Completed, Progress, Report
from mmref.explore.scheduler import DEFAULT_MAX_STEPS
from mmref.explore.verdict import Verdict
from mmref.explore.watchdog import MAX_STEP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from mmref.explore.resume import Frontier
    from mmref.explore.scenario import CollapseScenario
    from mmref.explore.schedule import Schedule
    from mmref.explore.trace import Trace, TraceEvent

__all__ = ["DETECTORS", "Cell", "Completed", "EndlessLoop", "Execution", "Frontier", "Interrupted", "Mutex",
           "NondeterministicProgram", "OutputHeldBack", "Program", "Progress", "Report", "Scenario",
           "Schedule", "SpinLock", "StepLimit", "Trace", "TraceEvent", "UnexplorableProgram", "Verdict",
           "explore", "get_scenario", "invariants", "replay", "scenarios"]  # fmt: skip


_HOME = {"Frontier": "resume", "Schedule": "schedule", "Trace": "trace", "TraceEvent": "trace"}


def __getattr__(name: str) -> object:
    """Import what not every exploration needs when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def scenarios() -> dict[str, CollapseScenario]:
    """Return the scenarios by name.

    >>> list(scenarios())[:3]
    ['seek-data', 'seek-hole', 'mincore']
    """
    from mmref.explore import catalogue

    return catalogue.scenarios()


def get_scenario(name: str) -> CollapseScenario:
    """Return a scenario by its name.

    Raises:
        UsageError: there is none of that name; the message suggests the nearest.
    """
    from mmref.explore import catalogue

    return catalogue.get_scenario(name)


def invariants() -> dict[str, str]:
    """Return the watched invariants: id -> what must hold."""
    from mmref.explore import watched

    return watched.invariants()


def replay(
    trace_or_schedule: Trace | Schedule | str | Path,
    program: Program | Scenario | None = None,
    strategy: object | None = None,
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
    detect: Collection[str] | None = None,
    max_step_seconds: float | None = MAX_STEP_SECONDS,
) -> Trace:
    """Run one execution again, and return its trace.

    Args:
        trace_or_schedule: a trace, a schedule, a schedule string, or the path of a trace's JSON file.
        program: what to run; may be left out if the schedule names a scenario.
        strategy: for a scenario: the strategy.
        max_steps: as for `explore()`.
        detect: as for `explore()`; what a trace has found is looked for in any case.
        max_step_seconds: as for `explore()`.

    Raises:
        UsageError: the schedule does not fit the program, or the file is no trace.
        NondeterministicProgram: a trace was given, and the execution is another one now.
    """

    def resolve(spec: str) -> tuple[Program | Scenario, object | None]:
        from mmref.explore import catalogue

        return catalogue.scenario_from_spec(spec)

    from mmref.explore import rerun

    return rerun.replay(
        trace_or_schedule, program, strategy, resolve=resolve, max_steps=max_steps, detect=detect,
        max_step_seconds=max_step_seconds,
    )  # fmt: skip
