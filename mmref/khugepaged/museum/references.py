# SPDX-License-Identifier: GPL-2.0-only
"""Old folios: their references, their place on the LRU, and when they leave the file."""

from __future__ import annotations

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun, CollapseStrategy
from mmref.khugepaged.upstream_6_12 import Upstream612

__all__ = ["BusyIsInvalid", "MappingClearedLate", "NoDrain", "NotPutBack"]


class MappingClearedLate(Exhibit, Upstream612):
    """An old folio is unlocked before it leaves the file: who has waited for the lock still thinks it is the file's.

    What a writer puts there is lost.
    """

    name = "mapping-cleared-late"
    mutation = "m06"
    fixed_by = "042a30824871, v4.20"
    summary = "upstream-6.12, but old folios are unlocked before they leave the file"
    races_in = ("write", "write-fault", "truncate", "punch-all")

    @override
    def let_go(self, folio: Folio) -> None:
        """First the lock, then the file."""
        folio.clear_active()
        folio.clear_unevictable()
        folio.unlock()
        folio.mapping = None
        folio.put_refs(2 + folio.nr_pages)


class NotPutBack(Exhibit, Upstream612):
    """A folio that was isolated in vain never comes back to the LRU: it cannot be reclaimed or collapsed any more."""

    name = "not-put-back"
    mutation = "m13"
    fixed_by = "2f33a706027c, v5.7"
    summary = "upstream-6.12, but a folio that is in use is not put back on the LRU"
    races_in = ("pinned", "seek-data", "mincore")

    @override
    def put_back(self, run: CollapseRun, folio: Folio) -> None:
        """Forget it."""


class NoDrain(Exhibit, Upstream612):
    """A page that has just come from swap waits in this CPU's LRU batch, and cannot be isolated: try as one may."""

    name = "no-drain"
    mutation = "m30"
    fixed_by = "efa3d814fad1, v6.4"
    summary = "upstream-6.12, but the LRU batch is not drained after swapping in"
    races_in = ("quiet-swap",)

    lock_old = CollapseStrategy.lock_old


class BusyIsInvalid(Exhibit, Upstream612):
    """A page that somebody uses for a moment makes MADV_COLLAPSE fail with EINVAL, which says: never try again."""

    name = "busy-is-invalid"
    mutation = "m26"
    fixed_by = "ae63c898f400, v6.3"
    summary = "upstream-6.12, but a page in use is reported as EINVAL"
    races_in = ("pinned",)

    @override
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Give the wrong reason."""
        try:
            super().claim_old(run, folio)
        except Abandon:
            raise Abandon(ScanResult.FAIL) from None
