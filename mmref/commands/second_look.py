# SPDX-License-Identifier: GPL-2.0-only
"""A second look at what could not be exhausted: every schedule with few preemptions.

The default engine begins with executions that are alike, and may not come to those of another kind before it is
stopped. Most races need one or two preemptions, and the schedules that have no more can often be explored to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mmref.commands.unfinished import Cell

if TYPE_CHECKING:
    from mmref.view.rows import Row

__all__ = ["MAX_EXECUTIONS", "look_again", "second_look"]

MAX_EXECUTIONS = 10_000
"""Executions after which the second look at a scenario is given up."""


def second_look(
    cells: Iterable[Cell], preemptions: int, executor: Executor | None, tell: Callable[[int, Row], None]
) -> None:
    """Look again at each exploration that was stopped without a finding; what comes of it stands in the cells.

    Args:
        cells: the explorations.
        preemptions: how many there may be in a schedule.
        executor: whose workers do it, a scenario each; None to do it here.
        tell: called with the number of each and its row.
    """
    stopped = [
        (number, cell, cell.row) for number, cell in enumerate(cells)
        if cell.row is not None and cell.row.holds and not cell.row.exhaustive and cell.row.preemptions is None
    ]  # fmt: skip
    every = map if executor is None else executor.map
    looks = every(partial(look_again, preemptions=preemptions), [cell.spec for _, cell, _ in stopped])
    for (number, cell, row), again in zip(stopped, looks, strict=True):
        if again.holds:
            through = "stopped" not in again.reason
            cell.row = replace(row, preemptions=preemptions, again=again.executions if through else None)
        else:
            cell.row = replace(again, preemptions=preemptions)
            cell.frontier = None
        tell(number, cell.row)


def look_again(spec: str, preemptions: int) -> Row:
    """Explore all schedules of a scenario with at most so many preemptions."""
    from mmref.explore import explore
    from mmref.explore.catalogue import scenario_from_spec
    from mmref.explore.judged import Judged
    from mmref.view.rows import row_of

    scenario, strategy = scenario_from_spec(spec)
    report = explore(scenario, strategy, engine="bounded", bound=preemptions, max_executions=MAX_EXECUTIONS)
    return row_of(Judged(scenario, strategy, report))
