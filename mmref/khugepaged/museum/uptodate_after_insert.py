# SPDX-License-Identifier: GPL-2.0-only
"""Exhibit m32: the new folio is published a moment too early."""

from __future__ import annotations

from typing_extensions import override

from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.strategy import CollapseRun

__all__ = ["UptodateAfterInsert"]


class UptodateAfterInsert(LockAndInsertLate):
    """The seed patch with two lines swapped: insert first, then mark uptodate.

    Both happen with i_pages locked, but those who look without locks are not kept out by that.
    """

    name = "uptodate-after-insert"
    kernel = "never shipped (mutation m32 of v6.4)"
    summary = "lock-and-insert-late, but the uptodate mark comes after the insert"
    known_races = dict.fromkeys(("seek-data", "seek-data-in-hole", "seek-hole", "mincore", "alone"), "m32")

    @override
    def publish(self, run: CollapseRun) -> None:
        """Insert, then mark: the wrong way round."""
        self.join(run)
        self.mark_uptodate(run)
