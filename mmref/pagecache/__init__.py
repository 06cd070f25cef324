# SPDX-License-Identifier: GPL-2.0-only
"""The page cache and what goes with it: lookups, shmem and files on a disk, swap, address spaces, page faults."""

from mmref.pagecache.check import check_file, check_machine, entries_of, folios_of
from mmref.pagecache.fault import BusError, FaultRetry, SegmentationFault, do_set_pmd
from mmref.pagecache.filemap import (
    SEEK_DATA,
    SEEK_HOLE,
    filemap_get_entry,
    filemap_lock_folio,
    find_get_entry,
    mapping_seek_hole_data,
)
from mmref.pagecache.inode import BLOCK_SIZE, Inode
from mmref.pagecache.kernel import DEFAULT_KERNEL, KERNELS, KernelRules, kernel_rules
from mmref.pagecache.mapping import AddressSpace, Memory
from mmref.pagecache.mincore import mincore_page, mincore_unmapped_range
from mmref.pagecache.mm import Mm
from mmref.pagecache.page_table import HugePmd, PageTable, Pte, PteMarker, SwapPte
from mmref.pagecache.reclaim import invalidate_mapping_pages, reclaim_folio
from mmref.pagecache.regular import (
    RegularInode,
    filemap_flush,
    filemap_write_and_wait,
    page_cache_sync_readahead,
)
from mmref.pagecache.rmap import AnonVma, folio_test_anon, try_to_unmap, try_to_unmap_flush
from mmref.pagecache.shmem import Sgp, ShmemInode
from mmref.pagecache.swap import SwapDevice
from mmref.pagecache.tlb import Tlb
from mmref.pagecache.uffd import UffdEvent, Userfaultfd
from mmref.pagecache.vma import Vma
from mmref.pagecache.vmstat import NR_FILE_PAGES, NR_FILE_THPS, NR_SHMEM, NR_SHMEM_THPS, VmStat

__all__ = [
    "BLOCK_SIZE", "DEFAULT_KERNEL", "KERNELS", "NR_FILE_PAGES", "NR_FILE_THPS", "NR_SHMEM", "NR_SHMEM_THPS",
    "SEEK_DATA", "SEEK_HOLE", "AddressSpace", "AnonVma", "BusError", "FaultRetry", "HugePmd", "Inode", "KernelRules",
    "Memory", "Mm", "PageTable", "Pte", "PteMarker", "RegularInode", "SegmentationFault", "Sgp", "ShmemInode",
    "SwapDevice", "SwapPte", "Tlb", "UffdEvent", "Userfaultfd", "VmStat", "Vma", "check_file", "check_machine",
    "do_set_pmd", "entries_of", "filemap_flush", "filemap_get_entry", "filemap_lock_folio", "filemap_write_and_wait",
    "find_get_entry", "folio_test_anon", "folios_of", "invalidate_mapping_pages", "kernel_rules",
    "mapping_seek_hole_data", "mincore_page", "mincore_unmapped_range", "page_cache_sync_readahead", "reclaim_folio",
    "try_to_unmap", "try_to_unmap_flush",
]  # fmt: skip
