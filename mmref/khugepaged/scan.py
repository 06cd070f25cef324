# SPDX-License-Identifier: GPL-2.0-only
"""A look at a range before it is collapsed: is it worth it, and can it work?"""

from __future__ import annotations

from mmref.folio import Folio
from mmref.khugepaged.control import CollapseControl
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import CollapseRun, CollapseStrategy
from mmref.pagecache import AddressSpace
from mmref.sync import cpu_relax, rcu_read_lock, rcu_read_unlock
from mmref.xarray import XaState

__all__ = ["hpage_collapse_scan_abort", "hpage_collapse_scan_file"]


def hpage_collapse_scan_abort(nid: int, control: CollapseControl) -> bool:
    """Tell whether a node is too far from the others. Kernel: hpage_collapse_scan_abort(), mm/khugepaged.c."""
    if not control.node_reclaim or control.node_load[nid]:
        return False
    return bool(+control.node_load)


def hpage_collapse_scan_file(
    mapping: AddressSpace, start: int, strategy: CollapseStrategy, control: CollapseControl
) -> tuple[ScanResult, int]:
    """Look at a range of a file, and collapse it if it looks good.

    Kernel: hpage_collapse_scan_file(), mm/khugepaged.c.

    Args:
        mapping: the file.
        start: first page, a multiple of the huge page.
        strategy: how to collapse it.
        control: on whose behalf.

    Returns:
        the result, and how many holes were filled, or would have been (pages).

    Context: takes neither locks nor references to the folios it looks at (until Linux 595cf683519a, v6.16), so
    one of them may be split or freed meanwhile, and what it finds is out of date at once.
    """
    order = mapping.host.pmd_order
    nr = 1 << order
    present = swap = 0
    control.node_load.clear()
    result = ScanResult.SUCCEED
    xas = XaState(mapping.i_pages, start)
    rcu_read_lock()
    entry: Folio | int | None = xas.find(start + nr - 1)
    while entry is not None:
        if xas.retry(entry):
            cpu_relax()
        elif isinstance(entry, int):
            swap += 1
            if control.is_khugepaged and swap > control.max_ptes_swap:
                result = ScanResult.EXCEED_SWAP_PTE
                break
        else:
            result = look_at_folio(entry, start, order, strategy, control)
            if result is not ScanResult.SUCCEED:
                break
            present += entry.nr_pages
        entry = xas.find(start + nr - 1)
    rcu_read_unlock()
    holes = 0
    if result is ScanResult.SUCCEED:
        if control.is_khugepaged and present < nr - control.max_ptes_none:
            result = ScanResult.EXCEED_NONE_PTE
        else:
            run = CollapseRun(mapping, start, order, control)
            result = strategy.collapse(run)
            holes = max(run.nr_none, run.holes_met)
            control.note("collapse_file", result)
    control.note("scan_file", result, present, swap)
    return result, holes


def look_at_folio(
    folio: Folio, start: int, order: int, strategy: CollapseStrategy, control: CollapseControl
) -> ScanResult:
    """Say whether a folio looks as if it could be collapsed."""
    if folio.order == order and folio.index == start:
        return ScanResult.PTE_MAPPED_HUGEPAGE
    if folio.order and not strategy.collapses_large:
        return ScanResult.PAGE_COMPOUND
    if hpage_collapse_scan_abort(folio.nid, control):
        return ScanResult.SCAN_ABORT
    control.node_load[folio.nid] += 1
    if not folio.test_lru():
        return ScanResult.PAGE_LRU
    if folio.ref_count() != folio.mapcount() + folio.nr_pages + int(folio.test_private()):
        return ScanResult.PAGE_COUNT
    return ScanResult.SUCCEED
