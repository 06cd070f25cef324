# SPDX-License-Identifier: GPL-2.0-only
"""What the exhibits of `barriers` are held against: barriers that can go, or that come, and nothing is wrong.

With them is m17b in Linux 6.1, which takes longer to find. None of these is in the museum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from mmref.folio import PG_UPTODATE
from mmref.khugepaged.freeze_and_replace import FreezeAndReplace
from mmref.khugepaged.strategy import CollapseRun
from mmref.khugepaged.upstream_6_12 import Upstream612
from mmref.sync import smp_mb

__all__ = ["CollapseWithoutFence61", "CountedPlainlyWithFence", "OpenWithoutFence", "PublishedWithoutBarrier",
           "RetryWithFence"]  # fmt: skip


class CollapseWithoutFence61(FreezeAndReplace):
    """m17b in Linux 6.1."""

    name = "collapse-without-fence-6.1"
    summary = "freeze-and-replace, but without smp_mb() between nr_thps and i_writecount"

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count the huge page: when that is seen is left open."""
        run.mapping.nr_thps_inc()


class CountedPlainlyWithFence(Upstream612):
    """m17d with the fence, which is all that it lacked, as long as only one file is collapsed at a time."""

    name = "counted-plainly-with-fence"
    summary = "upstream-6.12, but nr_thps is raised by a plain store"

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count by a plain load and a plain store, and let that be seen before anything is looked at."""
        run.mapping.nr_thps += 1
        smp_mb()


class OpenWithoutFence(FreezeAndReplace):
    """Linux 6.1 without the fence in do_dentry_open(): get_write_access() is one, so 6.12 does without."""

    name = "open-without-fence"
    summary = "freeze-and-replace, but do_dentry_open() has no smp_mb()"
    rules: ClassVar[Mapping[str, object]] = {"open_has_fence": False}


class PublishedWithoutBarrier(Upstream612):
    """The new folio alone marked without the barrier: storing it into the cache is a release, after its content."""

    name = "published-without-barrier"
    summary = "upstream-6.12, but the new folio is marked uptodate without smp_wmb()"

    @override
    def mark_uptodate(self, run: CollapseRun) -> None:
        """Set the flag first, and do then what is always done."""
        run.new.set_flag(PG_UPTODATE)
        super().mark_uptodate(run)


class RetryWithFence(Upstream612):
    """What mends W1 (docs/memory-models.md): the RETRY entries are seen before a userfaultfd is looked for."""

    name = "retry-with-fence"
    summary = "upstream-6.12, with smp_mb() between the RETRY entries and the look at the VMAs"

    @override
    def put_retry_entries(self, run: CollapseRun) -> None:
        """Block the holes, and let that be seen before anything is looked at."""
        super().put_retry_entries(run)
        smp_mb()
