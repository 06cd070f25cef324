# SPDX-License-Identifier: GPL-2.0-only
"""Page tables around a collapse: taking them away, and mapping the huge page by a PMD in their place.

Conventions in this file: `address` is the first address of a huge page (bytes), `index` its first page in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.folio import Folio
from mmref.khugepaged.result import ScanResult
from mmref.pagecache import AddressSpace, HugePmd, Mm, PageTable, Pte, Vma, do_set_pmd, filemap_lock_folio

if TYPE_CHECKING:
    from mmref.khugepaged.control import CollapseControl

__all__ = ["collapse_pte_mapped_thp", "find_pmd_or_thp_or_none", "hugepage_vma_check", "retract_page_tables",
           "retract_page_tables_exclusively"]  # fmt: skip


def find_pmd_or_thp_or_none(mm: Mm, address: int) -> ScanResult:
    """Say what a PMD entry holds: SUCCEED for a page table. Kernel: find_pmd_or_thp_or_none(), mm/khugepaged.c."""
    at = mm.pmd_of(address)
    pmd = mm.pmd(at)
    if pmd is None:
        return ScanResult.PMD_NONE if mm.has_pmd_table(at) else ScanResult.PMD_NULL
    return ScanResult.PMD_MAPPED if isinstance(pmd, HugePmd) else ScanResult.SUCCEED


def hugepage_vma_check(vma: Vma) -> bool:
    """Tell whether MADV_COLLAPSE may work on a VMA, whatever the sysfs settings say.

    Kernel: thp_vma_allowable_order(), include/linux/huge_mm.h (6.1: hugepage_vma_check(), mm/huge_memory.c).
    """
    if vma.thp_disabled() or not vma.suitable(vma.vm_end - vma.mm.huge_size):
        return False
    inode = vma.mapping.host
    if inode.is_shmem:
        return True
    needs_exec = vma.mm.memory.rules.ro_thp_needs_exec
    return (not needs_exec or "x" in vma.prot) and inode.i_writecount <= 0


def collapse_pte_mapped_thp(mm: Mm, address: int, install_pmd: bool) -> ScanResult:
    """Replace a page table by a PMD entry, if all it maps are pages of the huge folio in the cache.

    Kernel: collapse_pte_mapped_thp(), mm/khugepaged.c.

    Args:
        mm: the process.
        address: where.
        install_pmd: map the huge folio; otherwise only take the page table away.

    Context: `mmap_lock` is held (exclusively until Linux 1043173eb5eb, v6.6); takes the folio lock.
    """
    vma = mm.find_vma(address)
    result = find_pmd_or_thp_or_none(mm, address)
    if result is ScanResult.PMD_MAPPED:
        return result
    if vma is None or address < vma.vm_start or address + mm.huge_size > vma.vm_end:
        return ScanResult.VMA_CHECK
    if not hugepage_vma_check(vma):
        return ScanResult.VMA_CHECK
    if vma.userfaultfd_wp():  # the page table may hold markers
        return ScanResult.PTE_UFFD_WP
    folio = filemap_lock_folio(vma.mapping, vma.index_of(address))
    if folio is None:
        return ScanResult.PAGE_NULL
    try:
        if folio.order != mm.order:
            return ScanResult.PAGE_COMPOUND
        result = find_pmd_or_thp_or_none(mm, address)
        if result is ScanResult.SUCCEED:
            result = _clear_page_table(mm, address, folio)
            if result is not ScanResult.SUCCEED:
                return result
        elif result is not ScanResult.PMD_NONE:
            return result
        return _set_huge_pmd(vma, address, folio) if install_pmd else ScanResult.SUCCEED
    finally:
        folio.unlock()
        folio.put()


def _clear_page_table(mm: Mm, address: int, folio: Folio) -> ScanResult:
    """Check that a page table maps nothing but a folio, and take it away. Context: the folio is locked."""
    at = mm.pmd_of(address)
    table = mm.pmd(at)
    if not isinstance(table, PageTable):
        return ScanResult.FAIL
    nr, removed = 1 << mm.order, 0
    with table.lock:
        for page in range(nr):  # step 1: check that all entries are of this folio
            pte = table.get(page)
            if pte is None:
                continue
            if not isinstance(pte, Pte):
                return ScanResult.PTE_NON_PRESENT
            if pte.folio is not folio or pte.page != page:
                return ScanResult.FAIL
        for page in range(nr):  # step 2: clear them
            if table.get(page) is not None:
                table.get_and_clear(page)
                removed += 1
        if removed:
            folio.remove_rmap(removed)
    if removed:  # step 3: the references that the entries had
        folio.ref_sub(removed)
    with mm.page_table_lock:  # step 4: take the empty page table away
        mm.set_pmd(at, None)
        mm.tlb.flush_range(mm.pmd_address(at) // mm.memory.page_size, nr)
    return ScanResult.SUCCEED


def _set_huge_pmd(vma: Vma, address: int, folio: Folio) -> ScanResult:
    """Map a huge folio by a PMD entry. Kernel: set_huge_pmd(), mm/khugepaged.c."""
    return ScanResult.SUCCEED if do_set_pmd(vma, vma.mm.pmd_of(address), folio, False) else ScanResult.FAIL


def _candidate(vma: Vma, index: int) -> int | None:
    """Return the address at which a VMA maps a huge page, or None if it does not map all of it, aligned."""
    address = vma.address_of(index)
    if address % vma.mm.huge_size or address < vma.vm_start or address + vma.mm.huge_size > vma.vm_end:
        return None
    return address


def _free_page_table(mm: Mm, address: int) -> None:
    """Take a page table away that maps nothing any more. Kernel: collapse_and_free_pmd(), mm/khugepaged.c (6.1)."""
    at = mm.pmd_of(address)
    with mm.page_table_lock:
        mm.set_pmd(at, None)
        mm.tlb.flush_range(mm.pmd_address(at) // mm.memory.page_size, 1 << mm.order)


def _keeps_page_table(vma: Vma) -> bool:
    """Tell whether a page table holds more than the page cache knows: private copies, or markers."""
    return vma.anon_vma is not None or vma.userfaultfd_wp()


def retract_page_tables(mapping: AddressSpace, index: int) -> None:
    """Take away all page tables that map a huge page, so that it is faulted in by a PMD next time.

    Kernel: retract_page_tables(), mm/khugepaged.c (6.12). VMAs with private copies, or whose write-protection a
    userfaultfd watches, keep theirs.

    Context: the new folio is locked; takes `i_mmap_rwsem` shared.
    """
    mapping.i_mmap_rwsem.down_read()
    try:
        for vma in mapping.vmas(index, index):
            if vma.anon_vma is not None:
                continue
            address = _candidate(vma, index)
            if address is None or find_pmd_or_thp_or_none(vma.mm, address) is not ScanResult.SUCCEED:
                continue
            if vma.mm.exiting or _keeps_page_table(vma):
                continue
            at = vma.mm.pmd_of(address)
            table = vma.mm.pmd(at)
            if not isinstance(table, PageTable):
                continue
            with vma.mm.page_table_lock, table.lock:
                if not _keeps_page_table(vma):  # look again, now that it cannot change
                    vma.mm.set_pmd(at, None)
                    vma.mm.tlb.flush_range(vma.mm.pmd_address(at) // mapping.memory.page_size, 1 << vma.mm.order)
    finally:
        mapping.i_mmap_rwsem.up_read()


def retract_page_tables_exclusively(
    mapping: AddressSpace, index: int, new: Folio, control: CollapseControl
) -> ScanResult:
    """Do as `retract_page_tables()` did until Linux 1d65b771bc08 (v6.6), and map the huge page for the caller.

    Kernel: retract_page_tables(), mm/khugepaged.c (6.1). MADV_COLLAPSE only touches the caller's own page table.

    Returns:
        what became of the caller's page table: PMD_NONE if it had none, which MADV_COLLAPSE reports as EINVAL
        although the page cache has been collapsed; SUCCEED if there is no caller.

    Context: the new folio is locked; takes `i_mmap_rwsem` exclusively, and tries `mmap_lock`.
    """
    target_result = ScanResult.FAIL if control.mm is not None else ScanResult.SUCCEED
    mapping.i_mmap_rwsem.down_write()
    try:
        for vma in mapping.vmas(index, index):
            address = _candidate(vma, index)
            if vma.anon_vma is not None or address is None:
                continue  # even if it is the caller's own: the result stays FAIL
            is_target = vma.mm is control.mm and address == control.address
            result = _retract_one(vma, address, is_target, new, control)
            if is_target:
                target_result = result
    finally:
        mapping.i_mmap_rwsem.up_write()
    return target_result


def _retract_one(vma: Vma, address: int, is_target: bool, new: Folio, control: CollapseControl) -> ScanResult:
    mm = vma.mm
    result = find_pmd_or_thp_or_none(mm, address)
    if result is not ScanResult.SUCCEED:
        return result
    if not (control.is_khugepaged or is_target) or not mm.mmap_lock.down_write_trylock():
        if not is_target:
            control.pte_mapped.append((mm, address))  # khugepaged tries again later
        return ScanResult.PTE_MAPPED_HUGEPAGE
    try:
        if vma.anon_vma is not None:
            return ScanResult.PAGE_ANON
        if mm.exiting:
            return ScanResult.ANY_PROCESS
        if vma.userfaultfd_wp():
            return ScanResult.PTE_UFFD_WP
        _free_page_table(mm, address)
        if is_target and not control.is_khugepaged:
            return _set_huge_pmd(vma, address, new)
        return ScanResult.SUCCEED
    finally:
        mm.mmap_lock.up_write()
