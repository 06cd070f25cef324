# SPDX-License-Identifier: GPL-2.0-only
"""What the explorer detects, one small program each: the report names who, what and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mmref.errors import Deadlock, Livelock
from mmref.explore import Cell, Execution, Mutex, Report, SpinLock, explore, replay
from mmref.explore.twins import TRACED, TracedXArray
from mmref.explore.twins.fields import TracedRwSem, TracedSpinLock
from mmref.folio import Folio
from mmref.machine import Machine
from mmref.pagecache import filemap_get_entry
from mmref.sync import cpu_relax, might_sleep, rcu_read_lock, rcu_read_unlock
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
    assert detail(report) == (f"CPU 0 waits for {b} ({how}), held by CPU 1; CPU 1 waits for {a} ({how}), held by CPU 0")
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


# Sleeping in atomic context --------------------------------------------------------------------------------


def finding(report: Report, name: str) -> str:
    assert report.counterexample is not None, str(report)
    verdict = report.counterexample.verdict
    assert (verdict.kind, verdict.id) == ("violation", name), str(verdict)
    return verdict.detail


def split_nodes(machine: Machine) -> XaState:
    """Return a cursor that has nodes allocated in advance."""
    xas = XaState(machine.files["file"].mapping.i_pages, 0)
    xas.split_alloc("entry", 1)
    return xas


def alone(act: Callable[[Machine, list[Folio]], object]) -> Program:
    """One CPU on a machine with a file of two pages."""

    def program() -> Sequence[Thread]:
        machine, folios = cached()
        return [lambda: act(machine, folios)]

    return program


SLEEPERS: dict[str, Callable[[Machine, list[Folio]], object]] = {
    "folio_lock()": lambda _, folios: folios[0].lock(),
    "down_read()": lambda machine, _: machine.files["file"].mapping.i_mmap_rwsem.down_read(),
    "down_write()": lambda machine, _: machine.files["file"].inode.i_rwsem.down_write(),
    "folio_alloc(GFP_KERNEL)": lambda machine, _: machine.memory.alloc_folio(),
    "kmem_cache_alloc(GFP_KERNEL)": lambda machine, _: split_nodes(machine).destroy(),
    "shmem_inode_acct_blocks()": lambda machine, _: machine.files["file"].inode.charge(1, xa_locked=True),
    "copy_to_user()": lambda _, folios: folios[0].read(0, 10),
    "my_function()": lambda _, __: might_sleep("my_function()"),
}


@pytest.mark.parametrize("call", SLEEPERS)
def test_sleeping_with_a_spinlock_held(call: str) -> None:
    def act(machine: Machine, folios: list[Folio]) -> None:
        with machine.files["file"].mapping.i_pages.xa_lock:
            SLEEPERS[call](machine, folios)

    text = finding(explore(alone(act)), "SleepInAtomic")
    assert text.startswith(f"CPU 0 may sleep in {call} while it holds xa_lock, ")
    assert ".py:" in text


@pytest.mark.parametrize("call", SLEEPERS)
def test_sleeping_in_an_rcu_section(call: str) -> None:
    def act(machine: Machine, folios: list[Folio]) -> None:
        rcu_read_lock()
        SLEEPERS[call](machine, folios)

    text = finding(explore(alone(act)), "SleepInAtomic")
    assert text.startswith(f"CPU 0 may sleep in {call} while it holds the RCU read lock, ")


@pytest.mark.parametrize("call", SLEEPERS)
def test_sleeping_is_allowed_elsewhere(call: str) -> None:
    def act(machine: Machine, folios: list[Folio]) -> None:
        xa_lock = machine.files["file"].mapping.i_pages.xa_lock
        with xa_lock:
            rcu_read_lock()
            rcu_read_unlock()
        if call == "shmem_inode_acct_blocks()":
            machine.files["file"].inode.charge(1)
        else:
            SLEEPERS[call](machine, folios)

    assert explore(alone(act)).holds


def test_waiting_for_writeback_is_a_finding_only_if_there_is_some() -> None:
    def act(_: Machine, folios: list[Folio]) -> None:
        rcu_read_lock()
        folios[0].wait_writeback()
        folios[0].start_writeback()
        folios[0].wait_writeback()

    report = explore(alone(act))
    assert "folio_wait_writeback()" in finding(report, "SleepInAtomic")
    assert report.counterexample is not None
    assert [event.label for event in report.counterexample.events] == ["folio_wait_writeback", "folio_set_writeback"]


def test_a_mutex_under_a_spinlock_and_a_spinlock_under_a_mutex() -> None:
    def program() -> Sequence[Thread]:
        mutex, lock = Mutex("mutex"), SpinLock("lock")

        def wrong() -> None:
            with lock, mutex:
                pass

        def right() -> None:
            with mutex, lock, SpinLock("another"):
                pass

        return [right, wrong]

    text = finding(explore(program), "SleepInAtomic")
    assert text.startswith("CPU 1 may sleep in acquire() of mutex while it holds lock, ")


def test_a_trylock_does_not_sleep() -> None:
    def act(machine: Machine, folios: list[Folio]) -> None:
        with machine.files["file"].mapping.i_pages.xa_lock:
            assert folios[0].trylock()
            assert machine.files["file"].inode.i_rwsem.down_write_trylock()

    assert explore(alone(act)).holds


def test_before_quotas_charging_a_file_did_not_sleep() -> None:
    def program() -> Sequence[Thread]:
        machine = Machine(1, parts=TRACED, kernel="6.4")
        inode = machine.shmem_file("file", 8192).inode

        def charge() -> None:
            with inode.i_mapping.i_pages.xa_lock:
                inode.charge(1, xa_locked=True)

        return [charge]

    assert explore(program).holds


def test_leaving_a_section_twice() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0)
        return [lambda: (x.load(), rcu_read_unlock())]

    assert "leaves an RCU section that it is not in" in finding(explore(program), "A11")


# Use after free, double free -------------------------------------------------------------------------------


def reader_of(array: TracedXArray, section: bool) -> Thread:
    """Return what looks index 0 up twice with one cursor, in one RCU section or in one each."""

    def read() -> tuple[object, object]:
        xas = XaState(array, 0)
        rcu_read_lock()
        first = xas.load()
        if not section:
            rcu_read_unlock()
            rcu_read_lock()
        second = xas.reload()
        rcu_read_unlock()
        return first, second

    return read


def frees_the_node(array: TracedXArray) -> Thread:
    def write() -> None:
        with array.xa_lock:
            XaState(array, 5).store(None)
            XaState(array, 0).store(None)

    return write


@pytest.mark.parametrize("section", [True, False])
def test_a_freed_node_stays_until_the_section_ends(section: bool) -> None:
    def program() -> Sequence[Thread]:
        array = TracedXArray(chunk_shift=2)
        array.store(0, "a")
        array.store(5, "b")
        return [reader_of(array, section), frees_the_node(array)]

    report = explore(program, stop_at_first=False)
    if section:
        assert report.holds, str(report)
        assert report.executions > 5
    else:
        text = finding(report, "UseAfterFree")
        assert text == "a load of slot 0 on node 0 after it was freed"


def test_a_walk_without_an_rcu_section() -> None:
    def program() -> Sequence[Thread]:
        array = TracedXArray(chunk_shift=2)
        array.store(5, "b")
        return [lambda: XaState(array, 5).load(), lambda: array.erase(5)]

    assert "on node " in finding(explore(program), "UseAfterFree")


def test_the_normal_api_has_sections_of_its_own() -> None:
    def program() -> Sequence[Thread]:
        array = TracedXArray(chunk_shift=2)
        array.store(5, "b")
        return [lambda: (array.load(5), array.find(0), array.get_order(5)), lambda: array.erase(5)]

    assert explore(program).holds


def test_who_holds_a_spinlock_is_in_a_section() -> None:
    def program() -> Sequence[Thread]:
        array, lock = TracedXArray(chunk_shift=2), TracedSpinLock("lock")
        array.store(5, "b")

        def read() -> None:
            with lock:
                XaState(array, 5).load()

        return [read, lambda: array.erase(5)]

    assert explore(program).holds


def test_a_folio_freed_twice() -> None:
    def act(machine: Machine, _: list[Folio]) -> None:
        folio = folio_of(machine)
        folio.put()
        folio.put()

    assert finding(explore(alone(act)), "DoubleFree") == "folio_put() on folio 2: its count is 0, and 1 is dropped"


def test_a_reference_too_many_is_dropped_by_one_of_two() -> None:
    def program() -> Sequence[Thread]:
        machine = Machine(1, parts=TRACED)
        folio = folio_of(machine)
        return [folio.put, folio.put]

    finding(explore(program), "DoubleFree")


def test_a_node_freed_twice() -> None:
    def program() -> Sequence[Thread]:
        array = TracedXArray(chunk_shift=2)
        array.store(5, "b")
        node = array._peek_head()
        return [lambda: (array.erase(5), array._free_node(node))]

    assert finding(explore(program), "DoubleFree") == "xa_node_free() on node 0: it is free already"


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda folio: folio.trylock(), "is freed while locked"),
        (lambda folio: setattr(folio, "mapping", object()), "is freed while it belongs to a mapping"),
        (lambda folio: folio.add_rmap(), "is freed while 1 page table entries map it"),
    ],
)
def test_a_folio_that_is_not_to_be_freed_yet(spoil: Callable[[Folio], object], what: str) -> None:
    """What free_pages_prepare() calls a bad page."""

    def act(machine: Machine, _: list[Folio]) -> None:
        folio = folio_of(machine)
        spoil(folio)
        folio.put()

    text = finding(explore(alone(act)), "A11")
    assert "pfn=2 " in text
    assert what in text


@pytest.mark.parametrize(
    "give",
    [
        lambda spin, _: spin.release(),
        lambda _, sem: sem.up_read(),
        lambda _, sem: sem.up_write(),
    ],
)
@pytest.mark.parametrize("other", [False, True])
def test_a_lock_given_back_by_who_does_not_hold_it(give: Callable[[Any, Any], object], other: bool) -> None:
    def program() -> Sequence[Thread]:
        spin, sem, turn = TracedSpinLock("lock"), TracedRwSem("lock"), Cell(0, "turn")

        def holds() -> None:
            sem.down_read()
            spin.acquire()
            turn.store(1)

        def gives() -> None:
            if turn.load() == other:
                give(spin, sem)

        return [holds, gives]

    assert finding(explore(program), "A11").startswith("CPU 1 releases lock, which it does not hold, ")


def test_a_lock_taken_in_set_up_may_be_given_back_by_anyone() -> None:
    def program() -> Sequence[Thread]:
        spin, read, written = TracedSpinLock("spin"), TracedRwSem("read"), TracedRwSem("written")
        spin.acquire()
        read.down_read()
        written.down_write()
        return [spin.release, read.up_read, written.up_write]

    assert explore(program).holds


def test_a_folio_unlocked_twice_and_a_swap_slot_freed_twice() -> None:
    def unlock(_: Machine, folios: list[Folio]) -> None:
        folios[0].lock()
        folios[0].unlock()
        folios[0].unlock()

    assert "folio_unlock() on <" in finding(explore(alone(unlock)), "A11")

    def free_swap(machine: Machine, folios: list[Folio]) -> None:
        machine.swapon(4)
        device = machine.memory.swap
        assert device is not None
        entry = device.alloc(folios[0])
        device.free(entry)
        device.free(entry)

    assert finding(explore(alone(free_swap)), "DoubleFree") == "swap_free() on swap slot 1: nobody uses it"


# Leaks -----------------------------------------------------------------------------------------------------


def at_rest(act: Callable[[Machine, list[Folio]], object]) -> str:
    """Return what Machine.check() finds when a CPU has done something to a machine."""

    class Leaking:
        name = "leaking"

        def spec(self, strategy: object) -> str:
            return f"leaking/{strategy}"

        def build(self, strategy: object) -> Execution:
            assert strategy is None
            machine, folios = cached()
            machine.swapon(4)
            return Execution([lambda: act(machine, folios)], at_rest=machine.check)

    report = explore(Leaking())
    assert report.counterexample is not None
    return f"{report.counterexample.verdict.id}: {report.counterexample.verdict.detail}"


def test_leaks_at_rest() -> None:
    assert at_rest(lambda machine, _: folio_of(machine)).startswith("Q9: 3 pages are allocated, but 2 are in use")
    assert "Q7: " in at_rest(lambda _, folios: folios[0].get())
    assert "Q5: " in at_rest(lambda _, folios: folios[0].trylock())
    assert "Q6: " in at_rest(lambda machine, folios: machine.memory.lru.isolate(folios[0]))
    assert at_rest(lambda machine, _: split_nodes(machine)) == (
        "Q9: 2 nodes of the page cache of file are allocated, but 1 is in the tree: some have leaked"
    )
    assert "Q12: " in at_rest(lambda machine, folios: machine.memory.swap.alloc(folios[0]))  # type: ignore[union-attr]
    assert "L1: " in at_rest(lambda machine, _: machine.files["file"].inode.i_rwsem.down_write())
