# SPDX-License-Identifier: GPL-2.0-only
"""The counters of /proc/vmstat that collapsing changes, in pages: per NUMA node and memory control group.

Kernel: enum node_stat_item, include/linux/mmzone.h. Each update is one step and updates commute, so nothing
that the simulated machine does depends on their order. Who counts says which folio the pages belong to: the
folio's node and group are what is charged.
"""

from __future__ import annotations

from collections import Counter

from mmref.folio import Folio

__all__ = ["NR_FILE_PAGES", "NR_FILE_THPS", "NR_SHMEM", "NR_SHMEM_THPS", "Tag", "VmStat"]

NR_FILE_PAGES = "NR_FILE_PAGES"
NR_SHMEM = "NR_SHMEM"
NR_SHMEM_THPS = "NR_SHMEM_THPS"
NR_FILE_THPS = "NR_FILE_THPS"

Tag = tuple[int, str]
"""Node and name of the control group (empty for none): what one struct lruvec stands for."""


class VmStat:
    """Counters by the kernel's names; all start at 0.

    >>> stat = VmStat()
    >>> stat.add(NR_SHMEM, 4)
    >>> stat[NR_SHMEM]
    4
    >>> stat.by_tag(NR_SHMEM)
    {(0, ''): 4}
    """

    def __init__(self) -> None:
        self._counters: Counter[tuple[str, int, str]] = Counter()

    def __repr__(self) -> str:
        return f"<VmStat {self.snapshot()}>"

    def __getitem__(self, item: str) -> int:
        return sum(pages for (name, _, _), pages in self._counters.items() if name == item)

    def add(self, item: str, pages: int, folio: Folio | None = None) -> None:
        """Change a counter by so many pages, on behalf of a folio.

        Kernel: __lruvec_stat_mod_folio(), include/linux/vmstat.h.
        """
        if folio is None:
            self._counters[item, 0, ""] += pages
        else:
            self._counters[item, folio.nid, folio.memcg.name if folio.memcg is not None else ""] += pages

    def by_tag(self, item: str) -> dict[Tag, int]:
        """Return a counter per (node, control group); those that are 0 are left out."""
        return {(nid, group): pages for (name, nid, group), pages in self._counters.items() if name == item and pages}

    def snapshot(self) -> dict[str, int]:
        """Return the sum of each counter over all nodes and groups, also if it is 0."""
        return {item: self[item] for item in (NR_FILE_PAGES, NR_SHMEM, NR_SHMEM_THPS, NR_FILE_THPS)}
