# SPDX-License-Identifier: GPL-2.0-only
"""The LRU list and the per-CPU batches in front of it.

A folio that is added to the LRU first waits in a batch of the CPU that added it. While it waits, the batch
holds a reference and PG_lru is clear: nobody can isolate it, and its reference count is one higher than one
would think. `collapse_file()` fails on such a folio, which is why the kernel drains batches in many places.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmref.folio.folio import Folio
from mmref.sync import SpinLock, this_cpu

__all__ = ["BATCH_SIZE", "Lru"]

BATCH_SIZE = 15
"""Folios per batch before it is moved to the list, if nothing else is said.

Kernel: PAGEVEC_SIZE, include/linux/pagevec.h: 15 in 6.1, 31 in 6.12."""


class Lru:
    """One list of reclaimable folios, with a batch per CPU. (Active and inactive are not told apart.)

    Kernel: struct lruvec, include/linux/mmzone.h, and cpu_fbatches, mm/swap.c.
    """

    def __init__(self, lock_class: type[SpinLock] = SpinLock, batch_size: int = BATCH_SIZE) -> None:
        self.batch_size = batch_size
        self.lru_lock = lock_class("lru_lock")
        self._list: dict[Folio, None] = {}  # insertion order: oldest first
        self._batches: dict[int, list[Folio]] = {}

    def __repr__(self) -> str:
        return f"<Lru {len(self._list)} listed, {sum(map(len, self._batches.values()))} in batches>"

    def __contains__(self, folio: object) -> bool:
        return folio in self._list

    def oldest_first(self) -> list[Folio]:
        """Return the folios on the list, those that reclaim should look at first in front."""
        return list(self._list)

    def waiting(self, folio: Folio) -> int:
        """Count the batches that hold this folio: for checkers, never an access of the simulated machine."""
        return sum(batch.count(folio) for batch in self._batches.values())

    def in_batches(self) -> list[Folio]:
        """Return the folios that wait: for checkers, as `waiting()`."""
        return [folio for batch in self._batches.values() for folio in batch]

    def add(self, folio: Folio) -> None:
        """Add a folio, through this CPU's batch. Kernel: folio_add_lru(), mm/swap.c.

        A large folio empties the batch at once: the kernel does not let it wait.
        """
        folio.get()
        batch = self._batches.setdefault(this_cpu().id, [])
        batch.append(folio)
        if len(batch) >= self.batch_size or folio.order > 0:
            self.drain()

    def drain(self) -> None:
        """Move this CPU's batch to the list. Kernel: lru_add_drain(), mm/swap.c."""
        self._move(this_cpu().id)

    def drain_all(self) -> None:
        """Move every CPU's batch to the list. Kernel: lru_add_drain_all(), mm/swap.c. May sleep."""
        for cpu in sorted(self._batches):
            self._move(cpu)

    def _move(self, cpu: int) -> None:
        batch = self._batches.pop(cpu, [])
        if not batch:
            return
        with self.lru_lock:
            for folio in batch:
                self._list[folio] = None
                folio.set_lru()
        for folio in batch:
            folio.put()

    def isolate(self, folio: Folio) -> bool:
        """Take a folio off the list for oneself, with a reference. Kernel: folio_isolate_lru(), mm/vmscan.c.

        Context: the caller holds a reference.

        Returns:
            False if it is not on the list: isolated already, or waiting in a batch.
        """
        if not folio.test_clear_lru():
            return False
        folio.get()
        with self.lru_lock:
            del self._list[folio]
        return True

    def isolate_all(self, folios: Sequence[Folio]) -> None:
        """Take folios off the list whose PG_lru has been cleared and that a reference is held to."""
        with self.lru_lock:
            listed = self._list
            for folio in folios:
                del listed[folio]

    def putback(self, folio: Folio) -> None:
        """Give an isolated folio back, and its reference. Kernel: folio_putback_lru(), mm/vmscan.c."""
        self.add(folio)
        folio.put()

    def add_tail(self, folio: Folio) -> None:
        """Put a page of a folio that was split on the list at once. Kernel: lru_add_page_tail(), mm/huge_memory.c."""
        with self.lru_lock:
            self._list[folio] = None
            folio.set_lru()

    def release(self, folio: Folio) -> None:
        """Forget a folio that is about to be freed. Kernel: __page_cache_release(), mm/swap.c."""
        if folio.test_clear_lru():
            with self.lru_lock:
                del self._list[folio]
