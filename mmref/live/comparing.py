# SPDX-License-Identifier: GPL-2.0-only
"""Run a program on the running kernel and on the model of it, and compare what they show, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mmref.errors import Finding
from mmref.live.generation import Kernel, running_kernel
from mmref.live.kernel import CannotRun, run_on_kernel
from mmref.live.model import ModelFile, NotExpressed
from mmref.live.observation import StepResult
from mmref.live.program import Op, Program

__all__ = ["Comparison", "Difference", "Verdict", "compare", "first_difference"]

Verdict = Literal["agrees", "differs", "unstable", "not expressed", "cannot run"]

ANSWERS = ("died", "ret", "errno", "sigbus")
"""What an operation answers, apart from the state of the file."""


@dataclass(frozen=True)
class Difference:
    """The first thing that is not the same.

    Attributes:
        step: number of the operation, from 1.
        op: the operation.
        field: what differs: an answer, or a field of `Observation`.
        kernel, model: what each had to say.
    """

    step: int
    op: Op
    field: str
    kernel: Any
    model: Any

    def __str__(self) -> str:
        return (
            f"step {self.step}, {self.op}: {self.field} is\n"
            f"    {self.kernel!r} on the kernel,\n    {self.model!r} in the model"
        )


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to.

    Attributes:
        program: what was run.
        kernel: where.
        verdict: "agrees"; "differs"; "unstable" (the kernel gave two answers to the same program, and one is the
            model's); "not expressed" (the model does not have something of it); "cannot run" (this user may not).
        observations: how many answers and observed fields were compared and found equal.
        difference: the first difference, if there is one.
        reason: why it was not expressed or cannot run.
    """

    program: Program
    kernel: Kernel
    verdict: Verdict
    observations: int = 0
    difference: Difference | None = None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.verdict == "agrees"

    def __str__(self) -> str:
        text = f"{self.verdict}: {self.observations} observations of Linux {self.kernel} agree"
        if self.difference is not None:
            text += f"\n{self.difference}"
        return f"{text}; {self.reason}" if self.reason else text


def first_difference(at: int, op: Op, kernel: StepResult, model: StepResult) -> tuple[Difference | None, int]:
    """Compare what one operation came to.

    Returns:
        the first difference, if any, and how many fields were compared before it.
    """
    fields: list[tuple[str, Any, Any]] = [
        (name, kernel.get(name), model.get(name)) for name in ANSWERS if name in kernel or name in model
    ]
    seen, expected = kernel.get("observe"), model.get("observe")
    if seen is not None and expected is not None:
        fields += [(name, seen.get(name), expected.get(name)) for name in dict.fromkeys((*seen, *expected))]
    for count, (name, theirs, ours) in enumerate(fields):
        if theirs != ours:
            return Difference(at + 1, op, name, theirs, ours), count
    return None, len(fields)


def compare(program: Program, kernel: Kernel | None = None, again: int = 2) -> Comparison:
    """Run a program on this machine's kernel and on the model of it, and compare them.

    Args:
        program: what to run.
        kernel: whose model to compare with; None for the running kernel's.
        again: how often to ask the kernel again before a difference is believed.

    Raises:
        UsageError: the program cannot run (see `Program.check()`), or this is not Linux.
    """
    kernel = kernel or running_kernel()
    try:
        seen = run_on_kernel(program)
        found = _against_model(program, kernel, seen)
        for _ in range(again if found.verdict == "differs" else 0):
            repeated = run_on_kernel(program)
            if repeated != seen and _against_model(program, kernel, repeated).verdict == "agrees":
                reason = "asked again, the kernel answers as the model does"
                return Comparison(program, kernel, "unstable", found.observations, found.difference, reason)
    except CannotRun as error:
        return Comparison(program, kernel, "cannot run", reason=str(error))
    return found


def _against_model(program: Program, kernel: Kernel, seen: list[StepResult]) -> Comparison:
    """Run the model step by step, as far as it does what the kernel did."""
    file = ModelFile(kernel)
    observations = 0
    for at, (op, theirs) in enumerate(zip(program, seen, strict=False)):
        try:
            ours = file.step(op)
        except NotExpressed as why:
            return Comparison(program, kernel, "not expressed", observations, reason=str(why))
        except Finding as finding:
            difference = Difference(at + 1, op, "invariants", "no complaint", str(finding))
            return Comparison(program, kernel, "differs", observations, difference)
        different, equal = first_difference(at, op, theirs, ours)
        observations += equal
        if different is not None:
            return Comparison(program, kernel, "differs", observations, different)
    return Comparison(program, kernel, "agrees", observations)
