# SPDX-License-Identifier: GPL-2.0-only
"""Taking folios out of a file, whole or in part."""

from __future__ import annotations

from mmref.folio import Folio
from mmref.pagecache.filemap import filemap_lock_folio, filemap_remove_folio, find_get_entries, find_lock_entries
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.rmap import unmap_mapping_folio
from mmref.pagecache.split import split_folio
from mmref.xarray import XaState

__all__ = ["truncate_inode_folio", "truncate_inode_pages_range", "truncate_inode_partial_folio"]


def truncate_inode_folio(mapping: AddressSpace, folio: Folio) -> bool:
    """Remove a locked folio from the file, unless it has left it already.

    Kernel: truncate_inode_folio(), mm/truncate.c.

    Returns:
        False if the folio no longer belongs to this mapping.
    """
    if folio.mapping is not mapping:
        return False
    truncate_cleanup_folio(folio)
    filemap_remove_folio(folio)
    return True


def truncate_cleanup_folio(folio: Folio) -> None:
    """Unmap a folio that is about to go; it is not dirty any more. Kernel: truncate_cleanup_folio(), mm/truncate.c."""
    if folio.mapped():
        unmap_mapping_folio(folio)
    folio.detach_private()
    folio.cancel_dirty()


def truncate_inode_partial_folio(folio: Folio, lstart: int, lend: int) -> bool:
    """Free or zero the part of a locked folio that lies between two offsets (bytes, inclusive).

    Kernel: truncate_inode_partial_folio(), mm/truncate.c. A large folio is split, so that whole pages in the range
    can be freed afterwards.

    Returns:
        False if a large one stays whole because somebody else has a reference to it; it is zeroed then.

    Context: the folio is locked, and the caller holds one reference.
    """
    mapping = folio.mapping
    assert isinstance(mapping, AddressSpace)
    page_size = mapping.memory.page_size
    pos = folio.index * page_size
    offset = max(lstart - pos, 0)
    length = min(lend + 1 - pos, folio.size) - offset
    folio.wait_writeback()
    if length == folio.size:
        truncate_inode_folio(mapping, folio)
        return True
    folio.zero_range(offset, length)
    if folio.order == 0:
        return True
    if not mapping.memory.rules.split_keeps_large:
        return split_folio(folio)
    behind = folio.index + (offset + length) // page_size
    more = offset + length < folio.size
    if not split_folio(folio, around=offset // page_size):
        return False
    if more:
        _split_behind(mapping, behind)
    return True


def _split_behind(mapping: AddressSpace, index: int) -> None:
    """Split the folio at the end of a range, too, so that what is in the range can be freed; it need not succeed."""
    entry = mapping.i_pages.load(index)
    if not isinstance(entry, Folio) or entry.order == 0 or not entry.try_get():
        return
    if entry.trylock():
        if entry.order and entry.mapping is mapping:
            split_folio(entry, around=index - entry.index)
        entry.unlock()
    entry.put()


def truncate_inode_pages_range(mapping: AddressSpace, lstart: int, lend: int) -> None:
    """Free all folios between two offsets (bytes, inclusive), dirty or not; shadow entries too.

    Kernel: truncate_inode_pages_range(), mm/truncate.c.

    Context: the caller holds the invalidate lock exclusively. Waits for folio locks and for writeback.
    """
    page_size = mapping.memory.page_size
    start, end = -(-lstart // page_size), (lend + 1) // page_size
    index = start
    while index < end and (batch := find_lock_entries(mapping, index, end - 1)):
        for at, entry in batch:
            index = at + 1
            if isinstance(entry, Folio):
                index = entry.next_index
                truncate_inode_folio(mapping, entry)
                entry.unlock()
                entry.put()
            else:
                _clear_shadow(mapping, at, entry)
    start, end = _truncate_partial_folios(mapping, lstart, lend, start, end)
    index = start
    while index < end:
        batch = find_get_entries(mapping, index, end - 1)
        if not batch:
            if index == start:
                break
            index = start  # a collapse that failed meanwhile may have put folios back: go on until all is gone
            continue
        for at, entry in batch:
            index = at + 1
            if not isinstance(entry, Folio):
                _clear_shadow(mapping, at, entry)
                continue
            entry.lock()
            entry.wait_writeback()
            index = entry.next_index
            truncate_inode_folio(mapping, entry)
            entry.unlock()
            entry.put()


def _truncate_partial_folios(mapping: AddressSpace, lstart: int, lend: int, start: int, end: int) -> tuple[int, int]:
    """Zero the parts of the folios at both ends; return the whole pages in between that are left to free."""
    page_size = mapping.memory.page_size
    first, last = lstart // page_size, lend // page_size
    same_folio = first == last
    folio = filemap_lock_folio(mapping, first)
    if folio is not None:
        before, behind = folio.index, folio.next_index
        same_folio = lend < behind * page_size
        if not truncate_inode_partial_folio(folio, lstart, lend):
            start = behind
            if same_folio:
                end = before
        folio.unlock()
        folio.put()
    if not same_folio and (folio := filemap_lock_folio(mapping, last)) is not None:
        before = folio.index
        if not truncate_inode_partial_folio(folio, lstart, lend):
            end = before
        folio.unlock()
        folio.put()
    return start, end


def _clear_shadow(mapping: AddressSpace, index: int, entry: int) -> None:
    """Remove what reclaim has left behind. Kernel: clear_shadow_entries(), mm/truncate.c."""
    with mapping.i_pages.xa_lock:
        xas = XaState(mapping.i_pages, index)
        if xas.load() == entry:
            xas.store(None)
