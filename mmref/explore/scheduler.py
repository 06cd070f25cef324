# SPDX-License-Identifier: GPL-2.0-only
"""One execution: CPUs as greenlets, and the scheduler that is called inline at each access.

A CPU that comes to a scheduling point announces its next operation (its *pending* operation) and asks the
*chooser* which CPU goes on. If it is the same one, it just returns: no switch is made. Every CPU that has not
ended has a pending operation, so the chooser always knows what each would do next.

Greenlets are pooled per thread, one per CPU number: creating one costs more than a hundred scheduling points.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Protocol, cast

from greenlet import getcurrent  # type: ignore[import-untyped]
from greenlet import greenlet as new_greenlet

from mmref.errors import InvariantViolation, MmrefInternalError, UsageError
from mmref.explore.atomic import check_may_sleep
from mmref.explore.detect import DEFAULT_DETECT, Watch
from mmref.explore.errors import StepLimit, UnexplorableProgram
from mmref.explore.locations import LOCK, READ, THREAD, WRITE, Effect, Location, Mode
from mmref.explore.lock_order import LockOrders
from mmref.explore.outside import look_at_call
from mmref.explore.places import ENGINE_FILES, Place, call_stack, place_of, places_text
from mmref.explore.program import Execution
from mmref.explore.recording import Frame, Recorder
from mmref.explore.waits import deadlock_of
from mmref.explore.watchdog import Overdue
from mmref.sync import _THIS_CPU, Cpu

if TYPE_CHECKING:
    from mmref.explore.memory import StoreBuffers

__all__ = ["BLOCKED", "COMPLETE", "DEFAULT_MAX_STEPS", "FAILED", "STUCK", "WORK_CODE", "Chooser",
           "ExploredCpu", "Run", "Worker"]

DEFAULT_MAX_STEPS = 20_000
"""Accesses after which an execution is taken to be endless."""

COMPLETE = "complete"
"""Every CPU has ended."""
BLOCKED = "blocked"
"""The chooser gave up: whatever could follow has been explored already (or is out of bounds)."""
STUCK = "stuck"
"""Some CPU has not ended and none can go on: a deadlock or a livelock."""
FAILED = "failed"
"""Ended early by a finding."""

Guard = Callable[[], bool]


class Greenlet(Protocol):
    """The part of greenlet's interface that is used here (greenlet ships no types)."""

    @property
    def gr_frame(self) -> FrameType | None:
        """The innermost frame of a greenlet that is not running."""

    def switch(self) -> object:
        """Go on with this greenlet, and return when somebody switches back."""

    def throw(self, *args: object) -> object:
        """Go on with this greenlet by raising an exception there."""


class _Unwind(BaseException):
    """Thrown into a CPU that has not ended when its execution is over."""


class Chooser(Protocol):
    """What an engine provides: the decisions of one execution."""

    name: str

    def choose(self, run: Run) -> int:
        """Return the number of the CPU to go on with, or -1 to end the execution here."""

    def executed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Take note that a CPU's pending operation, in effect one of this mode, is about to be performed."""


class Step(Protocol):
    """A step that an earlier execution had: who went on, and what was accessed."""

    cpu: int
    location: int
    mode: Mode


class ExploredCpu(Cpu):
    """A CPU under exploration: its greenlet, and the operation that it is about to perform.

    Attributes:
        bit: ``1 << id``, its place in sets of CPUs.
        next_location: the id of the next location that it creates.
        location, mode, label, effect, more: its pending operation; `more` has the further locations.
        enabled: while this says no, the pending operation cannot be performed.
        holder: who has what it waits for.
        awaited: how many of `more`, at its end, are only there because `cpu_relax()` waits for them.
        spin: what `cpu_relax()` waits for: locations, each with the step of this CPU's last access.
        seen: the locations whose value this CPU has seen since its last `cpu_relax()`, with the last steps. (Accesses
            that commute with changes, such as `INC`, do not see one: they must not make a wait depend on them.)
        joins: positions of events of other CPUs that the pending operation comes after in any case.
        held: the locks that this CPU holds: location, mode, number of steps that had been performed before it.
        rcu_depth, rcu_since: how many RCU sections it is in, and how many steps had been performed before the first.
    """

    __slots__ = ("awaited", "bit", "effect", "enabled", "entry", "greenlet", "guarded", "held", "holder", "joins",
                 "label", "location", "mode", "more", "name", "next_location", "rcu_depth", "rcu_since",
                 "result", "run", "seen", "spin", "spun", "stack", "started",
                 "waited")  # fmt: skip

    greenlet: Greenlet
    location: Location
    run: Run

    def __init__(self, id: int) -> None:
        super().__init__(id)
        self.bit = 1 << id
        self.mode: Mode = READ
        self.label = ""
        self.effect: Effect | None = None
        self.more: tuple[tuple[Location, Mode], ...] | None = None
        self.seen: dict[Location, int] = {}
        self.held: list[tuple[Location, Mode, int]] = []
        self.stack: tuple[Frame, ...] = ()
        self.rcu_depth = 0

    def prepare(self, run: Run, name: str, entry: Callable[[], object]) -> None:
        """Get ready for another execution."""
        self.run = run
        self.name = name
        self.entry = entry
        self.result: object = None
        self.started = False
        self.next_location = self.id + 1
        self.guarded = False
        self.waited = False
        self.enabled: Guard | None = None
        self.holder: str | Callable[[], str] | None = None
        self.spin: list[tuple[Location, int]] | None = None
        self.spun = False
        self.effect = None
        self.more = None
        self.joins: tuple[int, ...] = ()
        self.rcu_depth = 0
        self.seen.clear()
        self.held.clear()

    def forget(self) -> None:
        """Let go of the last execution's objects."""
        for name in ("run", "entry", "location", "result", "enabled", "holder", "effect", "spin", "more"):
            if hasattr(self, name):
                delattr(self, name)
        self.seen.clear()
        self.held.clear()

    def relax(self) -> None:
        """Wait until a location that this CPU has read since its last pass changes.

        The wait is part of the next operation: that one also reads all those locations, and is not enabled
        until another CPU has changed one of them. (A step of its own would only multiply the schedules.)
        """
        if not self.run.live:
            raise _Unwind  # a busy-wait loop in a `finally` of an execution that is over would never end
        self.run.relaxed = True
        if self.seen or self.spin is None:
            self.spin = list(self.seen.items())
            self.seen.clear()

    def fence(self) -> None:
        """Wait until this CPU's stores are visible to all, under a weak memory model."""
        if self.run.live and self.run.buffers is not None:
            self.run.buffers.fence(self)

    def write_barrier(self) -> None:
        """Let no later store of this CPU become visible before an earlier one, under a weak memory model."""
        if self.run.live and self.run.buffers is not None:
            self.run.buffers.write_barrier(self)

    def might_sleep(self, what: str) -> None:
        """Report a CPU that may sleep where it must not."""
        if (self.held or self.rcu_depth) and self.run.live:
            check_may_sleep(self, what)

    def rcu_read_lock(self) -> None:
        """Enter an RCU section."""
        if not self.rcu_depth:
            self.rcu_since = self.run.steps
        self.rcu_depth += 1

    def rcu_read_unlock(self) -> None:
        """Leave an RCU section."""
        if self.run.live:  # an execution that is over may unwind through here
            if not self.rcu_depth:
                raise InvariantViolation("A11", f"{self.name} leaves an RCU section that it is not in, {self.where()}")
            self.rcu_depth -= 1

    def pend(self, location: Location, mode: Mode, label: str) -> None:
        """Let the explorer decide when a plain operation is performed; `point()` does the same for all others."""
        self.location = location
        self.mode = mode
        self.label = label
        self.effect = None
        self.more = None
        if self.spin is not None:
            self.guard(None, None)
        self.run.reschedule(self)

    def guard(self, enabled: Guard | None, holder: str | Callable[[], str] | None) -> None:
        """Make the pending operation wait, for its own guard or for the end of a busy wait."""
        self.enabled = enabled
        self.holder = holder
        self.guarded = True
        self.run.guarded |= self.bit
        if self.spin is not None:
            own = {self.location.id}
            own.update(location.id for location, _ in self.more or ())
            extra = tuple((location, READ) for location, _ in self.spin if location.id not in own)
            self.more = ((self.more or ()) + extra) or None
            self.awaited = len(extra)
            self.spun = True

    def made(self) -> tuple[tuple[Location, Mode], ...]:
        """Return what `accesses()` does, without what is only waited for."""
        accesses = self.accesses()
        return accesses[: len(accesses) - self.awaited] if self.spun else accesses

    def place(self) -> Place:
        """Return where the pending operation is in the code, and from where that is called."""
        return place_of(self.greenlet.gr_frame or sys._getframe(1))

    def where(self) -> str:
        """Return the file, line and function of the pending operation, as a trace gives them."""
        return places_text(self.place())

    def ready(self) -> bool:
        """Tell whether the pending operation can be performed in the current state."""
        if self.spun and self.spin is not None:
            for location, step in self.spin:
                if location.version > step:
                    break
            else:
                return False
        return self.enabled is None or bool(self.enabled())

    def passed(self) -> None:
        """Forget what the operation has waited for: it is being performed."""
        self.guarded = False
        self.enabled = None
        self.holder = None
        self.run.guarded &= ~self.bit
        if self.spun:
            self.spun = False
            self.spin = None

    def effective(self) -> Mode:
        """Return the mode that the pending operation has in the current state."""
        effect = self.effect
        if effect is None:
            return self.mode
        answer = effect()
        return self.mode if answer == 1 else answer or READ

    def accesses(self) -> tuple[tuple[Location, Mode], ...]:
        """Return all (location, mode) pairs of the pending operation, as they are in the current state."""
        mode = self.effective()
        first = ((self.location, mode),)
        if self.more is None:
            return first
        if mode == READ and self.mode != READ:
            return first + tuple((location, READ) for location, _ in self.more)
        return first + self.more


class Worker:
    """A pooled greenlet that runs the CPU of one number, in one execution after another."""

    def __init__(self, number: int) -> None:
        self.cpu = ExploredCpu(number)
        self.cpu.greenlet = cast(Greenlet, new_greenlet(self._work))

    def _work(self) -> None:
        cpu = self.cpu
        _THIS_CPU.set(cpu)  # a greenlet has a context of its own
        observed = False
        while True:
            run = cpu.run
            if run.observed is not observed:  # it is a matter of each greenlet, too
                observed = run.observed
                sys.setprofile(look_at_call if observed else None)
            try:
                cpu.result = cpu.entry()
            except _Unwind:
                pass
            except Overdue:
                run.failed(cpu, run.late)
            except UnexplorableProgram as error:
                run.crash = error
            except Exception as error:  # whatever a CPU's code raises is a finding
                run.failed(cpu, error)
            except BaseException as error:  # Ctrl-C goes to who called explore()
                run.crash = error
            following = run.ended(cpu)
            del run  # a greenlet in the pool must not keep an execution alive
            following.switch()


WORK_CODE: CodeType = Worker._work.__code__


class Run:
    """One execution of a program under a chooser.

    Attributes:
        live: True while CPU code runs; otherwise `point()` does nothing.
        current: the CPU whose code runs.
        steps: number of accesses performed.
        unfinished: set (bit mask) of the CPUs that have not ended.
        guarded: set of the CPUs whose pending operation may have to wait.
        end: how it ended: COMPLETE, BLOCKED, STUCK or FAILED.
        finding: the exception that was found, if any.
        relaxed: whether a CPU has called cpu_relax().
        late: what the watchdog says about it.
        buffers: the store buffers of a weak memory model; set before anything is created.
        real: the number of CPUs that are no store buffers; 256 if there are no buffers.
        locations: all that were created, for an engine that must know them.
        holders: what is like a lock without being one: location -> who has put it there, and what that is called.
        detect: what is looked for (`detect.py`); set before anything is created.
        watch: what is told of each access for that, if anything needs it.
        culprit: the number of the CPU in whose code, or after whose step, the finding came up.
        found_at: the number of steps performed when it did; None if it came up at the end.
    """

    __slots__ = ("buffers", "changed", "checked_steps", "choices", "chooser", "closing", "cpus", "crash", "culprit",
                 "current", "detect", "end", "execution", "finding", "found_at", "guarded", "holders", "hub",
                 "inert_accesses", "late", "live", "locations", "lock_orders", "max_steps", "next_location", "observed",
                 "plain", "prefix", "real", "recorder", "relaxed", "starting", "steps", "stop_at_finding", "unfinished",
                 "watch")  # fmt: skip

    def __init__(
        self,
        chooser: Chooser,
        *,
        max_steps: int,
        recorder: Recorder | None = None,
        stop_at_finding: bool = True,
        checked_steps: int = 0,
        lock_orders: LockOrders | None = None,
        prefix: Sequence[Step] = (),
        observed: bool = False,
    ) -> None:
        """Prepare an execution.

        Args:
            chooser: decides which CPU goes on.
            max_steps: accesses after which the execution is given up as endless.
            recorder: collects events, in the one execution that is recorded.
            stop_at_finding: end at the first finding; otherwise the CPU that failed stops, the others go on.
            checked_steps: number of steps already checked by `on_step`, in an execution with the same start.
            lock_orders: where to note who takes which lock while holding which.
            prefix: the steps that it begins with. The chooser is asked from there on, and where it goes another way.
            observed: look at each call of a C function for what is not to be done.
        """
        self.chooser = chooser
        self.max_steps = max_steps
        self.recorder = recorder
        self.stop_at_finding = stop_at_finding
        self.checked_steps = checked_steps
        self.lock_orders = LockOrders() if lock_orders is None else lock_orders
        self.holders: dict[int, tuple[ExploredCpu, str]] = {}
        self.prefix = prefix
        self.observed = observed and sys.getprofile() is None
        self.detect = DEFAULT_DETECT
        self.watch: Watch | None = None
        self.buffers: StoreBuffers | None = None
        self.real = 256
        self.live = False
        self.starting = True
        self.plain = False  # nothing needs to be done about a CPU's next operation but to choose
        self.changed = False
        self.closing = False
        self.steps = 0
        self.choices: list[int] = []
        self.next_location = 0  # the id of the next location that set-up code creates
        self.unfinished = 0
        self.guarded = 0
        self.end = COMPLETE
        self.finding: Exception | None = None
        self.culprit: int | None = None
        self.found_at: int | None = None
        self.crash: BaseException | None = None
        self.inert_accesses = 0
        self.relaxed = False
        self.late: Exception = MmrefInternalError("nobody has said what takes so long")
        self.locations: list[Location] | None = [] if chooser.name == "states" else None
        self.cpus: list[ExploredCpu] = []
        self.current: ExploredCpu = cast(ExploredCpu, None)
        self.execution: Execution = cast(Execution, None)
        self.hub: Greenlet = cast(Greenlet, getcurrent())

    # The life of an execution, seen from the hub (the greenlet that called explore()).

    def go(self, build: Callable[[], Execution]) -> None:
        """Build the program's objects, run its CPUs to the end, and check what must hold at rest."""
        if THREAD.run is not None:
            raise UnexplorableProgram("explore() was called inside a program that is being explored: call it outside")
        THREAD.run = self
        if self.observed:
            sys.setprofile(look_at_call)
        try:
            self.execution = build()
            self._start()
            try:
                if self.crash is None:
                    self._resume(self._next())
            finally:
                self._close()
            if self.crash is not None:
                raise self.crash
            if self.finding is None and self.end == COMPLETE and self.execution.at_rest is not None:
                try:
                    self.execution.at_rest()
                except UnexplorableProgram:
                    raise
                except Exception as error:  # as in a CPU's code
                    self.finding = error
        except Overdue:
            raise UnexplorableProgram(str(self.late)) from None
        finally:
            THREAD.run = None
            if self.observed:
                sys.setprofile(None)

    def _start(self) -> None:
        """Run every CPU up to its first scheduling point."""
        pool = THREAD.pool
        if pool is None:
            pool = THREAD.pool = []
        threads = self.execution.cpus
        if len(threads) > 255:
            raise UsageError(f"{len(threads)} CPUs are too many: at most 255 can be told apart")
        while len(pool) < len(threads):
            pool.append(Worker(len(pool)))
        self.cpus = [worker.cpu for worker in pool[: len(threads)]]
        for cpu, name, entry in zip(self.cpus, self.execution.names, threads, strict=True):
            cpu.prepare(self, name, entry)
        self.unfinished = (1 << len(threads)) - 1
        if self.buffers is not None:
            self.real = len(threads)
            self.buffers.start(self)
        for cpu in self.cpus[: len(threads)]:
            cpu.started = True
            self._resume(cpu.greenlet, cpu)
            if self.crash is not None:
                return
        self.starting = False
        self.plain = self.buffers is None and self.recorder is None

    def _resume(self, greenlet: Greenlet, cpu: ExploredCpu | None = None) -> None:
        if greenlet is self.hub:
            return
        if cpu is not None:
            self.current = cpu
        self.live = True
        greenlet.switch()
        self.live = False

    def _close(self) -> None:
        """Unwind the CPUs that have not ended, so that their greenlets can be used again."""
        self.live = False
        self.closing = True
        for cpu in self.cpus:
            if cpu.started and self.unfinished & cpu.bit:
                cpu.greenlet.throw(_Unwind)
                if self.unfinished & cpu.bit:
                    raise MmrefInternalError(f"{cpu} did not stop at the end of an execution")

    # Called from the CPUs' greenlets.

    def reschedule(self, cpu: ExploredCpu) -> None:
        """Let the chooser pick who goes on; return when it is `cpu`."""
        if not self.plain:
            if self.buffers is not None:
                self.buffers.announce(cpu)
            if self.recorder is not None:
                cpu.stack = call_stack(3)
                cpu.waited = cpu.guarded and not cpu.ready()
            if self.starting:
                self.hub.switch()
                return
        following = self._next()
        if following is not cpu.greenlet:
            following.switch()

    def _next(self) -> Greenlet:
        """Choose the next step, and return the greenlet to go on with: its CPU's, or the hub's at the end."""
        prefix = self.prefix
        while True:
            try:
                steps = self.steps
                if self.changed:
                    self.changed = False
                    if self.execution.on_step is not None and steps > self.checked_steps:
                        self._check_step()
                again = False
                if steps < len(prefix):
                    step = prefix[steps]
                    choice = step.cpu
                    if self.unfinished >> choice & 1:
                        cpu = self.cpus[choice]
                        mode = cpu.mode if cpu.effect is None else cpu.effective()
                        again = (
                            cpu.location.id == step.location and mode == step.mode
                            and not (cpu.guarded and not cpu.ready())
                        )  # fmt: skip
                if not again:
                    if not self.unfinished:
                        return self.hub
                    if self.finding is not None and self.stop_at_finding:
                        self.end = FAILED
                        return self.hub
                    if steps >= self.max_steps:
                        self._too_long()
                        return self.hub
                    choice = self.chooser.choose(self)
                    if choice < 0:
                        self._stop()
                        return self.hub
                    cpu = self.cpus[choice]
                    mode = cpu.mode if cpu.effect is None else cpu.effective()
                if self.buffers is not None:
                    self.buffers.choose(cpu, again)
                if not again:
                    self.chooser.executed(cpu, mode)
                self.choices.append(choice)
                if (mode >= LOCK or (cpu.effect is not None and mode != READ)) and self.lock_orders is not None:
                    self.lock_orders.note(cpu, mode)
                if self.watch is not None:
                    self.watch.performed(cpu, mode)
                if self.recorder is not None:
                    self.recorder.add(steps, cpu, mode)
                steps += 1
                self.steps = steps
                location = cpu.location
                if mode == READ:
                    cpu.seen[location] = steps
                else:
                    location.version = steps
                    self.changed = True
                    if mode == WRITE:
                        cpu.seen[location] = steps
                if cpu.more is not None:
                    self._further(cpu, mode)
                if cpu.guarded:
                    cpu.passed()
                if choice >= self.real:
                    self.buffers.flush(cpu)  # type: ignore[union-attr,arg-type]
                    continue
                self.current = cpu
                return cpu.greenlet
            except BaseException as error:  # must not surface in the code of the CPU that called
                self.crash = error
                return self.hub

    def _further(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Account for the further locations of an operation."""
        failed = mode == READ and cpu.mode != READ
        more = cpu.more or ()
        for location, further in more[: len(more) - cpu.awaited] if cpu.spun else more:
            if failed or further in {READ, WRITE}:
                cpu.seen[location] = self.steps
            if further != READ and not failed:
                location.version = self.steps
                self.changed = True

    def _check_step(self) -> None:
        """Check what must always hold, after a step that changed something."""
        assert self.execution.on_step is not None
        if self.finding is not None:
            return
        self.live = False
        try:
            self.execution.on_step()
        except UnexplorableProgram:
            raise
        except Exception as error:  # as in a CPU's code
            self.finding = error
            mover = self.cpus[self.choices[-1]]
            self.culprit = getattr(mover, "owner", mover).id
            self.found_at = self.steps
        finally:
            self.live = True

    def schedule(self) -> tuple[int, ...]:
        """Return the CPU of each step, up to the finding if there is one."""
        return tuple(self.choices if self.found_at is None else self.choices[: self.found_at])

    def can_go(self, cpu: ExploredCpu) -> bool:
        """Tell whether the pending operation of a CPU can be performed now."""
        if not self.unfinished & cpu.bit or (cpu.guarded and not cpu.ready()):
            return False
        return self.buffers is None or not self.buffers.waiting & cpu.bit

    def enabled(self) -> int:
        """Return the set of CPUs whose pending operation can be performed now."""
        mask = self.unfinished
        waiting = self.guarded
        if waiting:
            for cpu in self.cpus[: self.real]:
                if waiting & cpu.bit and not cpu.ready():
                    mask &= ~cpu.bit
        if self.buffers is not None:
            mask &= ~self.buffers.waiting
        return mask

    @property
    def names(self) -> list[str]:
        """The names of the CPUs, and of their store buffers if there are any."""
        return [cpu.name for cpu in self.cpus]

    def failed(self, cpu: ExploredCpu, error: Exception) -> None:
        """Take an exception that ended a CPU's code as a finding."""
        if not self.closing and self.finding is None:
            self.finding = error
            self.culprit = cpu.id
            self.found_at = self.steps

    def ended(self, cpu: ExploredCpu) -> Greenlet:
        """Take note that a CPU has ended, and return the greenlet to go on with."""
        self.unfinished &= ~cpu.bit
        if self.closing or self.starting or self.crash is not None:
            return self.hub
        return self._next()

    def _stop(self) -> None:
        """Find out why the chooser names no CPU to go on with."""
        if self.enabled():
            self.end = BLOCKED
            return
        self.end = STUCK
        if self.finding is None:
            self.finding = deadlock_of(self)

    def _too_long(self) -> None:
        """Give up an execution that does not end."""
        self.end = FAILED
        frames = [frame for frame in call_stack(1) if not frame[1].startswith(ENGINE_FILES)]
        function, file, line = frames[-1] if frames else ("?", "?", 0)
        cpu = self.current
        self.finding = StepLimit(self.max_steps, cpu.name, cpu.location.name, f"{file}:{line} ({function})")
        self.culprit = cpu.id

    def unwinding_access(self) -> None:
        """Let an access in a `finally` of an execution that is over pass, but not without end."""
        if self.closing:
            self.inert_accesses += 1
            if self.inert_accesses > 10_000:
                raise _Unwind
