# SPDX-License-Identifier: GPL-2.0-only
"""Weak memory models: the litmus tests with their known verdicts, and the outcomes of brute force."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from mmref.errors import UsageError
from mmref.explore import Cell, Completed, Mutex, Trace, explore, replay
from mmref.explore.enumeration import Enumeration
from mmref.explore.program import builder
from mmref.explore.scheduler import Run
from mmref.sync import cpu_relax, smp_mb, smp_wmb

from .random_programs import Sem

Thread = Callable[[], object]
Code = list[tuple[Any, ...]]

DPOR = ["source", "optimal"]


def program_of(threads: list[Code], cells: list[Cell[Any]] | None = None) -> Callable[[], Sequence[Thread]]:
    """Return a program of loads, stores, fences, atomic additions and locked sections; a thread returns what it read.

    Args:
        threads: lists of operations; a cell is named by a letter.
        cells: gets the cells of each execution.
    """
    names = sorted({op[1] for code in threads for op in code if len(op) > 1})

    def program() -> Sequence[Thread]:
        x = {name: Cell(0, name) for name in names}
        lock = Mutex("lock")
        if cells is not None:
            cells[:] = x.values()

        def thread(code: Code) -> Thread:
            def run() -> list[int]:
                seen: list[int] = []
                for op in code:
                    match op:
                        case ("load", name):
                            seen.append(x[name].load())
                        case ("store", name, value):
                            x[name].store(value)
                        case ("add", name):
                            seen.append(x[name].fetch_add(1))
                        case ("cas", name, old, new):
                            seen.append(x[name].compare_exchange(old, new))
                        case ("mb",):
                            smp_mb()
                        case ("wmb",):
                            smp_wmb()
                        case ("lock",):
                            lock.acquire()
                        case ("unlock",):
                            lock.release()
                return seen

            return run

        return [thread(code) for code in threads]

    return program


def outcomes(threads: list[Code], memory: str, engine: str) -> set[Any]:
    """Return what the threads can read, with what is in memory at the end."""
    seen: set[Any] = set()
    cells: list[Cell[Any]] = []

    def note(done: Completed) -> None:
        read = tuple(None if one is None else tuple(one) for one in done.results)  # type: ignore[arg-type]
        seen.add((read, tuple(cell.peek() for cell in cells), done.verdict.kind))

    report = explore(
        program_of(threads, cells), memory=memory, engine=engine, stop_at_first=False, on_execution=note,
        shrink_counterexample=False,
    )  # fmt: skip
    assert report.exhaustive
    if engine == "optimal":
        assert not report.blocked
    return seen


SB = [[("store", "x", 1), ("load", "y")], [("store", "y", 1), ("load", "x")]]
SB_FENCED = [[("store", "x", 1), ("mb",), ("load", "y")], [("store", "y", 1), ("mb",), ("load", "x")]]
SB_ONE_FENCE = [[("store", "x", 1), ("mb",), ("load", "y")], [("store", "y", 1), ("load", "x")]]
SB_ATOMIC = [[("add", "x"), ("load", "y")], [("add", "y"), ("load", "x")]]
MP = [[("store", "x", 1), ("store", "y", 1)], [("load", "y"), ("load", "x")]]
MP_FENCED = [[("store", "x", 1), ("mb",), ("store", "y", 1)], [("load", "y"), ("load", "x")]]
MP_RELEASE = [[("store", "x", 1), ("lock",), ("unlock",), ("store", "y", 1)], [("load", "y"), ("load", "x")]]
LB = [[("load", "x"), ("store", "y", 1)], [("load", "y"), ("store", "x", 1)]]
TWO_PLUS_TWO = [[("store", "x", 1), ("store", "y", 2)], [("store", "y", 1), ("store", "x", 2)]]
TWO_PLUS_TWO_FENCED = [
    [("store", "x", 1), ("mb",), ("store", "y", 2)], [("store", "y", 1), ("mb",), ("store", "x", 2)],
]  # fmt: skip
IRIW = [
    [("store", "x", 1)], [("store", "y", 1)], [("load", "x"), ("load", "y")], [("load", "y"), ("load", "x")],
]  # fmt: skip
R = [[("store", "x", 1), ("store", "y", 1)], [("store", "y", 2), ("load", "x")]]
S = [[("store", "x", 2), ("store", "y", 1)], [("load", "y"), ("store", "x", 1)]]
N6 = [[("store", "x", 1), ("load", "x"), ("load", "y")], [("store", "y", 2), ("store", "x", 2)]]
CO = [[("store", "x", 1), ("store", "x", 2)], [("load", "x"), ("load", "x")]]
FORWARD = [
    [("store", "x", 1), ("load", "x"), ("load", "y")], [("store", "y", 1), ("load", "y"), ("load", "x")],
]  # fmt: skip

Reads = tuple[tuple[int, ...], ...]

# name: program, what the threads would have to read, what would have to be in memory, the models that allow it
LITMUS: dict[str, tuple[list[Code], Reads | None, tuple[int, ...] | None, set[str]]] = {
    "SB": (SB, ((0,), (0,)), None, {"tso", "pso"}),
    "SB+mbs": (SB_FENCED, ((0,), (0,)), None, set()),
    "SB+mb+po": (SB_ONE_FENCE, ((0,), (0,)), None, {"tso", "pso"}),
    "SB+rmws": (SB_ATOMIC, ((0, 0), (0, 0)), None, set()),
    "MP": (MP, ((), (1, 0)), None, {"pso"}),
    "MP+mb": (MP_FENCED, ((), (1, 0)), None, set()),
    "MP+lock": (MP_RELEASE, ((), (1, 0)), None, set()),
    "LB": (LB, ((1,), (1,)), None, set()),
    "2+2W": (TWO_PLUS_TWO, None, (1, 1), {"pso"}),
    "2+2W+mbs": (TWO_PLUS_TWO_FENCED, None, (1, 1), set()),
    "IRIW": (IRIW, ((), (), (1, 0), (1, 0)), None, set()),
    "R": (R, ((), (0,)), (1, 2), {"tso", "pso"}),
    "S": (S, ((), (1,)), (2, 1), {"pso"}),
    "n6 (Owens, Sarkar, Sewell 2009)": (N6, ((1, 0), ()), (1, 2), {"tso", "pso"}),
    "CoRR": (CO, ((), (2, 1)), None, set()),
    "SB+rfi": (FORWARD, ((1, 0), (1, 0)), None, {"tso", "pso"}),
}


@pytest.mark.parametrize("memory", ["sc", "tso", "pso"])
@pytest.mark.parametrize("engine", DPOR)
@pytest.mark.parametrize("name", LITMUS)
def test_litmus(name: str, engine: str, memory: str) -> None:
    threads, reads, final, allowed = LITMUS[name]
    found = outcomes(threads, memory, engine)
    seen = any((reads is None or one == reads) and (final is None or other == final) for one, other, _ in found)
    assert seen == (memory in allowed)


def generate(seed: int) -> list[Code]:
    rng = random.Random(seed)
    count = rng.choice((2, 2, 3))

    def op() -> tuple[Any, ...]:
        name = rng.choice("xy")
        kind = rng.choice(("load",) * 6 + ("store",) * 6 + ("add", "cas", "mb"))
        match kind:
            case "store":
                return (kind, name, rng.randrange(1, 4))
            case "cas":
                return (kind, name, rng.randrange(2), 5)
            case "mb":
                return (kind,)
        return (kind, name)

    def code() -> Code:
        ops = [op() for _ in range(rng.choice((3, 4)) if count == 2 else 2)]
        if rng.random() < 0.15:
            at = rng.randrange(len(ops))
            ops[at : at + 1] = [("lock",), ops[at], ("unlock",)]
        return ops

    return [code() for _ in range(count)]


@pytest.mark.parametrize("memory", ["tso", "pso"])
@pytest.mark.parametrize("engine", DPOR)
def test_random_programs_have_the_outcomes_of_brute_force(engine: str, memory: str) -> None:
    weaker = 0
    for seed in range(250):
        threads = generate(seed)
        expected = outcomes(threads, memory, "enumerate")
        assert outcomes(threads, memory, engine) == expected, f"seed {seed}: {threads}"
        strong = outcomes(threads, "sc", "optimal")
        assert strong <= expected
        weaker += strong != expected
    assert weaker > 10


@pytest.mark.parametrize("memory", ["tso", "pso"])
def test_a_deadlock_in_weak_memory_is_found_by_all(memory: str) -> None:
    threads: list[Code] = [
        [("store", "x", 1), ("lock",), ("load", "y")],
        [("store", "y", 1), ("lock",), ("load", "x"), ("unlock",)],
    ]
    expected = outcomes(threads, memory, "enumerate")
    assert {kind for _, _, kind in expected} == {"holds", "deadlock"}
    for engine in DPOR:
        assert outcomes(threads, memory, engine) == expected


# What a user sees


def peterson(fences: int) -> Callable[[], Sequence[Thread]]:
    """Peterson's mutual exclusion. It needs a fence before it looks at the other's flag, and before that another one
    where stores to different cells may change places.
    """

    def program() -> Sequence[Thread]:
        flags = [Cell(0, "flag 0"), Cell(0, "flag 1")]
        turn, inside = Cell(0, "turn"), Cell(0, "inside")

        def thread(me: int) -> Thread:
            def run() -> None:
                other = 1 - me
                flags[me].store(1)
                if fences == 2:
                    smp_mb()
                turn.store(other)
                if fences:
                    smp_mb()
                while flags[other].load() and turn.load() == other:
                    cpu_relax()
                assert inside.fetch_add(1) == 0, "both are inside"
                inside.fetch_add(-1)
                flags[me].store(0)

            return run

        return [thread(0), thread(1)]

    return program


def test_peterson_needs_fences() -> None:
    enough = {"sc": 0, "tso": 1, "pso": 2}
    for memory, needed in enough.items():
        for fences in range(3):
            report = explore(peterson(fences), memory=memory)
            assert report.holds == (fences >= needed)
            assert report.exhaustive == report.holds


def test_a_counterexample_in_weak_memory_is_like_any_other() -> None:
    for memory in ("tso", "pso"):
        report = explore(peterson(0), memory=memory)
        trace = report.counterexample
        assert trace is not None
        assert trace.verdict.detail == "both are inside"
        assert str(trace.schedule).startswith(f"v1-{memory}:")
        assert replay(str(trace.schedule), peterson(0)) == trace
        assert Trace.from_json(trace.to_json()) == trace
        assert trace.cpus[:2] == ("CPU 0", "CPU 1")


def store_buffering() -> Sequence[Thread]:
    x, y = Cell(0, "x"), Cell(0, "y")
    seen: list[int] = []

    def thread(mine: Cell[int], other: Cell[int]) -> Thread:
        def run() -> None:
            mine.store(1)
            seen.append(other.load())
            assert seen != [0, 0], "neither sees the other's store"

        return run

    return [thread(x, y), thread(y, x)]


@pytest.mark.parametrize("engine", [*DPOR, "random", "pct", "enumerate"])
def test_all_engines_for_weak_memory_find_store_buffering(engine: str) -> None:
    assert explore(store_buffering, engine=engine, max_executions=300).holds
    for memory in ("tso", "pso"):
        assert not explore(store_buffering, engine=engine, max_executions=300, memory=memory).holds


def test_a_program_that_has_fewer_buffers_the_next_time_is_not_deterministic() -> None:
    executions: list[int] = []

    def program() -> Sequence[Thread]:
        executions.append(0)
        cells = [Cell(0, f"cell {number}") for number in range(9)]
        stored = cells if len(executions) % 2 else cells[:2]
        return [lambda: [cell.store(1) for cell in stored], lambda: [cell.load() for cell in cells[::-1]]]

    with pytest.raises(UsageError, match="not deterministic"):
        explore(program, memory="pso", stop_at_first=False)


def test_a_store_that_came_too_late_explains_store_buffering() -> None:
    trace = explore(store_buffering, memory="tso").counterexample
    assert trace is not None
    assert trace.pair is not None
    first, second = trace.pair.first, trace.pair.second
    assert (first.label, second.label, first.location) == ("load", "store", second.location)
    assert trace.cpus[second.cpu] == f"CPU {1 - first.cpu}'s stores"
    assert "test_memory_models.py:" in second.where
    assert replay(trace.pair.schedule, store_buffering).verdict.holds


def test_weak_memory_in_parts_and_with_workers() -> None:
    whole = explore(store_buffering, memory="pso", stop_at_first=False)
    with ProcessPoolExecutor(2) as executor:
        shared = explore(store_buffering, memory="pso", stop_at_first=False, executor=executor)
    part = explore(store_buffering, memory="pso", stop_at_first=False, max_executions=2)
    with pytest.raises(UsageError, match="one of memory model 'pso', not 'sc'"):
        explore(store_buffering, stop_at_first=False, resume=part.frontier)
    resumed = explore(store_buffering, memory="pso", stop_at_first=False, resume=part.frontier)
    for report in (shared, resumed):
        assert (report.executions, report.findings, report.counterexample) == (
            whole.executions, whole.findings, whole.counterexample,
        )  # fmt: skip


def test_what_weak_memory_is_not_for() -> None:
    with pytest.raises(UsageError, match="memory='arm' is unknown: choose one of sc, tso, pso"):
        explore(store_buffering, memory="arm")
    for engine in ("states", "bounded"):
        with pytest.raises(UsageError, match=f"engine '{engine}' does not know memory='tso'"):
            explore(store_buffering, memory="tso", engine=engine)


@pytest.mark.parametrize("memory", ["tso", "pso"])
def test_what_else_a_program_shares_is_performed_at_once_and_orders_everything(memory: str) -> None:
    def program(fenced: bool) -> Callable[[], Sequence[Thread]]:
        def build() -> Sequence[Thread]:
            sem, x, y = Sem("sem"), Cell(0, "x"), Cell(0, "y")
            seen: list[int] = []

            def thread(mine: Cell[int], other: Cell[int]) -> Thread:
                def run() -> None:
                    mine.store(1)
                    if fenced:
                        sem.down_read()
                    seen.append(other.load())
                    assert seen != [0, 0]

                return run

            return [thread(x, y), thread(y, x)]

        return build

    assert not explore(program(False), memory=memory).holds
    assert explore(program(True), memory=memory).exhaustive


@pytest.mark.parametrize("memory", ["tso", "pso"])
def test_stores_to_many_cells(memory: str) -> None:
    def program() -> Sequence[Thread]:
        cells = [Cell(0) for _ in range(300)]
        return [lambda: [cell.store(1) for cell in cells], cells[0].load, cells[299].load]

    report = explore(program, memory=memory, stop_at_first=False)
    assert (report.executions, report.blocked, report.exhaustive) == (4, 0, True)


@pytest.mark.parametrize("memory", ["tso", "pso"])
def test_one_execution_per_trace(memory: str) -> None:
    for seed in range(60):
        program = program_of(generate(seed))
        oracle = Enumeration()
        build = builder(program, None, memory)
        while True:
            run = Run(oracle, max_steps=1000)
            run.go(build)
            if not oracle.finish(run):
                break
        report = explore(program, memory=memory, stop_at_first=False)
        assert (report.executions, report.blocked) == (len(oracle.traces), 0), f"seed {seed}"


@pytest.mark.parametrize("memory", ["tso", "pso"])
def test_a_cpu_sees_its_own_stores_without_more_executions(memory: str) -> None:
    def program() -> Sequence[Thread]:
        x, y = Cell(0, "x"), Cell(0, "y")

        def run() -> None:
            for value in range(1, 6):
                x.store(value)
                assert x.load() == value
                assert y.load() == 0

        return [run, lambda: None]

    assert explore(program, memory=memory, stop_at_first=False).executions == 1


def test_a_write_barrier_orders_stores_and_nothing_else() -> None:
    def program(threads: list[Code]) -> bool:
        """Tell whether the second thread of message passing, or both of store buffering, read what is old."""
        found = outcomes(threads, "pso", "optimal")
        return any(one in {((), (1, 0)), ((0,), (0,))} for one, _, _ in found)

    message = [[("store", "x", 1), ("wmb",), ("store", "y", 1)], [("load", "y"), ("load", "x")]]
    buffering: list[Code] = [[("store", x, 1), ("wmb",), ("load", y)] for x, y in ("xy", "yx")]
    assert not program(message)
    assert program([[op for op in code if op != ("wmb",)] for code in message])
    assert program(buffering)


def test_a_schedule_that_lets_a_cpu_pass_its_fence_too_early_does_not_fit() -> None:
    program = program_of([[("store", "x", 1), ("mb",), ("load", "y")], [("store", "y", 1)]])
    assert replay("v1-tso:2,0x2,3", program).verdict.holds
    with pytest.raises(UsageError, match="step 0 is for CPU 0, which then waits for earlier stores to become visible"):
        replay("v1-tso:0x2,2,3", program)


def test_a_long_row_of_stores() -> None:
    def program() -> Sequence[Thread]:
        x, y = Cell(0, "x"), Cell(0, "y")

        def run() -> None:
            for value in range(3000):
                x.store(value)
            smp_mb()
            assert x.load() == 2999

        return [run, lambda: y.store(1)]

    assert explore(program, memory="tso").executions == 1
