# SPDX-License-Identifier: GPL-2.0-only
"""Random system calls of two processes on a file on tmpfs, with swap, against plain bytes; invariants after each."""

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mmref import Machine
from mmref.pagecache import BusError, SegmentationFault

PAGE = 512
NR = 4
PAGES = 3 * NR
SIZE = PAGES * PAGE
pages = st.integers(0, PAGES - 1)
who = st.sampled_from(["self", "peer"])
ADVICE = ["MADV_COLLAPSE", "MADV_PAGEOUT", "MADV_COLD", "MADV_HUGEPAGE", "MADV_NOHUGEPAGE", "MADV_DONTNEED"]


class ProcessMachine(RuleBasedStateMachine):
    """The truth is the bytes of the file, those of each private copy, and which pages may be holes."""

    @initialize(kernel=st.sampled_from(["6.1", "6.4", "6.12", "6.18"]), swap=st.sampled_from([None, 2, 64]),
                cluster=st.integers(0, 2))  # fmt: skip
    def setup(self, kernel, swap, cluster):
        self.machine = Machine(order=2, chunk_shift=2, page_size=PAGE, kernel=kernel)
        if swap is not None:
            self.machine.swapon(swap, cluster)
        self.file = self.machine.shmem_file("f", SIZE)
        self.size = SIZE
        self.bytes = bytearray(SIZE)
        self.maps = {}  # process -> (address, shared, copies)
        self.pins = []
        self.missing = {}
        for name in ("self", "peer"):
            self.machine.process(name)

    def written(self, start, content):
        self.bytes[start : start + len(content)] = content

    @rule(page=pages, byte=st.integers(1, 255), length=st.sampled_from([7, PAGE, PAGE + 9]))
    def write(self, page, byte, length):
        content = bytes([byte]) * min(length, max(self.size - page * PAGE, 0))
        if content:
            self.file.write(page * PAGE, content)
            self.written(page * PAGE, content)

    @rule(first=pages, nr=st.integers(1, PAGES), keep=st.booleans())
    def fallocate(self, first, nr, keep):
        self.file.fallocate(first * PAGE, nr * PAGE, keep_size=keep)
        if not keep:
            self.size = max(self.size, (first + nr) * PAGE)
            self.bytes.extend(bytes(self.size - len(self.bytes)))

    @rule(first=pages, nr=st.integers(1, PAGES))
    def punch(self, first, nr):
        self.file.punch_hole(first * PAGE, nr * PAGE)
        end = min((first + nr) * PAGE, self.size)
        if first * PAGE < end:
            self.bytes[first * PAGE : end] = bytes(end - first * PAGE)

    @rule(size=st.integers(0, SIZE))
    def truncate(self, size):
        self.file.truncate(size)
        self.size = size
        del self.bytes[size:]
        self.bytes.extend(bytes(size - len(self.bytes)))
        for _, _, copies in self.maps.values():  # private copies behind the end are gone, too
            for page in [page for page in copies if page * PAGE >= size]:
                del copies[page]

    @rule(name=who, shared=st.booleans(), skew=st.sampled_from([0, 0, PAGE]))
    def mmap(self, name, shared, skew):
        if name in self.maps:
            self.machine.process(name).munmap(self.maps.pop(name)[0], SIZE)
            self.missing.pop(name, None)
        self.maps[name] = self.file.mmap(SIZE, shared=shared, skew=skew, process=self.machine.process(name)), shared, {}

    def mapped(self, data):
        name = data.draw(st.sampled_from(sorted(self.maps)))
        return name, self.machine.process(name), *self.maps[name]

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), page=pages)
    def load(self, data, page):
        _, process, at, _, copies = self.mapped(data)
        try:
            seen = process.read(at + page * PAGE, PAGE)
        except BusError:
            assert page * PAGE >= self.size
            return
        there = bytes(self.bytes[page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0")
        expected = copies.get(page, there)
        live = min(PAGE, max(self.size - page * PAGE, 0))
        if not live:  # a huge page of tmpfs stays mapped across the end of the file
            assert self.file.mapping.i_pages.get_order(page) > 0
            return
        assert seen[:live] == expected[:live]

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), page=pages, byte=st.integers(1, 255))
    def store(self, data, page, byte):
        _, process, at, shared, copies = self.mapped(data)
        content = bytes([byte]) * 5
        if page not in copies and (page + 1) * PAGE > self.size:
            return  # a store behind the end of the file, in its last page or huge page, may come back later
        process.write(at + page * PAGE + 3, content)
        if shared:
            self.written(page * PAGE + 3, content)
            return
        old = copies.get(page, bytes(self.bytes[page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0"))
        copies[page] = old[:3] + content + old[8:]

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), first=pages, nr=st.integers(1, PAGES), advice=st.sampled_from(ADVICE))
    def madvise(self, data, first, nr, advice):
        _, process, at, _, copies = self.mapped(data)
        nr = min(nr, PAGES - first)
        with suppress(OSError):
            process.madvise(advice, at + first * PAGE, nr * PAGE)
        if advice == "MADV_DONTNEED":
            for page in range(first, first + nr):
                copies.pop(page, None)

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), first=pages, nr=st.integers(1, PAGES), prot=st.sampled_from(["r", "rw"]))
    def mprotect(self, data, first, nr, prot):
        _, process, at, _, _ = self.mapped(data)
        process.mprotect(at + first * PAGE, min(nr, PAGES - first) * PAGE, prot)
        if prot == "r":
            try:
                process.write(at + first * PAGE, b"x")
            except (SegmentationFault, BusError):
                pass
            else:
                raise AssertionError("written though read-only")
        process.mprotect(at, PAGES * PAGE, "rw")

    @precondition(lambda self: self.maps)
    @rule(data=st.data())
    def mlock(self, data):
        _, process, at, shared, copies = self.mapped(data)
        with suppress(OSError):
            process.mlock(at, PAGES * PAGE)
        process.munlock(at, PAGES * PAGE)
        if not shared:  # it makes private copies of what is writable
            for page, kind in enumerate(process.mm.pagemap(at, PAGES * PAGE)):
                if kind == "anon":
                    content = bytes(self.bytes[page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0")
                    copies.setdefault(page, content)

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), page=pages)
    def pin(self, data, page):
        _, process, at, _, _ = self.mapped(data)
        with suppress(OSError):
            self.pins.append(process.vmsplice(at + page * PAGE))

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self):
        self.pins.pop()()

    @rule(first=pages, nr=st.integers(1, PAGES))
    def swap_out(self, first, nr):
        self.file.swap_out(first, nr)

    @rule(full_scans=st.integers(1, 3))
    def khugepaged(self, full_scans):
        self.machine.khugepaged.set("shmem_enabled", "always")
        for name, (at, _, _) in self.maps.items():
            vma = self.machine.process(name).mm.find_vma(at)
            self.machine.khugepaged.enter_vma(vma, True)
        self.machine.khugepaged_run(full_scans)

    @rule(start=st.sampled_from(range(0, PAGES, NR)),
          strategy=st.sampled_from(["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"]))  # fmt: skip
    def collapse(self, start, strategy):
        self.machine.collapse(self.file, start, strategy)

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), modes=st.sampled_from([("missing",), ("minor",), ("wp",), ("missing", "wp"), ()]))
    def userfaultfd(self, data, modes):
        name, process, at, shared, _ = self.mapped(data)
        if not shared:
            return
        monitor = self.missing.get(name)
        if monitor is None:

            def serve(event):
                serving = {
                    "missing": monitor.zeropage,
                    "minor": monitor.resume,
                    "wp": lambda address: monitor.writeprotect(address, PAGE, protect=False),
                }
                serving[event.reason](event.address)

            monitor = self.missing[name] = process.userfaultfd()
            monitor.handler = serve
        if modes:
            monitor.register(at, PAGES * PAGE, *modes)
            if "wp" in modes:
                monitor.writeprotect(at, 2 * PAGE)
        else:
            monitor.unregister(at, PAGES * PAGE)

    @rule(name=who)
    def exit(self, name):
        if name in self.maps and not self.pins:
            process = self.machine.process(name)
            process.munmap(self.maps.pop(name)[0], PAGES * PAGE)
            self.missing.pop(name, None)

    @invariant()
    def agrees(self):
        if not hasattr(self, "file"):
            return
        self.machine.check()
        assert self.file.size == self.size

    @rule()
    def read_all(self):
        assert self.file.read(0, self.size) == bytes(self.bytes)
        for extent in self.file.data_extents():
            assert extent[0] < extent[1]

    def teardown(self):
        if not hasattr(self, "file"):
            return
        assert self.file.read(0, self.size) == bytes(self.bytes)
        while self.pins:
            self.pins.pop()()
        for name, (at, _, _) in self.maps.items():
            self.machine.process(name).munmap(at, PAGES * PAGE)
        self.file.truncate(0)
        self.machine.memory.lru.drain_all()
        self.machine.check()
        swap = self.machine.memory.swap
        cached = len(swap.cached()) if swap else 0
        assert self.machine.memory.allocator.allocated == cached, "nothing is left behind"


TestProcessMachine = ProcessMachine.TestCase
TestProcessMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
