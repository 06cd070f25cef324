# SPDX-License-Identifier: GPL-2.0-only
"""shmem: files that live in the page cache alone (tmpfs, memfd), and their accounting.

Conventions in this file (as in mm/shmem.c): `index` is in pages, `offset`, `pos` and lengths are in bytes,
`folio` comes back locked and with a reference from `get_folio()`. The accounting is that of Linux 6.1 to 6.4:

* `alloced` is the number of pages that the file has been charged for,
* `swapped` the number of its swap entries,
* and at rest `alloced == mapping.nrpages + swapped`. Whoever changes two of the three does so in an order in
  which a concurrent `recalc()` can only find too little alloced, never too much.
"""

from __future__ import annotations

from enum import Enum
from errno import EFBIG, EINVAL, ENOENT, ENOMEM, ENOSPC

from mmref.errors import MmrefInternalError
from mmref.folio import Folio
from mmref.pagecache.filemap import (
    account_folio,
    filemap_get_entry,
    find_get_entries,
    find_lock_entries,
    mapping_seek_hole_data,
    truncate_inode_folio,
)
from mmref.pagecache.mapping import AddressSpace, Memory
from mmref.pagecache.split import split_folio
from mmref.sync import RwSem, SpinLock
from mmref.xarray import XaState

__all__ = ["BLOCK_SIZE", "Sgp", "ShmemInode"]

BLOCK_SIZE = 512
"""Unit of st_blocks (bytes)."""

MAX_LFS_FILESIZE = 2**63 - 1
"""Largest file offset (bytes). Kernel: MAX_LFS_FILESIZE, include/linux/fs.h."""


class Sgp(Enum):
    """What `get_folio()` does about a hole or an unwritten folio. Kernel: enum sgp_type, shmem_fs.h."""

    READ = "do not allocate: a hole and an unwritten folio give None"
    NOALLOC = "fail with ENOENT on a hole; clear an unwritten folio"
    CACHE = "allocate, cleared, but not beyond the file size"
    WRITE = "allocate; the caller writes or clears it"
    FALLOC = "allocate, unwritten; clear one that was there"


class ShmemInode:
    """A tmpfs or memfd file.

    Kernel: struct shmem_inode_info with its struct inode, include/linux/shmem_fs.h.

    Attributes:
        name: for people.
        i_mapping: its page cache.
        i_size: size (bytes); changes under `i_rwsem`.
        i_blocks: blocks of 512 bytes charged, as stat(2) tells.
        alloced, swapped: see the top of this file (pages); change under `lock`.
        i_rwsem: the inode lock.
        lock: the spinlock of the accounting.
        max_pages: how many pages it may be charged for, or None for no limit.
        pmd_order: log2 of the pages of a huge page.
    """

    __slots__ = (
        "alloced", "i_blocks", "i_mapping", "i_rwsem", "i_size", "lock", "max_pages", "name", "pmd_order",
        "swapped", "used_pages",
    )  # fmt: skip

    is_shmem = True

    def __init__(
        self,
        name: str,
        mapping: AddressSpace,
        size: int,
        pmd_order: int,
        i_rwsem: RwSem,
        lock: SpinLock,
        max_pages: int | None = None,
    ) -> None:
        self.name = name
        self.i_mapping = mapping
        self.i_size = size
        self.i_blocks = 0
        self.alloced = 0
        self.swapped = 0
        self.used_pages = 0
        self.max_pages = max_pages
        self.pmd_order = pmd_order
        self.i_rwsem = i_rwsem
        self.lock = lock
        mapping.host = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.i_size} bytes>"

    @property
    def memory(self) -> Memory:
        """The machine's memory."""
        return self.i_mapping.memory

    # Accounting --------------------------------------------------------------------------------------------

    def acct_block(self, pages: int) -> bool:
        """Reserve blocks of the filesystem; False if it is full. Kernel: shmem_inode_acct_block(), mm/shmem.c."""
        if self.max_pages is not None and self.used_pages + pages > self.max_pages:
            return False
        self.used_pages += pages
        return True

    def unacct_blocks(self, pages: int) -> None:
        """Give blocks of the filesystem back. Kernel: shmem_inode_unacct_blocks(), mm/shmem.c."""
        self.used_pages -= pages

    def _charge_blocks(self, pages: int) -> None:
        """Change `alloced` and `i_blocks` together. Context: `lock` is held."""
        self.alloced += pages
        self.i_blocks += pages * (self.memory.page_size // BLOCK_SIZE)

    def recalc(self) -> None:
        """Stop charging for pages that are gone: whatever is alloced above nrpages + swapped.

        Kernel: shmem_recalc_inode(), mm/shmem.c.

        Context: `lock` is held; reads nrpages without xa_lock.
        """
        freed = self.alloced - self.swapped - self.i_mapping.nrpages
        if freed > 0:
            self._charge_blocks(-freed)
            self.unacct_blocks(freed)

    def charge(self, pages: int) -> bool:
        """Charge the file for pages that a collapse is about to add; False if the filesystem is full.

        Kernel: shmem_charge(), mm/shmem.c.

        Context: xa_lock is held (until Linux 509f006932de, v6.6). Raises nrpages before alloced: the other
        way round a concurrent `recalc()` would take the difference for freed pages (Linux aaa52e340073, v4.20).
        """
        if not self.acct_block(pages):
            return False
        self.i_mapping.nrpages += pages
        with self.lock:
            self._charge_blocks(pages)
            self.recalc()
        return True

    def uncharge(self, pages: int) -> None:
        """Undo `charge()`; the caller has lowered nrpages. Kernel: shmem_uncharge(), mm/shmem.c."""
        with self.lock:
            self._charge_blocks(-pages)
            self.recalc()
        self.unacct_blocks(pages)

    # Getting a page ----------------------------------------------------------------------------------------

    def get_folio(self, index: int, sgp: Sgp) -> Folio | None:
        """Return the folio at an index (pages), locked and with a reference; None where `sgp` says so.

        Kernel: shmem_get_folio_gfp(), mm/shmem.c.

        Raises:
            OSError: ENOENT (`Sgp.NOALLOC` on a hole), EINVAL (beyond the file size), EFBIG, ENOMEM, ENOSPC.

        Context: may sleep on the folio lock; must not hold xa_lock.
        """
        mapping = self.i_mapping
        page_shift = self.memory.page_shift
        if index > MAX_LFS_FILESIZE >> page_shift:
            raise OSError(EFBIG, f"Index {index} is behind the largest offset of a file")
        while True:
            if sgp in (Sgp.READ, Sgp.NOALLOC, Sgp.CACHE) and index << page_shift >= self.i_size:
                raise OSError(EINVAL, f"Index {index} is behind the end of the file")
            entry = filemap_get_entry(mapping, index)
            if isinstance(entry, int):
                raise MmrefInternalError(f"swap entry {entry} at index {index}, but nothing swaps out yet")
            if entry is not None:
                entry.lock()
                if entry.mapping is not mapping:  # truncated, or replaced by a collapse, while we waited
                    entry.unlock()
                    entry.put()
                    continue
                if entry.test_uptodate():
                    return entry
                if sgp is not Sgp.READ:
                    return self._initialise(entry, sgp)
                entry.unlock()
                entry.put()
            if sgp is Sgp.READ:
                return None
            if sgp is Sgp.NOALLOC:
                raise OSError(ENOENT, f"Nothing at index {index}")
            folio = self._alloc_and_add(index)
            if folio is not None:
                # A folio that fallocate has just added stays unwritten: it can be told apart and undone.
                return self._initialise(folio, Sgp.WRITE if sgp is Sgp.FALLOC else sgp)

    def _initialise(self, folio: Folio, sgp: Sgp) -> Folio:
        """Clear an unwritten folio, unless the caller is about to write it. Kernel: `clear:` in the above."""
        if sgp is not Sgp.WRITE:
            for page in range(folio.nr_pages):
                folio.clear_page(page)
            folio.mark_uptodate()
        return folio

    def _alloc_and_add(self, index: int) -> Folio | None:
        """Put a new folio into the cache, locked; None if somebody else was faster.

        Kernel: shmem_alloc_and_acct_folio(), mm/shmem.c.
        """
        if not self.acct_block(1):
            raise OSError(ENOSPC, f"{self.name} has reached its limit of {self.max_pages} pages")
        folio = self.memory.allocator.alloc(0)
        if folio is None:
            self.unacct_blocks(1)
            raise OSError(ENOMEM, "Out of memory")
        folio.trylock()
        folio.set_swapbacked()
        if not self._add_to_page_cache(folio, index):
            self.unacct_blocks(1)
            folio.unlock()
            folio.put()
            return None
        self.memory.lru.add(folio)
        with self.lock:
            self._charge_blocks(1)
            self.recalc()
        return folio

    def _add_to_page_cache(self, folio: Folio, index: int) -> bool:
        """Store a locked folio where nothing is. Kernel: shmem_add_to_page_cache(), mm/shmem.c."""
        mapping = self.i_mapping
        folio.ref_add(folio.nr_pages)
        folio.mapping = mapping
        folio.index = index
        xas = XaState(mapping.i_pages, index, folio.order)
        while True:
            with mapping.i_pages.xa_lock:
                occupied = xas.find_conflict() is not None
                if not occupied:
                    xas.store(folio)
                    if not xas.error:
                        account_folio(mapping, folio, folio.nr_pages)
                        mapping.nrpages += folio.nr_pages
                        return True
            if occupied or not xas.nomem():
                folio.mapping = None
                folio.ref_sub(folio.nr_pages)
                return False

    # System calls ------------------------------------------------------------------------------------------

    def file_read(self, pos: int, length: int) -> bytes:
        """Read bytes; holes and unwritten folios read as zeros. Kernel: shmem_file_read_iter(), mm/shmem.c.

        Context: takes each folio's lock only to look it up, and copies unlocked.
        """
        page_size = self.memory.page_size
        parts: list[bytes] = []
        end = min(pos + length, self.i_size)
        while pos < end:
            index, offset = divmod(pos, page_size)
            try:
                folio = self.get_folio(index, Sgp.READ)
            except OSError as error:
                if error.errno == EINVAL:  # truncated meanwhile: a short read
                    break
                raise
            nr = min(page_size - offset, end - pos)
            if folio is None:
                parts.append(bytes(nr))
            else:
                folio.unlock()
                parts.append(folio.read((index - folio.index) * page_size + offset, nr))
                folio.put()
            pos += nr
        return b"".join(parts)

    def file_write(self, pos: int, content: bytes) -> int:
        """Write bytes, growing the file if need be. Kernel: generic_perform_write(), mm/filemap.c.

        Returns:
            how many bytes were written: fewer than asked for only if an error came after the first page.

        Raises:
            OSError: ENOSPC, ENOMEM, EFBIG, if nothing could be written.

        Context: takes the inode lock; holds each folio's lock while it copies.
        """
        self.i_rwsem.down_write()
        try:
            written = 0
            while written < len(content):
                try:
                    written += self._write_page(pos + written, content[written:])
                except OSError:
                    if not written:
                        raise
                    break
            return written
        finally:
            self.i_rwsem.up_write()

    def _write_page(self, pos: int, content: bytes) -> int:
        """Write up to the end of one page. Kernel: shmem_write_begin() and shmem_write_end(), mm/shmem.c."""
        page_size = self.memory.page_size
        index, offset = divmod(pos, page_size)
        chunk = content[: page_size - offset]
        folio = self.get_folio(index, Sgp.WRITE)
        if folio is None:
            raise MmrefInternalError(f"Sgp.WRITE gave no folio at index {index}")
        start = (index - folio.index) * page_size + offset
        folio.write(start, chunk)
        self.i_size = max(self.i_size, pos + len(chunk))
        if not folio.test_uptodate():
            folio.zero_around(start, len(chunk))
            folio.mark_uptodate()
        folio.mark_dirty()
        folio.unlock()
        folio.put()
        return len(chunk)

    def fallocate(self, offset: int, length: int, keep_size: bool = False) -> None:
        """Allocate unwritten folios for a range (bytes). Kernel: shmem_fallocate(), mm/shmem.c.

        Raises:
            OSError: EINVAL, ENOSPC, ENOMEM; whatever this call had allocated is then taken back.
        """
        if offset < 0 or length <= 0:
            raise OSError(EINVAL, f"Cannot allocate {length} bytes from offset {offset}")
        page_size = self.memory.page_size
        self.i_rwsem.down_write()
        try:
            start, end = offset // page_size, -(-(offset + length) // page_size)
            if self.max_pages is not None and end - start > self.max_pages:
                raise OSError(ENOSPC, f"{end - start} pages are more than the limit of {self.max_pages}")
            index = start
            while index < end:
                try:
                    folio = self.get_folio(index, Sgp.FALLOC)
                except OSError:
                    if index > start:
                        self.undo_range(start * page_size, index * page_size - 1, unfalloc=True)
                    raise
                if folio is None:
                    raise MmrefInternalError(f"Sgp.FALLOC gave no folio at index {index}")
                index = folio.next_index
                folio.mark_dirty()
                folio.unlock()
                folio.put()
            if not keep_size and offset + length > self.i_size:
                self.i_size = offset + length
        finally:
            self.i_rwsem.up_write()

    def punch_hole(self, offset: int, length: int) -> None:
        """Free a range (bytes); parts of pages are zeroed. Kernel: shmem_fallocate(PUNCH_HOLE), mm/shmem.c."""
        if offset < 0 or length <= 0:
            raise OSError(EINVAL, f"Cannot punch {length} bytes from offset {offset}")
        self.i_rwsem.down_write()
        try:
            self.undo_range(offset, offset + length - 1)
        finally:
            self.i_rwsem.up_write()

    def truncate(self, size: int) -> None:
        """Set the file size (bytes), freeing what lies behind it. Kernel: shmem_setattr(), mm/shmem.c."""
        if not 0 <= size <= MAX_LFS_FILESIZE:
            raise OSError(EINVAL, f"A file cannot have {size} bytes")
        self.i_rwsem.down_write()
        try:
            shrinks = size < self.i_size
            self.i_size = size
            if shrinks:
                self.undo_range(size, MAX_LFS_FILESIZE)
        finally:
            self.i_rwsem.up_write()

    def undo_range(self, lstart: int, lend: int, unfalloc: bool = False) -> None:
        """Free the folios between two offsets (bytes, inclusive); with `unfalloc` only the unwritten ones.

        Kernel: shmem_undo_range(), mm/shmem.c.

        Context: the inode lock is held. Pass 1 takes what it can lock at once, pass 2 waits for the rest, so a
        folio that is being collapsed is waited for, found to have left the mapping, and looked up again.
        """
        mapping = self.i_mapping
        page_size = self.memory.page_size
        start, end = -(-lstart // page_size), (lend + 1) // page_size
        index = start
        while index < end and (batch := find_lock_entries(mapping, index, end - 1)):
            for at, entry in batch:
                index = at + 1
                if isinstance(entry, Folio):
                    index = entry.next_index
                    if not unfalloc or not entry.test_uptodate():
                        truncate_inode_folio(mapping, entry)
                    entry.unlock()
                    entry.put()
        if not unfalloc:
            start, end = self._undo_partial_folios(lstart, lend, start, end)
        index = start
        while index < end and (batch := find_get_entries(mapping, index, end - 1)):
            again = False
            for at, entry in batch:
                if not isinstance(entry, Folio):
                    index = at + 1
                    continue
                if not again:
                    index, again = self._undo_folio(at, entry, lstart, lend, unfalloc)
                entry.put()
        with self.lock:
            self.recalc()

    def _undo_folio(self, at: int, folio: Folio, lstart: int, lend: int, unfalloc: bool) -> tuple[int, bool]:
        """Undo one folio of pass 2; return where to go on (pages), and whether to look everything up again."""
        mapping = self.i_mapping
        folio.lock()
        try:
            if unfalloc and folio.test_uptodate():
                return folio.next_index, False
            if folio.mapping is not mapping:
                return at, True
            if folio.order == 0:
                truncate_inode_folio(mapping, folio)
                return at + 1, False
            next_index = folio.next_index
            if self._truncate_partial_folio(folio, lstart, lend) and folio.order == 0:
                return at, True  # split: pick the small folios up
            return next_index, False
        finally:
            folio.unlock()

    def _undo_partial_folios(self, lstart: int, lend: int, start: int, end: int) -> tuple[int, int]:
        """Zero the parts of the folios at both ends; return the whole pages in between that are left to free."""
        page_size = self.memory.page_size
        first, last = lstart // page_size, lend // page_size
        same_folio = first == last
        folio = self._get_partial_folio(first)
        if folio is not None:
            same_folio = lend < (folio.index + folio.nr_pages) * page_size
            before, behind = folio.index, folio.next_index
            if not self._truncate_partial_folio(folio, lstart, lend):
                start = behind
                if same_folio:
                    end = before
            folio.unlock()
            folio.put()
        if not same_folio and (folio := self._get_partial_folio(last)) is not None:
            before = folio.index
            if not self._truncate_partial_folio(folio, lstart, lend):
                end = before
            folio.unlock()
            folio.put()
        return start, end

    def _get_partial_folio(self, index: int) -> Folio | None:
        """Return the folio at an index, locked and with a reference. Kernel: shmem_get_partial_folio(), mm/shmem.c."""
        entry = filemap_get_entry(self.i_mapping, index)
        if not isinstance(entry, Folio):
            return None
        entry.lock()
        if entry.mapping is self.i_mapping:
            return entry
        entry.unlock()
        entry.put()
        try:
            return self.get_folio(index, Sgp.READ)
        except OSError:  # behind the end of the file
            return None

    def _truncate_partial_folio(self, folio: Folio, lstart: int, lend: int) -> bool:
        """Free or zero the part of a locked folio that lies in the range; False if a large one stays whole.

        Kernel: truncate_inode_partial_folio(), mm/truncate.c.
        """
        page_size = self.memory.page_size
        pos = folio.index * page_size
        folio.mark_dirty()
        offset = max(lstart - pos, 0)
        length = min(lend + 1 - pos, folio.size) - offset
        if length == folio.size:
            return truncate_inode_folio(self.i_mapping, folio)
        folio.zero_range(offset, length)
        return folio.order == 0 or split_folio(folio)

    def llseek(self, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE from an offset (bytes). Kernel: shmem_file_llseek(), mm/shmem.c.

        Raises:
            OSError: ENXIO: the offset is negative or behind the end, or no data follows.

        Context: takes the inode lock, which keeps write(2), truncate and punch out, but not a collapse.
        """
        self.i_rwsem.down_write()
        try:
            return mapping_seek_hole_data(self.i_mapping, max(offset, -1), self.i_size if offset >= 0 else -1, whence)
        finally:
            self.i_rwsem.up_write()
