# SPDX-License-Identifier: GPL-2.0-only
"""userfaultfd: a hole that a monitor has seen must stay one, or the monitor must hear of it."""

from __future__ import annotations

from typing_extensions import override

from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.strategy import CollapseRun
from mmref.khugepaged.upstream_6_12 import Upstream612

__all__ = ["HolesNotBlocked", "NoUserfaultfdCheck", "UserfaultfdCheckedAtStart", "UserfaultfdCheckedEarly"]


class NoUserfaultfdCheck(Exhibit, Upstream612):
    """Holes are filled although a monitor waits for somebody to touch them: live migration loses these pages."""

    name = "no-userfaultfd-check"
    mutation = "m31a"
    fixed_by = "ac492b9c70ca, v6.4"
    summary = "upstream-6.12, but nobody asks whether a userfaultfd watches the holes"
    races_in = ("uffd", "uffd-tail")

    @override
    def check_userfaultfd(self, run: CollapseRun, last: int) -> None:
        """Do not look."""


class UserfaultfdCheckedEarly(Exhibit, Upstream612):
    """The check comes before the holes are blocked: a monitor that registers in between still sees a hole."""

    name = "userfaultfd-checked-early"
    mutation = "m31b"
    fixed_by = "never shipped: part of ac492b9c70ca, v6.4"
    summary = "upstream-6.12, but userfaultfd is asked about before the holes are blocked"
    races_in = ("uffd", "uffd-tail")

    @override
    def put_retry_entries(self, run: CollapseRun) -> None:
        """Look first, then block."""
        super().check_userfaultfd(run, run.end)
        super().put_retry_entries(run)

    @override
    def check_userfaultfd(self, run: CollapseRun, last: int) -> None:
        """That was done before."""


class HolesNotBlocked(Exhibit, Upstream612):
    """Holes are counted again and checked, but stay holes until the insert: a monitor may see one after the check."""

    name = "holes-not-blocked"
    mutation = "m31c"
    fixed_by = "never shipped: part of ac492b9c70ca, v6.4"
    summary = "upstream-6.12, but holes are not blocked by RETRY entries"
    races_in = ("uffd", "uffd-tail")

    @override
    def put_retry_entries(self, run: CollapseRun) -> None:
        """Count the holes, and leave them as they are."""
        run.xas.set(run.start)
        self.recount_holes(run, sum(run.xas.next() is None for _ in range(run.start, run.end)))


class UserfaultfdCheckedAtStart(Exhibit, Upstream612):
    """Only VMAs that map the first page are asked: one that maps the tail alone is missed. Found in review."""

    name = "userfaultfd-checked-at-start"
    mutation = "m31e"
    fixed_by = "never merged: v5 of the patch series"
    summary = "upstream-6.12, but only VMAs that map the first page are asked about userfaultfd"
    races_in = ("uffd-tail",)

    @override
    def check_userfaultfd(self, run: CollapseRun, last: int) -> None:
        """Look at the first page alone."""
        super().check_userfaultfd(run, run.start)
