# SPDX-License-Identifier: GPL-2.0-only
"""Share a search among the workers of an executor.

Each worker explores a unit for a moment (`work.do_piece`) and hands back what is left of it, so that there is always
something to divide. Which worker gets what, and when, has no influence on the outcome (`frontier.py`).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

from mmref.errors import UsageError
from mmref.explore.frontier import Outcome, Tree, Unit
from mmref.explore.work import Job, Piece, do_piece, take_back

__all__ = ["Crew", "workers_of"]

_FIRST_SECONDS = 0.05
"""For how long a worker explores while there is too little to share out, in seconds of its own time."""
_SECONDS = 0.6
_PATIENCE = 5.0
"""For how many seconds the work under way is waited for when the search is left."""


def workers_of(executor: object) -> int:
    """Return how many pieces of work an executor does at once, as far as it lets on."""
    client = _dask_client(executor)
    if client is not None:
        return sum(client.nthreads().values()) or 1
    return getattr(executor, "_max_workers", None) or os.cpu_count() or 1


def _dask_client(executor: object) -> Any:
    """Return the client of Dask's executor; None for any other."""
    client = getattr(executor, "_client", None)
    return client if callable(getattr(client, "nthreads", None)) else None


def do_sent_piece(sent: bytes, *how: Any) -> Piece:
    """Do as `do_piece()` with a pickled job.

    Dask waits without end for a worker that can import what it is sent; so the program travels as plain bytes.
    """
    try:
        job = pickle.loads(sent)
    except Exception as error:
        what = UsageError(f"the worker cannot load the program ({error}): put it where every worker can import it")
        return Piece(Outcome(), [], False, (), what)
    return do_piece(job, *how)


class Crew:
    """The workers, and what each of them has.

    Attributes:
        lost: why work had to be given up; "" if none was.
    """

    def __init__(self, executor: object, job: Job, tree: Tree, max_executions: int | None) -> None:
        if not callable(getattr(executor, "submit", None)):
            raise UsageError(
                f"executor={executor!r} cannot be used: give a concurrent.futures.Executor, such as"
                " ProcessPoolExecutor(2)"
            )
        self._executor: Executor = executor  # type: ignore[assignment]
        self._job = job
        self._tree = tree
        self._max_executions = max_executions
        self._workers = workers_of(executor)
        self._sent: bytes | None = None  # the job, if it is sent as plain bytes
        if _dask_client(executor) is not None:
            import cloudpickle  # a part of Dask

            self._sent = cloudpickle.dumps(job)
        self._running: dict[Future[Piece], tuple[Unit, int]] = {}
        self.lost = ""

    def explore(self, enough: Callable[[], bool], settled: Callable[[], object]) -> None:
        """Explore until nothing is left, or it is enough.

        Args:
            enough: asked several times per second.
            settled: called when the search has come further.
        """
        tree = self._tree
        try:
            while tree.top is not None and not tree.outcome.stopped and not self.lost and not enough():
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
        free = self._workers + 1 - len(self._running)
        if free <= 0:
            return
        idle = [unit for unit in tree.units() if unit.idle]
        while len(idle) < free and any(tree.split(unit) for unit in idle):
            idle = [unit for unit in tree.units() if unit.idle]
        seconds = _SECONDS if len(idle) + len(self._running) > self._workers else _FIRST_SECONDS
        for unit in idle[:free]:
            runs = self._allowance()
            if not runs:
                return
            states = unit.way() + unit.states
            try:
                if self._sent is None:
                    future = self._executor.submit(do_piece, self._job, states, unit.root, seconds, runs)
                else:
                    future = self._executor.submit(do_sent_piece, self._sent, states, unit.root, seconds, runs)
            except (RuntimeError, OSError) as error:  # the pool is broken, or has been shut down
                self._give_up(error)
                return
            unit.running = True
            self._running[future] = unit, runs

    def _allowance(self) -> int:
        """Return how many executions the next worker may run, so that all together do not run too many."""
        if self._max_executions is None:
            return 1 << 60
        rest = self._max_executions - self._tree.known().runs - sum(runs for _, runs in self._running.values())
        return min(rest, max(1, rest // self._workers))

    def _take(self, future: Future[Piece]) -> None:
        """Take back what a worker had."""
        unit, _ = self._running.pop(future)
        unit.running = False
        try:
            piece: object = future.result(timeout=0)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever an executor raises: the work has not been done
            self._refuse_unpicklable(error)
            self._give_up(error)
            return
        if not isinstance(piece, Piece):
            self._give_up(TypeError(f"it returned {piece!r}"))
            return
        if piece.error is not None:
            raise piece.error
        if self._tree.holds(unit):  # else somebody has to begin it afresh
            take_back(self._tree, unit, piece)

    def _give_up(self, error: BaseException) -> None:
        text = " ".join(str(error).split())
        self.lost = self.lost or f"a worker was lost ({type(error).__name__}{': ' + text if text else ''})"

    def _refuse_unpicklable(self, error: BaseException) -> None:
        """Say so if the work could not even be sent."""
        if not isinstance(error, pickle.PicklingError | AttributeError | TypeError):
            return
        try:
            pickle.dumps(self._job)
        except (pickle.PicklingError, AttributeError, TypeError) as why:
            raise UsageError(
                f"the program cannot be sent to another process ({why}): give a function at the top level of a"
                " module, or a scenario, or use a ThreadPoolExecutor"
            ) from None

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
