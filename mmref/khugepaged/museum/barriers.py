# SPDX-License-Identifier: GPL-2.0-only
"""Memory barriers that are left out: what goes wrong then is seen under a weak memory model only.

Which model needs which barrier is on the page docs/memory-models.md; what does without harm is in `harmless`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.strategy import CollapseRun
from mmref.khugepaged.upstream_6_12 import Upstream612

__all__ = [
    "CollapseWithoutFence", "CollapseWithoutFence64", "CountedPlainly", "OpenWithoutOrder", "UptodateWithoutBarrier",
]  # fmt: skip


class CollapseWithoutFence(Exhibit, Upstream612):
    """The increment of nr_thps is still on its way while i_writecount is read: open(2) and collapse miss each other."""

    name = "collapse-without-fence"
    mutation = "m17b"
    fixed_by = "never merged: eb6ecbed0aa2, v5.14, has the fence"
    summary = "upstream-6.12, but without smp_mb() between nr_thps and i_writecount"
    races_in = ("file-open", "file-write")

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count the huge page: when that is seen is left open."""
        run.mapping.nr_thps_inc()


class CollapseWithoutFence64(Exhibit, LockAndInsertLate):
    """The same in Linux 6.4, where xa_lock is held meanwhile: that keeps nobody from reading nr_thps."""

    name = "collapse-without-fence-6.4"
    mutation = "m17b-6.4"
    fixed_by = "never merged: eb6ecbed0aa2, v5.14, has the fence"
    summary = "lock-and-insert-late, but without smp_mb() between nr_thps and i_writecount"
    races_in = ("file-open", "file-write")

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count the huge page: when that is seen is left open."""
        run.mapping.nr_thps_inc()


class CountedPlainly(Exhibit, Upstream612):
    """nr_thps as an int instead of an atomic_t: without the fence, not even x86 keeps a plain store from waiting."""

    name = "counted-plainly"
    mutation = "m17d"
    fixed_by = "never merged: nr_thps is an atomic_t"
    summary = "upstream-6.12, but nr_thps is raised by a plain store, without smp_mb()"
    races_in = ("file-open", "file-write")

    @override
    def announce_huge(self, run: CollapseRun) -> None:
        """Count by a plain load and a plain store: when that is seen is left open."""
        run.mapping.nr_thps += 1


class OpenWithoutOrder(Exhibit, Upstream612):
    """i_writecount raised by an increment that orders nothing, as nr_thps is: now open(2) needs the fence of 6.1."""

    name = "open-without-order"
    mutation = "m17e"
    fixed_by = "never merged: get_write_access() is fully ordered"
    summary = "upstream-6.12, but i_writecount is raised by an increment that orders nothing"
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
