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

from typing_extensions import override

from mmref.explore.dpor import Dpor, State
from mmref.explore.errors import NondeterministicProgram
from mmref.explore.frontier import Accesses, Branch, Reversal, SavedState
from mmref.explore.locations import CONFLICTS, Mode
from mmref.explore.scheduler import ExploredCpu, Run

__all__ = ["OptimalDpor"]


class Item:
    """An element of a sequence that is to be inserted into a wakeup tree.

    Attributes:
        bit: its place in sets of events; for the second operation of the race, a place after all events.
        hb: what happens before it, itself left out.
    """

    __slots__ = ("accesses", "bit", "cpu", "hb")

    def __init__(self, cpu: int, accesses: Accesses, bit: int, hb: int) -> None:
        self.cpu = cpu
        self.accesses = accesses
        self.bit = bit
        self.hb = hb


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
        return lane is not None and bool(lane) and not lane[-1].hb & self._remaining

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


class _Race:
    __slots__ = ("accesses", "cpu", "end", "event", "hb")

    def __init__(self, event: int, cpu: int, accesses: Accesses, hb: int, end: int) -> None:
        self.event = event
        self.cpu = cpu
        self.accesses = accesses
        self.hb = hb
        self.end = end


class WakeupState(State):
    """A state with its wakeup tree.

    Attributes:
        wut: the branches still to be explored; the first one is under way.
        sleepers: the operations of the CPUs in `sleep`.
        item: its event, as an element of sequences.
        stale: sleepers that no branch of an earlier wakeup tree was sure to wake.
    """

    __slots__ = ("item", "sleepers", "stale", "wut")

    def __init__(self, enabled: int, sleep: int, cpu: int, wut: list[Branch], sleepers: dict[int, Accesses]) -> None:
        super().__init__(enabled, sleep, cpu)
        self.wut = wut
        self.sleepers = sleepers
        self.stale = 0
        self.item = Item(cpu, (), 0, 0)


class OptimalDpor(Dpor):
    """The chooser of optimal DPOR."""

    name = "optimal"

    def __init__(self) -> None:
        super().__init__()
        self._races: list[_Race] = []
        self._stale = 0
        self._subtree: list[Branch] = []  # what the last event's node says about the next state

    @override
    def _new_state(self, enabled: int, cpu: int) -> int:
        """Follow the wakeup tree where there is one."""
        assert self._run is not None
        sleep = self._sleep
        wut = self._subtree
        while wut and not enabled & ~sleep & 1 << wut[0].cpu:
            wut.pop(0)  # the second operation of a race waits after all
        stale = self._stale & sleep
        if wut:
            cpu = wut[0].cpu
        else:
            stale = sleep
            wut = [Branch(cpu, ())]
        sleepers: dict[int, Accesses] = {}
        if sleep:
            for other in self._run.cpus:
                if sleep & other.bit:
                    sleepers[other.id] = tuple((location.id, mode) for location, mode in other.accesses())
        state = WakeupState(enabled, sleep, cpu, wut, sleepers)
        state.stale = self._stale = stale
        self.states.append(state)
        return cpu

    @override
    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Order the event, and go down the wakeup tree with it."""
        depth = cpu.run.steps
        super().executed(cpu, mode)
        if depth < self.replayed:
            return
        state = self.states[depth]
        assert isinstance(state, WakeupState)
        node = state.wut[0]
        accesses = ((state.location, state.mode), *state.more) if state.more else ((state.location, state.mode),)
        bit = 1 << depth
        state.item = Item(cpu.id, accesses, bit, state.hb & ~bit)
        if node.accesses and node.accesses[0][0] != accesses[0][0]:
            raise NondeterministicProgram(
                f"{cpu.name} was expected to access location {node.accesses[0][0]} at step {depth}, not"
                f" {cpu.location.name} (location {accesses[0][0]}): a location that is created when it is first"
                " accessed must have an id from reserve()"
            )
        node.accesses = accesses
        self._subtree = node.children
        self._stale = state.stale

    @override
    def _reverse(self, event: int, cpu: ExploredCpu, hb: int, end: int) -> None:
        if end < self._known:
            return
        # Before `event`, a conditional operation may have the effect that it does not have now.
        accesses: Accesses = ((cpu.location.id, cpu.mode),)
        if cpu.more is not None:
            accesses += tuple([(location.id, mode) for location, mode in cpu.more])
        self._races.append(_Race(event, cpu.id, accesses, hb, end))

    def _reverse_now(self, race: _Race) -> None:
        """Insert the sequence that reverses a race, unless what it leads to has been explored."""
        state = self.states[race.event]
        assert isinstance(state, WakeupState)
        event = race.event
        bit = 1 << event
        later = self.states[event + 1 :]
        if race.end < len(self.states):
            del later[race.end - event - 1]
        items: list[Item] = [other.item for other in later if not other.hb & bit]  # type: ignore[attr-defined]
        items.append(Item(race.cpu, race.accesses, 1 << len(self.states), race.hb))
        if len(items) == 1 and not state.enabled >> race.cpu & 1:
            return  # it would have to wait, and nothing ends that
        sequence = Sequence(items)
        for sleeper, accesses in state.sleepers.items():
            if sequence.initial(sleeper):
                return
            if not state.stale >> sleeper & 1 and sequence.independent(sleeper, accesses):
                return
        if event < self.root:
            self.above[event, *_relative(items)] = None
        else:
            _insert(state.wut, sequence)

    @override
    @staticmethod
    def merge(state: SavedState, reversal: Reversal) -> int:
        _, *items = reversal
        sequence = Sequence([Item(cpu, accesses, 1 << place, hb) for place, (cpu, accesses, hb) in enumerate(items)])
        for sleeper, accesses in state.sleepers.items():
            if sequence.initial(sleeper):
                return -1
            if not state.stale >> sleeper & 1 and sequence.independent(sleeper, accesses):
                return -1
        return _insert(state.wut, sequence)

    @override
    def _restored(self, saved: SavedState) -> State:
        # The first branch of a state that has been left is not extended any more; its tree is in the states below.
        state = WakeupState(saved.enabled, saved.sleep, saved.wut[0].cpu, saved.wut, saved.sleepers)
        state.backtrack = saved.backtrack
        state.location = saved.location
        state.mode = saved.mode
        state.stale = saved.stale
        return state

    @override
    def _saved(self, state: State, last: bool) -> SavedState:
        assert isinstance(state, WakeupState)
        first = state.wut[0]
        if not last:
            first = Branch(state.cpu, state.item.accesses)
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
            assert isinstance(state, WakeupState)
            state.sleep |= 1 << state.cpu
            state.sleepers[state.cpu] = state.item.accesses
            self._undo(state)
            wut = state.wut
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
    def _waiting_branches(self, state: State) -> int:
        assert isinstance(state, WakeupState)
        return len(state.wut) - 1


def _insert(branches: list[Branch], sequence: Sequence) -> int:
    """Add a sequence to a wakeup tree, unless a leaf is compatible with it; tell to which branch, -1 if to none."""
    top = -1
    while True:
        for place, node in enumerate(branches):
            if sequence.initial(node.cpu):
                sequence.take(node.cpu)
            elif not sequence.independent(node.cpu, node.accesses):
                continue
            if not node.children or not sequence:
                return -1
            branches = node.children
            top = place if top < 0 else top
            break
        else:
            top = len(branches) if top < 0 else top
            for item in sequence.remaining():
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
        before = item.hb & known
        hb = 0
        while before:
            bit = before & -before
            hb |= 1 << places[bit]
            before ^= bit
        relative.append((item.cpu, item.accesses, hb))
    return relative
