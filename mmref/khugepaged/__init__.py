# SPDX-License-Identifier: GPL-2.0-only
"""collapse_file(): strategies, their shared steps, result codes, and a museum of bugs."""

from mmref.khugepaged.collapse import CollapseResult, collapse_file
from mmref.khugepaged.freeze_and_replace import FreezeAndReplace
from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.museum import MUSEUM
from mmref.khugepaged.registry import get_strategy, strategies
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun, CollapseStrategy

__all__ = [
    "MUSEUM",
    "Abandon",
    "CollapseResult",
    "CollapseRun",
    "CollapseStrategy",
    "FreezeAndReplace",
    "LockAndInsertLate",
    "ScanResult",
    "collapse_file",
    "get_strategy",
    "strategies",
]
