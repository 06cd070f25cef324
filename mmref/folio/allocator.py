# SPDX-License-Identifier: GPL-2.0-only
"""The page allocator: unforgiving on purpose.

What is freed is filled with poison and handed out again first, so that a stale pointer meets somebody
else's folio and a forgotten clear shows as poison in a file.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmref.errors import InvariantViolation, UsageError
from mmref.folio.flags import PG_LOCKED, PG_LRU
from mmref.folio.folio import Folio
from mmref.folio.lru import Lru
from mmref.sync import this_cpu

__all__ = ["MAX_ORDER", "POISON", "PageAllocator"]

POISON = 0xAA
"""What the bytes of a free page are set to. Kernel: PAGE_POISON, include/linux/poison.h."""

MAX_ORDER = 18
"""The largest folio, as log2 of pages (1 GiB of 4 KiB pages)."""


class PageAllocator:
    """All physical memory of the machine.

    Free folios lie in one list per CPU, as in the kernel (`struct per_cpu_pages`): a CPU takes back what it
    freed last, and turns to the lists of the others only when its own is empty.

    Args:
        lru: where freed folios are taken off.
        page_size: bytes per page.
        folio_class: what to make folios of (`mmref.explore` hands in its traced twin).

    Attributes:
        allocated: pages in use.
        poison: what the content of a free page is.
        uptodate_has_barrier: its folios' content is seen before it is marked uptodate; false only in the museum.
    """

    def __init__(self, lru: Lru, page_size: int = 4096, folio_class: type[Folio] = Folio) -> None:
        self.lru = lru
        self.page_size = page_size
        self.allocated = 0
        self._folio_class = folio_class
        self._free: dict[tuple[int, int], dict[int, list[Folio]]] = {}  # (order, node) -> CPU -> last freed last
        self.poison = bytes((POISON,)) * page_size
        self.uptodate_has_barrier = True
        self._next_pfn = 0
        self._failures = 0
        self._until_failure = 0

    def __repr__(self) -> str:
        return f"<PageAllocator {self.allocated} pages of {self.page_size} bytes in use>"

    def fail_next(self, times: int = 1, after: int = 0) -> None:
        """Let the next allocations fail. Kernel: fail_page_alloc, mm/fail_page_alloc.c.

        Args:
            times: how many fail.
            after: how many succeed before.
        """
        self._failures = times
        self._until_failure = after

    def alloc(self, order: int = 0, nid: int = 0) -> Folio | None:
        """Return a folio of 2**order pages with one reference, not cleared; None when memory is out.

        Kernel: __folio_alloc_node(), include/linux/gfp.h. Nobody pays for it yet (`folio.memcg`).
        """
        if not 0 <= order <= MAX_ORDER:
            raise UsageError(f"order {order}: folios have an order from 0 to {MAX_ORDER}")
        if self._failures and self._until_failure == 0:
            self._failures -= 1
            return None
        self._until_failure = max(0, self._until_failure - 1)
        folio = self._reuse(order, nid)
        if folio is None:
            folio = self._folio_class(self, self._next_pfn, order)
            folio.data = bytearray(self.poison) * (1 << order)
            folio.nid = nid
            self._next_pfn += 1 << order
        folio._refcount = 1
        folio.free = False
        self.allocated += 1 << order
        return folio

    def _reuse(self, order: int, nid: int) -> Folio | None:
        lists = self._free.get((order, nid), {})
        own = lists.get(this_cpu().id)
        for free in ([own] if own else []) + [lists[cpu] for cpu in sorted(lists)]:
            if free:
                return free.pop()
        return None

    def free(self, folio: Folio) -> None:
        """Take back a folio whose last reference is gone. Kernel: __folio_put(), mm/swap.c."""
        self.lru.release(folio)
        if folio._flags & PG_LOCKED:
            raise InvariantViolation("A11", f"{folio!r} is freed while locked")
        if folio.mapping is not None:
            raise InvariantViolation("A11", f"{folio!r} is freed while it belongs to a mapping")
        if folio._mapcount:
            raise InvariantViolation("A11", f"{folio!r} is freed while {folio._mapcount} page table entries map it")
        if folio.memcg is not None:
            folio.memcg.uncharge(folio.nr_pages)
            folio.memcg = None
        self._recycle(folio)

    def _recycle(self, folio: Folio) -> None:
        """Fill it with poison and put it on this CPU's list: one step, the last of freeing it."""
        folio._flags = 0
        folio.data[:] = self.poison * folio.nr_pages
        folio.initialised = 0
        folio.index = 0
        folio.free = True
        self.allocated -= folio.nr_pages
        self._free.setdefault((folio.order, folio.nid), {}).setdefault(this_cpu().id, []).append(folio)

    def take_back(self, folios: Sequence[Folio], cpu: int) -> None:
        """Put small folios that have been freed on the lists of a CPU."""
        self.allocated -= len(folios)
        for nid in {folio.nid for folio in folios}:
            free = self._free.setdefault((0, nid), {}).setdefault(cpu, [])
            free.extend([folio for folio in folios if folio.nid == nid])

    def split(self, folio: Folio, pieces: Sequence[tuple[int, int]]) -> list[Folio]:
        """Turn a large folio into its first piece, and return folios for the others; who pays stays the same.

        Kernel: __split_huge_page_tail(), mm/huge_memory.c.

        Args:
            folio: locked, with its count frozen.
            pieces: first page and order (log2 of pages) of each piece, in ascending order, covering the folio.

        Returns:
            folios that are locked too, have the same flags but PG_lru, no mapping yet, and a count of 0.
        """
        size = self.page_size
        tails = []
        for page, order in pieces[1:]:
            tail = self._folio_class(self, folio.pfn + page, order)
            tail.data = folio.data[page * size : (page + (1 << order)) * size]
            tail.initialised = folio.initialised >> page & ((1 << (1 << order)) - 1)
            tail.free = False
            tail._flags = folio._flags & ~PG_LRU
            tail.nid = folio.nid
            tail.memcg = folio.memcg
            tails.append(tail)
        nr = 1 << pieces[0][1]
        folio.data = folio.data[: nr * size]
        folio.initialised &= (1 << nr) - 1
        folio.order = pieces[0][1]
        return tails
