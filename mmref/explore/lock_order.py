# SPDX-License-Identifier: GPL-2.0-only
"""Lock-order inversions: locks that different CPUs take in opposite orders, whether or not they came to a deadlock.

As the kernel's lockdep does, it is noted who takes which lock while holding which; orders seen in different executions
count together. An inversion is a circle: each of its locks is held by one CPU that waits for the next. That it is no
deadlock may have a reason that nobody sees here (a third lock that both hold, a page that only one of them can
have), so it is reported beside the findings and is none itself.

Trylocks hold, but do not wait. Two readers of a lock do not wait for each other, unless a writer that waits between
them holds the second one off: a third CPU that takes the lock exclusively closes a circle of readers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mmref.explore.locations import LOCK, READ, SHARE, Location, Mode

if TYPE_CHECKING:
    from mmref.explore.scheduler import ExploredCpu

__all__ = ["Inversion", "LockOrders", "Taken"]

_Key: TypeAlias = tuple[str, Mode, str, Mode, int]
"""(lock held, how, lock taken, how, CPU); see `_identity()` for the locks."""

_TRYLOCKS = ("trylock", "try_acquire")


class Taken(NamedTuple):
    """One step of an inversion: a CPU takes a lock while it holds another. (Locks and CPUs are named.)

    If it holds none, it is a writer that holds new readers of the lock off.
    """

    cpu: str
    held: str
    wanted: str
    where: str

    def __str__(self) -> str:
        why = f"while it holds {self.held}" if self.held else "exclusively, and holds new readers off"
        return f"{self.cpu} takes {self.wanted} {why}" + (f", {self.where}" if self.where else "")


class Inversion(NamedTuple):
    """Locks that are taken in a circle."""

    steps: tuple[Taken, ...]

    def __str__(self) -> str:
        return "; ".join(str(step) for step in self.steps)


def _identity(lock: Location) -> str:
    """Tell a lock from all others, in whatever execution.

    What a CPU has created has an id that may stand for something else in another execution: its name is needed too.
    """
    return str(lock.id) if lock.id & 255 == 0 else f"{lock.id} {lock.name}"


class LockOrders:
    """In which order locks have been taken so far.

    Attributes:
        orders: who takes which lock while holding which.
        writers: lock -> CPU -> where it takes the lock exclusively, of locks whose writers hold new readers off.
    """

    def __init__(self) -> None:
        self.orders: dict[_Key, Taken] = {}
        self.writers: dict[str, dict[int, Taken]] = {}

    def add(self, later: LockOrders) -> None:
        """Add what has been seen later."""
        for key, taken in later.orders.items():
            self.orders.setdefault(key, taken)
        for lock, writers in later.writers.items():
            for cpu, taken in writers.items():
                self.writers.setdefault(lock, {}).setdefault(cpu, taken)

    def note(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Take note of an operation on a lock that is about to be performed."""
        if mode < LOCK:
            if mode != READ and cpu.label.endswith(_TRYLOCKS):
                self.taken(cpu, cpu.location, mode)
        elif mode in (LOCK, SHARE):
            self.wanted(cpu, cpu.location, mode)
            self.taken(cpu, cpu.location, mode)
        else:
            self.given(cpu, cpu.location)

    def wanted(self, cpu: ExploredCpu, location: Location, mode: Mode) -> None:
        """Take note that a CPU takes a lock, or waits until it can, while it holds others."""
        for other, how, _ in cpu.held:
            key = (_identity(other), how, _identity(location), mode, cpu.id)
            if key not in self.orders:
                self.orders[key] = Taken(cpu.name, other.name, location.name, cpu.where())

    def queued(self, cpu: ExploredCpu, location: Location) -> None:
        """Take note that a CPU takes a lock exclusively, and holds new readers off while it waits."""
        writers = self.writers.setdefault(_identity(location), {})
        if cpu.id not in writers:
            writers[cpu.id] = Taken(cpu.name, "", location.name, cpu.where())

    @staticmethod
    def taken(cpu: ExploredCpu, location: Location, mode: Mode) -> None:
        """Take note that a CPU has a lock."""
        cpu.held.append((location, mode, cpu.run.steps))

    @staticmethod
    def given(cpu: ExploredCpu, location: Location) -> None:
        """Take note that a lock has been given back, usually by who has taken it."""
        for holder in (cpu, *cpu.run.cpus):
            held = holder.held
            for place in range(len(held) - 1, -1, -1):
                if held[place][0] is location:
                    del held[place]
                    return

    def inversions(self) -> tuple[Inversion, ...]:
        """Return the circles, the shortest for each set of locks."""
        following: dict[str, list[_Key]] = {}
        for key in sorted(self.orders):
            following.setdefault(key[0], []).append(key)
        found: dict[frozenset[str], Inversion] = {}
        for start in sorted(self.orders):
            circle = self._circle(start, following)
            if circle is not None:
                locks = frozenset(key[0] for key in circle)
                found.setdefault(locks, Inversion(tuple(self.orders[key] for key in circle) + self._between(circle)))
        return tuple(found.values())

    def _circle(self, start: _Key, following: dict[str, list[_Key]]) -> list[_Key] | None:
        """Find the shortest way back to a lock that is held, each step on a CPU of its own."""
        frontier = [[start]]
        while frontier:
            longer = []
            for way in frontier:
                for key in following.get(way[-1][2], ()):
                    if key[4] in {step[4] for step in way}:
                        continue
                    further = [*way, key]
                    if key[2] == start[0]:
                        if len(self._between(further)) == len(self._shared(further)):
                            return further
                    elif all(key[2] != step[0] for step in way):
                        longer.append(further)
            frontier = longer
        return None

    @staticmethod
    def _shared(circle: list[_Key]) -> list[str]:
        """Return the locks of a circle that both CPUs take as readers."""
        return [
            key[2] for key, following in zip(circle, [*circle[1:], circle[0]], strict=True)
            if key[3] == following[1] == SHARE
        ]  # fmt: skip

    def _between(self, circle: list[_Key]) -> tuple[Taken, ...]:
        """Return a writer for each of these, one that has no other part in the circle."""
        cpus = {key[4] for key in circle}
        writers = []
        for lock in self._shared(circle):
            writers += [taken for cpu, taken in sorted(self.writers.get(lock, {}).items()) if cpu not in cpus][:1]
        return tuple(writers)

    def data(self) -> list[Any]:
        """Return the orders as plain data."""
        orders = [[list(key), *_names(taken)] for key, taken in self.orders.items()]
        writers = [
            [lock, cpu, *_names(taken)] for lock, writers in self.writers.items() for cpu, taken in writers.items()
        ]
        return [orders, writers]

    @classmethod
    def of(cls, data: Iterable[Any]) -> LockOrders:
        """Return the orders that `data()` has described."""
        found = cls()
        orders, writers = data
        for key, *names in orders:
            found.orders[tuple(key)] = Taken(*names)
        for lock, cpu, *names in writers:
            found.writers.setdefault(lock, {})[cpu] = Taken(*names)
        return found


def _names(taken: Taken) -> list[str]:
    return [taken.cpu, taken.held, taken.wanted, taken.where]
