# SPDX-License-Identifier: GPL-2.0-only
"""What of a search is still to be done, as data: it can be sent to a worker, and written to a file.

Conventions in this file
    stack       the states of an execution in which somebody may still have to go on, see `dpor.py`
    wut         the branches of a state still to be explored, the first one under way: with source-DPOR single CPUs,
                with optimal DPOR wakeup trees
    unit        a part of the search that is explored in one piece: everything that begins with the schedule that
                leads to its *root*, the number of steps in that schedule
    fork        a state whose branches are units, or forks in their turn; and the way that leads to it
    outcome     what the exploration of a unit or fork has come to so far
    above       races found in a unit whose reversal begins above its root, where other units have a say

What is explored below a root depends on nothing but the way to it and on who sleeps there; and who sleeps there is
known as soon as the branch is, because the branches of a state are explored in the order in which they are found. So a
unit can be explored long before its turn. Its outcome is used in its turn: `Tree.settle()` works through the units in
the order of the serial search, and what comes out is what the serial search finds, execution by execution.

One thing is known only in time: with optimal DPOR, a race may extend a branch that has been begun. It is then begun
afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeAlias

from mmref.explore.locations import Mode
from mmref.explore.lock_order import LockOrders
from mmref.explore.verdict import Verdict

__all__ = ["Branch", "Fork", "Merge", "Outcome", "Reversal", "SavedState", "Tree", "Unit"]

Accesses: TypeAlias = tuple[tuple[int, Mode], ...]
Reversal: TypeAlias = tuple[Any, ...]
"""(event, what the engine needs to reverse a race that begins with it)"""


class Branch:
    """A node of a wakeup tree: who goes on, with which operation, and what may follow."""

    __slots__ = ("accesses", "children", "cpu")

    def __init__(self, cpu: int, accesses: Accesses = ()) -> None:
        self.cpu = cpu
        self.accesses = accesses
        self.children: list[Branch] = []

    def flat(self) -> list[tuple[int, int, Accesses]]:
        """Return the tree as a list, each node in front of its children, with their number: trees are deep."""
        nodes: list[tuple[int, int, Accesses]] = []
        rest = [self]
        while rest:
            node = rest.pop()
            nodes.append((len(node.children), node.cpu, node.accesses))
            rest.extend(reversed(node.children))
        return nodes

    def copy(self) -> Branch:
        """Return a copy of the tree."""
        top = Branch(self.cpu, self.accesses)
        rest = [(self, top)]
        while rest:
            old, new = rest.pop()
            for child in old.children:
                twin = Branch(child.cpu, child.accesses)
                new.children.append(twin)
                if child.children:
                    rest.append((child, twin))
        return top

    @classmethod
    def of(cls, nodes: Sequence[Sequence[Any]]) -> Self:
        """Return the tree that `flat()` has taken apart."""
        root: Self | None = None
        open_nodes: list[tuple[Self, int]] = []
        for children, cpu, accesses in nodes:
            if type(accesses) is not tuple:  # from JSON
                accesses = tuple((location, mode) for location, mode in accesses)
            node = cls(cpu, accesses)
            if open_nodes:
                parent, missing = open_nodes.pop()
                parent.children.append(node)
                if missing > 1:
                    open_nodes.append((parent, missing - 1))
            else:
                root = node
            if children:
                open_nodes.append((node, children))
        assert root is not None
        return root


class SavedState:
    """A state of a stack, without the event that was performed in it.

    Attributes:
        enabled, sleep, backtrack: sets of CPUs as in `dpor.State`.
        location, mode: what was accessed, to notice if it is something else next time; -1 if nothing was yet.
        stale, sleepers: as in `optimal.WakeupState`.
        wut: see the top of this file.
    """

    __slots__ = ("backtrack", "enabled", "location", "mode", "sleep", "sleepers", "stale", "wut")

    def __init__(
        self, enabled: int, sleep: int, backtrack: int, location: int, mode: Mode, stale: int,
        sleepers: dict[int, Accesses], wut: list[Branch],
    ) -> None:  # fmt: skip
        self.enabled = enabled
        self.sleep = sleep
        self.backtrack = backtrack
        self.location = location
        self.mode = mode
        self.stale = stale
        self.sleepers = sleepers
        self.wut = wut

    def data(self) -> list[Any]:
        """Return the state as plain data."""
        return [self.enabled, self.sleep, self.backtrack, self.location, self.mode, self.stale,
                list(self.sleepers.items()), [branch.flat() for branch in self.wut]]  # fmt: skip

    @classmethod
    def of(cls, data: Sequence[Any]) -> Self:
        """Return the state that `data()` has described."""
        enabled, sleep, backtrack, location, mode, stale, sleepers, wut = data
        known = {cpu: tuple((place, how) for place, how in accesses) for cpu, accesses in sleepers}
        branches = [Branch.of(nodes) for nodes in wut]
        return cls(enabled, sleep, backtrack, location, mode, stale, known, branches)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.data(),)

    def copy(self) -> SavedState:
        """Return a copy that can be changed while others read this one."""
        return SavedState(self.enabled, self.sleep, self.backtrack, self.location, self.mode, self.stale,
                          self.sleepers, [branch.copy() for branch in self.wut])  # fmt: skip

    def asleep_at(self, place: int) -> int:
        """Return who sleeps when the branch at a place of `wut` is explored: who has been before, too."""
        sleep = self.sleep
        for branch in self.wut[:place]:
            if self.enabled & ~sleep & 1 << branch.cpu:
                sleep |= 1 << branch.cpu
        return sleep

    def runnable(self, place: int) -> bool:
        """Tell whether the CPU of a branch can go on from here: the second operation of a race may wait after all."""
        return bool(self.enabled & ~self.asleep_at(place) & 1 << self.wut[place].cpu)

    def at(self, place: int, *, begun: bool) -> SavedState:
        """Return the state as it is when the branch at a place of `wut` is under way.

        Once that has been begun, what may follow is in the wakeup trees of the states below.
        """
        branch = self.wut[place]
        return SavedState(self.enabled, self.asleep_at(place), self.backtrack, self.location if not place else -1,
                          self.mode, self.stale, self.sleepers,
                          [Branch(branch.cpu, branch.accesses) if begun else branch])  # fmt: skip


class Outcome:
    """What a part of the search has come to so far.

    Attributes:
        executions, blocked, findings, steps: as in a `Report`.
        found_in: the number of the execution with the first finding.
        first: its schedule and verdict.
        stopped: whether the first finding ends the search.
        completed: what `on_execution` is to be told, if it is not told at once.
        above: see the top of this file, in the order in which they were found, each once.
        lock_orders: who has taken which lock while holding which.
    """

    __slots__ = ("above", "blocked", "completed", "executions", "findings", "first", "found_in", "lock_orders", "steps",
                 "stopped")  # fmt: skip

    def __init__(self) -> None:
        self.executions = 0
        self.blocked = 0
        self.findings = 0
        self.steps = 0
        self.found_in: int | None = None
        self.first: tuple[tuple[int, ...], Verdict] | None = None
        self.stopped = False
        self.completed: list[Any] = []
        self.above: dict[Reversal, None] = {}
        self.lock_orders = LockOrders()

    @property
    def runs(self) -> int:
        """Executions, blocked ones included."""
        return self.executions + self.blocked

    def add(self, later: Outcome) -> None:
        """Add what comes after this in the serial search, except for its reversals."""
        if self.first is None and later.first is not None:
            self.first = later.first
            assert later.found_in is not None
            self.found_in = self.executions + later.found_in
        self.executions += later.executions
        self.blocked += later.blocked
        self.findings += later.findings
        self.steps += later.steps
        self.stopped = self.stopped or later.stopped
        self.completed.extend(later.completed)
        self.lock_orders.add(later.lock_orders)

    def data(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        first = None
        if self.first is not None:
            choices, verdict = self.first
            first = [list(choices), verdict.kind, verdict.id, verdict.detail, verdict.cpu]
        return {
            "executions": self.executions, "blocked": self.blocked, "findings": self.findings, "steps": self.steps,
            "found_in": self.found_in, "first": first, "stopped": self.stopped, "above": list(self.above),
            "lock_orders": self.lock_orders.data(),
        }  # fmt: skip

    @classmethod
    def of(cls, data: dict[str, Any]) -> Self:
        """Return the outcome that `data()` has described."""
        outcome = cls()
        outcome.executions = data["executions"]
        outcome.blocked = data["blocked"]
        outcome.findings = data["findings"]
        outcome.steps = data["steps"]
        outcome.found_in = data["found_in"]
        if data["first"] is not None:
            choices, *verdict = data["first"]
            outcome.first = tuple(choices), Verdict(*verdict)
        outcome.stopped = data["stopped"]
        outcome.lock_orders = LockOrders.of(data["lock_orders"])
        outcome.above = {_hashable(reversal): None for reversal in data["above"]}
        return outcome


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


class Part:
    """A unit or a fork.

    Attributes:
        parent: the fork of which it is a branch; None at the top.
        outcome: what it has come to, as far as its parent has not been told.
        accesses: the operation with which it begins, once that has been performed.
        stopped: whether a finding in it ends the search.
    """

    def __init__(self) -> None:
        self.parent: Fork | None = None
        self.outcome = Outcome()
        self.accesses: Accesses = ()
        self.stopped = False


class Unit(Part):
    """See the top of this file.

    Attributes:
        states: its stack, from its root on; empty as long as it has not been begun.
        done: whether nothing of it is left.
        running: whether a worker has it.
    """

    def __init__(self, states: list[SavedState] | None = None) -> None:
        super().__init__()
        self.states = states or []
        self.done = False
        self.running = False

    @property
    def root(self) -> int:
        """The number of steps on the way to it."""
        return 0 if self.parent is None else self.parent.base + len(self.parent.states)

    @property
    def idle(self) -> bool:
        """Whether somebody could take it."""
        return not self.done and not self.running

    def way(self) -> list[SavedState]:
        """Return the states on the way to it, in each of which the branch that leads here is under way."""
        pieces: list[list[SavedState]] = []
        part: Unit | Fork = self
        while part.parent is not None:
            fork = part.parent
            begun = isinstance(part, Fork) or bool(part.states)
            pieces.append([*fork.states[:-1], fork.states[-1].at(fork.place(part), begun=begun)])
            part = fork
        return [state for piece in reversed(pieces) for state in piece]


def _performed(state: SavedState) -> Accesses:
    return state.wut[0].accesses if state.location >= 0 else ()


class Fork(Part):
    """See the top of this file.

    Attributes:
        base: the number of steps on the way to its first state.
        states: the way to the state with the branches, from the next fork above on. Only the last has branches to
            spare.
        children: one for each branch in the `wut` of the last state; None for one that cannot be run.
    """

    def __init__(self, base: int, states: list[SavedState]) -> None:
        super().__init__()
        self.base = base
        self.states = states
        self.children: list[Unit | Fork | None] = []

    def adopt(self, child: Unit | Fork | None) -> None:
        """Add the part that belongs to the next branch."""
        self.children.append(child)
        if child is not None:
            child.parent = self

    def place(self, child: Part) -> int:
        """Return which of the branches a part belongs to."""
        return next(place for place, one in enumerate(self.children) if one is child)


Merge: TypeAlias = Callable[[SavedState, Reversal], int]
"""Reverses a race in a state; returns which branch of `wut` is new or has been extended, -1 if none."""


class Tree:
    """The whole of a search: what has been found, and what is left.

    Attributes:
        top: what is left; None if nothing is.
        outcome: what is known of all that comes first in the serial search.
    """

    def __init__(self, merge: Merge, top: Unit | Fork | None = None) -> None:
        self._merge = merge
        self.top: Unit | Fork | None = top
        self.outcome = Outcome()

    @classmethod
    def whole(cls, merge: Merge) -> Self:
        """Return a search that has not been begun."""
        return cls(merge, Unit())

    def parts(self) -> Iterator[Unit | Fork]:
        """Yield what is left, in the order of the serial search."""
        return (part for part in _all_parts(self.top) if part is not None)

    def units(self) -> Iterator[Unit]:
        """Yield the units, in the order of the serial search; nothing behind a finding that ends the search."""
        rest: list[Unit | Fork | None] = [self.top]
        while rest:
            part = rest.pop()
            if part is None:
                continue
            if isinstance(part, Unit) and (part.stopped or part.outcome.stopped):
                return
            if isinstance(part, Fork):
                rest.extend(reversed(part.children))
            else:
                yield part

    def known(self) -> Outcome:
        """Return the outcome of all that has been explored, whether or not it is its turn."""
        total = Outcome()
        total.add(self.outcome)
        for part in self.parts():
            total.add(part.outcome)
        return total

    def holds(self, part: Part) -> bool:
        """Tell whether a part still belongs to the search: it may have been replaced."""
        while part.parent is not None:
            if not any(child is part for child in part.parent.children):
                return False
            part = part.parent
        return part is self.top

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored."""
        count = 0
        for part in self.parts():
            if isinstance(part, Fork):
                continue
            count += not part.done
            count += sum(len(state.wut) - 1 for state in part.states)
        return count

    def done(self) -> float:
        """Return the part of the search that is done, if every branch of a state is as large as the others."""
        done = 0.0
        rest = [] if self.top is None else [(self.top, 1.0)]
        while rest:
            part, share = rest.pop()
            for state in part.states:
                explored = (state.backtrack & state.sleep).bit_count()
                share /= explored + len(state.wut)
                done += share * explored
            if isinstance(part, Fork):
                rest.extend((child, share) for child in part.children if child is not None)
            elif part.done:
                done += share
        return done

    def take_completed(self, *, everything: bool) -> list[Any]:
        """Take out what `on_execution` is to be told: what has had its turn, or everything."""
        outcomes = [self.outcome]
        if everything:
            outcomes.extend(part.outcome for part in self.parts())
        completed = []
        for outcome in outcomes:
            completed.extend(outcome.completed)
            outcome.completed = []
        return completed

    def split(self, unit: Unit) -> bool:
        """Hand the branches of a unit's first state that has more than one to units of their own, if there is any."""
        states = enumerate(unit.states)
        index = next((at for at, one in states if any(map(one.runnable, range(1, len(one.wut))))), -1)
        if index < 0:
            return False
        state = unit.states[index]
        fork = Fork(unit.root, unit.states[: index + 1])
        fork.accesses = unit.accesses
        self._replace(unit, fork)
        rest = Unit(unit.states[index + 1 :])
        rest.accesses = _performed(state)
        fork.adopt(rest)
        for place in range(1, len(state.wut)):
            fork.adopt(Unit() if state.runnable(place) else None)
        return True

    def settle(self, part: Unit | Fork) -> None:
        """Pass on what a unit has come to, as far up as it is the first that is not done."""
        while True:
            part.stopped = part.stopped or part.outcome.stopped
            fork = part.parent
            if fork is None:
                self.outcome.add(part.outcome)
                part.outcome = Outcome()
                if isinstance(part, Unit) and part.done:
                    self.top = None
                return
            if fork.children[0] is not part or fork.stopped or fork.outcome.stopped:
                return
            outcome, part.outcome = part.outcome, Outcome()
            fork.outcome.add(outcome)
            fork.stopped = outcome.stopped
            base, above = fork.base, fork.outcome.above
            for reversal in () if outcome.stopped else outcome.above:
                if reversal[0] < base:
                    above[reversal] = None
                else:
                    self._reverse(part, reversal)
            fork = part.parent  # another one, if the way has been divided
            assert fork is not None
            part = self._next(fork, part) if isinstance(part, Unit) and part.done and not outcome.stopped else fork

    def _reverse(self, part: Part, reversal: Reversal) -> None:
        """Reverse a race in the state before its first event."""
        fork = part.parent
        while fork is not None and reversal[0] < fork.base:  # the way has been divided since
            fork = fork.parent
        assert fork is not None
        index = reversal[0] - fork.base
        state = fork.states[index]
        place = self._merge(state, reversal)
        if place < 0:
            return
        if index < len(fork.states) - 1:
            fork = self._divide(fork, index)
        child = Unit() if state.runnable(place) else None
        if place == len(fork.children):
            fork.adopt(child)
        elif child is not None:  # what has been explored of the branch went another way
            fork.children[place] = child
            child.parent = fork

    def _divide(self, inner: Fork, index: int) -> Fork:
        """Make a fork of a state on the way to one; return it."""
        outer = Fork(inner.base, inner.states[: index + 1])
        outer.accesses = inner.accesses
        self._replace(inner, outer)
        inner.accesses = _performed(outer.states[-1])
        inner.states = inner.states[index + 1 :]
        inner.base += index + 1
        outer.adopt(inner)
        return outer

    def _next(self, fork: Fork, part: Part) -> Unit | Fork:
        """Go on behind a branch that is done; return the next one, or what stands for the fork if it was the last."""
        state = fork.states[-1]
        cpu = state.wut.pop(0).cpu
        fork.children.pop(0)
        state.sleep |= 1 << cpu
        state.sleepers = {**state.sleepers, cpu: part.accesses}  # others share the old one
        state.location = -1
        while fork.children:
            child = fork.children[0]
            if child is not None:
                return child
            fork.children.pop(0)
            state.wut.pop(0)
        done = Unit()
        done.done = True
        done.accesses = fork.accesses
        self._replace(fork, done)
        return done

    def _replace(self, old: Unit | Fork, new: Unit | Fork) -> None:
        """Put a part in another one's place, with what that has come to."""
        parent = new.parent = old.parent
        new.outcome, old.outcome = old.outcome, Outcome()
        new.stopped = old.stopped
        if parent is None:
            self.top = new
        else:
            parent.children[parent.place(old)] = new

    def data(self) -> list[Any]:
        """Return what is left, and what has been found, as plain data: forks stand in front of their branches."""
        return [self.outcome.data(), [_part_data(part) for part in _all_parts(self.top)]]

    @classmethod
    def of(cls, merge: Merge, data: Sequence[Any]) -> Self:
        """Return the tree that `data()` has described."""
        outcome, parts = data
        tree = cls(merge)
        tree.outcome = Outcome.of(outcome)
        missing: list[tuple[Fork, int]] = []
        for item in parts:
            part = _part_of(item)
            if missing:
                fork, count = missing.pop()
                fork.adopt(part)
                if count > 1:
                    missing.append((fork, count - 1))
            else:
                tree.top = part
            if isinstance(part, Fork):
                part.base = 0 if part.parent is None else part.parent.base + len(part.parent.states)
                missing.append((part, item["children"]))
        if missing or tree.top is None:
            raise ValueError(f"{len(missing)} parts without an end")
        return tree


def _all_parts(top: Unit | Fork | None) -> Iterator[Unit | Fork | None]:
    rest: list[Unit | Fork | None] = [top]
    while rest:
        part = rest.pop()
        yield part
        if isinstance(part, Fork):
            rest.extend(reversed(part.children))


def _part_data(part: Unit | Fork | None) -> dict[str, Any] | None:
    if part is None:
        return None
    data: dict[str, Any] = {
        "states": [state.data() for state in part.states], "outcome": part.outcome.data(),
        "accesses": part.accesses, "stopped": part.stopped,
    }  # fmt: skip
    if isinstance(part, Fork):
        data["children"] = len(part.children)
    else:
        data["done"] = part.done
    return data


def _part_of(data: dict[str, Any] | None) -> Unit | Fork | None:
    if data is None:
        return None
    states = [SavedState.of(state) for state in data["states"]]
    part: Unit | Fork
    if "children" in data:
        part = Fork(0, states)
    else:
        part = Unit(states)
        part.done = data["done"]
    part.outcome = Outcome.of(data["outcome"])
    part.accesses = _hashable(data["accesses"])
    part.stopped = data["stopped"]
    return part
