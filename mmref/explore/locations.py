# SPDX-License-Identifier: GPL-2.0-only
"""Shared locations, the modes in which they are accessed, and which modes conflict.

This is the seam between the engine and what is explored. Whatever CPUs share is a `Location`; immediately
before an access the code calls `point()`, and when that returns this CPU has been chosen to go on and must
perform the access at once. Outside an exploration `point()` does nothing.

Conventions in this file
    location    one shared cell: a slot, a flag bit, a reference count, a lock
    mode        how an access touches its location; two accesses of different CPUs to one location are
                *dependent* (their order matters) exactly if `CONFLICTS[mode] >> other & 1`
    effect      for a conditional operation: would the update take place in the current state?
                If not, the operation is a `READ` in that state
    run         the execution under way (`scheduler.Run`)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mmref.explore.scheduler import Run, Worker

__all__ = ["ATOMIC", "CONFLICTS", "DEC", "INC", "LOCK", "LOCKED", "MARKED", "MODE_NAMES", "ONCE", "PLAIN", "READ",
           "SHARE", "TRYINC", "UNLOCK", "UNSHARE", "WRITE", "Accesses", "Effect", "FieldLocation",
           "Location", "LockLocation", "MarkedLocation", "Mode", "OnceLocation", "PlainLocation",
           "SpinLocation", "conflict", "hold", "let_go", "note", "point", "point_all", "queueing", "reserve",
           "taken", "watch_races"]

Mode: TypeAlias = int

# Modes start at 2, so that an `effect` may also answer with a mode (0 is False, 1 is True).
READ: Mode = 2
"""Sees the value, changes nothing."""
WRITE: Mode = 3
"""Changes the value, or both sees and changes it. Conflicts with everything."""
INC: Mode = 4
"""Increments a counter unseen. The CPU must hold a reference itself, so that the count is not zero."""
TRYINC: Mode = 5
"""Increments a counter unless it is zero (give `effect`); only whether it did is seen."""
DEC: Mode = 6
"""Decrements a counter to which this CPU holds a reference, and sees only whether it is zero now."""
LOCK: Mode = 7
"""Acquires an exclusive lock (give `enabled`). Only the order of two acquires can be reversed. To wait for anything
that is not a lock, give `enabled` with the mode that the operation has otherwise, usually `READ`."""
UNLOCK: Mode = 8
"""Releases what `LOCK`, or a `WRITE` that took effect (a trylock), has acquired."""
SHARE: Mode = 9
"""Acquires a lock that readers share (give `enabled`). Commutes with what other readers do."""
UNSHARE: Mode = 10
"""Releases what `SHARE` has acquired. The writer of such a lock uses `LOCK` and `UNLOCK`."""

MODE_NAMES: dict[Mode, str] = {
    READ: "read", WRITE: "write", INC: "inc", TRYINC: "tryinc", DEC: "dec", LOCK: "lock", UNLOCK: "unlock",
    SHARE: "share", UNSHARE: "unshare",
}  # fmt: skip

# What accesses to a location do to the order of others (`Location.access`).
ATOMIC = 0
"""They synchronise, as atomic operations do: what comes before a store comes before what follows the load of it."""
LOCKED = 1
"""The same, but whoever just looks whether the lock is free learns nothing."""
MARKED = 2
"""They order nothing, and race with nothing (READ_ONCE(), WRITE_ONCE(), data_race())."""
ONCE = 3
"""They order nothing. Reads may race (READ_ONCE()), two writes must not."""
PLAIN = 4
"""They order nothing, and must not race."""

_EVERYTHING = sum(1 << mode for mode in MODE_NAMES)
_SHARED = 1 << SHARE | 1 << UNSHARE

# Bit `m` of CONFLICTS[mode] says that `mode` and `m` do not commute. The relation is symmetric.
CONFLICTS: tuple[int, ...] = (
    0,
    0,
    _EVERYTHING & ~(1 << READ),  # READ: two reads commute
    _EVERYTHING,  # WRITE
    _EVERYTHING & ~(1 << INC | 1 << TRYINC | 1 << DEC),  # INC: nobody sees its result
    _EVERYTHING & ~(1 << INC | 1 << TRYINC),  # TRYINC: a decrement may be what makes it fail
    _EVERYTHING & ~(1 << INC),  # DEC: which of two decrements sees zero depends on their order
    _EVERYTHING,  # LOCK
    _EVERYTHING,  # UNLOCK
    _EVERYTHING & ~_SHARED,  # SHARE
    _EVERYTHING & ~_SHARED,  # UNSHARE
)

Effect: TypeAlias = Callable[[], int]
"""Answers True (takes effect), False (it is a `READ` in this state), or its mode in this state."""
Accesses: TypeAlias = Sequence[tuple["Location", Mode]]


def conflict(mode: Mode, other: Mode) -> bool:
    """Tell whether two accesses to one location, in these modes, depend on each other.

    >>> conflict(READ, READ), conflict(READ, WRITE), conflict(INC, DEC), conflict(TRYINC, DEC)
    (False, True, False, True)
    """
    return bool(CONFLICTS[mode] >> other & 1)


class _ThreadState(threading.local):
    """What each operating-system thread has of its own, so that two threads can explore at once."""

    run: Run | None = None
    pool: list[Worker] | None = None


THREAD = _ThreadState()

LocationName: TypeAlias = "str | Callable[[], str] | tuple[object, str] | None"


class Location:
    """One shared cell.

    Attributes:
        id: a number that is the same in every execution in which the creating CPU has seen the same; -1 outside
            an exploration. (The low byte tells the creator, 0 for set-up, the rest counts what it has created.)
        version: number of the step that last changed it; 0 if none has.
        run: the execution in which it was created, if any.
    """

    __slots__ = ("_name", "id", "run", "version")

    spins = False
    """Whether it is a lock whose holder must not sleep."""
    access = ATOMIC
    """What its accesses do to the order of others, and with what they race: see `races.py`."""
    overwrites = False
    """Whether every `WRITE` of it is a store that does not see what was there."""

    def __init__(self, name: LocationName = None, id: int | None = None) -> None:
        """Create a location.

        A location that is only created when it is first accessed must take its id from `reserve()`: which CPU
        comes first depends on the schedule, and its id must not.

        Args:
            name: text, or a callable or an (owner, suffix) pair from which the text is made if ever needed.
            id: one of the numbers that `reserve()` has returned.
        """
        self._name = name
        self.version = 0
        run = THREAD.run
        self.run = run
        if run is not None and run.locations is not None:
            run.locations.append(self)
        if id is not None:
            self.id = id
        elif run is None:
            self.id = -1
        else:
            creator = run.current if run.live else run
            self.id = creator.next_location
            creator.next_location += 256

    @property
    def name(self) -> str:
        """What to call it in a report."""
        name = self._name
        if name is None:
            creator = self.id & 255
            by = f" of CPU {creator - 1}" if creator else ""
            return f"{type(self).__name__.lower()} {self.id >> 8}{by}"
        if isinstance(name, str):
            return name
        if isinstance(name, tuple):
            return f"{name[0]}{name[1]}"
        return name()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class LockLocation(Location):
    """The location of a lock."""

    __slots__ = ()

    access = LOCKED


class SpinLocation(LockLocation):
    """The location of a lock whose holder must not sleep."""

    __slots__ = ()

    spins = True


class FieldLocation(Location):
    """The location of a field that is read and written whole."""

    __slots__ = ()

    overwrites = True


class MarkedLocation(FieldLocation):
    """The location of a field that the kernel accesses without any order, and says so."""

    __slots__ = ()

    access = MARKED


class OnceLocation(FieldLocation):
    """The location of a field that is written under a lock, and may be read without."""

    __slots__ = ()

    access = ONCE

    def __init__(self, name: LocationName = None, id: int | None = None) -> None:
        Location.__init__(self, name, id)
        watch_races(self)


class PlainLocation(OnceLocation):
    """The location of a field that is protected by something else: two accesses, one a write, must be ordered."""

    __slots__ = ()

    access = PLAIN


def watch_races(location: Location) -> None:
    """Look for data races from here on, if that is wanted: there is something now that can have one.

    What has ordered the CPUs before cannot order accesses to what did not exist yet.
    """
    run = location.run
    if run is not None and "data-race" in run.detect:
        from mmref.explore.detect import watch

        watch(run).look_for_races()


def reserve(count: int) -> Sequence[int]:
    """Set ids aside for locations that belong to an object but are created only when they are first needed.

    Call it where the object is created, and give `Location` the element that stands for the place in the object.

    >>> places = reserve(64)
    >>> location = Location("slot 5", places[5])
    """
    run = THREAD.run
    if run is None:
        return (-1,) * count
    creator = run.current if run.live else run
    first = creator.next_location
    creator.next_location = first + 256 * count
    return range(first, first + 256 * count, 256)


def point(
    location: Location,
    mode: Mode,
    label: str = "",
    effect: Effect | None = None,
    enabled: Callable[[], bool] | None = None,
    holder: str | Callable[[], str] | None = None,
) -> None:
    """Let the explorer decide which CPU goes on; return when it is this one.

    Call it immediately before the access, and perform the access as soon as it returns: what lies between is
    atomic. `effect` and `enabled` must only look (raw fields, no traced access).

    Args:
        location: what is about to be accessed.
        mode: how; one of the constants of this module.
        label: the operation's name for the trace, for example ``"xas_store"``.
        effect: for a conditional operation (CAS, trylock): whether it would take effect now.
        enabled: for a blocking operation: whether it can go on now; the CPU waits until it can. It may depend
            on nothing but the locations of this operation.
        holder: who has what a blocking operation waits for, for the report of a deadlock.
    """
    run = location.run
    if run is None or not run.live:
        if run is None or run.closing:  # else it is set-up code, or a check
            _outside(run)
        return
    cpu = run.current
    cpu.location = location
    cpu.mode = mode
    cpu.label = label
    cpu.effect = effect
    cpu.more = None
    if enabled is not None or cpu.spin is not None:
        cpu.guard(enabled, holder)
    run.reschedule(cpu)


def point_all(
    accesses: Accesses,
    label: str = "",
    effect: Effect | None = None,
    enabled: Callable[[], bool] | None = None,
    holder: str | Callable[[], str] | None = None,
) -> None:
    """Do as `point()`, for one atomic operation on several locations.

    Args:
        accesses: (location, mode) pairs, at least one, each location once. The first names the event.
        label: as for `point()`.
        effect: as for `point()`; if it says no, the operation is a `READ` of all its locations.
        enabled: as for `point()`.
        holder: as for `point()`.
    """
    location, mode = accesses[0]
    run = location.run
    if run is None or not run.live:
        if run is None or run.closing:  # else it is set-up code, or a check
            _outside(run)
        return
    cpu = run.current
    cpu.location = location
    cpu.mode = mode
    cpu.label = label
    cpu.effect = effect
    cpu.more = tuple(accesses[1:]) or None
    if enabled is not None or cpu.spin is not None:
        cpu.guard(enabled, holder)
    run.reschedule(cpu)


def queueing(location: Location) -> None:
    """Say that this CPU takes a lock exclusively, and holds off who wants to share it while it has to wait."""
    run = location.run
    if run is not None and run.live:
        run.lock_orders.wanted(run.current, location, LOCK)
        run.lock_orders.queued(run.current, location)


def taken(location: Location, mode: Mode) -> None:
    """Say that this CPU has a lock, where the mode of the operation does not tell."""
    run = location.run
    if run is not None and run.live:
        run.lock_orders.taken(run.current, location, mode)


def hold(location: Location, how: str) -> None:
    """Say that this CPU has put something there that others may have to wait for, as for a lock.

    Args:
        location: where.
        how: what has been done to it, for the report of a deadlock: "frozen".
    """
    run = location.run
    if run is not None and run.live:
        run.holders[location.id] = run.current, how


def let_go(location: Location) -> None:
    """Say that nobody has to wait for this location any more, as after `hold()`."""
    run = location.run
    if run is not None:
        run.holders.pop(location.id, None)


def note(value: object) -> None:
    """Record the result of the access just performed. Costs nothing to speak of when nothing is recorded."""
    run = THREAD.run
    if run is not None and run.recorder is not None and run.live:
        run.recorder.note(value)


def _outside(run: Run | None) -> None:
    """Let an access pass that is not one of an explored CPU, unless it only looks like that."""
    current = THREAD.run
    if current is None:
        return
    if current.live:
        # CPU code is running, but the location belongs to no execution or to an earlier one.
        from mmref.explore.errors import UnexplorableProgram

        error = UnexplorableProgram(
            "a shared cell is used that was created outside the program: create every cell in the function"
            " that returns the threads, so that each execution starts from the same state"
        )
        current.crash = current.crash or error  # also if the program catches it
        raise error
    if run is current:
        run.unwinding_access()
