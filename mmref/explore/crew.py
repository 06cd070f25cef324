# SPDX-License-Identifier: GPL-2.0-only
"""Share a search among the workers of an executor.

Each worker explores a unit for a moment (`work.do_piece`) and hands back what is left of it, so that there is always
something to divide. Which worker gets what, and when, has no influence on the outcome (`frontier.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

from mmref.explore.frontier import Outcome, Tree, Unit
from mmref.explore.work import Piece, do_piece, do_samples, take_back
from mmref.explore.workers import Workers

if TYPE_CHECKING:
    from mmref.explore.sampling import RandomWalk

__all__ = ["Crew", "Samples"]

_FIRST_SECONDS = 0.05
"""For how long a worker explores while there is too little to share out, in seconds of its own time."""
_SECONDS = 0.6
_SAMPLES = 100
"""How many random executions are done in one piece."""
_PATIENCE = 5.0
"""For how many seconds the work under way is waited for when the search is left."""


class Crew:
    """The workers, and what each of them has."""

    def __init__(self, workers: Workers, tree: Tree, max_executions: int | None) -> None:
        self._workers = workers
        self._tree = tree
        self._max_executions = max_executions
        self._running: dict[Future[Piece], tuple[Unit, int]] = {}

    def explore(self, enough: Callable[[], bool], settled: Callable[[], object]) -> None:
        """Explore until nothing is left, or it is enough.

        Args:
            enough: asked several times per second.
            settled: called when the search has come further.
        """
        tree = self._tree
        try:
            while tree.top is not None and not tree.outcome.stopped and not self._workers.lost and not enough():
                self._hand_out()
                if not self._running:
                    break
                ready, _ = wait(self._running, timeout=0.2, return_when=FIRST_COMPLETED)
                ready |= {future for future in self._running if future.cancelled()}  # wait() may not be told of it
                for future in ready:
                    self._take(future)
                settled()
        finally:
            self._leave()
            settled()

    def _hand_out(self) -> None:
        """Give each worker a unit, and one more for who is ready first."""
        tree = self._tree
        free = self._workers.count + 1 - len(self._running)
        if free <= 0:
            return
        idle = [unit for unit in tree.units() if unit.idle]
        while len(idle) < free and any(tree.split(unit) for unit in idle):
            idle = [unit for unit in tree.units() if unit.idle]
        seconds = _SECONDS if len(idle) + len(self._running) > self._workers.count else _FIRST_SECONDS
        for unit in idle[:free]:
            runs = self._allowance()
            if not runs:
                return
            states = unit.way() + unit.states
            future = self._workers.submit(do_piece, states, unit.root, seconds, runs)
            if future is None:
                return
            unit.running = True
            self._running[future] = unit, runs

    def _allowance(self) -> int:
        """Return how many executions the next worker may run, so that all together do not run too many."""
        if self._max_executions is None:
            return 1 << 60
        rest = self._max_executions - self._tree.known().runs - sum(runs for _, runs in self._running.values())
        return min(rest, max(1, rest // self._workers.count))

    def _take(self, future: Future[Piece]) -> None:
        """Take back what a worker had."""
        unit, _ = self._running.pop(future)
        unit.running = False
        piece = self._workers.result(future)
        if piece is not None and self._tree.holds(unit):  # else somebody has to begin it afresh
            take_back(self._tree, unit, piece)

    def _leave(self) -> None:
        """Take back what is under way, as far as it comes back."""
        for future, (unit, _) in list(self._running.items()):
            if future.cancel():  # not begun
                unit.running = False
                del self._running[future]
        if not self._running:
            return
        if self._tree.top is None or self._tree.outcome.stopped:
            self._running.clear()  # nobody needs it any more
            return
        ready, late = wait(self._running, timeout=_PATIENCE)
        for future in ready:
            self._take(future)
        for future in late:
            unit, _ = self._running.pop(future)
            unit.running = False


class Samples:
    """A random engine's executions, by numbers: each worker takes some. They count in the order of their numbers."""

    def __init__(self, workers: Workers, engine: RandomWalk, outcome: Outcome, count: int) -> None:
        """Prepare to share executions out.

        Args:
            workers: who takes them.
            engine: has done those with lower numbers.
            outcome: the account, to which is added.
            count: how many there are to be.
        """
        self._workers = workers
        self._engine = engine
        self._outcome = outcome
        self._ranges = [(first, min(_SAMPLES, engine.number + count - first))
                        for first in range(engine.number, engine.number + count, _SAMPLES)]  # fmt: skip
        self._ranges.reverse()
        self._running: deque[Future[Piece]] = deque()  # in the order of the numbers

    def explore(self, enough: Callable[[], bool], settled: Callable[[Outcome], object]) -> None:
        """Explore until all is done, or it is enough.

        Args:
            enough: asked several times per second.
            settled: called with what is added to the account.
        """
        running = self._running
        try:
            while (self._ranges or running) and not self._outcome.stopped and not self._workers.lost and not enough():
                while self._ranges and len(running) <= self._workers.count:
                    first, count = self._ranges.pop()
                    future = self._workers.submit(do_samples, self._engine.at(first), count)
                    if future is None:
                        return
                    running.append(future)
                wait([running[0]], timeout=0.2)
                while running and (running[0].done() or running[0].cancelled()):
                    piece = self._workers.result(running.popleft())
                    if piece is None or self._outcome.stopped:
                        return
                    settled(piece.outcome)
        finally:
            for future in running:
                future.cancel()
