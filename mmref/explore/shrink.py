# SPDX-License-Identifier: GPL-2.0-only
"""Make a counterexample easy to read: the same finding with the fewest context switches.

Two steps. First, events that do not depend on each other are reordered: among all schedules of the same
Mazurkiewicz trace, one with the fewest switches is found on the happens-before order alone, and confirmed by one
replay. Then a bounded search looks for another trace with the same finding and still fewer switches.

Every limit is a number of executions or steps, never a time, so that the result is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmref.errors import UsageError
from mmref.explore.bounded import BoundedSearch
from mmref.explore.locations import CONFLICTS, Mode
from mmref.explore.program import Execution
from mmref.explore.schedule import FollowSchedule, Schedule
from mmref.explore.scheduler import ExploredCpu, Run
from mmref.explore.verdict import Verdict

__all__ = ["shrink"]

_MAX_EXECUTIONS = 400
_MAX_STEPS = 20_000
_MAX_EVENTS = 2_000
"""Longer executions are only reordered if that is cheap: the happens-before order is quadratic in the length."""
_MAX_STATES = 20_000

Build = Callable[[], Execution]


def shrink(build: Build, choices: tuple[int, ...], verdict: Verdict, max_steps: int) -> tuple[int, ...]:
    """Return a schedule with the same finding and, if one is found, fewer context switches.

    Args:
        build: makes one execution's objects.
        choices: the schedule to start from.
        verdict: its finding.
        max_steps: the step limit of an execution.
    """
    if len(choices) <= _MAX_EVENTS:
        choices = _reordered(build, choices, verdict, max_steps)
    return _searched(build, choices, verdict, max_steps)


def _searched(build: Build, choices: tuple[int, ...], verdict: Verdict, max_steps: int) -> tuple[int, ...]:
    """Look for a schedule with the same finding and fewer switches, the fewest first."""
    executions = steps = 0
    for bound in range(Schedule(choices).switches):
        search = BoundedSearch(bound)
        more = True
        while more:
            run = Run(search, max_steps=max_steps, checked_steps=search.replayed)
            run.go(build)
            if run.finding is not None and Verdict.of(run).same_finding(verdict):
                return run.schedule()
            executions += 1
            steps += run.steps
            if executions >= _MAX_EXECUTIONS or steps >= _MAX_STEPS:
                return choices
            more = search.finish(run)
    return choices


class _Ordering(FollowSchedule):
    """Follow a schedule, and find out which events come before which."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        super().__init__(choices)
        self.cpus: list[int] = []
        self.before: list[int] = []  # per event, the set (bit mask) of events that happen before it
        self._accesses: list[tuple[tuple[int, Mode], ...]] = []

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:  # noqa: ARG002 (it is in `accesses()` as well)
        accesses = tuple((location.id, further) for location, further in cpu.accesses())
        before = 0
        for event in cpu.joins:
            before |= self.before[event] | 1 << event
        for event in range(len(self.cpus) - 1, -1, -1):
            if before >> event & 1:
                continue
            if self.cpus[event] == cpu.id or _dependent(self._accesses[event], accesses):
                before |= self.before[event] | 1 << event
        self.cpus.append(cpu.id)
        self.before.append(before)
        self._accesses.append(accesses)


def _dependent(one: tuple[tuple[int, Mode], ...], other: tuple[tuple[int, Mode], ...]) -> bool:
    return any(
        location == place and CONFLICTS[mode] >> further & 1 for location, mode in one for place, further in other
    )


def _reordered(build: Build, choices: tuple[int, ...], verdict: Verdict, max_steps: int) -> tuple[int, ...]:
    """Reorder the events of a schedule so that it has the fewest switches."""
    ordering = _Ordering(choices)
    run = Run(ordering, max_steps=max_steps)
    run.go(build)
    best = choices
    everything = (1 << len(choices)) - 1
    needed = [everything]
    if choices and verdict.cpu is not None:
        # What does not happen before the failure can be left out, unless the check looks at it all the same.
        last = max(event for event, cpu in enumerate(choices) if cpu == verdict.cpu)
        needed.insert(0, ordering.before[last] | 1 << last)
    for events in needed:
        candidate = _fewest_switches(ordering, events)
        if candidate is None or Schedule(candidate).switches > Schedule(best).switches:
            continue
        if Schedule(candidate).switches == Schedule(best).switches and len(candidate) >= len(best):
            continue
        run = Run(FollowSchedule(candidate), max_steps=max_steps)
        try:
            run.go(build)
        except UsageError:
            # The finding rested on something that was left out; without it the CPU goes another way.
            continue
        if run.finding is not None and Verdict.of(run).same_finding(verdict):
            best = run.schedule()
    return best


def _fewest_switches(ordering: _Ordering, events: int) -> tuple[int, ...] | None:
    """Return a linear extension of the happens-before order of some events with the fewest switches.

    To run a CPU for as long as the order allows is never wrong: it disables nothing. So a breadth-first search
    over the sets of performed events, one CPU's longest run at a time, finds the minimum.
    """
    lanes: dict[int, list[int]] = {}
    for event, cpu in enumerate(ordering.cpus):
        if events >> event & 1:
            lanes.setdefault(cpu, []).append(event)
    frontier: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(0, -1, ())]  # performed, last CPU, runs
    seen = {(0, -1)}
    while frontier:
        following = []
        for performed, last, runs in frontier:
            if performed == events:
                return tuple(cpu for cpu, count in runs for _ in range(count))
            for cpu, lane in lanes.items():
                if cpu == last:
                    continue
                reached, count = _longest_run(ordering.before, lane, performed, events)
                if count and (reached, cpu) not in seen:
                    seen.add((reached, cpu))
                    following.append((reached, cpu, (*runs, (cpu, count))))
        if len(seen) > _MAX_STATES:
            return None
        frontier = following
    return None


def _longest_run(before: Sequence[int], lane: list[int], performed: int, events: int) -> tuple[int, int]:
    """Perform as many of a CPU's events as the order allows; return what is performed then, and how many."""
    count = 0
    for event in lane:
        if performed >> event & 1:
            continue
        if before[event] & events & ~performed:
            break
        performed |= 1 << event
        count += 1
    return performed, count
