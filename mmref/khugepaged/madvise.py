# SPDX-License-Identifier: GPL-2.0-only
"""madvise(2) with MADV_COLLAPSE: collapse now, over as many huge pages as the range holds."""

from __future__ import annotations

from errno import EINVAL, ENOMEM, errorcode

from mmref.khugepaged.control import CollapseControl
from mmref.khugepaged.page_tables import collapse_pte_mapped_thp, hugepage_vma_check
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.scan import hpage_collapse_scan_file
from mmref.khugepaged.strategy import CollapseStrategy
from mmref.pagecache import Mm, Vma

__all__ = ["CONTINUE_ON", "hugepage_vma_revalidate", "madvise_collapse"]

CONTINUE_ON = frozenset({
    ScanResult.PMD_NULL, ScanResult.PTE_NON_PRESENT, ScanResult.PTE_UFFD_WP, ScanResult.PAGE_RO,
    ScanResult.LACK_REFERENCED_PAGE, ScanResult.PAGE_NULL, ScanResult.PAGE_COUNT, ScanResult.PAGE_LOCK,
    ScanResult.PAGE_COMPOUND, ScanResult.PAGE_LRU, ScanResult.DEL_PAGE_LRU,
})  # fmt: skip
"""After these results the next huge page is tried; after any other the call ends. PAGE_FILLED, for which trying again
may help, is not among them: odd, but so it is."""


def hugepage_vma_revalidate(mm: Mm, address: int) -> tuple[ScanResult, Vma | None]:
    """Look the VMA up again after `mmap_lock` was given up. Kernel: hugepage_vma_revalidate(), mm/khugepaged.c."""
    if mm.exiting:
        return ScanResult.ANY_PROCESS, None
    vma = next((vma for vma in mm.vmas if vma.vm_end > address), None)  # Kernel: find_vma()
    if vma is None:
        return ScanResult.VMA_NULL, None
    if not vma.suitable(address):
        return ScanResult.ADDRESS_RANGE, vma
    if not hugepage_vma_check(vma):
        return ScanResult.VMA_CHECK, vma
    return ScanResult.SUCCEED, vma


def madvise_collapse(
    mm: Mm, start: int, length: int, strategy: CollapseStrategy, control: CollapseControl | None = None
) -> None:
    """Collapse all whole huge pages in a range of addresses.

    Kernel: madvise_walk_vmas(), mm/madvise.c, with madvise_collapse(), mm/khugepaged.c, for each VMA.

    Args:
        mm: the process.
        start: first address (bytes), the start of a page.
        length: how far (bytes), rounded up to pages.
        strategy: how to collapse.
        control: filled with the trace, if given.

    Raises:
        OSError: EINVAL, EAGAIN, EBUSY, ENOMEM: what the last huge page that failed came to. Huge pages before it, and
            after it if the kernel goes on, have been collapsed all the same.
    """
    size = mm.memory.page_size
    end = start + -(-length // size) * size
    if start % size or length < 0:
        raise OSError(EINVAL, f"{start:#x} is not the start of a page, or {length} bytes are less than none")
    control = control or CollapseControl()
    control.mm = mm
    unmapped = False
    while start < end:
        mm.mmap_lock.down_read()
        vma = mm.find_vma(start)
        mm.mmap_lock.up_read()
        if vma is None:
            unmapped = True
            start = min([vma.vm_start for vma in mm.vmas if vma.vm_start > start], default=end)
            continue
        behind = min(end, vma.vm_end)
        _collapse_vma(mm, vma, start, behind, strategy, control)
        start = behind
    if unmapped:
        raise OSError(ENOMEM, "Not all of the range is mapped")


def _collapse_vma(mm: Mm, vma: Vma, start: int, end: int, strategy: CollapseStrategy, control: CollapseControl) -> None:
    """Collapse the part of a range that is in one VMA. Kernel: madvise_collapse(), mm/khugepaged.c."""
    huge = mm.huge_size
    if not hugepage_vma_check(vma):
        raise OSError(EINVAL, f"{vma!r} cannot have huge pages")
    mm.memory.lru.drain_all()
    hstart, hend = -(-start // huge) * huge, end // huge * huge
    collapsed, last_fail = 0, ScanResult.FAIL
    current: Vma | None = vma
    address = hstart
    while address < hend:
        mm.mmap_lock.down_read()
        if address > hstart:
            result, current = hugepage_vma_revalidate(mm, address)
            if result is not ScanResult.SUCCEED or current is None:
                mm.mmap_lock.up_read()
                last_fail = result
                break
            hend = min(hend, current.vm_end // huge * huge)
        if current is None:
            mm.mmap_lock.up_read()
            break
        mapping, index = current.mapping, current.index_of(address)
        mm.mmap_lock.up_read()
        control.address = address
        result, _ = hpage_collapse_scan_file(mapping, index, strategy, control)
        if result is ScanResult.PTE_MAPPED_HUGEPAGE:
            result = _map_huge(mm, address, strategy, control)
        if result in (ScanResult.SUCCEED, ScanResult.PMD_MAPPED):
            collapsed += 1
        else:
            last_fail = result
            if result not in CONTINUE_ON:
                break
        address += huge
    if collapsed != (hend - hstart) // huge:
        errno = last_fail.errno
        raise OSError(errno, f"{errorcode[errno]}: {last_fail.value}, {collapsed} huge pages collapsed")


def _map_huge(mm: Mm, address: int, strategy: CollapseStrategy, control: CollapseControl) -> ScanResult:
    """Map the huge page that is in the cache for the caller."""
    lock = mm.mmap_lock
    if strategy.exclusive_page_tables:
        lock.down_write()
    else:
        lock.down_read()
    try:
        result = collapse_pte_mapped_thp(mm, address, install_pmd=True)
    finally:
        if strategy.exclusive_page_tables:
            lock.up_write()
        else:
            lock.up_read()
    control.note("collapse_pte_mapped_thp", result)
    return result
