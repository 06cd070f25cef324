# SPDX-License-Identifier: GPL-2.0-only
"""The shared objects of bare programs: a cell and a mutex."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, TypeVar, cast

from mmref.errors import Deadlock, UsageError
from mmref.explore.locations import (
    LOCK,
    LOCKED,
    PLAIN,
    READ,
    UNLOCK,
    WRITE,
    Location,
    LocationName,
    note,
    point,
    watch_races,
)
from mmref.override import override
from mmref.sync import Cpu, this_cpu

__all__ = ["BufferedCell", "Cell", "Mutex", "SpinLock"]

T = TypeVar("T")


class Cell(Location, Generic[T]):
    """A shared variable whose every access is a scheduling point.

    Outside an exploration it is a plain variable.

    Args:
        value: what is in it first.
        name: what to call it in reports.
        plain: it is protected by something else, say a lock. Two accesses of different CPUs that nothing orders, one of
            them a write, are reported as a data race then. Other cells are like atomic variables: their accesses order
            what stands before and behind them.

    >>> x = Cell(1, "x")
    >>> x.fetch_add(2), x.load(), x.compare_exchange(3, 7), x.peek()
    (1, 3, True, 7)
    """

    __slots__ = ("_value",)

    def __init__(self, value: T, name: LocationName = None, *, plain: bool = False) -> None:
        Location.__init__(self, name)  # super() costs a third more, and programs create many cells
        self._value = value
        if self.run is not None and self.run.buffers is not None:
            self.__class__ = BufferedCell
            self.run.buffers.declare(self)
        elif plain:
            self.__class__ = PlainCell
            watch_races(self)

    def load(self) -> T:
        """Return the value."""
        point(self, READ, "load")
        value = self._value
        note(value)
        return value

    def store(self, value: T) -> None:
        """Set the value."""
        point(self, WRITE, "store")
        self._value = value
        note(value)

    def fetch_add(self, amount: T) -> T:
        """Add to the value, and return what it was before."""
        point(self, WRITE, "fetch_add")
        value = self._value
        self._value = value + amount  # type: ignore[operator]
        note(value)
        return value

    def compare_exchange(self, expected: T, new: T) -> bool:
        """Set the value to `new` if it equals `expected`; tell whether it did."""
        point(self, WRITE, "compare_exchange", lambda: self._value == expected)
        if self._value == expected:
            self._value = new
            note(True)
            return True
        note(False)
        return False

    def snapshot(self) -> T:
        """Return what tells states of the program apart: the value."""
        return self._value

    def peek(self) -> T:
        """Return the value without an event, for checks and for printing."""
        return self._value

    def put(self, value: T) -> T:
        """Set the value without an event, and return it: a store that waited in a buffer becomes visible."""
        self._value = value
        return value


class PlainCell(Cell[T]):
    """A cell that is protected by something else."""

    __slots__ = ()

    access = PLAIN


class BufferedCell(Cell[T]):
    """A cell under a weak memory model (`memory.py`)."""

    __slots__ = ()

    @override
    def load(self) -> T:
        run = self.run
        if run is None or run.buffers is None or not run.live:
            return super().load()
        run.buffers.load([self])
        own = run.buffers.own(run.current, self)
        value = cast(T, own[-1]) if own else self._value
        note(value)
        return value

    @override
    def store(self, value: T) -> None:
        run = self.run
        if run is None or run.buffers is None or not run.live:
            super().store(value)
        else:
            run.buffers.store(run.current, self, lambda: self.put(value), value)


class Mutex(Location):
    """A lock that only its holder can release. Usable as a context manager.

    >>> lock = Mutex("lock")
    >>> with lock:
    ...     lock.try_acquire()
    False
    """

    __slots__ = ("owner",)

    access = LOCKED

    def __init__(self, name: LocationName = None) -> None:
        super().__init__(name)
        self.owner: Cpu | None = None

    def snapshot(self) -> Cpu | None:
        """Return what tells states of the program apart: the owner."""
        return self.owner

    def _free(self) -> bool:
        return self.owner is None

    def _held_by(self) -> str:
        return f"held by {getattr(self.owner, 'name', self.owner)}"

    def acquire(self) -> None:
        """Take the lock; wait until it is free.

        Raises:
            Deadlock: outside an exploration, if it is held: nobody is there to release it.
        """
        if not self.spins:
            this_cpu().might_sleep(f"acquire() of {self.name}")
        point(self, LOCK, "acquire", None, self._free, self._held_by)
        if self.owner is not None:
            raise Deadlock([(repr(this_cpu()), f"{self.name}, {self._held_by()}")])
        self.owner = this_cpu()

    def try_acquire(self) -> bool:
        """Take the lock if it is free; tell whether it was."""
        point(self, WRITE, "try_acquire", self._free)
        if self.owner is not None:
            note(False)
            return False
        self.owner = this_cpu()
        note(True)
        return True

    def release(self) -> None:
        """Give the lock back.

        Raises:
            UsageError: this CPU does not hold it.
        """
        if self.owner is not this_cpu():
            self._refuse_release()
            return
        point(self, UNLOCK, "release")
        self.owner = None

    def _refuse_release(self) -> None:
        run = self.run
        if run is not None and run.closing:
            return  # a `finally` of an execution that is over
        raise UsageError(f"{this_cpu()} releases {self.name}, which it does not hold")

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()


class SpinLock(Mutex):
    """A lock whose holder must not sleep: must not wait for a `Mutex`, nor call `mmref.sync.might_sleep()`."""

    __slots__ = ()

    spins = True
