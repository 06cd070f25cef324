# SPDX-License-Identifier: GPL-2.0-only
"""collapse_file() of Linux 6.4: lock the old folios, copy, and insert the new one when it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun, CollapseStrategy
from mmref.xarray import RETRY

__all__ = ["LockAndInsertLate"]


class LockAndInsertLate(CollapseStrategy):
    """Keep the old folios in the cache, locked, until the new one is complete.

    Linux a2e17cc2efc7 (v6.4), "maintain page cache uptodate flag", with the cursor as e8c716bc6812 (v6.4.1)
    put it right. Who looks without the folio lock sees the old folio until the new one, already uptodate, is
    stored over it. Holes stay holes until the end, so somebody may have filled one meanwhile; they are then
    blocked with RETRY entries, counted again, and replaced with the rest.
    """

    name = "lock-and-insert-late"
    kernel = "Linux 6.4.1 (a2e17cc2efc7 with e8c716bc6812)"
    summary = "copy while the old folios are still in the cache, insert the new one already uptodate"
    known_races: ClassVar[Mapping[str, str]] = {"seek-hole": "F1", "seek-data-in-hole": "F2"}

    @override
    def collapse(self, run: CollapseRun) -> ScanResult:
        """Run the recipe. Kernel: collapse_file(), mm/khugepaged.c."""
        try:
            self.allocate_new(run)
        except Abandon as failure:
            return failure.result
        try:
            self.lock_new(run)
            self.reserve_slots(run)
            self.scan(run)
            run.xa_unlock()
            self.copy(run)
            self.block_holes(run)
            self.account(run)
            self.publish(run)
            run.xa_unlock()
            self.unlock_new(run)
            self.release_old(run)
        except Abandon as failure:
            run.xa_unlock_if_locked()
            self.roll_back(run)
            return failure.result
        return ScanResult.SUCCEED

    @override
    def look_at(self, run: CollapseRun, index: int) -> Folio | int | None:
        """Walk to the index from the root: the tree may have changed while i_pages was unlocked.

        Linux e8c716bc6812 (v6.4.1).
        """
        run.xas.set(index)
        entry: Folio | int | None = run.xas.load()
        return entry

    @override
    def meet_hole(self, run: CollapseRun) -> None:
        """Charge for the hole, and leave it as it is."""
        if not run.inode.charge(1):
            raise Abandon(ScanResult.FAIL)
        run.nr_none += 1

    @override
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Compare the reference count: this run's, the page cache's and the isolation's are all there may be.

        A new user would have to look the folio up and take its lock, which this run holds.
        """
        if folio.ref_count() != 2 + folio.nr_pages:
            raise Abandon(ScanResult.PAGE_COUNT)
        run.old.append(folio)

    @override
    def lock_old(self, run: CollapseRun, index: int, entry: Folio | int) -> Folio:
        """Lock the folio; one that had to be made usable first may wait in this CPU's LRU batch: drain it.

        Linux efa3d814fad1 (v6.4).
        """
        folio = super().lock_old(run, index, entry)
        if folio is not entry:
            run.mapping.memory.lru.drain()
        return folio

    def copy(self, run: CollapseRun) -> None:
        """Copy the old folios, which are still in the cache, and clear the holes."""
        index = run.start
        for folio in run.old:
            while index < folio.index:
                run.new.clear_page(index - run.start)
                index += 1
            for page in range(folio.nr_pages):
                if not run.new.copy_page(index - run.start, folio, page):
                    raise Abandon(ScanResult.COPY_MC)
                index += 1
        while index < run.end:
            run.new.clear_page(index - run.start)
            index += 1

    def block_holes(self, run: CollapseRun) -> None:
        """Put a RETRY entry into every hole, so that nobody fills one any more; leaves i_pages locked.

        If there are fewer holes than the scan counted, somebody has filled one: give up.
        """
        run.xa_lock()
        if not run.nr_none:
            return
        blocked = 0
        run.xas.set(run.start)
        for _ in range(run.start, run.end):
            if run.xas.next() is None:
                run.xas.store(RETRY)
                if run.xas.error:
                    self.unblock_holes(run)
                    raise Abandon(ScanResult.STORE_FAILED)
                blocked += 1
        if blocked != run.nr_none:
            self.unblock_holes(run)
            raise Abandon(ScanResult.PAGE_FILLED)

    def unblock_holes(self, run: CollapseRun) -> None:
        """Turn the RETRY entries back into holes. Context: i_pages is locked."""
        run.xas.set(run.start)
        for _ in range(run.start, run.end):
            if run.xas.next() is RETRY:
                run.xas.store(None)

    def publish(self, run: CollapseRun) -> None:
        """Mark the new folio uptodate, then put it into the cache: in this order, nobody mistakes it for a hole."""
        self.mark_uptodate(run)
        self.join(run)

    def release_old(self, run: CollapseRun) -> None:
        """Free the old folios, which have left the cache; whoever waited for one finds it without a mapping."""
        for folio in run.old:
            folio.mapping = None
            folio.clear_active()
            folio.clear_unevictable()
            folio.unlock()
            folio.put_refs(2 + folio.nr_pages)

    def roll_back(self, run: CollapseRun) -> None:
        """Let go of everything: the cache has not been changed."""
        if run.nr_none:
            run.xa_lock()
            self.uncharge_holes(run)
            run.xa_unlock()
        for folio in run.old:
            folio.unlock()
            run.mapping.memory.lru.putback(folio)
            folio.put()
        self.drop_new(run)
