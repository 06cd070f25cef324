# SPDX-License-Identifier: GPL-2.0-only
"""The page cache of one file: address_space, and the memory that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmref.folio import Folio, Lru, MemCgroup, PageAllocator
from mmref.pagecache.kernel import DEFAULT_KERNEL, KernelRules, kernel_rules
from mmref.pagecache.vmstat import VmStat
from mmref.sync import RwSem, SpinLock, might_sleep, this_cpu
from mmref.xarray import XArray

if TYPE_CHECKING:
    from mmref.pagecache.inode import Inode
    from mmref.pagecache.swap import SwapDevice
    from mmref.pagecache.tlb import FlushBatch
    from mmref.pagecache.vma import Vma

__all__ = ["AddressSpace", "Memory"]


class Memory:
    """What all files and processes of a machine share: page allocator, LRU, counters, swap.

    Kernel: struct pglist_data, include/linux/mmzone.h, one per node.

    Attributes:
        rules: what depends on the kernel version.
        swap: the swap device, or None.
        numa_nodes: how many nodes there are.
        memcg: the control group of whoever is running; None is the root group, which has no limit.
        node: the node that allocations come from, or None for the node of the CPU (its number modulo the nodes).
        shmem_orders: sizes (log2 of pages) of large folios that faults on tmpfs may get, where the kernel knows them:
            what hugepages-<size>kB/shmem_enabled=always says.
        flush_batch: translations that were removed but may still be in a TLB.
    """

    def __init__(
        self,
        page_size: int = 4096,
        folio_class: type[Folio] = Folio,
        allocator_class: type[PageAllocator] = PageAllocator,
        lock_class: type[SpinLock] = SpinLock,
        rules: KernelRules | None = None,
        numa_nodes: int = 1,
    ) -> None:
        self.rules = rules or kernel_rules(DEFAULT_KERNEL)
        self.page_size = page_size
        self.page_shift = page_size.bit_length() - 1
        self.lock_class = lock_class
        self.lru = Lru(lock_class, self.rules.pagevec_size)
        self.allocator = allocator_class(self.lru, page_size, folio_class)
        self.allocator.uptodate_has_barrier = self.rules.uptodate_has_barrier
        self.vmstat = VmStat()
        self.swap: SwapDevice | None = None
        self.numa_nodes = numa_nodes
        self.memcg: MemCgroup | None = None
        self.node: int | None = None
        self.shmem_orders: frozenset[int] = frozenset()
        self.flush_batch: FlushBatch | None = None

    def alloc_folio(self, order: int = 0, nid: int | None = None) -> Folio | None:
        """Allocate a folio on a node, by default on that of whoever is running. Kernel: folio_alloc(), mm/mempolicy.c.

        It is not charged to a control group yet.
        """
        if nid is None:
            nid = self.node if self.node is not None else this_cpu().id % self.numa_nodes
        return self.allocator.alloc(order, nid)

    def charge(self, folio: Folio) -> bool:
        """Make the running task's control group pay for a folio. Kernel: mem_cgroup_charge(), mm/memcontrol.c.

        Returns:
            False if the group is at its limit and nothing of it can be reclaimed.

        Context: may sleep: it reclaims.
        """
        group = self.memcg
        if group is None:
            return True
        if not group.charge(folio.nr_pages):
            from mmref.pagecache.reclaim import try_to_free_mem_cgroup_pages

            might_sleep("try_to_free_mem_cgroup_pages()")
            try_to_free_mem_cgroup_pages(self, group, folio.nr_pages)
            if not group.charge(folio.nr_pages):
                return False
        folio.memcg = group
        return True


class AddressSpace:
    """One file's page cache.

    Kernel: struct address_space, include/linux/fs.h.

    Attributes:
        host: the inode.
        memory: where its folios come from.
        i_pages: the XArray from page index to folio, swap entry (an int) or nothing. In a file that is not
            shmem an int is a shadow entry: what reclaim leaves behind.
        nrpages: pages in the cache, plus the holes that a collapse has charged for. Changes under xa_lock.
        nr_thps: huge folios in the cache of a file whose filesystem knows only small ones.
        i_mmap: the VMAs that map the file. Changes under `i_mmap_rwsem`.
        i_mmap_rwsem: held shared by who walks `i_mmap`.
        invalidate_lock: held shared by who fills the cache, exclusively by who purges it.
    """

    __slots__ = ("host", "i_mmap", "i_mmap_rwsem", "i_pages", "invalidate_lock", "memory", "nr_thps", "nrpages")

    host: Inode

    def __init__(self, memory: Memory, i_pages: XArray[Folio | int], rwsem_class: type[RwSem] = RwSem) -> None:
        self.memory = memory
        self.i_pages = i_pages
        self.nrpages = 0
        self.nr_thps = 0
        self.i_mmap: dict[Vma, None] = {}
        self.i_mmap_rwsem = rwsem_class("i_mmap_rwsem")
        self.invalidate_lock = rwsem_class("invalidate_lock")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.host.name}>"

    def nr_thps_inc(self) -> None:
        """Count a huge folio, atomically. Kernel: filemap_nr_thps_inc(), include/linux/pagemap.h.

        Orders nothing: whoever looks at something else next puts a barrier in between.
        """
        self.nr_thps += 1

    def nr_thps_dec(self) -> None:
        """Count a huge folio no more, atomically. Kernel: filemap_nr_thps_dec(), include/linux/pagemap.h."""
        self.nr_thps -= 1

    def vmas(self, first: int, last: int) -> Iterator[Vma]:
        """Yield the VMAs that map any of the pages `first` to `last` (both included).

        Kernel: vma_interval_tree_foreach(), include/linux/mm.h. Context: `i_mmap_rwsem` is held.
        """
        for vma in list(self.i_mmap):
            if vma.vm_pgoff <= last and first < vma.vm_pgoff + vma.nr_pages:
                yield vma
