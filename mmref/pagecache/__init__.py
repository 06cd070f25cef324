# SPDX-License-Identifier: GPL-2.0-only
"""The page cache: address_space, lookups, SEEK_DATA and SEEK_HOLE, mincore, and shmem with its accounting."""

from mmref.pagecache.check import check_file, entries_of, folios_of
from mmref.pagecache.filemap import (
    SEEK_DATA,
    SEEK_HOLE,
    filemap_get_entry,
    find_get_entry,
    mapping_seek_hole_data,
)
from mmref.pagecache.mapping import AddressSpace, Memory
from mmref.pagecache.mincore import mincore_page, mincore_unmapped_range
from mmref.pagecache.shmem import BLOCK_SIZE, Sgp, ShmemInode
from mmref.pagecache.vmstat import NR_FILE_PAGES, NR_FILE_THPS, NR_SHMEM, NR_SHMEM_THPS, VmStat

__all__ = [
    "BLOCK_SIZE",
    "NR_FILE_PAGES",
    "NR_FILE_THPS",
    "NR_SHMEM",
    "NR_SHMEM_THPS",
    "SEEK_DATA",
    "SEEK_HOLE",
    "AddressSpace",
    "Memory",
    "Sgp",
    "ShmemInode",
    "VmStat",
    "check_file",
    "entries_of",
    "filemap_get_entry",
    "find_get_entry",
    "folios_of",
    "mapping_seek_hole_data",
    "mincore_page",
    "mincore_unmapped_range",
]
