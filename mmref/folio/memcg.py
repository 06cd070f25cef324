# SPDX-License-Identifier: GPL-2.0-only
"""Memory control groups: who pays for a folio, and up to which limit."""

from __future__ import annotations

from mmref.errors import InvariantViolation, UsageError

__all__ = ["MemCgroup"]


class MemCgroup:
    """A group of tasks with a common limit.

    Kernel: struct mem_cgroup, include/linux/memcontrol.h.

    Attributes:
        name: for people.
        limit: memory.max (pages), or None for none.
        usage: pages that it pays for.
        swap_limit: memory.swap.max (pages), or None for none.
        swap_usage: pages that it has in swap.

    >>> group = MemCgroup("small", limit=2)
    >>> group.charge(2), group.charge(1), group.usage
    (True, False, 2)
    """

    __slots__ = ("limit", "name", "swap_limit", "swap_usage", "usage")

    def __init__(self, name: str, limit: int | None = None, swap_limit: int | None = None) -> None:
        if limit is not None and limit < 0:
            raise UsageError(f"A limit of {limit} pages: give 0 or more, or None for no limit.")
        self.name = name
        self.limit = limit
        self.usage = 0
        self.swap_limit = swap_limit
        self.swap_usage = 0

    def __repr__(self) -> str:
        return f"<MemCgroup {self.name}: {self.usage} of {self.limit} pages>"

    def charge(self, pages: int) -> bool:
        """Make it pay for so many more pages; False if that is over the limit. Kernel: try_charge(), mm/memcontrol.c.

        One step: the counter of the kernel is atomic.
        """
        if self.limit is not None and self.usage + pages > self.limit:
            return False
        self.usage += pages
        return True

    def uncharge(self, pages: int) -> None:
        """Stop making it pay for so many pages. Kernel: page_counter_uncharge(), mm/page_counter.c."""
        if pages > self.usage:
            raise InvariantViolation("A11", f"{pages} pages uncharged from {self!r}")
        self.usage -= pages

    def may_swap(self) -> bool:
        """Tell whether there is swap left for it. Kernel: mem_cgroup_get_nr_swap_pages(), mm/memcontrol.c."""
        return self.swap_limit is None or self.swap_usage < self.swap_limit

    def charge_swap(self) -> bool:
        """Charge a page of swap; False at the limit. Kernel: __mem_cgroup_try_charge_swap(), mm/memcontrol.c."""
        if not self.may_swap():
            return False
        self.swap_usage += 1
        return True

    def uncharge_swap(self) -> None:
        """Stop charging for a page of swap. Kernel: __mem_cgroup_uncharge_swap(), mm/memcontrol.c."""
        self.swap_usage -= 1
