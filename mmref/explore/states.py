# SPDX-License-Identifier: GPL-2.0-only
"""Search over visited states: an execution is cut where it comes to a state that has been met before.

Stateless search runs every trace; where many traces meet in few states (a loop over pages has 10 traces to the power
of the number of pages), it explodes. This engine keeps the states instead: the values of all locations, the
objects that the CPUs' code shares, and each CPU's local state (`local_state.py`).

Source sets would be unsound here, for a cut execution shows no races. Sleep sets are sound, if each state remembers
with which sleep set it was explored, and on a later visit those CPUs are explored that slept then and do not sleep
now (Godefroid 1996). They leave out no state, only ways to it that lead to known ones.

What has no key (a location whose class has no `snapshot()`, an object that hides its state) is refused, never
merged.
"""

from __future__ import annotations

import sys
from types import FrameType

from mmref.errors import UsageError
from mmref.explore.errors import NondeterministicProgram
from mmref.explore.local_state import Key, NoKeyError, Positions, key_of
from mmref.explore.locations import Location, Mode
from mmref.explore.scheduler import WORK_CODE, ExploredCpu, Run
from mmref.explore.sleep import still_asleep

__all__ = ["StateSearch"]

_Local = tuple[int, tuple[Key, ...]]
"""Number of a key of a CPU's call stack, and what the CPU has seen since it was in that state."""

_ENGINE_FILES = tuple(__file__.rpartition("/")[0] + name for name in ("/locations.py", "/scheduler.py", "/states.py"))


class _State:
    """A state of the execution under way: the CPUs still to try (the last one is under way), and the local states."""

    __slots__ = ("choices", "locals", "observed", "sleep")

    def __init__(self, choices: list[int], locals: tuple[_Local, ...], sleep: int) -> None:
        self.choices = choices
        self.locals = locals
        self.sleep = sleep
        self.observed: Key = None


class StateSearch:
    """The chooser that goes on in every direction from every state, once.

    Attributes:
        visited: the keys of the states met so far, each with the CPUs that slept on every visit.
    """

    name = "states"

    def __init__(self) -> None:
        self.replayed = 0
        self.visited: dict[Key, int] = {}
        self._states: list[_State] = []
        self._numbers: dict[Key, int] = {}
        self._positions = Positions()
        self._depth = 0
        self._sleep = 0
        self._run: Run | None = None
        self._with_waits = False  # whether what a CPU may wait for in cpu_relax() is part of its state
        self._restart = False

    def choose(self, run: Run) -> int:
        """Follow the prefix; after it, stop in a known state, else try the running CPU first."""
        depth = self._depth
        states = self._states
        self._run = run
        if depth < len(states):
            choice = states[depth].choices[-1]
            if not run.unfinished >> choice & 1 or (run.guarded >> choice & 1 and not run.cpus[choice].ready()):
                raise NondeterministicProgram(
                    f"the program is not deterministic: CPU {choice} cannot go on at step {depth} as it did before"
                )
            return choice
        if run.relaxed and not self._with_waits:
            self._with_waits = self._restart = True
            return -1
        local_states = self._local_states(run)
        key = self._key(run, local_states)
        enabled = run.enabled()
        sleep = self._sleep
        candidates = enabled & ~sleep
        slept = self.visited.get(key)
        if slept is not None:
            candidates &= slept
            sleep &= slept
        self.visited[key] = sleep
        if not candidates:
            return -1
        current = run.current.id
        choices = [cpu.id for cpu in run.cpus if candidates & cpu.bit and cpu.id != current]
        choices.reverse()
        if candidates >> current & 1:
            choices.append(current)
        states.append(_State(choices, local_states, sleep))
        return choices[-1]

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Keep what the CPU is about to see, and pass the sleep set on."""
        self._depth += 1
        if self._depth == len(self._states):
            state = self._states[-1]
            assert self._run is not None
            self._sleep = still_asleep(self._run, state.sleep, cpu, mode) if state.sleep else 0
            seen = [(cpu.location.id, _snapshot(cpu.location))]
            seen.extend((location.id, _snapshot(location)) for location, _ in cpu.more or ())
            state.observed = tuple(seen)

    def _key(self, run: Run, local_states: tuple[_Local, ...]) -> Key:
        """Return the key of the whole state."""
        assert run.locations is not None
        shared = tuple([_snapshot(location) for location in run.locations])
        try:
            code = key_of(tuple(run.execution.cpus))
        except NoKeyError as error:
            raise _refused(str(error)) from None
        key: list[Key] = [shared, self._number(code), local_states, run.unfinished]
        if self._with_waits:
            for cpu in run.cpus:
                key.append(tuple((location.id, location.version > step) for location, step in cpu.spin or ()))
                last = {location.id: location.version > step for location, step in cpu.seen.items()}
                key.append((cpu.spun, tuple(last.items())))
        return tuple(key)

    def _local_states(self, run: Run) -> tuple[_Local, ...]:
        """Return the CPUs' local states; only that of the CPU that made the last step is new."""
        if not self._states:
            return tuple(self._local(run, cpu, (-1, ()), None) for cpu in run.cpus)
        last = self._states[-1]
        mover = last.choices[-1]
        local_states = list(last.locals)
        local_states[mover] = self._local(run, run.cpus[mover], local_states[mover], last.observed)
        return tuple(local_states)

    def _local(self, run: Run, cpu: ExploredCpu, before: _Local, observed: Key) -> _Local:
        """Return the local state of a CPU that was in the state `before` and then saw something."""
        unclear = (before[0], (*before[1], observed))
        try:
            if not run.unfinished & cpu.bit:
                return (self._number(("ended", key_of(cpu.result))), ())
            stack: list[Key] = []
            frame = sys._getframe() if cpu is run.current and run.steps else cpu.greenlet.gr_frame
            while frame is not None and frame.f_code is not WORK_CODE:
                if not frame.f_code.co_filename.startswith(_ENGINE_FILES):
                    if not self._positions.clean(frame):
                        return unclear
                    stack.append((frame.f_code, frame.f_lasti, _key_of_locals(frame)))
                frame = frame.f_back
        except NoKeyError:
            return unclear
        return (self._number(tuple(stack)), ())

    def _number(self, key: Key) -> int:
        """Return a small number that stands for a key."""
        return self._numbers.setdefault(key, len(self._numbers))

    def finish(self, run: Run) -> bool:  # noqa: ARG002 (part of the interface)
        """Go on with the next untried CPU of the last state that has one."""
        states = self._states
        self._depth = 0
        self._sleep = 0
        if self._restart:
            # A CPU has called cpu_relax() for the first time: the states so far were not told apart well enough.
            self._restart = False
            self.visited.clear()
            states.clear()
            self.replayed = 0
            return True
        while states:
            states[-1].sleep |= 1 << states[-1].choices.pop()
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
        """Say by what the search was limited: by nothing."""
        return ""


def _key_of_locals(frame: FrameType) -> Key:
    """Return the key of a frame's variables. What an entry function closes over is in the key of the whole state."""
    values = frame.f_locals
    closed = frame.f_code.co_freevars
    if closed and frame.f_back is not None and frame.f_back.f_code is WORK_CODE:
        return tuple([key_of(value) for name, value in values.items() if name not in closed])
    return tuple([key_of(value) for value in values.values()])


def _snapshot(location: Location) -> Key:
    """Return the value of a location as a key."""
    snapshot = getattr(location, "snapshot", None)
    if snapshot is None:
        raise _refused(f"{location.name} is a {type(location).__name__}, which has no snapshot()")
    value = snapshot()
    kind = type(value)
    if kind is int or kind is str or value is None:
        return value
    try:
        return key_of(value)
    except NoKeyError as error:
        raise _refused(f"the value of {location.name}: {error}") from None


def _refused(why: str) -> UsageError:
    return UsageError(f"the states of this program cannot be told apart ({why}): use engine 'source' or 'optimal'")
