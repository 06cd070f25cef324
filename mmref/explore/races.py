# SPDX-License-Identifier: GPL-2.0-only
"""Data races: accesses that nothing orders.

Two accesses of different CPUs to a location that is declared plain, one of them a write, are a *data race* unless one
*happens before* the other: by the order of one CPU's code, and from an operation that releases (an unlock, an atomic
store) to one that acquires (a lock, an atomic load) and comes to see it. In which order the two happened to be explored
says nothing; every trace shows the race, whichever comes first in it.

What a location is declared (`Location.access`)
    PLAIN     protected by something else: its accesses order nothing and must not race
    ONCE      written under a lock, read without: reads may race, two writes must not
    MARKED    may be accessed by anyone at any time, and orders nothing
    ATOMIC    its accesses synchronise: an operation acquires from those that it depends on (`CONFLICTS`)
    LOCKED    the same, but a look at a lock, or a trylock that fails, acquires nothing

That all atomic operations synchronise is more than the kernel promises for some (atomic_inc() orders nothing): it errs
towards silence. Clocks are vectors with an entry per CPU; a time is the number of releases of a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.errors import DataRace
from mmref.explore.locations import ATOMIC, CONFLICTS, LOCKED, MARKED, ONCE, READ, WRITE, Location, Mode
from mmref.explore.places import places_text

if TYPE_CHECKING:
    from mmref.explore.places import Place
    from mmref.explore.scheduler import ExploredCpu

__all__ = ["OVERWRITES", "Races", "overwrites"]

OVERWRITES = ("store", "slot store")
"""Labels of operations that do not see what was there."""

Clock = list[int]


def overwrites(cpu: ExploredCpu, location: Location) -> bool:
    """Tell whether a `WRITE` does not see what was there before."""
    return location.overwrites or cpu.label in OVERWRITES


class _Accesses:
    """What has been done to a plain location: the last write, and each CPU's last read since."""

    __slots__ = ("place", "readers", "time", "writer")

    def __init__(self) -> None:
        self.writer = -1
        self.time = 0
        self.place: Place = ()
        self.readers: dict[int, tuple[int, Place]] = {}


class Races:
    """The happens-before order of one execution, and what is not in it."""

    def __init__(self) -> None:
        self._clocks: dict[int, Clock] = {}
        self._released: dict[Location, dict[Mode, Clock]] = {}
        self._plain: dict[Location, _Accesses] = {}

    def performed(self, cpu: ExploredCpu, mode: Mode) -> DataRace | None:
        """Take note of an access that is about to be performed; return the race that it completes, if any."""
        location = cpu.location
        if mode == READ and cpu.more is None and location.access == ATOMIC and location not in self._released:
            return None
        clock = self._clocks.get(cpu.id)
        if clock is None:
            clock = self._clocks[cpu.id] = [0] * len(cpu.run.cpus)
            clock[cpu.id] = 1
        if cpu.more is None:
            return self._access(cpu, clock, location, mode)
        found = None
        for location, how in cpu.made():
            found = self._access(cpu, clock, location, how) or found
        return found

    def _access(self, cpu: ExploredCpu, clock: Clock, location: Location, mode: Mode) -> DataRace | None:
        access = location.access
        if access >= ONCE:
            return self._check(cpu, clock, location, mode)
        if access != MARKED:
            self._synchronise(cpu, clock, location, mode)
        return None

    def _synchronise(self, cpu: ExploredCpu, clock: Clock, location: Location, mode: Mode) -> None:
        """Acquire what the operation depends on, and release."""
        released = self._released.get(location)
        if released is not None and not (
            location.access == LOCKED if mode == READ else mode == WRITE and overwrites(cpu, location)
        ):
            depends = CONFLICTS[mode]
            for other, since in released.items():
                if depends >> other & 1:
                    for at, time in enumerate(since):
                        if time > clock[at]:  # noqa: PLR1730 (seldom, and max() costs a call)
                            clock[at] = time
        if mode == READ:
            return
        if released is None or mode == WRITE:
            self._released[location] = {mode: clock[:]}
        elif mode not in released:
            released[mode] = clock[:]
        else:
            since = released[mode]
            for at, time in enumerate(clock):
                since[at] = max(since[at], time)
        clock[cpu.id] += 1

    def _check(self, cpu: ExploredCpu, clock: Clock, location: Location, mode: Mode) -> DataRace | None:
        """Compare an access with those before it."""
        known = self._plain.get(location)
        if known is None:
            known = self._plain[location] = _Accesses()
        me = cpu.id
        place = cpu.place()
        found = None
        reads = mode == READ
        lenient = location.access == ONCE
        if known.writer not in (-1, me) and known.time > clock[known.writer] and not (reads and lenient):
            found = _race(cpu, location, known.writer, "writes", known.place, reads, place)
        if reads:
            known.readers[me] = clock[me], place
            return found
        if not lenient and found is None:
            for other, (time, seen) in known.readers.items():
                if other != me and time > clock[other]:
                    found = _race(cpu, location, other, "reads", seen, reads, place)
                    break
        known.writer, known.time, known.place = me, clock[me], place
        known.readers.clear()
        return found


def _race(
    cpu: ExploredCpu, location: Location, other: int, what: str, place: Place, reads: bool, mine: Place
) -> DataRace:
    return DataRace(
        location.name, f"{cpu.run.cpus[other].name} {what} it at {places_text(place)}",
        f"{cpu.name} {'reads' if reads else 'writes'} it at {places_text(mine)}",
    )  # fmt: skip
