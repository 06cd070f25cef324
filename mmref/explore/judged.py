# SPDX-License-Identifier: GPL-2.0-only
"""A strategy judged by a scenario: the report, and whether what it says is news."""

from __future__ import annotations

from dataclasses import dataclass

from mmref.explore.report import Report
from mmref.explore.scenario import CollapseScenario
from mmref.explore.verdict import Verdict
from mmref.khugepaged import CollapseStrategy
from mmref.khugepaged.records import is_record_of

__all__ = ["Judged", "known_race"]


@dataclass(frozen=True)
class Judged:
    """One scenario explored under one strategy."""

    scenario: CollapseScenario
    strategy: CollapseStrategy
    report: Report

    @property
    def known(self) -> str:
        """Where the race that was found is on record; empty if it is not, or if there is none."""
        trace = self.report.counterexample
        return "" if trace is None else known_race(self.scenario, self.strategy, trace.verdict)

    @property
    def unexpected(self) -> bool:
        """Whether there is a race that is not on record."""
        return not self.report.holds and not self.known


def known_race(scenario: CollapseScenario, strategy: CollapseStrategy, verdict: Verdict) -> str:
    """Return the id of the record that a finding fits; empty if it is news, or nothing is wrong."""
    record = strategy.known_races.get(scenario.name.removesuffix("-rollback"), "")
    if verdict.holds or not record or not is_record_of(record, verdict.kind, verdict.id):
        return ""
    return record
