# SPDX-License-Identifier: GPL-2.0-only
"""Random small programs, as data: what failed can be printed and pasted.

An operation is a tuple; `cell`, `lock`, `sem` and `count` are numbers of shared objects. A thread has one
register, `r`, which starts at its own number plus one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from mmref.explore import Cell, Mutex, explore
from mmref.explore.enumeration import Enumeration
from mmref.explore.explorer import Engine
from mmref.explore.locations import DEC, INC, LOCK, SHARE, TRYINC, UNLOCK, UNSHARE, Location, point, point_all
from mmref.explore.scheduler import BLOCKED, Run
from mmref.sync import cpu_relax

Op = tuple[Any, ...]
ThreadCode = list[Op]


class Count(Location):
    """A reference count whose users keep the rules: who increments or decrements it holds a reference."""

    __slots__ = ("value",)

    def __init__(self, value: int, name: str) -> None:
        super().__init__(name)
        self.value = value

    def get(self) -> None:
        point(self, INC, "get")
        self.value += 1

    def try_get(self) -> bool:
        point(self, TRYINC, "try_get", lambda: self.value > 0)
        if self.value > 0:
            self.value += 1
            return True
        return False

    def put(self) -> bool:
        point(self, DEC, "put")
        self.value -= 1
        return self.value == 0


class Sem(Location):
    """A read-write lock."""

    __slots__ = ("readers", "writer")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.readers = 0
        self.writer = False

    def down_read(self) -> None:
        point(self, SHARE, "down_read", enabled=lambda: not self.writer)
        self.readers += 1

    def up_read(self) -> None:
        point(self, UNSHARE, "up_read")
        self.readers -= 1

    def down_write(self) -> None:
        point(self, LOCK, "down_write", enabled=lambda: not self.writer and not self.readers)
        self.writer = True

    def up_write(self) -> None:
        point(self, UNLOCK, "up_write")
        self.writer = False


class World:
    """The shared objects of one execution, and the interpreter of its threads."""

    def __init__(self, threads: list[ThreadCode]) -> None:
        self.cells = [Cell(0, f"cell {i}") for i in range(3)]
        self.locks = [Mutex(f"lock {i}") for i in range(2)]
        self.sem = Sem("sem")
        holders = sum(any(op[0] in {"get", "put"} for op in code) for code in threads)
        self.count = Count(holders, "count")

    def thread(self, number: int, code: ThreadCode) -> Callable[[], list[int]]:
        def run() -> list[int]:
            seen: list[int] = []
            self.block(code, [number + 1], seen)
            return seen

        return run

    def block(self, code: ThreadCode, register: list[int], seen: list[int]) -> None:
        cells = self.cells
        for op in code:
            match op:
                case ("load", cell):
                    register[0] = cells[cell].load()
                    seen.append(register[0])
                case ("store", cell, value):
                    cells[cell].store(value)
                case ("put_register", cell):
                    cells[cell].store(register[0] + 1)
                case ("add", cell):
                    seen.append(cells[cell].fetch_add(1))
                case ("cas", cell, old, new):
                    seen.append(cells[cell].compare_exchange(old, new))
                case ("swap", one, other):
                    first, second = cells[one], cells[other]
                    point_all([(first, 3), (second, 3)], "swap")
                    first._value, second._value = second._value, first._value
                case ("lock", lock, inner):
                    with self.locks[lock]:
                        self.block(inner, register, seen)
                case ("keep", lock):
                    self.locks[lock].acquire()
                case ("trylock", lock, inner):
                    if self.locks[lock].try_acquire():
                        seen.append(-1)
                        self.block(inner, register, seen)
                        self.locks[lock].release()
                case ("read_lock", inner):
                    self.sem.down_read()
                    self.block(inner, register, seen)
                    self.sem.up_read()
                case ("write_lock", inner):
                    self.sem.down_write()
                    self.block(inner, register, seen)
                    self.sem.up_write()
                case ("get",):
                    self.count.get()
                case ("try_get",):
                    if self.count.try_get():
                        seen.append(-2)
                        seen.append(self.count.put())
                case ("put",):
                    seen.append(self.count.put())
                case ("wait", cell):
                    while not cells[cell].load():
                        cpu_relax()
                case ("wait_either", one, other):
                    while not cells[one].load() and not cells[other].load():
                        cpu_relax()
                case ("wait_cas", cell, new):
                    while not cells[cell].compare_exchange(0, new):
                        cpu_relax()
                case ("wait_trylock", lock):
                    while not self.locks[lock].try_acquire():
                        cpu_relax()
                    self.locks[lock].release()
                case ("if_zero", cell, inner):
                    if not cells[cell].load():
                        self.block(inner, register, seen)
                case _:
                    raise AssertionError(f"unknown operation {op}")

    def final(self) -> tuple[object, ...]:
        return (*(cell.peek() for cell in self.cells), self.count.value)


def generate(seed: int, *, locks: bool, waits: bool = False) -> list[ThreadCode]:
    """Make a random program of two to four threads, small enough for brute force."""
    rng = random.Random(seed)
    count = rng.choice((2, 2, 2, 3, 3, 3, 4))
    length = {2: rng.choice((3, 4, 5)), 3: rng.choice((2, 3, 3)), 4: 2}[count]

    def leaf() -> Op:
        cell = rng.randrange(3 if rng.random() < 0.2 else 2)
        kinds = ["load", "load", "store", "put_register", "add", "cas", "cas", "try_get", "get"]
        kind = rng.choice(kinds)
        if kind == "store":
            return (kind, cell, rng.randrange(3))
        if kind == "cas":
            return (kind, cell, rng.randrange(2), rng.randrange(3))
        if kind in {"get", "try_get"}:
            return (kind,)
        return (kind, cell)

    def code(room: int) -> ThreadCode:
        ops: ThreadCode = []
        while room > 0:
            dice = rng.random()
            if locks and room >= 2 and dice < 0.6:
                inner = code(rng.randrange(0, room - 1))
                kind = rng.choice(("lock", "lock", "lock", "trylock", "read_lock", "write_lock"))
                ops.append((kind, rng.randrange(2), inner) if "_" not in kind else (kind, inner))
                room -= 2 + len(inner)
            elif locks and dice < 0.65:
                ops.append(("keep", rng.randrange(2)))
                room -= 1
            elif waits and dice < 0.85 and dice > 0.6:
                cell = rng.randrange(2)
                ops.append(
                    rng.choice((("wait", cell), ("wait_either", 0, 1), ("wait_cas", cell, rng.randrange(2)),
                                ("wait_trylock", cell)))
                )  # fmt: skip
                room -= 2
            elif dice > 0.97 and room >= 2:
                ops.append(("if_zero", rng.randrange(2), code(1)))
                room -= 2
            elif dice > 0.93:
                ops.append(("swap", 0, 1))
                room -= 1
            else:
                ops.append(leaf())
                room -= 2 if ops[-1][0] == "try_get" else 1
        return ops

    while True:
        threads = [code(length) for _ in range(count)]
        for ops in threads:
            if any(op[0] == "get" for op in flat(ops)):
                ops.append(("put",))
        if schedules(threads) <= 2_600:
            return threads


def schedules(threads: list[ThreadCode]) -> int:
    """Estimate the number of schedules: the interleavings of the threads' events."""
    events = [sum(_EVENTS.get(op[0], 1) for op in flat(ops)) for ops in threads]
    count = math.factorial(sum(events))
    for number in events:
        count //= math.factorial(number)
    return count


_EVENTS = {"lock": 2, "trylock": 2, "read_lock": 2, "write_lock": 2, "try_get": 2, "wait": 2, "wait_either": 3,
           "wait_cas": 2, "wait_trylock": 3}  # fmt: skip


def flat(ops: ThreadCode) -> list[Op]:
    found: list[Op] = []
    for op in ops:
        found.append(op)
        if isinstance(op[-1], list):
            found.extend(flat(op[-1]))
    return found


class Outcomes:
    """Explore a random program, and collect what it can end with."""

    def __init__(self, threads: list[ThreadCode]) -> None:
        self.threads = threads
        self.world: World | None = None
        self.seen: set[tuple[object, ...]] = set()

    def program(self) -> list[Callable[[], object]]:
        # A `put` after a nested `get` needs the reference from the start, as `World` counts them.
        self.world = World([flat(code) for code in self.threads])
        return [self.world.thread(number, code) for number, code in enumerate(self.threads)]

    def note(self, run: Run) -> None:
        assert self.world is not None
        finding = type(run.finding).__name__ if run.finding else ""
        results = tuple(None if cpu.result is None else tuple(cpu.result) for cpu in run.cpus)
        self.seen.add((finding, results, self.world.final()))


def outcomes(threads: list[ThreadCode], engine: Engine, limit: int = 200_000) -> tuple[int, int, set[Any]]:
    """Return (complete executions, blocked ones, outcomes) of a search."""
    from mmref.explore.program import builder

    collected = Outcomes(threads)
    build = builder(collected.program, None)
    complete = blocked = 0
    more = True
    while more:
        run = Run(engine, max_steps=1000, stop_at_finding=False)
        run.go(build)
        if run.end == BLOCKED:
            blocked += 1
        else:
            complete += 1
            collected.note(run)
        more = engine.finish(run)
        if complete + blocked > limit:
            raise AssertionError(f"more than {limit} executions of {threads}")
    return complete, blocked, collected.seen


def brute_force(threads: list[ThreadCode]) -> tuple[int, set[Any]]:
    """Return (Mazurkiewicz traces, outcomes)."""
    oracle = Enumeration()
    _, _, seen = outcomes(threads, oracle)
    return len(oracle.traces), seen


__all__ = ["brute_force", "explore", "generate", "outcomes"]
