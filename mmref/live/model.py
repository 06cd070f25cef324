# SPDX-License-Identifier: GPL-2.0-only
"""Run a program on the model, and look at what everybody can ask a kernel for.

The operations are those of `mmref.live.program`, and those that only recordings have. One that the model cannot
express yet raises `NotExpressed` with the reason.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any

from mmref.errors import MmrefError, UsageError
from mmref.folio import Folio
from mmref.khugepaged import ScanResult
from mmref.live.generation import Kernel
from mmref.live.mappings import FileMapping
from mmref.live.observation import Observation, StepResult, checksum, content_tags, page_content, runs
from mmref.live.program import HUGE, HUGE_PAGES, PAGE, Op, Program
from mmref.machine import File, Machine
from mmref.pagecache import Sgp

__all__ = ["ModelFile", "NotExpressed", "run_on_model"]


class NotExpressed(MmrefError):
    """A program does something that the model does not have."""


class _SigBus(Exception):
    """An access behind the end of the file."""

    def __init__(self, done: int = 0) -> None:
        super().__init__(done)
        self.done = done


class ModelFile:
    """A file on a machine of its own, with its mappings: one method per operation, as `_do_NAME`.

    Args:
        kernel: whose behaviour to show.
        settings: how that kernel was set, as the first line of a recording has it.

    Attributes:
        statuses: the result code of each range that the last MADV_COLLAPSE tried.
    """

    def __init__(self, kernel: Kernel, settings: Mapping[str, Any] | None = None) -> None:
        self.kernel = kernel
        self.settings = settings or {}
        self.machine = Machine(order=9)
        self.strategy = kernel.strategy
        self.statuses: list[ScanResult] = []
        self.mapping: FileMapping | None = None
        self.mapping2: FileMapping | None = None
        self.ranges = 1
        self._pins: list[Callable[[], None]] = []
        self._page_tables: set[int] = set()  # the huge pages of the main mapping in which a page was touched
        self._file: File | None = None

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
        except _SigBus as stopped:
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
        content, mixed = content_tags(file.read(0, file.size))
        return {
            "size": file.size,
            "blocks": file.st_blocks,
            "data": [list(extent) for extent in file.data_extents()],
            "core_cache": [run[:2] for run in runs(file.mincore(0, self.ranges * HUGE_PAGES), False)],
            "content": content,
            "mixed": mixed,
        }

    def checksum(self) -> str:
        """Return the checksum of the content that recordings have."""
        return checksum(self.file.read(0, self.file.size))

    # The file ------------------------------------------------------------------------------------------------

    def _do_memfd(self, size: int) -> None:
        self._file = self.machine.shmem_file("file", size)

    def _do_tmpfs_file(self, opts: str, size: int) -> None:
        options = dict(option.partition("=")[::2] for option in opts.split(",") if option)
        limit = options.pop("nr_blocks", None)
        if (huge := options.pop("huge", "never")) not in ("never", "within_size"):
            raise NotExpressed(f"a tmpfs mounted with huge={huge}")
        if huge == "within_size":
            raise NotExpressed("a tmpfs mounted with huge=within_size, where a write allocates a huge page")
        pages = int(limit) if limit else None
        if (text := options.pop("size", None)) is not None:
            pages = int(text.rstrip("m")) * (1 << 20) // PAGE
        if options:
            raise NotExpressed(f"a tmpfs mounted with {opts}")
        self._file = self.machine.shmem_file("file", size, max_pages=pages)

    def _do_observe(self) -> None:
        pass

    def _do_note(self, **_: Any) -> None:
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

    def _do_mmap(self, len: int, off: int = 0, prot: str = "rw", flags: str = "shared", skew: int = 0) -> None:
        if flags != "shared":
            raise NotExpressed("a private mapping")
        if self.mapping is not None:
            raise NotExpressed("a main mapping after another")
        self.mapping = FileMapping(off, len, prot, skew=skew)
        self.ranges = max(self.ranges, -(-(off + len) // HUGE))

    def _do_mmap2(self, len: int, off: int = 0, prot: str = "rw", flags: str = "shared") -> None:
        if flags != "shared":
            raise NotExpressed("a private mapping")
        self.mapping2 = FileMapping(off, len, prot)
        self.ranges = max(self.ranges, -(-(off + len) // HUGE))

    def _do_munmap2(self) -> None:
        _mapped(self.mapping2, "mmap2")
        self.mapping2 = None

    def _fault(self, page: int, done: int = 0) -> Folio:
        """Return what a page fault finds or allocates, locked and referenced.

        Raises:
            _SigBus: the page lies behind the end of the file, or there is no memory for it.
        """
        try:
            folio = self.file.inode.get_folio(page, Sgp.CACHE)
        except OSError:
            raise _SigBus(done) from None
        if folio is None:
            raise NotExpressed("a fault that finds nothing")
        return folio

    def _load(self, mapping: FileMapping, lo: int, hi: int) -> int:
        for page in range(lo, hi):
            if not mapping.over(page * PAGE, PAGE)[1]:
                raise _SigBus(page - lo)  # a SIGSEGV really, which the kernel side cannot tell apart either
            folio = self._fault(page, page - lo)
            folio.unlock()
            folio.put()
            if mapping is self.mapping:
                self._page_tables.add(page // HUGE_PAGES)
        return hi - lo

    def _do_map_read_pages(self, lo: int, hi: int) -> int:
        return self._load(_mapped(self.mapping, "mmap"), lo, hi)

    def _do_map2_read_pages(self, lo: int, hi: int) -> int:
        return self._load(_mapped(self.mapping2, "mmap2"), lo, hi)

    def _do_touch_first_data(self, page: int) -> None:
        if page >= 0:
            self._do_map_read_pages(page, page + 1)

    def _do_map_write_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> int:
        mapping = _mapped(self.mapping, "mmap")
        for done, page in enumerate(range(lo, hi, step)):
            vmas, mapped = mapping.over(page * PAGE, PAGE)
            if not mapped or "w" not in vmas[0].prot:
                raise _SigBus(done)
            folio = self._fault(page, done)
            folio.write((page - folio.index) * PAGE, page_content(page, gen))
            folio.mark_dirty()
            folio.unlock()
            folio.put()
            self._page_tables.add(page // HUGE_PAGES)
        return len(range(lo, hi, step))

    def _do_mprotect(self, off: int, len: int, prot: str) -> None:
        if not _mapped(self.mapping, "mmap").change(off, len, prot=prot):
            raise OSError(errno.ENOMEM, "Part of the range is not mapped")

    def _do_mlock(self, off: int, len: int) -> None:
        """Kernel: do_mlock(), mm/mlock.c: what can be locked is, and then every page of it is faulted in."""
        mapping = _mapped(self.mapping, "mmap")
        if not mapping.change(off, len, locked=True):
            raise OSError(errno.ENOMEM, "Part of the range is not mapped")
        try:
            self._load(mapping, off // PAGE, -(-(off + len) // PAGE))
        except _SigBus:
            raise OSError(errno.ENOMEM, "Part of the range lies behind the end of the file") from None

    def _do_munlock(self, off: int, len: int) -> None:
        if not _mapped(self.mapping, "mmap").change(off, len, locked=False):
            raise OSError(errno.ENOMEM, "Part of the range is not mapped")

    # Advice --------------------------------------------------------------------------------------------------

    def _do_madvise(self, advice: str, off: int, len: int) -> None:
        mapping = _mapped(self.mapping, "mmap")
        pieces, whole = mapping.over(off, len)
        for piece in pieces:
            if advice == "MADV_REMOVE":
                if piece.locked:
                    raise OSError(errno.EINVAL, "Locked memory cannot be removed")
                if "w" not in piece.prot:
                    raise OSError(errno.EACCES, "A mapping that cannot be written")
                self.file.punch_hole(piece.start, piece.end - piece.start)
            elif advice == "MADV_DONTNEED":
                if piece.locked:
                    raise OSError(errno.EINVAL, "Locked memory is needed")
            else:
                raise NotExpressed(f"madvise {advice}")
        if not whole:
            raise OSError(errno.ENOMEM, "Part of the range is not mapped")

    def _do_madvise_collapse(self, off: int, len: int) -> None:
        self._madvise_collapse(_mapped(self.mapping, "mmap"), off, len)

    def _do_madvise_collapse_map2(self, off: int, len: int) -> None:
        self._madvise_collapse(_mapped(self.mapping2, "mmap2"), off, len)

    def _madvise_collapse(self, mapping: FileMapping, off: int, length: int) -> None:
        self.machine.memory.lru.drain_all()
        number = mapping.madvise_collapse(off, length, self._collapse)
        if number:
            raise OSError(number, "MADV_COLLAPSE")

    def _collapse(self, start: int) -> ScanResult:
        if self.kernel.version < (6, 4) and start // HUGE_PAGES not in self._page_tables:
            raise NotExpressed("MADV_COLLAPSE without a page table, which 6.1 reports as an error")
        status = self.machine.collapse(self.file, start, self.strategy).status
        self.statuses.append(status)
        return status

    # References ----------------------------------------------------------------------------------------------

    def _do_vmsplice_pin(self, page: int) -> int:
        try:
            self._load(_mapped(self.mapping, "mmap"), page, page + 1)
        except _SigBus:
            raise OSError(errno.EFAULT, "Nothing can be mapped there") from None
        self._pins.append(self.file.pin(page))
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


def _mapped(mapping: FileMapping | None, by: str) -> FileMapping:
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
