# SPDX-License-Identifier: GPL-2.0-only
"""What an exploration has found, and how far it went."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mmref.errors import UsageError
from mmref.explore.lock_order import Inversion
from mmref.explore.verdict import Verdict

if TYPE_CHECKING:
    from mmref.explore.resume import Frontier
    from mmref.explore.trace import Trace

__all__ = ["Completed", "Progress", "Report", "as_test"]


class Report(NamedTuple):
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
        inversions: locks that different CPUs take in opposite orders, in whatever execution.
        detect: what has been looked for besides what comes up by itself, of `DETECTORS`.
        states: the number of different states that were visited, if the engine tells them apart.
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
    frontier: Frontier | None = None
    inversions: tuple[Inversion, ...] = ()
    detect: tuple[str, ...] = ()
    states: int | None = None

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
        count = f"{self.executions} executions" if self.states is None else f"{self.states} states"
        return f"none in {count}, {'exhausted' if self.exhaustive else self.reason}"

    def __str__(self) -> str:
        lines = f"{self.program}: {self.verdict} ({self.engine}, {self.blocked} blocked, {self.seconds:.2f} s)"
        if self.counterexample is not None:
            trace = self.counterexample
            lines += f"\n  {trace.verdict}"
            if trace.pair is not None:
                lines += "\n  what matters is the order of two accesses:"
                lines += "".join(f"\n    {line}" for line in trace.pair.describe(trace.cpus).splitlines())
            lines += f"\n  replay: {trace.schedule}"
        for inversion in self.inversions:
            lines += "\n  locks are taken in a circle:" + "".join(f"\n    {step}" for step in inversion.steps)
        return lines

    def as_test(self, program: str = "") -> str:
        """Return a pytest test, to be pasted, that fails as long as the finding is there.

        Args:
            program: for a bare program: where it is, as ``module:name``. A scenario is found by its name.

        Raises:
            UsageError: nothing was found, or it is not said where the program is.
        """
        if self.counterexample is None:
            raise UsageError(f"nothing wrong was found with {self.program}, so there is no test to make of it")
        return as_test(self.counterexample, program)


class Completed(NamedTuple):
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


class Progress(NamedTuple):
    """What `progress` is told now and then.

    Attributes:
        executions: complete ones so far.
        blocked: given up so far.
        pending: branches known and not yet explored.
        estimated: how many executions there will be in all, judged by how many branches of each state are done; None
            if the engine cannot tell. It is often wrong by a factor, and gets better.
        seconds: since the start.
        states: different states visited so far, if the engine tells them apart.
    """

    executions: int
    blocked: int
    pending: int
    estimated: int | None
    seconds: float
    states: int | None = None


def as_test(trace: Trace, program: str = "") -> str:
    """Return a pytest test that fails as long as the finding of a trace is there; see `Report.as_test()`."""
    imports, argument = "from mmref.explore import replay", ""
    if not trace.spec:
        module, _, name = program.partition(":")
        if not all(part.isidentifier() for part in module.split(".")) or not name.isidentifier():
            raise UsageError(
                f"{program!r} does not say where the program is: give as_test() 'module:name', so that the test can"
                " import it"
            )
        imports += f"\nfrom {module} import {name}"
        argument = f", {name}"
    if trace.verdict.id == "LostUpdate":
        argument += ', detect={"lost-update"}'
    what = f"{trace.spec or trace.program}_{trace.verdict.id or trace.verdict.kind}"
    words = re.sub(r"\W+", "_", what).strip("_").lower()
    comment = [f"{trace.verdict}."]
    if trace.pair is not None:
        comment += ["", "What matters is the order of two accesses:", *trace.pair.describe(trace.cpus).splitlines()]
    comment += ["", "Where the fix changes who does what, this schedule no longer fits: explore() finds out then."]
    text = "\n".join(f"    # {line}".rstrip() for line in comment)
    return (
        f"{imports}\n\n\ndef test_{words}() -> None:\n{text}\n"
        f"    trace = replay({str(trace.schedule)!r}{argument})\n"
        "    assert trace.verdict.holds, trace.verdict\n"
    )
