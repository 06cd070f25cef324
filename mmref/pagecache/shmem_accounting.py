# SPDX-License-Identifier: GPL-2.0-only
"""What a shmem file is charged for.

Conventions in this file (as in mm/shmem.c):

* `alloced` is the number of pages that the file has been charged for,
* `swapped` the number of its swap entries,
* and at rest `alloced == mapping.nrpages + swapped`. Whoever changes two of the three does so in an order in
  which a concurrent `recalc_inode()` can only find too little alloced, never too much.

6.1 and 6.12 differ: see `KernelRules.recalc_with_deltas`. In 6.1 `i_blocks` goes with `alloced`, in 6.12 with the
blocks taken from the filesystem.
"""

from __future__ import annotations

from typing import ClassVar

from mmref.pagecache.inode import BLOCK_SIZE, Inode
from mmref.pagecache.mapping import AddressSpace
from mmref.sync import PercpuCounter, RwSem, SpinLock, might_sleep

__all__ = ["ShmemAccounting"]


class ShmemAccounting(Inode):
    """The accounting half of a shmem file.

    Kernel: struct shmem_inode_info and struct shmem_sb_info, include/linux/shmem_fs.h.

    Attributes:
        alloced, swapped: see the top of this file (pages); change under `lock`.
        lock: the spinlock of the accounting.
        used_pages: what has been taken from the filesystem, which this file has for itself (pages).
        max_pages: how many pages the filesystem has, or None for no limit.
    """

    __slots__ = ("alloced", "lock", "max_pages", "swapped", "used_pages")

    is_shmem = True
    counter_class: ClassVar[type[PercpuCounter]] = PercpuCounter

    def __init__(
        self,
        name: str,
        mapping: AddressSpace,
        size: int,
        pmd_order: int,
        i_rwsem: RwSem,
        i_lock: SpinLock,
        lock: SpinLock,
        max_pages: int | None = None,
    ) -> None:
        self.alloced = 0
        self.swapped = 0
        self.used_pages = self.counter_class("used_blocks")
        self.max_pages = max_pages
        self.lock = lock
        super().__init__(name, mapping, size, pmd_order, i_rwsem, i_lock)

    def acct_blocks(self, pages: int) -> bool:
        """Reserve blocks of the filesystem; False if it is full. Kernel: shmem_inode_acct_blocks(), mm/shmem.c."""
        if self.memory.rules.shmem_quotas:
            might_sleep("shmem_inode_acct_blocks()")
        if self.max_pages is None:
            self.used_pages.add(pages)
        elif not self.used_pages.limited_add(pages, self.max_pages):
            return False
        if self.memory.rules.recalc_with_deltas:
            self._add_i_blocks(pages)
        return True

    def unacct_blocks(self, pages: int) -> None:
        """Give blocks of the filesystem back. Kernel: shmem_inode_unacct_blocks(), mm/shmem.c."""
        if self.memory.rules.shmem_quotas:
            might_sleep("shmem_inode_unacct_blocks()")
        if self.memory.rules.recalc_with_deltas:
            self._add_i_blocks(-pages)
        self.used_pages.add(-pages)

    def _add_i_blocks(self, pages: int) -> None:
        """Change what stat(2) tells. Kernel: inode_add_bytes(), fs/stat.c."""
        with self.i_lock:
            self.i_blocks += pages * (self.memory.page_size // BLOCK_SIZE)

    def recalc_inode(self, alloced: int = 0, swapped: int = 0) -> None:
        """Note what was added or removed, and stop charging for pages that are gone.

        Whatever is alloced above nrpages + swapped has been freed, by whom ever. Kernel: shmem_recalc_inode(),
        mm/shmem.c.

        Context: takes `lock`; reads nrpages without xa_lock.
        """
        if not self.memory.rules.recalc_with_deltas:
            self._recalc_inode_6_1(alloced, swapped)
            return
        with self.lock:
            self.alloced += alloced
            self.swapped += swapped
            freed = self.alloced - self.swapped - self.i_mapping.nrpages
            if swapped > 0:  # swap-out raises it before nrpages falls, so that the page does not look freed
                freed += swapped
            if freed > 0:
                self.alloced -= freed
        if freed > 0:
            self.unacct_blocks(freed)

    def _recalc_inode_6_1(self, alloced: int, swapped: int) -> None:
        """Do what callers did around shmem_recalc_inode() before Linux 3c1b7528d896 (v6.6)."""
        blocks = self.memory.page_size // BLOCK_SIZE
        with self.lock:
            if alloced:
                self.alloced += alloced
                self.i_blocks += alloced * blocks
            if swapped < 0:
                self.swapped += swapped
            freed = self.alloced - self.swapped - self.i_mapping.nrpages
            if freed > 0:
                self.alloced -= freed
                self.i_blocks -= freed * blocks
                self.unacct_blocks(freed)
            if swapped > 0:
                self.swapped += swapped

    def charge(self, pages: int, xa_locked: bool = False) -> bool:
        """Charge the file for pages that a collapse is about to add; False if the filesystem is full.

        Raises nrpages before alloced: the other way round a concurrent `recalc_inode()` would take the difference
        for freed pages (Linux aaa52e340073, v4.20). Kernel: shmem_charge(), mm/shmem.c.

        Args:
            pages: how many.
            xa_locked: the caller holds xa_lock, as all did until Linux 509f006932de (v6.6).
        """
        if not self.acct_blocks(pages):
            return False
        if xa_locked:
            self.i_mapping.nrpages += pages
        else:
            with self.i_mapping.i_pages.xa_lock:
                self.i_mapping.nrpages += pages
        self.recalc_inode(pages, 0)
        return True

    def uncharge(self, pages: int) -> None:
        """Undo `charge()`; the caller has lowered nrpages. Kernel: shmem_uncharge(), mm/shmem.c."""
        if self.memory.rules.recalc_with_deltas:
            self.recalc_inode(0, 0)
        else:
            self.recalc_inode(-pages, 0)
            self.unacct_blocks(pages)
