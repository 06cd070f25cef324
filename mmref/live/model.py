# SPDX-License-Identifier: GPL-2.0-only
"""Run a program on the model, and look at what everybody can ask a kernel for.

The operations are those of `mmref.live.program`. One that the model cannot express raises `NotExpressed` with the
reason; those that only recordings have are in `mmref.live.recorded`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any

from mmref.errors import MmrefError, UsageError
from mmref.khugepaged import ScanResult
from mmref.live.generation import Kernel
from mmref.live.observation import SMAPS, Observation, StepResult, checksum, content_tags, page_content, runs
from mmref.live.program import HUGE, HUGE_PAGES, PAGE, Op, Program
from mmref.machine import File, Machine
from mmref.pagecache import BusError, SegmentationFault, UffdEvent, Userfaultfd
from mmref.pagecache.mm import MMAP_BASE
from mmref.process import Process

__all__ = ["MappedFile", "ModelFile", "NotExpressed", "SigBus", "run_on_model"]


MAPPING_STRIDE = 32 << 20
"""Distance of one mapping from the next (bytes). All are in one GiB, as the tables of 6.1 recordings were."""


class NotExpressed(MmrefError):
    """A program does something that the model does not have."""


class SigBus(Exception):
    """An access that would end the process, and how many came before it."""

    def __init__(self, done: int = 0) -> None:
        super().__init__(done)
        self.done = done


class MappedFile:
    """Where a process has mapped the file.

    Args:
        process: the process.
        start: the address that mmap(2) has returned.
        length: how long the mapping is (bytes).
        off: which offset of the file is at its start (bytes).
    """

    def __init__(self, process: Process, start: int, length: int, off: int = 0) -> None:
        self.process = process
        self.mm = process.mm
        self.start = start
        self.length = -(-length // PAGE) * PAGE
        self.base = start - off

    @property
    def first(self) -> int:
        """The first page of the file that is mapped."""
        return (self.start - self.base) // PAGE

    def address(self, page: int) -> int:
        """Return the address of a page of the file."""
        return self.base + page * PAGE

    def load(self, lo: int, hi: int) -> int:
        """Touch pages; returns how many. Raises SigBus."""
        for page in range(lo, hi):
            try:
                self.mm.read(self.address(page), 1)
            except (BusError, SegmentationFault):
                raise SigBus(page - lo) from None
        return hi - lo

    def store(self, pages: range, gen: int) -> int:
        """Write whole pages of a generation; returns how many. Raises SigBus."""
        for done, page in enumerate(pages):
            try:
                self.mm.write(self.address(page), page_content(page, gen))
            except (BusError, SegmentationFault):
                raise SigBus(done) from None
        return len(pages)

    def runs(self, values: list[bool]) -> list[list[int]]:
        """Name runs of true values by pages of the file."""
        return [[first + self.first, behind + self.first] for first, behind, _ in runs(values, False)]

    def present(self) -> list[list[int]]:
        """Return which pages of the file the page tables have."""
        pages = self.mm.pagemap(self.start, self.length)
        return self.runs([one in ("file", "anon", "pmd") for one in pages])

    def smaps(self) -> dict[str, int]:
        """Return what /proc/self/smaps says (kB)."""
        pages = self.mm.pagemap(self.start, self.length)
        per_page = PAGE // 1024
        pmds = {
            "ShmemPmdMapped": pages.count("pmd") * per_page if self._is_shmem else 0,
            "FilePmdMapped": 0 if self._is_shmem else pages.count("pmd") * per_page,
        }
        rss = sum(one in ("file", "anon", "pmd") for one in pages) * per_page
        found = {"Rss": rss, "Anonymous": pages.count("anon") * per_page} | pmds
        return {key: found[key] for key in SMAPS}

    @property
    def _is_shmem(self) -> bool:
        vma = self.mm.find_vma(self.start)
        return vma is None or vma.mapping.host.is_shmem


class ModelFile:
    """A file on a machine of its own, with its mappings: one method per operation, as `_do_NAME`.

    Args:
        kernel: whose behaviour to show.
        settings: how that kernel was built and set, as the first line of a recording has it.

    Attributes:
        reads: looking at the file includes reading it, which brings into the cache what is not there.
        statuses: the result code of each range that the last MADV_COLLAPSE tried.
    """

    def __init__(self, kernel: Kernel, settings: Mapping[str, Any] | None = None) -> None:
        self.kernel = kernel
        self.settings = settings or {}
        self.machine = self.new_machine()
        self.process = self.machine.process("program")
        self.reads = True
        self.statuses: list[ScanResult] = []
        self.mapping: MappedFile | None = None
        self.mapping2: MappedFile | None = None
        self.ranges = 1
        self._mappings = 0
        self._pins: list[Callable[[], None]] = []
        self._uffd: Userfaultfd | None = None
        self._watched: MappedFile | None = None
        self._file: File | None = None

    def new_machine(self) -> Machine:
        """Return a machine with the rules of the kernel."""
        return Machine(order=9, kernel=self.kernel.rules, swap_pages=1 << 16 if self.settings.get("swap") else None)

    @property
    def file(self) -> File:
        """The file under test."""
        if self._file is None:
            raise UsageError("There is no file yet; put memfd(size=...) before it.")
        return self._file

    def step(self, op: Op, observe: bool = True) -> StepResult:
        """Do one operation, and look at the file, unless told not to.

        Raises:
            NotExpressed: the model does not have it.
            Finding: an invariant does not hold after it.
        """
        operation: Callable[..., int | None] | None = getattr(self, "_do_" + op.name, None)
        if operation is None:
            raise NotExpressed(f"the operation {op.name}")
        self.statuses = []
        result: StepResult = {"ret": 0, "errno": "0"}
        try:
            result["ret"] = operation(**op.args) or 0
        except SigBus as stopped:
            result["ret"] = stopped.done
            result["sigbus"] = 1
        except OSError as error:
            result["ret"] = -1
            result["errno"] = errno.errorcode.get(error.errno or 0, str(error.errno))
        self.machine.check()
        if observe and self._file is not None:
            result["observe"] = self.observe()
        return result

    def observe(self) -> Observation:
        """Look at the file without changing it."""
        file = self.file
        self.ranges = max(self.ranges, -(-file.size // HUGE))
        seen: Observation = {
            "size": file.size,
            "blocks": file.st_blocks,
            "data": [list(extent) for extent in file.data_extents()],
            "core_cache": [run[:2] for run in runs(file.mincore(0, self.ranges * HUGE_PAGES), False)],
            **self.observe_mappings(),
        }
        if self.reads:
            seen["content"], seen["mixed"] = self.content()
        return seen

    def content(self) -> tuple[list[list[int]], list[list[int]]]:
        """Read the file, and name what is in it: `content` and `mixed` of an `Observation`."""
        return content_tags(self.file.read(0, self.file.size))

    def observe_mappings(self) -> Observation:
        """Look at the page tables."""
        seen: Observation = {}
        if self.mapping is not None:
            seen["core_vma"] = self.mapping.runs(self.process.mincore(self.mapping.start, self.mapping.length))
            seen["pte_present"] = self.mapping.present()
            seen["smaps"] = self.mapping.smaps()
        if self.mapping2 is not None:
            seen["vma2_pte_present"] = self.mapping2.present()
        return seen

    def checksum(self) -> str:
        """Return the checksum of the content that recordings have."""
        return checksum(self.file.read(0, self.file.size))

    # The file ------------------------------------------------------------------------------------------------

    def _do_memfd(self, size: int) -> None:
        self._file = self.machine.shmem_file("file", size)

    def _do_observe(self) -> None:
        pass

    def _do_pwrite_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> int:
        return len([self.file.write(page * PAGE, page_content(page, gen)) for page in range(lo, hi, step)])

    def _do_pread(self, off: int, len: int) -> int:
        return self.file.read(off, len).__len__()

    def _do_fallocate(self, mode: str, off: int, len: int) -> None:
        if mode == "PUNCH_HOLE":
            self.file.punch_hole(off, len)
        else:
            self.file.fallocate(off, len, keep_size=mode == "KEEP_SIZE")

    def _do_ftruncate(self, size: int) -> None:
        self.file.truncate(size)

    # Mappings ------------------------------------------------------------------------------------------------

    def _map(self, length: int, off: int, prot: str, flags: str, skew: int = 0) -> MappedFile:
        self.ranges = max(self.ranges, -(-(off + length) // HUGE))
        start = MMAP_BASE + self._mappings * MAPPING_STRIDE + off % HUGE + skew
        self._mappings += 1
        self.map_at(start, length, off, prot, flags != "private")
        return MappedFile(self.process, start, length, off)

    def map_at(self, start: int, length: int, off: int, prot: str, shared: bool) -> None:
        """mmap(2) at an address that is chosen so that no mapping adjoins another."""
        self.process.mm.mmap(self.file.mapping, length, off, prot, shared, address=start)

    def _do_mmap(self, len: int, off: int = 0, prot: str = "rw", flags: str = "shared", skew: int = 0) -> None:
        self.mapping = self._map(len, off, prot, flags, skew)

    def _do_mmap2(self, len: int, off: int = 0, prot: str = "rw", flags: str = "shared") -> None:
        self.mapping2 = self._map(len, off, prot, flags)

    def _do_munmap2(self) -> None:
        mapping = mapped(self.mapping2, "mmap2")
        self.process.munmap(mapping.start, mapping.length)
        self.mapping2 = None

    def _do_map_read_pages(self, lo: int, hi: int) -> int:
        return mapped(self.mapping, "mmap").load(lo, hi)

    def _do_map2_read_pages(self, lo: int, hi: int) -> int:
        return mapped(self.mapping2, "mmap2").load(lo, hi)

    def _do_touch_first_data(self, page: int) -> None:
        if page >= 0:
            mapped(self.mapping, "mmap").load(page, page + 1)

    def _do_map_write_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> int:
        return mapped(self.mapping, "mmap").store(range(lo, hi, step), gen)

    def _do_mprotect(self, off: int, len: int, prot: str) -> None:
        self.process.mprotect(mapped(self.mapping, "mmap").base + off, len, prot)

    def _do_mlock(self, off: int, len: int) -> None:
        self.process.mlock(mapped(self.mapping, "mmap").base + off, len)

    def _do_munlock(self, off: int, len: int) -> None:
        self.process.munlock(mapped(self.mapping, "mmap").base + off, len)

    # Advice --------------------------------------------------------------------------------------------------

    def _do_madvise(self, advice: str, off: int, len: int) -> None:
        start = mapped(self.mapping, "mmap").base + off
        try:
            self.process.madvise(advice, start, len)
        except UsageError:
            raise NotExpressed(f"madvise {advice}") from None

    def _do_madvise_collapse(self, off: int, len: int) -> None:
        self.collapse(self.process, mapped(self.mapping, "mmap").base + off, len)

    def _do_madvise_collapse_map2(self, off: int, len: int) -> None:
        self.collapse(self.process, mapped(self.mapping2, "mmap2").base + off, len)

    def collapse(self, process: Process, start: int, length: int) -> None:
        """madvise(2) with MADV_COLLAPSE."""
        trace = self.machine.khugepaged.trace
        before = len(trace)
        try:
            process.madvise_collapse(start, length)
        finally:
            self.statuses = [event.result for event in trace[before:] if event.name == "scan_file"]

    # userfaultfd -----------------------------------------------------------------------------------------------

    def _do_uffd_register(self, mode: str, vma: int) -> None:
        mapping = mapped(self.mapping, "mmap") if vma == 1 else mapped(self.mapping2, "mmap2")
        self._uffd = self.process.userfaultfd(self._serve)
        self._uffd.register(mapping.start, mapping.length, *mode.lower().split("|"))
        self._watched = mapping

    def _serve(self, event: UffdEvent) -> None:
        """Resolve a fault in the plainest way."""
        if self._uffd is None:
            return
        if event.reason == "wp":
            self._uffd.writeprotect(event.address, PAGE, False)
        elif event.reason == "minor":
            self._uffd.resume(event.address)
        else:
            vma = self.process.mm.find_vma(event.address)
            if vma is not None and not vma.shared:
                raise NotExpressed("UFFDIO_ZEROPAGE in a private mapping, which maps the zero page")
            self._uffd.zeropage(event.address)

    def _do_uffd_touch(self, page: int, write: int) -> int:
        """Touch a page as user space does; returns how many faults the monitor has seen."""
        if self._uffd is None or self._watched is None:
            raise UsageError("Nothing is watched yet; put uffd_register(mode=..., vma=1) before it.")
        before = len(self._uffd.events)
        address = self._watched.address(page)
        try:
            if write:
                self.process.write(address, b"\0")
            else:
                self.process.read(address, 1)
        except (BusError, SegmentationFault):
            raise UsageError(f"Page {page} is not mapped there, or behind the end of the file.") from None
        return len(self._uffd.events) - before

    # References ----------------------------------------------------------------------------------------------

    def _do_vmsplice_pin(self, page: int) -> int:
        self._pins.append(self.process.vmsplice(mapped(self.mapping, "mmap").address(page)))
        return PAGE

    def _do_splice_file_to_pipe(self, page: int) -> int:
        """Kernel: shmem_file_splice_read(), mm/shmem.c: a hole gives the zero page, which is nobody's folio."""
        file = self.file
        if page * PAGE >= file.size:
            return 0
        if file.mincore(page, 1)[0]:
            self._pins.append(file.pin(page))
        return min(PAGE, file.size - page * PAGE)

    def _do_pipe_close(self, **_: Any) -> None:
        while self._pins:
            self._pins.pop()()


def mapped(mapping: MappedFile | None, by: str) -> MappedFile:
    """Return a mapping that has to be there.

    Raises:
        UsageError: it is not.
    """
    if mapping is None:
        raise UsageError(f"Nothing is mapped yet; put {by}(len=...) before it.")
    return mapping


def run_on_model(program: Program, kernel: Kernel) -> list[StepResult]:
    """Run a program on the model of a kernel.

    Args:
        program: what to run.
        kernel: whose behaviour to show.

    Raises:
        NotExpressed: the model does not have something of it.
        UsageError: the program cannot run (see `Program.check()`).
        Finding: an invariant does not hold.
    """
    file = ModelFile(kernel)
    return [file.step(op) for op in program.check()]
