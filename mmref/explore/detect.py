# SPDX-License-Identifier: GPL-2.0-only
"""What is looked for besides findings that come up by themselves, and what is told of each access for it.

`explore(detect=...)` names the detectors. A `Watch` exists only in executions that need one: if something is declared
that can have a data race, or if lost updates are looked for. All others pay nothing.

The history of an execution is what these detectors judge by. A search that merges states knows none (engine
"states"). Under a weak memory model there is no need to look for data races: a program that has none under sequential
consistency behaves as if memory were sequentially consistent.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mmref.errors import UsageError

if TYPE_CHECKING:
    from mmref.explore.locations import Mode
    from mmref.explore.races import Races
    from mmref.explore.scheduler import ExploredCpu, Run
    from mmref.explore.updates import LostUpdates

__all__ = ["DEFAULT_DETECT", "DETECTORS", "Watch", "detectors", "watch"]

DETECTORS: dict[str, str] = {
    "data-race": "two accesses of different CPUs to a plain field, one a write, that nothing orders",
    "lost-update": "a store over what another CPU has stored since the storing CPU has last looked",
}
"""What can be looked for: name -> what it is."""

DEFAULT_DETECT = frozenset({"data-race"})


def detectors(names: Collection[str] | None, engine: str, memory: str) -> frozenset[str]:
    """Return the detectors that the arguments of `explore()` ask for.

    Raises:
        UsageError: there is none of a name, or it does not go with the engine or memory model.
    """
    blind = f"engine={engine!r}" if engine == "states" else f"memory={memory!r}" if memory != "sc" else ""
    if names is None:
        return frozenset() if blind else DEFAULT_DETECT
    chosen = frozenset({names} if isinstance(names, str) else names)
    for name in sorted(chosen, key=str):
        if name not in DETECTORS:
            raise UsageError(f"detect={name!r} is unknown: choose from {', '.join(DETECTORS)}")
    if chosen and blind:
        raise UsageError(f"{blind} cannot look for {' and '.join(sorted(chosen))}: leave one of the two out")
    return chosen


def watch(run: Run) -> Watch:
    """Return what watches the accesses of an execution; make it if there is none yet."""
    if run.watch is None:
        run.watch = Watch(run)
    return run.watch


class Watch:
    """The detectors of one execution."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.races: Races | None = None
        self.updates: LostUpdates | None = None
        if "lost-update" in run.detect:
            from mmref.explore.updates import LostUpdates

            self.updates = LostUpdates()

    def look_for_races(self) -> None:
        """Look for data races from here on."""
        if self.races is None:
            from mmref.explore.races import Races

            self.races = Races()

    def performed(self, cpu: ExploredCpu, mode: Mode) -> None:
        """Take note of an access that is about to be performed; keep what is found."""
        finding: Exception | None = None
        if self.races is not None:
            finding = self.races.performed(cpu, mode)
        if self.updates is not None:
            finding = self.updates.performed(cpu, mode) or finding
        run = self.run
        if finding is not None and run.finding is None:
            run.finding = finding
            run.culprit = cpu.id
            run.found_at = run.steps + 1
