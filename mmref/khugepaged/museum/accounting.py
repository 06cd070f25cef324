# SPDX-License-Identifier: GPL-2.0-only
"""What is counted and charged for, and taken back when a collapse fails."""

from __future__ import annotations

from typing_extensions import override

from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun
from mmref.khugepaged.upstream_6_12 import Upstream612
from mmref.pagecache import ShmemInode

__all__ = ["AllocedBeforeNrpages", "ChargedUnderXaLock", "HolesForgottenOnCopyError", "HolesNotTakenBack",
           "HolesTakenBackTwice", "NewLeaked", "ThpsNotTakenBack"]  # fmt: skip


class HolesNotTakenBack(Exhibit, Upstream612):
    """The pages that were added for holes stay in `nrpages`: the inode cannot be freed without a BUG."""

    name = "holes-not-taken-back"
    mutation = "m04a"
    fixed_by = "aaa52e340073, v4.20"
    summary = "upstream-6.12, but rolling back leaves nrpages as it is"
    races_in = ("write-hole", "fallocate", "fault-on-hole", "uffd")

    @override
    def refund_holes(self, run: CollapseRun) -> None:
        """Uncharge, and no more."""
        run.inode.uncharge(run.nr_none)


class AllocedBeforeNrpages(Exhibit, Upstream612):
    """Charging raises `alloced` before `nrpages`: a recount in between takes the difference for freed pages."""

    name = "alloced-before-nrpages"
    mutation = "m04b"
    fixed_by = "aaa52e340073, v4.20"
    summary = "upstream-6.12, but holes are charged for before they are in nrpages"
    races_in = ("alone", "quiet", "write-hole", "fallocate", "fault-on-hole", "uffd")

    @override
    def charge_holes(self, run: CollapseRun) -> None:
        """Do what shmem_charge() does, in the wrong order."""
        inode = run.inode
        assert isinstance(inode, ShmemInode) or not run.holes_met
        if isinstance(inode, ShmemInode) and run.holes_met:
            if not inode.acct_blocks(run.holes_met):
                raise Abandon(ScanResult.FAIL)
            inode.recalc_inode(run.holes_met, 0)
            with run.mapping.i_pages.xa_lock:
                run.mapping.nrpages += run.holes_met
        run.nr_none = run.holes_met


class ChargedUnderXaLock(Exhibit, Upstream612):
    """Each hole is charged for with i_pages locked, though charging may sleep since tmpfs has quotas."""

    name = "charged-under-xa-lock"
    mutation = "m38a"
    fixed_by = "509f006932de, v6.6"
    summary = "upstream-6.12, but holes are charged for with i_pages locked"
    races_in = ("quiet", "alone", "write-hole", "fallocate", "fault-on-hole", "uffd")

    @override
    def meet_hole(self, run: CollapseRun) -> None:
        """Charge at once."""
        if not run.inode.charge(1, xa_locked=True):
            raise Abandon(ScanResult.FAIL)
        run.nr_none += 1


class HolesTakenBackTwice(Exhibit, Upstream612):
    """Blocks are given back by the recount, and then once more: the filesystem gains space that it does not have."""

    name = "holes-taken-back-twice"
    mutation = "m38b"
    fixed_by = "3c1b7528d896, v6.6"
    summary = "upstream-6.12, but rolling back gives the blocks of holes back twice"
    races_in = ("write-hole", "fallocate", "fault-on-hole", "uffd")

    @override
    def refund_holes(self, run: CollapseRun) -> None:
        """Uncharge, and give the blocks back on top of it."""
        super().refund_holes(run)
        assert isinstance(run.inode, ShmemInode)
        run.inode.unacct_blocks(run.nr_none)


class ThpsNotTakenBack(Exhibit, Upstream612):
    """A copy that fails leaves `nr_thps` raised: every later open for writing drops the cache for nothing."""

    name = "thps-not-taken-back"
    mutation = "m29a"
    fixed_by = "never shipped: part of 12904d953364, v6.4"
    summary = "upstream-6.12, but nr_thps stays raised when copying fails"
    races_in = ("file-read",)

    @override
    def uncount_huge(self, run: CollapseRun) -> None:
        """Leave it."""


class HolesForgottenOnCopyError(Exhibit, Upstream612):
    """A copy that fails forgets that holes were charged for."""

    name = "holes-forgotten-on-copy-error"
    mutation = "m29b"
    fixed_by = "never shipped: part of 12904d953364, v6.4"
    summary = "upstream-6.12, but the charge for holes is kept when copying fails"
    races_in = ("read",)

    @override
    def roll_back(self, run: CollapseRun, result: ScanResult) -> None:
        """Forget the holes if the memory was broken."""
        if result is ScanResult.COPY_MC:
            run.nr_none = 0
        super().roll_back(run, result)


class NewLeaked(Exhibit, Upstream612):
    """Without memory for the tree the collapse leaves at once, and the new folio stays allocated and locked."""

    name = "new-leaked"
    mutation = "m09"
    fixed_by = "95feeabb7714, v4.20"
    summary = "upstream-6.12, but the new folio is not freed if the tree cannot grow"
    races_in = ("no-nodes",)

    @override
    def drop_new(self, run: CollapseRun) -> None:
        """Drop it only if the tree is not to blame."""
        if not run.xas.error:
            super().drop_new(run)
