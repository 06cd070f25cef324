# SPDX-License-Identifier: GPL-2.0-only
"""The way in: check what was asked for, run a strategy, say what it came to."""

from __future__ import annotations

from dataclasses import dataclass

from mmref.errors import UsageError
from mmref.khugepaged.control import CollapseControl
from mmref.khugepaged.registry import get_strategy
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import CollapseRun, CollapseStrategy
from mmref.pagecache import AddressSpace

__all__ = ["CollapseResult", "collapse_file"]


@dataclass(frozen=True)
class CollapseResult:
    """What a collapse came to.

    Attributes:
        status: the kernel's result code.
        start: first index of the range (pages).
        nr_none: how many holes it filled, or would have filled (pages).
    """

    status: ScanResult
    start: int
    nr_none: int

    @property
    def errno(self) -> int:
        """What MADV_COLLAPSE would report: 0 or a positive errno."""
        return self.status.errno


def collapse_file(
    mapping: AddressSpace,
    start: int,
    strategy: str | CollapseStrategy | type[CollapseStrategy],
    control: CollapseControl | None = None,
) -> CollapseResult:
    """Collapse the huge page of a file that begins at index `start` (pages).

    Kernel: collapse_file(), mm/khugepaged.c. It looks at nothing but the page cache; LRU batches of other
    CPUs are the caller's business, as there (see `Machine.collapse()`).

    Raises:
        UsageError: `start` is negative, not a multiple of the huge page size, or too large.

    Context: no locks held; sleeps.
    """
    order = mapping.host.pmd_order
    if type(start) is not int or start < 0 or start & ((1 << order) - 1) or start >> 52:
        raise UsageError(
            f"A collapse cannot start at page {start!r}: give a multiple of {1 << order} (pages) below 2**52."
        )
    run = CollapseRun(mapping, start, order, control)
    status = get_strategy(strategy).collapse(run)
    run.control.note("collapse_file", status)
    return CollapseResult(status, start, max(run.nr_none, run.holes_met))
