# SPDX-License-Identifier: GPL-2.0-only
"""Data races by happens-before clocks against data races by brute force.

A program has a data race if and only if some schedule of it comes to a state in which two CPUs are about to access one
plain location, one of them to write (Boehm and Adve, Foundations of the C++ concurrency memory model, 2008). So every
schedule of random small programs is run, and in each state what the CPUs are about to do is looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mmref.explore import Cell, Mutex, explore
from mmref.explore.enumeration import Enumeration
from mmref.explore.locations import PLAIN, READ
from mmref.explore.program import builder
from mmref.explore.scheduler import ExploredCpu, Run
from mmref.explore.work import forget_last_execution

Thread = Callable[[], object]
Program = Callable[[], Sequence[Thread]]

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
