# SPDX-License-Identifier: GPL-2.0-only
"""The page flags that the model uses, as plain integers.

Kernel: enum pageflags, include/linux/page-flags.h. The names are the kernel's in capitals (`PG_uptodate` is
`PG_UPTODATE`); each constant is a mask, not a bit number. They are ints because an `IntFlag` costs some
thirty times as much per test.
"""

from __future__ import annotations

from typing import Final

PG_LOCKED: Final = 1 << 0
"""Somebody owns the folio: its mapping, its content and its uptodate flag stay as they are."""
PG_REFERENCED: Final = 1 << 1
"""It was used since reclaim last looked."""
PG_UPTODATE: Final = 1 << 2
"""The content is valid. On shmem, a folio without it is allocated but unwritten, and reads as a hole."""
PG_DIRTY: Final = 1 << 3
"""The content differs from what is on disk or in swap."""
PG_LRU: Final = 1 << 4
"""It is on an LRU list (and neither isolated nor in a per-CPU batch)."""
PG_ACTIVE: Final = 1 << 5
"""It is on the active list."""
PG_UNEVICTABLE: Final = 1 << 6
"""It is on the unevictable list."""
PG_WRITEBACK: Final = 1 << 7
"""It is being written to disk."""
PG_SWAPBACKED: Final = 1 << 8
"""It goes to swap when reclaimed: anonymous memory and shmem."""
PG_HWPOISON: Final = 1 << 9
"""The memory is broken: copying out of it fails."""
PG_PRIVATE: Final = 1 << 10
"""The filesystem keeps something about this folio, and holds a reference for it."""
PG_SWAPCACHE: Final = 1 << 11
"""It is in the swap cache: its content is in swap too, or will be."""
PG_READAHEAD: Final = 1 << 12
"""It was read ahead, and nobody has asked for it yet."""

FLAG_NAMES: Final = {
    PG_LOCKED: "locked", PG_REFERENCED: "referenced", PG_UPTODATE: "uptodate", PG_DIRTY: "dirty", PG_LRU: "lru",
    PG_ACTIVE: "active", PG_UNEVICTABLE: "unevictable", PG_WRITEBACK: "writeback", PG_SWAPBACKED: "swapbacked",
    PG_HWPOISON: "hwpoison", PG_PRIVATE: "private",
    PG_SWAPCACHE: "swapcache", PG_READAHEAD: "readahead",
}  # fmt: skip


def flag_text(flags: int) -> str:
    """Return the names of the flags that are set, joined by ``|``.

    >>> flag_text(PG_LOCKED | PG_UPTODATE)
    'locked|uptodate'
    """
    return "|".join(name for bit, name in FLAG_NAMES.items() if flags & bit)
