# SPDX-License-Identifier: GPL-2.0-only
"""Many random programs, and what came of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmref.live.comparing import Comparison, compare
from mmref.live.generate import random_program
from mmref.live.generation import Kernel, running_kernel
from mmref.live.program import Program
from mmref.live.shrink import shrink

__all__ = ["Campaign", "run_campaign"]


@dataclass
class Campaign:
    """What many comparisons came to, so far.

    Attributes:
        kernel: where they ran.
        seed: what the programs were drawn from; program i is `random_program(f"{seed}/{i}")`.
        wanted: how many programs were asked for.
        verdicts: how many programs came to which verdict.
        observations: how many observations agreed.
        operations: how often each operation ran in a program that agreed.
        reasons: why programs were not expressed or could not run.
        first: the first comparison that differs, made as small as possible.
        first_at: the number of its program, from 0.
        unstable: comparisons in which the kernel contradicted itself.
        interrupted: whether Ctrl-C ended it.
        seconds: how long it took.
    """

    kernel: Kernel
    seed: int
    wanted: int
    verdicts: Counter[str] = field(default_factory=Counter)
    observations: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    first: Comparison | None = None
    first_at: int | None = None
    unstable: list[Comparison] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """How many programs have run."""
        return self.verdicts.total()

    @property
    def holds(self) -> bool:
        """Whether nothing differed."""
        return not self.verdicts["differs"]

    def count(self, result: Comparison) -> None:
        """Take one comparison in."""
        self.verdicts[result.verdict] += 1
        self.observations += result.observations
        if result.verdict == "agrees":
            self.operations.update(op.name for op in result.program)
        if result.verdict in ("not expressed", "cannot run"):
            self.reasons[result.reason] += 1
        if result.verdict == "unstable":
            self.unstable.append(result)

    def as_json(self) -> dict[str, Any]:
        """Return everything about it as plain data."""
        first = None
        if self.first is not None and self.first.difference is not None:
            found = self.first.difference
            first = {
                "program": self.first_at,
                "steps": [[op.name, op.args] for op in self.first.program],
                "step": found.step,
                "operation": found.op.name,
                "field": found.field,
                "kernel": found.kernel,
                "model": found.model,
                "python": self.first.program.as_python(),
            }
        return {
            "kernel": self.kernel.release,
            "strategy": self.kernel.strategy,
            "seed": self.seed,
            "wanted": self.wanted,
            "programs": self.done,
            "verdicts": dict(sorted(self.verdicts.items())),
            "observations": self.observations,
            "operations": dict(sorted(self.operations.items())),
            "reasons": dict(self.reasons.most_common()),
            "first_difference": first,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
        }


def run_campaign(
    programs: int,
    seed: int = 0,
    kernel: Kernel | None = None,
    progress: Callable[[Campaign], None] | None = None,
    comparing: Callable[[Program, Kernel], Comparison] = compare,
) -> Campaign:
    """Compare random programs, all of them even if some differ; Ctrl-C keeps what was done.

    Args:
        programs: how many.
        seed: what they are drawn from.
        kernel: whose model to compare with; None for the running kernel's.
        progress: called after each program.
        comparing: how to compare one.

    Raises:
        UsageError: this is not Linux.
    """
    campaign = Campaign(kernel or running_kernel(), seed, programs)
    start = time.monotonic()
    try:
        for at in range(programs):
            result = comparing(random_program(f"{seed}/{at}"), campaign.kernel)
            campaign.count(result)
            if result.verdict == "differs" and campaign.first is None:
                campaign.first, campaign.first_at = result, at
                campaign.first = _smallest(result, comparing)
            if progress is not None:
                progress(campaign)
    except KeyboardInterrupt:
        campaign.interrupted = True
    campaign.seconds = time.monotonic() - start
    return campaign


def _smallest(result: Comparison, comparing: Callable[[Program, Kernel], Comparison]) -> Comparison:
    """Compare smaller programs as long as they differ too."""
    smallest = result

    def differs(program: Program) -> bool:
        nonlocal smallest
        found = comparing(program, result.kernel)
        if found.verdict == "differs":
            smallest = found
            return True
        return False

    shrink(result.program, differs)
    return smallest
