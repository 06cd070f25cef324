# SPDX-License-Identifier: GPL-2.0-only
"""collapse_file() of Linux 6.4: lock the old folios, copy, and insert the new one when it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from mmref.folio import Folio
from mmref.folio.batch import copy_ordinary, let_go_of_ordinary
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun, CollapseStrategy
from mmref.sync import smp_mb
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
    known_races: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("write-hole", "fallocate", "fallocate-undo", "fault-on-hole", "fault+fault", "fallocate+mincore",
             "write+seek-data", "uffd", "uffd-tail", "uffd-copy", "punch-all", "punch-all+write", "truncate",
             "no-memory", "no-space"),
            "B38",
        ),
        "scan": "B41", "madvise": "B41", "file-open": "B45 F3", "file-open-later": "B45",
        "seek-hole": "F1", "seek-data-in-hole": "F2",
        **dict.fromkeys(("file-truncate", "file-truncate+read", "file-punch"), "F3"),
        "punch+read": "F6 B38", "swap-out+mincore": "F6", "uffd-look": "W1",
    }  # fmt: skip

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
            self.count_huge(run)
            run.xa_unlock()
            self.flush_tlbs(run)
            self.copy(run)
            self.block_holes(run)
            self.account(run)
            self.publish(run)
            run.xa_unlock()
            result = self.retract_page_tables(run)
            self.unlock_new(run)
            self.release_old(run)
        except Abandon as failure:
            run.xa_unlock_if_locked()
            self.flush_tlbs(run)
            self.roll_back(run, failure.result)
            return failure.result
        return result

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
        if not run.inode.charge(1, xa_locked=True):
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
    def lock_old(self, run: CollapseRun, index: int, entry: Folio | int | None) -> Folio:
        """Lock the folio; one that had to be made usable first may wait in this CPU's LRU batch: drain it.

        Linux efa3d814fad1 (v6.4).
        """
        folio = super().lock_old(run, index, entry)
        if folio is not entry:
            run.mapping.memory.lru.drain()
        return folio

    def copy(self, run: CollapseRun) -> None:
        """Copy the old folios, which are still in the cache, and clear the holes."""
        if run.in_one_go:
            copy_ordinary(run.new, run.old)
            return
        index = run.start
        for folio in run.old:
            self.clear_gap(run, index, folio.index)
            self.copy_folio(run, folio)
            index = folio.next_index
        self.clear_tail(run, index)

    def copy_folio(self, run: CollapseRun, folio: Folio) -> None:
        """Copy all pages of an old folio; its memory may turn out to be broken. Linux 12904d953364 (v6.4)."""
        for page in range(folio.nr_pages):
            if not run.new.copy_page(folio.index + page - run.start, folio, page):
                raise Abandon(ScanResult.COPY_MC)

    def clear_gap(self, run: CollapseRun, index: int, end: int) -> None:
        """Clear the holes in front of an old folio: the new one was not cleared. Linux 2af8ff291848 (v4.20)."""
        _clear(run, index, end)

    def clear_tail(self, run: CollapseRun, index: int) -> None:
        """Clear the holes behind the last old folio."""
        _clear(run, index, run.end)

    def block_holes(self, run: CollapseRun) -> None:
        """Put a RETRY entry into every hole, so that nobody fills one any more; leaves i_pages locked.

        If there are fewer holes than the scan counted, somebody has filled one: give up. Give up also if a
        userfaultfd watches for missing pages: its monitor may have seen a hole, and would never hear of it.
        Linux ac492b9c70ca (v6.4).
        """
        if not run.nr_none:
            run.xa_lock()
            return
        i_mmap_rwsem = run.mapping.i_mmap_rwsem
        i_mmap_rwsem.down_read()
        run.xa_lock()
        try:
            self.put_retry_entries(run)
            self.check_userfaultfd(run, run.end)
        except Abandon:
            i_mmap_rwsem.up_read()
            self.unblock_holes(run)
            raise
        i_mmap_rwsem.up_read()

    def check_userfaultfd(self, run: CollapseRun, last: int) -> None:
        """Give up if a monitor watches for missing pages anywhere up to an index, this one included.

        The index is one too far, as in the kernel. Context: i_pages is locked, and i_mmap_rwsem is held.
        """
        for vma in run.mapping.vmas(run.start, last):
            if vma.userfaultfd_missing():
                raise Abandon(ScanResult.EXCEED_NONE_PTE)

    def put_retry_entries(self, run: CollapseRun) -> None:
        """Block the holes, and count them again. Context: i_pages is locked."""
        blocked = 0
        run.xas.set(run.start)
        for _ in range(run.start, run.end):
            if run.xas.next() is None:
                run.xas.store(RETRY)
                if run.xas.error:
                    raise Abandon(ScanResult.STORE_FAILED)
                blocked += 1
        self.recount_holes(run, blocked)

    def recount_holes(self, run: CollapseRun, blocked: int) -> None:
        """Give up if there are fewer holes than the scan met: somebody has filled one. Context: i_pages is locked."""
        if blocked != run.nr_none:
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
        if run.in_one_go:
            let_go_of_ordinary(run.old)
            return
        for folio in run.old:
            self.let_go(folio)

    def let_go(self, folio: Folio) -> None:
        """Let go of an old folio: first it leaves the file, then its lock, then its references."""
        folio.mapping = None
        folio.clear_active()
        folio.clear_unevictable()
        folio.unlock()
        folio.put_refs(2 + folio.nr_pages)

    def roll_back(self, run: CollapseRun, result: ScanResult) -> None:
        """Let go of everything: the cache has not been changed."""
        if run.nr_none:
            self.refund_holes(run)
        self.give_back_old(run)
        if result is ScanResult.COPY_MC and not run.is_shmem:
            self.uncount_huge(run)
        self.drop_new(run)

    def refund_holes(self, run: CollapseRun) -> None:
        """Take back what was charged for holes, with i_pages locked."""
        run.xa_lock()
        self.uncharge_holes(run)
        run.xa_unlock()

    def uncount_huge(self, run: CollapseRun) -> None:
        """Take back the announcement of a huge page. Linux 12904d953364 (v6.4)."""
        run.mapping.nr_thps_dec()
        smp_mb()

    def give_back_old(self, run: CollapseRun) -> None:
        """Unlock the old folios and put them back on the LRU."""
        for folio in run.old:
            folio.unlock()
            run.mapping.memory.lru.putback(folio)
            folio.put()


def _clear(run: CollapseRun, index: int, end: int) -> None:
    """Clear the pages of the new folio from an index of the file up to another."""
    for page in range(index - run.start, end - run.start):
        run.new.clear_page(page)
