# SPDX-License-Identifier: GPL-2.0-only
"""Atomic context: where a CPU must not sleep, and what that protects.

A CPU that holds a spinlock, or is between `rcu_read_lock()` and `rcu_read_unlock()`, must not sleep. Code says where
it may (`mmref.sync.might_sleep()`, called by all that takes a sleeping lock, allocates memory or copies to user space),
and that is reported whether or not it would have slept this time, as the kernel's might_sleep() does.

In return, what such a CPU has come across is not freed under it: an XArray node that leaves the tree stays readable
for those who were in a section then, until they leave it (a *grace period*). Holding a spinlock counts as a section,
as it does in the kernel since v5.0.

Entering and leaving a section is no scheduling point. So a section is taken to begin with the first step that its CPU
performs in it, and to end right behind the last one: the shortest that it can be, which is when freeing hurts most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.errors import SleepInAtomic

if TYPE_CHECKING:
    from mmref.explore.scheduler import ExploredCpu

__all__ = ["check_may_sleep", "in_section_since", "sections"]


def check_may_sleep(cpu: ExploredCpu, what: str) -> None:
    """Report a CPU that may sleep while it holds a spinlock or is in an RCU section.

    Raises:
        SleepInAtomic: it must not.
    """
    holding = [location.name for location, _, _ in cpu.held if location.spins]
    if cpu.rcu_depth:
        holding.append("the RCU read lock")
    if holding:
        raise SleepInAtomic(cpu.name, what, " and ".join(holding), cpu.where())


def in_section_since(cpu: ExploredCpu) -> int | None:
    """Return the number of the step with which the section began that a CPU is in; None if it is in none.

    A section that has had no step yet begins with the next one.
    """
    return min(sections(cpu), default=None)


def sections(cpu: ExploredCpu) -> list[int]:
    """Return the numbers of the steps with which the sections began that a CPU is in, as `in_section_since()`."""
    begun = [since for location, _, since in cpu.held if location.spins]
    if cpu.rcu_depth:
        begun.append(cpu.rcu_since)
    if not begun:
        return begun
    choices = cpu.run.choices
    return [
        next((step for step in range(since, len(choices)) if choices[step] == cpu.id), len(choices)) for since in begun
    ]
