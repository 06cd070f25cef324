# SPDX-License-Identifier: GPL-2.0-only
"""Broken memory, and pages that are moved before their memory breaks."""

from __future__ import annotations

from errno import EBUSY

from mmref.folio import PG_HWPOISON, Folio
from mmref.pagecache.filemap import filemap_get_entry
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.rmap import try_to_unmap
from mmref.pagecache.split import split_folio
from mmref.xarray import XaState

__all__ = ["memory_failure", "soft_offline_page"]


def _small_folio(mapping: AddressSpace, index: int) -> Folio | None:
    """Return the folio at an index with a reference, split to single pages if it was larger; None if there is none."""
    entry = filemap_get_entry(mapping, index)
    if not isinstance(entry, Folio):
        return None
    if entry.order:
        entry.lock()
        done = entry.mapping is mapping and split_folio(entry)
        entry.unlock()
        entry.put()
        if not done:
            raise OSError(EBUSY, f"The huge page at page {index} cannot be split")
        entry = filemap_get_entry(mapping, index)
        if not isinstance(entry, Folio):
            return None
    return entry


def memory_failure(mapping: AddressSpace, index: int) -> None:
    """Let the memory of a page break. Kernel: memory_failure(), mm/memory-failure.c.

    A huge page is split first. The page is unmapped, taken off the LRU and kept: on tmpfs it stays in the page cache,
    so that its content is not silently replaced by zeros; reading it fails.

    Raises:
        OSError: EBUSY: the huge page cannot be split, or the page is not on the LRU.
    """
    memory = mapping.memory
    memory.lru.drain_all()
    folio = _small_folio(mapping, index)
    if folio is None:
        return
    folio.lock()
    folio.set_flag(PG_HWPOISON)
    if folio.mapped():
        try_to_unmap(folio)
    if memory.lru.isolate(folio):
        folio.put()  # of the isolation
    folio.broken = True
    folio.unlock()  # and the reference stays: the page is never used again


def soft_offline_page(mapping: AddressSpace, index: int) -> None:
    """Move a page to other memory. Kernel: soft_offline_page(), mm/memory-failure.c.

    A huge page is split first. The page's old memory is lost for good.

    Raises:
        OSError: EBUSY: the huge page cannot be split, or the page is in use.
    """
    memory = mapping.memory
    memory.lru.drain_all()
    folio = _small_folio(mapping, index)
    if folio is None:
        return
    folio.lock()
    if folio.mapped():
        try_to_unmap(folio)
    copy = memory.alloc_folio(0, folio.nid)
    if copy is None or not memory.lru.isolate(folio):
        if copy is not None:
            copy.put()
        folio.unlock()
        folio.put()
        raise OSError(EBUSY, f"Page {index} cannot be moved")
    copy.trylock()
    with mapping.i_pages.xa_lock:  # Kernel: folio_migrate_mapping()
        moved = folio.ref_freeze(3)
        if moved:
            copy.copy_page(0, folio, 0)
            copy.memcg, folio.memcg = folio.memcg, None
            copy.index, copy.mapping = index, mapping
            copy.copy_flags(folio)
            copy.get()
            XaState(mapping.i_pages, index).store(copy)
            folio.mapping = None
            folio.ref_unfreeze(2)
    if moved:
        memory.lru.add(copy)
        folio.put()
    else:
        memory.lru.putback(folio)
    copy.unlock()
    copy.put()
    folio.unlock()
    folio.put()
    if not moved:
        raise OSError(EBUSY, f"Page {index} is in use")
