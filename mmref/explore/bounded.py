# SPDX-License-Identifier: GPL-2.0-only
"""Search bounded by context switches: all schedules with few of them, fewest first.

Musuvathi, Qadeer: Iterative context bounding for systematic testing of multithreaded programs (PLDI 2007). Most
races need very few switches, and a schedule with few of them is the one that a reader can follow.

Where to switch is restricted without loss: if a CPU is interrupted before an operation that nothing depends on
until the CPU goes on, it could as well have been interrupted one operation later.
"""

from __future__ import annotations

from mmref.errors import UsageError
from mmref.explore.errors import NondeterministicProgram
from mmref.explore.locations import CONFLICTS, Mode
from mmref.explore.scheduler import ExploredCpu, Run

__all__ = ["BoundedSearch"]


class BoundedSearch:
    """The chooser that explores every schedule with at most `bound` switches.

    Attributes:
        bound: the number of switches allowed.
        preemptions_only: count a switch only if the CPU could have gone on (a preemption); switches from a CPU
            that has ended or waits are then free.
        cut: whether a schedule has been left out because of the bound.
    """

    name = "bounded"

    def __init__(self, bound: int, *, preemptions_only: bool = False) -> None:
        if bound < 0:
            raise UsageError(f"bound={bound} must not be negative")
        self.bound = bound
        self.preemptions_only = preemptions_only
        self.cut = False
        self.replayed = 0
        self._states: list[_State] = []
        self._events: list[tuple[tuple[int, Mode], ...]] = []
        self._depth = 0

    def choose(self, run: Run) -> int:
        """Follow the prefix; after it, stay on the CPU that runs for as long as it can."""
        states = self._states
        depth = self._depth
        if depth < len(states):
            choice = states[depth].choices[-1]
            if not run.enabled() >> choice & 1:
                raise NondeterministicProgram(
                    f"the program is not deterministic: CPU {choice} cannot go on at step {depth} as it did before"
                )
            return choice
        enabled = run.enabled()
        if not enabled:
            return -1
        last = states[-1] if states else None
        running = last.choices[-1] if last is not None else -1
        used = last.used if last is not None else 0
        interrupted = dict(last.interrupted) if last is not None else {}
        goes_on = running >= 0 and enabled >> running & 1
        choices = []
        if goes_on:
            choices.append(running)
        price = 0 if running < 0 or (self.preemptions_only and not goes_on) else 1
        if used + price <= self.bound:
            choices.extend(
                cpu.id
                for cpu in run.cpus
                if enabled & cpu.bit and cpu.id != running and self._worth_it(cpu, interrupted.get(cpu.id))
            )
        else:
            self.cut = self.cut or bool(enabled & ~(1 << running))
        if not choices:
            return -1
        choices.reverse()
        states.append(_State(choices, running, used, price, interrupted, goes_on=bool(goes_on), depth=depth))
        return choices[-1]

    def _worth_it(self, cpu: ExploredCpu, since: int | None) -> bool:
        """Tell whether anything performed since a CPU was interrupted depends on its pending operation."""
        if since is None:
            return True
        pending = {location.id: mode for location, mode in cpu.accesses()}
        for accesses in self._events[since:]:
            for location, mode in accesses:
                other = pending.get(location)
                if other is not None and CONFLICTS[mode] >> other & 1:
                    return True
        return False

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Keep what was accessed."""
        state = self._states[self._depth]
        self._depth += 1
        if self._depth > len(self._events):
            if cpu.more is None:
                self._events.append(((cpu.location.id, mode),))
            else:
                self._events.append(tuple((location.id, further) for location, further in cpu.accesses()))
        state.arrive()

    def finish(self, run: Run) -> bool:  # noqa: ARG002 (part of the interface)
        """Go on with the next untried CPU of the last state that has one."""
        states = self._states
        self._depth = 0
        while states:
            states[-1].choices.pop()
            del self._events[len(states) - 1 :]
            if states[-1].choices:
                self.replayed = len(states) - 1
                return True
            states.pop()
        return False

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored."""
        return sum(len(state.choices) - 1 for state in self._states)

    def done(self) -> float:
        """Return the part of the search that is done, as far as can be told: nobody counts what has been tried."""
        return 0.0

    def left_out(self) -> str:
        """Say by what the search was limited, if it left a schedule out."""
        what = "preemptions" if self.preemptions_only else "context switches"
        return f"bounded by {self.bound} {what}" if self.cut else ""


class _State:
    """A state of the execution under way.

    Attributes:
        choices: the CPUs still to try; the last one is under way.
        used: the switches made up to and including its step.
        interrupted: the CPUs that were interrupted and have not gone on, each with the step at which they were.
    """

    __slots__ = ("_before", "_depth", "_goes_on", "_interrupted_before", "_price", "_running", "choices",
                 "interrupted", "used")  # fmt: skip

    def __init__(
        self, choices: list[int], running: int, used: int, price: int, interrupted: dict[int, int], *,
        goes_on: bool, depth: int,
    ) -> None:  # fmt: skip
        self.choices = choices
        self.used = used
        self.interrupted = interrupted
        self._running = running
        self._before = used
        self._price = price
        self._interrupted_before = interrupted
        self._goes_on = goes_on
        self._depth = depth

    def arrive(self) -> None:
        """Account for the step of the CPU that is under way."""
        choice = self.choices[-1]
        if choice == self._running:
            self.used = self._before
            self.interrupted = self._interrupted_before
            return
        self.used = self._before + self._price
        interrupted = dict(self._interrupted_before)
        interrupted.pop(choice, None)
        if self._goes_on:
            interrupted[self._running] = self._depth
        self.interrupted = interrupted
