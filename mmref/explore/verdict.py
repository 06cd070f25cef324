# SPDX-License-Identifier: GPL-2.0-only
"""How one execution ended."""

from __future__ import annotations

import re
from typing import NamedTuple

from mmref.errors import Deadlock, Finding, InvariantViolation, Livelock
from mmref.explore.errors import StepLimit
from mmref.explore.scheduler import BLOCKED, Run

__all__ = ["Verdict", "without_addresses"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Verdict(NamedTuple):
    """How an execution ended.

    Attributes:
        kind: "holds"; "violation" (an invariant or assertion); "deadlock"; "livelock"; "step-limit"; "error" (any
            other exception); "unfinished" (the schedule ended first).
        id: of the invariant, or the name of the exception's class; "" where the kind says all.
        detail: what was seen, in a sentence.
        cpu: in whose code, or after whose step, it was seen; None if it is nobody's in particular.
    """

    kind: str
    id: str = ""
    detail: str = ""
    cpu: int | None = None

    @classmethod
    def of(cls, run: Run) -> Verdict:
        """Return the verdict of an execution that has ended."""
        finding = run.finding
        if finding is None:
            return cls("unfinished" if run.end == BLOCKED else "holds")
        if isinstance(finding, Livelock):
            return cls("livelock", "", str(finding))
        if isinstance(finding, Deadlock):
            return cls("deadlock", "", str(finding))
        if isinstance(finding, StepLimit):
            return cls("step-limit", "", str(finding), run.culprit)
        if isinstance(finding, InvariantViolation):
            return cls("violation", finding.invariant, finding.detail, run.culprit)
        name = type(finding).__name__
        if isinstance(finding, Finding | AssertionError):
            return cls("violation", name, _one_line(finding), run.culprit)
        return cls("error", name, _one_line(finding), run.culprit)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong with this execution."""
        return self.kind in {"holds", "unfinished"}

    def same_finding(self, other: Verdict) -> bool:
        """Tell whether both say that the same thing is wrong (the details may differ)."""
        return self.kind == other.kind and self.id == other.id

    def __str__(self) -> str:
        return ": ".join(part for part in (self.kind, self.id, self.detail) if part)


def _one_line(error: Exception) -> str:
    return without_addresses(str(error).partition("\n")[0])


def without_addresses(text: str) -> str:
    """Return text without the addresses in it, which are never twice the same."""
    return _ADDRESS.sub("", text)
