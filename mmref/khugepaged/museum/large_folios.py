# SPDX-License-Identifier: GPL-2.0-only
"""Old folios of several pages, and the one that is huge already."""

from __future__ import annotations

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun
from mmref.khugepaged.upstream_6_12 import Upstream612

__all__ = ["CountOfSmall", "HugeIgnored", "OneIndexOn", "OnePageCopied"]


class HugeIgnored(Exhibit, Upstream612):
    """A huge folio that somebody else has put at the start meanwhile is collapsed once more."""

    name = "huge-ignored"
    mutation = "m08"
    fixed_by = "06a5e1268a5f, v4.20"
    summary = "upstream-6.12, but a huge page that is there already is not noticed"
    races_in = ("collapse", "scan")

    @override
    def check_size(self, run: CollapseRun, folio: Folio) -> None:
        """Take whatever is there."""


class CountOfSmall(Exhibit, Upstream612):
    """Three references are expected, whatever the size: large folios never collapse."""

    name = "count-of-small"
    mutation = "m40b"
    fixed_by = "never shipped: part of 7de856ffd007, v6.12"
    summary = "upstream-6.12, but every old folio is expected to have three references"
    races_in = ("quiet",)

    @override
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Compare with the count of a single page."""
        if folio.ref_count() != 3:
            raise Abandon(ScanResult.PAGE_COUNT)
        run.old.append(folio)


class OnePageCopied(Exhibit, Upstream612):
    """Of a large folio only the first page is copied, and the rest of the huge page is what was there before."""

    name = "one-page-copied"
    mutation = "m40c"
    fixed_by = "never shipped: part of 7de856ffd007, v6.12"
    summary = "upstream-6.12, but only the first page of a large folio is copied"
    races_in = ("quiet", "alone")

    @override
    def copy_folio(self, run: CollapseRun, folio: Folio) -> None:
        """Copy one page."""
        if not run.new.copy_page(folio.index - run.start, folio, 0):
            raise Abandon(ScanResult.COPY_MC)


class OneIndexOn(Exhibit, Upstream612):
    """The scan goes on one index behind the start of a large folio, and meets it again, locked by itself."""

    name = "one-index-on"
    mutation = "m40d"
    fixed_by = "never shipped: part of 7de856ffd007, v6.12"
    summary = "upstream-6.12, but the scan steps by one page over large folios"
    races_in = ("quiet",)

    @override
    def behind(self, folio: Folio) -> int:
        """Go on with the next page."""
        return folio.index + 1
