# SPDX-License-Identifier: GPL-2.0-only
"""A whole simulated machine, and the files on it: what a user of the library holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from errno import EAGAIN, ENOMEM

from mmref.errors import UsageError
from mmref.folio import Folio, MemCgroup, PageAllocator
from mmref.folio.allocator import MAX_ORDER
from mmref.khugepaged import (
    CollapseControl,
    CollapseResult,
    CollapseStrategy,
    Khugepaged,
    collapse_file,
    get_strategy,
)
from mmref.pagecache import (
    DEFAULT_KERNEL,
    SEEK_DATA,
    SEEK_HOLE,
    AddressSpace,
    KernelRules,
    Memory,
    Mm,
    PageTable,
    RegularInode,
    ShmemInode,
    SwapDevice,
    Tlb,
    Userfaultfd,
    Vma,
    check_machine,
    filemap_get_entry,
    invalidate_mapping_pages,
    kernel_rules,
    mincore_unmapped_range,
    reclaim_folio,
)
from mmref.process import Process
from mmref.sync import RwSem, SpinLock
from mmref.xarray import XArray

__all__ = ["File", "Machine", "Parts"]

DEFAULT_STRATEGY = kernel_rules(DEFAULT_KERNEL).strategy

Strategy = str | CollapseStrategy | type[CollapseStrategy]


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
    regular: type[RegularInode] = RegularInode
    mm: type[Mm] = Mm
    vma: type[Vma] = Vma
    page_table: type[PageTable] = PageTable
    tlb: type[Tlb] = Tlb
    swap: type[SwapDevice] = SwapDevice
    memcg: type[MemCgroup] = MemCgroup
    uffd: type[Userfaultfd] = Userfaultfd


class Machine:
    """Memory, its counters, files and processes.

    Args:
        order: log2 of the pages of a huge page (the kernel's HPAGE_PMD_ORDER: 9).
        chunk_shift: log2 of the slots of an XArray node (the kernel's XA_CHUNK_SHIFT: 6).
        page_size: bytes per page.
        parts: the classes to assemble it from.
        seed: for whatever is random; nothing is so far.
        numa_nodes: how many NUMA nodes the memory is spread over.
        kernel: which version's rules hold outside of collapse_file(): one of `mmref.pagecache.KERNELS`, or rules of
            one's own. It also says
            which strategy `collapse()` and MADV_COLLAPSE use if they are given none.
        swap_pages: size of the swap device (pages), or None for no swap.

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

    def __init__(
        self,
        order: int = 9,
        chunk_shift: int = 6,
        page_size: int = 4096,
        parts: Parts | None = None,
        seed: int = 0,
        numa_nodes: int = 1,
        kernel: str | KernelRules = DEFAULT_KERNEL,
        swap_pages: int | None = None,
    ) -> None:
        if type(order) is not int or not 0 <= order <= MAX_ORDER:
            raise UsageError(f"order {order!r}: a huge page has an order (log2 of pages) from 0 to {MAX_ORDER}.")
        if type(chunk_shift) is not int or not 1 <= chunk_shift <= 6:
            raise UsageError(f"chunk_shift {chunk_shift!r}: a node has 2**1 to 2**6 slots; give 1 to 6.")
        if type(page_size) is not int or page_size < 512 or page_size & (page_size - 1):
            raise UsageError(f"page_size {page_size!r}: give a power of two from 512 bytes on.")
        if type(numa_nodes) is not int or not 1 <= numa_nodes <= 64:
            raise UsageError(f"numa_nodes {numa_nodes!r}: give 1 to 64.")
        rules = kernel_rules(kernel)
        self.order = order
        self.chunk_shift = chunk_shift
        self.page_size = page_size
        self.seed = seed
        self.kernel = rules.version
        self.parts = parts = parts or Parts()
        self.memory = Memory(page_size, parts.folio, parts.allocator, parts.spinlock, rules, numa_nodes)
        if swap_pages is not None:
            self.swapon(swap_pages)
        self.files: dict[str, File] = {}
        self.processes: dict[str, Process] = {}
        self.cgroups: dict[str, MemCgroup] = {}
        self.khugepaged = Khugepaged(self.memory, order)

    def __repr__(self) -> str:
        return f"<Machine order={self.order} chunk_shift={self.chunk_shift}: {len(self.files)} files>"

    @property
    def stats(self) -> dict[str, int]:
        """The counters of /proc/vmstat (pages), and `allocated`: pages in use."""
        return self.memory.vmstat.snapshot() | {"allocated": self.memory.allocator.allocated}

    # Files -------------------------------------------------------------------------------------------------

    def shmem_file(self, name: str, size: int = 0, max_pages: int | None = None, huge: str = "never") -> File:
        """Create an empty file on tmpfs.

        Kernel: memfd_create(), mm/memfd.c.

        Args:
            name: any text that is not in use yet.
            size: bytes; all of it is a hole.
            max_pages: size of the filesystem (pages), or None for no limit.
            huge: its mount option: ``never``, ``always``, ``within_size`` or ``advise``.
        """
        self._check_name(name, size)
        if huge not in ("never", "always", "within_size", "advise"):
            raise UsageError(f"huge={huge!r}: give never, always, within_size or advise.")
        parts = self.parts
        inode = parts.inode(
            name, self._mapping(), size, self.order, parts.rwsem("inode_lock"), parts.spinlock("i_lock"),
            parts.spinlock("info->lock"), max_pages,
        )  # fmt: skip
        inode.huge = huge
        file = self.files[name] = File(self, inode)
        return file

    def ro_file(self, name: str, data: bytes = b"") -> File:
        """Create a file on a disk that is open for reading only; nothing of it is in the cache.

        Args:
            name: any text that is not in use yet.
            data: what is on the disk; its length is the size.
        """
        self._check_name(name, len(data))
        parts = self.parts
        inode = parts.regular(
            name, self._mapping(), len(data), self.order, parts.rwsem("inode_lock"), parts.spinlock("i_lock")
        )
        inode.set_disk(data)
        file = self.files[name] = File(self, inode)
        return file

    def _check_name(self, name: str, size: int) -> None:
        if name in self.files:
            raise UsageError(f"There is a file {name!r} already; choose another name.")
        if size < 0:
            raise UsageError(f"A file cannot have {size} bytes; give 0 or more.")

    def _mapping(self) -> AddressSpace:
        return self.parts.mapping(self.memory, self.parts.xarray(self.chunk_shift), self.parts.rwsem)

    # Tasks, groups, swap -----------------------------------------------------------------------------------

    def process(self, name: str = "self") -> Process:
        """Return a process by name; it is created when it is first asked for."""
        found = self.processes.get(name)
        if found is None:
            parts = self.parts
            mm = parts.mm(
                self.memory, name, self.order, parts.rwsem, parts.spinlock, parts.vma, parts.page_table, parts.tlb
            )
            found = self.processes[name] = Process(mm, self.khugepaged, self.default_strategy, parts.uffd)
        return found

    def cgroup(self, name: str, limit: int | None = None, swap_limit: int | None = None) -> MemCgroup:
        """Create a memory control group with a limit (pages)."""
        if not name or name in self.cgroups:
            raise UsageError(f"A control group cannot be called {name!r}; choose a name that is not in use.")
        group = self.cgroups[name] = self.parts.memcg(name, limit, swap_limit)
        return group

    def enter_cgroup(self, group: MemCgroup | None) -> None:
        """Let what is allocated from now on be paid for by a control group, or by none."""
        self.memory.memcg = group

    def set_node(self, node: int | None) -> None:
        """Let memory come from a NUMA node from now on; None: from that of the CPU."""
        if node is not None and not 0 <= node < self.memory.numa_nodes:
            raise UsageError(f"There is no node {node}; give 0 to {self.memory.numa_nodes - 1}.")
        self.memory.node = node

    def set_shmem_orders(self, *orders: int) -> None:
        """Let faults on tmpfs get large folios of these sizes (log2 of pages); none: only single pages.

        What hugepages-<size>kB/shmem_enabled=always says in /sys/kernel/mm/transparent_hugepage.
        """
        if orders and not self.memory.rules.shmem_large_folios:
            raise UsageError(f"Kernel {self.kernel} has no large folios on tmpfs but huge pages; take 6.12 or later.")
        if any(not 0 < order < self.order for order in orders):
            raise UsageError(f"Orders {orders}: give sizes between one page and a huge page, 1 to {self.order - 1}.")
        self.memory.shmem_orders = frozenset(orders)

    def swapon(self, pages: int, page_cluster: int = 3) -> None:
        """Add a swap device. Kernel: sys_swapon(), mm/swapfile.c.

        Args:
            pages: its size.
            page_cluster: log2 of the pages that are read in at once (vm.page-cluster).
        """
        self.memory.swap = self.parts.swap(pages, self.parts.spinlock, page_cluster)

    # Collapsing --------------------------------------------------------------------------------------------

    @property
    def default_strategy(self) -> str:
        """The collapse_file() of this machine's kernel."""
        return self.memory.rules.strategy

    def collapse(self, file: File, start: int, strategy: Strategy | None = None) -> CollapseResult:
        """Collapse one huge page of a file: the page cache only, for no process in particular.

        Kernel: collapse_file(), mm/khugepaged.c, after lru_add_drain_all() as in MADV_COLLAPSE.

        Args:
            file: a file of this machine.
            start: first index (pages), a multiple of 2**order.
            strategy: its name, class or instance; None for that of the machine's kernel.
        """
        if self.files.get(file.name) is not file:
            raise UsageError(f"{file!r} is not a file of this machine.")
        self.memory.lru.drain_all()
        control = CollapseControl(trace=self.khugepaged.trace)
        return collapse_file(file.mapping, start, strategy or self.default_strategy, control)

    def khugepaged_run(self, full_scans: int = 1, strategy: Strategy | None = None) -> int:
        """Let khugepaged walk all processes that it knows; return how many huge pages it collapsed."""
        return self.khugepaged.scan(get_strategy(strategy or self.default_strategy), full_scans)

    def check(self) -> None:
        """Check every invariant that must hold when nobody is working.

        Raises:
            InvariantViolation: the first that does not hold.
        """
        pins: Counter[Folio] = Counter()
        for file in self.files.values():
            pins.update(file.pins)
        for process in self.processes.values():
            pins.update(process.pins)
        inodes = [file.inode for file in self.files.values()]
        check_machine(self.memory, inodes, [process.mm for process in self.processes.values()], pins)


class File:
    """An open file; offsets and lengths are in bytes, as in the system calls that the methods are named after.

    Errors of the kernel come as OSError with the kernel's errno.

    Attributes:
        machine: the machine that it is on.
        pins: references that `pin()` has taken and that have not been dropped, by folio.
    """

    def __init__(self, machine: Machine, inode: ShmemInode | RegularInode) -> None:
        self.machine = machine
        self._inode = inode
        self.pins: Counter[Folio] = Counter()

    @property
    def inode(self) -> ShmemInode | RegularInode:
        """The inode behind it."""
        return self._inode

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
        """Hold a reference to the folio at a page index, as splice(2) does; returns what drops it.

        Raises:
            OSError: EAGAIN: there is no folio.
        """
        entry = filemap_get_entry(self.mapping, _not_negative("page", index))
        if not isinstance(entry, Folio):
            raise OSError(EAGAIN, f"No folio at page {index} to pin")
        folio = entry
        self.pins[folio] += 1

        def unpin() -> None:
            self.pins[folio] -= 1
            folio.put()

        return unpin

    def swap_out(self, first: int = 0, nr: int | None = None) -> int:
        """Reclaim the folios of `nr` pages from index `first` on; return how many pages left the cache.

        On tmpfs they go to swap, if there is any; of a file on a disk only what is clean is dropped.
        """
        memory, end = self.machine.memory, self.inode.nr_pages if nr is None else first + nr
        memory.lru.drain_all()
        before = self.mapping.nrpages
        for index in range(_not_negative("page", first), end):
            entry = filemap_get_entry(self.mapping, index)
            if isinstance(entry, Folio):
                reclaim_folio(memory, entry)
                entry.put()
        return before - self.mapping.nrpages

    def mmap(
        self, length: int | None = None, offset: int = 0, prot: str = "rw", shared: bool = True,
        process: Process | None = None, skew: int = 0,
    ) -> int:  # fmt: skip
        """mmap(2): map a range of the file into a process, by default the only one; returns the address (bytes).

        Args:
            length: bytes; None for the rest of the file, rounded up to whole huge pages.
            offset: where in the file (bytes).
            prot: letters of ``rwx``.
            shared: MAP_SHARED, not MAP_PRIVATE.
            process: where to.
            skew: bytes that the address is off from one that suits huge pages.
        """
        process = process or self.machine.process()
        if length is None:
            huge = process.mm.huge_size
            length = max(huge, -(-(self.size - offset) // huge) * huge)
        return process.mmap(self.inode, length, offset, prot, shared, skew)

    def madvise_collapse(
        self, offset: int = 0, length: int | None = None, process: Process | None = None,
        strategy: Strategy | None = None,
    ) -> None:  # fmt: skip
        """madvise(2) with MADV_COLLAPSE over a range of the file (bytes), where a process has mapped it.

        Raises:
            OSError: what the kernel returns; ENOMEM if the process has not mapped the file there.
        """
        process = process or self.machine.process()
        page = offset // self.machine.page_size
        vma = next(
            (one for one in reversed(process.mm.vmas) if one.mapping is self.mapping
             and one.vm_pgoff <= page < one.vm_pgoff + one.nr_pages), None,
        )  # fmt: skip
        if vma is None:
            raise OSError(ENOMEM, f"{process!r} has not mapped {self.name} at offset {offset}")
        start = vma.address_of(page) + offset % self.machine.page_size
        process.madvise_collapse(start, vma.vm_end - start if length is None else length, strategy)

    # Files on a disk ---------------------------------------------------------------------------------------

    def _on_disk(self) -> RegularInode:
        if not isinstance(self.inode, RegularInode):
            raise UsageError(f"{self.name} is on tmpfs; make a file on a disk with Machine.ro_file().")
        return self.inode

    def open_for_write(self) -> Callable[[], None]:
        """open(2) for writing; returns what closes it. Kernel: do_dentry_open(), fs/open.c.

        If the cache of the file holds a huge page, all of it is dropped first.
        """
        inode = self._on_disk()
        inode.open_for_write()
        return inode.put_write_access

    def fsync(self) -> None:
        """fsync(2): write everything to the disk."""
        self._on_disk().fsync()

    def fadvise_dontneed(self, first: int = 0, nr: int | None = None) -> int:
        """posix_fadvise(2) with POSIX_FADV_DONTNEED: drop what nobody uses; returns how many pages."""
        self._on_disk()
        self.machine.memory.lru.drain_all()
        last = self.inode.nr_pages - 1 if nr is None else first + nr - 1
        return invalidate_mapping_pages(self.mapping, first, last)


def _not_negative(what: str, value: int) -> int:
    if value < 0:
        raise UsageError(f"{what} {value} is negative; give 0 or more.")
    return value
