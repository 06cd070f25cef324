# SPDX-License-Identifier: GPL-2.0-only
"""Lookups in the page cache, and adding to and removing from it.

Conventions in this file (as in mm/filemap.c): `xas` is the cursor, `folio` what a lookup found, indices and
`max` are in pages and inclusive, `start` and `end` of a seek are in bytes.

Lookups take no lock. They load an entry, take a reference unless the count is 0, and load again: if the slot
has changed meanwhile, the reference is on the wrong folio and the lookup starts over. Where the kernel just
loops, the model calls `cpu_relax()`: looping again before anything has changed would see the same.
"""

from __future__ import annotations

from errno import ENXIO
from os import SEEK_DATA, SEEK_HOLE

from mmref.errors import InvariantViolation
from mmref.folio import Folio
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.vmstat import NR_FILE_PAGES, NR_FILE_THPS, NR_SHMEM, NR_SHMEM_THPS
from mmref.sync import cpu_relax, rcu_read_lock, rcu_read_unlock
from mmref.xarray import XaState

__all__ = [
    "SEEK_DATA",
    "SEEK_HOLE",
    "filemap_get_entry",
    "filemap_lock_folio",
    "filemap_remove_folio",
    "find_get_entries",
    "find_get_entry",
    "find_lock_entries",
    "mapping_seek_hole_data",
]


def filemap_get_entry(mapping: AddressSpace, index: int) -> Folio | int | None:
    """Look up one index: a folio with a reference, a swap entry, or None.

    Kernel: filemap_get_entry(), mm/filemap.c (6.1: mapping_get_entry()).

    Context: takes no lock, never sleeps; spins while it meets a RETRY entry or a frozen folio.
    """
    xas = XaState(mapping.i_pages, index)
    rcu_read_lock()
    while True:
        xas.reset()
        entry: Folio | int | None = xas.load()
        if xas.retry(entry):
            cpu_relax()
            continue
        if not isinstance(entry, Folio):  # nothing, or a swap entry
            break
        if not entry.try_get():
            cpu_relax()
            continue
        again: object = xas.reload()
        if entry is again:
            break
        entry.put()
    rcu_read_unlock()
    return entry


def filemap_lock_folio(mapping: AddressSpace, index: int) -> Folio | None:
    """Return the folio at an index, locked and with a reference, or None. Kernel: filemap_lock_folio(), pagemap.h."""
    while True:
        entry = filemap_get_entry(mapping, index)
        if not isinstance(entry, Folio):
            return None
        entry.lock()
        if entry.mapping is mapping:
            return entry
        entry.unlock()
        entry.put()


def find_get_entry(xas: XaState, max: int) -> Folio | int | None:
    """Find the next entry up to `max` (pages): a folio with a reference, a swap entry, or None at the end.

    Kernel: find_get_entry(), mm/filemap.c.

    Context: the RCU read lock is held, and has been since the cursor was set up: between two calls the tree may have
    changed, and the cursor may stand in a node that has left it. Otherwise as `filemap_get_entry()`.
    """
    while True:
        entry: Folio | int | None = xas.find(max)
        if xas.retry(entry):
            cpu_relax()
            continue
        if not isinstance(entry, Folio):  # nothing, or a swap entry
            return entry
        if entry.try_get():
            again: object = xas.reload()
            if entry is again:
                return entry
            entry.put()
        else:
            cpu_relax()
        xas.reset()


def mapping_seek_hole_data(mapping: AddressSpace, start: int, end: int, whence: int) -> int:
    """Find the next data or the next hole from byte `start` on, as the page cache shows it.

    Kernel: mapping_seek_hole_data(), mm/filemap.c.

    Args:
        mapping: the page cache of the file.
        start: first byte to consider.
        end: where to stop (bytes, exclusive): the file size. A hole is taken to begin there.
        whence: `SEEK_DATA` or `SEEK_HOLE`.

    Returns:
        the offset (bytes).

    Raises:
        OSError: ENXIO: `start` is not before `end`, or no data follows.

    Context: looks at folios without locking them; the caller holds the inode lock, which keeps writers out,
    but not a collapse.
    """
    page_shift = mapping.memory.page_shift
    seek_data = whence == SEEK_DATA
    if end <= start:
        raise OSError(ENXIO, "No data or hole behind the end of the file")
    xas = XaState(mapping.i_pages, start >> page_shift)
    max = (end - 1) >> page_shift
    rcu_read_lock()
    try:
        while (entry := find_get_entry(xas, max)) is not None:
            try:
                pos = xas.index << page_shift
                if start < pos:
                    if not seek_data:
                        return start
                    start = pos
                seek_size = entry.size if isinstance(entry, Folio) else 1 << (page_shift + xas.get_order())
                pos = (pos // seek_size + 1) * seek_size
                start = _folio_seek_hole_data(entry, start, pos, seek_data)
                if start < pos:
                    return min(start, end)
                if start >= end:
                    break
                if seek_size > 1 << page_shift:
                    xas.set(pos >> page_shift)
            finally:
                if isinstance(entry, Folio):
                    entry.put()
    finally:
        rcu_read_unlock()
    if seek_data:
        raise OSError(ENXIO, "No data from there to the end of the file")
    return min(start, end)


def _folio_seek_hole_data(entry: Folio | int, start: int, end: int, seek_data: bool) -> int:
    """Return `start` if the entry is what is sought, else `end` (bytes).

    Kernel: folio_seek_hole_data(), mm/filemap.c. A swap entry is data; a folio is data if it is uptodate,
    because an unwritten one reads as a hole. Nobody holds the folio lock here.
    """
    is_data = type(entry) is int or (isinstance(entry, Folio) and entry.test_uptodate())
    return start if is_data == seek_data else end


def find_lock_entries(mapping: AddressSpace, start: int, end: int) -> list[tuple[int, Folio | int]]:
    """List (index, entry) from `start` to `end` (pages, inclusive); folios are locked, with a reference.

    Kernel: find_lock_entries(), mm/filemap.c; no more than fit a batch, as there. Leaves out folios that somebody
    else has locked, that have left the mapping, or that reach over either end. The caller unlocks and puts.
    """
    xas = XaState(mapping.i_pages, start)
    found: list[tuple[int, Folio | int]] = []
    most = mapping.memory.rules.pagevec_size
    rcu_read_lock()
    while len(found) < most and (entry := find_get_entry(xas, end)) is not None:
        if not isinstance(entry, Folio):
            found.append((xas.index, entry))
        elif entry.index < start or entry.next_index - 1 > end or not entry.trylock():
            entry.put()
        elif entry.mapping is not mapping or entry.test_writeback():
            entry.unlock()
            entry.put()
        else:
            found.append((xas.index, entry))
    rcu_read_unlock()
    return found


def find_get_entries(mapping: AddressSpace, start: int, end: int) -> list[tuple[int, Folio | int]]:
    """List (index, entry) from `start` to `end` (pages, inclusive); folios carry a reference each.

    Kernel: find_get_entries(), mm/filemap.c; no more than fit a batch, as there.
    """
    xas = XaState(mapping.i_pages, start)
    found: list[tuple[int, Folio | int]] = []
    most = mapping.memory.rules.pagevec_size
    rcu_read_lock()
    while len(found) < most and (entry := find_get_entry(xas, end)) is not None:
        found.append((xas.index, entry))
    rcu_read_unlock()
    return found


def filemap_remove_folio(folio: Folio) -> None:
    """Take a locked folio out of the page cache, and the cache's references from it.

    Kernel: filemap_remove_folio(), mm/filemap.c.

    Context: the folio is locked; takes xa_lock.
    """
    mapping = folio.mapping
    if not isinstance(mapping, AddressSpace):
        raise InvariantViolation("A11", f"{folio!r} is not in a page cache")
    nr = folio.nr_pages
    with mapping.i_pages.xa_lock:
        account_folio(mapping, folio, -nr)
        if folio.order == mapping.host.pmd_order and folio.order > 0 and not mapping.host.is_shmem:
            mapping.nr_thps_dec()
        xas = XaState(mapping.i_pages, folio.index, folio.order)
        xas.store(None)
        folio.mapping = None
        mapping.nrpages -= nr
    folio.put_refs(nr)


def account_folio(mapping: AddressSpace, folio: Folio, nr: int) -> None:
    """Count a folio's pages into (or, negative, out of) the machine's counters.

    Kernel: filemap_unaccount_folio(), mm/filemap.c, and shmem_update_stats(), mm/shmem.c.
    """
    vmstat, shmem = mapping.memory.vmstat, mapping.host.is_shmem
    vmstat.add(NR_FILE_PAGES, nr, folio)
    if shmem:
        vmstat.add(NR_SHMEM, nr, folio)
    if folio.order == mapping.host.pmd_order and folio.order > 0:
        vmstat.add(NR_SHMEM_THPS if shmem else NR_FILE_THPS, nr, folio)
