# SPDX-License-Identifier: GPL-2.0-only
"""What the explorer itself reports, besides the findings of `mmref.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.errors import Finding, UsageError

if TYPE_CHECKING:
    from mmref.explore.report import Report

__all__ = ["Interrupted", "NondeterministicProgram", "StepLimit"]


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

    def __reduce__(self) -> tuple[type[StepLimit], tuple[int, str, str, str]]:
        return type(self), (self.steps, self.cpu, self.location, self.where)


class NondeterministicProgram(UsageError):
    """The same schedule led to different operations: something besides the schedule has a say."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during an exploration. What has been explored is not lost.

    Attributes:
        report: what was found so far; its `frontier` says how to go on.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(report.verdict)
        self.report = report
