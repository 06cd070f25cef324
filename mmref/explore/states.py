# SPDX-License-Identifier: GPL-2.0-only
"""Search over visited states: an execution is cut where it comes to a state that has been met before.

Stateless search runs every trace; where many traces meet in few states (a loop over pages has 10 traces to the power
of the number of pages), it explodes. This engine keeps the states instead: everything that the CPUs share
(`canonical.py`), and where each CPU's code stands (`frames.py`).

Source sets would be unsound here, for a cut execution shows no races. Two other reductions are sound. *Sleep sets*, if
each state remembers with which sleep set it was explored, and on a later visit those CPUs are explored that slept then
and do not sleep now (Godefroid 1996): they leave out no state, only ways to it that lead to known ones. And
*persistent sets* of one CPU (`futures.py`): they leave out states that only differ by the order of independent steps.
Around a circle of such states the other CPUs would never go on; one of its states is explored in all directions.

What has no key among the things that CPUs share is refused, never merged. Where a CPU's code stands cannot always be
told; the state is then known as the one that this step leads to from that state, and is met again only on that way.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from types import CodeType

from mmref.errors import UsageError
from mmref.explore.canonical import Canon, NoKeyError, Section
from mmref.explore.errors import NondeterministicProgram
from mmref.explore.frames import READABLE, EvaluationStacks
from mmref.explore.futures import Futures
from mmref.explore.locations import Location, Mode
from mmref.explore.scheduler import COMPLETE, WORK_CODE, ExploredCpu, Run
from mmref.explore.sleep import still_asleep

__all__ = ["StateSearch"]

_NEXT_CODE = Run._next.__code__
_ENGINE_CODE: dict[int, CodeType] = {}
_ENGINE_FILES = tuple(__file__.rpartition("/")[0] + name for name in ("/locations.py", "/scheduler.py", "/states.py"))


@dataclass(frozen=True, slots=True)
class _Decision:
    """A state in which one CPU alone is explored.

    Attributes:
        cpu: the CPU.
        step: the accesses of its step.
        others: the places of the other CPUs.
        enabled: the CPUs that could have been chosen.
        stand: the places of all CPUs.
    """

    cpu: int
    step: tuple[int, ...]
    others: tuple[int, ...]
    enabled: int
    stand: dict[int, int]


class StateSearch:
    """The chooser that goes on in every direction from every state, once.

    A state has a number, in the order of discovery. A *branch* is a CPU that has yet to be tried in a state.

    Attributes:
        visited: the key of each state -> its number.
    """

    name = "states"

    def __init__(self, every: bool = False) -> None:
        """Prepare a search.

        Args:
            every: whether to visit also the states that only other orders of independent steps lead to.
        """
        if not READABLE:
            raise UsageError(
                "engine='states' must see where code stands, and knows how to in CPython 3.11 alone: use 'optimal'"
            )
        self.replayed = 0
        self.visited: dict[bytes, int] = {}
        self._came: list[tuple[int, int]] = []  # by state: where it was first reached from, and by whose step
        self._slept: list[int] = []  # by state: the CPUs that slept on every visit
        self._chosen: list[int] = []  # by state: the CPUs that suffice
        self._branches: list[tuple[int, int, int, int]] = []  # state, CPU, who sleeps then, where the CPU stands
        self._decisions: dict[int, _Decision] = {}  # by state
        self._led_to: dict[int, int] = {}  # by state in which one CPU alone was chosen: where its step has led
        self._every = every
        self._futures = Futures()
        self._canon = Canon()
        self._stacks = EvaluationStacks()
        self._with_waits = False  # whether what a CPU may wait for in cpu_relax() is part of its state
        self._restart = False
        self._reached: list[int] = []  # the addresses of the objects that the CPUs' functions lead to
        self._further: list[Location] = []  # what set-up code has created besides, and holds something
        self._shared: list[int] = []  # the addresses of the objects that all CPUs can reach
        self._sections: dict[int, Section] = {}  # by CPU: where its code stands, in full
        # Of the execution under way:
        self._prefix: list[int] = []  # the way to the branch that is explored, with its step
        self._depth = 0
        self._state = -1  # the last state that has been arrived at; -1 before the first
        self._mover = -1  # whose step is the next from there
        self._sleep = 0  # who sleeps there
        self._stand: dict[int, int] = {}  # by CPU: the place where its code stands

    def choose(self, run: Run) -> int:
        """Follow the prefix; after it, stop in a known state, else try the running CPU first."""
        depth = self._depth
        if depth < len(self._prefix):
            choice = self._prefix[depth]
            if not run.unfinished >> choice & 1 or (run.guarded >> choice & 1 and not run.cpus[choice].ready()):
                raise NondeterministicProgram(
                    f"the program is not deterministic: CPU {choice} cannot go on at step {depth} as it did before"
                )
            return choice
        if run.relaxed and not self._with_waits:
            self._with_waits = self._restart = True
            return -1
        todo = self._arrive(run)
        if not todo:
            return -1
        current = run.current.id
        choices = [cpu.id for cpu in run.cpus if todo & cpu.bit and cpu.id != current]
        if todo >> current & 1:
            choices.insert(0, current)
        self._mover = choices[0]
        sleep = self._sleep
        for before, choice in pairwise(choices):
            sleep |= 1 << before
            self._branches.append((self._state, choice, sleep, self._stand[choice]))
        return choices[0]

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Pass the sleep set on."""
        self._depth += 1
        if self._depth >= len(self._prefix):
            if self._sleep:
                self._sleep = still_asleep(cpu.run, self._sleep, cpu, mode)
            if cpu.effect is not None:
                self._futures.performs(self._stand[cpu.id], cpu, mode)

    def finish(self, run: Run) -> bool:
        """Go on with the branch that was found last."""
        if self._restart:
            # A CPU has called cpu_relax() for the first time: the states so far were not told apart well enough.
            self._restart = False
            self.visited.clear()
            self._came.clear()
            self._slept.clear()
            self._chosen.clear()
            self._branches.clear()
            self._decisions.clear()
            self._led_to.clear()
            self._futures = Futures()
            state, choice, sleep, place = -1, -1, 0, -1
        else:
            if run.end == COMPLETE and run.finding is None:
                self._arrive(run)
            if not self._branches:
                self._revise()
            if not self._branches:
                return False
            state, choice, sleep, place = self._branches.pop()
        self._state, self._mover, self._sleep = state, choice, sleep
        self._depth = 0
        self._stand = {choice: place} if choice >= 0 else {}
        self._prefix = []
        while state >= 0:
            self._prefix.append(choice)
            state, choice = self._came[state]
        self._prefix.reverse()
        self.replayed = len(self._prefix)
        self._reached = []
        self._shared = []
        return True

    @property
    def states(self) -> int:
        """The number of states that have been visited."""
        return len(self.visited)

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored."""
        return len(self._branches)

    def done(self) -> float:
        """Return the part of the search that is done, as far as can be told: nobody knows how many states there are."""
        return 0.0

    def left_out(self) -> str:
        """Say by what the search was limited: by nothing."""
        return ""

    def _arrive(self, run: Run) -> int:
        """Account for the state that has been reached; return the set of CPUs to explore from here."""
        key = self._key(run)
        enabled = run.enabled()
        todo = enabled & ~self._sleep
        state = self.visited.get(key)
        if self._state in self._decisions:
            self._led_to[self._state] = len(self._came) if state is None else state
        if state is None:
            state = self.visited[key] = len(self._came)
            self._came.append((self._state, self._mover))
            self._slept.append(self._sleep)
            self._state = state
            self._chosen.append(self._choose(run, enabled))
        else:
            todo &= self._slept[state]
            self._slept[state] = self._sleep = self._sleep & self._slept[state]
            self._state = state
        return todo & self._chosen[state]

    def _choose(self, run: Run, enabled: int) -> int:
        """Return the CPUs that suffice in a new state: one alone, if nothing that others may do depends on its step."""
        if enabled & (enabled - 1) and not self._every:
            cpus = [cpu for cpu in run.cpus if run.unfinished & cpu.bit]
            for cpu in sorted(cpus, key=lambda cpu: cpu is not run.current):
                if enabled & cpu.bit:
                    step = self._futures.step(cpu)
                    others = tuple([self._stand[other.id] for other in cpus if other is not cpu])
                    if self._futures.independent(step, others):
                        self._decisions[self._state] = _Decision(cpu.id, step, others, enabled, dict(self._stand))
                        return cpu.bit
        return enabled

    def _revise(self) -> None:
        """Explore the other directions, too, where one CPU was chosen and others can do what depends on its step."""
        wrong = [state for state, one in self._decisions.items() if not self._futures.independent(one.step, one.others)]
        for state in wrong or self._circles():
            one = self._decisions.pop(state)
            self._led_to.pop(state, None)
            self._chosen[state] = one.enabled
            sleep = self._slept[state] | 1 << one.cpu
            for cpu, place in one.stand.items():
                if one.enabled & ~sleep & 1 << cpu:
                    self._branches.append((state, cpu, sleep, place))
                    sleep |= 1 << cpu

    def _circles(self) -> list[int]:
        """Return a state of each circle of states in which one CPU alone was chosen: there, the others never go on."""
        found = []
        known: set[int] = set()
        for first in self._led_to:
            way: set[int] = set()
            state = first
            while state in self._led_to and state not in known:
                known.add(state)
                way.add(state)
                state = self._led_to[state]
            if state in way:
                found.append(state)
        return found

    # The key of a state ------------------------------------------------------------------------------------

    def _key(self, run: Run) -> bytes:
        """Return what stands for the state: what the CPUs share, and where the code of each is."""
        canon = self._canon
        execution = run.execution
        try:
            for function in execution.cpus:
                canon.add(function)
            canon.add(execution.on_step)
            canon.add(execution.at_rest)
            reached = canon.objects()
            if reached != self._reached:
                self._reached = reached
                self._further = [
                    location
                    for location in run.locations or ()
                    if type(location) is not Location and not location.id & 255 and location not in canon
                ]
            for location in self._further:
                canon.add(location)
            canon.settle()
        except NoKeyError as error:
            canon.restart()
            raise UsageError(
                f"the states of this program cannot be told apart ({error}): use engine 'source' or 'optimal'"
            ) from None
        try:
            self._add_places(run)
        except NoKeyError:
            self._sections.clear()
            canon.restart()
            canon.add(("after", self._state, self._mover))
            for cpu in run.cpus:
                if run.unfinished & cpu.bit:
                    self._stands(run, cpu, ("unclear", cpu.id))
        return canon.digest()

    def _stands(self, run: Run, cpu: ExploredCpu, where: object) -> None:
        """Note where a CPU's code stands, and that its step can lead there, if it was the last."""
        place = self._futures.place(where, cpu)
        if run.steps and run.choices[-1] == cpu.id and self._stand.get(cpu.id, -1) >= 0:
            self._futures.follows(self._stand[cpu.id], place)
        self._stand[cpu.id] = place

    def _add_places(self, run: Run) -> None:
        """Walk where the CPUs' code stands. What only a CPU itself refers to changes only by its steps."""
        canon = self._canon
        shared = canon.objects()
        if shared != self._shared:
            self._shared = shared
            self._sections.clear()
        elif run.steps:
            self._sections.pop(run.choices[-1], None)
        for cpu in run.cpus:
            start = canon.begin_section(cpu.id + 1)
            known = self._sections.get(cpu.id)
            if known is None or not canon.repeat(known):
                where = self._add_place(run, cpu)
                if run.unfinished & cpu.bit:
                    self._stands(run, cpu, where)
                self._sections[cpu.id] = canon.section(start)
        if canon.crossed:
            self._sections.clear()
        if self._with_waits:
            self._add_waits(run)

    def _add_place(self, run: Run, cpu: ExploredCpu) -> tuple[int, ...]:
        """Walk where a CPU's code stands; return that in outline: positions, and the numbers in local variables.

        The outline is for `Futures`. Nothing that others can change may be in it.
        """
        canon = self._canon
        if not run.unfinished & cpu.bit:
            canon.add(("ended", cpu.result))
            return ()
        outline: list[int] = []
        canon.add(cpu.rcu_depth)
        frame = cpu.greenlet.gr_frame
        if frame is None:  # it is the one that asks
            frame = sys._getframe()
            while frame.f_code is not _NEXT_CODE and frame.f_back is not None:
                frame = frame.f_back
        called = None
        while frame is not None and frame.f_code is not WORK_CODE:
            code = frame.f_code
            if id(code) not in _ENGINE_CODE:
                if code.co_filename.startswith(_ENGINE_FILES):
                    _ENGINE_CODE[id(code)] = code
                else:
                    stack = self._stacks.read(frame, called)
                    if stack is None:
                        raise NoKeyError(f"{code.co_qualname}() is called by something that does not show its state")
                    variables = canon.frame(frame, stack)
                    outline += (id(code), frame.f_lasti)
                    for name, value in variables.items():
                        if type(value) is int and name not in code.co_freevars and name not in code.co_cellvars:
                            outline.append(value)
            called, frame = frame, frame.f_back
        return tuple(outline)

    def _add_waits(self, run: Run) -> None:
        """Walk what the CPUs would wait for in cpu_relax()."""
        for cpu in run.cpus:
            for seen in (cpu.spin or (), cpu.seen.items()) if run.unfinished & cpu.bit else ():
                changed = any(location.version > step for location, step in seen)
                # If it has changed, the wait will be over at once, and it is forgotten what was waited for.
                awaited = () if changed else tuple(sorted([location.id for location, _ in seen]))
                self._canon.add((cpu.spun, changed, awaited))
