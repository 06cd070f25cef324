# SPDX-License-Identifier: GPL-2.0-only
"""`mmref live`: random programs on this machine's kernel and on the model of it.

Exit status: 0 no difference, 1 a difference, 2 this kernel cannot be asked, 130 interrupted without a difference.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from mmref.errors import UsageError
from mmref.live.campaign import Campaign, run_campaign
from mmref.live.support import supported

__all__ = ["live"]


def live(programs: int = 200, seed: int = 0, as_json: bool = False) -> int:
    """Run the command; returns its exit status.

    Args:
        programs: how many random programs to run.
        seed: what they are drawn from.
        as_json: print everything as JSON.

    Raises:
        UsageError: no programs are asked for, or this kernel cannot be asked; the message says why.
    """
    if programs < 1:
        raise UsageError(f"--programs {programs}: give 1 or more.")
    support = supported()
    if not support or support.kernel is None:
        raise UsageError(support.reason)
    if not as_json:
        print(f"Linux {support.kernel}, held against the model with the strategy {support.kernel.strategy}")
    progress = _Progress(programs) if sys.stderr.isatty() and not as_json else None
    campaign = run_campaign(programs, seed, support.kernel, progress)
    if progress is not None:
        progress.end()
    if as_json:
        print(json.dumps(campaign.as_json(), indent=2))
    else:
        print(report(campaign))
    if not campaign.holds:
        return 1
    return 130 if campaign.interrupted else 0


def report(campaign: Campaign) -> str:
    """Say in a few lines what came of it."""
    verdicts = campaign.verdicts
    lines = [
        f"{verdicts['agrees']} of {campaign.done} programs agree, {campaign.observations} observations do"
        f" (seed {campaign.seed}, {campaign.seconds:.1f} s)"
    ]
    if campaign.interrupted:
        lines.append(f"interrupted after {campaign.done} of {campaign.wanted} programs")
    for verdict in ("not expressed", "cannot run"):
        if verdicts[verdict]:
            lines.append(f"{verdicts[verdict]} {verdict}:")
    lines += [f"    {count} times: {reason}" for reason, count in campaign.reasons.most_common()]
    for one in campaign.unstable:
        lines.append(f"unstable, the kernel answered differently when asked again: {one.difference}")
    if campaign.first is not None:
        lines += [
            f"{verdicts['differs']} differ; the first is program {campaign.first_at}, as small as it got:",
            "",
            campaign.first.program.as_python(),
            f"{campaign.first.difference}",
        ]
    elif campaign.done:
        lines.append("no difference")
    return "\n".join(lines)


class _Progress:
    """A line on stderr that says how far it is, a few times a second."""

    def __init__(self, programs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.programs = programs
        self.clock = clock
        self.start = self.shown = clock()

    def __call__(self, campaign: Campaign) -> None:
        now = self.clock()
        if now - self.shown < 0.2:
            return
        self.shown = now
        left = (self.programs - campaign.done) * (now - self.start) / max(campaign.done, 1)
        different = f", {campaign.verdicts['differs']} differ" if campaign.verdicts["differs"] else ""
        line = f"{campaign.done} of {self.programs} programs{different}, {left:.0f} s left"
        print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Wipe the line."""
        print(f"\r{'':<70}\r", end="", file=sys.stderr, flush=True)
