# SPDX-License-Identifier: GPL-2.0-only
"""One piece of work: run a program's executions under an engine, and keep account of what they come to.

This is the innermost loop of `explore()`. It runs where explore() was called, in a thread, or in another process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from math import inf
from time import thread_time
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol

from mmref.explore.detect import DEFAULT_DETECT
from mmref.explore.dpor import Dpor, SourceDpor
from mmref.explore.errors import StepLimit
from mmref.explore.frontier import Accesses, Outcome, SavedState, Tree, Unit
from mmref.explore.locations import THREAD
from mmref.explore.outside import refuse_what_is_not_explored
from mmref.explore.program import Execution, Program, Scenario, builder
from mmref.explore.report import Completed
from mmref.explore.scheduler import BLOCKED, Chooser, Run
from mmref.explore.verdict import Verdict
from mmref.explore.watchdog import MAX_STEP_SECONDS, Watchdog

__all__ = ["DPOR", "Engine", "Interrupt", "Job", "Piece", "do_piece", "do_samples", "dpor",
           "forget_last_execution", "piece_of", "take_back", "work"]  # fmt: skip


class Engine(Chooser, Protocol):
    """A search algorithm: chooses within one execution, and plans the next."""

    name: str
    replayed: int

    def finish(self, run: Run) -> bool:
        """Take note of the end of an execution, and prepare the next; tell whether there is one."""

    def pending(self) -> int:
        """Return the number of branches that are known and not yet explored."""

    def done(self) -> float:
        """Return the part of the search that is done, between 0 and 1, as far as can be told; 0 if it cannot."""

    def left_out(self) -> str:
        """Say by what the search was limited, if it has come to its end; "" if by nothing."""


DPOR = ("source", "optimal")
"""The engines whose search can be divided, left and taken up again."""


def dpor(name: str) -> Dpor[Any]:
    """Return one of the engines whose search can be divided."""
    if name == "source":
        return SourceDpor()
    from mmref.explore.optimal import OptimalDpor

    return OptimalDpor()


class Job(NamedTuple):
    """What is explored, and how; it is sent along with each unit.

    Attributes:
        program, strategy, stop_at_first, max_steps: as for `explore()`.
        engine: one of `DPOR`.
        tell: whether the completed executions are wanted.
        memory: the memory model.
        detect: what is looked for.
        max_step_seconds: as for `explore()`.
    """

    program: Program | Scenario
    strategy: object | None
    engine: str
    stop_at_first: bool
    max_steps: int
    tell: bool
    memory: str = "sc"
    detect: frozenset[str] = DEFAULT_DETECT
    max_step_seconds: float | None = MAX_STEP_SECONDS


class Piece(NamedTuple):
    """What has become of a unit.

    Attributes:
        outcome: what this piece of work has added.
        states: the stack of what is left of it.
        done: whether nothing is left.
        accesses: the operation with which the unit begins.
        error: what the program, or the engine, has raised: not a finding, but the end of the exploration.
    """

    outcome: Outcome
    states: list[SavedState]
    done: bool
    accesses: Accesses
    error: Exception | None = None


class Interrupt:
    """Put Ctrl-C off to the end of an execution; pressed twice, it takes effect at once.

    Does nothing outside the main thread, or if somebody else treats Ctrl-C already.

    Args:
        patient: do put it off; otherwise it takes effect at once.

    Attributes:
        pressed: whether it was.
        mine: whether it is treated here.
        urgent: what the watchdog wants raised at once, by the signal that it sends.
    """

    def __init__(self, patient: bool = True) -> None:
        self._patient = patient
        self.pressed = False
        self.mine = False
        self.urgent: type[BaseException] | None = None

    def __enter__(self) -> Interrupt:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._press)
            self.mine = True
        return self

    def _press(self, number: int, frame: FrameType | None) -> None:
        urgent, self.urgent = self.urgent, None
        if urgent is not None:
            raise urgent
        if self.pressed or not self._patient:
            signal.default_int_handler(number, frame)
        self.pressed = True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def work(
    build: Callable[[], Execution],
    engine: Engine,
    outcome: Outcome,
    *,
    stop_at_first: bool,
    max_steps: int,
    enough: Callable[[], bool],
    tell: Callable[[Completed], object] | None,
    observed: bool = True,
) -> bool:
    """Run executions until the engine knows no more, a finding ends the search, or it is enough.

    Args:
        build: makes one execution's objects.
        engine: chooses the executions.
        outcome: the account, to which is added.
        stop_at_first: as for `explore()`.
        max_steps: as for `explore()`.
        enough: asked after each execution that is not the last.
        tell: called after each complete execution, with its number in this account.
        observed: look in the first execution for what a program must not do.

    Returns:
        False if it was enough, and the engine could go on.
    """
    while True:
        run = Run(
            engine, max_steps=max_steps, stop_at_finding=stop_at_first,
            checked_steps=engine.replayed if stop_at_first else 0, lock_orders=outcome.lock_orders,
            prefix=engine.states[: engine.replayed] if isinstance(engine, Dpor) else (),
            observed=observed,
        )  # fmt: skip
        observed = False
        run.go(build)
        outcome.steps += run.steps
        finding = run.finding
        if run.end == BLOCKED and finding is None:
            outcome.blocked += 1
        else:
            outcome.executions += 1
            if finding is not None:
                outcome.findings += 1
                if outcome.first is None:
                    outcome.found_in = outcome.executions
                    outcome.first = run.schedule(), Verdict.of(run)
            if tell is not None:
                results = [cpu.result for cpu in run.cpus[: run.real]]
                tell(Completed(outcome.executions, run.schedule(), Verdict.of(run), results))
        if finding is not None and (stop_at_first or isinstance(finding, StepLimit)):
            outcome.stopped = True
            return True
        if not engine.finish(run):
            return True
        if enough():
            return False


def do_piece(job: Job, states: list[SavedState], root: int, seconds: float, runs: int | None) -> Piece:
    """Explore a unit for some time.

    Args:
        job: what is explored.
        states: the way to the unit, and the unit's stack.
        root: the length of the way.
        seconds: how long, not counting what other threads and processes do; but always at least one execution.
        runs: the most executions, if there is a limit.
    """
    engine = dpor(job.engine)
    engine.restore(states, root)
    outcome = Outcome()
    done = _do(job, engine, outcome, seconds, runs, observed=not states)
    return Piece(Outcome(), [], False, (), done) if isinstance(done, Exception) else piece_of(engine, outcome, done)


def do_samples(job: Job, engine: Engine, runs: int) -> Piece:
    """Run so many executions of an engine that draws each of them by its number."""
    outcome = Outcome()
    done = _do(job, engine, outcome, inf, runs, observed=False)
    return Piece(Outcome(), [], False, (), done) if isinstance(done, Exception) else Piece(outcome, [], True, ())


def _do(
    job: Job, engine: Engine, outcome: Outcome, seconds: float, runs: int | None, *, observed: bool
) -> bool | Exception:
    """Do a piece of work; tell whether nothing is left of it, or what has been raised."""
    end = thread_time() + seconds
    refuse_what_is_not_explored()
    with Interrupt() as interrupt, Watchdog(job.max_step_seconds, interrupt):

        def enough() -> bool:
            return interrupt.pressed or thread_time() > end or (runs is not None and outcome.runs >= runs)

        try:
            return work(
                builder(job.program, job.strategy, job.memory, job.detect), engine, outcome,
                stop_at_first=job.stop_at_first, max_steps=job.max_steps, enough=enough,
                tell=outcome.completed.append if job.tell else None, observed=observed,
            )  # fmt: skip
        except Exception as error:  # the program's own, or a UsageError of ours: explore() raises it again
            return error
        finally:
            forget_last_execution()


def piece_of(engine: Dpor[Any], outcome: Outcome, done: bool) -> Piece:
    """Return what has become of a unit, when its engine stands between two executions."""
    outcome.above = engine.above
    return Piece(outcome, [] if done else engine.saved(), done, engine.first_accesses)


def take_back(tree: Tree, unit: Unit, piece: Piece) -> None:
    """Add to a search what has become of one of its units."""
    unit.outcome.add(piece.outcome)
    unit.outcome.above.update(piece.outcome.above)
    unit.states = piece.states
    unit.done = piece.done
    unit.accesses = piece.accesses
    tree.settle(unit)


def forget_last_execution() -> None:
    """Let the objects of the last execution go: the pooled CPUs refer to them."""
    for worker in THREAD.pool or ():
        worker.cpu.forget()
