# SPDX-License-Identifier: GPL-2.0-only
"""Run a program on this machine's own kernel.

A forked child does the system calls on a memfd of its own, one operation at a time, and answers with what it saw;
whatever happens to it (a signal, a hang) is an answer too. Nothing outside the child is changed: no global setting,
no privilege, no file with a name.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import resource
import select
import signal
import struct
import time
import warnings
from types import TracebackType
from typing import Any, NoReturn

from mmref.errors import MmrefError, UsageError
from mmref.live import syscalls, uffd
from mmref.live.observation import SMAPS, Observation, StepResult, content_tags, page_content, runs
from mmref.live.program import HUGE, HUGE_PAGES, PAGE, Op, Program

__all__ = ["CannotRun", "ChildDied", "KernelFile", "KernelProcess", "run_on_kernel"]

MAPPINGS = 0x20_0000_0000
"""Where the first main mapping goes: low, where neither libraries nor the heap are, so that nothing adjoins it."""

MAPPING_STRIDE = 1 << 30
"""Distance of one mapping from the next (bytes)."""


class ChildDied(MmrefError):
    """The child that does the system calls was killed, exited or hung.

    Attributes:
        reason: what happened, for example "killed by SIGBUS".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"The process that ran the program {reason}")
        self.reason = reason


class CannotRun(MmrefError):
    """The kernel would refuse this to this user, whatever the file is like (a resource limit)."""


class KernelFile:
    """A memfd, its mappings and its pins in this process: one method per operation, as `_do_NAME`."""

    fd: int

    def __init__(self) -> None:
        self.base = 0
        self.span: tuple[int, int] | None = None  # of the main mapping: address and length
        self.base2 = 0
        self.span2: tuple[int, int] | None = None
        self.mapped = 0
        self.ranges = 1
        self.pipes: list[int] = []
        self.watch: uffd.Watch | None = None
        self.watched = 0
        self.watched_span = (0, 0)
        self.reader, self.writer = os.pipe()

    def step(self, op: Op) -> StepResult:
        """Do one operation, and look at the file."""
        result: StepResult = {"ret": 0, "errno": "0"}
        try:
            returned: int | None = getattr(self, "_do_" + op.name)(**op.args)
            if returned is not None:
                result["ret"] = returned
        except _SigBus as stopped:
            result["ret"] = stopped.done
            result["sigbus"] = 1
        except OSError as error:
            result["ret"] = -1
            result["errno"] = errno.errorcode.get(error.errno or 0, str(error.errno))
        result["observe"] = self.observe()
        return result

    def observe(self) -> Observation:
        """Look at the file without changing it."""
        stat = os.fstat(self.fd)
        self.ranges = max(self.ranges, -(-stat.st_size // HUGE))
        content, mixed = content_tags(os.pread(self.fd, stat.st_size, 0))
        address = syscalls.mmap(0, self.ranges * HUGE, "r", False, self.fd, 0)
        try:
            resident = syscalls.mincore(address, self.ranges * HUGE_PAGES)
        finally:
            syscalls.munmap(address, self.ranges * HUGE)
        seen: Observation = {
            "size": stat.st_size,
            "blocks": stat.st_blocks,
            "data": self.data_extents(stat.st_size),
            "core_cache": [run[:2] for run in runs(resident, False)],
            "content": content,
            "mixed": mixed,
        }
        if self.span is not None:
            first = (self.span[0] - self.base) // PAGE
            seen["core_vma"] = _shifted(runs(syscalls.mincore(self.span[0], -(-self.span[1] // PAGE)), False), first)
            seen["pte_present"] = _shifted(runs(_present(*self.span), False), first)
            seen["smaps"] = _smaps(*self.span)
        if self.span2 is not None:
            first = (self.span2[0] - self.base2) // PAGE
            seen["vma2_pte_present"] = _shifted(runs(_present(*self.span2), False), first)
        return seen

    def data_extents(self, size: int) -> list[list[int]]:
        """Walk the file with SEEK_DATA and SEEK_HOLE."""
        extents: list[list[int]] = []
        end = 0
        while end < size:
            try:
                start = os.lseek(self.fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            end = os.lseek(self.fd, start, os.SEEK_HOLE)
            extents.append([start, end])
        return extents

    # The file ------------------------------------------------------------------------------------------------

    def _do_memfd(self, size: int) -> None:
        self.fd = os.memfd_create("mmref", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)

    def _do_pwrite_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> int:
        for page in range(lo, hi, step):
            os.pwrite(self.fd, page_content(page, gen), page * PAGE)
        return len(range(lo, hi, step))

    def _do_pread(self, off: int, len: int) -> int:
        return os.pread(self.fd, len, off).__len__()

    def _do_fallocate(self, mode: str, off: int, len: int) -> None:
        syscalls.fallocate(self.fd, mode, off, len)

    def _do_ftruncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def _do_observe(self) -> None:
        pass

    # Mappings ------------------------------------------------------------------------------------------------

    def _map(self, len: int, off: int, prot: str, flags: str, skew: int) -> int:
        """Map the file; returns the address that stands for offset 0 of it."""
        span = MAPPINGS + self.mapped * MAPPING_STRIDE
        self.mapped += 1
        address = span + off % HUGE + skew
        syscalls.mmap(address, len, prot, flags == "private", self.fd, off)
        self.ranges = max(self.ranges, -(-(off + len) // HUGE))
        return address - off

    def _do_mmap(self, len: int, off: int = 0, prot: str = "rw", flags: str = "shared", skew: int = 0) -> None:
        self.base = self._map(len, off, prot, flags, skew)
        self.span = self.base + off, len

    def _do_mmap2(self, len: int, off: int = 0, prot: str = "rw", flags: str = "shared") -> None:
        self.base2 = self._map(len, off, prot, flags, 0)
        self.span2 = self.base2 + off, len

    def _do_munmap2(self) -> None:
        syscalls.munmap(*_mapped(self.span2, "mmap2"))
        self.span2 = None

    def _do_map_read_pages(self, lo: int, hi: int) -> int:
        _mapped(self.span, "mmap")
        return self._load(self.base, lo, hi)

    def _do_map2_read_pages(self, lo: int, hi: int) -> int:
        _mapped(self.span2, "mmap2")
        return self._load(self.base2, lo, hi)

    def _do_touch_first_data(self, page: int) -> None:
        if page >= 0:
            self._do_map_read_pages(page, page + 1)

    def _load(self, base: int, lo: int, hi: int) -> int:
        for page in range(lo, hi):
            try:
                syscalls.write_from(self.writer, base + page * PAGE, 1)
            except OSError as error:
                raise (_SigBus(page - lo) if error.errno == errno.EFAULT else error) from None
            os.read(self.reader, 1)
        return hi - lo

    def _do_map_write_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> int:
        _mapped(self.span, "mmap")
        for done, page in enumerate(range(lo, hi, step)):
            os.write(self.writer, page_content(page, gen))
            try:
                syscalls.read_into(self.reader, self.base + page * PAGE, PAGE)
            except OSError as error:
                os.read(self.reader, PAGE)
                raise (_SigBus(done) if error.errno == errno.EFAULT else error) from None
        return len(range(lo, hi, step))

    def _do_mprotect(self, off: int, len: int, prot: str) -> None:
        _mapped(self.span, "mmap")
        syscalls.mprotect(self.base + off, len, prot)

    def _do_mlock(self, off: int, len: int) -> None:
        _, length = _mapped(self.span, "mmap")
        limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        try:
            syscalls.mlock(self.base + off, len)
        except OSError as error:
            if os.geteuid() and 0 <= limit < length and error.errno in (errno.ENOMEM, errno.EPERM, errno.EAGAIN):
                raise CannotRun(f"RLIMIT_MEMLOCK is {limit} bytes; allow at least {length} (ulimit -l).") from None
            raise

    def _do_munlock(self, off: int, len: int) -> None:
        _mapped(self.span, "mmap")
        syscalls.munlock(self.base + off, len)

    # Advice --------------------------------------------------------------------------------------------------

    def _do_madvise(self, advice: str, off: int, len: int) -> None:
        _mapped(self.span, "mmap")
        if advice not in syscalls.MADVICE:
            raise UsageError(f"{advice!r} is not an advice; known are {', '.join(syscalls.MADVICE)}.")
        syscalls.madvise(self.base + off, len, advice)

    def _do_madvise_collapse(self, off: int, len: int) -> None:
        self._do_madvise("MADV_COLLAPSE", off, len)

    def _do_madvise_collapse_map2(self, off: int, len: int) -> None:
        _mapped(self.span2, "mmap2")
        syscalls.madvise(self.base2 + off, len, "MADV_COLLAPSE")

    # userfaultfd -------------------------------------------------------------------------------------------------

    def _do_uffd_register(self, mode: str, vma: int) -> None:
        address, length = _mapped(self.span, "mmap") if vma == 1 else _mapped(self.span2, "mmap2")
        try:
            self.watch = uffd.Watch(address, length, mode)
        except uffd.NoUserfaultfd as error:
            raise CannotRun(str(error)) from None
        self.watched = self.base if vma == 1 else self.base2
        self.watched_span = address, length

    def _do_uffd_touch(self, page: int, write: int) -> int:
        if self.watch is None:
            raise UsageError("Nothing is watched yet; put uffd_register(mode=..., vma=1) before it.")
        address, length = self.watched_span
        offset = self.watched + page * PAGE
        if not address <= offset < address + length or page * PAGE >= os.fstat(self.fd).st_size:
            raise UsageError(f"Page {page} is not mapped there, or behind the end of the file; choose another one.")
        events, _ = self.watch.touch(offset, bool(write))
        return events

    # References ----------------------------------------------------------------------------------------------

    def _do_vmsplice_pin(self, page: int) -> int:
        _mapped(self.span, "mmap")
        reader, writer = os.pipe()
        self.pipes += reader, writer
        return syscalls.vmsplice(writer, self.base + page * PAGE, PAGE)

    def _do_splice_file_to_pipe(self, page: int) -> int:
        reader, writer = os.pipe()
        self.pipes += reader, writer
        return os.splice(self.fd, writer, PAGE, offset_src=page * PAGE)

    def _do_pipe_close(self) -> None:
        while self.pipes:
            os.close(self.pipes.pop())


def _shifted(found: list[list[Any]], by: int) -> list[list[int]]:
    return [[first + by, behind + by] for first, behind, _ in found]


def _present(address: int, length: int) -> list[bool]:
    """Ask which pages of a mapping the page tables have. Kernel: pagemap_read(), fs/proc/task_mmu.c."""
    pages = -(-length // PAGE)
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), pages * 8, address // PAGE * 8)
    return [bool(entry >> 63) for (entry,) in struct.iter_unpack("=Q", entries)]


def _smaps(address: int, length: int) -> dict[str, int]:
    """Add up what /proc/self/smaps says of a mapping (kB)."""
    found = dict.fromkeys(SMAPS, 0)
    inside = False
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as lines:  # by address: ours come first
        for line in lines:
            key, _, value = line.partition(":")
            if "-" in key:
                start = int(key.partition("-")[0], 16)
                if start >= address + length:
                    break
                inside = start >= address
            elif inside and key in found:
                found[key] += int(value.split()[0])
    return found


class _SigBus(Exception):
    """A store or a load would have raised SIGBUS."""

    def __init__(self, done: int) -> None:
        self.done = done


def _mapped(span: tuple[int, int] | None, by: str) -> tuple[int, int]:
    if span is None:
        raise UsageError(f"Nothing is mapped yet; put {by}(len=...) before it.")
    return span


# The child -----------------------------------------------------------------------------------------------------


class KernelProcess:
    """A child process that does operations on the running kernel, one after the other.

    Use it as a context manager: at its end the child is gone, whatever happened.

    Args:
        timeout: how long one operation may take (seconds).
    """

    def __init__(self, timeout: float = 20.0) -> None:
        self.timeout = timeout
        self._requests, theirs_in = _pipe_for_writing()
        self._answers, theirs_out = os.pipe()
        with warnings.catch_warnings():
            # The child does nothing but system calls and never takes a lock that another thread may have held.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if not self._pid:
            with contextlib.suppress(BaseException):
                os.close(self._requests)
                os.close(self._answers)
                _serve(theirs_in, theirs_out)
            os._exit(1)
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""

    def __enter__(self) -> KernelProcess:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def step(self, op: Op) -> StepResult:
        """Let the child do one operation.

        Raises:
            ChildDied: it was killed, exited, or took too long.
            CannotRun: this user is not allowed to.
            UsageError: the operation cannot be done here (nothing mapped yet).
        """
        try:
            os.write(self._requests, json.dumps(op).encode() + b"\n")
        except BrokenPipeError:
            raise ChildDied(self._end()) from None
        answer = json.loads(self._line())
        if "refused" in answer:
            raise {"UsageError": UsageError, "CannotRun": CannotRun}[answer["refused"]](answer["why"])
        if "failed" in answer:
            raise ChildDied(f"failed on {op}: {answer['failed']}")
        result: StepResult = answer
        return result

    def _line(self) -> bytes:
        deadline = time.monotonic() + self.timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                os.kill(self._pid, signal.SIGKILL)
                self._end()
                raise ChildDied(f"did not answer within {self.timeout:g} seconds")
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise ChildDied(self._end())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _end(self) -> str:
        """Wait for the child, and say what became of it."""
        if not self._pid:
            return "has ended"
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if os.WIFSIGNALED(status):
            return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exited with status {os.waitstatus_to_exitcode(status)}"

    def close(self) -> None:
        """End the child; its file and mappings go with it."""
        if self._requests < 0:
            return
        os.close(self._requests)
        os.close(self._answers)
        self._requests = self._answers = -1
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._end()


def _pipe_for_writing() -> tuple[int, int]:
    reader, writer = os.pipe()
    return writer, reader


def _serve(requests: int, answers: int) -> NoReturn:
    """Answer requests until there are no more: what the child does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})  # what waits in a batch of another CPU holds references
    faulthandler.disable()  # a signal that ends the child is reported by the parent
    file = KernelFile()
    with os.fdopen(requests) as lines:
        for line in lines:
            try:
                answer: Any = file.step(Op(*json.loads(line)))
            except (UsageError, CannotRun) as refused:
                answer = {"refused": type(refused).__name__, "why": str(refused)}
            except Exception as error:
                answer = {"failed": f"{type(error).__name__}: {error}"}
            os.write(answers, json.dumps(answer).encode() + b"\n")
    os._exit(0)


def run_on_kernel(program: Program, timeout: float = 20.0) -> list[StepResult]:
    """Run a program on the running kernel.

    Args:
        program: what to run.
        timeout: how long one operation may take (seconds).

    Returns:
        one result per operation. If the child died, the last one has only `died`, and those after it are missing.

    Raises:
        UsageError: the program cannot run (see `Program.check()`).
        CannotRun: this user is not allowed to.
    """
    results: list[StepResult] = []
    with KernelProcess(timeout) as process:
        for op in program.check():
            try:
                results.append(process.step(op))
            except ChildDied as died:
                results.append({"died": died.reason})
                break
    return results
