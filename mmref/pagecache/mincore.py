# SPDX-License-Identifier: GPL-2.0-only
"""mincore(2) on a file mapping without page tables: which pages are resident."""

from __future__ import annotations

from mmref.folio import Folio
from mmref.pagecache.filemap import filemap_get_entry
from mmref.pagecache.mapping import AddressSpace

__all__ = ["mincore_page", "mincore_unmapped_range"]


def mincore_page(mapping: AddressSpace, index: int) -> bool:
    """Tell whether the page at this index (pages) is in the cache and valid.

    Kernel: mincore_page(), mm/mincore.c.

    Context: no folio lock; a folio that is being filled counts as absent.
    """
    entry = filemap_get_entry(mapping, index)
    if isinstance(entry, int) and mapping.host.is_shmem and mapping.memory.swap is not None:
        entry = mapping.memory.swap.cache_get(entry)  # Kernel: filemap_get_incore_folio(), mm/swap_state.c
    if not isinstance(entry, Folio):
        return False
    present = entry.test_uptodate()
    entry.put()
    return present


def mincore_unmapped_range(mapping: AddressSpace, first: int, nr: int) -> list[bool]:
    """Ask `mincore_page()` for `nr` pages from index `first` on, one after the other.

    Kernel: __mincore_unmapped_range(), mm/mincore.c.
    """
    return [mincore_page(mapping, index) for index in range(first, first + nr)]
