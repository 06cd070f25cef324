# SPDX-License-Identifier: GPL-2.0-only
"""A strategy judged by a scenario: the report, and whether what it says is news."""

from __future__ import annotations

from dataclasses import dataclass

from mmref.explore.report import Report
from mmref.explore.scenario import CollapseScenario
from mmref.explore.trace import Trace
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
        return "" if trace is None else known_race(self.scenario, self.strategy, trace)

    @property
    def unexpected(self) -> bool:
        """Whether there is a race that is not on record."""
        return not self.report.holds and not self.known


def known_race(scenario: CollapseScenario, strategy: CollapseStrategy, trace: Trace) -> str:
    """Return the id of the record that a finding fits; empty if it is news, or nothing is wrong."""
    verdict = trace.verdict
    if verdict.holds:
        return ""
    records = strategy.known_races.get(scenario.name.removesuffix("-rollback"), "").split()
    memory = trace.schedule.memory
    return next((one for one in records if is_record_of(one, verdict.kind, verdict.id, memory)), "")
