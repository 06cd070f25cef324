# SPDX-License-Identifier: GPL-2.0-only
"""The folio: 2**order pages that are locked, counted and cached as one.

Conventions in this file: every method that reads or changes shared state is one atomic step, as its kernel
counterpart is one instruction or one critical section that nobody can look into. `mmref.explore` overrides
these methods one by one to put a scheduling point in front of each, so nothing outside this room may touch
`_flags` or `_refcount`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.errors import Deadlock, InvariantViolation
from mmref.folio.flags import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_HWPOISON,
    PG_LOCKED,
    PG_LRU,
    PG_PRIVATE,
    PG_READAHEAD,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
    PG_UPTODATE,
    PG_WRITEBACK,
    flag_text,
)
from mmref.sync import smp_rmb, smp_wmb, this_cpu

if TYPE_CHECKING:
    from mmref.folio.allocator import PageAllocator
    from mmref.folio.memcg import MemCgroup

__all__ = ["Folio"]


class Folio:
    """A block of 2**order pages with one lock, one reference count and one set of flags.

    Kernel: struct folio, include/linux/mm_types.h. Folios are made by `PageAllocator.alloc()`; like the
    kernel's struct page the object outlives its use: a freed folio is handed out again, so that somebody who
    kept a stale pointer sees somebody else's folio.

    Attributes:
        pfn: number of its first page frame (pages).
        order: log2 of its size in pages.
        mapping: the address_space that it belongs to, or None. Changes only under the folio lock.
        index: position in that mapping (pages).
        swap: the swap entry while it is in the swap cache, else 0. Changes only under the folio lock.
        nid: the NUMA node that its memory is on.
        memcg: the control group that pays for it, or None.
        broken: memory-failure has dealt with it: off the LRU, with one more reference that is never dropped.
        data: the content, 2**order * page_size bytes.
        free: whether the allocator has it: nobody may touch it then, but `try_get()` it and fail.
        initialised: bit i is set once page i has been written or cleared since it was allocated.
    """

    __slots__ = (
        "_flags", "_mapcount", "_refcount", "allocator", "broken", "data", "free", "index", "initialised", "mapping",
        "memcg", "nid", "order", "pfn", "swap",
    )  # fmt: skip

    def __init__(self, allocator: PageAllocator, pfn: int, order: int) -> None:
        self.allocator = allocator
        self.pfn = pfn
        self.order = order
        self._flags = 0
        self._refcount = 0
        self._mapcount = 0
        self.mapping: object | None = None
        self.index = 0
        self.swap = 0
        self.nid = 0
        self.memcg: MemCgroup | None = None
        self.free = True
        self.broken = False
        self.data = bytearray()
        self.initialised = 0

    def __repr__(self) -> str:
        return (
            f"<Folio pfn={self.pfn} order={self.order} index={self.index} refs={self._refcount} "
            f"{flag_text(self._flags) or 'no flags'}>"
        )

    # Facts that do not change while the folio is allocated -------------------------------------------------

    @property
    def nr_pages(self) -> int:
        """Size in pages. Kernel: folio_nr_pages(), include/linux/mm.h."""
        return 1 << self.order

    @property
    def size(self) -> int:
        """Size in bytes. Kernel: folio_size(), include/linux/mm.h."""
        return self.allocator.page_size << self.order

    @property
    def next_index(self) -> int:
        """Index just behind the folio (pages). Kernel: folio_next_index(), include/linux/pagemap.h."""
        return self.index + (1 << self.order)

    def contains(self, index: int) -> bool:
        """Tell whether the folio covers this index (pages). Kernel: folio_contains(), include/linux/pagemap.h."""
        return self.index <= index < self.index + (1 << self.order)

    # Reference count ---------------------------------------------------------------------------------------

    def ref_count(self) -> int:
        """Return the number of references. Kernel: folio_ref_count(), include/linux/page_ref.h."""
        return self._refcount

    def get(self) -> None:
        """Take one more reference; the caller holds one. Kernel: folio_get(), include/linux/mm.h."""
        if self._refcount <= 0:
            raise InvariantViolation("A11", f"folio_get() on {self!r}, which nobody holds")
        self._refcount += 1

    def try_get(self) -> bool:
        """Take a reference unless the count is 0 (free, or frozen). Kernel: folio_try_get(), include/linux/page_ref.h.

        Context: needs no reference and no lock; RCU keeps the folio's memory type-stable.
        """
        if self._refcount == 0:
            return False
        self._refcount += 1
        return True

    def put(self) -> None:
        """Drop a reference, and free the folio with the last one. Kernel: folio_put(), include/linux/mm.h."""
        self.put_refs(1)

    def put_refs(self, refs: int) -> None:
        """Drop several references at once. Kernel: folio_put_refs(), include/linux/mm.h."""
        if self._refcount < refs:
            raise InvariantViolation("A11", f"{refs} references dropped on {self!r}")
        self._refcount -= refs
        if self._refcount == 0:
            self.allocator.free(self)

    def ref_add(self, refs: int) -> None:
        """Take several references; the caller holds one. Kernel: folio_ref_add(), include/linux/page_ref.h."""
        self._refcount += refs

    def ref_sub(self, refs: int) -> None:
        """Drop several references, never the last. Kernel: folio_ref_sub(), include/linux/page_ref.h."""
        self._refcount -= refs

    def ref_freeze(self, expected: int) -> bool:
        """Set the count from `expected` to 0, or leave it. Kernel: folio_ref_freeze(), include/linux/page_ref.h.

        While frozen, nobody can take a reference: lookups retry until `ref_unfreeze()`.
        """
        if self._refcount != expected:
            return False
        self._refcount = 0
        return True

    def ref_unfreeze(self, refs: int) -> None:
        """Set the count of a frozen folio. Kernel: folio_ref_unfreeze(), include/linux/page_ref.h."""
        if self._refcount != 0:
            raise InvariantViolation("A11", f"folio_ref_unfreeze() on {self!r}, which is not frozen")
        self._refcount = refs

    # Mappings ----------------------------------------------------------------------------------------------

    def mapcount(self) -> int:
        """Return how often it is mapped: one per PTE, one per PMD. Kernel: folio_mapcount(), include/linux/mm.h."""
        return self._mapcount

    def mapped(self) -> bool:
        """Tell whether any page table maps it. Kernel: folio_mapped(), include/linux/mm.h."""
        return self._mapcount > 0

    def add_rmap(self, ptes: int = 1) -> None:
        """Note that so many more entries map it. Kernel: folio_add_file_rmap_ptes(), mm/rmap.c.

        Context: the page table lock is held; the caller gives each entry a reference.
        """
        self._mapcount += ptes

    def remove_rmap(self, ptes: int = 1) -> None:
        """Note that so many entries less map it. Kernel: folio_remove_rmap_ptes(), mm/rmap.c.

        Context: the page table lock is held; the caller drops the references of the entries.
        """
        if self._mapcount < ptes:
            raise InvariantViolation("A11", f"{ptes} mappings removed of {self!r}, which has {self._mapcount}")
        self._mapcount -= ptes

    # Lock --------------------------------------------------------------------------------------------------

    def trylock(self) -> bool:
        """Take the folio lock if it is free. Kernel: folio_trylock(), include/linux/pagemap.h."""
        if self._flags & PG_LOCKED:
            return False
        self._flags |= PG_LOCKED
        return True

    def lock(self) -> None:
        """Take the folio lock, sleeping until it is free. Kernel: folio_lock(), include/linux/pagemap.h.

        Raises:
            Deadlock: it is held, and on the plain machine nobody else is there to release it.
        """
        if self._flags & PG_LOCKED:
            raise Deadlock([(repr(this_cpu()), f"the lock of {self!r}")])
        self._flags |= PG_LOCKED

    def unlock(self) -> None:
        """Release the folio lock and wake whoever waits. Kernel: folio_unlock(), mm/filemap.c."""
        if not self._flags & PG_LOCKED:
            raise InvariantViolation("A11", f"folio_unlock() on {self!r}, which is not locked")
        self._flags &= ~PG_LOCKED

    def test_locked(self) -> bool:
        """Tell whether anybody holds the lock. Kernel: folio_test_locked(), include/linux/page-flags.h."""
        return self._flags & PG_LOCKED != 0

    # Flags -------------------------------------------------------------------------------------------------

    def test_flag(self, flag: int) -> bool:
        """Tell whether a flag is set; the named tests below are this. Kernel: test_bit(), page-flags.h."""
        return self._flags & flag != 0

    def set_flag(self, flag: int) -> None:
        """Set a flag atomically. Kernel: set_bit(), page-flags.h."""
        self._flags |= flag

    def clear_flag(self, flag: int) -> None:
        """Clear a flag atomically. Kernel: clear_bit(), page-flags.h."""
        self._flags &= ~flag

    def test_clear_flag(self, flag: int) -> bool:
        """Clear a flag and tell whether it was set, in one step. Kernel: test_and_clear_bit(), page-flags.h."""
        was = self._flags & flag != 0
        self._flags &= ~flag
        return was

    def copy_flags(self, source: Folio) -> None:
        """Take over the flags that belong to the content. Kernel: folio_migrate_flags(), mm/migrate.c."""
        for flag in (PG_UPTODATE, PG_DIRTY, PG_SWAPBACKED, PG_ACTIVE):
            if source.test_flag(flag):
                self.set_flag(flag)

    def test_uptodate(self) -> bool:
        """Tell whether the content is valid. Kernel: folio_test_uptodate(), include/linux/page-flags.h.

        If so, what is read of it from here on is that content.
        """
        uptodate = self.test_flag(PG_UPTODATE)
        if uptodate:
            smp_rmb()
        return uptodate

    def mark_uptodate(self) -> None:
        """Declare the content valid. Kernel: folio_mark_uptodate(), include/linux/page-flags.h.

        Whoever sees the flag sees the content, too.
        """
        if self.allocator.uptodate_has_barrier:
            smp_wmb()
        self.set_flag(PG_UPTODATE)

    def test_dirty(self) -> bool:
        """Tell whether the content must be kept. Kernel: folio_test_dirty(), include/linux/page-flags.h."""
        return self.test_flag(PG_DIRTY)

    def mark_dirty(self) -> None:
        """Note that the content must be kept. Kernel: folio_mark_dirty(), mm/page-writeback.c."""
        self.set_flag(PG_DIRTY)

    def cancel_dirty(self) -> None:
        """Forget that the content must be kept. Kernel: folio_cancel_dirty(), include/linux/pagemap.h."""
        self.clear_flag(PG_DIRTY)

    def test_writeback(self) -> bool:
        """Tell whether it is being written out. Kernel: folio_test_writeback(), include/linux/page-flags.h."""
        return self.test_flag(PG_WRITEBACK)

    def start_writeback(self) -> None:
        """Note that it is being written out. Kernel: folio_start_writeback(), include/linux/page-flags.h."""
        self.set_flag(PG_WRITEBACK)

    def end_writeback(self) -> None:
        """Note that it has been written out, and wake whoever waits. Kernel: folio_end_writeback(), mm/filemap.c."""
        self.clear_flag(PG_WRITEBACK)

    def wait_writeback(self) -> None:
        """Sleep until it has been written out. Kernel: folio_wait_writeback(), mm/page-writeback.c.

        Raises:
            Deadlock: on the plain machine, where nobody else is there to finish it.
        """
        if self.test_writeback():
            raise Deadlock([(repr(this_cpu()), f"the writeback of {self!r}")])

    def clear_dirty_for_io(self) -> bool:
        """Take the dirty flag off, to write the folio. Kernel: folio_clear_dirty_for_io(), mm/page-writeback.c."""
        return self.test_clear_flag(PG_DIRTY)

    def test_private(self) -> bool:
        """Tell whether the filesystem keeps something. Kernel: folio_test_private(), include/linux/page-flags.h."""
        return self.test_flag(PG_PRIVATE)

    def attach_private(self) -> None:
        """Keep something about the folio: a reference. Kernel: folio_attach_private(), include/linux/pagemap.h."""
        self.get()
        self.set_flag(PG_PRIVATE)

    def detach_private(self) -> None:
        """Forget what was kept about it. Kernel: folio_detach_private(), include/linux/pagemap.h."""
        if self.test_clear_flag(PG_PRIVATE):
            self.put()

    def test_swapcache(self) -> bool:
        """Tell whether it is in the swap cache. Kernel: folio_test_swapcache(), include/linux/page-flags.h."""
        return self.test_flag(PG_SWAPCACHE)

    def set_readahead(self) -> None:
        """Note that it was read ahead. Kernel: folio_set_readahead(), include/linux/page-flags.h."""
        self.set_flag(PG_READAHEAD)

    def test_readahead(self) -> bool:
        """Tell whether it was read ahead. Kernel: folio_test_readahead(), include/linux/page-flags.h."""
        return self.test_flag(PG_READAHEAD)

    def test_clear_readahead(self) -> bool:
        """Note that somebody asked for it. Kernel: folio_test_clear_readahead(), include/linux/page-flags.h."""
        return self.test_clear_flag(PG_READAHEAD)

    def test_hwpoison(self) -> bool:
        """Tell whether the memory is broken. Kernel: folio_test_hwpoison(), include/linux/page-flags.h."""
        return self.test_flag(PG_HWPOISON)

    def test_lru(self) -> bool:
        """Tell whether it is on an LRU list. Kernel: folio_test_lru(), include/linux/page-flags.h."""
        return self.test_flag(PG_LRU)

    def set_lru(self) -> None:
        """Note that it is on an LRU list. Kernel: folio_set_lru(), include/linux/page-flags.h."""
        self.set_flag(PG_LRU)

    def test_clear_lru(self) -> bool:
        """Claim it from its LRU list. Kernel: folio_test_clear_lru(), include/linux/page-flags.h."""
        return self.test_clear_flag(PG_LRU)

    def set_swapbacked(self) -> None:
        """Note that it goes to swap. Kernel: __folio_set_swapbacked(), include/linux/page-flags.h."""
        self.set_flag(PG_SWAPBACKED)

    def clear_active(self) -> None:
        """Forget that it is active. Kernel: folio_clear_active(), include/linux/page-flags.h."""
        self.clear_flag(PG_ACTIVE)

    def clear_unevictable(self) -> None:
        """Forget that it is unevictable. Kernel: folio_clear_unevictable(), include/linux/page-flags.h."""
        self.clear_flag(PG_UNEVICTABLE)

    # Content -----------------------------------------------------------------------------------------------

    def copy_page(self, page: int, source: Folio, source_page: int) -> bool:
        """Copy one page of `source` into page number `page` of this folio.

        Kernel: copy_mc_highpage(), include/linux/highmem.h.

        Returns:
            False if the source page is poisoned memory; this folio's page is then left as it was.
        """
        if source._flags & PG_HWPOISON:
            return False
        size = self.allocator.page_size
        to, start = page * size, source_page * size
        self.data[to : to + size] = memoryview(source.data)[start : start + size]
        if source.initialised >> source_page & 1:
            self.initialised |= 1 << page
        return True

    def clear_page(self, page: int) -> None:
        """Fill one page with zeros. Kernel: clear_highpage(), include/linux/highmem.h."""
        size = self.allocator.page_size
        self.data[page * size : (page + 1) * size] = bytes(size)
        self.initialised |= 1 << page

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from byte `offset` of the folio. Kernel: copy_page_to_iter(), lib/iov_iter.c."""
        return bytes(memoryview(self.data)[offset : offset + length])

    def write(self, offset: int, content: bytes) -> None:
        """Overwrite bytes from byte `offset` on; a page counts as initialised only if it is written whole.

        Kernel: copy_page_from_iter_atomic(), lib/iov_iter.c.
        """
        self.data[offset : offset + len(content)] = content
        size = self.allocator.page_size
        for page in range(-(-offset // size), (offset + len(content)) // size):
            self.initialised |= 1 << page

    def zero_range(self, offset: int, length: int) -> None:
        """Fill `length` bytes from byte `offset` with zeros. Kernel: folio_zero_range(), include/linux/highmem.h."""
        self.data[offset : offset + length] = bytes(length)
        size = self.allocator.page_size
        for page in range(-(-offset // size), (offset + length) // size):
            self.initialised |= 1 << page

    def zero_around(self, offset: int, length: int) -> None:
        """Fill all but `length` bytes from byte `offset` with zeros: those have just been written.

        Kernel: folio_zero_segments(), include/linux/highmem.h.
        """
        behind = offset + length
        self.data[:offset] = bytes(offset)
        self.data[behind:] = bytes(len(self.data) - behind)
        self.initialised = (1 << self.nr_pages) - 1

    # Looking without touching ------------------------------------------------------------------------------

    def peek(self) -> tuple[int, int]:
        """Return (flags, reference count) for checkers and pictures: never an access of the simulated machine."""
        return self._flags, self._refcount

    def peek_mapcount(self) -> int:
        """Return how often it is mapped, as `peek()` does."""
        return self._mapcount
