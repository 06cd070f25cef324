# SPDX-License-Identifier: GPL-2.0-only
"""collapse_file() of Linux 6.12.117: large old folios, holes charged in one go, dirty data flushed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.page_tables import retract_page_tables
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun
from mmref.pagecache import filemap_write_and_wait

__all__ = ["Upstream612"]


class Upstream612(LockAndInsertLate):
    """Insert late, and everything that came after it.

    Holes are charged for in one go, with i_pages unlocked, because that may sleep (Linux 509f006932de, v6.6). Folios of
    several pages are collapsed too (Linux 7de856ffd007, v6.12). Of a file on a disk all dirty folios are written
    before the huge page can make somebody purge the cache (stable only, 6.12.96).
    """

    name = "upstream-6.12"
    kernel = "Linux 6.12.117"
    summary = "lock-and-insert-late with large old folios, one charge for all holes, and dirty data flushed"
    collapses_large = True
    exclusive_page_tables = False
    known_races: ClassVar[Mapping[str, str]] = {
        "scan": "B41", "madvise": "B41", "seek-hole": "F1", "seek-data-in-hole": "F2",
        **dict.fromkeys(("file-truncate", "file-truncate+read", "file-punch"), "F3"),
        "file-open": "F4 F3", "uffd-look": "W1", "no-space": "F5", "punch+read": "F6", "swap-out+mincore": "F6",
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
            run.xa_unlock()
            self.flush_tlbs(run)
            self.count_huge(run)
            self.charge_holes(run)
            self.copy(run)
            self.block_holes(run)
            self.account(run)
            self.publish(run)
            run.xa_unlock()
            self.retract_page_tables(run)
            self.unlock_new(run)
            self.release_old(run)
        except Abandon as failure:
            run.xa_unlock_if_locked()
            self.flush_tlbs(run)
            self.roll_back(run, failure.result)
            return failure.result
        return self.result_for_caller(run)

    @override
    def meet_hole(self, run: CollapseRun) -> None:
        """Count the hole, and leave it as it is."""
        run.holes_met += 1

    @override
    def count_huge(self, run: CollapseRun) -> None:
        """Announce a huge page to who opens the file for writing, and write all dirty folios of the file.

        The invalidate lock keeps such an opener from dropping them meanwhile; from the announcement on there are no
        new ones. Only for files that are not on tmpfs.
        """
        if run.is_shmem:
            return
        mapping = run.mapping
        mapping.invalidate_lock.down_read()
        try:
            self.announce_huge(run)
            if run.inode.i_writecount > 0 or filemap_write_and_wait(mapping):
                mapping.nr_thps_dec()
                raise Abandon(ScanResult.FAIL)
        finally:
            mapping.invalidate_lock.up_read()

    def charge_holes(self, run: CollapseRun) -> None:
        """Charge for all holes at once; from here on they must be given back."""
        if run.holes_met and not run.inode.charge(run.holes_met):
            raise Abandon(ScanResult.FAIL)
        run.nr_none = run.holes_met

    @override
    def retract_page_tables(self, run: CollapseRun) -> ScanResult:
        """Take all page tables away that the huge page can do without."""
        retract_page_tables(run.mapping, run.start)
        return ScanResult.SUCCEED

    def result_for_caller(self, run: CollapseRun) -> ScanResult:
        """Say what is left to do: MADV_COLLAPSE maps the huge page itself."""
        wants_mapping = run.control.mm is not None and not run.control.is_khugepaged
        return ScanResult.PTE_MAPPED_HUGEPAGE if wants_mapping else ScanResult.SUCCEED

    @override
    def refund_holes(self, run: CollapseRun) -> None:
        """Take back what was charged for holes; uncharging may take other locks, so i_pages is not locked."""
        run.xa_lock()
        run.mapping.nrpages -= run.nr_none
        run.xa_unlock()
        run.inode.uncharge(run.nr_none)
