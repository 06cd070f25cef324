# SPDX-License-Identifier: GPL-2.0-only
"""Files on a disk, as far as huge pages for read-only files need them (CONFIG_READ_ONLY_THP_FOR_FS).

The filesystem is one that knows only small folios, like ext4 until v6.16. Writing puts pages into the cache, dirty;
writeback takes them to the disk. A huge page is only for readers: who opens the file for writing has the whole cache
of the file dropped first, if there is a huge page in it.

Conventions in this file: `index` is in pages, `pos`, `offset` and lengths are in bytes; a block of the disk is a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, EIO, ENOMEM, ENXIO, ETXTBSY

from mmref.errors import MmrefInternalError
from mmref.folio import Folio
from mmref.pagecache.fault import Fault, FaultRetry
from mmref.pagecache.filemap import SEEK_DATA, account_folio, filemap_get_entry, find_get_entry
from mmref.pagecache.inode import BLOCK_SIZE, MAX_LFS_FILESIZE, Inode
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.rmap import unmap_mapping_range
from mmref.pagecache.truncate import truncate_inode_pages_range
from mmref.sync import RwSem, SpinLock, might_sleep, rcu_read_lock, rcu_read_unlock, smp_mb
from mmref.xarray import XaState

__all__ = ["RA_PAGES", "RegularInode", "filemap_flush", "filemap_write_and_wait", "page_cache_sync_readahead"]

RA_PAGES = 32
"""How many pages are read ahead at most (128 KiB). Kernel: VM_READAHEAD_PAGES, include/linux/mm.h."""


@dataclass
class ReadaheadState:
    """What is being read ahead for who has the file open. Kernel: struct file_ra_state, include/linux/fs.h.

    Attributes:
        start: first page of the window.
        size: pages in it.
        async_size: when only so many are left, the next window is read.
    """

    start: int = 0
    size: int = 0
    async_size: int = 0


class RegularInode(Inode):
    """A file on a disk.

    Attributes:
        disk: the blocks that are allocated and written: number -> content.
        reserved: blocks that will be allocated when they are written (delayed allocation).
        fail_io: let every write to the disk fail with EIO.
        slow_io: writes that were started are not over before somebody calls `complete_io()`; who waits for one that
            nobody will end is in a deadlock.
        f_ra: the readahead of who has it open (one for all).
        bad_blocks: blocks of the disk that cannot be read.
        keeps_private: the filesystem does not let go of what it keeps about a folio.
    """

    __slots__ = ("_in_flight", "bad_blocks", "disk", "f_ra", "fail_io", "keeps_private", "reserved", "slow_io")

    def __init__(
        self, name: str, mapping: AddressSpace, size: int, pmd_order: int, i_rwsem: RwSem, i_lock: SpinLock
    ) -> None:
        self.disk: dict[int, bytes] = {}
        self.reserved: set[int] = set()
        self.f_ra = ReadaheadState()
        self.bad_blocks: set[int] = set()
        self.fail_io = False
        self.slow_io = False
        self.keeps_private = False
        self._in_flight: list[Folio] = []
        super().__init__(name, mapping, size, pmd_order, i_rwsem, i_lock)

    def set_disk(self, data: bytes) -> None:
        """Put content on the disk of a file that is not in the cache."""
        size = self.memory.page_size
        for index in range(-(-len(data) // size)):
            self.disk[index] = data[index * size : (index + 1) * size].ljust(size, b"\0")
        self._count_blocks()

    # The disk ----------------------------------------------------------------------------------------------

    def read_folio(self, folio: Folio) -> None:
        """Read a locked folio from the disk; unlocks it. Kernel: mpage_read_folio(), fs/mpage.c.

        One that cannot be read stays in the cache, and is not uptodate.
        """
        might_sleep("submit_bio()")
        size = self.memory.page_size
        for page in range(folio.nr_pages):
            if folio.index + page in self.bad_blocks:
                folio.unlock()
                return
            block = self.disk.get(folio.index + page)
            if block is None:
                folio.clear_page(page)
            else:
                folio.write(page * size, block)
        folio.mark_uptodate()
        folio.unlock()

    def write_folio(self, folio: Folio) -> None:
        """Start writing a locked folio to the disk; unlocks it. Kernel: ext4_bio_write_folio(), fs/ext4/page-io.c.

        The folio's dirty flag has been taken off.
        """
        might_sleep("submit_bio()")
        folio.start_writeback()
        if self.fail_io:
            folio.mark_dirty()
        else:
            size = self.memory.page_size
            for page in range(folio.nr_pages):
                self.disk[folio.index + page] = folio.read(page * size, size)
                self.reserved.discard(folio.index + page)
            self._count_blocks()
        folio.unlock()
        if self.slow_io:
            self._in_flight.append(folio)
        else:
            folio.end_writeback()

    def complete_io(self) -> None:
        """Let the writes that were started come to an end."""
        in_flight, self._in_flight = self._in_flight, []
        for folio in in_flight:
            folio.end_writeback()

    def in_flight(self) -> list[Folio]:
        """Return the folios that are being written: for checkers."""
        return list(self._in_flight)

    def _count_blocks(self) -> None:
        with self.i_lock:
            self.i_blocks = (len(self.disk) + len(self.reserved)) * (self.memory.page_size // BLOCK_SIZE)

    def release_folio(self, folio: Folio) -> bool:
        """Let go of what is kept about a folio, if possible. Kernel: filemap_release_folio(), mm/filemap.c."""
        if not folio.test_private():
            return True
        if self.keeps_private or folio.test_dirty() or folio.test_writeback():
            return False
        folio.detach_private()
        return True

    def page_mkwrite(self, folio: Folio) -> bool:
        """Make a page of a shared mapping writable: dirty, with a block. Kernel: ext4_page_mkwrite(), fs/ext4/inode.c.

        Context: the folio is locked.
        """
        self._dirty(folio)
        return True

    def _dirty(self, folio: Folio) -> None:
        if not folio.test_private():
            folio.attach_private()
        if folio.index not in self.disk:
            self.reserved.add(folio.index)
            self._count_blocks()
        folio.mark_dirty()

    # Opening -----------------------------------------------------------------------------------------------

    def get_write_access(self) -> None:
        """Count a writer. Kernel: get_write_access(), include/linux/fs.h.

        Raises:
            OSError: ETXTBSY: the file is being executed.
        """
        if not self.memory.rules.writers_are_ordered:
            self.writecount_add(1)
        elif not self.writecount_inc():
            raise OSError(ETXTBSY, f"{self.name} is being executed")

    def put_write_access(self) -> None:
        """Count a writer no more. Kernel: put_write_access(), include/linux/fs.h."""
        self.writecount_add(-1)

    def writecount_inc(self) -> bool:
        """Count a writer unless writing is denied, atomically and fully ordered.

        Kernel: atomic_inc_unless_negative(), include/linux/atomic/atomic-instrumented.h.
        """
        if self.i_writecount < 0:
            return False
        self.i_writecount += 1
        return True

    def writecount_add(self, writers: int) -> None:
        """Count so many more writers, atomically, and order nothing.

        Kernel: atomic_add(), include/linux/atomic/atomic-instrumented.h.
        """
        self.i_writecount += writers

    def open_for_write(self) -> None:
        """Open for writing: drop the whole cache if there is a huge page in it. Kernel: do_dentry_open(), fs/open.c.

        Private copies stay mapped (Linux 8468e937df1f, v5.16). Dirty folios anywhere in the file are dropped like
        the others: whoever put the huge page there must have written them to the disk first.
        """
        self.get_write_access()
        mapping, rules = self.i_mapping, self.memory.rules
        if rules.open_has_fence:
            smp_mb()
        if not rules.open_purges or not mapping.nr_thps:
            return
        mapping.invalidate_lock.down_write()
        try:
            unmap_mapping_range(mapping, 0, None, even_cows=not rules.purge_spares_copies)
            truncate_inode_pages_range(mapping, 0, MAX_LFS_FILESIZE)
        finally:
            mapping.invalidate_lock.up_write()

    # System calls ------------------------------------------------------------------------------------------

    def read_mapping_folio(self, index: int, readahead: int = RA_PAGES) -> Folio | None:
        """Return the folio at an index, uptodate and with a reference; None behind the end of the file.

        Kernel: filemap_get_pages(), mm/filemap.c. Reads it from the disk if need be, with up to `readahead` pages.

        Raises:
            OSError: EIO: it cannot be read.
        """
        while index < self.nr_pages:
            entry = filemap_get_entry(self.i_mapping, index)
            if not isinstance(entry, Folio):
                page_cache_sync_readahead(self.i_mapping, index, readahead)
                continue
            if entry.test_uptodate():
                return entry
            entry.lock()
            if entry.mapping is self.i_mapping and not entry.test_uptodate():
                self._read_or_fail(entry)
            else:
                entry.unlock()
            entry.put()
        return None

    def _read_or_fail(self, folio: Folio) -> None:
        """Read a locked folio that this CPU has a reference to. Kernel: filemap_read_folio(), mm/filemap.c.

        Raises:
            OSError: EIO: it cannot be read; the reference has been dropped.
        """
        self.read_folio(folio)
        if not folio.test_uptodate():
            index = folio.index
            folio.put()
            raise OSError(EIO, f"Page {index} cannot be read")

    def file_read(self, pos: int, length: int, readahead: int = RA_PAGES) -> bytes:
        """Read bytes. Kernel: filemap_read(), mm/filemap.c."""
        size = self.memory.page_size
        parts: list[bytes] = []
        end = min(pos + length, self.i_size)
        while pos < end:
            index, offset = divmod(pos, size)
            folio = self.read_mapping_folio(index, readahead)
            if folio is None:
                break
            if folio.test_hwpoison():
                folio.put()
                raise OSError(EIO, f"The memory of page {index} is broken")
            nr = min(size - offset, end - pos)
            parts.append(folio.read((index - folio.index) * size + offset, nr))
            folio.put()
            pos += nr
        return b"".join(parts)

    def file_write(self, pos: int, content: bytes) -> int:
        """Write bytes into the cache. Kernel: generic_perform_write(), mm/filemap.c."""
        size = self.memory.page_size
        self.i_rwsem.down_write()
        try:
            written = 0
            while written < len(content):
                index, offset = divmod(pos + written, size)
                chunk = content[written : written + size - offset]
                folio = self._grab(index)
                if not folio.test_uptodate():
                    if len(chunk) < size:
                        block = self.disk.get(index)
                        folio.write(0, block if block is not None else bytes(size))
                    folio.write(offset, chunk)
                    folio.mark_uptodate()
                else:
                    folio.write((index - folio.index) * size + offset, chunk)
                self._dirty(folio)
                written += len(chunk)
                self.i_size = max(self.i_size, pos + written)
                folio.unlock()
                folio.put()
            return written
        finally:
            self.i_rwsem.up_write()

    def _grab(self, index: int) -> Folio:
        """Return the folio at an index, locked and with a reference. Kernel: __filemap_get_folio(), mm/filemap.c."""
        mapping = self.i_mapping
        while True:
            entry = filemap_get_entry(mapping, index)
            if isinstance(entry, Folio):
                entry.lock()
                if entry.mapping is mapping:
                    entry.wait_writeback()
                    return entry
                entry.unlock()
                entry.put()
                continue
            folio = self.memory.alloc_folio(0)
            if folio is None or not self.memory.charge(folio):
                if folio is not None:
                    folio.put()
                raise OSError(ENOMEM, "Out of memory")
            folio.trylock()
            if filemap_add_folio(mapping, folio, index):
                return folio
            folio.unlock()
            folio.put()

    def fsync(self) -> None:
        """Write all dirty folios to the disk and wait. Kernel: ext4_sync_file(), fs/ext4/fsync.c."""
        if filemap_write_and_wait(self.i_mapping):
            raise OSError(EIO, f"{self.name} could not be written")

    def fallocate(self, offset: int, length: int, keep_size: bool = False) -> None:
        """Allocate blocks that read as zeros. Kernel: ext4_fallocate(), fs/ext4/extents.c."""
        if offset < 0 or length <= 0:
            raise OSError(EINVAL, f"Cannot allocate {length} bytes from offset {offset}")
        size = self.memory.page_size
        self.i_rwsem.down_write()
        try:
            for index in range(offset // size, -(-(offset + length) // size)):
                if index not in self.disk and index not in self.reserved:
                    self.disk[index] = bytes(size)
            self._count_blocks()
            if not keep_size:
                self.i_size = max(self.i_size, offset + length)
        finally:
            self.i_rwsem.up_write()

    def punch_hole(self, offset: int, length: int) -> None:
        """Free a range of blocks. Kernel: ext4_punch_hole(), fs/ext4/inode.c."""
        if offset < 0 or length <= 0:
            raise OSError(EINVAL, f"Cannot punch {length} bytes from offset {offset}")
        mapping, size = self.i_mapping, self.memory.page_size
        self.i_rwsem.down_write()
        mapping.invalidate_lock.down_write()
        try:
            end = min(offset + length, max(self.i_size, offset + 1))
            if filemap_write_and_wait(mapping):
                raise OSError(EIO, f"{self.name} could not be written")
            first, behind = -(-offset // size), end // size
            if first < behind:
                unmap_mapping_range(mapping, first, behind - first, even_cows=False)
            truncate_inode_pages_range(mapping, offset, end - 1)
            for index in range(offset // size, -(-end // size)):
                self._zero_block(index, offset, end)
            self._count_blocks()
        finally:
            mapping.invalidate_lock.up_write()
            self.i_rwsem.up_write()

    def truncate(self, size: int) -> None:
        """Set the file size (bytes). Kernel: ext4_setattr(), fs/ext4/inode.c."""
        if not 0 <= size <= MAX_LFS_FILESIZE:
            raise OSError(EINVAL, f"A file cannot have {size} bytes")
        mapping, page_size = self.i_mapping, self.memory.page_size
        self.i_rwsem.down_write()
        mapping.invalidate_lock.down_write()
        try:
            old, self.i_size = self.i_size, size
            if size < old:
                behind = -(-size // page_size)
                unmap_mapping_range(mapping, behind)
                truncate_inode_pages_range(mapping, size, MAX_LFS_FILESIZE)
                unmap_mapping_range(mapping, behind)
                for index in [index for index in {*self.disk, *self.reserved} if index >= size // page_size]:
                    self._zero_block(index, size, MAX_LFS_FILESIZE)
                self._count_blocks()
        finally:
            mapping.invalidate_lock.up_write()
            self.i_rwsem.up_write()

    def _zero_block(self, index: int, start: int, end: int) -> None:
        """Free a block, or zero the part of it that is between two offsets (bytes)."""
        size = self.memory.page_size
        low, high = max(start - index * size, 0), min(end - index * size, size)
        if high - low >= size:
            self.disk.pop(index, None)
            self.reserved.discard(index)
        elif index in self.disk and low < high:
            block = self.disk[index]
            self.disk[index] = block[:low] + bytes(high - low) + block[high:]

    def llseek(self, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE by the blocks that are allocated. Kernel: ext4_llseek(), fs/ext4/file.c."""
        size, end = self.memory.page_size, self.i_size
        if not 0 <= offset < end:
            raise OSError(ENXIO, "No data or hole there")
        seek_data = whence == SEEK_DATA
        for index in range(offset // size, self.nr_pages):
            if (index in self.disk or index in self.reserved) == seek_data:
                return max(offset, index * size)
        if seek_data:
            raise OSError(ENXIO, "No data from there to the end of the file")
        return end

    def fault(self, fault: Fault) -> Folio:
        """Return the folio that a fault asks for, locked and with a reference. Kernel: filemap_fault(), mm/filemap.c.

        A page that is not in the cache is read with those around it.

        Raises:
            OSError: EINVAL: behind the end of the file; EIO: it cannot be read.
            FaultRetry: the page has been read; the fault is to be tried again.
        """
        mapping, index = self.i_mapping, fault.index
        while True:
            if index >= self.nr_pages:
                raise OSError(EINVAL, f"Page {index} is behind the end of the file")
            entry = filemap_get_entry(mapping, index)
            if not isinstance(entry, Folio):
                self._sync_mmap_readahead(index)
                raise FaultRetry  # mmap_lock is given up while the page is read
            if entry.test_clear_readahead():
                entry.put()
                self._async_mmap_readahead()
                raise FaultRetry
            entry.lock()
            if entry.mapping is mapping:
                if entry.test_uptodate():
                    return entry
                self._read_or_fail(entry)
            else:
                entry.unlock()
            entry.put()

    def _sync_mmap_readahead(self, index: int) -> None:
        """Read a page that a fault misses, and those around it. Kernel: do_sync_mmap_readahead(), mm/filemap.c."""
        ra = self.f_ra
        ra.start, ra.size, ra.async_size = max(0, index - RA_PAGES // 2), RA_PAGES, RA_PAGES // 4
        page_cache_ra(self.i_mapping, ra.start, ra.size, ra.async_size)

    def _async_mmap_readahead(self) -> None:
        """Read the next window: a fault has come to the mark in this one. Kernel: do_async_mmap_readahead()."""
        ra = self.f_ra
        ra.start, ra.size, ra.async_size = ra.start + ra.size, RA_PAGES, RA_PAGES
        page_cache_ra(self.i_mapping, ra.start, ra.size, ra.async_size)


# The cache of a file on a disk -----------------------------------------------------------------------------


def filemap_add_folio(mapping: AddressSpace, folio: Folio, index: int) -> bool:
    """Put a locked folio where nothing, or a shadow entry, is; False if somebody was faster.

    Kernel: filemap_add_folio(), mm/filemap.c. A shadow entry of a larger folio is split first (Linux 198b62f83eef,
    v5.9), so that the rest of it stays.
    """
    folio.ref_add(folio.nr_pages)
    folio.mapping = mapping
    folio.index = index
    xas = XaState(mapping.i_pages, index, folio.order)
    stored = False
    while not stored:
        split = 0
        with mapping.i_pages.xa_lock:
            xas.set(index)
            old = xas.load()
            if isinstance(old, int):
                order = mapping.i_pages.get_order(index)
                if order > folio.order and mapping.memory.rules.shadows_are_split:
                    split = order
            if isinstance(old, Folio):
                break
            if not split:
                xas.store(folio)
                stored = not xas.error
                if stored:
                    mapping.nrpages += folio.nr_pages
                    account_folio(mapping, folio, folio.nr_pages)
                    break
        if split:
            _split_shadow(mapping, index, split)
        elif not xas.nomem():
            break
    if not stored:
        folio.mapping = None
        folio.ref_sub(folio.nr_pages)
        return False
    mapping.memory.lru.add(folio)
    return True


def _split_shadow(mapping: AddressSpace, index: int, order: int) -> None:
    """Split a shadow entry that covers several pages. Kernel: xas_split() in __filemap_add_folio(), mm/filemap.c."""
    xas = XaState(mapping.i_pages, index)
    old = mapping.i_pages.load(index)
    xas.split_alloc(old, order)
    if xas.error:
        raise OSError(ENOMEM, "Out of memory")
    with mapping.i_pages.xa_lock:
        xas.reset()
        xas.set(index)
        if xas.load() is old and mapping.i_pages.get_order(index) == order:
            xas.split(old, order)
        else:
            xas.destroy()


def page_cache_ra(mapping: AddressSpace, index: int, nr: int, lookahead: int = 0) -> None:
    """Read pages that are not in the cache. Kernel: page_cache_ra_unbounded(), mm/readahead.c.

    Args:
        mapping: the file.
        index: first page.
        nr: how many; stops at the end of the file.
        lookahead: mark the page at which only so many are left, if it is read; 0 for no mark.

    Context: takes the invalidate lock shared.
    """
    inode = mapping.host
    assert isinstance(inode, RegularInode)
    mapping.invalidate_lock.down_read()
    try:
        for at in range(index, min(index + nr, inode.nr_pages)):
            if isinstance(mapping.i_pages.load(at), Folio):
                continue
            folio = mapping.memory.alloc_folio(0)
            if folio is None:
                return
            if not mapping.memory.charge(folio):
                folio.put()
                return
            folio.trylock()
            if filemap_add_folio(mapping, folio, at):
                if lookahead and at == index + nr - lookahead:
                    folio.set_readahead()
                inode.read_folio(folio)
            else:
                folio.unlock()
            folio.put()
    finally:
        mapping.invalidate_lock.up_read()


def page_cache_sync_readahead(mapping: AddressSpace, index: int, nr: int) -> None:
    """Read a page that is needed now, and up to `nr` with it. Kernel: page_cache_sync_ra(), mm/readahead.c."""
    page_cache_ra(mapping, index, min(nr, RA_PAGES))


def _writepages(mapping: AddressSpace) -> list[Folio]:
    """Start writing all dirty folios; return them with a reference each.

    Kernel: write_cache_pages(), mm/page-writeback.c.
    """
    inode = mapping.host
    if not isinstance(inode, RegularInode):
        raise MmrefInternalError(f"{inode!r} has no disk")
    started: list[Folio] = []
    index = 0
    while batch := _find_dirty(mapping, index):
        index = batch[-1].next_index
        for folio in batch:
            folio.lock()
            if folio.mapping is mapping and folio.clear_dirty_for_io():
                inode.write_folio(folio)
                started.append(folio)
                continue
            folio.unlock()
            folio.put()
    return started


def _find_dirty(mapping: AddressSpace, index: int) -> list[Folio]:
    """List the next dirty folios from an index on (pages), with a reference each; no more than fit a batch.

    Kernel: filemap_get_folios_tag(), mm/filemap.c.
    """
    xas = XaState(mapping.i_pages, index)
    found: list[Folio] = []
    rcu_read_lock()
    while len(found) < mapping.memory.rules.pagevec_size:
        entry = find_get_entry(xas, (1 << 52) - 1)
        if entry is None:
            break
        if isinstance(entry, Folio):
            if entry.test_dirty():
                found.append(entry)
            else:
                entry.put()
    rcu_read_unlock()
    return found


def filemap_flush(mapping: AddressSpace) -> None:
    """Start writing all dirty folios, and do not wait. Kernel: filemap_flush(), mm/filemap.c."""
    for folio in _writepages(mapping):
        folio.put()


def filemap_write_and_wait(mapping: AddressSpace) -> bool:
    """Write all dirty folios and wait; True if that failed. Kernel: filemap_write_and_wait(), mm/filemap.c.

    Context: waits for the locks of dirty folios and for writeback.
    """
    failed = False
    for folio in _writepages(mapping):
        folio.wait_writeback()
        failed |= folio.test_dirty()
        folio.put()
    return failed
