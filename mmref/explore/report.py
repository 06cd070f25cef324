# SPDX-License-Identifier: GPL-2.0-only
"""What an exploration has found, and how far it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmref.explore.trace import Trace, Verdict

if TYPE_CHECKING:
    from mmref.explore.resume import Frontier

__all__ = ["Completed", "Progress", "Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `explore()`.

    Attributes:
        program: what was explored.
        engine: the algorithm.
        executions: complete executions (every CPU ended, or none could go on, or a finding ended it).
        blocked: executions given up because whatever could follow had been explored already.
        exhaustive: whether nothing that matters was left out.
        reason: if not, why not.
        counterexample: the first finding, shrunk to few context switches; None if there is none.
        found_in: the number of the execution that found it, from 1.
        findings: the number of executions with a finding.
        steps: accesses performed, repeated prefixes included.
        seconds: how long it took, since the last `resume`.
        frontier: what is left to explore, for `explore(resume=...)`; None if nothing is, if a finding ended the
            search, or if the engine cannot be resumed.
    """

    program: str
    engine: str
    executions: int
    blocked: int
    exhaustive: bool
    reason: str
    counterexample: Trace | None
    found_in: int | None
    findings: int
    steps: int
    seconds: float
    frontier: Frontier | None = field(default=None, repr=False)

    @property
    def holds(self) -> bool:
        """Whether no execution was found with anything wrong."""
        return self.counterexample is None

    @property
    def verdict(self) -> str:
        """The result in a few words, for a table."""
        if self.counterexample is not None:
            kind = self.counterexample.verdict.kind
            word = "RACE" if kind in {"violation", "error"} else kind.upper()
            return f"{word} in execution {self.found_in}"
        if self.exhaustive:
            return f"none in {self.executions} executions, exhausted"
        return f"none in {self.executions} executions, {self.reason}"

    def __str__(self) -> str:
        lines = f"{self.program}: {self.verdict} ({self.engine}, {self.blocked} blocked, {self.seconds:.2f} s)"
        if self.counterexample is not None:
            trace = self.counterexample
            lines += f"\n  {trace.verdict}\n  replay: {trace.schedule}"
        return lines


@dataclass(frozen=True, slots=True)
class Completed:
    """What `on_execution` is told about a complete execution.

    Attributes:
        number: how many there were with this one.
        schedule: the CPU of each step.
        verdict: how it ended.
        results: what each CPU's callable returned; None for one that did not end.
    """

    number: int
    schedule: Sequence[int]
    verdict: Verdict
    results: Sequence[object]


@dataclass(frozen=True, slots=True)
class Progress:
    """What `progress` is told now and then.

    Attributes:
        executions: complete ones so far.
        blocked: given up so far.
        pending: branches known and not yet explored.
        estimated: how many executions there will be in all, judged by how many branches of each state are done; None
            if the engine cannot tell. It is often wrong by a factor, and gets better.
        seconds: since the start.
    """

    executions: int
    blocked: int
    pending: int
    estimated: int | None
    seconds: float
