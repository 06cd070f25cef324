# SPDX-License-Identifier: GPL-2.0-only
"""What can be explored: a bare program, or a scenario that builds one execution at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from mmref.errors import UsageError
from mmref.explore.detect import DEFAULT_DETECT, watch
from mmref.explore.locations import THREAD

__all__ = ["Execution", "Program", "Scenario", "builder", "describe"]

class Execution:
    """The objects of one execution, built afresh each time.

    Attributes:
        cpus: one callable per CPU.
        names: what to call the CPUs in reports; "CPU 0", "CPU 1", ... if left out.
        on_step: checks what must always hold, after each step that changed something; raises a `Finding`.
            It must be a function of the state alone: steps that an earlier execution has checked are skipped.
        at_rest: checks what must hold when every CPU has ended.
    """

    __slots__ = ("at_rest", "cpus", "names", "on_step")

    def __init__(
        self, cpus: Sequence[Callable[[], object]], names: Sequence[str] = (),
        on_step: Callable[[], None] | None = None, at_rest: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.cpus = cpus
        self.names = names or [f"CPU {number}" for number in range(len(cpus))]
        self.on_step = on_step
        self.at_rest = at_rest
        if len(self.names) != len(cpus):
            raise UsageError(f"{len(cpus)} CPUs but {len(self.names)} names: give one name per CPU")


Program: TypeAlias = Callable[[], Sequence[Callable[[], object]] | Execution]
"""Creates the shared cells of one execution and returns one callable per thread, or a whole `Execution`."""


@runtime_checkable
class Scenario(Protocol):
    """A named set-up with its CPUs and what must hold."""

    @property
    def name(self) -> str:
        """What to call it."""

    def build(self, strategy: object | None) -> Execution:
        """Set up everything for one execution, from scratch and always alike."""

    def spec(self, strategy: object | None) -> str:
        """Return what a schedule string must say to build it again: ``seek-data/upstream-6.12/pages=4``."""


def builder(
    subject: Program | Scenario, strategy: object | None, memory: str = "sc", detect: frozenset[str] = DEFAULT_DETECT
) -> Callable[[], Execution]:
    """Return the function that builds one execution of a program or scenario.

    Args:
        subject: the program or scenario.
        strategy: for a scenario: the strategy.
        memory: the memory model.
        detect: what to look for, of `detect.DETECTORS`.
    """
    build = _builder(subject, strategy)
    if memory == "sc" and detect == DEFAULT_DETECT:
        return build

    def build_watched() -> Execution:
        run = THREAD.run
        assert run is not None
        run.detect = detect
        if memory != "sc":
            from mmref.explore.memory import StoreBuffers

            run.buffers = StoreBuffers(memory)
        if "lost-update" in detect:
            watch(run)
        return build()

    return build_watched


def _builder(subject: Program | Scenario, strategy: object | None) -> Callable[[], Execution]:
    if isinstance(subject, Scenario):
        scenario = subject
        return lambda: scenario.build(strategy)
    if not callable(subject):
        raise UsageError(
            f"{subject!r} cannot be explored: give a function that returns a list of threads, or a scenario"
        )
    if strategy is not None:
        raise UsageError(f"strategy={strategy!r} means nothing to a bare program: only scenarios take one")
    program = subject

    def build() -> Execution:
        threads: object = program()
        if isinstance(threads, Execution):
            return threads
        if not isinstance(threads, Sequence) or not threads or not all(callable(one) for one in threads):
            raise UsageError(
                f"the program returned {threads!r}: it must return one callable per thread, or an Execution"
            )
        return Execution(threads)

    return build


def describe(subject: Program | Scenario, strategy: object | None) -> tuple[str, str]:
    """Return (name, spec) of a program or scenario; a bare program has no spec that would rebuild it."""
    if isinstance(subject, Scenario):
        return subject.name, subject.spec(strategy)
    return str(getattr(subject, "__qualname__", type(subject).__qualname__)), ""
