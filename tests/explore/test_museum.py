# SPDX-License-Identifier: GPL-2.0-only
"""The explorer sees the bugs of collapse_file()'s history, and nothing in the strategies without them."""

import re
from pathlib import Path

import pytest

from mmref.errors import UsageError
from mmref.explore import invariants, replay
from mmref.explore.catalogue import scenarios
from mmref.explore.exhibits import CASES, base_of, exhibit, judge, museum_page, museum_row
from mmref.khugepaged import MUSEUM, get_strategy, strategies

PAGE = Path(__file__).parents[2] / "docs" / "museum.md"
FINDINGS = {"DataRace", "SleepInAtomic", "UseAfterFree"}
SECTION_6 = (
    "m32 m33 m31a m31b m31c m31d m31e m05a m05b m03 m23 m04a m06 m07 m08 m13 m17a m18 m21 m29a m30 m35 m36"
    " m40b m40c m40d m45a m10"
)


@pytest.mark.parametrize("name", MUSEUM)
def test_an_exhibit_is_caught_and_what_it_changes_passes(name):
    row = museum_row(name, max_seconds=60)
    assert row.invariant == CASES[name].invariant, f"{name} in {row.scenario}"
    assert row.base_executions > 0, f"{row.base} does not pass {row.scenario}"
    assert row.markdown() in PAGE.read_text().splitlines(), "run mmref museum --markdown docs/museum.md"


def test_the_page_has_what_the_museum_has():
    lines = PAGE.read_text().splitlines()
    assert museum_page([]).splitlines() == lines[: -len(MUSEUM)]
    assert [re.findall("`(.+?)`", line)[0] for line in lines[-len(MUSEUM) :]] == list(MUSEUM)


def test_each_exhibit_has_its_label():
    assert set(CASES) == set(MUSEUM)
    labels = [exhibit(name) for name in MUSEUM]
    assert len({one.mutation for one in labels}) == len(labels) >= 26
    for one in labels:
        assert one.kernel.startswith(base_of(one).kernel), one.name
        assert one.mutation in one.kernel
        assert one.summary.startswith(f"{base_of(one).name}, but "), one.name
        assert one.__doc__
        assert one.known_races[CASES[one.name].scenario] == one.mutation, one.name
        assert one.known_races.items() >= {
            (known, by) for known, by in base_of(one).known_races.items() if known not in one.races_in
        }
        assert set(one.races_in) <= set(scenarios()), one.name
        assert CASES[one.name].invariant in set(invariants()) | FINDINGS


def test_the_mutations_that_were_asked_for_are_there():
    assert set(SECTION_6.split()) <= {exhibit(name).mutation for name in MUSEUM}


def test_an_exhibit_changes_few_steps():
    for name in MUSEUM:
        own = [step for step, value in vars(exhibit(name)).items() if callable(value) and not step.startswith("__")]
        assert len(own) <= 4, f"{name} changes {own}"


def test_exhibits_are_strategies_but_not_among_the_built_in_ones():
    assert not set(MUSEUM) & set(strategies())
    for name in MUSEUM:
        assert get_strategy(name).name == name


def test_a_counterexample_of_an_exhibit_replays():
    for name in ("mapping-cleared-late", "split-keeps-count", "cursor-reset"):  # a race; other rules; alone
        trace = judge(name)[0].counterexample
        assert replay(str(trace.schedule)) == trace


def test_an_exhibit_is_found_by_its_id():
    assert exhibit("m06") is exhibit("mapping-cleared-late")
    assert base_of(exhibit("m06")).name == "upstream-6.12"


def test_an_unknown_exhibit():
    with pytest.raises(UsageError, match="There is no exhibit 'mapping-cleared'; did you mean mapping-cleared-late"):
        judge("mapping-cleared")
