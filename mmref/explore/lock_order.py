# SPDX-License-Identifier: GPL-2.0-only
"""Lock-order inversions: locks that different CPUs take in opposite orders, whether or not they came to a deadlock.

As the kernel's lockdep does, it is noted who takes which lock while holding which; orders seen in different executions
count together. An inversion is a circle: each of its locks is held by one CPU that waits for the next. That it is no
deadlock may have a reason that nobody sees here (a third lock that both hold, a page that only one of them can
have), so it is reported beside the findings and is none itself.

Trylocks hold, but do not wait; two readers of a lock do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mmref.explore.locations import LOCK, READ, SHARE, Location, Mode

if TYPE_CHECKING:
    from mmref.explore.scheduler import ExploredCpu

__all__ = ["Inversion", "LockOrders", "Taken"]

_Key: TypeAlias = tuple[str, Mode, str, Mode, int]
"""(lock held, how, lock taken, how, CPU); see `_identity()` for the locks."""

_TRYLOCKS = ("trylock", "try_acquire")


@dataclass(frozen=True, slots=True)
class Taken:
    """One step of an inversion: a CPU takes a lock while it holds another. (Locks and CPUs are named.)"""

    cpu: str
    held: str
    wanted: str
    where: str

    def __str__(self) -> str:
        return f"{self.cpu} takes {self.wanted} while it holds {self.held}" + (f", {self.where}" if self.where else "")


@dataclass(frozen=True, slots=True)
class Inversion:
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
    """In which order locks have been taken so far."""

    def __init__(self, orders: dict[_Key, Taken] | None = None) -> None:
        self.orders = orders or {}

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
                found.setdefault(locks, Inversion(tuple(self.orders[key] for key in circle)))
        return tuple(found.values())

    @staticmethod
    def _circle(start: _Key, following: dict[str, list[_Key]]) -> list[_Key] | None:
        """Find the shortest way back to a lock that is held, each step on a CPU of its own."""
        frontier = [[start]]
        while frontier:
            longer = []
            for way in frontier:
                _, _, lock, how, _ = way[-1]
                for key in following.get(lock, ()):
                    if key[4] in {step[4] for step in way} or (how == SHARE and key[1] == SHARE):
                        continue
                    if key[2] == start[0]:
                        if not (key[3] == SHARE and start[1] == SHARE):
                            return [*way, key]
                    elif all(key[2] != step[0] for step in way):
                        longer.append([*way, key])
            frontier = longer
        return None

    def data(self) -> list[Any]:
        """Return the orders as plain data."""
        return [[list(key), taken.cpu, taken.held, taken.wanted, taken.where] for key, taken in self.orders.items()]

    @classmethod
    def of(cls, data: Iterable[Any]) -> LockOrders:
        """Return the orders that `data()` has described."""
        return cls({tuple(key): Taken(*names) for key, *names in data})
