# SPDX-License-Identifier: GPL-2.0-only
"""Splitting a large folio back into single pages."""

from __future__ import annotations

from mmref.errors import MmrefInternalError
from mmref.folio import Folio
from mmref.pagecache.filemap import account_folio
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.rmap import try_to_unmap
from mmref.pagecache.vmstat import NR_FILE_THPS, NR_SHMEM_THPS
from mmref.xarray import XaState

__all__ = ["split_folio"]


def split_folio(folio: Folio, pins: int = 1) -> bool:
    """Replace a locked large folio by folios of one page each, with the same content.

    Kernel: split_huge_page_to_list(), mm/huge_memory.c. There the head page stays what it was and the tail
    pages become folios of their own; here new folios take the place of all.

    Args:
        folio: the folio, locked.
        pins: how many references the caller holds.

    Context: takes xa_lock, and freezes the count while it does, which is legal because it does not sleep meanwhile.

    Returns:
        False if somebody else holds a reference, memory is out, or the tree cannot split an entry of that order:
        nothing has changed then.
    """
    mapping = folio.mapping
    if not isinstance(mapping, AddressSpace):
        raise MmrefInternalError(f"{folio!r} is not in a page cache")
    inode, memory = mapping.host, mapping.memory
    if folio.order >= 2 * mapping.i_pages.chunk_shift:
        return False  # xas_split() makes one level of nodes, no more
    nr, start = folio.nr_pages, folio.index
    if folio.ref_count() != pins + nr + folio.mapcount():
        return False
    if folio.mapped():
        try_to_unmap(folio)
    xas = XaState(mapping.i_pages, start)
    xas.split_alloc(folio, folio.order)
    if xas.error:
        return False
    with mapping.i_pages.xa_lock:
        xas.reset()
        if xas.load() is not folio or not folio.ref_freeze(pins + nr):
            xas.destroy()
            return False
        if folio.order == inode.pmd_order:
            memory.vmstat.add(NR_SHMEM_THPS if inode.is_shmem else NR_FILE_THPS, -nr, folio)
            if not inode.is_shmem:
                mapping.nr_thps -= 1  # Linux 1ca7554d05ac (v5.15)
        xas.split(folio, folio.order)
        tails = memory.allocator.split(folio)
        end = max(inode.nr_pages, inode.fallocend)
        for tail in tails:
            tail.mapping = mapping
            tail.index = start + (tail.pfn - folio.pfn)
            xas.set(tail.index)
            xas.store(tail if tail.index < end else None)
        gone = [tail for tail in tails if tail.index >= end]
        if gone:
            _remove_behind_eof(mapping, gone)
        folio.ref_unfreeze(pins + 1)
    if gone and inode.is_shmem:
        inode.uncharge(len(gone))
    for tail in tails:
        tail.ref_unfreeze(1 if tail.mapping is None else 2)
        memory.lru.add_tail(tail)
        tail.unlock()
        tail.put()
    return True


def _remove_behind_eof(mapping: AddressSpace, gone: list[Folio]) -> None:
    """Drop pages behind the end of the file, as the split leaves them out.

    Kernel: __split_huge_page(), mm/huge_memory.c. Context: xa_lock is held.
    """
    nr = len(gone)
    account_folio(mapping, gone[0], -nr)
    for tail in gone:
        tail.mapping = None
    mapping.nrpages -= nr
