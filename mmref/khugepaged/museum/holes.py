# SPDX-License-Identifier: GPL-2.0-only
"""Holes: what is there to be filled, and with what."""

from __future__ import annotations

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.strategy import CollapseRun
from mmref.khugepaged.upstream_6_12 import Upstream612
from mmref.pagecache import Sgp

__all__ = ["GapsNotCleared", "HolesNotRecounted", "NoEmptyCheck", "SwapInAllocates", "TailNotCleared"]


class GapsNotCleared(Exhibit, Upstream612):
    """Holes before and between the old folios show what was in that memory before: somebody else's data."""

    name = "gaps-not-cleared"
    mutation = "m05a"
    fixed_by = "2af8ff291848, v4.20"
    summary = "upstream-6.12, but holes in front of data are not cleared"
    races_in = ("alone", "quiet")

    @override
    def clear_gap(self, run: CollapseRun, index: int, end: int) -> None:
        """Clear nothing."""


class TailNotCleared(Exhibit, Upstream612):
    """The same for the holes behind the last old folio."""

    name = "tail-not-cleared"
    mutation = "m05b"
    fixed_by = "2af8ff291848, v4.20"
    summary = "upstream-6.12, but holes behind the data are not cleared"
    races_in = ("alone", "quiet")

    @override
    def clear_tail(self, run: CollapseRun, index: int) -> None:
        """Clear nothing."""


class NoEmptyCheck(Exhibit, Upstream612):
    """A range that was punched or truncated since it was chosen is filled again, with a huge page of zeros."""

    name = "no-empty-check"
    mutation = "m03"
    fixed_by = "701270fa193a, v4.20"
    summary = "upstream-6.12, but a range with nothing in it is collapsed, too"
    races_in = ("punch-all", "truncate")

    @override
    def check_not_empty(self, run: CollapseRun) -> None:
        """Take it as it is."""


class SwapInAllocates(Exhibit, Upstream612):
    """A page seen in swap, and punched before it was brought back, is allocated anew."""

    name = "swap-in-allocates"
    mutation = "m23"
    fixed_by = "acdd9f8e0fed, v5.15"
    summary = "upstream-6.12, but a swapped page that has gone meanwhile is allocated"
    races_in = ("punch-all",)

    @override
    def make_usable(self, run: CollapseRun, index: int, sgp: Sgp = Sgp.CACHE) -> Folio:
        """Get the page as a fault would."""
        return super().make_usable(run, index, sgp)


class HolesNotRecounted(Exhibit, Upstream612):
    """A hole that somebody has filled since the scan is taken for a hole: what was written there is lost."""

    name = "holes-not-recounted"
    mutation = "m31d"
    fixed_by = "never shipped: part of ac492b9c70ca, v6.4"
    summary = "upstream-6.12, but holes are not counted again when they are blocked"
    races_in = ("write-hole", "fallocate", "fault-on-hole", "uffd")

    @override
    def recount_holes(self, run: CollapseRun, blocked: int) -> None:
        """Trust the scan."""
