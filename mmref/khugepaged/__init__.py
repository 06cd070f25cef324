# SPDX-License-Identifier: GPL-2.0-only
"""collapse_file(): strategies, their shared steps, result codes, and a museum of bugs."""

from mmref.khugepaged.collapse import CollapseResult, collapse_file
from mmref.khugepaged.control import CollapseControl, TraceEvent
from mmref.khugepaged.daemon import Khugepaged
from mmref.khugepaged.freeze_and_replace import FreezeAndReplace
from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.madvise import madvise_collapse
from mmref.khugepaged.museum import MUSEUM
from mmref.khugepaged.page_tables import collapse_pte_mapped_thp, retract_page_tables
from mmref.khugepaged.registry import get_strategy, strategies
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.scan import hpage_collapse_scan_file
from mmref.khugepaged.strategy import Abandon, CollapseRun, CollapseStrategy
from mmref.khugepaged.upstream_6_12 import Upstream612

__all__ = [
    "MUSEUM",
    "Abandon",
    "CollapseControl",
    "CollapseResult",
    "CollapseRun",
    "CollapseStrategy",
    "FreezeAndReplace",
    "Khugepaged",
    "LockAndInsertLate",
    "ScanResult",
    "TraceEvent",
    "Upstream612",
    "collapse_file",
    "collapse_pte_mapped_thp",
    "get_strategy",
    "hpage_collapse_scan_file",
    "madvise_collapse",
    "retract_page_tables",
    "strategies",
]
