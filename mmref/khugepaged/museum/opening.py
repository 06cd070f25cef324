# SPDX-License-Identifier: GPL-2.0-only
"""Opening a file for writing drops the huge pages in its cache: bugs of that rule, which is outside of collapse_file().

They are strategies all the same, so that they can be explored like the others: a scenario makes its machine with the
rules that the strategy changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.upstream_6_12 import Upstream612

__all__ = ["OpenDoesNotPurge", "PurgeTakesCopies", "ShadowNotSplit", "SplitKeepsCount"]


class OpenDoesNotPurge(Exhibit, Upstream612):
    """A filesystem that knows only small folios writes into a huge page."""

    name = "open-does-not-purge"
    mutation = "m11"
    fixed_by = "09d91cda0e82, v5.4"
    summary = "upstream-6.12, but opening for writing leaves huge pages in the cache"
    races_in = ("file-open", "file-write")
    rules: ClassVar[Mapping[str, object]] = {"open_purges": False}


class PurgeTakesCopies(Exhibit, Upstream612):
    """Opening a file for writing takes the private copies of everybody who has mapped it: programs lose their data."""

    name = "purge-takes-copies"
    mutation = "m20"
    fixed_by = "8468e937df1f, v5.16"
    summary = "upstream-6.12, but opening for writing unmaps private copies, too"
    races_in = ("file-open-copied",)
    rules: ClassVar[Mapping[str, object]] = {"purge_spares_copies": False}


class SplitKeepsCount(Exhibit, Upstream612):
    """A huge page that is split stays counted: every later open for writing drops the cache for nothing."""

    name = "split-keeps-count"
    mutation = "m21"
    fixed_by = "1ca7554d05ac, v5.15"
    summary = "upstream-6.12, but splitting a huge page does not lower nr_thps"
    races_in = ("file-shrink",)
    rules: ClassVar[Mapping[str, object]] = {"split_counts_thps": False}


class ShadowNotSplit(Exhibit, Upstream612):
    """A page that is read where a huge one was reclaimed takes the place of all its pages."""

    name = "shadow-not-split"
    mutation = "m16"
    fixed_by = "198b62f83eef, v5.9"
    summary = "upstream-6.12, but a small folio takes the place of a whole shadow entry"
    races_in = ("file-refault",)
    rules: ClassVar[Mapping[str, object]] = {"shadows_are_split": False}
