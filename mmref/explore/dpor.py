# SPDX-License-Identifier: GPL-2.0-only
"""Source-DPOR with sleep sets.

Abdulla, Aronis, Jonsson, Sagonas: Optimal dynamic partial order reduction (POPL 2014), algorithm 1; the journal
version (Source sets, J. ACM 2017) has the terms used here. One execution per Mazurkiewicz trace is completed;
some further ones are started and end *sleep-set blocked*.

Conventions in this file
    E           the execution under way: `states[k]` is the state before event k, and that event
    pre(E, e)   the prefix before event e; its state is `states[e]`
    hb          happens-before. Sets of events are bit masks over their positions in E, so that joining two
                of them is one `|`; `state.hb` is the set of all events up to and including its own
    race        two events, dependent, of different CPUs, with no event between them in happens-before, that could
                also happen in the other order
    notdep(e)   the events after e that do not happen after it
    initials    CPUs whose first event in a sequence has no predecessor in it: each could go first
    sets of CPUs are bit masks too

Locks: a release and the acquire that it enables are ordered but cannot be reversed; what can be reversed is the
order of two *acquires*. The second acquire then happens after what its CPU had seen *before* it joined the
release, and that is the happens-before set from which the initials must be computed.

An operation that waits for something else (`enabled` with another mode, or a busy wait) depends on every change
of its locations. Such a pair can be reversed if the operation was enabled before the change; for a busy wait, which
any of several changes ends, if one that does not happen after this one ends it as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from mmref.errors import MmrefInternalError
from mmref.explore.errors import NondeterministicProgram
from mmref.explore.frontier import Accesses, Branch, Reversal, SavedState
from mmref.explore.locations import (
    CONFLICTS,
    DEC,
    INC,
    LOCK,
    MODE_NAMES,
    READ,
    SHARE,
    TRYINC,
    UNLOCK,
    UNSHARE,
    WRITE,
    Mode,
)
from mmref.explore.scheduler import ExploredCpu, Run
from mmref.explore.sleep import still_asleep
from mmref.override import override

__all__ = ["Access", "Dpor", "SourceDpor", "State"]

_Record = tuple[int, int, int, int, int, int]
"""Events of a location that later ones may depend on: reads, writes, incs (or, of a lock, shared acquires and
releases), tryincs, decs; and, if the last change was the release of an exclusive lock, its acquire."""

_UNSEEN = frozenset({INC, SHARE, UNSHARE})  # one location has either counts or a lock
_UNTOUCHED: _Record = (0, 0, 0, 0, 0, 0)
Access = tuple[int, Mode]
"""(location id, mode in effect)"""


class State:
    """A state of the execution, and the event that was performed in it.

    Attributes:
        enabled: the CPUs that can go on in it.
        sleep: those that need not go on from it: explored already.
        backtrack: those from which it is, or will be, explored; a source set in the end.
        queue: those of them that have not gone on yet, in the order in which they were found.
        cpu: the one that went on.
        location, mode, more: what it accessed; location is -1 as long as there is no event.
        before: hb of that CPU's previous event.
        hb: events that happen before this one, and itself.
        undo: what the location's record was before.
        undo_more: the same for all locations, if there are several.
    """

    __slots__ = ("backtrack", "before", "cpu", "enabled", "hb", "location", "mode", "more", "queue",
                 "sleep", "undo", "undo_more")  # fmt: skip

    before: int
    undo: _Record

    def __init__(self, enabled: int, sleep: int, cpu: int) -> None:
        self.enabled = enabled
        self.sleep = sleep
        self.backtrack = 1 << cpu
        self.queue: tuple[int, ...] = ()
        self.cpu = cpu
        self.location = -1
        self.mode: Mode = READ
        self.more: tuple[Access, ...] = ()
        self.hb = 0
        self.undo_more: list[tuple[int, _Record]] | None = None


S = TypeVar("S", bound=State)


def _conflicting(record: _Record, mode: Mode) -> int:
    """Return the events in a location's record that an access in this mode depends on."""
    reads, writes, incs, tryincs, decs, _ = record
    if mode == READ:
        return writes | incs | tryincs | decs
    if mode in _UNSEEN:
        return reads | writes
    if mode == TRYINC:
        return reads | writes | decs
    if mode == DEC:
        return reads | writes | tryincs | decs
    return reads | writes | incs | tryincs | decs


def _updated(record: _Record, mode: Mode, bit: int) -> _Record:
    """Return a location's record after an access in this mode."""
    reads, writes, incs, tryincs, decs, acquire = record
    if mode == READ:
        return (reads | bit, writes, incs, tryincs, decs, acquire)
    if mode in _UNSEEN:
        return (reads, writes, incs | bit, tryincs, decs, 0)
    if mode == TRYINC:
        return (reads, writes, incs, tryincs | bit, decs, 0)
    if mode == DEC:
        return (reads, writes, incs, tryincs, decs | bit, 0)
    # What comes after this one depends on it, and it on everything so far: the rest can be forgotten.
    return (0, bit, 0, 0, 0, writes if mode == UNLOCK and not acquire else 0)


class Dpor(Generic[S]):
    """What source-DPOR and optimal DPOR share: happens-before, races, sleep sets, the prefix.

    Attributes:
        states: the execution under way.
        name: of the engine.
        replayed: its events that the last execution had as well.
        root: the search is confined to what begins with the first `root` events.
        above: the races whose reversal begins above the root, for whoever searches there (`frontier.py`).
    """

    name = "dpor"

    def __init__(self) -> None:
        self.states: list[S] = []
        self.replayed = 0
        self.root = 0
        self.above: dict[Reversal, None] = {}
        self._begun = 0  # the length of E that was given, when the execution under way was begun
        self._known = 0  # races between the first so many events have been reversed already
        self._sleep = 0  # the sleep set of the next new state
        self._records: dict[int, _Record] = {}
        self._last_hb: dict[int, int] = {}  # CPU -> hb of its last event

    # Chooser

    def choose(self, run: Run) -> int:
        """Follow the prefix to be explored; after it, prefer the CPU that runs already."""
        states = self.states
        depth = run.steps
        if depth < len(states):
            cpu = states[depth].cpu
            if not run.unfinished >> cpu & 1 or not run.can_go(run.cpus[cpu]):
                raise self._cannot(depth, cpu)
            return cpu
        enabled = run.enabled()
        candidates = enabled & ~self._sleep
        if not candidates:
            if run.unfinished & ~enabled:
                self._reverse_waiting(run, run.unfinished & ~enabled)
            return -1
        cpu = run.current.id
        if not candidates >> cpu & 1 or not states:
            cpu = (candidates & -candidates).bit_length() - 1
        return self._new_state(enabled, cpu)

    def _new_state(self, enabled: int, cpu: int) -> int:
        """Add a state from which `cpu` is to go on, unless it is known better; return who does."""
        raise NotImplementedError

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Order the event after those that it depends on, find its races, and pass the sleep set on."""
        depth = cpu.run.steps
        state = self.states[depth]
        location = cpu.location.id
        if depth < self.replayed:
            if location != state.location or mode != state.mode:
                raise self._diverged(depth, cpu, mode)
            return
        if depth < self._known and state.location >= 0 and (location != state.location or mode != state.mode):
            raise self._diverged(depth, cpu, mode)
        number = cpu.id
        bit = 1 << depth
        before = self._last_hb.get(number, 0)
        state.location = location
        state.mode = mode
        state.before = before
        for position in cpu.joins:
            before |= self.states[position].hb
        if cpu.more is not None or (cpu.guarded and mode != LOCK):
            hb = self._executed_further(state, cpu, depth, before)
        else:
            record = state.undo = self._records.get(location, _UNTOUCHED)
            state.more = ()
            # Inlined from _conflicting() and _updated(): most events are reads and writes.
            if mode == READ:
                reads, writes, incs, tryincs, decs, acquire = record
                found = (writes | incs | tryincs | decs) & ~before
                self._records[location] = (reads | bit, writes, incs, tryincs, decs, acquire)
            elif mode == WRITE:
                reads, writes, incs, tryincs, decs, acquire = record
                found = (reads | writes | incs | tryincs | decs) & ~before
                self._records[location] = (0, bit, 0, 0, 0, 0)
            else:
                found = _conflicting(record, mode) & ~before
                self._records[location] = _updated(record, mode, bit)
            hb = before
            if not found:
                pass
            elif mode == LOCK:
                hb = self._acquired(cpu, before, found, record)
            else:
                racing = []
                states = self.states
                while found:  # the newest first: what happens before it is no race
                    event = found.bit_length() - 1
                    racing.append(event)
                    hb |= states[event].hb
                    found &= ~hb
                for event in racing:
                    self._reverse(event, cpu, hb, depth)
        state.hb = self._last_hb[number] = hb | bit
        if state.sleep:
            self._still_asleep(state, cpu, mode)
        else:
            self._sleep = 0

    def _still_asleep(self, state: S, cpu: ExploredCpu, mode: Mode) -> None:
        """Pass the sleep set on, as far as nothing in it depends on the event."""
        self._sleep = still_asleep(cpu.run, state.sleep, cpu, mode)

    # Races

    def _reverse(self, event: int, cpu: ExploredCpu, hb: int, end: int) -> None:
        """Make sure that E is also explored with the operation of `cpu` before `event`.

        Args:
            event: the first event of the race.
            cpu: the CPU of the second one.
            hb: what happens before the second one.
            end: its position; the length of E if it was never performed.
        """
        raise NotImplementedError

    # Parts of a search

    def restore(self, states: list[SavedState], root: int) -> None:
        """Prepare to go on where another engine has stopped.

        Args:
            states: the whole stack; the last state's branch has not been begun.
            root: see the class.
        """
        self.states = [self._restored(state.copy()) for state in states]
        self.root = root
        self._begun = len(states)
        self._known = len(states) - 1

    def saved(self) -> list[SavedState]:
        """Return the stack from the root on, as it was before the execution under way, if there is one."""
        states = self.states[: self._begun]
        last = len(states) - 1
        return [self._saved(state, depth == last) for depth, state in enumerate(states) if depth >= self.root]

    @property
    def first_accesses(self) -> Accesses:
        """The operation with which what is searched begins."""
        state = self.states[self.root - 1] if 0 < self.root <= len(self.states) else None
        return () if state is None or state.location < 0 else ((state.location, state.mode), *state.more)

    def _restored(self, saved: SavedState) -> S:
        raise NotImplementedError

    def _saved(self, state: S, last: bool) -> SavedState:
        raise NotImplementedError

    @staticmethod
    def merge(state: SavedState, reversal: Reversal) -> int:
        """Reverse a race that a part of the search has found; tell which branch is new or extended, -1 if none."""
        raise NotImplementedError

    def _acquired(self, cpu: ExploredCpu, before: int, found: int, record: _Record) -> int:
        """Treat the acquire of an exclusive lock, and return its hb.

        A release enables it, so these two do not race. It races with the reads of the free lock since then,
        and with the acquire that belongs to the release, unless it happens after that anyway.
        """
        states = self.states
        depth = cpu.run.steps
        reads, _, _, _, _, acquire = record
        ordered = before  # hb without the release
        if not acquire:  # a shared lock, or one that was acquired during set-up
            self._waited(cpu, ((cpu.location.id, LOCK),), before, depth)
            reads = acquire = 0
        reads &= ~before
        while reads:
            event = reads.bit_length() - 1
            ordered |= states[event].hb
            reads &= ~ordered
            self._reverse(event, cpu, ordered, depth)
        if acquire & ~ordered:
            self._reverse(acquire.bit_length() - 1, cpu, ordered, depth)
        hb = ordered
        while found:
            hb |= states[found.bit_length() - 1].hb
            found &= ~hb
        return hb

    def _executed_further(self, state: State, cpu: ExploredCpu, depth: int, before: int) -> int:
        """Treat an event on several locations, or one that had to wait, and return its hb."""
        accesses = tuple((location.id, mode) for location, mode in cpu.accesses())
        state.more = accesses[1:]
        found = 0
        for location, mode in accesses:
            found |= _conflicting(self._records.get(location, _UNTOUCHED), mode)
        found &= ~before
        if cpu.guarded:
            self._waited(cpu, accesses, before, depth)
        hb = before
        racing = []
        while found:
            event = found.bit_length() - 1
            hb |= self.states[event].hb
            found &= ~hb
            racing.append(event)
        if not cpu.guarded:
            for event in racing:
                self._reverse(event, cpu, hb, depth)
        state.undo_more = []
        for location, mode in accesses:
            record = self._records.get(location, _UNTOUCHED)
            state.undo_more.append((location, record))
            self._records[location] = _updated(record, mode, 1 << depth)
        return hb

    def _waited(self, cpu: ExploredCpu, accesses: Iterable[Access], before: int, end: int) -> None:
        """Reverse the races of an operation that waits, whether or not it could go on in the end."""
        states = self.states
        modes = dict(accesses)
        arrived = -1  # its CPU waits since the step after this one
        for position in range(end - 1, -1, -1):
            if states[position].cpu == cpu.id:
                arrived = position
                break
        # A lock that could not be taken before an event could not be taken after what is independent of that
        # event either. But a busy wait may be ended by any of several independent events: those are looked for.
        is_lock = cpu.mode in {LOCK, SHARE} and cpu.more is None
        changes = self._ends_of_wait(cpu, end) if cpu.spun and cpu.enabled is None and not cpu.run.buffers else None
        covered = before
        dependent = 0
        for event in range(end - 1, -1, -1):
            state = states[event]
            if covered >> event & 1 or not self._conflicts(state, modes):
                continue
            could = bool(state.enabled & cpu.bit)
            known = event > arrived and cpu.run.buffers is None
            if changes is not None:
                known = True
                could = any(not states[change].hb >> event & 1 for change in changes)
            elif is_lock and not known:
                answer = self._was_free(event, cpu)
                known = answer is not None
                could = bool(answer)
            if could or not known or (changes is None and not is_lock):
                # Where it is not known whether it could have gone on: exploring too much is harmless.
                self._reverse(event, cpu, before | dependent, end)
            if could and known:
                covered |= state.hb
            dependent |= 1 << event

    def _ends_of_wait(self, cpu: ExploredCpu, end: int) -> list[int]:
        """Return the events before `end` that end a busy wait: changes of what the CPU has seen, after it has."""
        seen = {location.id: step for location, step in cpu.spin or ()}
        return [
            position
            for position in range(min(seen.values(), default=end), end)
            for location, mode in ((self.states[position].location, self.states[position].mode),
                                   *self.states[position].more)
            if mode != READ and location in seen and position >= seen[location]
        ]  # fmt: skip

    def _was_free(self, event: int, cpu: ExploredCpu) -> bool | None:
        """Tell whether `cpu` could have taken its lock just before an event on the lock; None if unknown."""
        mode = self.states[event].mode
        if mode in {UNLOCK, UNSHARE}:
            return False
        if SHARE in {cpu.mode, mode}:
            return None  # there may be other readers, or writers that queue
        location = cpu.location.id
        holders = 0
        for state in self.states[:event]:
            if state.location == location:
                if state.mode in {LOCK, SHARE, WRITE}:  # a write is a trylock that succeeded
                    holders += 1
                elif state.mode in {UNLOCK, UNSHARE} and holders:
                    holders -= 1
        if not holders:
            return True
        return False if mode == READ else None  # several holders: a lock that is shared some other way

    @staticmethod
    def _conflicts(state: State, modes: dict[int, Mode]) -> bool:
        """Tell whether an event depends on an operation with these accesses."""
        mode = modes.get(state.location)
        if mode is not None and CONFLICTS[mode] >> state.mode & 1:
            return True
        for location, further in state.more:
            mode = modes.get(location)
            if mode is not None and CONFLICTS[mode] >> further & 1:
                return True
        return False

    def _reverse_waiting(self, run: Run, waiting: int) -> None:
        """Find the races of operations that still wait at the end of an execution.

        They were never performed, in a deadlock as well as where everybody else sleeps: a CPU that waits is not
        asleep, so nothing that it could have done has been explored on its account.
        """
        end = len(self.states)
        for cpu in run.cpus:
            if not waiting & cpu.bit:
                continue
            before = self._last_hb.get(cpu.id, 0)
            if run.buffers is not None:
                if run.buffers.waiting & cpu.bit:
                    continue  # its own stores come first, and have been explored first
                for position in run.buffers.joins(cpu):
                    before |= self.states[position].hb
            accesses = [(location.id, mode) for location, mode in cpu.accesses()]
            self._waited(cpu, accesses, before, end)

    def _undo(self, state: S) -> None:
        """Forget the event of the last state."""
        if state.location < 0:
            return
        self._last_hb[state.cpu] = state.before
        if state.undo_more is not None:
            for location, record in reversed(state.undo_more):
                self._records[location] = record
            state.undo_more = None
        else:
            self._records[state.location] = state.undo
        state.location = -1

    def finish(self, run: Run) -> bool:
        """Take note of the end of an execution, and prepare the next; tell whether there is one."""
        raise NotImplementedError

    def _planned(self) -> bool:
        """Take note that the next execution is planned; tell whether there is one."""
        self._begun = len(self.states)
        self.replayed = self._begun - 1
        self._known = 0
        self._sleep = 0
        return self._begun > self.root

    def done(self) -> float:
        """Return the part of the search that is done, if every branch of a state is as large as the others."""
        done = 0.0
        share = 1.0
        for state in self.states:
            explored = (state.backtrack & state.sleep).bit_count()
            share /= explored + 1 + self._waiting_branches(state)
            done += share * explored
        return done

    def _waiting_branches(self, state: S) -> int:
        """Return how many branches of a state have not been begun."""
        raise NotImplementedError

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored."""
        return sum(self._waiting_branches(state) for state in self.states)

    def left_out(self) -> str:
        """Say by what the search was limited: by nothing."""
        return ""

    def _diverged(self, depth: int, cpu: ExploredCpu, mode: Mode) -> NondeterministicProgram:
        state = self.states[depth]
        return NondeterministicProgram(
            f"the program is not deterministic: at step {depth} {cpu.name} now does a {MODE_NAMES[mode]}"
            f" ({cpu.label or 'no label'}) of {cpu.location.name} (location {cpu.location.id}), but after the same"
            f" schedule it did a {MODE_NAMES[state.mode]} of location {state.location} before; shared state must"
            " be created afresh for each execution, and nothing may depend on time, chance or hashing"
        )

    def _cannot(self, depth: int, cpu: int) -> NondeterministicProgram:
        return NondeterministicProgram(
            f"the program is not deterministic: at step {depth} CPU {cpu} cannot go on now, but after the same"
            " schedule it could before; shared state must be created afresh for each execution, and nothing may"
            " depend on time, chance or hashing"
        )

    def _check_length(self, run: Run) -> None:
        """Refuse an execution that ended within the prefix that it should have had."""
        if run.steps == len(self.states):
            return
        raise NondeterministicProgram(
            f"the program is not deterministic: it now ends after {run.steps} steps ({run.end}), but the same"
            f" schedule went on to step {len(self.states)} before; shared state must be created afresh for each"
            " execution, and nothing may depend on time, chance or hashing"
        )


class SourceDpor(Dpor[State]):
    """The chooser of source-DPOR.

    Where a race is found, one initial of the reversed sequence is added to the backtrack set of pre(E, event), so
    that in the end it is a *source set*: it has an initial of every sequence that can follow.
    """

    name = "source"

    @override
    def _new_state(self, enabled: int, cpu: int) -> int:
        self.states.append(State(enabled, self._sleep, cpu))
        return cpu

    @override
    def _reverse(self, event: int, cpu: ExploredCpu, hb: int, end: int) -> None:
        if end < self._known:
            return
        states = self.states
        source = states[event]
        covered = source.backtrack | source.sleep
        if not source.enabled & ~covered:
            return
        sequence = 0  # v = notdep(event) followed by the operation of `cpu`
        choice = initials = 0
        for position in range(event + 1, end):
            state = states[position]
            if state.hb >> event & 1:
                continue
            if not state.hb & sequence:
                initial = 1 << state.cpu
                if initial & covered:
                    return
                choice = choice or initial
                initials |= initial
            sequence |= 1 << position
        if not hb & sequence:
            if cpu.bit & covered or not cpu.bit & source.enabled:
                return  # it goes first already, or would have to wait and nothing in v ends that
            choice = cpu.bit
            initials |= choice
        if not choice & source.enabled:
            raise MmrefInternalError(f"CPU set {choice:b} is to go first at step {event}, where it cannot")
        if event < self.root:
            self.above[event, initials, choice] = None
            return
        source.backtrack |= choice
        source.queue += (choice.bit_length() - 1,)

    @override
    def _restored(self, saved: SavedState) -> State:
        state = State(saved.enabled, saved.sleep, saved.wut[0].cpu)
        state.backtrack = saved.backtrack
        state.queue = tuple([branch.cpu for branch in saved.wut[1:]])
        state.location = saved.location
        state.mode = saved.mode
        return state

    @override
    def _saved(self, state: State, last: bool) -> SavedState:
        wut = [Branch(state.cpu, () if last else ((state.location, state.mode), *state.more))]
        wut.extend([Branch(cpu) for cpu in state.queue])
        location = -1 if last else state.location
        return SavedState(state.enabled, state.sleep, state.backtrack, location, state.mode, 0, {}, wut)

    @override
    @staticmethod
    def merge(state: SavedState, reversal: Reversal) -> int:
        _, initials, choice = reversal
        if initials & (state.backtrack | state.sleep):
            return -1
        state.backtrack |= choice
        state.wut.append(Branch(choice.bit_length() - 1))
        return len(state.wut) - 1

    @override
    def finish(self, run: Run) -> bool:
        states = self.states
        self._check_length(run)
        root = self.root
        while len(states) > root:
            state = states[-1]
            state.sleep |= 1 << state.cpu
            self._undo(state)
            if state.queue:
                state.cpu, *rest = state.queue
                state.queue = tuple(rest)
                break
            states.pop()
        return self._planned()

    @override
    def _waiting_branches(self, state: State) -> int:
        return len(state.queue)
