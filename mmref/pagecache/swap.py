# SPDX-License-Identifier: GPL-2.0-only
"""Swap: slots on a device, and the cache of folios that are on their way out or in.

Conventions in this file: an `entry` is the number of a slot, from 1 on (slot 0 is the header), as the page cache
stores it where a page has been swapped out. The device is synchronous: a write is over when it returns.
"""

from __future__ import annotations

from mmref.errors import DoubleFree, MmrefInternalError, UsageError
from mmref.folio import PG_SWAPCACHE, Folio, MemCgroup
from mmref.pagecache.mapping import Memory
from mmref.sync import SpinLock, cpu_relax, might_sleep

__all__ = ["SwapDevice", "swap_cluster_readahead"]


class SwapDevice:
    """A swap device with its map of slots in use and its swap cache.

    Kernel: struct swap_info_struct, include/linux/swap.h, and swapper_spaces, mm/swap_state.c.

    Attributes:
        pages: how many slots it has.
        lock: protects the map.
        page_cluster: log2 of the slots that are read in at once (vm.page-cluster).
        hits: how many pages that were read ahead have been asked for since the last swap-in.
    """

    def __init__(self, pages: int, lock_class: type[SpinLock] = SpinLock, page_cluster: int = 3) -> None:
        if pages < 0:
            raise UsageError(f"A swap device cannot have {pages} pages; give 0 or more.")
        self.pages = pages
        self.lock = lock_class("swap map lock")
        self.page_cluster = page_cluster
        self.hits = 4  # Kernel: swapin_readahead_hits starts at 4
        self.prev_offset = 0
        self.last_window = 0
        self._map: dict[int, MemCgroup | None] = {}
        self._content: dict[int, bytes] = {}
        self._cache: dict[int, Folio] = {}
        self._next: int = 1

    def __repr__(self) -> str:
        return f"<SwapDevice: {len(self._map)} of {self.pages} pages in use, {len(self._cache)} cached>"

    # Slots -------------------------------------------------------------------------------------------------

    def in_use(self) -> frozenset[int]:
        """Return the slots in use: for checkers, never an access of the simulated machine."""
        return frozenset(self._map)

    def cached(self) -> dict[int, Folio]:
        """Return the swap cache: for checkers, never an access of the simulated machine."""
        return dict(self._cache)

    def alloc(self, folio: Folio) -> int:
        """Take a slot for a folio; 0 if there is none left. Kernel: folio_alloc_swap(), mm/swap_slots.c."""
        if folio.memcg is not None and not folio.memcg.charge_swap():
            return 0
        with self.lock:
            if len(self._map) < self.pages:
                entry = self._next
                while entry in self._map or entry > self.pages:
                    entry = entry + 1 if entry < self.pages else 1
                self._map[entry] = folio.memcg
                self._next = entry + 1
                return entry
        if folio.memcg is not None:
            folio.memcg.uncharge_swap()
        return 0

    def free(self, entry: int) -> None:
        """Give a slot back. Kernel: swap_free(), mm/swapfile.c."""
        with self.lock:
            if entry not in self._map:
                raise DoubleFree(f"swap slot {entry}", "swap_free()", "nobody uses it")
            group = self._map.pop(entry)
            self._content.pop(entry, None)
        if group is not None:
            group.uncharge_swap()

    def swapped(self, entry: int) -> bool:
        """Tell whether a slot is in use. Kernel: __swap_count(), mm/swapfile.c."""
        with self.lock:
            return entry in self._map

    def free_swap_and_cache(self, entry: int) -> None:
        """Give a slot back, and drop what the swap cache has of it. Kernel: free_swap_and_cache(), mm/swapfile.c."""
        folio = self.cache_get(entry)
        if folio is not None:
            folio.lock()
            if folio.test_swapcache() and folio.swap == entry:
                self.cache_delete(folio)
            folio.unlock()
            folio.put()
        self.free(entry)

    def write(self, entry: int, folio: Folio) -> None:
        """Write a folio out. Kernel: swap_writepage(), mm/page_io.c. The folio is locked, and unlocked after."""
        might_sleep("swap_writepage()")
        folio.start_writeback()
        self._content[entry] = folio.read(0, folio.size)
        folio.clear_dirty_for_io()
        folio.end_writeback()
        folio.unlock()

    def read(self, entry: int, folio: Folio) -> bool:
        """Read a folio in; False if the slot is no longer in use. Kernel: swap_read_folio(), mm/page_io.c.

        The folio is locked, and unlocked after, if it was read.
        """
        might_sleep("swap_read_folio()")
        with self.lock:
            content = self._content.get(entry)
        if content is None:
            return False
        folio.write(0, content)
        folio.mark_uptodate()
        folio.unlock()
        return True

    # Swap cache --------------------------------------------------------------------------------------------

    def peek_cache(self, entry: int) -> Folio | None:
        """Load a slot of the swap cache: one atomic step."""
        return self._cache.get(entry)

    def cache_get(self, entry: int) -> Folio | None:
        """Look a slot up in the swap cache; a folio has a reference. Kernel: swap_cache_get_folio(), mm/swap_state.c.

        Context: takes no lock.
        """
        while True:
            folio = self.peek_cache(entry)
            if folio is None:
                return None
            if not folio.try_get():
                cpu_relax()
                continue
            if self.peek_cache(entry) is folio:
                if folio.test_clear_readahead():
                    self.count_hit()
                return folio
            folio.put()

    def cache_add(self, folio: Folio, entry: int) -> bool:
        """Put a locked folio into the swap cache, with a reference. Kernel: add_to_swap_cache(), mm/swap_state.c.

        Returns:
            False if somebody else was faster.
        """
        folio.get()
        folio.set_flag(PG_SWAPCACHE)
        folio.swap = entry
        if not self._cache_insert(entry, folio):
            folio.clear_flag(PG_SWAPCACHE)
            folio.swap = 0
            folio.put()
            return False
        return True

    def _cache_insert(self, entry: int, folio: Folio) -> bool:
        return self._cache.setdefault(entry, folio) is folio

    def cache_delete(self, folio: Folio) -> None:
        """Take a locked folio out of the swap cache. Kernel: delete_from_swap_cache(), mm/swap_state.c."""
        self._cache_remove(folio)
        folio.put()

    def _cache_remove(self, folio: Folio) -> None:
        del self._cache[folio.swap]
        folio.clear_flag(PG_SWAPCACHE)
        folio.swap = 0

    # Readahead ---------------------------------------------------------------------------------------------

    def count_hit(self) -> None:
        """Note that a page that was read ahead is asked for. Kernel: atomic_inc(&swapin_readahead_hits)."""
        self.hits += 1

    def swapin_nr_pages(self, entry: int) -> int:
        """Tell how many slots to read in around one: 1 means just that one. Kernel: swapin_nr_pages(), mm/swap_state.c.

        The window grows with the pages read ahead that were asked for, and shrinks slowly. One step.
        """
        most = 1 << self.page_cluster
        if most <= 1:
            return 1
        hits, self.hits = self.hits, 0
        if hits:
            pages = max(4, 2 ** (hits + 1).bit_length())
        else:
            pages = 2 if abs(entry - self.prev_offset) == 1 else 1
            self.prev_offset = entry
        window: int = max(min(pages, most), self.last_window // 2)
        self.last_window = window
        return window


def read_swap_cache(memory: Memory, entry: int) -> tuple[Folio | None, bool]:
    """Return the folio of a slot with a reference, and whether it was read in just now.

    Kernel: __read_swap_cache_async(), mm/swap_state.c. The folio waits in this CPU's LRU batch then.
    """
    device = memory.swap
    if device is None:
        raise MmrefInternalError(f"swap entry {entry}, but there is no swap device")
    while True:
        cached = device.cache_get(entry)
        if cached is not None:
            return cached, False
        if not device.swapped(entry):
            return None, False
        folio = memory.alloc_folio(0)
        if folio is None:
            return None, False
        folio.trylock()
        folio.set_swapbacked()
        charged = memory.charge(folio)
        if not charged or not device.cache_add(folio, entry):
            folio.unlock()
            folio.put()
            if charged:  # somebody else reads it in
                continue
            return None, False
        memory.lru.add(folio)
        if not device.read(entry, folio):  # swapped in by somebody else, and given back, before it was in the cache
            device.cache_delete(folio)
            folio.unlock()
            folio.put()
            return None, False
        return folio, True


def swap_cluster_readahead(memory: Memory, entry: int) -> Folio | None:
    """Swap a slot in, and its neighbours with it; None if memory is out or the slot is no longer in use.

    Kernel: swap_cluster_readahead(), mm/swap_state.c.

    Context: sleeps. Only if it reads ahead it drains this CPU's LRU batch; with a window of one page the folio
    stays in the batch.
    """
    device = memory.swap
    if device is None:
        raise MmrefInternalError(f"swap entry {entry}, but there is no swap device")
    mask = device.swapin_nr_pages(entry) - 1
    if mask:
        for one in range(max(entry & ~mask, 1), min(entry | mask, device.pages) + 1):
            folio, read = read_swap_cache(memory, one)
            if folio is None:
                continue
            if read and one != entry:
                folio.set_readahead()
            folio.put()
        memory.lru.drain()
    folio, _ = read_swap_cache(memory, entry)
    return folio
