# SPDX-License-Identifier: GPL-2.0-only
"""Locks that are taken in opposite orders are reported, whether or not it came to a deadlock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmref.explore import Cell, Frontier, Mutex, explore, get_scenario
from mmref.explore.twins.fields import TracedRwSem

from .random_programs import Sem

Thread = Callable[[], object]


def in_turns() -> Sequence[Thread]:
    """Two CPUs that take two locks in opposite orders, but never at once: a flag says whose turn it is."""
    a, b, turn = Mutex("a"), Mutex("b"), Cell(0, "turn")

    def one() -> None:
        with a, b:
            pass
        turn.store(1)

    def other() -> None:
        if turn.load():
            with b, a:
                pass

    return [one, other]


@pytest.mark.parametrize("engine", ["source", "optimal", "states", "random", "bounded", "enumerate"])
def test_an_inversion_without_a_deadlock(engine: str) -> None:
    report = explore(in_turns, engine=engine, max_executions=50)
    assert report.holds
    (inversion,) = report.inversions
    assert {(step.cpu, step.held, step.wanted) for step in inversion.steps} == {
        ("CPU 0", "a", "b"), ("CPU 1", "b", "a"),
    }  # fmt: skip
    assert all("test_lock_order.py:" in step.where for step in inversion.steps)
    assert "locks are taken in a circle:\n    CPU 0 takes b while it holds a, " in str(report)


def test_orders_of_different_executions_count_together() -> None:
    def program() -> Sequence[Thread]:
        a, b, x = Mutex("a"), Mutex("b"), Cell(0, "x")

        def other() -> None:
            first, second = (b, a) if x.load() else (a, b)
            with first, second:
                pass

        def one() -> None:
            x.store(1)
            if not x.fetch_add(0):
                return
            with a:
                pass

        def third() -> None:
            if not x.load():
                with a, b:
                    pass

        return [one, other, third]

    report = explore(program, stop_at_first=False)
    assert [sorted((step.held, step.wanted) for step in one.steps) for one in report.inversions] == [
        [("a", "b"), ("b", "a")]
    ]


def test_a_circle_of_three() -> None:
    def program() -> Sequence[Thread]:
        locks = [Mutex(name) for name in "abc"]
        turn = Cell(0, "turn")

        def thread(number: int) -> Thread:
            def run() -> None:
                if turn.load() == number:
                    with locks[number], locks[(number + 1) % 3]:
                        pass
                    turn.store(number + 1)

            return run

        return [thread(0), thread(1), thread(2)]

    report = explore(program)
    assert report.holds
    (inversion,) = report.inversions
    assert len(inversion.steps) == 3
    assert {(step.held, step.wanted) for step in inversion.steps} == {("a", "b"), ("b", "c"), ("c", "a")}


def nothing_wrong(threads: Callable[[Mutex, Mutex, Sem], Sequence[Thread]]) -> None:
    report = explore(lambda: threads(Mutex("a"), Mutex("b"), Sem("sem")), stop_at_first=False)
    assert report.inversions == ()


def test_what_is_no_inversion() -> None:
    def same_order(a: Mutex, b: Mutex, _: Sem) -> Sequence[Thread]:
        def run() -> None:
            with a, b:
                pass

        return [run, run]

    def one_cpu_alone(a: Mutex, b: Mutex, _: Sem) -> Sequence[Thread]:
        def run() -> None:
            with a, b:
                pass
            with b, a:
                pass

        return [run, a.acquire]

    def released_in_between(a: Mutex, b: Mutex, _: Sem) -> Sequence[Thread]:
        def run() -> None:
            with a:
                pass
            with b:
                pass
            with a:
                pass

        return [run, run]

    def trylock_does_not_wait(a: Mutex, b: Mutex, _: Sem) -> Sequence[Thread]:
        def one() -> None:
            with a, b:
                pass

        def other() -> None:
            with b:
                if a.try_acquire():
                    a.release()

        return [one, other]

    for threads in (same_order, one_cpu_alone, released_in_between, trylock_does_not_wait):
        nothing_wrong(threads)


def test_a_lock_that_was_got_by_trylock_is_held() -> None:
    def program() -> Sequence[Thread]:
        a, b, turn = Mutex("a"), Mutex("b"), Cell(0, "turn")

        def one() -> None:
            with a, b:
                pass
            turn.store(1)

        def other() -> None:
            if turn.load() and b.try_acquire():
                with a:
                    pass
                b.release()

        return [one, other]

    assert len(explore(program).inversions) == 1


@pytest.mark.parametrize(("writer", "expected"), [(False, 0), (True, 1)])
def test_readers_do_not_wait_for_each_other(writer: bool, expected: int) -> None:
    def program() -> Sequence[Thread]:
        a, sem, turn = Sem("a"), Sem("sem"), Cell(0, "turn")

        def one() -> None:
            a.down_read()
            (sem.down_write if writer else sem.down_read)()
            (sem.up_write if writer else sem.up_read)()
            a.up_read()
            turn.store(1)

        def other() -> None:
            if turn.load():
                sem.down_read()
                (a.down_write if writer else a.down_read)()
                (a.up_write if writer else a.up_read)()
                sem.up_read()

        return [one, other]

    assert len(explore(program).inversions) == expected


def test_orders_are_kept_with_workers_and_over_a_resumed_search() -> None:
    whole = explore(in_turns, engine="source").inversions
    with ThreadPoolExecutor(2) as executor:
        assert explore(in_turns, engine="source", executor=executor).inversions == whole
    part = explore(in_turns, engine="source", max_executions=1)
    assert part.inversions == whole  # what is left to explore shows only one of the orders
    assert part.frontier is not None
    assert explore(in_turns, resume=Frontier.from_json(part.frontier.to_json())).inversions == whole


def test_a_scenario_has_none() -> None:
    assert explore(get_scenario("punch"), "lock-and-insert-late").inversions == ()


def test_a_trylock_that_fails_holds_nothing() -> None:
    def program() -> Sequence[Thread]:
        a, b = Mutex("a"), Mutex("b")

        def one() -> None:
            if a.try_acquire():
                a.release()
            else:
                with b:
                    pass

        def other() -> None:
            with b, a:
                pass

        return [one, other]

    report = explore(program)
    assert (report.executions, report.exhaustive, report.inversions) == (3, True, ())


def test_a_scenario_shows_the_order_that_it_deadlocks_in() -> None:
    """F3: folio locks and invalidate_lock, of the traced twins."""
    inversions = explore(get_scenario("file-truncate"), "upstream-6.12", stop_at_first=False).inversions
    assert {"folio 0 lock", "invalidate_lock"} in [{step.wanted for step in one.steps} for one in inversions]


def test_locks_that_a_cpu_makes_are_not_mixed_up() -> None:
    """What CPU 1 makes first is the folio in one execution and the table in the other; both have the same id."""

    def program() -> Sequence[Thread]:
        pmd, x = Mutex("pmd"), Cell(0, "x")

        def fault() -> None:
            folio = Mutex("folio")
            with folio, pmd:
                pass

        def unmap() -> None:
            with pmd, Mutex("table"):
                pass

        return [lambda: x.store(1), lambda: unmap() if x.load() else fault(), pmd.acquire]

    assert explore(program, stop_at_first=False).inversions == ()


@pytest.mark.parametrize(("third", "expected"), [(True, 1), (False, 0)])
def test_a_writer_between_readers_closes_the_circle(third: bool, expected: int) -> None:
    """Readers of two semaphores, in opposite orders: only who waits to write makes them wait for each other."""

    def program() -> Sequence[Thread]:
        a, b, turn = TracedRwSem("a"), TracedRwSem("b"), Cell(0, "turn")

        def one() -> None:
            a.down_read()
            b.down_read()
            b.up_read()
            a.up_read()
            turn.store(1)

        def other() -> None:
            if turn.load() == 1:
                b.down_read()
                a.down_read()
                a.up_read()
                b.up_read()
            turn.store(2)

        def writer() -> None:
            if turn.load() == 2:
                for lock in (a, b) if third else (a,):
                    lock.down_write()
                    lock.up_write()

        return [one, other, writer]

    report = explore(program)
    assert report.holds
    assert len(report.inversions) == expected
    if third:
        assert [step.cpu for step in report.inversions[0].steps] == ["CPU 0", "CPU 1", "CPU 2", "CPU 2"]
        assert "CPU 2 takes b exclusively, and holds new readers off, " in str(report)
        part = explore(program, max_executions=1)
        assert part.frontier is not None
        assert explore(program, resume=Frontier.from_json(part.frontier.to_json())).inversions == report.inversions
