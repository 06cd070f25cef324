# SPDX-License-Identifier: GPL-2.0-only
"""What the explorer itself reports, besides the findings of `mmref.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.errors import Finding, UsageError

if TYPE_CHECKING:
    from mmref.explore.report import Report

__all__ = ["EndlessLoop", "Interrupted", "NondeterministicProgram", "OutputHeldBack", "StepLimit",
           "UnexplorableProgram"]  # fmt: skip


class StepLimit(Finding):
    """An execution did not end within the step limit.

    Attributes:
        steps: the limit.
        cpu: who was running.
        location: the name of what it was about to access.
        where: the file and line of that access.
    """

    def __init__(self, steps: int, cpu: str, location: str, where: str) -> None:
        super().__init__(
            f"no end after {steps} steps: {cpu} accesses {location} at {where}; the likely cause is a spin or"
            " unbounded loop there (use cpu_relax() in a busy wait, or raise max_steps)"
        )
        self.steps = steps
        self.cpu = cpu
        self.location = location
        self.where = where

    def __reduce__(self) -> tuple[type[StepLimit], tuple[object, ...]]:
        return type(self), (self.steps, self.cpu, self.location, self.where)


class EndlessLoop(StepLimit):
    """A CPU went on without an access.

    Attributes:
        seconds: for how long.
        cpu: who.
        where: the file and line where it was then.
    """

    def __init__(self, seconds: float, cpu: str, where: str) -> None:
        Finding.__init__(
            self,
            f"no access for {seconds:g} s: {cpu} is at {where}; the likely cause is a spin or unbounded loop there, or"
            " a wait for something that is not explored (give max_step_seconds if it only takes long)",
        )
        self.seconds = seconds
        self.steps = 0
        self.cpu = cpu
        self.location = ""
        self.where = where

    def __reduce__(self) -> tuple[type[StepLimit], tuple[object, ...]]:
        return type(self), (self.seconds, self.cpu, self.where)


class UnexplorableProgram(UsageError):
    """The program does something that cannot be explored."""


class OutputHeldBack(UserWarning):
    """The program prints, and what it prints is not shown."""


class NondeterministicProgram(UnexplorableProgram):
    """The same schedule led to different operations: something besides the schedule has a say."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during an exploration. What has been explored is not lost.

    Attributes:
        report: what was found so far; its `frontier` says how to go on.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(report.verdict)
        self.report = report
