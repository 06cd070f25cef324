# SPDX-License-Identifier: GPL-2.0-only
"""What is found, and how it is said: deadlock, livelock, violations, exceptions, endless loops, nondeterminism."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence

import pytest

from mmref.errors import InvariantViolation, UsageError
from mmref.explore import Cell, Execution, Mutex, NondeterministicProgram, explore, replay
from mmref.explore.locations import LOCK, THREAD, UNLOCK, WRITE, Location, note, point
from mmref.sync import cpu_relax, this_cpu

from .programs import readers
from .random_programs import Sem

Thread = Callable[[], object]


def opposite_orders() -> Sequence[Thread]:
    a, b = Mutex("a"), Mutex("b")

    def one() -> None:
        with a, b:
            pass

    def other() -> None:
        with b, a:
            pass

    return [one, other]


def test_deadlock_says_who_waits_for_whom() -> None:
    report = explore(opposite_orders)
    assert report.verdict.startswith("DEADLOCK in execution ")
    trace = report.counterexample
    assert trace is not None
    assert trace.verdict.kind == "deadlock"
    assert trace.verdict.detail == (
        "CPU 0 waits for b (acquire), held by CPU 1; CPU 1 waits for a (acquire), held by CPU 0"
    )
    assert str(trace.schedule) == "v1:0,1"
    assert replay("v1:0,1", opposite_orders) == trace


def test_all_of_a_deadlocking_program_is_explored_if_wanted() -> None:
    report = explore(opposite_orders, stop_at_first=False)
    assert (report.executions, report.findings, report.exhaustive) == (3, 1, True)


def test_a_lock_that_is_never_released_blocks_in_either_order() -> None:
    def program() -> Sequence[Thread]:
        lock = Mutex("lock")
        return [lock.acquire, lock.acquire]

    report = explore(program, stop_at_first=False)
    assert (report.executions, report.findings) == (2, 2)


def test_a_busy_wait_ends_when_what_it_reads_changes() -> None:
    def program() -> Sequence[Thread]:
        flag, data = Cell(0, "flag"), Cell(0, "data")

        def waiter() -> None:
            while not flag.load():
                cpu_relax()
            assert data.load() == 1

        def setter() -> None:
            data.store(1)
            flag.store(1)

        return [waiter, setter]

    report = explore(program)
    assert (report.executions, report.exhaustive, report.holds) == (2, True, True)


def test_livelock_names_what_is_waited_for() -> None:
    def program() -> Sequence[Thread]:
        flag = Cell(0, "flag")

        def waiter() -> None:
            while not flag.load():
                cpu_relax()

        return [waiter, lambda: flag.store(0)]

    report = explore(program)
    assert report.verdict.startswith("LIVELOCK in execution ")
    assert report.counterexample is not None
    assert report.counterexample.verdict.detail == "CPU 0 waits for a change of flag (it spins in cpu_relax())"


def test_a_busy_wait_that_reads_nothing_is_a_livelock() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0)

        def waiter() -> None:
            cpu_relax()
            x.load()

        return [waiter]

    report = explore(program)
    assert report.counterexample is not None
    assert "has read no shared location" in report.counterexample.verdict.detail


def test_an_assertion_is_a_violation_and_another_exception_an_error() -> None:
    def fails(error: Exception) -> Callable[[], Sequence[Thread]]:
        def program() -> Sequence[Thread]:
            x = Cell(0)

            def thread() -> None:
                if x.load():
                    raise error

            return [thread, lambda: x.store(1)]

        return program

    for error, kind in (AssertionError("no"), "violation"), (KeyError("k"), "error"):
        report = explore(fails(error))
        assert report.counterexample is not None
        verdict = report.counterexample.verdict
        assert (verdict.kind, verdict.id, verdict.cpu) == (kind, type(error).__name__, 0)
        assert report.verdict == "RACE in execution 2"
        assert (report.exhaustive, report.reason) == (False, "stopped at the first finding")


def test_the_others_go_on_where_all_findings_are_wanted() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0)

        def reader() -> None:
            assert x.load() != 1

        def writer() -> None:
            x.store(1)
            x.store(2)

        return [reader, writer]

    report = explore(program, stop_at_first=False)
    assert (report.executions, report.findings, report.exhaustive) == (3, 1, True)
    assert report.counterexample is not None


class Checked:
    """A scenario whose two CPUs must keep two cells equal at rest, and never let one exceed one."""

    name = "checked"

    def __init__(self, limit: int, *, at_rest: bool) -> None:
        self.limit = limit
        self.at_rest = at_rest

    def spec(self, strategy: object) -> str:
        return f"checked/{strategy}"

    def build(self, strategy: object) -> Execution:
        assert strategy == "s"
        x = Cell(0, "x")

        def on_step() -> None:
            assert x.load() == x.peek()  # an access in a check is no event
            if x.peek() > self.limit:
                raise InvariantViolation("X1", f"x is {x.peek()}")

        def at_rest() -> None:
            if self.at_rest and x.load() != 2:
                raise InvariantViolation("X2", f"x is {x.load()} at rest")

        def increment() -> None:
            x.store(x.load() + 1)

        return Execution([increment, increment], ["left", "right"], on_step, at_rest)


def test_invariants_are_checked_after_each_change() -> None:
    report = explore(Checked(1, at_rest=False), strategy="s")
    trace = report.counterexample
    assert trace is not None
    assert (trace.verdict.kind, trace.verdict.id, trace.verdict.detail) == ("violation", "X1", "x is 2")
    assert trace.cpus == ("left", "right")
    assert str(trace.schedule) == "checked/s:v1:0x2,1x2"
    assert replay(str(trace.schedule), Checked(1, at_rest=False), "s") == trace


def test_invariants_are_checked_at_rest() -> None:
    report = explore(Checked(2, at_rest=True), strategy="s")
    trace = report.counterexample
    assert trace is not None
    assert (trace.verdict.id, trace.verdict.detail, trace.verdict.cpu) == ("X2", "x is 1 at rest", None)
    assert trace.schedule.switches == 2


def test_a_prefix_is_checked_once() -> None:
    calls = []

    class Scenario(Checked):
        def build(self, strategy: object) -> Execution:
            x, y = Cell(0), Cell(0)
            return Execution([lambda: (x.store(1), y.store(1)), y.load], on_step=lambda: calls.append(strategy))

    report = explore(Scenario(0, at_rest=False), strategy="s")
    assert (report.executions, report.steps) == (2, 6)
    assert calls == ["s"] * 3  # of four changes, one came before the branch


def test_an_endless_loop_is_named() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0, "x")

        def spin() -> None:
            while not x.load():
                pass

        return [spin, lambda: x.store(0)]

    report = explore(program, max_steps=100)
    trace = report.counterexample
    assert trace is not None
    assert trace.verdict.kind == "step-limit"
    assert "no end after 100 steps: CPU 0 accesses x at " in trace.verdict.detail
    assert "test_findings.py:" in trace.verdict.detail
    assert "spin" in trace.verdict.detail
    assert "cpu_relax()" in trace.verdict.detail
    assert replay(trace, program, max_steps=100) == trace


def changing(first: Callable[[Cell[int], Cell[int]], Sequence[Thread]],
             later: Callable[[Cell[int], Cell[int]], Sequence[Thread]]) -> Callable[[], Sequence[Thread]]:
    runs = []

    def program() -> Sequence[Thread]:
        runs.append(1)
        return (first if len(runs) == 1 else later)(Cell(0, "x"), Cell(0, "y"))

    return program


@pytest.mark.parametrize(
    ("later", "match"),
    [
        (lambda x, y: [lambda: (y.load(), x.load()), lambda: x.store(1)], "at step 0 CPU 0 now does a read"),
        (lambda x, _: [lambda: (x.store(0), x.load()), lambda: x.store(1)], "at step 0 CPU 0 now does a write"),
        (lambda x, _: [lambda: None, lambda: x.store(1)], "at step 0 CPU 0 cannot go on now"),
        (lambda x, _: [lambda: (x.load(), x.load())], "at step 1 CPU 1 cannot go on now"),
    ],
)
def test_nondeterminism_is_an_error_that_says_what_differs(later: Callable, match: str) -> None:
    program = changing(lambda x, _: [lambda: (x.load(), x.load()), lambda: x.store(1)], later)
    with pytest.raises(NondeterministicProgram, match=match):
        explore(program)
    explore(readers(2))  # nothing is left behind


def test_unfinished_cpus_are_unwound_and_their_cleanup_is_no_event() -> None:
    log: list[str] = []

    def program() -> Sequence[Thread]:
        x, lock = Cell(0), Mutex("lock")

        def stuck() -> None:
            try:
                lock.acquire()
                lock.acquire()
            finally:
                x.store(7)
                lock.release()
                log.append(f"cleaned up on {this_cpu()}")

        return [stuck]

    report = explore(program)
    assert report.counterexample is not None
    assert report.counterexample.verdict.kind == "deadlock"
    assert len(report.counterexample.events) == 1
    assert set(log) == {"cleaned up on CPU 0"}


def test_cleanup_that_does_not_end_is_ended() -> None:
    def program() -> Sequence[Thread]:
        x, lock = Cell(0), Mutex("lock")

        def stuck() -> None:
            try:
                lock.acquire()
                lock.acquire()
            finally:
                while not x.load():
                    pass

        def relaxing() -> None:
            try:
                with lock, lock:
                    pass
            finally:
                while not x.load():
                    cpu_relax()

        return [stuck, relaxing]

    report = explore(program)
    assert report.counterexample is not None
    assert report.counterexample.verdict.kind == "deadlock"


def test_interrupt_reaches_the_caller() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0)

        def thread() -> None:
            x.load()
            raise KeyboardInterrupt

        return [thread, lambda: x.store(1)]

    with pytest.raises(KeyboardInterrupt):
        explore(program)
    assert THREAD.run is None
    assert explore(readers(2)).executions == 4


def test_greenlets_are_pooled_and_nothing_is_kept_alive() -> None:
    class Big:
        pass

    seen: list[weakref.ref[Big]] = []

    def program() -> Sequence[Thread]:
        big = Big()
        seen.append(weakref.ref(big))
        x = Cell(big)
        return [x.load, lambda: x.store(big)]

    explore(program)
    pool = THREAD.pool
    assert pool is not None
    greenlets = [worker.cpu.greenlet for worker in pool]
    explore(program)
    assert THREAD.pool is pool
    assert [worker.cpu.greenlet for worker in pool] == greenlets
    gc.collect()
    assert not any(ref() for ref in seen)


def test_exploring_works_in_any_thread_and_in_several_at_once() -> None:
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(explore(readers(6)).executions)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [64, 64, 64]


def test_cells_and_locks_work_outside_an_exploration() -> None:
    x = Cell(1)
    x.store(2)
    assert (x.fetch_add(3), x.load(), x.compare_exchange(0, 9), x.peek()) == (2, 5, False, 5)
    lock = Mutex("lock")
    with lock:
        assert not lock.try_acquire()
    assert lock.try_acquire()
    with pytest.raises(Exception, match=r"CPU 0 waits for lock, held by CPU 0"):
        lock.acquire()
    lock.release()
    with pytest.raises(UsageError, match="does not hold"):
        lock.release()


def test_set_up_on_the_same_objects_is_no_event() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0)
        lock = Mutex()
        with lock:
            x.store(5)
        return [lambda: x.fetch_add(1), x.load]

    assert explore(program).executions == 2


def test_cpus_know_who_they_are() -> None:
    results: list[object] = []

    def program() -> Sequence[Thread]:
        x = Cell(0)

        def thread() -> int:
            x.load()
            return this_cpu().id

        return [thread, thread, thread]

    explore(program, on_execution=lambda done: results.append(done.results))
    assert results == [[0, 1, 2]]


def test_a_lock_held_since_set_up() -> None:
    """The release is enabled by nothing that the engine has seen."""

    def program() -> Sequence[Thread]:
        at = Location("lock")
        held = [True]

        def release() -> None:
            point(at, UNLOCK)
            held[0] = False

        def acquire() -> None:
            point(at, LOCK, enabled=lambda: not held[0])
            held[0] = True

        return [acquire, release, release]

    report = explore(program, stop_at_first=False)
    assert report.executions == explore(program, stop_at_first=False, engine="enumerate").executions


def test_readers_of_a_shared_lock_commute() -> None:
    def program() -> Sequence[Thread]:
        sem = Sem("sem")

        def reader() -> None:
            sem.down_read()
            sem.up_read()

        return [reader, reader, reader]

    assert explore(program).executions == 1


def test_lazy_names() -> None:
    named: list[str] = []

    def name() -> str:
        named.append("asked")
        return "expensive"

    def program() -> Sequence[Thread]:
        x, y, z = Location(name), Location(("node", ".slots[3]")), Location()

        def thread() -> None:
            for location in (x, y, z):
                point(location, WRITE, "poke")
                note("done")

        return [thread]

    explore(program)
    assert named == []
    trace = replay("v1:0x3", program)
    assert [(event.label, event.location, event.value) for event in trace.events] == [
        ("poke", "expensive", "done"), ("poke", "node.slots[3]", "done"), ("poke", "location 2", "done"),
    ]  # fmt: skip
    assert named == ["asked"]


def test_a_shared_lock_made_of_exclusive_modes_is_explored_in_full() -> None:
    """Readers that use LOCK give more traces than needed, but none is lost."""

    class Rough(Sem):
        __slots__ = ()

        def down_read(self) -> None:
            point(self, LOCK, "down_read", enabled=lambda: not self.writer)
            self.readers += 1

        def up_read(self) -> None:
            point(self, UNLOCK, "up_read")
            self.readers -= 1

    def program() -> Sequence[Thread]:
        sem, x = Rough("sem"), Cell(0)

        def reader() -> int:
            sem.down_read()
            value = x.load()
            sem.up_read()
            return value

        def writer() -> None:
            sem.down_write()
            x.store(1)
            sem.up_write()

        return [reader, reader, writer]

    def results(engine: str) -> set[tuple[object, ...]]:
        seen: set[tuple[object, ...]] = set()
        explore(program, engine=engine, on_execution=lambda done: seen.add(tuple(done.results)))
        return seen

    assert results("source") == results("optimal") == results("enumerate")
    assert len(results("source")) == 4
