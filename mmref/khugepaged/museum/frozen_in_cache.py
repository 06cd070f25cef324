# SPDX-License-Identifier: GPL-2.0-only
"""Exhibit m33: old folios are frozen but stay in the cache."""

from __future__ import annotations

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun

__all__ = ["FrozenInCache"]


class FrozenInCache(LockAndInsertLate):
    """The fifth version of the seed patch, which was turned down on review (March 2023).

    A frozen folio that is still in the cache is like a spinlock that lockdep does not know: lookups spin
    until the collapse is over, and if one of them holds what the collapse waits for, for ever.
    """

    name = "frozen-in-cache"
    kernel = "never merged (v5 of the patch series; mutation m33 of v6.4)"
    summary = "lock-and-insert-late, but the old folios are frozen instead of counted"
    known_races = dict.fromkeys(("seek-data", "seek-data-in-hole", "seek-hole", "mincore", "alone"), "m33")

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
