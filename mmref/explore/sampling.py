# SPDX-License-Identifier: GPL-2.0-only
"""Schedules drawn at random, for what is too big to exhaust.

Each execution draws from a generator of its own, seeded with (seed, number of the execution), so that a run can be
repeated, cut short or split without changing what the others do.
"""

from __future__ import annotations

import random
from copy import copy
from typing import Self

from mmref.errors import UsageError
from mmref.explore.locations import Mode
from mmref.explore.scheduler import ExploredCpu, Run

__all__ = ["Pct", "RandomWalk"]


class RandomWalk:
    """The chooser that picks one of the enabled CPUs at every step, each with the same probability."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.replayed = 0
        self.number = 0
        self._random = self._generator()

    def _generator(self) -> random.Random:
        return random.Random(f"{self.seed}/{self.number}")

    def at(self, number: int) -> Self:
        """Return an engine that goes on with the execution of this number."""
        other = copy(self)
        other.number = number
        other._random = other._generator()
        return other

    def choose(self, run: Run) -> int:
        """Draw a CPU."""
        enabled = run.enabled()
        candidates = [cpu.id for cpu in run.cpus if enabled & cpu.bit]
        return candidates[self._random.randrange(len(candidates))] if candidates else -1

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Nothing to remember."""

    def finish(self, run: Run) -> bool:  # noqa: ARG002 (DPOR looks at the execution here)
        """Prepare the next execution; there always is one."""
        self.number += 1
        self._random = self._generator()
        return True

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored: nobody counts them."""
        return 0

    def done(self) -> float:
        """Return the part of the search that is done, as far as can be told: nobody counts what has been tried."""
        return 0.0

    def left_out(self) -> str:
        """Say why this is not everything."""
        return f"a random sample with seed {self.seed}"


class Pct(RandomWalk):
    """Probabilistic concurrency testing: random priorities, lowered at a few random steps.

    Burckhardt, Kothari, Musuvathi, Nagarakatte: A randomized scheduler with probabilistic guarantees of finding
    bugs (ASPLOS 2010). A bug that needs `depth` ordering constraints is found by one execution with a probability
    of at least 1 / (n * k ** (depth - 1)), for n CPUs and k steps; k is the length of the first execution.
    """

    name = "pct"

    def __init__(self, seed: int, depth: int) -> None:
        if depth < 1:
            raise UsageError(f"bound={depth} must be at least 1: it is the depth of the bugs that PCT looks for")
        super().__init__(seed)
        self.depth = depth
        self._length = 1  # k, as the first execution shows it
        self._priorities: list[int] = []  # of each CPU; the highest one runs
        self._changes: dict[int, int] = {}  # step -> the low priority that the running CPU gets there

    def choose(self, run: Run) -> int:
        """Return the enabled CPU with the highest priority."""
        if not run.steps:
            self._priorities = [self.depth + cpu.id for cpu in run.cpus]
            self._random.shuffle(self._priorities)
            steps = [self._random.randrange(self._length) for _ in range(self.depth - 1)]
            self._changes = {step: priority for priority, step in enumerate(steps, 1)}
        for _ in run.cpus[len(self._priorities) :]:  # store buffers come into use as they are needed
            self._priorities.append(self.depth + self._random.randrange(len(run.cpus)))
        enabled = run.enabled()
        if not enabled:
            return -1
        choice = self._first(run, enabled)
        lowered = self._changes.pop(run.steps, None)
        if lowered is not None:
            self._priorities[choice] = lowered
            choice = self._first(run, enabled)
        return choice

    def _first(self, run: Run, enabled: int) -> int:
        return max((cpu.id for cpu in run.cpus if enabled & cpu.bit), key=self._priorities.__getitem__)

    def finish(self, run: Run) -> bool:
        """Prepare the next execution; there always is one."""
        if not self.number:
            self._length = max(run.steps, 1)
        return super().finish(run)

    def left_out(self) -> str:
        """Say why this is not everything."""
        return f"a random sample with seed {self.seed}, for bugs of depth {self.depth}"
