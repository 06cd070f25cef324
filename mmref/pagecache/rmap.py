# SPDX-License-Identifier: GPL-2.0-only
"""From a folio to the page tables that map it, and how to take it out of them.

Conventions in this file: `first` and `nr` are in pages of the file; removing a present entry drops one mapping
and one reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.folio import Folio
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.page_table import HugePmd, PageTable, Pte, PteMarker, SwapPte
from mmref.pagecache.tlb import FlushBatch

if TYPE_CHECKING:
    from mmref.pagecache.vma import Vma

__all__ = ["AnonVma", "folio_test_anon", "try_to_unmap", "try_to_unmap_flush", "unmap_mapping_folio",
           "unmap_mapping_range"]  # fmt: skip


class AnonVma:
    """Where the private copies of a VMA's pages belong: what `folio.mapping` is for an anonymous folio.

    Kernel: struct anon_vma, include/linux/rmap.h.
    """

    def __init__(self) -> None:
        self.vmas: dict[Vma, None] = {}


def folio_test_anon(folio: Folio) -> bool:
    """Tell whether a folio is a private copy. Kernel: folio_test_anon(), include/linux/page-flags.h."""
    return isinstance(folio.mapping, AnonVma)


def try_to_unmap(folio: Folio, batch_flush: bool = False) -> None:
    """Take a locked folio out of all page tables.

    Kernel: try_to_unmap(), mm/rmap.c. A PMD that maps it is taken away whole. A page written through an entry makes
    the folio dirty. Where a userfaultfd protects the page, a marker stays.

    Args:
        folio: what to unmap.
        batch_flush: leave the flush of the TLBs to `try_to_unmap_flush()` (TTU_BATCH_FLUSH). Until then a CPU may
            still use what it remembers.

    Context: takes `i_mmap_rwsem` shared and page table locks.
    """
    mapping = folio.mapping
    if isinstance(mapping, AnonVma):
        for vma in list(mapping.vmas):
            _try_to_unmap_one(folio, vma, batch_flush)
    elif isinstance(mapping, AddressSpace):
        mapping.i_mmap_rwsem.down_read()
        try:
            for vma in mapping.vmas(folio.index, folio.next_index - 1):
                _try_to_unmap_one(folio, vma, batch_flush)
        finally:
            mapping.i_mmap_rwsem.up_read()


def _try_to_unmap_one(folio: Folio, vma: Vma, batch_flush: bool) -> None:
    """Take a folio out of one VMA. Kernel: try_to_unmap_one(), mm/rmap.c."""
    mm = vma.mm
    size = mm.memory.page_size
    first = max(folio.index, vma.vm_pgoff)
    for index in range(first, min(folio.next_index, vma.vm_pgoff + vma.nr_pages)):
        address = vma.address_of(index)
        pmd = mm.pmd(mm.pmd_of(address))
        if isinstance(pmd, HugePmd):
            if pmd.folio is folio:
                mm.split_huge_pmd(mm.pmd_of(address))
            continue
        if pmd is None:
            continue
        offset = mm.pte_of(address)
        with pmd.lock:
            pte = pmd.get(offset)
            if not isinstance(pte, Pte) or pte.folio is not folio:
                continue
            pmd.get_and_clear(offset)
            if batch_flush:
                batch = mm.memory.flush_batch
                if batch is None:
                    batch = mm.memory.flush_batch = FlushBatch()
                batch.add(mm.tlb)
            else:
                mm.tlb.flush_range(address // size, 1)
            if pte.dirty:
                folio.mark_dirty()
            if isinstance(folio.mapping, AnonVma):
                pmd.set(offset, SwapPte(folio.swap) if folio.test_swapcache() else None)
            elif pte.uffd_wp:
                pmd.set(offset, PteMarker.UFFD_WP)
            folio.remove_rmap()
        folio.put()


def try_to_unmap_flush(mapping: AddressSpace) -> None:
    """Flush the TLBs for all that this CPU has unmapped in a batch. Kernel: try_to_unmap_flush(), mm/rmap.c."""
    batch = mapping.memory.flush_batch
    if batch is not None:
        batch.flush()


def unmap_mapping_range(mapping: AddressSpace, first: int, nr: int | None = None, even_cows: bool = True) -> None:
    """Take pages of a file out of all page tables.

    Kernel: unmap_mapping_range(), mm/memory.c.

    Args:
        mapping: the file.
        first: first page.
        nr: how many; None for all that follow.
        even_cows: private copies too: a truncation takes them away, a punch does not.

    Context: takes `i_mmap_rwsem` shared and page table locks.
    """
    last = (1 << 60) if nr is None else first + nr - 1
    mapping.i_mmap_rwsem.down_read()
    try:
        for vma in mapping.vmas(first, last):
            start = max(first, vma.vm_pgoff)
            behind = min(last + 1, vma.vm_pgoff + vma.nr_pages)
            low = vma.address_of(start)
            vma.mm.zap_range(low, low + (behind - start) * vma.page_size, even_cows)
    finally:
        mapping.i_mmap_rwsem.up_read()


def unmap_mapping_folio(folio: Folio) -> None:
    """Take a locked folio of a file out of all page tables. Kernel: unmap_mapping_folio(), mm/memory.c."""
    mapping = folio.mapping
    if isinstance(mapping, AddressSpace):
        unmap_mapping_range(mapping, folio.index, folio.nr_pages, even_cows=False)


def peek_table(pmd: object) -> PageTable | None:
    """Return a PMD entry if it points to a page table."""
    return pmd if isinstance(pmd, PageTable) else None
