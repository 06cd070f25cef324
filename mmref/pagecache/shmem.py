# SPDX-License-Identifier: GPL-2.0-only
"""shmem: files that live in the page cache and in swap alone (tmpfs, memfd).

Conventions in this file (as in mm/shmem.c): `index` is in pages, `offset`, `pos` and lengths are in bytes,
`folio` comes back locked and with a reference from `get_folio()`.
"""

from __future__ import annotations

from errno import EEXIST, EFAULT, EFBIG, EINVAL, EIO, ENOENT, ENOMEM, ENOSPC
from typing import TYPE_CHECKING

from mmref.errors import MmrefInternalError
from mmref.folio import Folio
from mmref.pagecache.filemap import (
    account_folio,
    filemap_get_entry,
    filemap_remove_folio,
    find_get_entries,
    find_lock_entries,
    mapping_seek_hole_data,
)
from mmref.pagecache.inode import BLOCK_SIZE, MAX_LFS_FILESIZE, Sgp
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.rmap import unmap_mapping_range
from mmref.pagecache.shmem_accounting import ShmemAccounting
from mmref.pagecache.truncate import truncate_inode_folio, truncate_inode_partial_folio
from mmref.sync import RwSem, SpinLock, cpu_relax
from mmref.xarray import XaState

if TYPE_CHECKING:
    from mmref.pagecache.fault import Fault

__all__ = ["BLOCK_SIZE", "Sgp", "ShmemFalloc", "ShmemInode"]


_WITHIN_SIZE = (Sgp.READ, Sgp.NOALLOC, Sgp.CACHE)


class ShmemFalloc:
    """A fallocate() or a punch that is under way. Kernel: struct shmem_falloc, mm/shmem.c.

    Attributes:
        start: first page of the range.
        next: index behind what has been done (or, for a punch, behind the range).
        punching: faults in the range must wait.
        nr_falloced: pages added.
        nr_unswapped: pages that reclaim would have liked to swap out meanwhile.
    """

    __slots__ = ("next", "nr_falloced", "nr_unswapped", "punching", "start")

    def __init__(self, start: int, next: int, punching: bool) -> None:
        self.start = start
        self.next = next
        self.punching = punching
        self.nr_falloced = 0
        self.nr_unswapped = 0


class ShmemInode(ShmemAccounting):
    """A tmpfs or memfd file.

    Kernel: struct shmem_inode_info with its struct inode, include/linux/shmem_fs.h.

    Attributes:
        fallocend: index behind the highest page that fallocate() has allocated behind the end of the file.
        i_private: the fallocate() or punch that is under way; changes under `i_lock`.
        huge: the mount option of that name: ``never``, ``always``, ``within_size`` or ``advise``.
    """

    __slots__ = ("fallocend", "huge", "i_private")

    def __init__(
        self,
        name: str,
        mapping: AddressSpace,
        size: int,
        pmd_order: int,
        i_rwsem: RwSem,
        i_lock: SpinLock,
        lock: SpinLock,
        max_pages: int | None = None,
    ) -> None:
        self.fallocend = 0
        self.huge = "never"
        self.i_private: ShmemFalloc | None = None
        super().__init__(name, mapping, size, pmd_order, i_rwsem, i_lock, lock, max_pages)

    # Getting a page ----------------------------------------------------------------------------------------

    def get_folio(self, index: int, sgp: Sgp, fault: Fault | None = None) -> Folio | None:
        """Return the folio at an index (pages), locked and with a reference; None where `sgp` says so.

        Kernel: shmem_get_folio_gfp(), mm/shmem.c.

        Args:
            index: which page.
            sgp: what to do about a hole.
            fault: the page fault on behalf of which it is asked for; its VMA may have a userfaultfd.

        Raises:
            OSError: ENOENT (`Sgp.NOALLOC` on a hole), EINVAL (beyond the file size), EFBIG, ENOMEM, ENOSPC.
            FaultRetry: the fault has been handed to a userfaultfd, and is to be tried again.

        Context: may sleep on the folio lock; must not hold xa_lock.
        """
        mapping = self.i_mapping
        page_shift = self.memory.page_shift
        if index > MAX_LFS_FILESIZE >> page_shift:
            raise OSError(EFBIG, f"Index {index} is behind the largest offset of a file")
        while True:
            if sgp in _WITHIN_SIZE and index << page_shift >= self.i_size:
                raise OSError(EINVAL, f"Index {index} is behind the end of the file")
            entry = filemap_get_entry(mapping, index)
            if entry is not None and fault is not None and fault.vma.userfaultfd_minor():
                if isinstance(entry, Folio):
                    entry.put()
                raise fault.handle_userfault("minor")
            if isinstance(entry, int):
                from mmref.pagecache.shmem_swap import shmem_swapin_folio

                folio = shmem_swapin_folio(self, index, entry)
                if folio is None:
                    continue
                return folio
            if entry is not None:
                entry.lock()
                if entry.mapping is not mapping:  # truncated, or replaced by a collapse, while we waited
                    entry.unlock()
                    entry.put()
                    continue
                if entry.test_uptodate():
                    return entry
                if sgp is not Sgp.READ:
                    return self._initialise(entry, index, sgp, False)
                entry.unlock()
                entry.put()
            if sgp is Sgp.READ:
                return None
            if sgp is Sgp.NOALLOC:
                raise OSError(ENOENT, f"Nothing at index {index}")
            if fault is not None and fault.vma.userfaultfd_missing():
                raise fault.handle_userfault("missing")
            folio = self.alloc_and_add_folio(index, fault)
            if folio is not None:
                # A folio that fallocate has just added stays unwritten: it can be told apart and undone.
                return self._initialise(folio, index, Sgp.WRITE if sgp is Sgp.FALLOC else sgp, True)

    def _initialise(self, folio: Folio, index: int, sgp: Sgp, alloced: bool) -> Folio:
        """Clear an unwritten folio, unless the caller is about to write it. Kernel: `clear:` in the above."""
        if sgp is not Sgp.WRITE:
            for page in range(folio.nr_pages):
                folio.clear_page(page)
            folio.mark_uptodate()
        if sgp in _WITHIN_SIZE and index << self.memory.page_shift >= self.i_size:  # truncated since we looked
            if alloced:
                filemap_remove_folio(folio)
            self.recalc_inode()
            folio.unlock()
            folio.put()
            raise OSError(EINVAL, f"Index {index} is behind the end of the file")
        return folio

    def alloc_and_add_folio(self, index: int, fault: Fault | None = None) -> Folio | None:
        """Put a new folio into the cache, locked; None if somebody else was faster.

        Kernel: shmem_alloc_and_add_folio(), mm/shmem.c (6.1: shmem_alloc_and_acct_folio() and its caller).

        Args:
            index: the page that it must cover.
            fault: the page fault that wants it; it may get a larger folio.

        Raises:
            OSError: ENOSPC, ENOMEM.
        """
        for order in self._suitable_orders(index, fault):
            try:
                folio = self._alloc_and_add(index & -(1 << order), order)
            except OSError:  # no memory or no blocks for so many pages
                continue
            if folio is not None:
                return folio
        return self._alloc_and_add(index, 0)

    def _suitable_orders(self, index: int, fault: Fault | None) -> list[int]:
        """List the sizes of large folios that fit around a page, largest first. Kernel: shmem_suitable_orders()."""
        wanted = self.memory.shmem_orders if fault is not None else frozenset()
        if self.is_huge(index, fault):
            wanted |= {self.pmd_order}
        fitting = []
        for order in sorted(wanted, reverse=True):
            start, nr = index & -(1 << order), 1 << order
            if fault is not None:
                vma = fault.vma
                aligned = (vma.vm_start // vma.page_size - vma.vm_pgoff) % nr == 0
                covered = vma.vm_pgoff <= start and start + nr <= vma.vm_pgoff + vma.nr_pages
                if not aligned or not covered:
                    continue
            if self.i_mapping.i_pages.find(start, start + nr - 1) is None:
                fitting.append(order)
        return fitting

    def is_huge(self, index: int, fault: Fault | None) -> bool:
        """Tell whether the mount option wants a huge page here. Kernel: shmem_huge_global_enabled(), mm/shmem.c."""
        if self.huge == "never" or self.pmd_order == 0:
            return False
        if fault is not None and fault.vma.thp_disabled():
            return False
        if self.huge == "always":
            return True
        behind = (index >> self.pmd_order) + 1 << self.pmd_order
        if self.huge == "within_size" and self.nr_pages >= behind:
            return True
        return fault is not None and fault.vma.hugepage is True

    def _alloc_and_add(self, index: int, order: int) -> Folio | None:
        pages = 1 << order
        acct_first = not self.memory.rules.recalc_with_deltas
        if acct_first and not self._acct_or_recalc(pages):
            raise OSError(ENOSPC, f"{self.name} has reached its limit of {self.max_pages} pages")
        folio = self.memory.alloc_folio(order)
        if folio is None:
            if acct_first:
                self.unacct_blocks(pages)
            raise OSError(ENOMEM, "Out of memory")
        folio.trylock()
        folio.set_swapbacked()
        charged = self.memory.charge(folio)
        if not charged or not self.add_to_page_cache(folio, index, None):
            if acct_first:
                self.unacct_blocks(pages)
            folio.unlock()
            folio.put()
            if not charged:
                raise OSError(ENOMEM, f"The control group {self.memory.memcg} is at its limit")
            return None
        if not acct_first and not self._acct_or_recalc(pages, added=pages):
            filemap_remove_folio(folio)
            folio.unlock()
            folio.put()
            raise OSError(ENOSPC, f"{self.name} has reached its limit of {self.max_pages} pages")
        if acct_first:
            self.memory.lru.add(folio)
        self.recalc_inode(pages)
        if not acct_first:
            self.memory.lru.add(folio)
        return folio

    def _acct_or_recalc(self, pages: int, added: int = 0) -> bool:
        """Take blocks of the filesystem, if need be after giving back those of pages that are gone.

        Args:
            pages: how many.
            added: pages that are in the cache already, but not accounted for.
        """
        if self.acct_blocks(pages):
            return True
        if not added:
            self.recalc_inode()
        else:
            with self.lock:
                freed = added + self.alloced - self.swapped - self.i_mapping.nrpages
                if freed > 0:
                    self.alloced -= freed
            if freed > 0:
                self.unacct_blocks(freed)
        return self.acct_blocks(pages)

    def add_to_page_cache(self, folio: Folio, index: int, expected: int | None) -> bool:
        """Store a locked folio at an index; False if there is anything but what is expected.

        Kernel: shmem_add_to_page_cache(), mm/shmem.c.

        Args:
            folio: what to add.
            index: where (pages).
            expected: the swap entry that must be there, or None for nothing.
        """
        mapping = self.i_mapping
        folio.ref_add(folio.nr_pages)
        folio.mapping = mapping
        folio.index = index
        xas = XaState(mapping.i_pages, index, folio.order)
        while True:
            with mapping.i_pages.xa_lock:
                stored = xas.find_conflict() == expected
                if stored:
                    xas.store(folio)
                    stored = not xas.error
                    if stored:
                        account_folio(mapping, folio, folio.nr_pages)
                        mapping.nrpages += folio.nr_pages
                        return True
            if not xas.error or not xas.nomem():
                folio.mapping = None
                folio.ref_sub(folio.nr_pages)
                return False

    def mfill_folio(self, index: int, content: bytes) -> Folio:
        """Add a page with this content where nothing is: locked, with a reference, uptodate from the start.

        Kernel: shmem_mfill_atomic_pte(), mm/shmem.c.

        Raises:
            OSError: EEXIST: something is there; EFAULT: behind the end of the file; ENOSPC; ENOMEM.
        """
        if not self.acct_blocks(1):
            raise OSError(ENOSPC, f"{self.name} has reached its limit of {self.max_pages} pages")
        folio = self.memory.alloc_folio(0)
        if folio is None:
            self.unacct_blocks(1)
            raise OSError(ENOMEM, "Out of memory")
        folio.trylock()
        folio.set_swapbacked()
        folio.write(0, content)
        folio.mark_uptodate()
        error = 0
        if index >= self.nr_pages:
            error = EFAULT
        elif not self.memory.charge(folio):
            error = ENOMEM
        elif not self.add_to_page_cache(folio, index, None):
            error = EEXIST
        if error:
            self.unacct_blocks(1)
            folio.unlock()
            folio.put()
            raise OSError(error, f"Page {index} of {self.name} cannot be filled")
        folio.mark_dirty()
        self.memory.lru.add(folio)
        self.recalc_inode(1)
        return folio

    def fault(self, fault: Fault) -> Folio:
        """Return the folio that a page fault asks for, locked and with a reference. Kernel: shmem_fault(), mm/shmem.c.

        Raises:
            OSError: as `get_folio()`.
            FaultRetry: as `get_folio()`.
        """
        while True:  # a hole is being punched here: wait, or the punch might never end
            with self.i_lock:
                falloc = self.i_private
                wait = falloc is not None and falloc.punching and falloc.start <= fault.index < falloc.next
            if not wait:
                break
            cpu_relax()
        folio = self.get_folio(fault.index, Sgp.CACHE, fault)
        if folio is None:
            raise MmrefInternalError(f"Sgp.CACHE gave no folio at index {fault.index}")
        return folio

    def falloc_unswapped(self, index: int) -> bool:
        """Tell whether a page belongs to a fallocate() under way, and count that it was not swapped out."""
        with self.i_lock:
            falloc = self.i_private
            if falloc is None or falloc.punching or not falloc.start <= index < falloc.next:
                return False
            falloc.nr_unswapped += 1
            return True

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
                if folio.test_hwpoison():
                    folio.put()
                    if parts:
                        break
                    raise OSError(EIO, f"The memory of page {index} is broken")
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
            OSError: EINVAL, EFBIG, ENOSPC, ENOMEM; whatever this call had allocated is then taken back.
        """
        if offset < 0 or length <= 0:
            raise OSError(EINVAL, f"Cannot allocate {length} bytes from offset {offset}")
        if offset + length > MAX_LFS_FILESIZE:
            raise OSError(EFBIG, f"Cannot allocate up to offset {offset + length}")
        page_size = self.memory.page_size
        self.i_rwsem.down_write()
        try:
            start, end = offset // page_size, -(-(offset + length) // page_size)
            if self.max_pages is not None and end - start > self.max_pages:
                raise OSError(ENOSPC, f"{end - start} pages are more than the limit of {self.max_pages}")
            falloc = ShmemFalloc(start, start, punching=False)
            self._set_private(falloc)
            fallocend, self.fallocend = self.fallocend, max(self.fallocend, end)
            try:
                index = start
                while index < end:
                    index = self._fallocate_one(index, falloc)
            except OSError:
                self.fallocend = fallocend
                if index > start:
                    self.undo_range(start * page_size, index * page_size - 1, unfalloc=True)
                raise
            finally:
                self._set_private(None)
            if not keep_size and offset + length > self.i_size:
                self.i_size = offset + length
        finally:
            self.i_rwsem.up_write()

    def _fallocate_one(self, index: int, falloc: ShmemFalloc) -> int:
        """Allocate one folio; return the index behind it (pages)."""
        if falloc.nr_unswapped > falloc.nr_falloced:
            raise OSError(ENOMEM, "Memory is short: what is allocated would be swapped out at once")
        folio = self.get_folio(index, Sgp.FALLOC)
        if folio is None:
            raise MmrefInternalError(f"Sgp.FALLOC gave no folio at index {index}")
        index = folio.next_index
        if not folio.test_uptodate():
            falloc.nr_falloced += index - falloc.next
        falloc.next = index
        folio.mark_dirty()
        folio.unlock()
        folio.put()
        return index

    def _set_private(self, falloc: ShmemFalloc | None) -> None:
        with self.i_lock:
            self.i_private = falloc

    def punch_hole(self, offset: int, length: int) -> None:
        """Free a range (bytes); parts of pages are zeroed. Kernel: shmem_fallocate(PUNCH_HOLE), mm/shmem.c."""
        if offset < 0 or length <= 0:
            raise OSError(EINVAL, f"Cannot punch {length} bytes from offset {offset}")
        if offset + length > MAX_LFS_FILESIZE:
            raise OSError(EFBIG, f"Cannot punch up to offset {offset + length}")
        page_size = self.memory.page_size
        self.i_rwsem.down_write()
        try:
            first, behind = -(-offset // page_size), (offset + length) // page_size
            self._set_private(ShmemFalloc(first, behind, punching=True))
            if first < behind:
                unmap_mapping_range(self.i_mapping, first, behind - first, even_cows=False)
            elif behind == 0:  # its last byte is -1, which is large when it is compared: all from `first` on
                unmap_mapping_range(self.i_mapping, first, None, even_cows=False)
            self.undo_range(offset, offset + length - 1)
            self._set_private(None)
        finally:
            self.i_rwsem.up_write()

    def truncate(self, size: int) -> None:
        """Set the file size (bytes), freeing what lies behind it. Kernel: shmem_setattr(), mm/shmem.c."""
        if not 0 <= size <= MAX_LFS_FILESIZE:
            raise OSError(EINVAL, f"A file cannot have {size} bytes")
        page_size = self.memory.page_size
        self.i_rwsem.down_write()
        try:
            old, self.i_size = self.i_size, size
            if size <= old:
                behind = -(-size // page_size)
                if old > behind * page_size:
                    unmap_mapping_range(self.i_mapping, behind)
                self.undo_range(size, MAX_LFS_FILESIZE)
                if old > behind * page_size:  # again: who faulted in the meantime may have COWed a page
                    unmap_mapping_range(self.i_mapping, behind)
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
        if start < self.fallocend <= end and not unfalloc:
            self.fallocend = start
        swaps_freed = 0
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
                elif not unfalloc:
                    swaps_freed += self._free_swap(at, entry)
        if not unfalloc:
            start, end = self._undo_partial_folios(lstart, lend, start, end)
        index = start
        while index < end:
            batch = find_get_entries(mapping, index, end - 1)
            if not batch:
                if index == start or lend != MAX_LFS_FILESIZE:
                    break
                index = start  # a truncation goes on until all is gone
                continue
            again = False
            for at, entry in batch:
                if isinstance(entry, Folio):
                    if not again:
                        index, again = self._undo_folio(at, entry, lstart, lend, start, unfalloc)
                    entry.put()
                elif not again:
                    index = at + 1
                    if not unfalloc:
                        freed = self._free_swap(at, entry)
                        swaps_freed += freed
                        if not freed:  # replaced by a page: look again
                            index, again = at, True
        self.recalc_inode(0, -swaps_freed)

    def _free_swap(self, index: int, entry: int) -> int:
        """Free a swapped page; return how many there were: 0 if it is no longer there."""
        from mmref.pagecache.shmem_swap import shmem_free_swap

        return int(shmem_free_swap(self, index, entry))

    def _undo_folio(
        self, at: int, folio: Folio, lstart: int, lend: int, start: int, unfalloc: bool
    ) -> tuple[int, bool]:
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
            if truncate_inode_partial_folio(folio, lstart, lend) and folio.order == 0:
                return start, True  # split: pick the small folios up
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
            folio.mark_dirty()
            if not truncate_inode_partial_folio(folio, lstart, lend):
                start = behind
                if same_folio:
                    end = before
            folio.unlock()
            folio.put()
        if not same_folio and (folio := self._get_partial_folio(last)) is not None:
            before = folio.index
            folio.mark_dirty()
            if not truncate_inode_partial_folio(folio, lstart, lend):
                end = before
            folio.unlock()
            folio.put()
        return start, end

    def _get_partial_folio(self, index: int) -> Folio | None:
        """Return the folio at an index, locked and with a reference. Kernel: shmem_get_partial_folio(), mm/shmem.c."""
        entry = filemap_get_entry(self.i_mapping, index)
        if entry is None:
            return None
        if isinstance(entry, Folio):
            entry.lock()
            if entry.mapping is self.i_mapping:
                return entry
            entry.unlock()
            entry.put()
        try:
            return self.get_folio(index, Sgp.READ)
        except OSError:  # behind the end of the file
            return None

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
