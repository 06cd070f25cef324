# SPDX-License-Identifier: GPL-2.0-only
"""Explain a counterexample: the one pair of accesses whose order makes the difference.

A counterexample has many pairs of accesses of different CPUs that depend on each other. Each of them that can come
in the other order is tried: the execution is run again with everything up to the first access as it was, then what
does not depend on it, then the second access, and only then the first. What follows keeps its order as far as it can.
The pair is the explanation if nothing is wrong with that execution.

What the CPU that noticed the fault did last is tried first: it is nearest to the fault. The access that came too late
may never have been performed in the counterexample, because it ended with the finding: so the other CPUs are let go on
to their end, and operations that still wait for a lock count as well.

Conventions in this file: *first* and *second* are events, by position; a pending operation stands behind all events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmref.errors import UsageError
from mmref.explore.locations import CONFLICTS, LOCK, MODE_NAMES, SHARE, UNLOCK, UNSHARE, Mode
from mmref.explore.program import Execution
from mmref.explore.recording import Recorder
from mmref.explore.schedule import FollowSchedule, FollowToTheEnd, Schedule
from mmref.explore.scheduler import ExploredCpu, Run
from mmref.explore.trace import RacingPair, Trace, TraceEvent, frozen_event

__all__ = ["explain"]

_MAX_TRIALS = 100
_MAX_EVENTS = 4_000
_FURTHER_STEPS = 2_000

Build = Callable[[], Execution]


@dataclass(frozen=True, slots=True)
class _Operation:
    """An event, or a pending operation.

    Attributes:
        cpu: the number of its CPU.
        accesses: (location id, mode) pairs.
        before: the set (bit mask) of events that happen before it.
        own: the set of events that happen before the last event of the same CPU, and that one.
    """

    cpu: int
    accesses: tuple[tuple[int, Mode], ...]
    before: int
    own: int


class _Watched(FollowToTheEnd):
    """Follow a schedule to its end and beyond, and find out what depends on what."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        super().__init__(choices)
        self.operations: list[_Operation] = []
        self.pending: list[_Operation] = []
        self.waiting: list[TraceEvent] = []
        self._own: dict[int, int] = {}

    def choose(self, run: Run) -> int:
        choice = super().choose(run)
        if choice < 0:
            for cpu in run.cpus:
                if run.unfinished & cpu.bit:
                    self.pending.append(self._operation(cpu))
                    self.waiting.append(
                        TraceEvent(-1, cpu.id, cpu.label or MODE_NAMES[cpu.mode], cpu.location.name,
                                   MODE_NAMES[cpu.mode], None, True, cpu.stack)
                    )  # fmt: skip
        return choice

    def executed(self, cpu: ExploredCpu, mode: int) -> None:  # noqa: ARG002 (it is in `accesses()` as well)
        operation = self._operation(cpu, cpu.joins)
        self._own[cpu.id] = operation.before | 1 << len(self.operations)
        self.operations.append(operation)

    def _operation(self, cpu: ExploredCpu, joins: tuple[int, ...] = ()) -> _Operation:
        accesses = tuple((location.id, further) for location, further in cpu.accesses())
        own = self._own.get(cpu.id, 0)
        for position in joins:
            own |= self.operations[position].before | 1 << position
        before = own
        for position in range(len(self.operations) - 1, -1, -1):
            if not before >> position & 1 and _dependent(self.operations[position].accesses, accesses):
                before |= self.operations[position].before | 1 << position
        return _Operation(cpu.id, accesses, before, own)


class _Reversed(FollowSchedule):
    """Follow a schedule that must fit; go on in another's order as far as that fits, then CPU by CPU."""

    def __init__(self, choices: tuple[int, ...], rest: list[int]) -> None:
        super().__init__(choices)
        self._rest = rest[::-1]

    def choose(self, run: Run) -> int:
        if run.steps < len(self._choices):
            return super().choose(run)
        enabled = run.enabled()
        while self._rest:
            cpu = self._rest.pop()
            if enabled >> cpu & 1:
                return cpu
        return (enabled & -enabled).bit_length() - 1


def explain(build: Build, trace: Trace, max_steps: int) -> RacingPair | None:
    """Return the pair of accesses whose order makes the difference, if there is one.

    Args:
        build: makes one execution's objects.
        trace: a counterexample.
        max_steps: the step limit of an execution.
    """
    choices = trace.schedule.choices
    if trace.verdict.holds or trace.verdict.kind == "step-limit" or len(choices) > _MAX_EVENTS:
        return None
    if trace.verdict.id == "DataRace":  # it names the two, and is one in either order
        return None
    watched = _Watched(choices)
    recorder = Recorder()
    limit = len(choices) + _FURTHER_STEPS
    Run(watched, max_steps=limit, recorder=recorder, stop_at_finding=False).go(build)
    operations = [*watched.operations, *watched.pending]
    for trials, (first, second) in enumerate(_candidates(watched, trace.verdict.cpu, len(choices))):
        if trials >= _MAX_TRIALS:
            break
        end = min(second, len(watched.operations))
        after = [place for place in range(first + 1, end) if operations[place].before >> first & 1]
        instead = [operations[place].cpu for place in range(end) if place != first and place not in after]
        instead.append(operations[second].cpu)
        rest = [operations[first].cpu, *(operations[place].cpu for place in after)]
        rest.extend(operation.cpu for operation in watched.operations[second + 1 :])
        run = Run(_Reversed(tuple(instead), rest), max_steps=max_steps)
        try:
            run.go(build)
        except UsageError:
            continue  # it cannot come first after all
        if run.finding is None:
            events = [*(frozen_event(event) for event in recorder.events), *watched.waiting]
            instead_of = Schedule.of(run.choices, trace.spec, trace.schedule.memory)
            return RacingPair(events[first], events[second], instead_of)
    return None


def _candidates(watched: _Watched, culprit: int | None, length: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of accesses that can come in the other order, the nearest to the fault first."""
    operations = [*watched.operations, *watched.pending]
    performed = len(watched.operations)
    mine = [place for place in range(performed) if operations[place].cpu == culprit and place < length]
    last = mine or range(min(length, performed))
    pending = range(performed, len(operations))
    seen = set()
    for one in (*reversed(pending), *reversed(last)):
        later = (other for other in range(max(one, length - 1) + 1, performed))
        earlier = (other for other in range(min(one, performed) - 1, -1, -1))
        for other in (*later, *earlier):
            first, second = min(one, other), max(one, other)
            if (first, second) not in seen and _reversible(operations[first], operations[second], first):
                seen.add((first, second))
                yield first, second


def _reversible(first: _Operation, second: _Operation, place: int) -> bool:
    """Tell whether two operations depend on each other, and the second might come before the first."""
    if first.cpu == second.cpu or second.own >> place & 1 or not _dependent(first.accesses, second.accesses):
        return False
    # Whoever waits for a lock cannot go before its release, only before it was taken.
    modes = {mode for _, mode in first.accesses}
    return not (modes & {UNLOCK, UNSHARE} and {mode for _, mode in second.accesses} & {LOCK, SHARE})


def _dependent(one: tuple[tuple[int, Mode], ...], other: tuple[tuple[int, Mode], ...]) -> bool:
    return any(
        location == place and CONFLICTS[mode] >> further & 1 for location, mode in one for place, further in other
    )
