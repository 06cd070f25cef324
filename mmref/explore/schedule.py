# SPDX-License-Identifier: GPL-2.0-only
"""Schedules as short strings that can be copied into a mail, a test or a command line.

``v1:0x12,1x5,0`` says: CPU 0 performs 12 accesses, then CPU 1 performs 5, then CPU 0 one. What to run may stand in
front: ``seek-data/freeze-and-replace/pages=4:v1:0x12,1x5``. ``v1:-`` is the schedule without a step. Under a weak
memory model, which stands behind the version (``v1-tso:0,2,1``), numbers behind those of the CPUs are their store
buffers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from mmref.errors import UsageError
from mmref.explore.scheduler import ExploredCpu, Run
from mmref.explore.waits import waits_for

__all__ = ["FollowSchedule", "FollowToTheEnd", "Schedule"]

_VERSION = "v1"
_STRING = re.compile(r"(?:(?P<spec>.*):)?(?P<version>v\d+)(?:-(?P<memory>tso|pso))?:(?P<runs>[^:]*)", re.DOTALL)
_RUN = re.compile(r"(\d{1,6})(?:x([1-9]\d{0,7}))?")
_MAX_STEPS = 10_000_000
_EXAMPLE = "v1:0x12,1x5,0"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The CPU that performs each step, under which memory model, and what program to run, if that is known.

    >>> schedule = Schedule.of([0, 0, 1, 0])
    >>> str(schedule), schedule.switches
    ('v1:0x2,1,0', 2)
    >>> Schedule.parse("seek-data/pages=4:v1:0x2,1,0").choices
    (0, 0, 1, 0)
    """

    choices: tuple[int, ...]
    spec: str = ""
    memory: str = "sc"

    @classmethod
    def of(cls, choices: Iterable[int], spec: str = "", memory: str = "sc") -> Schedule:
        """Create a schedule from the number of the CPU at each step."""
        return cls(tuple(choices), spec, memory)

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read a schedule string.

        Raises:
            UsageError: it is not one.
        """
        match = _STRING.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{_shown(text)} is not a schedule: expected something like {_EXAMPLE!r}")
        if match["version"] != _VERSION:
            raise UsageError(
                f"{_shown(text)} is a schedule of version {match['version']}; this mmref reads {_VERSION}"
            )
        choices: list[int] = []
        if match["runs"] != "-":
            for piece in match["runs"].split(","):
                run = _RUN.fullmatch(piece)
                if run is None:
                    raise UsageError(
                        f"{piece!r} in the schedule {_shown(text)} is not a CPU and its number of steps:"
                        f" expected something like {_EXAMPLE!r}"
                    )
                count = int(run[2] or 1)
                if len(choices) + count > _MAX_STEPS:
                    raise UsageError(f"the schedule {_shown(text)} has more than {_MAX_STEPS} steps")
                choices.extend([int(run[1])] * count)
        return cls(tuple(choices), match["spec"] or "", match["memory"] or "sc")

    def __str__(self) -> str:
        runs = []
        for cpu, group in groupby(self.choices):
            count = sum(1 for _ in group)
            runs.append(f"{cpu}x{count}" if count > 1 else str(cpu))
        model = "" if self.memory == "sc" else f"-{self.memory}"
        text = f"{_VERSION}{model}:{','.join(runs) or '-'}"
        return f"{self.spec}:{text}" if self.spec else text

    @property
    def switches(self) -> int:
        """The number of context switches: neighbouring steps of different CPUs."""
        return sum(one != other for one, other in zip(self.choices, self.choices[1:], strict=False))


def _shown(text: str) -> str:
    """Return text for an error message, cut to a length that fits into a sentence."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


class FollowSchedule:
    """The chooser that follows a schedule, and says which step does not fit if it cannot."""

    name = "replay"

    def __init__(self, choices: tuple[int, ...]) -> None:
        self._choices = choices

    def choose(self, run: Run) -> int:
        """Return the schedule's next CPU; -1 at its end."""
        step = run.steps
        if step >= len(self._choices):
            return -1
        number = self._choices[step]
        if number >= len(run.cpus):
            raise UsageError(
                f"the schedule does not fit: step {step} is for CPU {number}, but the program has only"
                f" {len(run.cpus)} CPUs (0 to {len(run.cpus) - 1})"
            )
        cpu = run.cpus[number]
        if not run.unfinished & cpu.bit:
            raise UsageError(f"the schedule does not fit: step {step} is for {cpu.name}, which has ended by then")
        if not run.can_go(cpu):
            stores = run.buffers is not None and run.buffers.waiting & cpu.bit
            raise UsageError(
                f"the schedule does not fit: step {step} is for {cpu.name}, which then waits for"
                f" {'earlier stores to become visible' if stores else waits_for(cpu)}"
            )
        return number

    def executed(self, cpu: ExploredCpu, mode: int) -> None:
        """Nothing to remember."""


class FollowToTheEnd(FollowSchedule):
    """Follow a schedule, and let the CPUs finish one after the other when it has ended."""

    def choose(self, run: Run) -> int:
        """Return the schedule's next CPU; behind its end, the first that can go on."""
        if run.steps < len(self._choices):
            return super().choose(run)
        enabled = run.enabled()
        return (enabled & -enabled).bit_length() - 1
