# SPDX-License-Identifier: GPL-2.0-only
"""The page cache of one file: address_space, and the memory that it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.folio import Folio, Lru, PageAllocator
from mmref.pagecache.vmstat import VmStat
from mmref.sync import SpinLock
from mmref.xarray import XArray

if TYPE_CHECKING:
    from mmref.pagecache.shmem import ShmemInode

__all__ = ["AddressSpace", "Memory"]


class Memory:
    """What all files of a machine share: page allocator, LRU and counters.

    Kernel: struct pglist_data (one node), include/linux/mmzone.h.
    """

    def __init__(
        self,
        page_size: int = 4096,
        folio_class: type[Folio] = Folio,
        allocator_class: type[PageAllocator] = PageAllocator,
        lock_class: type[SpinLock] = SpinLock,
    ) -> None:
        self.page_size = page_size
        self.page_shift = page_size.bit_length() - 1
        self.lru = Lru(lock_class)
        self.allocator = allocator_class(self.lru, page_size, folio_class)
        self.vmstat = VmStat()


class AddressSpace:
    """One file's page cache.

    Kernel: struct address_space, include/linux/fs.h.

    Attributes:
        host: the inode.
        memory: where its folios come from.
        i_pages: the XArray from page index to folio, swap entry (an int) or nothing.
        nrpages: pages in the cache, plus the holes that a collapse has charged for. Changes under xa_lock.
        nr_thps: huge folios in the cache of a file whose filesystem knows only small ones.
    """

    __slots__ = ("host", "i_pages", "memory", "nr_thps", "nrpages")

    host: ShmemInode

    def __init__(self, memory: Memory, i_pages: XArray[Folio | int]) -> None:
        self.memory = memory
        self.i_pages = i_pages
        self.nrpages = 0
        self.nr_thps = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.host.name}>"
