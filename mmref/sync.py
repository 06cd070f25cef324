# SPDX-License-Identifier: GPL-2.0-only
"""Locks and waiting, for a machine with one CPU.

These are the plain versions: they keep the rules (who holds what, no double acquire) and cost next to
nothing. `mmref.explore` has a traced twin of each, in which a second CPU really waits.

Conventions in this file: a *CPU* is one thread of control of the simulated machine. Code that must know
where it runs asks `this_cpu()`, as the kernel asks `smp_processor_id()`.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType

from mmref.errors import Deadlock, InvariantViolation, Livelock

__all__ = ["Cpu", "PercpuCounter", "RwSem", "SpinLock", "cpu_relax", "might_sleep", "rcu_read_lock",
           "rcu_read_unlock", "smp_mb", "smp_rmb", "smp_wmb", "this_cpu"]  # fmt: skip


class Cpu:
    """One simulated CPU. The plain machine has just one, number 0.

    Attributes:
        id: its number, from 0 (kernel: `smp_processor_id()`).
    """

    __slots__ = ("id",)

    def __init__(self, id: int = 0) -> None:
        self.id = id

    def __repr__(self) -> str:
        return f"CPU {self.id}"

    def relax(self) -> None:
        """Give way inside a busy-wait loop.

        Raises:
            Livelock: always, on a machine with one CPU: nobody else can run, so the wait would never end.
        """
        raise Livelock([(repr(self), "a change that no other CPU is there to make (it spins in cpu_relax())")])

    def fence(self) -> None:
        """Drain this CPU's store buffer; the plain machine has none."""

    def write_barrier(self) -> None:
        """Let no later write overtake an earlier one; on the plain machine none does."""

    def might_sleep(self, what: str) -> None:
        """Say that this CPU may sleep now; the plain machine does not look whether it is allowed to."""

    def rcu_read_lock(self) -> None:
        """Enter a read-side section; on the plain machine nobody else is there to free anything."""

    def rcu_read_unlock(self) -> None:
        """Leave a read-side section."""


_THIS_CPU: ContextVar[Cpu] = ContextVar("mmref_this_cpu", default=Cpu(0))  # noqa: B039 (it is never changed)


def this_cpu() -> Cpu:
    """Return the CPU that is executing.

    Kernel: smp_processor_id(), include/linux/smp.h.

    >>> this_cpu()
    CPU 0
    """
    return _THIS_CPU.get()


def cpu_relax() -> None:
    """Wait inside a busy-wait loop until something that this CPU has read changes.

    Kernel: cpu_relax(), arch/x86/include/asm/vdso/processor.h.

    Raises:
        Livelock: on the plain machine, where nobody else could make the change.
    """
    _THIS_CPU.get().relax()


def smp_mb() -> None:
    """Make this CPU's earlier writes visible to the others before it reads on.

    Kernel: smp_mb(), include/asm-generic/barrier.h. On the plain machine writes are visible at once.
    """
    _THIS_CPU.get().fence()


def smp_wmb() -> None:
    """Make this CPU's earlier writes visible to the others before its later ones.

    Kernel: smp_wmb(), include/asm-generic/barrier.h. On the plain machine writes are visible at once.
    """
    _THIS_CPU.get().write_barrier()


def smp_rmb() -> None:
    """Let this CPU read nothing below before what it has read above.

    Kernel: smp_rmb(), include/asm-generic/barrier.h. No machine here reads ahead, explored under a weak memory model or
    not, so there is nothing to do: that one is missing cannot be seen.
    """


def might_sleep(what: str) -> None:
    """Say that what follows may sleep, so that no spinlock may be held here, and no RCU section be open.

    Kernel: might_sleep(), include/linux/kernel.h. The plain machine does not look; the explorer does.

    Args:
        what: the function that says so, for the report.
    """
    _THIS_CPU.get().might_sleep(what)


def rcu_read_lock() -> None:
    """Enter a section in which nothing that a lookup can find is freed. May be nested; must not sleep.

    Kernel: rcu_read_lock(), include/linux/rcupdate.h.
    """
    _THIS_CPU.get().rcu_read_lock()


def rcu_read_unlock() -> None:
    """Leave the section that `rcu_read_lock()` has entered.

    Kernel: rcu_read_unlock(), include/linux/rcupdate.h.
    """
    _THIS_CPU.get().rcu_read_unlock()


class SpinLock:
    """A lock whose holder must not sleep.

    Kernel: spinlock_t, include/linux/spinlock.h. Usable as a context manager.

    >>> lock = SpinLock("xa_lock")
    >>> with lock:
    ...     lock.locked
    True
    """

    __slots__ = ("name", "owner")

    def __init__(self, name: str = "lock") -> None:
        self.name = name
        self.owner: Cpu | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {'free' if self.owner is None else self.owner}>"

    @property
    def locked(self) -> bool:
        """Whether anyone holds the lock. Kernel: spin_is_locked(), include/linux/spinlock.h."""
        return self.owner is not None

    def acquire(self) -> None:
        """Take the lock. Kernel: spin_lock(), include/linux/spinlock.h.

        Raises:
            Deadlock: this CPU holds it already.
        """
        if self.owner is not None:
            raise Deadlock([(repr(this_cpu()), f"{self.name}, which {self.owner} holds")])
        self.owner = _THIS_CPU.get()

    def release(self) -> None:
        """Give the lock back. Kernel: spin_unlock(), include/linux/spinlock.h."""
        if self.owner is None:
            raise InvariantViolation("A11", f"{self.name} is released but nobody holds it")
        self.owner = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()


class PercpuCounter:
    """A counter that many CPUs change at once, each change in one step.

    Kernel: struct percpu_counter, include/linux/percpu_counter.h.

    >>> used = PercpuCounter("used_blocks")
    >>> used.limited_add(3, limit=4), used.limited_add(2, limit=4), used.peek()
    (True, False, 3)
    """

    __slots__ = ("_value", "name")

    def __init__(self, name: str = "counter") -> None:
        self.name = name
        self._value = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self._value}>"

    def add(self, amount: int) -> None:
        """Change it. Kernel: percpu_counter_add(), include/linux/percpu_counter.h."""
        self._value += amount

    def limited_add(self, amount: int, limit: int) -> bool:
        """Change it, unless it would exceed the limit. Kernel: percpu_counter_limited_add(), lib/percpu_counter.c."""
        if self._value + amount > limit:
            return False
        self._value += amount
        return True

    def peek(self) -> int:
        """Return the value: for checkers, never an access of the simulated machine."""
        return self._value


class RwSem:
    """A sleeping lock for one writer or many readers; a queued writer holds new readers off.

    Kernel: struct rw_semaphore, include/linux/rwsem.h.
    """

    __slots__ = ("name", "readers", "writer")

    def __init__(self, name: str = "rwsem") -> None:
        self.name = name
        self.readers = 0
        self.writer: Cpu | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.readers} readers, writer {self.writer}>"

    def down_read(self) -> None:
        """Take the lock shared. Kernel: down_read(), kernel/locking/rwsem.c."""
        if self.writer is not None:
            raise Deadlock([(repr(this_cpu()), f"{self.name} (shared), which {self.writer} holds")])
        self.readers += 1

    def up_read(self) -> None:
        """Give a shared hold back. Kernel: up_read(), kernel/locking/rwsem.c."""
        if not self.readers:
            raise InvariantViolation("A11", f"{self.name} is released but nobody holds it shared")
        self.readers -= 1

    def down_write_trylock(self) -> bool:
        """Take the lock exclusively if nobody holds it. Kernel: down_write_trylock(), kernel/locking/rwsem.c."""
        if self.writer is not None or self.readers:
            return False
        self.writer = this_cpu()
        return True

    def down_write(self) -> None:
        """Take the lock exclusively. Kernel: down_write(), kernel/locking/rwsem.c."""
        if self.writer is not None or self.readers:
            raise Deadlock([(repr(this_cpu()), f"{self.name} (exclusive), which is held")])
        self.writer = this_cpu()

    def up_write(self) -> None:
        """Give the exclusive hold back. Kernel: up_write(), kernel/locking/rwsem.c."""
        if self.writer is None:
            raise InvariantViolation("A11", f"{self.name} is released but nobody holds it")
        self.writer = None
