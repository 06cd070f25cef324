# SPDX-License-Identifier: GPL-2.0-only
"""Folios: flags, reference count, lock and content; the LRU; the page allocator."""

from mmref.folio.allocator import POISON, PageAllocator
from mmref.folio.flags import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_HWPOISON,
    PG_LOCKED,
    PG_LRU,
    PG_PRIVATE,
    PG_READAHEAD,
    PG_REFERENCED,
    PG_SWAPBACKED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
    PG_UPTODATE,
    PG_WRITEBACK,
    flag_text,
)
from mmref.folio.folio import Folio
from mmref.folio.lru import Lru
from mmref.folio.memcg import MemCgroup

__all__ = [
    "PG_ACTIVE",
    "PG_DIRTY",
    "PG_HWPOISON",
    "PG_LOCKED",
    "PG_LRU",
    "PG_PRIVATE",
    "PG_READAHEAD",
    "PG_REFERENCED",
    "PG_SWAPBACKED",
    "PG_SWAPCACHE",
    "PG_UNEVICTABLE",
    "PG_UPTODATE",
    "PG_WRITEBACK",
    "POISON",
    "Folio",
    "Lru",
    "MemCgroup",
    "PageAllocator",
    "flag_text",
]
