# SPDX-License-Identifier: GPL-2.0-only
"""Random system calls on a file on a disk against plain bytes; invariants after each.

What a purge drops is not lost as long as nothing else than the kernel of 6.1 and 6.4 collapses: B45.
"""

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mmref import Machine
from mmref.khugepaged import ScanResult
from mmref.pagecache import BusError

PAGE = 512
NR = 4
PAGES = 4 * NR
pages = st.integers(0, PAGES - 1)


class FileOnDiskMachine(RuleBasedStateMachine):
    """The truth is the bytes; where the old kernels may have lost dirty data, either content is right."""

    @initialize(kernel=st.sampled_from(["6.1", "6.4", "6.12", "6.18"]), size=st.integers(0, PAGES * PAGE))
    def setup(self, kernel, size):
        self.machine = Machine(order=2, chunk_shift=2, page_size=PAGE, kernel=kernel)
        self.bytes = bytearray(page % 251 + 1 for page in range(size))
        self.file = self.machine.ro_file("f", bytes(self.bytes))
        self.writers = []
        self.pins = []
        self.at = None
        self.dirty = False  # written since the last flush

    @rule()
    def open_for_write(self):
        lossy = self.dirty and self.file.mapping.nr_thps and self.machine.kernel in ("6.1", "6.4")
        self.writers.append(self.file.open_for_write())
        assert self.file.mapping.nr_thps == 0
        if lossy:  # B45: take what is there now for true
            self.bytes[:] = self.file.read(0, self.file.size)

    @precondition(lambda self: self.writers)
    @rule()
    def close(self):
        self.writers.pop()()

    @precondition(lambda self: self.writers)
    @rule(page=pages, byte=st.integers(1, 255), length=st.sampled_from([7, PAGE, PAGE + 9]), offset=st.integers(0, 9))
    def write(self, page, byte, length, offset):
        start, content = page * PAGE + offset, bytes([byte]) * length
        self.file.write(start, content)
        self.bytes.extend(bytes(max(0, start + length - len(self.bytes))))
        self.bytes[start : start + length] = content
        self.dirty = True

    @rule(start=st.integers(0, PAGES * PAGE), length=st.integers(0, 3 * PAGE), random=st.booleans())
    def read(self, start, length, random):
        assert self.file.inode.file_read(start, length, 1 if random else 32) == self.bytes[start : start + length]

    @rule(size=st.integers(0, PAGES * PAGE))
    def truncate(self, size):
        self.file.truncate(size)
        del self.bytes[size:]
        self.bytes.extend(bytes(size - len(self.bytes)))

    @precondition(lambda self: self.writers)
    @rule(start=st.integers(0, PAGES * PAGE), length=st.integers(1, 6 * PAGE))
    def punch(self, start, length):
        self.file.punch_hole(start, length)
        end = min(start + length, len(self.bytes))
        if start < end:
            self.bytes[start:end] = bytes(end - start)

    @precondition(lambda self: self.writers)
    @rule(start=st.integers(0, PAGES * PAGE), length=st.integers(1, 6 * PAGE), keep=st.booleans())
    def fallocate(self, start, length, keep):
        self.file.fallocate(start, length, keep)
        if not keep:
            self.bytes.extend(bytes(max(0, start + length - len(self.bytes))))

    @rule()
    def fsync(self):
        self.file.fsync()
        self.dirty = False

    @rule()
    def drop(self):
        self.file.fadvise_dontneed()

    @rule(first=pages, nr=st.integers(1, PAGES))
    def reclaim(self, first, nr):
        self.file.swap_out(first, nr)

    @rule(start=st.sampled_from(range(0, PAGES, NR)), slow=st.booleans())
    def collapse(self, start, slow):
        # From 6.12 on the collapse waits for what it has flushed, and here is nobody to end a write meanwhile.
        self.file.inode.slow_io = slow and self.machine.kernel in ("6.1", "6.4")
        result = self.machine.collapse(self.file, start)
        self.file.inode.complete_io()
        self.file.inode.slow_io = False
        if self.writers:
            assert result.status is not ScanResult.SUCCEED

    @rule(shared=st.booleans(), prot=st.sampled_from(["r", "rx", "rw", "rwx"]))
    def mmap(self, shared, prot):
        if shared and "w" in prot and not self.writers:
            prot = "r"
        if self.at is not None:
            self.machine.process().munmap(self.at, PAGES * PAGE)
        self.at = self.file.mmap(PAGES * PAGE, prot=prot, shared=shared)
        self.shared, self.prot, self.copies = shared, prot, {}

    @precondition(lambda self: self.at is not None)
    @rule(page=pages)
    def load(self, page):
        try:
            seen = self.machine.process().read(self.at + page * PAGE, PAGE)
        except BusError:
            assert page * PAGE >= len(self.bytes)
            return
        live = len(self.bytes) - page * PAGE
        assert live > 0
        there = self.copies.get(page, bytes(self.bytes[page * PAGE : (page + 1) * PAGE]))
        assert seen[:live] == there[:live]

    @precondition(lambda self: self.at is not None and "w" in self.prot)
    @rule(page=pages, byte=st.integers(1, 255))
    def store(self, page, byte):
        if (page + 1) * PAGE > len(self.bytes):
            return
        content = bytes([byte]) * 5
        self.machine.process().write(self.at + page * PAGE + 3, content)
        if self.shared:
            self.bytes[page * PAGE + 3 : page * PAGE + 8] = content
            self.dirty = True
        else:
            old = self.copies.get(page, bytes(self.bytes[page * PAGE : (page + 1) * PAGE]))
            self.copies[page] = old[:3] + content + old[8:]

    @precondition(lambda self: self.at is not None)
    @rule(first=pages, nr=st.integers(1, PAGES), advice=st.sampled_from(["MADV_COLLAPSE", "MADV_COLD", "MADV_PAGEOUT"]))
    def madvise(self, first, nr, advice):
        with suppress(OSError):
            self.machine.process().madvise(advice, self.at + first * PAGE, min(nr, PAGES - first) * PAGE)

    @rule(page=pages)
    def pin(self, page):
        with suppress(OSError):
            self.pins.append(self.file.pin(page))

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self):
        self.pins.pop()()

    @invariant()
    def agrees(self):
        if not hasattr(self, "file"):
            return
        self.machine.check()
        assert self.file.size == len(self.bytes)
        if self.at is not None:
            self.copies = {page: copy for page, copy in self.copies.items() if page * PAGE < len(self.bytes)}

    def teardown(self):
        if not hasattr(self, "file"):
            return
        assert self.file.read(0, self.file.size) == self.bytes
        while self.pins:
            self.pins.pop()()
        if self.at is not None:
            self.machine.process().munmap(self.at, PAGES * PAGE)
        self.file.truncate(0)
        self.machine.memory.lru.drain_all()
        self.machine.check()
        assert self.machine.memory.allocator.allocated == 0, "nothing is left behind"


TestFileOnDiskMachine = FileOnDiskMachine.TestCase
TestFileOnDiskMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
