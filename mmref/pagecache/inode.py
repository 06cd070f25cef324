# SPDX-License-Identifier: GPL-2.0-only
"""What every file has, wherever its pages come from."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from mmref.errors import MmrefInternalError, UsageError
from mmref.folio import Folio
from mmref.pagecache.mapping import AddressSpace, Memory
from mmref.sync import RwSem, SpinLock

if TYPE_CHECKING:
    from mmref.pagecache.fault import Fault

__all__ = ["BLOCK_SIZE", "MAX_LFS_FILESIZE", "Inode", "Sgp"]

BLOCK_SIZE = 512
"""Unit of st_blocks (bytes)."""

MAX_LFS_FILESIZE = 2**63 - 1
"""Largest file offset (bytes). Kernel: MAX_LFS_FILESIZE, include/linux/fs.h."""


class Sgp(Enum):
    """What `get_folio()` does about a hole or an unwritten folio. Kernel: enum sgp_type, shmem_fs.h."""

    READ = "do not allocate: a hole and an unwritten folio give None"
    NOALLOC = "fail with ENOENT on a hole; clear an unwritten folio"
    CACHE = "allocate, cleared, but not beyond the file size"
    WRITE = "allocate; the caller writes or clears it"
    FALLOC = "allocate, unwritten; clear one that was there"


class Inode:
    """A file, as far as all filesystems agree.

    Kernel: struct inode, include/linux/fs.h.

    Attributes:
        name: for people.
        i_mapping: its page cache.
        i_size: size (bytes); changes under `i_rwsem`.
        i_blocks: blocks of 512 bytes, as stat(2) tells.
        i_rwsem: the inode lock.
        i_lock: protects `i_blocks` and the like for a moment.
        i_writecount: how many have the file open for writing.
        pmd_order: log2 of the pages of a huge page.
    """

    __slots__ = ("i_blocks", "i_lock", "i_mapping", "i_rwsem", "i_size", "i_writecount", "name", "pmd_order")

    is_shmem: ClassVar[bool] = False
    fallocend: int = 0
    """Index behind what is allocated behind the end of the file (pages); only shmem has it."""

    def __init__(
        self, name: str, mapping: AddressSpace, size: int, pmd_order: int, i_rwsem: RwSem, i_lock: SpinLock
    ) -> None:
        self.name = name
        self.i_mapping = mapping
        self.i_size = size
        self.i_blocks = 0
        self.i_writecount = 0
        self.pmd_order = pmd_order
        self.i_rwsem = i_rwsem
        self.i_lock = i_lock
        mapping.host = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.i_size} bytes>"

    @property
    def memory(self) -> Memory:
        """The machine's memory."""
        return self.i_mapping.memory

    @property
    def nr_pages(self) -> int:
        """Size in pages, rounded up. Kernel: DIV_ROUND_UP(i_size_read(inode), PAGE_SIZE)."""
        return -(-self.i_size // self.memory.page_size)

    def get_folio(self, index: int, sgp: Sgp, fault: Fault | None = None) -> Folio | None:
        """Return the folio at an index (pages) as `sgp` says; only tmpfs has this."""
        raise UsageError(f"{self.name} is not on tmpfs, so there is no page {index} to get by {sgp.name} ({fault}).")

    def charge(self, pages: int, xa_locked: bool = False) -> bool:
        """Charge for pages that a collapse is about to add: only shmem has holes to fill."""
        raise MmrefInternalError(f"{self!r} cannot be charged for {pages} pages ({xa_locked=})")

    def uncharge(self, pages: int) -> None:
        """Undo `charge()`."""
        raise MmrefInternalError(f"{self!r} cannot be uncharged for {pages} pages")

    def fault(self, fault: Fault) -> Folio:
        """Return the folio that a page fault asks for, locked and with a reference. Kernel: vm_ops->fault()."""
        raise NotImplementedError

    def page_mkwrite(self, folio: Folio) -> bool:
        """Make a page writable through a shared mapping; False if it cannot be. Kernel: vm_ops->page_mkwrite()."""
        folio.mark_dirty()
        return True

    def release_folio(self, folio: Folio) -> bool:
        """Let go of what is kept about a folio, if possible. Kernel: filemap_release_folio(), mm/filemap.c."""
        return not folio.test_private()

    def punch_hole(self, offset: int, length: int) -> None:
        """Free a range (bytes). Kernel: vfs_fallocate(), fs/open.c."""
        raise NotImplementedError
