# SPDX-License-Identifier: GPL-2.0-only
"""Memory barriers that are left out: what goes wrong then is seen under a weak memory model only.

Which model needs which barrier is on the page docs/memory-models.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from mmref.folio import PG_UPTODATE
from mmref.khugepaged.freeze_and_replace import FreezeAndReplace
from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.strategy import CollapseRun, CollapseStrategy
from mmref.khugepaged.upstream_6_12 import Upstream612
from mmref.sync import smp_mb

__all__ = [
    "CollapseWithoutFence", "CollapseWithoutFence61", "CollapseWithoutFence64", "CountedPlainly",
    "CountedPlainlyWithoutFence", "OpenWithoutFence", "OpenWithoutOrder", "PublishedWithoutBarrier", "RetryWithFence",
    "UptodateWithoutBarrier", "UptodateWithoutBarrier61", "UptodateWithoutBarrier64",
]  # fmt: skip


class _NoFence(CollapseStrategy):
    """Count the huge page, and look for writers at once."""

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count the huge page: when that is seen is left open."""
        run.mapping.nr_thps_inc()


class CollapseWithoutFence(Exhibit, _NoFence, Upstream612):
    """The increment of nr_thps is still on its way while i_writecount is read: open(2) and collapse miss each other."""

    name = "collapse-without-fence"
    mutation = "m17b"
    fixed_by = "never merged: eb6ecbed0aa2, v5.14, has the fence"
    summary = "upstream-6.12, but without smp_mb() between nr_thps and i_writecount"
    races_in = ("file-open", "file-write")


class CollapseWithoutFence64(Exhibit, _NoFence, LockAndInsertLate):
    """The same in Linux 6.4."""

    name = "collapse-without-fence-6.4"
    mutation = "m17b"
    fixed_by = "never merged: eb6ecbed0aa2, v5.14, has the fence"
    summary = "lock-and-insert-late, but without smp_mb() between nr_thps and i_writecount"
    races_in = ("file-open", "file-write")


class CollapseWithoutFence61(Exhibit, _NoFence, FreezeAndReplace):
    """The same in Linux 6.1."""

    name = "collapse-without-fence-6.1"
    mutation = "m17b"
    fixed_by = "never merged: eb6ecbed0aa2, v5.14, has the fence"
    summary = "freeze-and-replace, but without smp_mb() between nr_thps and i_writecount"
    races_in = ("file-open", "file-write")


class CountedPlainly(Exhibit, Upstream612):
    """nr_thps as an int instead of an atomic_t: on x86, too, it is the fence now that makes the difference.

    Two who collapse one file at the same time, as Linux 6.12 can, lose an update: but none of the scenarios has that.
    """

    name = "counted-plainly"
    mutation = "m17d"
    fixed_by = "never merged: nr_thps is an atomic_t"
    summary = "upstream-6.12, but nr_thps is a plain int"

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count by a plain load and a plain store."""
        run.mapping.nr_thps += 1
        smp_mb()


class CountedPlainlyWithoutFence(Exhibit, Upstream612):
    """Without the fence that is too weak on x86, too: nothing else keeps a plain store from waiting."""

    name = "counted-plainly-without-fence"
    mutation = "m17e"
    fixed_by = "never merged: nr_thps is an atomic_t"
    summary = "upstream-6.12, but nr_thps is a plain int, and there is no smp_mb()"
    races_in = ("file-open", "file-write")

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count by a plain load and a plain store: when that is seen is left open."""
        run.mapping.nr_thps += 1


class OpenWithoutFence(Exhibit, FreezeAndReplace):
    """Linux 6.1 without the fence in do_dentry_open(): nothing goes wrong, as get_write_access() is one."""

    name = "open-without-fence"
    mutation = "m17f"
    fixed_by = "not a bug: 6.12 is without it"
    summary = "freeze-and-replace, but do_dentry_open() has no smp_mb()"
    rules: ClassVar[Mapping[str, object]] = {"open_has_fence": False}


class OpenWithoutOrder(Exhibit, Upstream612):
    """i_writecount raised by an increment that orders nothing, as nr_thps is: now open(2) needs the fence of 6.1."""

    name = "open-without-order"
    mutation = "m17g"
    fixed_by = "never merged: get_write_access() is fully ordered"
    summary = "upstream-6.12, but i_writecount is raised by an atomic_inc()"
    races_in = ("file-open", "file-write")
    rules: ClassVar[Mapping[str, object]] = {"writers_are_ordered": False}


class UptodateWithoutBarrier(Exhibit, Upstream612):
    """A reader that takes no lock sees the flag, and reads what was in the page before its content came."""

    name = "uptodate-without-barrier"
    mutation = "m10b"
    fixed_by = "never merged: folio_mark_uptodate() has smp_wmb()"
    summary = "upstream-6.12, but without smp_wmb() in folio_mark_uptodate()"
    races_in = ("file-readahead",)
    rules: ClassVar[Mapping[str, object]] = {"uptodate_has_barrier": False}


class UptodateWithoutBarrier64(Exhibit, LockAndInsertLate):
    """The same in Linux 6.4."""

    name = "uptodate-without-barrier-6.4"
    mutation = "m10b"
    fixed_by = "never merged: folio_mark_uptodate() has smp_wmb()"
    summary = "lock-and-insert-late, but without smp_wmb() in folio_mark_uptodate()"
    races_in = ("file-readahead",)
    rules: ClassVar[Mapping[str, object]] = {"uptodate_has_barrier": False}


class UptodateWithoutBarrier61(Exhibit, FreezeAndReplace):
    """The same in Linux 6.1, whose new folio is in the cache before its content: but there it is locked."""

    name = "uptodate-without-barrier-6.1"
    mutation = "m10b"
    fixed_by = "never merged: folio_mark_uptodate() has smp_wmb()"
    summary = "freeze-and-replace, but without smp_wmb() in folio_mark_uptodate()"
    races_in = ("file-readahead",)
    rules: ClassVar[Mapping[str, object]] = {"uptodate_has_barrier": False}


class PublishedWithoutBarrier(Exhibit, Upstream612):
    """The new folio alone marked without the barrier: nothing goes wrong, storing it into the cache is a release."""

    name = "published-without-barrier"
    mutation = "m10c"
    fixed_by = "not a bug: rcu_assign_pointer() orders the content before the entry"
    summary = "upstream-6.12, but the new folio is marked uptodate without smp_wmb()"

    @override
    def mark_uptodate(self, run: CollapseRun) -> None:
        """Set the flag first, and do then what is always done."""
        run.new.set_flag(PG_UPTODATE)
        super().mark_uptodate(run)


class RetryWithFence(Exhibit, Upstream612):
    """What mends F4: the RETRY entries are seen before userfaultfd is looked for."""

    name = "retry-with-fence"
    mutation = "m31f"
    fixed_by = "not in any kernel"
    summary = "upstream-6.12, with smp_mb() between the RETRY entries and the look at the VMAs"

    @override
    def put_retry_entries(self, run: CollapseRun) -> None:
        """Block the holes, and let that be seen before anything is looked at."""
        super().put_retry_entries(run)
        smp_mb()
