# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions of mmref, in three families that callers treat differently.

* ``UsageError``: the caller gave something that cannot be used. One sentence: the value, and the way out.
* ``Finding``: the model did what it was asked, and something is wrong with the *algorithm* under test.
* ``MmrefInternalError``: mmref itself is wrong.
"""

from __future__ import annotations

from errno import errorcode

__all__ = [
    "DataRace",
    "Deadlock",
    "DoubleFree",
    "Finding",
    "InvariantViolation",
    "Livelock",
    "LostUpdate",
    "MmrefError",
    "MmrefInternalError",
    "SleepInAtomic",
    "UsageError",
    "UseAfterFree",
    "XArrayError",
]


class MmrefError(Exception):
    """Base of every exception that mmref raises on purpose."""


class UsageError(MmrefError, ValueError):
    """Bad input: the message names the value and says what would be accepted."""


class MmrefInternalError(MmrefError):
    """A bug in mmref itself: this should never happen, please report it.

    Attributes:
        message: what is wrong, without the request to report it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} (this is a bug in mmref: please report it with the schedule string)")
        self.message = message

    def __reduce__(self) -> tuple[type[MmrefInternalError], tuple[str]]:
        return type(self), (self.message,)


class XArrayError(MmrefError):
    """An operation of the XArray's normal API failed the way the kernel's does.

    Attributes:
        errno: the positive error number, for example ``errno.EBUSY``.
        message: what failed, without the name of the error.
    """

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(f"{message} [{errorcode.get(errno, errno)}]")
        self.errno = errno
        self.message = message

    def __reduce__(self) -> tuple[type[XArrayError], tuple[object, ...]]:
        return type(self), (self.errno, self.message)


class Finding(MmrefError):
    """The algorithm under test did something that it must not do."""


class InvariantViolation(Finding):
    """An invariant does not hold.

    Attributes:
        invariant: its id, for example ``"A1"`` (see docs/invariants.md).
        detail: what was seen, in one sentence.
    """

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail

    def __reduce__(self) -> tuple[type[InvariantViolation], tuple[str, str]]:
        return type(self), (self.invariant, self.detail)


class Deadlock(Finding):
    """No CPU can go on: each waits for something that only another one can give.

    Attributes:
        waits: one ``(waiting CPU, what it waits for)`` pair of plain strings per stuck CPU, those of the circle first.
        circle: the CPUs of which each waits for the next, and the last for the first; empty if that is not known.
    """

    def __init__(self, waits: list[tuple[str, str]], circle: tuple[str, ...] = ()) -> None:
        texts = [f"{who} waits for {what}" for who, what in waits]
        if circle and len(circle) < len(waits):
            texts[len(circle)] = f"besides, {texts[len(circle)]}"
        super().__init__("; ".join(texts))
        self.waits = waits
        self.circle = circle

    def __reduce__(self) -> tuple[type[Deadlock], tuple[object, ...]]:
        return type(self), (self.waits, self.circle)


class Livelock(Deadlock):
    """Like ``Deadlock``, but at least one CPU spins (``cpu_relax()``) instead of sleeping on a lock."""


class UseAfterFree(Finding):
    """A folio or node was touched after it had been freed.

    Attributes:
        what: the object, as text.
        access: what was done to it.
    """

    def __init__(self, what: str, access: str) -> None:
        super().__init__(f"{access} on {what} after it was freed")
        self.what = what
        self.access = access

    def __reduce__(self) -> tuple[type[UseAfterFree], tuple[str, ...]]:
        return type(self), (self.what, self.access)


class DoubleFree(UseAfterFree):
    """A folio or node was freed twice, or a reference dropped that nobody held.

    Attributes:
        why: what shows it.
    """

    def __init__(self, what: str, access: str, why: str) -> None:
        Finding.__init__(self, f"{access} on {what}: {why}")
        self.what = what
        self.access = access
        self.why = why

    def __reduce__(self) -> tuple[type[UseAfterFree], tuple[str, ...]]:
        return type(self), (self.what, self.access, self.why)


class SleepInAtomic(Finding):
    """A CPU may sleep where it must not: it holds a spinlock, or is inside an RCU section.

    Attributes:
        cpu: who.
        call: the call that may sleep.
        holding: what it holds, as text.
        where: the file and line of the call.
    """

    def __init__(self, cpu: str, call: str, holding: str, where: str) -> None:
        super().__init__(f"{cpu} may sleep in {call} while it holds {holding}, {where}")
        self.cpu = cpu
        self.call = call
        self.holding = holding
        self.where = where

    def __reduce__(self) -> tuple[type[SleepInAtomic], tuple[str, str, str, str]]:
        return type(self), (self.cpu, self.call, self.holding, self.where)


class DataRace(Finding):
    """Two accesses of different CPUs to a plain field, one of them a write, are not ordered by anything.

    Attributes:
        what: the field.
        first, second: who accesses it, and where.
    """

    def __init__(self, what: str, first: str, second: str) -> None:
        super().__init__(f"nothing orders two accesses to {what}: {first}; {second}")
        self.what = what
        self.first = first
        self.second = second

    def __reduce__(self) -> tuple[type[DataRace], tuple[str, str, str]]:
        return type(self), (self.what, self.first, self.second)


class LostUpdate(Finding):
    """A CPU stores over what another one has stored since it looked.

    Attributes:
        what: the field.
        load, change, store: who does that, and where.
    """

    def __init__(self, what: str, load: str, change: str, store: str) -> None:
        super().__init__(f"an update of {what} is lost: {load}; {change}; {store}")
        self.what = what
        self.load = load
        self.change = change
        self.store = store

    def __reduce__(self) -> tuple[type[LostUpdate], tuple[str, str, str, str]]:
        return type(self), (self.what, self.load, self.change, self.store)
