# SPDX-License-Identifier: GPL-2.0-only
"""On whose behalf a collapse runs, and what it leaves in the trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mmref.khugepaged.result import ScanResult
from mmref.pagecache import Mm

__all__ = ["CollapseControl", "TraceEvent"]


@dataclass(frozen=True)
class TraceEvent:
    """One line of the trace.

    Attributes:
        name: ``scan_file``, ``collapse_file`` (tracepoints mm_khugepaged_*) or ``collapse_pte_mapped_thp``.
        by: ``self`` or ``khugepaged``.
        result: what it came to.
        present: pages that the scan found in the cache.
        swap: pages that it found in swap.
    """

    name: str
    by: str
    result: ScanResult
    present: int = 0
    swap: int = 0


@dataclass
class CollapseControl:
    """Kernel: struct collapse_control, mm/khugepaged.c, with the arguments that go with it everywhere.

    Attributes:
        is_khugepaged: the daemon asks, not MADV_COLLAPSE: its limits apply.
        mm: the process that it is done for, or None to collapse the page cache alone.
        address: where that process maps the range (bytes).
        max_ptes_none: how many pages may be missing (only the daemon cares).
        max_ptes_swap: how many pages may be in swap (only the daemon cares).
        node_reclaim: nodes reclaim on their own, so pages of far nodes are not brought together.
        node_load: how many pages of the range each NUMA node has.
        pte_mapped: where a page table is left for khugepaged to take away later.
        trace: what has happened.
    """

    is_khugepaged: bool = False
    mm: Mm | None = None
    address: int = 0
    max_ptes_none: int = 511
    max_ptes_swap: int = 64
    node_reclaim: bool = False
    node_load: Counter[int] = field(default_factory=Counter)
    pte_mapped: list[tuple[Mm, int]] = field(default_factory=list)
    trace: list[TraceEvent] = field(default_factory=list)

    @property
    def by(self) -> str:
        """Who it is, for the trace."""
        return "khugepaged" if self.is_khugepaged else "self"

    def target_node(self) -> int | None:
        """Return the node that has most of the pages. Kernel: hpage_collapse_find_target_node(), mm/khugepaged.c."""
        if not self.node_load:
            return None
        return max(sorted(self.node_load), key=lambda node: self.node_load[node])

    def note(self, name: str, result: ScanResult, present: int = 0, swap: int = 0) -> None:
        """Add a line to the trace."""
        self.trace.append(TraceEvent(name, self.by, result, present, swap))
