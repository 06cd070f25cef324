# SPDX-License-Identifier: GPL-2.0-only
"""The workers of an executor: pieces of work go out to them, and come back or are lost."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from mmref.errors import UsageError
from mmref.explore.frontier import Outcome
from mmref.explore.work import Job, Piece

__all__ = ["Workers", "workers_of"]


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


def do_sent(do: Callable[..., Piece], sent: bytes, *how: Any) -> Piece:
    """Do a piece of work on a pickled job.

    Dask waits without end for a worker that can import what it is sent; so the program travels as plain bytes.
    """
    try:
        job = pickle.loads(sent)
    except Exception as error:
        what = UsageError(f"the worker cannot load the program ({error}): put it where every worker can import it")
        return Piece(Outcome(), [], False, (), what)
    return do(job, *how)


class Workers:
    """The workers of an executor, for one job.

    Attributes:
        count: how many pieces of work they do at once.
        lost: why work had to be given up; "" if none was.
    """

    def __init__(self, executor: object, job: Job) -> None:
        if not callable(getattr(executor, "submit", None)):
            raise UsageError(
                f"executor={executor!r} cannot be used: give a concurrent.futures.Executor, such as"
                " ProcessPoolExecutor(2)"
            )
        self._executor: Executor = executor  # type: ignore[assignment]
        self._job = job
        self._sent: bytes | None = None  # the job, if it is sent as plain bytes
        if _dask_client(executor) is not None:
            import cloudpickle  # a part of Dask

            self._sent = cloudpickle.dumps(job)
        self.count = workers_of(executor)
        self.lost = ""

    def submit(self, do: Callable[..., Piece], *how: Any) -> Future[Piece] | None:
        """Hand out a piece of work; return None if nobody takes it."""
        try:
            if self._sent is None:
                return self._executor.submit(do, self._job, *how)
            return self._executor.submit(do_sent, do, self._sent, *how)
        except (RuntimeError, OSError) as error:  # the pool is broken, or has been shut down
            self._give_up(error)
            return None

    def result(self, future: Future[Piece]) -> Piece | None:
        """Return what has come back; None if it is lost.

        Raises:
            Exception: what the program has raised.
            UsageError: the program cannot even be sent.
        """
        try:
            piece: object = future.result(timeout=0)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever an executor raises: the work has not been done
            self._refuse_unpicklable(error)
            self._give_up(error)
            return None
        if not isinstance(piece, Piece):
            self._give_up(TypeError(f"it returned {piece!r}"))
            return None
        if piece.error is not None:
            raise piece.error
        return piece

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
