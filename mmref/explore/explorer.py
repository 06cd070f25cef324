# SPDX-License-Identifier: GPL-2.0-only
"""The front door: `explore()`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mmref.errors import MmrefInternalError, UsageError
from mmref.explore.detect import detectors
from mmref.explore.errors import Interrupted, UnexplorableProgram
from mmref.explore.frontier import Outcome, Tree, Unit
from mmref.explore.locations import THREAD
from mmref.explore.outside import HoldBack, refuse_what_is_not_explored
from mmref.explore.program import Program, Scenario, builder, describe
from mmref.explore.report import Completed, Progress, Report
from mmref.explore.scheduler import DEFAULT_MAX_STEPS
from mmref.explore.watchdog import MAX_STEP_SECONDS, Watchdog
from mmref.explore.work import DPOR, Engine, Interrupt, Job, dpor, forget_last_execution, piece_of, take_back, work

if TYPE_CHECKING:
    from pathlib import Path

    from mmref.explore.resume import Frontier

__all__ = ["ENGINES", "Engine", "explore"]

MEMORY = ("sc", "tso", "pso")


ENGINES: dict[str, str] = {
    "source": "source-DPOR with sleep sets: one complete execution per Mazurkiewicz trace",
    "optimal": "optimal DPOR with wakeup trees: no execution is started in vain",
    "states": "every state that matters once, for programs whose many traces meet in few states",
    "enumerate": "every schedule, for very small programs",
    "bounded": "every schedule with at most `bound` preemptions",
    "random": "random schedules, drawn with `seed`",
    "pct": "random priorities, drawn with `seed`, for bugs of depth `bound`",
}
"""The algorithms: name -> what it does."""

DEFAULT_SAMPLES = 1_000
"""Executions of an engine that never comes to an end by itself, if `max_executions` does not say."""


def _make_engine(name: str | None, bound: int | None, seed: int | None) -> Engine:
    """Return the engine that the arguments of `explore()` ask for."""
    if name is None:
        name = "bounded" if bound is not None and seed is None else "optimal" if seed is None else "random"
    if name not in ENGINES:
        import difflib

        close = difflib.get_close_matches(str(name), ENGINES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(ENGINES)}"
        raise UsageError(f"engine={name!r} is unknown: {hint}")
    if bound is not None and name not in {"bounded", "pct"}:
        raise UsageError(f"bound={bound!r} means nothing to engine {name!r}: use engine='bounded' or 'pct'")
    if seed is not None and name not in {"random", "pct"}:
        raise UsageError(f"seed={seed!r} means nothing to engine {name!r}: use engine='random' or 'pct'")
    match name:
        case "source" | "optimal":
            return dpor(name)
        case "states":
            from mmref.explore.states import StateSearch

            return StateSearch()
        case "enumerate":
            from mmref.explore.enumeration import Enumeration

            return Enumeration()
        case "bounded":
            from mmref.explore.bounded import BoundedSearch

            return BoundedSearch(2 if bound is None else bound, preemptions_only=True)
        case "pct":
            from mmref.explore.sampling import Pct

            return Pct(seed or 0, 3 if bound is None else bound)
        case _:
            from mmref.explore.sampling import RandomWalk

            return RandomWalk(seed or 0)


def explore(
    program: Program | Scenario,
    strategy: object | None = None,
    bound: int | None = None,
    memory: str = "sc",
    seed: int | None = None,
    executor: object | None = None,
    max_executions: int | None = None,
    progress: Callable[[Progress], object] | None = None,
    *,
    max_seconds: float | None = None,
    resume: Frontier | str | Path | None = None,
    engine: str | None = None,
    on_execution: Tell | None = None,
    stop_at_first: bool = True,
    max_steps: int = DEFAULT_MAX_STEPS,
    shrink_counterexample: bool = True,
    detect: Collection[str] | None = None,
    max_step_seconds: float | None = MAX_STEP_SECONDS,
) -> Report:
    """Run every interleaving of a program's CPUs that matters, and report what goes wrong in one of them.

    Args:
        program: a function that creates the shared cells and returns one callable per thread, or an `Execution` with
            their names and what must hold; or a scenario.
        strategy: for a scenario: the strategy to judge.
        bound: for engine "bounded": the number of preemptions (2 if left out); for "pct": the depth of the bugs
            looked for (3 if left out).
        memory: the memory model: "sc" (sequential consistency), "tso" (stores are delayed, in order) or "pso" (stores
            to different locations are delayed in any order); see docs/memory-models.md.
        seed: for the engines "random" and "pct".
        executor: a `concurrent.futures.Executor` whose workers share the search, for the engines "source", "optimal",
            "random" and "pct". The report is the same as without. What is sent to another process must be picklable: a
            function at the top level of a module, or a scenario.
        max_executions: give up after so many executions, blocked ones included; random engines, which never
            come to an end, make 1,000 if it is left out.
        progress: called a few times per second.
        max_seconds: give up after so many seconds.
        resume: the `frontier` of an earlier report, or the file that it was saved to: go on there. The new report
            is about both together, and so is `max_executions`.
        engine: the algorithm, one of `ENGINES`; "optimal" if left out, unless a `bound` or `seed` is given.
        on_execution: called after each complete execution.
        stop_at_first: end with the first finding; otherwise explore everything and keep the first.
        max_steps: accesses after which one execution is taken to be endless.
        shrink_counterexample: look for an execution with the same finding and fewer context switches, and for the
            two accesses whose order makes the difference.
        detect: what to look for besides what comes up by itself: names of `DETECTORS`; data races if left out.
        max_step_seconds: for how long a CPU may run without an access; then it is taken to be in an endless loop. None
            for ever.

    Raises:
        UsageError: an argument cannot be used, or the program is not deterministic.
        Interrupted: Ctrl-C; its `report` says what was found so far, and has the frontier.

    >>> from mmref.explore import Cell
    >>> def program():
    ...     x = Cell(0)
    ...     return [lambda: x.store(1), x.load, x.load]
    >>> explore(program).executions
    4
    """
    if memory not in MEMORY:
        raise UsageError(f"memory={memory!r} is unknown: choose one of {', '.join(MEMORY)}")
    for name, value in (("max_executions", max_executions), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value} must be at least 1")
    for name, limit in (("max_seconds", max_seconds), ("max_step_seconds", max_step_seconds)):
        if limit is not None and not limit > 0:
            raise UsageError(f"{name}={limit} must be more than 0")
    if THREAD.run is not None:
        raise UnexplorableProgram("explore() was called inside a program that is being explored: call it outside")
    refuse_what_is_not_explored()
    name, spec = describe(program, strategy)
    tree: Tree | None = None
    if resume is not None:
        from mmref.explore.resume import Frontier

        frontier = resume if isinstance(resume, Frontier) else Frontier.load(resume)
        looked_for = None if detect is None else sorted({detect} if isinstance(detect, str) else detect)
        frontier.check(name, spec, engine, stop_at_first, memory, looked_for)
        engine, detect = frontier.engine, frontier.detect
        tree = frontier.search()
    chosen = _make_engine(engine, bound, seed)
    if tree is None and chosen.name in DPOR:
        tree = Tree.whole(dpor(chosen.name).merge)
    if executor is not None and chosen.name not in {*DPOR, "random", "pct"}:
        raise UsageError(
            f"engine {chosen.name!r} cannot share its work out: leave executor out, or use engine='optimal' or 'random'"
        )
    if max_executions is None and chosen.name in {"random", "pct"}:
        max_executions = DEFAULT_SAMPLES
    if memory != "sc" and chosen.name in {"states", "bounded"}:
        raise UsageError(f"engine {chosen.name!r} does not know memory={memory!r}: use engine='optimal' or 'random'")
    wanted = detectors(detect, chosen.name, memory)
    job = Job(program, strategy, chosen.name, stop_at_first, max_steps, on_execution is not None, memory, wanted,
              max_step_seconds)  # fmt: skip
    search = _Search(job, chosen, tree, Limits(max_executions, max_seconds, progress))
    try:
        with HoldBack():
            outcome = search.run(executor, on_execution)
            report = search.report(outcome, name, spec, memory, shrink_counterexample=shrink_counterexample)
    finally:
        forget_last_execution()
    if search.interrupted:
        raise Interrupted(report)
    return report


Tell: TypeAlias = Callable[[Completed], object]


class Limits(NamedTuple):
    """When to leave a search: after so many executions, so many seconds. And whom to tell about it until then."""

    executions: int | None
    seconds: float | None
    progress: Callable[[Progress], object] | None


class _Search:
    """One exploration: the executions, and the account of them."""

    def __init__(self, job: Job, engine: Engine, tree: Tree | None, limits: Limits) -> None:
        self.job = job
        self.build = builder(job.program, job.strategy, job.memory, job.detect)
        self.engine = engine
        self.tree = tree
        self.limits = limits
        self.reason = ""
        self.interrupted = False
        self.now: Outcome = Outcome()  # of the unit under way
        self.before = Outcome() if tree is None else tree.known()  # of all that had been explored before it
        self.started = self.last_progress = monotonic()

    def run(self, executor: object | None, on_execution: Tell | None) -> Outcome:
        """Explore; return what is known in the end."""
        # Where an executor does the work, its workers have watchdogs of their own.
        patience = self.job.max_step_seconds if executor is None else None
        with Interrupt() as interrupt, Watchdog(patience, interrupt):

            def enough() -> bool:
                return self._enough(interrupt)

            try:
                if self.tree is None and executor is not None:
                    self._samples(executor, enough, on_execution)
                elif self.tree is None:
                    if not self._work(enough, on_execution) and not self.reason:
                        raise MmrefInternalError("the search was left without a reason")
                    self.reason = self.reason or self.engine.left_out()
                elif executor is None:
                    self._alone(self.tree, enough, on_execution)
                else:
                    self._together(self.tree, executor, enough, on_execution)
            except KeyboardInterrupt:
                self.reason = "interrupted by Ctrl-C"
                self.interrupted = True
        outcome = self._known()
        if outcome.stopped:
            self.reason = "stopped at the first finding"
        return outcome

    def _known(self) -> Outcome:
        if self.tree is None:
            return self.now
        if self.tree.outcome.stopped:
            return self.tree.outcome
        return self.tree.known()

    def _work(self, enough: Callable[[], bool], tell: Tell | None) -> bool:
        job = self.job
        return work(
            self.build, self.engine, self.now, stop_at_first=job.stop_at_first, max_steps=job.max_steps,
            enough=enough, tell=tell,
        )  # fmt: skip

    def _alone(self, tree: Tree, enough: Callable[[], bool], tell: Tell | None) -> None:
        """Explore one unit after the other, here."""
        while not tree.outcome.stopped and not self.reason:
            unit = next((one for one in tree.units() if not one.done), None)
            if unit is None or (self.before.runs and enough()):
                return
            engine = self.engine = dpor(self.job.engine)
            engine.restore(unit.way() + unit.states, unit.root)
            self.before = tree.known()
            self.now = Outcome()
            done = False
            try:
                done = self._work(enough, self._numbered(tell, self.before.executions))
            finally:
                # Also when the program has raised something: the branch that was under way is not lost.
                take_back(tree, unit, piece_of(engine, self.now, done))
                self.before = tree.known()
                self.now = Outcome()

    def _together(self, tree: Tree, executor: object, enough: Callable[[], bool], tell: Tell | None) -> None:
        """Have the workers of an executor explore."""
        from mmref.explore.crew import Crew
        from mmref.explore.workers import Workers

        workers = Workers(executor, self.job)
        crew = Crew(workers, tree, self.limits.executions)
        told = tree.known().executions

        def settled() -> None:
            nonlocal told
            self.before = tree.known()
            if tell is not None:
                for done in tree.take_completed(everything=bool(self.reason or workers.lost)):
                    told += 1
                    tell(done._replace(number=told))

        crew.explore(enough, settled)
        if tree.top is not None and not tree.outcome.stopped:
            self.reason = self.reason or workers.lost
            self._limited(tree.known().runs)
        settled()

    def _samples(self, executor: object, enough: Callable[[], bool], tell: Tell | None) -> None:
        """Have the workers of an executor make a random engine's executions."""
        from mmref.explore.crew import Samples
        from mmref.explore.sampling import RandomWalk
        from mmref.explore.workers import Workers

        engine, workers = self.engine, Workers(executor, self.job)
        assert isinstance(engine, RandomWalk)
        assert self.limits.executions is not None
        self._work(lambda: True, tell)  # the first one, which shows how long they are

        def settled(later: Outcome) -> None:
            completed, later.completed = later.completed, []
            before = self.now.executions
            self.now.add(later)
            if tell is not None:
                for done in completed:
                    tell(done._replace(number=before + done.number))

        Samples(workers, engine, self.now, self.limits.executions - 1).explore(enough, settled)
        self.reason = self.reason or workers.lost or engine.left_out()

    @staticmethod
    def _numbered(tell: Tell | None, before: int) -> Tell | None:
        if tell is None or not before:
            return tell
        return lambda done: tell(done._replace(number=before + done.number))

    def _enough(self, interrupt: Interrupt) -> bool:
        """Tell whether to leave the search here, and keep the reason; show progress now and then."""
        limits = self.limits
        if interrupt.pressed:
            raise KeyboardInterrupt
        if self._limited(self.before.runs + self.now.runs):
            return True
        if limits.seconds is None and limits.progress is None:
            return False
        now = monotonic()
        if limits.seconds is not None and now - self.started >= limits.seconds:
            self.reason = self.engine.left_out() or f"stopped by max_seconds={limits.seconds}"
            return True
        if limits.progress is not None and now - self.last_progress > 0.2:
            self.last_progress = now
            limits.progress(self._progress(now - self.started))
        return False

    def _limited(self, runs: int) -> bool:
        most = self.limits.executions
        if most is None or runs < most:
            return False
        self.reason = self.reason or self.engine.left_out() or f"stopped by max_executions={most}"
        return True

    def _progress(self, seconds: float) -> Progress:
        engine, tree = self.engine, self.tree
        executions = self.before.executions + self.now.executions
        blocked = self.before.blocked + self.now.blocked
        if tree is None or isinstance(tree.top, Unit):
            pending, done = engine.pending(), engine.done()
        else:
            pending, done = tree.pending(), tree.done()
        estimated = round((executions + blocked) / done) if done else None
        return Progress(executions, blocked, pending, estimated, seconds, self._states())

    def _states(self) -> int | None:
        """Return the number of states visited, if the engine keeps them."""
        return getattr(self.engine, "states", None) if self.engine.name == "states" else None

    def report(self, outcome: Outcome, name: str, spec: str, memory: str, *, shrink_counterexample: bool) -> Report:
        """Account for an exploration that is over."""
        job = self.job
        trace = None
        if outcome.first is not None:
            from mmref.explore.rerun import record

            with Interrupt(patient=False) as interrupt, Watchdog(job.max_step_seconds, interrupt):
                choices, verdict = outcome.first
                if shrink_counterexample and verdict.kind != "step-limit" and not self.interrupted:
                    from mmref.explore.shrink import shrink

                    choices = shrink(self.build, choices, verdict, job.max_steps)
                trace = record(self.build, choices, name, spec, job.max_steps)
                if shrink_counterexample and not self.interrupted:
                    from dataclasses import replace

                    from mmref.explore.explain import explain

                    trace = replace(trace, pair=explain(self.build, trace, job.max_steps))
        frontier = None
        if self.tree is not None and self.tree.top is not None and not outcome.stopped:
            from mmref.explore.resume import Frontier

            frontier = Frontier(name, spec, job.engine, job.stop_at_first, memory, sorted(job.detect), self.tree.data())
        return Report(
            program=name, engine=self.engine.name, executions=outcome.executions, blocked=outcome.blocked,
            exhaustive=not self.reason, reason=self.reason, counterexample=trace, found_in=outcome.found_in,
            findings=outcome.findings, steps=outcome.steps, seconds=monotonic() - self.started, frontier=frontier,
            inversions=outcome.lock_orders.inversions(), detect=tuple(sorted(job.detect)),
            states=self._states(),
        )  # fmt: skip
