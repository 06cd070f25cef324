# SPDX-License-Identifier: GPL-2.0-only
"""A judgement as plain data: what tables, pages and JSON show of one scenario under one strategy.

The JSON of a row has the attributes of `Row` and, if something wrong was found, those of `Found` as its keys.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from mmref.errors import UsageError
from mmref.explore.judged import Judged
from mmref.explore.report import as_test
from mmref.explore.scenario import CollapseScenario
from mmref.explore.trace import Trace
from mmref.view.ladder import headline, ladder
from mmref.view.pair import pair_lines

__all__ = ["Found", "Row", "found_of", "row_of"]


@dataclass(frozen=True)
class Found:
    """What went wrong in one execution.

    Attributes:
        kind: of the verdict: "violation", "deadlock", ...
        invariant: its id; "" where the kind says all.
        detail: what was seen.
        consequence: what that means to a user.
        headline: who got in whose way.
        schedule: the schedule string.
        ladder: the ladder.
        pair: the two accesses whose order makes the difference, a line each; empty if that is not known.
        test: a pytest test that fails as long as this happens.
    """

    kind: str
    invariant: str
    detail: str
    consequence: str
    headline: str
    schedule: str
    ladder: str
    pair: tuple[str, ...]
    test: str


@dataclass(frozen=True)
class Row:
    """One scenario explored under one strategy.

    Attributes:
        scenario, strategy: their names.
        spec: what builds both again, as in a schedule string.
        layout, chunk_shift, geometry: the shape of the file and of its tree.
        engine: the algorithm.
        verdict: the result in a few words.
        holds: whether nothing wrong was found.
        known: where the finding is on record; "" if it is not, or if there is none.
        executions, blocked: complete executions, and those given up.
        exhaustive: whether nothing that matters was left out.
        reason: if not, why not.
        found_in: the execution that found something, from 1; None if none did.
        seconds: how long it took.
        inversions: locks that are taken in a circle, each as its steps.
        found: what went wrong; None if nothing did.
        states: how many states were visited, if the engine tells them apart.
        preemptions: if there was a second look: with at most so many.
        again: how many executions there are with so many, and none goes wrong; None if that was not exhausted either.
    """

    scenario: str
    strategy: str
    spec: str
    layout: str
    chunk_shift: int
    geometry: str
    engine: str
    verdict: str
    holds: bool
    known: str
    executions: int
    blocked: int
    exhaustive: bool
    reason: str
    found_in: int | None
    seconds: float
    inversions: tuple[tuple[str, ...], ...]
    found: Found | None = None
    states: int | None = None
    preemptions: int | None = None
    again: int | None = None

    @property
    def shape(self) -> str:
        """The layout and what else is not as usual, for a table: ``DD.D`` or ``D. chunk_shift=1 ask=1``."""
        parameters = self.spec.rpartition("/")[2].split(",")
        return " ".join(one.removeprefix("layout=") for one in parameters if one != "chunk_shift=6")

    @property
    def unexpected(self) -> bool:
        """Whether there is a finding that is not on record."""
        return self.found is not None and not self.known

    @property
    def short(self) -> str:
        """The result in as few words as a table of many columns has room for."""
        if self.found is None:
            if self.exhaustive:
                return f"none in {self.executions:,}" if self.states is None else f"none in {self.states:,} states"
            further = "" if self.again is None else f", none in {self.again:,} with {self.preemptions} preemptions"
            return f"none in {self.executions:,} (stopped){further}"
        word = "RACE" if self.found.kind in {"violation", "error"} else self.found.kind.upper()
        few = "" if self.preemptions is None else f" with {self.preemptions} preemptions"
        return f"{word} {self.found.invariant}".rstrip() + f" ({self.known or 'not on record'}) in {self.found_in}{few}"

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        data = asdict(self)
        return data | (data.pop("found") or {})

    @classmethod
    def of(cls, data: object, source: str) -> Row:
        """Return the row that `as_json()` has made data of.

        Args:
            data: the plain data.
            source: what to call it in an error message.

        Raises:
            UsageError: it is something else.
        """
        if not isinstance(data, dict):
            raise UsageError(f"{source} has a row that is {data!r}, not an object: explore again.")
        found = {field.name: data[field.name] for field in fields(Found) if field.name in data}
        given = {key: value for key, value in data.items() if key not in found}
        try:
            given["inversions"] = tuple(tuple(steps) for steps in given["inversions"])
            return cls(**given, found=Found(**{**found, "pair": tuple(found["pair"])}) if found else None)
        except (LookupError, TypeError) as error:
            raise UsageError(f"{source} has a row that is not one of this mmref's ({error}): explore again.") from None


_CONSEQUENCES = {
    "deadlock": "They wait for each other for ever, and so does whoever needs what they hold.",
    "livelock": "They spin for ever, and so does whoever needs what they hold.",
    "SleepInAtomic": "Whoever wants the lock spins while its holder sleeps, perhaps on the CPU that this one needs.",
    "UseAfterFree": "The memory may be somebody else's by now: a read there means nothing, a write spoils it.",
    "DoubleFree": "The memory is handed out to two who both believe that it is theirs.",
    "DataRace": "The compiler may tear, repeat or merge these accesses: what is read may be what nobody has written.",
}
"""What it means that nobody can go on, or that a rule of the kernel is broken, whatever the scenario asks about."""


def found_of(scenario: CollapseScenario, trace: Trace) -> Found | None:
    """Return what went wrong in an execution of a scenario; None if nothing did."""
    verdict = trace.verdict
    if verdict.holds:
        return None
    consequence = _CONSEQUENCES.get(verdict.id or verdict.kind, scenario.consequence)
    return Found(
        verdict.kind, verdict.id, verdict.detail, consequence, headline(trace), str(trace.schedule),
        ladder(trace), tuple(pair_lines(trace)), as_test(trace),
    )  # fmt: skip


def row_of(judged: Judged) -> Row:
    """Return what is shown of a judgement."""
    scenario, report = judged.scenario, judged.report
    return Row(
        scenario.name, judged.strategy.name, scenario.spec(judged.strategy), scenario.layout, scenario.chunk_shift,
        scenario.geometry, report.engine, report.verdict, report.holds, judged.known, report.executions,
        report.blocked, report.exhaustive, report.reason, report.found_in, round(report.seconds, 4),
        tuple(tuple(str(step) for step in one.steps) for one in report.inversions),
        None if report.counterexample is None else found_of(scenario, report.counterexample), report.states,
    )  # fmt: skip
