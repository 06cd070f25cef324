# SPDX-License-Identifier: GPL-2.0-only
"""The counters of /proc/vmstat that collapsing changes, in pages.

Kernel: enum node_stat_item, include/linux/mmzone.h. Each update is one step and updates commute, so nothing
that the simulated machine does depends on their order.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["NR_FILE_PAGES", "NR_FILE_THPS", "NR_SHMEM", "NR_SHMEM_THPS", "VmStat"]

NR_FILE_PAGES = "NR_FILE_PAGES"
NR_SHMEM = "NR_SHMEM"
NR_SHMEM_THPS = "NR_SHMEM_THPS"
NR_FILE_THPS = "NR_FILE_THPS"


class VmStat:
    """Counters by the kernel's names; all start at 0.

    >>> stat = VmStat()
    >>> stat.add(NR_SHMEM, 4)
    >>> stat[NR_SHMEM]
    4
    """

    def __init__(self) -> None:
        self._counters: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<VmStat {self.snapshot()}>"

    def __getitem__(self, item: str) -> int:
        return self._counters[item]

    def add(self, item: str, pages: int) -> None:
        """Change a counter by so many pages. Kernel: __lruvec_stat_mod_folio(), mm/memcontrol.c."""
        self._counters[item] += pages

    def snapshot(self) -> dict[str, int]:
        """Return all counters, also those that are 0."""
        return {item: self._counters[item] for item in (NR_FILE_PAGES, NR_SHMEM, NR_SHMEM_THPS, NR_FILE_THPS)}
