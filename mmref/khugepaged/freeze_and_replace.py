# SPDX-License-Identifier: GPL-2.0-only
"""collapse_file() up to Linux 6.3: freeze the old folios and replace them while scanning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from mmref.errors import Finding
from mmref.folio import Folio
from mmref.folio.batch import copy_ordinary, let_go_of_ordinary
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun, CollapseStrategy

__all__ = ["FreezeAndReplace"]


class FreezeAndReplace(CollapseStrategy):
    """Put the new folio into the cache first, and fill it there.

    Each old folio is frozen (its reference count set to 0) and the new one stored in its place, still empty,
    locked and not uptodate. Who takes the folio lock waits until the content is there; who looks without the
    lock (SEEK_DATA, SEEK_HOLE, mincore) sees the data disappear until the mark comes at the end.
    """

    name = "freeze-and-replace"
    kernel = "Linux 6.1.192 (as v4.8 to v6.3)"
    summary = "insert the new huge folio while scanning, copy into it in place"
    known_races: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("seek-data", "seek-data-in-hole", "seek-hole", "mincore", "mincore-mapped", "alone", "write+seek-data",
             "fallocate+mincore", "collapse+seek-data", "swap-out+mincore"), "B32",
        ),
        "broken": "B29", "file-broken": "B29", "quiet-swap": "B30", "uffd": "B31", "uffd-look": "B31",
        "uffd-tail": "B31",
        "no-space": "B38", "scan": "B41", "madvise": "B41", "file-open": "B45 F3", "file-open-later": "B45",
        **dict.fromkeys(("file-truncate", "file-truncate+read", "file-punch"), "F3"), "punch+read": "F6",
    }  # fmt: skip

    @override
    def collapse(self, run: CollapseRun) -> ScanResult:
        """Run the recipe. Kernel: collapse_file(), mm/khugepaged.c."""
        try:
            self.allocate_new(run)
        except Abandon as failure:
            return failure.result
        try:
            self.reserve_slots(run)
        except Abandon as failure:
            run.new.put()
            return failure.result
        try:
            self.lock_new(run)
            self.scan(run)
            self.count_huge(run)
            self.account(run)
            self.join(run)
            run.xa_unlock()
            self.flush_tlbs(run)
            self.copy_and_release(run)
            self.mark_uptodate(run)
            result = self.retract_page_tables(run)
            self.unlock_new(run)
        except Abandon as failure:
            run.xa_unlock_if_locked()
            self.flush_tlbs(run)
            self.roll_back(run)
            return failure.result
        return result

    @override
    def claim_all(self, run: CollapseRun, freeze: bool = True) -> bool:
        """Claim all old folios at once, frozen; the new one is stored over them when it joins the cache."""
        return super().claim_all(run, freeze)

    @override
    def look_at(self, run: CollapseRun, index: int) -> Folio | int | None:
        """Step the cursor to the next index."""
        entry: Folio | int | None = run.xas.next()
        return entry

    @override
    def meet_hole(self, run: CollapseRun) -> None:
        """Charge for the hole and put the new folio there, at once."""
        if not run.inode.charge(1, xa_locked=True):
            raise Abandon(ScanResult.FAIL)
        run.xas.store(run.new)
        if run.xas.error:  # Linux 2ce0bdfebc74 (v6.4, also in 6.1.107)
            run.mapping.nrpages -= 1
            run.inode.uncharge(1)
            raise Abandon(ScanResult.STORE_FAILED)
        run.nr_none += 1

    @override
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Freeze the old folio and store the new one over it.

        Three references are expected: this run's, the page cache's and the isolation's.
        """
        run.xas.set(folio.index)
        if not folio.ref_freeze(3):
            raise Abandon(ScanResult.PAGE_COUNT)
        run.old.append(folio)
        run.xas.store(run.new)

    def copy_and_release(self, run: CollapseRun) -> None:
        """Copy each old folio into the new one, which everybody can see by now, and let go of it."""
        if run.in_one_go:
            copy_ordinary(run.new, run.old)
            let_go_of_ordinary(run.old)
            return
        index = run.start
        for folio in run.old:
            while index < folio.index:
                run.new.clear_page(index - run.start)
                index += 1
            if not run.new.copy_page(index - run.start, folio, 0):
                raise Finding(f"machine check while copying {folio!r}: this kernel cannot recover (fixed in v6.4)")
            folio.mapping = None
            folio.ref_unfreeze(1)
            folio.clear_active()
            folio.clear_unevictable()
            folio.unlock()
            folio.put()
            index += 1
        while index < run.end:
            run.new.clear_page(index - run.start)
            index += 1

    def roll_back(self, run: CollapseRun) -> None:
        """Put everything back where it was, page by page, and free the new folio."""
        run.xa_lock()
        self.uncharge_holes(run)
        holes = run.nr_none
        old = iter(run.old)
        folio = next(old, None)
        run.xas.set(run.start)
        while run.xas.find(run.end - 1) is not None:
            if folio is None or run.xas.index < folio.index:
                if not holes:
                    break
                holes -= 1
                self.empty_slot(run)
                continue
            folio.ref_unfreeze(2)
            run.xas.store(folio)
            run.xas.pause()
            run.xa_unlock()
            folio.unlock()
            run.mapping.memory.lru.putback(folio)
            folio = next(old, None)
            run.xa_lock()
        run.xa_unlock()
        self.drop_new(run)

    def empty_slot(self, run: CollapseRun) -> None:
        """Make a hole that was filled a hole again. Linux 59749e6ce537 (v4.10). Context: i_pages is locked."""
        run.xas.store(None)
