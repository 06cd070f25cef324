# SPDX-License-Identifier: GPL-2.0-only
"""Data races and lost updates: which programs have one, what the report says, and where they are not looked for.

At the end, data races by happens-before clocks are held against data races by brute force. A program has one if and
only if some schedule of it comes to a state in which two CPUs are about to access one plain location, one of them to
write (Boehm and Adve, Foundations of the C++ concurrency memory model, 2008). So all schedules of random small programs
are run, and in each state what the CPUs are about to do is looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Mutex, explore, get_scenario, replay
from mmref.explore.enumeration import Enumeration
from mmref.explore.locations import PLAIN, READ
from mmref.explore.program import builder
from mmref.explore.scheduler import ExploredCpu, Run
from mmref.explore.twins import TRACED
from mmref.explore.work import forget_last_execution
from mmref.machine import Machine
from mmref.sync import cpu_relax

from .programs import inc
from .test_detections import cached, finding, folio_of

Thread = Callable[[], object]
Program = Callable[[], Sequence[Thread]]


# Data races ------------------------------------------------------------------------------------------------


def plain_cell(
    first: Callable[[Cell[int], Mutex, Cell[int]], object], second: Callable[[Cell[int], Mutex, Cell[int]], object]
) -> Program:
    """Two CPUs with a plain cell, a lock and an atomic flag."""

    def program() -> Sequence[Thread]:
        x, lock, flag = Cell(0, "x", plain=True), Mutex("lock"), Cell(0, "flag")
        return [lambda: first(x, lock, flag), lambda: second(x, lock, flag)]

    return program


def store(x: Cell[int], _: Mutex, __: Cell[int]) -> None:
    x.store(1)


def load(x: Cell[int], _: Mutex, __: Cell[int]) -> None:
    x.load()


def locked_store(x: Cell[int], lock: Mutex, _: Cell[int]) -> None:
    with lock:
        x.store(2)


def locked_load(x: Cell[int], lock: Mutex, _: Cell[int]) -> None:
    with lock:
        x.load()


def publish(x: Cell[int], _: Mutex, flag: Cell[int]) -> None:
    x.store(3)
    flag.store(1)


def publish_too_early(x: Cell[int], _: Mutex, flag: Cell[int]) -> None:
    flag.store(1)
    x.store(3)


def consume(x: Cell[int], _: Mutex, flag: Cell[int]) -> None:
    if flag.load():
        x.load()


def consume_later(x: Cell[int], _: Mutex, flag: Cell[int]) -> None:
    while not flag.load():
        cpu_relax()
    x.store(x.load() + 1)


def overwrite_flag(x: Cell[int], _: Mutex, flag: Cell[int]) -> None:
    flag.store(2)  # sees nothing of what was there: acquires nothing
    x.load()


def take_flag(x: Cell[int], _: Mutex, flag: Cell[int]) -> None:
    if flag.compare_exchange(1, 2):
        x.load()


def try_lock(x: Cell[int], lock: Mutex, _: Cell[int]) -> None:
    if not lock.try_acquire():
        x.load()


@pytest.mark.parametrize(
    ("first", "second", "races"),
    [
        (store, store, True),
        (store, load, True),
        (load, load, False),
        (locked_store, locked_store, False),
        (locked_store, locked_load, False),
        (locked_store, load, True),
        (locked_load, store, True),
        (publish, consume, False),
        (publish, consume_later, False),
        (publish_too_early, consume, True),
        (publish, overwrite_flag, True),
        (publish, take_flag, False),
        (locked_store, try_lock, True),
    ],
)
@pytest.mark.parametrize("engine", ["optimal", "source", "enumerate", "bounded"])
def test_data_races(first: Any, second: Any, races: bool, engine: str) -> None:
    report = explore(plain_cell(first, second), engine=engine)
    assert report.detect == ("data-race",)
    if races:
        text = finding(report, "DataRace")
        assert text.startswith("nothing orders two accesses to x: CPU ")
        assert f"test_races.py:{first.__code__.co_firstlineno + 1}" in text or "(locked" in text or "(publish" in text
    else:
        assert report.holds, str(report)


def test_both_lines_are_named_whichever_comes_first() -> None:
    for program in (plain_cell(store, load), plain_cell(load, store)):
        text = finding(explore(program), "DataRace")
        assert "writes it at " in text
        assert "reads it at " in text
        assert f"test_races.py:{store.__code__.co_firstlineno + 1} (store)" in text
        assert f"test_races.py:{load.__code__.co_firstlineno + 1} (load)" in text


def test_a_data_race_is_found_in_every_trace_of_the_program() -> None:
    """Which of the two accesses comes first in an execution says nothing about their order."""
    seen: set[str] = set()
    explore(plain_cell(store, load), stop_at_first=False, on_execution=lambda done: seen.add(done.verdict.id))
    assert seen == {"DataRace"}


def test_a_data_race_can_be_replayed_and_pasted() -> None:
    program = plain_cell(publish_too_early, consume)
    report = explore(program)
    trace = report.counterexample
    assert trace is not None
    assert replay(trace, program).verdict == trace.verdict
    assert replay(str(trace.schedule), program).verdict == trace.verdict
    assert replay(str(trace.schedule), program, detect=()).verdict.holds


def test_the_order_is_transitive() -> None:
    def program() -> Sequence[Thread]:
        x, first, second = Cell(0, "x", plain=True), Cell(0, "first"), Cell(0, "second")

        def one() -> None:
            x.store(1)
            first.store(1)

        def two() -> None:
            if first.load():
                second.store(1)

        def three() -> None:
            if second.load():
                x.store(3)

        return [one, two, three]

    assert explore(program).holds


def test_references_order_who_frees() -> None:
    """Who drops the last reference comes after who has dropped the others."""

    def program() -> Sequence[Thread]:
        machine = Machine(1, parts=TRACED)
        folio = folio_of(machine)
        folio.get()
        x = Cell(0, "x", plain=True)

        def user(number: int) -> Thread:
            def run() -> None:
                if number:
                    x.store(1)
                folio.put()
                if folio.free:
                    x.store(number)

            return run

        return [user(1), user(0)]

    assert explore(program).holds


def test_a_cell_that_a_cpu_makes() -> None:
    def program() -> Sequence[Thread]:
        box: Cell[Any] = Cell(None, "box")

        def maker() -> None:
            made = Cell(0, "made", plain=True)
            box.store(made)
            made.store(1)

        def user() -> None:
            made = box.load()
            if made is not None:
                made.load()

        return [maker, user]

    assert "accesses to made: " in finding(explore(program), "DataRace")


def test_data_races_are_not_looked_for_if_not_wanted_or_without_a_history() -> None:
    program = plain_cell(store, load)
    for arguments in ({"detect": ()}, {"engine": "states"}, {"memory": "tso"}):
        report = explore(program, **arguments)  # type: ignore[arg-type]
        assert report.holds
        assert report.detect == ()


def accounting(field: str, change: str, locked: bool) -> Program:
    """Two CPUs that change or read a field of a shmem inode or its mapping."""

    def program() -> Sequence[Thread]:
        machine, _ = cached()
        inode = machine.files["file"].inode
        owner: Any = inode.i_mapping if field == "nrpages" else inode
        lock = inode.i_mapping.i_pages.xa_lock if field == "nrpages" else inode.lock  # type: ignore[attr-defined]

        def write() -> None:
            with lock:
                setattr(owner, field, getattr(owner, field) + 1)

        def other() -> None:
            if locked:
                lock.acquire()
            value = getattr(owner, field)
            if change == "write":
                setattr(owner, field, value + 1)
            if locked:
                lock.release()

        return [write, other]

    return program


@pytest.mark.parametrize(
    ("field", "change", "locked", "races"),
    [
        ("nrpages", "read", False, False),  # READ_ONCE(inode->i_mapping->nrpages), mm/shmem.c
        ("nrpages", "write", False, True),
        ("nrpages", "write", True, False),
        ("alloced", "read", False, True),
        ("alloced", "read", True, False),
        ("swapped", "read", False, False),  # READ_ONCE(info->swapped), mm/shmem.c
        ("swapped", "write", False, True),
        ("i_size", "read", False, False),  # smp_load_acquire(), include/linux/fs.h
    ],
)
def test_fields_of_the_kernel_are_declared_as_it_accesses_them(
    field: str, change: str, locked: bool, races: bool
) -> None:
    report = explore(accounting(field, change, locked))
    if races:
        assert f".{field}: " in finding(report, "DataRace")
    else:
        assert report.holds, str(report)


@pytest.mark.parametrize("strategy", ["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"])
@pytest.mark.parametrize("name", ["write", "punch", "swap-out", "fault", "file-read"])
def test_the_strategies_have_none(name: str, strategy: str) -> None:
    report = explore(get_scenario(name), strategy, max_executions=200)
    assert report.detect == ("data-race",)
    assert report.holds, str(report)


# Lost updates ----------------------------------------------------------------------------------------------


def incremented(lock: bool = False, atomic: bool = False) -> Program:
    def program() -> Sequence[Thread]:
        x, mutex = Cell(0, "x"), Mutex("mutex")

        def increment() -> None:
            if atomic:
                x.fetch_add(1)
                return
            if lock:
                mutex.acquire()
            x.store(x.load() + 1)
            if lock:
                mutex.release()

        return [increment, increment]

    return program


def test_a_lost_update() -> None:
    report = explore(incremented(), detect={"lost-update"})
    text = finding(report, "LostUpdate")
    line = f"test_races.py:{incremented.__code__.co_firstlineno + 10} (incremented."
    assert text.count(line) == 3
    for part in ("an update of x is lost: CPU ", " loads it at ", " changes it at ", " stores over that at "):
        assert part in text
    trace = report.counterexample
    assert trace is not None
    assert replay(trace, incremented()).verdict == trace.verdict
    assert ', name, detect={"lost-update"})' in report.as_test("module:name")


@pytest.mark.parametrize("how", [{"lock": True}, {"atomic": True}])
def test_no_update_is_lost(how: dict[str, bool]) -> None:
    assert explore(incremented(**how), detect={"lost-update"}).holds


def test_lost_updates_are_only_looked_for_if_wanted() -> None:
    report = explore(inc(3))
    assert (report.executions, report.holds) == (36, True)
    report = explore(inc(3), detect={"data-race", "lost-update"}, stop_at_first=False)
    assert (report.executions, report.detect) == (36, ("data-race", "lost-update"))
    assert report.findings == 30  # all but the six orders in which they come one after the other


def test_looking_again_and_storing_unseen_lose_nothing() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0, "x")

        def looks_again() -> None:
            x.load()
            while not x.compare_exchange(x.load(), 5):
                pass
            x.load()
            x.load()
            x.store(7)

        return [looks_again, x.load, lambda: x.store(1)]

    report = explore(program, detect={"lost-update"}, stop_at_first=False)
    assert 0 < report.findings < report.executions


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"detect": {"races"}}, "detect='races' is unknown: choose from data-race, lost-update"),
        ({"detect": "data-race", "engine": "states"}, "engine='states' cannot look for data-race: leave one"),
        ({"detect": {"lost-update"}, "memory": "tso"}, "memory='tso' cannot look for lost-update: leave one"),
    ],
)
def test_detectors_that_do_not_fit(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        explore(incremented(), **arguments)


def test_a_resumed_search_looks_for_the_same() -> None:
    part = explore(inc(3), detect={"lost-update"}, max_executions=1)
    assert part.frontier is not None
    whole = explore(inc(3), detect={"lost-update"})
    assert explore(inc(3), resume=part.frontier).counterexample == whole.counterexample
    with pytest.raises(UsageError, match=r"one of detect .'lost-update'., not .'data-race'."):
        explore(inc(3), resume=part.frontier, detect={"data-race"})


def races_of_two() -> Sequence[Thread]:
    return plain_cell(publish_too_early, consume)()


def test_detectors_travel_with_the_work() -> None:
    with ProcessPoolExecutor(2) as executor:
        report = explore(races_of_two, executor=executor)
        assert report.counterexample == explore(races_of_two).counterexample
        assert explore(races_of_two, executor=executor, detect=()).holds


@pytest.mark.parametrize("strategy", ["freeze-and-replace", "upstream-6.12"])
@pytest.mark.parametrize("name", ["write-hole", "punch-all", "swap-out", "file-open"])
def test_the_counters_of_the_kernel_lose_no_update(name: str, strategy: str) -> None:
    report = explore(get_scenario(name), strategy, max_executions=100, detect={"lost-update"})
    assert report.holds, str(report)


def test_a_counter_of_the_kernel_without_its_lock() -> None:
    report = explore(accounting("nrpages", "write", False), detect={"lost-update"})
    assert "an update of mapping.nrpages is lost: CPU " in finding(report, "LostUpdate")


# Against brute force -----------------------------------------------------------------------------------------

KINDS = ("load", "store", "locked load", "locked store", "publish", "consume", "count", "claim", "wait")


def generate(seed: int) -> Program:
    """Return a program of two or three threads, the same whenever the seed is."""
    drawn = random.Random(seed)
    count = drawn.choice((2, 2, 3))
    threads = [
        [(drawn.choice(KINDS), drawn.randrange(2)) for _ in range(drawn.randint(1, 3 if count == 2 else 2))]
        for _ in range(count)
    ]

    def program() -> Sequence[Thread]:
        plain = [Cell(0, name, plain=True) for name in "xy"]
        flag, lock = Cell(0, "flag"), Mutex("lock")

        def perform(kind: str, at: int) -> None:
            x = plain[at]
            match kind:
                case "load":
                    x.load()
                case "store":
                    x.store(1)
                case "locked load":
                    with lock:
                        x.load()
                case "locked store":
                    with lock:
                        x.store(2)
                case "publish":
                    x.store(3)
                    flag.store(1)
                case "consume":
                    if flag.load():
                        x.load()
                case "count":
                    if flag.fetch_add(1) == 1:
                        x.store(4)
                case "claim":
                    if flag.compare_exchange(1, 2):
                        x.store(5)
                case "wait":
                    with lock:
                        ready = flag.load()
                    if ready:
                        x.store(6)

        def thread(steps: list[tuple[str, int]]) -> Thread:
            return lambda: [perform(kind, at) for kind, at in steps]

        return [thread(steps) for steps in threads]

    return program


class Looking(Enumeration):
    """Every schedule; in each state, look at what the CPUs are about to do."""

    def __init__(self) -> None:
        super().__init__()
        self.racy = False
        self.looked_at: Any = None

    def choose(self, run: Run) -> int:
        about = [cpu for cpu in run.cpus if run.unfinished & cpu.bit and cpu.location.access == PLAIN]
        self.racy = self.racy or any(map(self._race, about, about[1:])) or (len(about) > 2 and self._race(*about[::2]))
        return super().choose(run)

    @staticmethod
    def _race(one: ExploredCpu, other: ExploredCpu) -> bool:
        return one.location is other.location and not one.mode == other.mode == READ


def brute_force(program: Program) -> bool:
    """Tell whether a program has a data race."""
    search = Looking()
    build = builder(program, None, "sc", frozenset())
    try:
        while True:
            run = Run(search, max_steps=1000)
            run.go(build)
            if search.racy or not search.finish(run):
                return search.racy
    finally:
        forget_last_execution()


@pytest.mark.parametrize("engine", ["optimal", "source"])
def test_random_programs(engine: str) -> None:
    racy = 0
    for seed in range(400):
        program = generate(seed)
        expected = brute_force(program)
        report = explore(program, engine=engine, shrink_counterexample=False)
        assert report.holds is not expected, f"seed {seed}: {report}"
        if report.counterexample is not None:
            assert report.counterexample.verdict.id == "DataRace", f"seed {seed}"
        racy += expected
    assert 100 < racy < 300
