# SPDX-License-Identifier: GPL-2.0-only
"""Run every interleaving of simulated CPUs that matters, and show the one that goes wrong."""

from __future__ import annotations

from mmref.explore.cells import Cell, Mutex
from mmref.explore.errors import NondeterministicProgram, StepLimit
from mmref.explore.explorer import explore, replay
from mmref.explore.program import Execution, Program, Scenario
from mmref.explore.report import Completed, Progress, Report
from mmref.explore.schedule import Schedule
from mmref.explore.trace import Trace, TraceEvent, Verdict

__all__ = ["Cell", "Completed", "Execution", "Mutex", "NondeterministicProgram", "Program", "Progress", "Report",
           "Scenario", "Schedule", "StepLimit", "Trace", "TraceEvent", "Verdict", "explore", "replay"]
