# SPDX-License-Identifier: GPL-2.0-only
"""Who waits for whom: what a deadlock or a livelock is made of.

A CPU that cannot go on waits for other CPUs: for who holds the lock that it wants, or, in a busy wait, for who can
change what it looks at. A lock is held by who has taken it (`lock_order.py` keeps the account); what is like a lock
without being one (a frozen reference count, a RETRY entry in a slot) is held by who has put it there and says so with
`locations.hold()`. A reader of a semaphore also waits for the writers that have queued up before it.

If these waits form a circle, none of its CPUs can ever go on. The circle is told first; whoever else is stuck, behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.errors import Deadlock, Livelock
from mmref.explore.locations import MODE_NAMES, SHARE, Location

if TYPE_CHECKING:
    from mmref.explore.scheduler import ExploredCpu, Run

__all__ = ["deadlock_of", "waits_for"]


def deadlock_of(run: Run) -> Deadlock:
    """Describe the waits of an execution in which no CPU can go on."""
    stuck = [cpu for cpu in run.cpus if run.unfinished & cpu.bit]
    blockers = {cpu.id: _blockers(cpu) for cpu in stuck}
    circle = _circle(stuck, blockers)
    order = circle + [cpu for cpu in stuck if cpu not in circle]
    kind = Livelock if any(cpu.spun for cpu in stuck) else Deadlock
    return kind([(cpu.name, waits_for(cpu)) for cpu in order], tuple(cpu.name for cpu in circle))


def waits_for(cpu: ExploredCpu) -> str:
    """Describe what the pending operation of a CPU waits for, and who has it."""
    if cpu.enabled is not None and not cpu.enabled():
        what = f"{cpu.location.name} ({cpu.label or MODE_NAMES[cpu.mode]})"
        queued = _queued(cpu)
        if queued and all(_shares(other, cpu.location) for other in _holders(cpu, cpu.location)):
            return f"{what}, behind {_names(queued, cpu.run)}, which waits to write"
        held = _held(cpu, cpu.location)
        if held:
            return f"{what}, {held}"
        holder = cpu.holder() if callable(cpu.holder) else cpu.holder
        return f"{what}, {holder}" if holder else what
    places = [location for location, _ in cpu.spin or ()]
    if not places:
        return "nothing in particular (it spins in cpu_relax(), but has read no shared location)"
    text = f"a change of {', '.join(location.name for location in places)} (it spins in cpu_relax())"
    for location in places:
        held = _held(cpu, location)
        if held:
            text += f"; {location.name} is {held}"
    return text


def _held(cpu: ExploredCpu, location: Location) -> str:
    """Say who has what is waited for; empty if nobody is known to have it."""
    pseudo = cpu.run.holders.get(location.id)
    if pseudo is not None:
        return f"{pseudo[1]} by {_names([pseudo[0]], cpu.run)}"
    found = _holders(cpu, location)
    return f"held by {_names(found, cpu.run)}" if found else ""


def _holders(cpu: ExploredCpu, location: Location) -> list[ExploredCpu]:
    """Return the CPUs that hold a lock, or something that is like one."""
    pseudo = cpu.run.holders.get(location.id)
    if pseudo is not None:
        return [pseudo[0]]
    return [other for other in cpu.run.cpus if any(place is location for place, _, _ in other.held)]


def _queued(cpu: ExploredCpu) -> list[ExploredCpu]:
    """Return the writers behind which a reader waits."""
    if cpu.mode != SHARE:
        return []
    run = cpu.run
    return [
        other
        for other in run.cpus
        if other is not cpu and run.unfinished & other.bit and other.guarded
        and other.location is cpu.location and other.mode != SHARE
    ]  # fmt: skip


def _blockers(cpu: ExploredCpu) -> list[ExploredCpu]:
    """Return the CPUs without which this one cannot go on."""
    if cpu.enabled is not None and not cpu.enabled():
        found = _holders(cpu, cpu.location)
        exclusive = [other for other in found if cpu.mode != SHARE or not _shares(other, cpu.location)]
        return exclusive + _queued(cpu)
    return [other for location, _ in cpu.spin or () for other in _holders(cpu, location)]


def _shares(cpu: ExploredCpu, location: Location) -> bool:
    return all(mode == SHARE for place, mode, _ in cpu.held if place is location)


def _circle(stuck: list[ExploredCpu], blockers: dict[int, list[ExploredCpu]]) -> list[ExploredCpu]:
    """Return the shortest circle of waits, in the order in which each waits for the next; empty if there is none."""
    shortest: list[ExploredCpu] = []
    for start in stuck:
        ways = [[start]]
        seen = {start.id}
        while ways and (not shortest or len(ways[0]) < len(shortest)):
            longer = []
            for way in ways:
                for other in blockers.get(way[-1].id, ()):
                    if other is start:
                        if not shortest or len(way) < len(shortest):
                            shortest = way
                    elif other.id not in seen:
                        seen.add(other.id)
                        longer.append([*way, other])
            ways = longer
    return shortest


def _names(cpus: list[ExploredCpu], run: Run) -> str:
    """Name CPUs, and say which of them will never let go."""
    return " and ".join(cpu.name if run.unfinished & cpu.bit else f"{cpu.name}, which has ended" for cpu in cpus)
