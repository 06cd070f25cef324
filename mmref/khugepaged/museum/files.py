# SPDX-License-Identifier: GPL-2.0-only
"""Files on a disk: who writes to them, and what is being read or written."""

from __future__ import annotations

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun, CollapseStrategy
from mmref.khugepaged.upstream_6_12 import Upstream612
from mmref.pagecache import filemap_write_and_wait

__all__ = ["DirtyNotFlushed", "NoFlush", "ThpsCountedLate", "UptodateNotChecked", "WritebackIgnored",
           "WritersCheckedFirst"]  # fmt: skip


class UptodateNotChecked(Exhibit, Upstream612):
    """Whether the content is valid is not looked at under the lock: a page that could not be read is taken over."""

    name = "uptodate-not-checked"
    mutation = "m10"
    fixed_by = "4655e5e5f387, v5.4"
    summary = "upstream-6.12, but a locked folio is not checked for being uptodate"
    races_in = ("file-read-error",)

    @override
    def check_uptodate(self, folio: Folio) -> None:
        """Trust what was seen before."""


class WritersCheckedFirst(Exhibit, Upstream612):
    """The collapse looks for writers before it announces a huge page: one that opens in between is seen by neither."""

    name = "writers-checked-first"
    mutation = "m17a"
    fixed_by = "never shipped: part of eb6ecbed0aa2, v5.14"
    summary = "upstream-6.12, but writers are looked for before the huge page is announced"
    races_in = ("file-open", "file-write")

    @override
    def count_huge(self, run: CollapseRun) -> None:
        """Look, then announce."""
        if run.is_shmem:
            return
        if run.inode.i_writecount > 0 or filemap_write_and_wait(run.mapping):
            raise Abandon(ScanResult.FAIL)
        run.mapping.nr_thps_inc()


class ThpsCountedLate(Exhibit, Upstream612):
    """The huge page is announced when it is in the cache already."""

    name = "thps-counted-late"
    mutation = "m17c"
    fixed_by = "never shipped: part of eb6ecbed0aa2, v5.14"
    summary = "upstream-6.12, but the huge page is announced after the insert"
    races_in = ("file-open", "file-write")

    @override
    def count_huge(self, run: CollapseRun) -> None:
        """Look for writers, and write dirty data."""
        if not run.is_shmem and (run.inode.i_writecount > 0 or filemap_write_and_wait(run.mapping)):
            raise Abandon(ScanResult.FAIL)

    @override
    def publish(self, run: CollapseRun) -> None:
        """Insert, then announce."""
        super().publish(run)
        if not run.is_shmem:
            run.mapping.nr_thps_inc()


class WritebackIgnored(Exhibit, Upstream612):
    """A folio that is being written to the disk is replaced; the kernel panics when the disk is done with it."""

    name = "writeback-ignored"
    mutation = "m18"
    fixed_by = "74c42e1baacf, v5.15"
    summary = "upstream-6.12, but folios under writeback are collapsed, too"
    races_in = ("file-writeback-bare",)

    @override
    def check_writeback(self, folio: Folio) -> None:
        """Do not look."""


class NoFlush(Exhibit, Upstream612):
    """A dirty page makes the collapse fail, and nothing is done about it: a file just written never collapses."""

    name = "no-flush"
    mutation = "m12"
    fixed_by = "75f360696ce9, v5.5"
    summary = "upstream-6.12, but dirty pages in the range are not written"
    races_in = ("file-quiet",)

    @override
    def flush_dirty(self, run: CollapseRun) -> None:
        """Leave it to others."""


class DirtyNotFlushed(Exhibit, Upstream612):
    """Dirty pages elsewhere in the file are not written: opening it for writing then drops them.

    All kernels before 6.12.96 do this: what was written to the file is gone.
    """

    name = "dirty-not-flushed"
    mutation = "m45a"
    fixed_by = "stable only, 6.12.96"
    summary = "upstream-6.12, but dirty pages of the rest of the file are not written"
    races_in = ("file-open-later",)

    count_huge = CollapseStrategy.count_huge
