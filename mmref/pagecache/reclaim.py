# SPDX-License-Identifier: GPL-2.0-only
"""Reclaim: getting a folio's memory back, by writing it to swap or by dropping what is on disk anyway."""

from __future__ import annotations

from mmref.folio import Folio, MemCgroup
from mmref.pagecache.filemap import account_folio
from mmref.pagecache.mapping import AddressSpace, Memory
from mmref.pagecache.rmap import AnonVma, try_to_unmap, try_to_unmap_flush
from mmref.xarray import XaState

__all__ = ["invalidate_mapping_pages", "reclaim_folio", "remove_mapping", "try_to_free_mem_cgroup_pages"]


def can_swap(memory: Memory, group: MemCgroup | None) -> bool:
    """Tell whether anything can be swapped out at all. Kernel: can_reclaim_anon_pages(), mm/vmscan.c."""
    return memory.swap is not None and (group is None or group.may_swap())


def reclaim_folio(memory: Memory, folio: Folio) -> bool:
    """Try to free one folio of a file. Kernel: shrink_folio_list(), mm/vmscan.c, for one folio.

    A shmem folio goes to swap; one of another file is dropped if it is clean.

    Args:
        memory: the machine's memory.
        folio: the caller has a reference, which it keeps.

    Returns:
        False if it stays: it is in use, locked, off the LRU, dirty, or there is no swap.
    """
    if not memory.lru.isolate(folio):
        return False
    freed = folio.trylock() and _reclaim_locked(memory, folio)
    if not freed:
        memory.lru.putback(folio)
    else:
        folio.put()  # of the isolation
    return freed


def _reclaim_locked(memory: Memory, folio: Folio) -> bool:
    """Do it with the folio locked and isolated; unlocks it."""
    from mmref.pagecache.shmem_swap import shmem_writepage

    mapping = folio.mapping
    if isinstance(mapping, AnonVma):
        return _swap_out_anon(memory, folio)
    if not isinstance(mapping, AddressSpace) or folio.test_writeback():
        folio.unlock()
        return False
    shmem = mapping.host.is_shmem
    if shmem and not can_swap(memory, folio.memcg):
        folio.unlock()
        return False
    if folio.mapped():
        try_to_unmap(folio, batch_flush=True)
        try_to_unmap_flush(mapping)
    if folio.ref_count() != 2 + folio.nr_pages + int(folio.test_private()):
        folio.unlock()
        return False
    if not shmem:
        if folio.test_dirty() or not mapping.host.release_folio(folio):
            folio.unlock()
            return False
        freed = remove_mapping(mapping, folio, pins=2)
        folio.unlock()
        return freed
    if not shmem_writepage(folio):
        folio.unlock()
        return False
    if not folio.trylock():
        return False
    # Unlocked for a moment, it may have been swapped in again, or be about to: then it stays.
    device = memory.swap
    freed = device is not None and folio.test_swapcache() and not folio.test_dirty() and folio.ref_count() == 3
    if freed and device is not None:
        device.cache_delete(folio)  # Kernel: __remove_mapping(), mm/vmscan.c
    folio.unlock()
    return freed


def _swap_out_anon(memory: Memory, folio: Folio) -> bool:
    """Write a private copy to swap; its PTE says where. Kernel: add_to_swap(), mm/swap_state.c, and pageout()."""
    device = memory.swap
    entry = device.alloc(folio) if device is not None and can_swap(memory, folio.memcg) else 0
    if device is None or not entry:
        folio.unlock()
        return False
    device.cache_add(folio, entry)
    try_to_unmap(folio, batch_flush=True)
    if memory.flush_batch is not None:
        memory.flush_batch.flush()
    folio.mapping = None
    device.write(entry, folio)
    folio.lock()
    device.cache_delete(folio)
    folio.unlock()
    return True


def remove_mapping(mapping: AddressSpace, folio: Folio, pins: int) -> bool:
    """Take a clean folio out of its file if nobody else uses it; a shadow entry stays in its place.

    Kernel: __remove_mapping(), mm/vmscan.c. The count is frozen while xa_lock is held, which is legal: nobody sleeps.

    Args:
        mapping: its file.
        folio: locked.
        pins: how many references the caller has.

    Returns:
        False if somebody else uses it, or it has become dirty.
    """
    with mapping.i_pages.xa_lock:
        if not folio.ref_freeze(pins + folio.nr_pages):
            return False
        if folio.test_dirty():
            folio.ref_unfreeze(pins + folio.nr_pages)
            return False
        if folio.order == mapping.host.pmd_order and folio.order > 0:
            mapping.nr_thps_dec()
        account_folio(mapping, folio, -folio.nr_pages)
        xas = XaState(mapping.i_pages, folio.index, folio.order)
        xas.store(shadow_of(folio))
        folio.mapping = None
        mapping.nrpages -= folio.nr_pages
        folio.ref_unfreeze(pins)
    return True


def shadow_of(folio: Folio) -> int:
    """Return what reclaim leaves behind of a folio. Kernel: workingset_eviction(), mm/workingset.c."""
    return 1 + folio.nid


def try_to_free_mem_cgroup_pages(memory: Memory, group: MemCgroup, pages: int) -> int:
    """Reclaim folios that a control group pays for, oldest first; return how many pages that freed.

    Kernel: try_to_free_mem_cgroup_pages(), mm/vmscan.c.
    """
    memory.lru.drain()
    freed = 0
    for folio in memory.lru.oldest_first():
        if freed >= pages:
            break
        nr = folio.nr_pages
        if folio.memcg is group and folio.try_get():
            if reclaim_folio(memory, folio):
                freed += nr
            folio.put()
    return freed


def invalidate_mapping_pages(mapping: AddressSpace, first: int, last: int) -> int:
    """Drop what nobody uses of a file, as POSIX_FADV_DONTNEED does; return how many pages.

    Kernel: invalidate_mapping_pages(), mm/truncate.c. Leaves what is dirty, mapped, locked or referenced, and huge
    folios that are only partly in the range.
    """
    from mmref.pagecache.filemap import filemap_remove_folio, find_lock_entries

    dropped = 0
    index = first
    while index <= last and (batch := find_lock_entries(mapping, index, last)):
        for at, entry in batch:
            index = at + 1
            if not isinstance(entry, Folio):
                continue
            index = entry.next_index
            nr = entry.nr_pages
            usable = not (entry.test_dirty() or entry.test_writeback() or entry.mapped())
            in_use = entry.ref_count() != 1 + nr + int(entry.test_private())
            if usable and not in_use and mapping.host.release_folio(entry):
                filemap_remove_folio(entry)
                dropped += nr
            entry.unlock()
            entry.put()
    return dropped
