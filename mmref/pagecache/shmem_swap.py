# SPDX-License-Identifier: GPL-2.0-only
"""shmem pages on their way to swap and back.

Conventions in this file (as in mm/shmem.c): `index` is in pages, `entry` is a swap slot, which stands in the page
cache where the page was.
"""

from __future__ import annotations

from errno import ENOMEM

from mmref.errors import InvariantViolation, MmrefInternalError
from mmref.folio import Folio
from mmref.pagecache.filemap import account_folio
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.shmem import ShmemInode
from mmref.pagecache.split import split_folio
from mmref.pagecache.swap import SwapDevice, swap_cluster_readahead
from mmref.xarray import XaState

__all__ = ["shmem_confirm_swap", "shmem_free_swap", "shmem_swapin_folio", "shmem_writepage"]


def _device(inode: ShmemInode) -> SwapDevice:
    device = inode.memory.swap
    if device is None:
        raise MmrefInternalError(f"{inode.name} has pages in swap, but there is no swap device")
    return device


def shmem_confirm_swap(mapping: AddressSpace, index: int, entry: int) -> bool:
    """Tell whether an index still holds this swap entry. Kernel: shmem_confirm_swap(), mm/shmem.c."""
    return mapping.i_pages.load(index) == entry


def shmem_writepage(folio: Folio) -> bool:
    """Write a locked folio to swap; its place in the page cache is taken by the swap entry.

    Kernel: shmem_writepage(), mm/shmem.c. A large folio is split first, and only its first page written.

    Returns:
        False if it stays where it is (still locked): no slot, not to be split, or being allocated right now.

    Context: the folio is locked, isolated and not mapped. On success it is unlocked, and in the swap cache only.
    """
    mapping = folio.mapping
    if not isinstance(mapping, AddressSpace) or not isinstance(mapping.host, ShmemInode):
        raise MmrefInternalError(f"{folio!r} is not a shmem folio")
    inode, device = mapping.host, mapping.memory.swap
    if device is None:
        return False
    if folio.order:
        folio.mark_dirty()
        if not split_folio(folio, pins=2):  # of the isolation and of who asks
            return False
    if not folio.test_uptodate():
        if inode.falloc_unswapped(folio.index):
            folio.mark_dirty()
            return False
        folio.zero_range(0, folio.size)
        folio.mark_uptodate()
    entry = device.alloc(folio)
    if not entry:
        folio.mark_dirty()
        return False
    if not device.cache_add(folio, entry):
        raise MmrefInternalError(f"the free swap slot {entry} is in the swap cache")
    inode.recalc_inode(0, 1)  # before nrpages falls
    shmem_delete_from_page_cache(mapping, folio, entry)
    device.write(entry, folio)
    return True


def shmem_delete_from_page_cache(mapping: AddressSpace, folio: Folio, entry: int) -> None:
    """Put a swap entry in a folio's place. Kernel: shmem_delete_from_page_cache(), mm/shmem.c."""
    with mapping.i_pages.xa_lock:
        xas = XaState(mapping.i_pages, folio.index)
        if xas.load() is not folio:
            raise InvariantViolation("A11", f"{folio!r} is not where it should be in the page cache")
        xas.store(entry)
        account_folio(mapping, folio, -1)
        folio.mapping = None
        mapping.nrpages -= 1
    folio.put()


def shmem_swapin_folio(inode: ShmemInode, index: int, entry: int) -> Folio | None:
    """Bring a page back from swap: locked, with a reference, dirty; None if the entry is no longer there.

    Kernel: shmem_swapin_folio(), mm/shmem.c.

    Raises:
        OSError: ENOMEM.

    Context: sleeps. The folio may wait in this CPU's LRU batch: see `swap_cluster_readahead()`.
    """
    mapping, device = inode.i_mapping, _device(inode)
    if not shmem_confirm_swap(mapping, index, entry):
        return None
    folio = device.cache_get(entry) or swap_cluster_readahead(inode.memory, entry)
    if folio is None:
        if not shmem_confirm_swap(mapping, index, entry):
            return None
        raise OSError(ENOMEM, "Out of memory while swapping in")
    folio.lock()
    if not folio.test_swapcache() or folio.swap != entry or not shmem_confirm_swap(mapping, index, entry):
        folio.unlock()
        folio.put()
        return None
    folio.wait_writeback()
    if not inode.add_to_page_cache(folio, index, entry):
        folio.unlock()
        folio.put()
        return None
    inode.recalc_inode(0, -1)
    device.cache_delete(folio)
    folio.mark_dirty()
    device.free(entry)
    return folio


def shmem_free_swap(inode: ShmemInode, index: int, entry: int) -> bool:
    """Free a swapped page; False if the entry is no longer there. Kernel: shmem_free_swap(), mm/shmem.c.

    The caller tells `recalc_inode()`.
    """
    mapping = inode.i_mapping
    with mapping.i_pages.xa_lock:
        xas = XaState(mapping.i_pages, index)
        if xas.load() != entry:
            return False
        xas.store(None)
    _device(inode).free_swap_and_cache(entry)
    return True
