# SPDX-License-Identifier: GPL-2.0-only
"""Twins of the locks, of a counter, and of declared shared fields."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from mmref.errors import InvariantViolation
from mmref.explore.locations import (
    INC,
    LOCK,
    READ,
    SHARE,
    UNLOCK,
    UNSHARE,
    WRITE,
    FieldLocation,
    Location,
    LockLocation,
    SpinLocation,
    note,
    point,
    queueing,
    taken,
)
from mmref.explore.twins.names import value_text
from mmref.sync import Cpu, PercpuCounter, RwSem, SpinLock, might_sleep

__all__ = ["SharedField", "TracedCounter", "TracedRwSem", "TracedSpinLock", "add_to", "slot_of"]


def holds(lock: Location) -> bool:
    """Tell whether this CPU has taken a lock; true for who is no explored CPU."""
    run = lock.run
    if run is None or not run.live:
        return True
    for place, _, _ in run.current.held:  # noqa: SIM110 (any() costs more than the loop)
        if place is lock:
            return True
    return False


def refuse_release(lock: Location) -> None:
    """Report A11 of a CPU that gives a lock back that it does not hold."""
    assert lock.run is not None
    cpu = lock.run.current
    raise InvariantViolation("A11", f"{cpu.name} releases {lock.name}, which it does not hold, {cpu.where()}")


class TracedSpinLock(SpinLock):
    """A spinlock for which the other CPUs wait."""

    __slots__ = ("at_lock",)

    def __init__(self, name: str = "lock") -> None:
        super().__init__(name)
        self.at_lock = SpinLocation(name)

    def _free(self) -> bool:
        return self.owner is None

    def _holder(self) -> str:
        return f"held by {getattr(self.owner, 'name', self.owner)}"

    @override
    def acquire(self) -> None:
        point(self.at_lock, LOCK, "spin_lock", None, self._free, self._holder)
        super().acquire()

    @override
    def release(self) -> None:
        if not holds(self.at_lock) and type(self.owner) is not Cpu:  # a Cpu: since set-up
            refuse_release(self.at_lock)
        point(self.at_lock, UNLOCK, "spin_unlock")
        if self.owner is not None:  # an execution that is over may unwind through here
            super().release()


class TracedRwSem(RwSem):
    """A read-write semaphore for which the other CPUs wait; new readers wait behind a writer that waits.

    Attributes:
        queued: how many writers wait.
    """

    __slots__ = ("at_lock", "queued")

    def __init__(self, name: str = "rwsem") -> None:
        super().__init__(name)
        self.at_lock = LockLocation(name)
        self.queued = 0

    def _no_writer(self) -> bool:
        return self.writer is None and not self.queued

    def _free(self) -> bool:
        return self.writer is None and not self.readers

    def _counted(self) -> int:
        """Return how many of its readers are known: those that have taken it since set-up."""
        run = self.at_lock.run
        held = [place for cpu in run.cpus for place, _, _ in cpu.held] if run is not None else []
        return sum(place is self.at_lock for place in held)

    def _holder(self) -> str:
        if self.writer is None and not self.readers:
            return "for which a writer waits"
        return f"held by {getattr(self.writer, 'name', f'{self.readers} readers')}"

    @override
    def down_read(self) -> None:
        might_sleep("down_read()")
        point(self.at_lock, SHARE, "down_read", None, self._no_writer, self._holder)
        super().down_read()

    @override
    def up_read(self) -> None:
        if not holds(self.at_lock) and self.readers <= self._counted():
            refuse_release(self.at_lock)
        point(self.at_lock, UNSHARE, "up_read")
        if self.readers:
            super().up_read()

    @override
    def down_write(self) -> None:
        might_sleep("down_write()")
        point(self.at_lock, WRITE, "down_write")
        queueing(self.at_lock)
        if not self._free():
            self.queued += 1
            point(self.at_lock, WRITE, "down_write", None, self._free, self._holder)
            self.queued -= 1
        taken(self.at_lock, LOCK)
        super().down_write()

    @override
    def down_write_trylock(self) -> bool:
        point(self.at_lock, WRITE, "down_write_trylock", self._free)
        taken = super().down_write_trylock()
        note(taken)
        return taken

    @override
    def up_write(self) -> None:
        if not holds(self.at_lock) and type(self.writer) is not Cpu:
            refuse_release(self.at_lock)
        point(self.at_lock, UNLOCK, "up_write")
        if self.writer is not None:
            super().up_write()


class TracedCounter(PercpuCounter):
    """A counter: changes commute, unless a limit makes one of them fail."""

    __slots__ = ("at_value",)

    def __init__(self, name: str = "counter") -> None:
        super().__init__(name)
        self.at_value = Location(name)

    @override
    def add(self, amount: int) -> None:
        point(self.at_value, INC, "percpu_counter_add")
        super().add(amount)

    @override
    def limited_add(self, amount: int, limit: int) -> bool:
        point(self.at_value, WRITE, "percpu_counter_limited_add", lambda: self._value + amount <= limit)
        done = super().limited_add(amount, limit)
        note(done)
        return done


def slot_of(owner: type, name: str) -> Any:  # Any: the member descriptor that __slots__ makes
    """Return the descriptor of a slot of a plain class, wherever in its bases it is declared."""
    return next(base.__dict__[name] for base in owner.__mro__ if name in base.__dict__)


def add_to(owner: type, name: str, instance: object, amount: int) -> int:
    """Add to a shared field without an access: the caller has announced it. Returns the new value."""
    plain = slot_of(owner, name)
    value: int = plain.__get__(instance) + amount
    plain.__set__(instance, value)
    return value


class SharedField:
    """A field of a plain class, shadowed so that reading and writing it are accesses.

    The value stays where the plain class keeps it, in its slot.

    Args:
        owner: the plain class.
        name: the field.
        kind: what its accesses may race with: `FieldLocation` (an atomic_t, or smp_load_acquire() and
            smp_store_release()), `OnceLocation`, `MarkedLocation` or `PlainLocation`.
    """

    def __init__(self, owner: type, name: str, kind: type[Location] = FieldLocation) -> None:
        self.kind = kind
        self.plain = slot_of(owner, name)
        self.name = name
        self.at = "at_" + name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        point(getattr(instance, self.at), READ, self.name)
        value = self.plain.__get__(instance)
        note(value if type(value) is int else value_text(value))
        return value

    def __set__(self, instance: Any, value: object) -> None:
        where = getattr(instance, self.at, None)
        if where is None:  # the constructor of the plain class
            where = self.kind((instance, "." + self.name))
            setattr(instance, self.at, where)
        else:
            point(where, WRITE, self.name)
        self.plain.__set__(instance, value)
        note(value if type(value) is int else value_text(value))
