# SPDX-License-Identifier: GPL-2.0-only
"""Splitting a large folio into smaller ones, mostly single pages."""

from __future__ import annotations

from mmref.errors import InvariantViolation
from mmref.folio import Folio
from mmref.pagecache.filemap import account_folio
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.rmap import try_to_unmap
from mmref.pagecache.vmstat import NR_FILE_THPS, NR_SHMEM_THPS
from mmref.xarray import XaState

__all__ = ["pieces_of", "split_folio"]


def pieces_of(order: int, around: int | None) -> list[tuple[int, int]]:
    """List (first page, order) of what a large folio is split into.

    Args:
        order: its order.
        around: the page that is to be alone, with the rest in the largest pieces that can be had by halving; None for
            pieces of one page each.

    >>> pieces_of(2, None)
    [(0, 0), (1, 0), (2, 0), (3, 0)]
    >>> pieces_of(3, 5)
    [(0, 2), (4, 0), (5, 0), (6, 1)]
    """
    if around is None:
        return [(page, 0) for page in range(1 << order)]
    pieces: list[tuple[int, int]] = []
    first = 0
    for half in range(order - 1, -1, -1):
        other = first + (1 << half)
        if around >= other:
            pieces.append((first, half))
            first = other
        else:
            pieces.append((other, half))
    return sorted([*pieces, (first, 0)])


def split_folio(folio: Folio, pins: int = 1, around: int | None = None) -> bool:
    """Replace a locked large folio by smaller ones with the same content.

    Kernel: split_huge_page_to_list(), mm/huge_memory.c (since v6.15 also folio_split()). The head page stays what it
    was, and the tail pages become folios of their own.

    Args:
        folio: the folio, locked.
        pins: how many references the caller holds.
        around: see `pieces_of()`.

    Context: takes xa_lock, and freezes the count while it does, which is legal because it does not sleep meanwhile.

    Returns:
        False if somebody else holds a reference, memory is out, or the tree cannot split an entry of that order:
        nothing has changed then.
    """
    mapping = folio.mapping
    if not isinstance(mapping, AddressSpace):
        raise InvariantViolation("A11", f"{folio!r} is not in a page cache")
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
            if not inode.is_shmem and memory.rules.split_counts_thps:
                mapping.nr_thps_dec()
        xas.split(folio, folio.order)
        tails = memory.allocator.split(folio, pieces_of(folio.order, around))
        end = max(inode.nr_pages, inode.fallocend)
        if folio.order:
            xas.set_order(start, folio.order)
            xas.store(folio)
        for tail in tails:
            tail.mapping = mapping
            tail.index = start + (tail.pfn - folio.pfn)
            xas.set_order(tail.index, tail.order)
            xas.store(tail if tail.index < end else None)
        gone = [tail for tail in tails if tail.index >= end]
        if gone:
            _remove_behind_eof(mapping, gone)
        folio.ref_unfreeze(pins + folio.nr_pages)
    if gone and inode.is_shmem:
        inode.uncharge(sum(tail.nr_pages for tail in gone))
    for tail in tails:
        tail.ref_unfreeze(1 if tail.mapping is None else 1 + tail.nr_pages)
        memory.lru.add_tail(tail)
        tail.unlock()
        tail.put()
    return True


def _remove_behind_eof(mapping: AddressSpace, gone: list[Folio]) -> None:
    """Drop pages behind the end of the file, as the split leaves them out.

    Kernel: __split_huge_page(), mm/huge_memory.c. Context: xa_lock is held.
    """
    nr = sum(tail.nr_pages for tail in gone)
    account_folio(mapping, gone[0], -nr)
    for tail in gone:
        tail.mapping = None
    mapping.nrpages -= nr
