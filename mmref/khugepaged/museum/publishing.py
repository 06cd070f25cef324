# SPDX-License-Identifier: GPL-2.0-only
"""How the new folio is shown to the others: too early, or frozen."""

from __future__ import annotations

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.freeze_and_replace import FreezeAndReplace
from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun

__all__ = ["FrozenInCache", "FrozenNew", "NewInHoles", "UptodateAfterInsert"]


class UptodateAfterInsert(Exhibit, LockAndInsertLate):
    """The seed patch with two lines swapped: insert first, then mark uptodate.

    Both happen with i_pages locked, but those who look without locks are not kept out by that.
    """

    name = "uptodate-after-insert"
    mutation = "m32"
    fixed_by = "never shipped"
    summary = "lock-and-insert-late, but the uptodate mark comes after the insert"
    races_in = ("seek-data", "seek-data-in-hole", "seek-hole", "mincore", "alone")

    @override
    def publish(self, run: CollapseRun) -> None:
        """Insert, then mark: the wrong way round."""
        self.join(run)
        self.mark_uptodate(run)


class FrozenInCache(Exhibit, LockAndInsertLate):
    """The fifth version of the seed patch, which was turned down on review (March 2023).

    A frozen folio that is still in the cache is like a spinlock that lockdep does not know: lookups spin
    until the collapse is over, and if one of them holds what the collapse waits for, for ever.
    """

    name = "frozen-in-cache"
    mutation = "m33"
    fixed_by = "never merged: v5 of the patch series"
    summary = "lock-and-insert-late, but the old folios are frozen instead of counted"
    races_in = ("seek-data", "seek-data-in-hole", "seek-hole", "mincore", "alone")

    @override
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Freeze the folio, and leave it where lookups find it."""
        if not folio.ref_freeze(2 + folio.nr_pages):
            raise Abandon(ScanResult.PAGE_COUNT)
        run.old.append(folio)

    @override
    def release_old(self, run: CollapseRun) -> None:
        """Thaw the folios, then let go of them."""
        self._thaw(run)
        super().release_old(run)

    @override
    def roll_back(self, run: CollapseRun, result: ScanResult) -> None:
        """Thaw the folios, then give them back."""
        self._thaw(run)
        super().roll_back(run, result)

    def _thaw(self, run: CollapseRun) -> None:
        for folio in run.old:
            folio.ref_unfreeze(2 + folio.nr_pages)


class FrozenNew(Exhibit, FreezeAndReplace):
    """The new folio is frozen while it stands in the cache, and khugepaged sleeps meanwhile.

    Whoever looks one of its pages up spins until the collapse is over.
    """

    name = "new-folio-frozen"
    mutation = "m07"
    fixed_by = "87c460a0bded, v4.20"
    summary = "freeze-and-replace, but the new folio is frozen until it is complete"
    races_in = ("read",)

    @override
    def lock_new(self, run: CollapseRun) -> None:
        """Freeze the new folio, too."""
        super().lock_new(run)
        run.new.ref_freeze(1)

    @override
    def mark_uptodate(self, run: CollapseRun) -> None:
        """Thaw it, now that it is complete."""
        run.new.ref_unfreeze(1)
        super().mark_uptodate(run)

    @override
    def drop_new(self, run: CollapseRun) -> None:
        """Thaw it to free it."""
        run.new.ref_unfreeze(1)
        super().drop_new(run)


class NewInHoles(Exhibit, LockAndInsertLate):
    """A merge in linux-next (April 2023) kept the store into holes that the seed patch had removed.

    The roll-back of the patch knows nothing of it, so that a freed folio stays in the cache.
    """

    name = "new-in-holes"
    mutation = "m34"
    fixed_by = "never merged: a merge in linux-next"
    summary = "lock-and-insert-late, but the new folio is put into holes during the scan"
    races_in = ("pinned", "mincore")

    @override
    def meet_hole(self, run: CollapseRun) -> None:
        """Charge for the hole, and put the new folio there."""
        super().meet_hole(run)
        run.xas.store(run.new)
