# SPDX-License-Identifier: GPL-2.0-only
"""Which memory barrier is needed under which memory model: the table of docs/memory-models.md, line by line."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from mmref.explore import Report, explore, get_scenario
from mmref.explore.exhibits import CASES
from mmref.khugepaged import MUSEUM
from mmref.khugepaged.museum import barriers

PAGE = Path(__file__).parents[2] / "docs" / "memory-models.md"
MODELS = ("sc", "tso", "pso")


class Row(NamedTuple):
    """A line of the table: what is explored, and the verdict under each model."""

    strategy: str
    scenario: str
    verdicts: dict[str, str]


def rows(heading: str) -> list[Row]:
    """Return the lines of the table under a heading."""
    part = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.findall(r"`([\w.:-]+)`", " ".join(cells[:-3]))
        if line.startswith("|") and named:
            strategy, scenario = (named[-2], named[-1]) if heading.startswith("Which") else (named[1], named[0])
            strategy = strategy.replace("harmless:", "mmref.khugepaged.museum.harmless:")
            found.append(Row(strategy, scenario, dict(zip(MODELS, cells[-3:], strict=True))))
    return found


NEEDED = rows("Which barrier is needed where")
SIZES = rows("What it costs")


@cache
def explored(scenario: str, strategy: str, memory: str) -> Report:
    """Explore a line of a table; some are in both."""
    return explore(get_scenario(scenario), strategy, memory=memory, shrink_counterexample=False)


@pytest.mark.parametrize("memory", MODELS)
@pytest.mark.parametrize("row", NEEDED, ids=lambda row: f"{row.strategy.rpartition(':')[2]}-{row.scenario}")
def test_a_barrier_is_needed_where_the_page_says_so(row: Row, memory: str) -> None:
    report = explored(row.scenario, row.strategy, memory)
    trace = report.counterexample
    assert (trace.verdict.id if trace is not None else "holds") == row.verdicts[memory]
    assert report.exhaustive == (trace is None)


def test_the_table_has_what_the_museum_has() -> None:
    assert len(NEEDED) == 16
    judged = {row.strategy: row for row in NEEDED}
    for name in (getattr(barriers, one).name for one in barriers.__all__):
        case, row = CASES[name], judged[name]
        assert name in MUSEUM
        assert (case.scenario, case.invariant) == (row.scenario, row.verdicts[case.memory])
        stronger = MODELS[: MODELS.index(case.memory)]
        assert all(row.verdicts[model] == "holds" for model in stronger), "caught under the strongest model that can"


# The line about uffd takes a minute: it was measured by hand.
@pytest.mark.parametrize("row", [row for row in SIZES if row.scenario != "uffd"], ids=lambda row: row.scenario)
def test_a_weaker_model_costs_what_the_page_says(row: Row) -> None:
    for memory in MODELS:
        report = explored(row.scenario, row.strategy, memory)
        assert (str(report.executions), report.exhaustive) == (row.verdicts[memory], True)


def test_the_page_has_the_sizes() -> None:
    assert len(SIZES) == 7
