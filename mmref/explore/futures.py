# SPDX-License-Identifier: GPL-2.0-only
"""What each CPU may still access, as far as a search has seen, and which steps need no alternative for that reason.

If nothing that the other CPUs may do from now on depends on a CPU's next step, that step alone is a *persistent set*
(Godefroid 1996): whatever the others do can as well be done after it. What they may do is not known in advance. It is
learnt: the places where a CPU's code can stand, with the accesses made there, are a graph that grows with the search.
A decision that was made too early is found out when the search has come to its end, and the state is explored in the
other directions, too, until no decision needs to be revised. (That an access is missing in the end cannot be: the
shortest way to it would lead through states whose decisions are right, and so it would have been seen.)

Conventions in this file: a *place* is the number of where a CPU's code stands: functions, positions, numbers in local
variables. It need not tell states apart; what it does not tell adds to what is possible from there.
An *access* is the number of a (location, mode) pair, and a set of them is a bit mask.
"""

from __future__ import annotations

from mmref.explore.locations import CONFLICTS, Mode
from mmref.explore.scheduler import ExploredCpu

__all__ = ["Futures"]


class Futures:
    """The graph of places, and the accesses that are possible from each place on."""

    def __init__(self) -> None:
        self._places: dict[object, int] = {}
        self._before: list[set[int]] = []  # by place: from where a CPU can come there with its step
        self._future: list[int] = []  # by place: the accesses from there on
        self._numbers: dict[tuple[int, Mode], int] = {}
        self._at: dict[int, list[tuple[Mode, int]]] = {}  # by location: modes and numbers of its accesses
        self._conflicts: list[int] = []  # by access: all accesses that depend on it

    def place(self, where: object, cpu: ExploredCpu) -> int:
        """Return the number of the place where a CPU stands, and learn what it is about to do there."""
        place = self._places.setdefault(where, len(self._places))
        if place == len(self._future):
            self._before.append(set())
            self._future.append(0)
        accesses = 0
        for mode in {cpu.mode, cpu.effective()}:
            accesses |= 1 << self._number(cpu.location.id, mode)
        for location, mode in cpu.more or ():
            accesses |= 1 << self._number(location.id, mode)
        self._grow(place, accesses)
        return place

    def performs(self, place: int, cpu: ExploredCpu, mode: Mode) -> None:
        """Learn in which mode a CPU performs its next operation."""
        self._grow(place, 1 << self._number(cpu.location.id, mode))

    def follows(self, before: int, after: int) -> None:
        """Learn that a CPU's step can lead from one place to another."""
        if before not in self._before[after]:
            self._before[after].add(before)
            self._grow(before, self._future[after])

    def _grow(self, place: int, accesses: int) -> None:
        """Add to what is possible from a place on, and from all from which one comes there."""
        future = self._future
        todo = [place]
        while todo:
            one = todo.pop()
            if accesses & ~future[one]:
                future[one] |= accesses
                todo += self._before[one]

    def step(self, cpu: ExploredCpu) -> tuple[int, ...]:
        """Return the accesses of a CPU's next step, as it would be now."""
        return tuple([self._number(location.id, mode) for location, mode in cpu.accesses()])

    def independent(self, step: tuple[int, ...], others: tuple[int, ...]) -> bool:
        """Tell whether nothing that is possible from the other CPUs' places on depends on a step."""
        dependent = 0
        for access in step:
            dependent |= self._conflicts[access]
        return not any(self._future[place] & dependent for place in others)

    def _number(self, location: int, mode: Mode) -> int:
        number = self._numbers.get((location, mode))
        if number is None:
            number = self._numbers[location, mode] = len(self._conflicts)
            known = self._at.setdefault(location, [])
            known.append((mode, number))
            conflicts = 0
            for other, at in known:
                if CONFLICTS[mode] >> other & 1:
                    conflicts |= 1 << at
                    if at != number:
                        self._conflicts[at] |= 1 << number
            self._conflicts.append(conflicts)
        return number
