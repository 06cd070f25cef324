# SPDX-License-Identifier: GPL-2.0-only
"""Plain enumeration of all schedules: the oracle against which the other engines are held.

It shares nothing with them but the scheduler and the table of conflicts, and it is simple rather than fast.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TypeAlias

from mmref.explore.errors import NondeterministicProgram
from mmref.explore.locations import Mode, conflict
from mmref.explore.scheduler import BLOCKED, ExploredCpu, Run

__all__ = ["Enumeration", "TraceForm"]

TraceForm: TypeAlias = tuple[tuple[tuple[int, ...], ...], ...]
"""A Mazurkiewicz trace in canonical form: per CPU, the vector clock of each of its events."""


class _Event:
    def __init__(self, cpu: int, accesses: list[tuple[int, Mode]], clock: tuple[int, ...]) -> None:
        self.cpu = cpu
        self.accesses = accesses
        self.clock = clock


class Enumeration:
    """The chooser that tries every enabled CPU in every state.

    Attributes:
        traces: the Mazurkiewicz traces met so far.
    """

    name = "enumerate"

    def __init__(self) -> None:
        self.replayed = 0
        self.traces: set[TraceForm] = set()
        self._choices: list[list[int]] = []  # per state, the CPUs still to try; the last one is under way
        self._events: list[_Event] = []
        self._step = 0
        self._count = 0

    def choose(self, run: Run) -> int:
        """Follow the prefix; after it, try the lowest enabled CPU first."""
        self._count = len(run.cpus)
        step = run.steps
        if step < len(self._choices):
            number = self._choices[step][-1]
            if not run.unfinished >> number & 1:
                raise NondeterministicProgram(
                    f"the program is not deterministic: CPU {number} cannot go on at step {step} as it did before"
                )
            return number
        enabled = run.enabled()
        candidates = [cpu.id for cpu in run.cpus if enabled & cpu.bit]
        if not candidates:
            return -1
        candidates.reverse()
        self._choices.append(candidates)
        return candidates[-1]

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:  # noqa: ARG002 (it is in `accesses()` as well)
        """Give the event its vector clock: what it sees of each CPU's events."""
        self._step += 1
        if self._step <= len(self._events):
            return  # a step of the last execution, too
        accesses = [(location.id, further) for location, further in cpu.accesses()]
        clock = [0] * self._count
        for position, earlier in enumerate(self._events):
            if earlier.cpu == cpu.id or position in cpu.joins or _dependent(earlier.accesses, accesses):
                clock = [max(pair) for pair in zip_longest(clock, earlier.clock, fillvalue=0)]
        clock[cpu.id] += 1
        self._events.append(_Event(cpu.id, accesses, tuple(clock)))

    def finish(self, run: Run) -> bool:
        """Keep the trace, and go on with the next untried CPU of the last state that has one."""
        if run.end != BLOCKED:
            self.traces.add(
                tuple(
                    tuple(event.clock + (0,) * (self._count - len(event.clock)) for event in self._events
                          if event.cpu == number)
                    for number in range(self._count)
                )
            )
        self._step = 0
        while self._choices:
            self._choices[-1].pop()
            del self._events[len(self._choices) - 1 :]
            if self._choices[-1]:
                return True
            self._choices.pop()
        return False

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored."""
        return sum(len(candidates) - 1 for candidates in self._choices)

    def done(self) -> float:
        """Return the part of the search that is done, as far as can be told: nobody counts what has been tried."""
        return 0.0

    def left_out(self) -> str:
        """Say by what the search was limited: by nothing."""
        return ""


def _dependent(one: list[tuple[int, Mode]], other: list[tuple[int, Mode]]) -> bool:
    return any(
        location == place and conflict(mode, further) for location, mode in one for place, further in other
    )
