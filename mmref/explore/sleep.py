# SPDX-License-Identifier: GPL-2.0-only
"""Sleep sets (Godefroid, Partial-order methods for the verification of concurrent systems, 1996).

A CPU that has been explored from a state sleeps in what is explored from there afterwards, until something is
performed that depends on its pending operation: up to then it would only lead to the same traces again.
"""

from __future__ import annotations

from mmref.explore.locations import CONFLICTS, Mode
from mmref.explore.scheduler import ExploredCpu, Run

__all__ = ["still_asleep"]


def still_asleep(run: Run, sleep: int, cpu: ExploredCpu, mode: Mode) -> int:
    """Return the sleeping CPUs whose pending operation does not depend on the event."""
    location = cpu.location
    conflicts = CONFLICTS[mode]
    for other in run.cpus:
        if not sleep & other.bit:
            continue
        if cpu.more is None and other.more is None:
            if other.location is location and conflicts >> other.effective() & 1:
                sleep &= ~other.bit
        else:
            modes = {one.id: further for one, further in other.accesses()}
            for one, further in cpu.accesses():
                pending = modes.get(one.id)
                if pending is not None and CONFLICTS[pending] >> further & 1:
                    sleep &= ~other.bit
                    break
    return sleep
