# SPDX-License-Identifier: GPL-2.0-only
"""What the explorer detects, one small program each: the report names who, what and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mmref.errors import Deadlock, Livelock
from mmref.explore import Cell, Mutex, Report, explore, replay
from mmref.explore.twins import TRACED
from mmref.explore.twins.fields import TracedRwSem, TracedSpinLock
from mmref.folio import Folio
from mmref.machine import Machine
from mmref.pagecache import filemap_get_entry
from mmref.sync import cpu_relax
from mmref.xarray import RETRY, XaState

Thread = Callable[[], object]
Program = Callable[[], Sequence[Thread]]


def detail(report: Report) -> str:
    assert report.counterexample is not None
    return report.counterexample.verdict.detail


def kind(report: Report) -> str:
    assert report.counterexample is not None
    return report.counterexample.verdict.kind


def folio_of(machine: Machine) -> Folio:
    folio = machine.memory.alloc_folio()
    assert folio is not None
    return folio


def cached(pages: int = 2) -> tuple[Machine, list[Folio]]:
    """Return a machine with a file of some pages, and its folios."""
    machine = Machine(1, 1, parts=TRACED, kernel="6.12")
    file = machine.shmem_file("file", pages * machine.page_size)
    file.write(0, bytes(pages * machine.page_size))
    machine.memory.lru.drain_all()
    folios = [entry for _, entry in file.mapping.i_pages.items() if isinstance(entry, Folio)]
    return machine, folios


# Deadlock: the circle of waits -----------------------------------------------------------------------------


def in_opposite_order(make: Callable[[str], tuple[Thread, Thread]]) -> Program:
    """Two CPUs take two locks in opposite orders. `make` returns what acquires and what releases one."""

    def program() -> Sequence[Thread]:
        (take_a, give_a), (take_b, give_b) = make("a"), make("b")

        def one() -> None:
            take_a()
            take_b()
            give_b()
            give_a()

        def other() -> None:
            take_b()
            take_a()
            give_a()
            give_b()

        return [one, other]

    return program


def mutex(name: str) -> tuple[Thread, Thread]:
    lock = Mutex(name)
    return lock.acquire, lock.release


def spinlock(name: str) -> tuple[Thread, Thread]:
    lock = TracedSpinLock(name)
    return lock.acquire, lock.release


def writer(name: str) -> tuple[Thread, Thread]:
    lock = TracedRwSem(name)
    return lock.down_write, lock.up_write


def folio_lock(name: str) -> tuple[Thread, Thread]:
    machine = Machine(1, parts=TRACED)
    folio = folio_of(machine)
    folio.pfn = ord(name)
    return folio.lock, folio.unlock


@pytest.mark.parametrize(
    ("make", "a", "b", "how"),
    [
        (mutex, "a", "b", "acquire"),
        (spinlock, "a", "b", "spin_lock"),
        (writer, "a", "b", "down_write"),
        (folio_lock, "folio 97 lock", "folio 98 lock", "folio_lock"),
    ],
)
def test_a_circle_of_two_locks(make: Callable[[str], tuple[Thread, Thread]], a: str, b: str, how: str) -> None:
    report = explore(in_opposite_order(make))
    assert kind(report) == "deadlock"
    assert detail(report) == (
        f"CPU 0 waits for {b} ({how}), held by CPU 1; CPU 1 waits for {a} ({how}), held by CPU 0"
    )
    (inversion,) = report.inversions
    assert {(step.cpu, step.held, step.wanted) for step in inversion.steps} == {("CPU 0", a, b), ("CPU 1", b, a)}


@pytest.mark.parametrize("make", [mutex, spinlock, writer, folio_lock])
def test_the_inversion_is_seen_without_the_deadlock(make: Callable[[str], tuple[Thread, Thread]]) -> None:
    def program() -> Sequence[Thread]:
        one, other = in_opposite_order(make)()
        turn = Cell(0, "turn")

        def second() -> None:
            if turn.load():
                other()

        return [lambda: (one(), turn.store(1)), second]

    report = explore(program)
    assert report.holds
    assert len(report.inversions) == 1


def test_a_reader_waits_behind_a_writer_that_waits() -> None:
    """Neither of the readers holds the lock exclusively; only the queued writer closes the circle."""

    def program() -> Sequence[Thread]:
        mmap_lock, page = TracedRwSem("mmap_lock"), Mutex("page")

        def first() -> None:
            mmap_lock.down_read()
            with page:
                pass
            mmap_lock.up_read()

        def second() -> None:
            with page:
                mmap_lock.down_read()
                mmap_lock.up_read()

        def third() -> None:
            mmap_lock.down_write()
            mmap_lock.up_write()

        return [first, second, third]

    report = explore(program)
    assert kind(report) == "deadlock"
    assert detail(report) == (
        "CPU 0 waits for page (acquire), held by CPU 1;"
        " CPU 1 waits for mmap_lock (down_read), behind CPU 2, which waits to write;"
        " CPU 2 waits for mmap_lock (down_write), held by CPU 0"
    )


def test_who_is_not_in_the_circle_stands_behind_it() -> None:
    def program() -> Sequence[Thread]:
        a, b = Mutex("a"), Mutex("b")

        def nested(outer: Mutex, inner: Mutex) -> Thread:
            def run() -> None:
                with outer, inner:
                    pass

            return run

        return [a.acquire, nested(a, b), nested(b, a)]

    report = explore(program, stop_at_first=False)
    assert not report.holds
    finding = Deadlock([("CPU 1", "b"), ("CPU 2", "a"), ("CPU 0", "a")], ("CPU 1", "CPU 2"))
    assert str(finding) == "CPU 1 waits for b; CPU 2 waits for a; besides, CPU 0 waits for a"


def test_a_circle_of_three() -> None:
    def program() -> Sequence[Thread]:
        locks = [Mutex(name) for name in "abc"]

        def thread(number: int) -> Thread:
            def run() -> None:
                with locks[number], locks[(number + 1) % 3]:
                    pass

            return run

        return [thread(0), thread(1), thread(2)]

    assert detail(explore(program)) == (
        "CPU 0 waits for b (acquire), held by CPU 1; CPU 1 waits for c (acquire), held by CPU 2;"
        " CPU 2 waits for a (acquire), held by CPU 0"
    )


def test_a_lock_whose_holder_has_ended() -> None:
    def program() -> Sequence[Thread]:
        lock = Mutex("lock")
        return [lock.acquire, lock.acquire]

    assert detail(explore(program)) == "CPU 1 waits for lock (acquire), held by CPU 0, which has ended"


def test_who_takes_a_lock_twice_waits_for_itself() -> None:
    def program() -> Sequence[Thread]:
        lock = TracedSpinLock("lock")
        return [lambda: (lock.acquire(), lock.acquire())]

    assert detail(explore(program)) == "CPU 0 waits for lock (spin_lock), held by CPU 0"


# Livelock: frozen reference counts and RETRY entries are like locks ----------------------------------------


def test_a_frozen_folio_and_a_lock() -> None:
    """B33: a lookup holds a page table lock and spins on a frozen folio; who has frozen it waits for that lock."""

    def program() -> Sequence[Thread]:
        machine, folios = cached()
        ptl = TracedSpinLock("page_table_lock")
        mapping = machine.files["file"].mapping

        def collapse() -> None:
            assert folios[0].ref_freeze(1)
            ptl.acquire()
            ptl.release()
            folios[0].ref_unfreeze(1)

        def lookup() -> None:
            with ptl:
                filemap_get_entry(mapping, 0)

        return [collapse, lookup]

    report = explore(program)
    assert kind(report) == "livelock"
    text = detail(report)
    assert text.startswith("CPU 0 waits for page_table_lock (spin_lock), held by CPU 1; CPU 1 waits for a change of ")
    assert text.endswith("(it spins in cpu_relax()); folio 0 refcount is frozen by CPU 0")
    assert replay(report.counterexample, program).verdict == report.counterexample.verdict  # type: ignore[union-attr,arg-type]


def test_a_retry_entry_and_a_lock() -> None:
    def program() -> Sequence[Thread]:
        machine, _ = cached()
        mapping = machine.files["file"].mapping
        mutex = Mutex("mutex")

        def collapse() -> None:
            xas = XaState(mapping.i_pages, 1)
            with mapping.i_pages.xa_lock:
                entry = xas.load()
                xas.store(RETRY)
            mutex.acquire()
            mutex.release()
            with mapping.i_pages.xa_lock:
                xas.store(entry)

        def lookup() -> None:
            with mutex:
                filemap_get_entry(mapping, 1)

        return [collapse, lookup]

    report = explore(program)
    assert kind(report) == "livelock"
    assert detail(report).startswith("CPU 0 waits for mutex (acquire), held by CPU 1; CPU 1 waits for a change of ")
    assert detail(report).endswith("slot 1 of node 0 is blocked with a RETRY entry by CPU 0")


def test_writeback_that_nobody_completes() -> None:
    def program() -> Sequence[Thread]:
        machine = Machine(1, parts=TRACED)
        folio = folio_of(machine)

        def writes() -> None:
            folio.start_writeback()
            folio.lock()
            folio.end_writeback()
            folio.unlock()

        def waits() -> None:
            folio.lock()
            folio.wait_writeback()
            folio.unlock()

        return [writes, waits]

    assert detail(explore(program)) == (
        "CPU 0 waits for folio 0 lock (folio_lock), held by CPU 1;"
        " CPU 1 waits for folio 0 PG_writeback (folio_wait_writeback), started by CPU 0"
    )


def test_two_readers_that_spin_for_each_other() -> None:
    def program() -> Sequence[Thread]:
        x, y = Cell(0, "x"), Cell(0, "y")

        def wait(mine: Cell[int], other: Cell[int]) -> Thread:
            def run() -> None:
                while not other.load():
                    cpu_relax()
                mine.store(1)

            return run

        return [wait(x, y), wait(y, x)]

    report = explore(program)
    assert kind(report) == "livelock"
    assert detail(report) == (
        "CPU 0 waits for a change of y (it spins in cpu_relax()); CPU 1 waits for a change of x (it spins in"
        " cpu_relax())"
    )


def test_the_circle_survives_pickle() -> None:
    import pickle

    for finding in (Deadlock([("a", "b")], ("a",)), Livelock([("a", "b"), ("c", "d")])):
        again = pickle.loads(pickle.dumps(finding))
        assert (type(again), again.waits, again.circle) == (type(finding), finding.waits, finding.circle)
