# SPDX-License-Identifier: GPL-2.0-only
"""docs/matrix.md says what is so: every ladder replays, and what is quickly explored again has the same counts."""

import re
from pathlib import Path

import pytest

from mmref.explore import explore, replay
from mmref.explore.catalogue import scenario_from_spec, variants
from mmref.explore.judged import Judged
from mmref.khugepaged import get_strategy, strategies
from mmref.view import ladder
from mmref.view.rows import row_of

PAGE = (Path(__file__).parents[2] / "docs" / "matrix.md").read_text()
FINDING = re.compile(r"^```text\n(.*?)^```\n.*?^    mmref replay '(.*?)'$", flags=re.MULTILINE | re.DOTALL)
QUICK = 40
"""So many executions are explored again."""


def table():
    """Return the cells: (scenario, shape, strategy) -> text."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    columns = [name.strip() for name in lines[0].strip("|").split("|")][2:]
    cells = {}
    for line in lines[1:]:
        name, shape, *found = (one.strip() for one in re.split(r"(?<!\\)\|", line.strip("|")))
        for strategy, text in zip(columns, found, strict=True):
            cells[name, shape.strip("`").replace("\\|", "|"), strategy] = text.strip("*")
    return cells


CELLS = table()


def test_the_page_has_every_shape_of_every_scenario_under_every_strategy():
    expected = set()
    for shapes in variants().values():
        for scenario in shapes:
            for strategy in strategies():
                if scenario.exists_under(get_strategy(strategy)):
                    layout, *parameters = scenario.spec(strategy).rpartition("/")[2].removeprefix("layout=").split(",")
                    shape = " ".join([layout, *(one for one in parameters if one != "chunk_shift=6")])
                    expected.add((scenario.name, shape, strategy))
    assert {key for key, text in CELLS.items() if text} == expected


def test_nothing_on_the_page_is_news():
    assert "not on record" not in "".join(CELLS.values())


@pytest.mark.parametrize("strategy", strategies())
def test_what_is_quickly_explored_has_the_same_counts(strategy):
    done = 0
    for (name, shape, judge), text in CELLS.items():
        count = re.search(r"in ([\d,]+)$", text)
        if judge != strategy or count is None or int(count[1].replace(",", "")) > QUICK:
            continue
        layout, *parameters = shape.split(" ")
        scenario, chosen = scenario_from_spec(f"{name}/{strategy}/{','.join([f'layout={layout}', *parameters])}")
        report = explore(scenario, chosen)
        assert row_of(Judged(scenario, chosen, report)).short == text, f"{name} {shape}"
        done += 1
    assert done > 20


def test_every_ladder_is_that_of_its_schedule():
    found = FINDING.findall(PAGE)
    assert len(found) == sum("RACE" in text or "LOCK" in text for text in CELLS.values())
    for text, schedule in found:
        assert ladder(replay(schedule)) == text.rstrip("\n"), schedule
