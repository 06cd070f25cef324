# SPDX-License-Identifier: GPL-2.0-only
"""Optimal DPOR: source-DPOR with wakeup trees, which never starts an execution in vain.

Abdulla, Aronis, Jonsson, Sagonas (POPL 2014), algorithm 2. Source-DPOR knows who should go first where a race is
reversed, but not what should come next, and may run into a sleep set. A wakeup tree keeps the whole reversed
sequence.

Conventions in this file, besides those of `dpor.py`
    v           notdep(event) followed by the second operation of the race: the sequence that reverses it
    wut(E)      the wakeup tree of a state: its branches are sequences still to be explored from there, the first
                one is under way. A node is a CPU and the operation that it will perform there
    WI(v)       weak initials: CPUs that are initials of v, or whose next operation depends on nothing in v
    v ~ w       "compatible": some execution begins with both, up to the order of independent events

Races are reversed at the end of an execution, when all of notdep(event) is known, and each of them once: only
those whose second operation is new in this execution.
"""

from __future__ import annotations

from typing import Protocol

from mmref.explore.dpor import Dpor, State
from mmref.explore.errors import NondeterministicProgram
from mmref.explore.frontier import Accesses, Branch, Reversal, SavedState
from mmref.explore.locations import CONFLICTS, Mode
from mmref.explore.scheduler import ExploredCpu, Run
from mmref.override import override

__all__ = ["OptimalDpor"]


class Item(Protocol):
    """An element of a sequence that is to be inserted into a wakeup tree: an event, or what a race is to begin with.

    Attributes:
        bit: its place in sets of events; for the second operation of a race, a place after all events.
        hb: what happens before it, and itself.
    """

    cpu: int
    accesses: Accesses
    bit: int
    hb: int


class Sequence:
    """A sequence to be inserted, from which elements are taken on the way down a wakeup tree."""

    __slots__ = ("_items", "_lanes", "_remaining", "_touched")

    def __init__(self, items: list[Item]) -> None:
        self._items = items
        self._remaining = 0
        self._lanes: dict[int, list[Item]] = {}  # the elements of each CPU, the first one last
        self._touched: dict[int, int] | None = None  # location -> set of the modes in which it is accessed
        lanes = self._lanes
        for item in reversed(items):
            self._remaining |= item.bit
            if item.cpu in lanes:
                lanes[item.cpu].append(item)
            else:
                lanes[item.cpu] = [item]

    def __bool__(self) -> bool:
        return self._remaining != 0

    def remaining(self) -> list[Item]:
        """Return the elements that have not been taken."""
        return [item for item in self._items if item.bit & self._remaining]

    def initial(self, cpu: int) -> bool:
        """Tell whether the CPU is an initial."""
        lane = self._lanes.get(cpu)
        return bool(lane) and lane[-1].hb & self._remaining == lane[-1].bit  # type: ignore[index]

    def independent(self, cpu: int, accesses: Accesses) -> bool:
        """Tell whether this operation of a CPU depends on nothing in the sequence."""
        if self._lanes.get(cpu):
            return False
        touched = self._touched
        if touched is None:
            touched = self._touched = {}
            for item in self._items:
                if item.bit & self._remaining:
                    for location, mode in item.accesses:
                        touched[location] = touched.get(location, 0) | 1 << mode
        for location, mode in accesses:  # noqa: SIM110 (all() costs twice as much here)
            if location in touched and CONFLICTS[mode] & touched[location]:
                return False
        return True

    def take(self, cpu: int) -> None:
        """Take the first element of a CPU out."""
        self._remaining &= ~self._lanes[cpu].pop().bit
        self._touched = None


class Race:
    """A race to be reversed, and the element of sequences that its second operation is.

    Attributes:
        event: its first event.
        cpu, accesses, bit, hb: see `Item`.
    """

    __slots__ = ("accesses", "bit", "cpu", "event", "hb")

    def __init__(self, event: int, cpu: int, accesses: Accesses, hb: int) -> None:
        self.event = event
        self.cpu = cpu
        self.accesses = accesses
        self.hb = hb
        self.bit = 0  # known at the end of the execution


class Planned:
    """An element of a sequence that another part of the search has found (`merge()`)."""

    __slots__ = ("accesses", "bit", "cpu", "hb")

    def __init__(self, cpu: int, accesses: Accesses, bit: int, hb: int) -> None:
        self.cpu = cpu
        self.accesses = accesses
        self.bit = bit
        self.hb = hb


class WakeupState(State):
    """A state with its wakeup tree. It is also the element of sequences that its event is.

    Attributes:
        wut: the branches still to be explored; the first one is under way.
        sleepers: the operations of the CPUs in `sleep`. States share these: a change makes a new one.
        stale: sleepers that no branch of an earlier wakeup tree was sure to wake.
        accesses, bit: see `Item`.
    """

    __slots__ = ("accesses", "bit", "sleepers", "stale", "wut")

    accesses: Accesses
    bit: int

    def __init__(
        self, enabled: int, sleep: int, cpu: int, wut: list[Branch], sleepers: dict[int, Accesses], stale: int
    ) -> None:
        State.__init__(self, enabled, sleep, cpu)
        self.wut = wut
        self.sleepers = sleepers
        self.stale = stale


class OptimalDpor(Dpor[WakeupState]):
    """The chooser of optimal DPOR."""

    name = "optimal"

    def __init__(self) -> None:
        super().__init__()
        self._races: list[Race] = []
        self._passed_up: set[tuple[object, ...]] = set()
        # What the last event has left for the next state:
        self._sleepers: dict[int, Accesses] = {}
        self._stale = 0
        self._subtree: list[Branch] = []

    @override
    def _new_state(self, enabled: int, cpu: int) -> int:
        """Follow the wakeup tree where there is one."""
        sleep = self._sleep
        wut = self._subtree
        while wut and not enabled & ~sleep & 1 << wut[0].cpu:
            wut.pop(0)  # the second operation of a race waits after all
        if wut:
            cpu = wut[0].cpu
            stale = self._stale & sleep
        else:
            wut = [Branch(cpu)]
            stale = sleep
        self.states.append(WakeupState(enabled, sleep, cpu, wut, self._sleepers if sleep else {}, stale))
        return cpu

    @override
    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Order the event, and go down the wakeup tree with it."""
        Dpor.executed(self, cpu, mode)  # super() costs more
        depth = cpu.run.steps
        if depth < self.replayed:
            return
        state = self.states[depth]
        node = state.wut[0]
        accesses = state.accesses = ((state.location, mode), *state.more) if state.more else ((state.location, mode),)
        state.bit = 1 << depth
        if node.accesses and node.accesses[0][0] != state.location:
            raise NondeterministicProgram(
                f"{cpu.name} was expected to access location {node.accesses[0][0]} at step {depth}, not"
                f" {cpu.location.name} (location {state.location}): a location that is created when it is first"
                " accessed must have an id from reserve()"
            )
        node.accesses = accesses
        self._subtree = node.children
        self._stale = state.stale

    @override
    def _still_asleep(self, state: WakeupState, cpu: ExploredCpu, mode: Mode) -> None:
        performed = ((state.location, mode), *state.more)
        if len(state.sleepers) < state.sleep.bit_count():  # on the way to a unit: others explore earlier branches
            state.sleepers = {one.id: tuple((location.id, how) for location, how in one.accesses())
                              for one in cpu.run.cpus if state.sleep & one.bit}  # fmt: skip
        awake = 0
        for sleeper, accesses in state.sleepers.items():
            for location, how in accesses:
                for place, other in performed:
                    if location == place and CONFLICTS[how] >> other & 1:
                        awake |= 1 << sleeper
        self._sleep = state.sleep & ~awake
        self._sleepers = state.sleepers
        if awake:
            self._sleepers = {one: what for one, what in state.sleepers.items() if not awake >> one & 1}

    @override
    def _reverse(self, event: int, cpu: ExploredCpu, hb: int, end: int) -> None:
        if end < self._known:
            return
        # Before `event`, a conditional operation may have the effect that it does not have now.
        accesses: Accesses = ((cpu.location.id, cpu.mode),)
        if cpu.more is not None:
            accesses += tuple([(location.id, mode) for location, mode in cpu.more])
        self._races.append(Race(event, cpu.id, accesses, hb))

    def _reverse_now(self, race: Race) -> None:
        """Insert the sequence that reverses a race, unless what it leads to has been explored."""
        states = self.states
        event = race.event
        state = states[event]
        sleep = state.sleep
        bit = 1 << event
        race.bit = 1 << len(states)
        race.hb |= race.bit
        sequence: list[Item] = []  # notdep(event); the second operation of the race is not among it, nor what follows
        members = 0
        for other in states[event + 1 :]:
            if not other.hb & bit:
                if sleep >> other.cpu & 1 and not other.hb & members:
                    return  # an initial sleeps: explored already
                sequence.append(other)
                members |= other.bit
        if not race.hb & members:
            if sleep >> race.cpu & 1:
                return
            if not sequence and not state.enabled >> race.cpu & 1:
                return  # it would have to wait, and nothing ends that
        sequence.append(race)
        v = Sequence(sequence)
        if sleep and _explored(state, v):
            return
        if event < self.root:
            self._pass_up(event, sequence)
        else:
            _insert(state.wut, v)

    def _pass_up(self, event: int, sequence: list[Item]) -> None:
        """Leave a race to whoever searches above the root, unless an equal one has been left to them before."""
        key = (event, *[(item.cpu, item.accesses) for item in sequence])  # the order of these says what hb says
        if key not in self._passed_up:
            self._passed_up.add(key)
            self.above[event, *_relative(sequence)] = None

    @override
    @staticmethod
    def merge(state: SavedState, reversal: Reversal) -> int:
        _, *items = reversal
        v = Sequence([Planned(cpu, accesses, 1 << place, hb | 1 << place)
                      for place, (cpu, accesses, hb) in enumerate(items)])  # fmt: skip
        return -1 if _explored(state, v) else _insert(state.wut, v)

    @override
    def _restored(self, saved: SavedState) -> WakeupState:
        # The first branch of a state that has been left is not extended any more; its tree is in the states below.
        state = WakeupState(saved.enabled, saved.sleep, saved.wut[0].cpu, saved.wut, saved.sleepers, saved.stale)
        state.accesses = saved.wut[0].accesses
        state.backtrack = saved.backtrack
        state.location = saved.location
        state.mode = saved.mode
        return state

    @override
    def _saved(self, state: WakeupState, last: bool) -> SavedState:
        first = state.wut[0]
        if not last:
            first = Branch(state.cpu, state.accesses)
        location = -1 if last else state.location
        return SavedState(state.enabled, state.sleep, state.backtrack, location, state.mode, state.stale,
                          state.sleepers, [first, *state.wut[1:]])  # fmt: skip

    @override
    def finish(self, run: Run) -> bool:
        self._check_length(run)
        for race in self._races:
            self._reverse_now(race)
        self._races.clear()
        states = self.states
        root = self.root
        while len(states) > root:
            state = states[-1]
            self._undo(state)
            wut = state.wut
            if len(wut) > 1:
                state.sleep |= 1 << state.cpu
                state.sleepers = {**state.sleepers, state.cpu: state.accesses}
                wut.pop(0)
                while wut and not state.enabled & ~state.sleep & 1 << wut[0].cpu:
                    wut.pop(0)
                if wut:
                    state.cpu = wut[0].cpu
                    state.backtrack |= 1 << state.cpu
                    break
            states.pop()
        self._subtree = []
        return self._planned()

    @override
    def _waiting_branches(self, state: WakeupState) -> int:
        return len(state.wut) - 1


def _explored(state: WakeupState | SavedState, v: Sequence) -> bool:
    """Tell whether what a sequence leads to from a state has been explored: whether a weak initial sleeps."""
    for sleeper, accesses in state.sleepers.items():
        if v.initial(sleeper) or (not state.stale >> sleeper & 1 and v.independent(sleeper, accesses)):
            return True
    return False


def _insert(branches: list[Branch], v: Sequence) -> int:
    """Add a sequence to a wakeup tree, unless a leaf is compatible with it; tell to which branch, -1 if to none."""
    top = -1
    while True:
        for place, node in enumerate(branches):
            if v.initial(node.cpu):
                v.take(node.cpu)
            elif not v.independent(node.cpu, node.accesses):
                continue
            if not node.children or not v:
                return -1
            branches = node.children
            top = place if top < 0 else top
            break
        else:
            top = len(branches) if top < 0 else top
            for item in v.remaining():
                node = Branch(item.cpu, item.accesses)
                branches.append(node)
                branches = node.children
            return top


def _relative(items: list[Item]) -> list[tuple[int, Accesses, int]]:
    """Return a sequence in a form in which equal ones are equal: what happens before an item, by places in it."""
    places = {item.bit: place for place, item in enumerate(items)}
    known = 0
    for bit in places:
        known |= bit
    relative = []
    for item in items:
        before = item.hb & known & ~item.bit
        hb = 0
        while before:
            bit = before & -before
            hb |= 1 << places[bit]
            before ^= bit
        relative.append((item.cpu, item.accesses, hb))
    return relative
