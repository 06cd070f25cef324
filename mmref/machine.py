# SPDX-License-Identifier: GPL-2.0-only
"""A whole simulated machine, and the files on it: what a user of the library holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from errno import EAGAIN

from mmref.errors import UsageError
from mmref.folio import Folio, PageAllocator
from mmref.folio.allocator import MAX_ORDER
from mmref.khugepaged import CollapseResult, CollapseStrategy, collapse_file
from mmref.pagecache import (
    SEEK_DATA,
    SEEK_HOLE,
    AddressSpace,
    Memory,
    ShmemInode,
    check_file,
    filemap_get_entry,
    mincore_unmapped_range,
)
from mmref.sync import RwSem, SpinLock
from mmref.xarray import XArray

__all__ = ["File", "Machine", "Parts"]

DEFAULT_STRATEGY = "lock-and-insert-late"


@dataclass(frozen=True)
class Parts:
    """The classes that a machine is assembled from. `mmref.explore` hands in its traced twins."""

    folio: type[Folio] = Folio
    allocator: type[PageAllocator] = PageAllocator
    mapping: type[AddressSpace] = AddressSpace
    inode: type[ShmemInode] = ShmemInode
    spinlock: type[SpinLock] = SpinLock
    rwsem: type[RwSem] = RwSem
    xarray: Callable[[int], XArray[Folio | int]] = lambda chunk_shift: XArray(chunk_shift=chunk_shift)


class Machine:
    """Memory, its counters, and files in it.

    Args:
        order: log2 of the pages of a huge page (the kernel's HPAGE_PMD_ORDER: 9).
        chunk_shift: log2 of the slots of an XArray node (the kernel's XA_CHUNK_SHIFT: 6).
        page_size: bytes per page.
        parts: the classes to assemble it from.

    >>> machine = Machine(order=2)
    >>> file = machine.shmem_file("f", 4 * 4096)
    >>> file.write(0, b"hello")
    5
    >>> file.seek_hole(0)
    4096
    >>> machine.collapse(file, 0).status
    <ScanResult.SUCCEED: 'succeeded'>
    >>> file.seek_hole(0)
    16384
    """

    def __init__(self, order: int = 9, chunk_shift: int = 6, page_size: int = 4096, parts: Parts | None = None) -> None:
        if type(order) is not int or not 0 <= order <= MAX_ORDER:
            raise UsageError(f"order {order!r}: a huge page has an order (log2 of pages) from 0 to {MAX_ORDER}.")
        if type(chunk_shift) is not int or not 1 <= chunk_shift <= 6:
            raise UsageError(f"chunk_shift {chunk_shift!r}: a node has 2**1 to 2**6 slots; give 1 to 6.")
        if type(page_size) is not int or page_size < 512 or page_size & (page_size - 1):
            raise UsageError(f"page_size {page_size!r}: give a power of two from 512 bytes on.")
        self.order = order
        self.chunk_shift = chunk_shift
        self.page_size = page_size
        self.parts = parts = parts or Parts()
        self.memory = Memory(page_size, parts.folio, parts.allocator, parts.spinlock)
        self.files: dict[str, File] = {}

    def __repr__(self) -> str:
        return f"<Machine order={self.order} chunk_shift={self.chunk_shift}: {len(self.files)} files>"

    @property
    def stats(self) -> dict[str, int]:
        """The counters of /proc/vmstat (pages), and `allocated`: pages in use."""
        return self.memory.vmstat.snapshot() | {"allocated": self.memory.allocator.allocated}

    def shmem_file(self, name: str, size: int = 0, max_pages: int | None = None) -> File:
        """Create an empty file on tmpfs.

        Kernel: memfd_create(), mm/memfd.c.

        Args:
            name: any text that is not in use yet.
            size: bytes; all of it is a hole.
            max_pages: size of the filesystem (pages), or None for no limit.
        """
        if name in self.files:
            raise UsageError(f"There is a file {name!r} already; choose another name.")
        if size < 0:
            raise UsageError(f"A file cannot have {size} bytes; give 0 or more.")
        parts = self.parts
        mapping = parts.mapping(self.memory, parts.xarray(self.chunk_shift))
        inode = parts.inode(
            name, mapping, size, self.order, parts.rwsem("inode_lock"), parts.spinlock("info->lock"), max_pages
        )
        file = self.files[name] = File(self, inode)
        return file

    def collapse(
        self, file: File, start: int, strategy: str | CollapseStrategy | type[CollapseStrategy] = DEFAULT_STRATEGY
    ) -> CollapseResult:
        """Collapse one huge page of a file, as MADV_COLLAPSE does.

        Kernel: madvise_collapse(), mm/khugepaged.c, for one range of the page cache.

        Args:
            file: a file of this machine.
            start: first index (pages), a multiple of 2**order.
            strategy: its name, class or instance.
        """
        if self.files.get(file.name) is not file:
            raise UsageError(f"{file!r} is not a file of this machine.")
        self.memory.lru.drain_all()
        return collapse_file(file.mapping, start, strategy)

    def check(self) -> None:
        """Check every invariant that must hold when nobody is working.

        Raises:
            InvariantViolation: the first that does not hold.
        """
        for file in self.files.values():
            check_file(file.inode, file.pins)


class File:
    """An open file; offsets and lengths are in bytes, as in the system calls that the methods are named after.

    Errors of the kernel come as OSError with the kernel's errno.

    Attributes:
        machine: the machine that it is on.
        inode: the inode behind it.
        pins: references that `pin()` has taken and that have not been dropped, by folio.
    """

    def __init__(self, machine: Machine, inode: ShmemInode) -> None:
        self.machine = machine
        self.inode = inode
        self.pins: Counter[Folio] = Counter()

    def __repr__(self) -> str:
        return f"<File {self.name}: {self.size} bytes, {self.mapping.nrpages} pages>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.inode.name

    @property
    def mapping(self) -> AddressSpace:
        """Its page cache."""
        return self.inode.i_mapping

    @property
    def size(self) -> int:
        """Its size (bytes)."""
        return self.inode.i_size

    @property
    def st_blocks(self) -> int:
        """What it takes up, in blocks of 512 bytes, as stat(2) tells."""
        return self.inode.i_blocks

    def read(self, pos: int, length: int) -> bytes:
        """pread(2): bytes from an offset; fewer at the end of the file."""
        return self.inode.file_read(_not_negative("offset", pos), _not_negative("length", length))

    def write(self, pos: int, content: bytes) -> int:
        """pwrite(2): overwrite or append; returns how many bytes were written."""
        return self.inode.file_write(_not_negative("offset", pos), bytes(content))

    def fallocate(self, offset: int, length: int, keep_size: bool = False) -> None:
        """fallocate(2): allocate a range; what was a hole there reads as zeros and still counts as one."""
        self.inode.fallocate(offset, length, keep_size)

    def punch_hole(self, offset: int, length: int) -> None:
        """fallocate(2) with PUNCH_HOLE: free a range."""
        self.inode.punch_hole(offset, length)

    def truncate(self, size: int) -> None:
        """ftruncate(2): set the size."""
        self.inode.truncate(size)

    def seek_data(self, offset: int) -> int:
        """lseek(2) with SEEK_DATA: the first offset from there on that holds data; OSError ENXIO if none does."""
        return self.inode.llseek(offset, SEEK_DATA)

    def seek_hole(self, offset: int) -> int:
        """lseek(2) with SEEK_HOLE: the first offset from there on that is in a hole, or the file size."""
        return self.inode.llseek(offset, SEEK_HOLE)

    def mincore(self, first: int = 0, nr: int | None = None) -> list[bool]:
        """mincore(2): for `nr` pages from index `first` on, whether each is resident and valid."""
        if nr is None:
            nr = -(-self.size // self.machine.page_size) - first
        return mincore_unmapped_range(self.mapping, _not_negative("page", first), _not_negative("count", nr))

    def data_extents(self) -> list[tuple[int, int]]:
        """Walk the file with SEEK_DATA and SEEK_HOLE; the data as (start, end) pairs."""
        extents: list[tuple[int, int]] = []
        end = 0
        while end < self.size:
            try:
                start = self.seek_data(end)
            except OSError:  # ENXIO: no more data
                break
            end = self.seek_hole(start)
            extents.append((start, end))
        return extents

    def pin(self, index: int) -> Callable[[], None]:
        """Hold a reference to the folio at a page index, as vmsplice(2) does; returns what drops it."""
        entry = filemap_get_entry(self.mapping, _not_negative("page", index))
        if not isinstance(entry, Folio):
            raise OSError(EAGAIN, f"No folio at page {index} to pin")
        folio = entry
        self.pins[folio] += 1

        def unpin() -> None:
            self.pins[folio] -= 1
            folio.put()

        return unpin


def _not_negative(what: str, value: int) -> int:
    if value < 0:
        raise UsageError(f"{what} {value} is negative; give 0 or more.")
    return value
