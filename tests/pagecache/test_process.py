# SPDX-License-Identifier: GPL-2.0-only
"""Processes: mappings, faults, private copies, locked memory, and what MADV_COLLAPSE makes of page tables."""

import errno

import pytest

from mmref import Machine
from mmref.errors import UsageError
from mmref.khugepaged import ScanResult
from mmref.pagecache import BusError, HugePmd, PageTable, SegmentationFault

PAGE = 512
KERNELS = ["6.1", "6.4", "6.12", "6.18"]


@pytest.fixture(params=KERNELS)
def machine(request):
    return Machine(order=3, page_size=PAGE, kernel=request.param)


def filled(machine, pages=8, size=None):
    file = machine.shmem_file("f", (size or pages) * PAGE)
    for page in range(pages):
        file.write(page * PAGE, bytes([page + 1]) * PAGE)
    return file


def test_a_read_fault_maps_what_is_in_the_cache_around(machine):
    file = filled(machine, 6, 8)
    self = machine.process()
    at = file.mmap()
    assert self.read(at + PAGE, 2) == b"\2\2"
    assert self.mm.pagemap(at, 8 * PAGE) == ["file"] * 6 + ["none"] * 2, "the hole is not mapped"
    assert self.mm.rss(at, 8 * PAGE) == 6
    machine.check()
    assert self.read(at + 7 * PAGE, 1) == b"\0", "touching the hole fills it"
    assert file.mincore() == [True] * 6 + [False, True]
    machine.check()


def test_a_write_fault_maps_one_page_and_writes_the_file(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.write(at + 3 * PAGE + 5, b"hello")
    assert self.mm.pagemap(at, 8 * PAGE) == ["none"] * 3 + ["file"] + ["none"] * 4
    assert file.read(3 * PAGE + 4, 7) == b"\4hello\4"
    machine.check()


def test_a_private_write_copies(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap(shared=False)
    assert self.read(at, 1) == b"\1"
    self.write(at, b"mine")
    assert (self.read(at, 4), file.read(0, 4)) == (b"mine", b"\1\1\1\1")
    assert self.mm.pagemap(at, PAGE) == ["anon"]
    machine.check()
    file.write(0, b"file")
    assert self.read(at, 4) == b"mine"
    file.punch_hole(0, PAGE)
    assert self.read(at, 4) == b"mine", "a punch leaves private copies"
    machine.check()
    file.truncate(0)
    with pytest.raises(BusError):
        self.read(at, 1)
    machine.check()


def test_outside(machine):
    file = filled(machine, 4)
    self = machine.process()
    at = file.mmap(8 * PAGE, prot="r")
    with pytest.raises(BusError, match="SIGBUS"):
        self.read(at + 4 * PAGE, 1)
    with pytest.raises(SegmentationFault, match="read-only"):
        self.write(at, b"x")
    with pytest.raises(SegmentationFault, match="nothing is mapped"):
        self.read(at - 1, 1)
    self.munmap(at, 8 * PAGE)
    with pytest.raises(SegmentationFault):
        self.read(at, 1)
    machine.check()


@pytest.mark.parametrize("touched", [False, True])
def test_collapse_maps_the_huge_page_where_a_page_table_was(machine, touched):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    if touched:
        self.read(at, 1)
    old = machine.kernel in ("6.1", "6.4")
    if old and not touched:
        with pytest.raises(OSError) as refused:
            file.madvise_collapse()
        assert refused.value.errno == errno.EINVAL
        assert machine.khugepaged.trace[-1].result is ScanResult.PMD_NONE
        assert self.mm.pagemap(at, 8 * PAGE) == ["none"] * 8
    else:
        file.madvise_collapse()
        assert self.mm.pagemap(at, 8 * PAGE) == ["pmd"] * 8
    assert file.mapping.i_pages.get_order(0) == 3, "the page cache has been collapsed in any case"
    machine.check()
    file.madvise_collapse()
    assert self.mm.pagemap(at, 8 * PAGE) == ["pmd"] * 8, "the second call maps it"
    assert [self.read(at + page * PAGE, 1)[0] for page in range(8)] == list(range(1, 9))
    machine.check()
    file.punch_hole(2 * PAGE, PAGE)
    assert self.mm.pagemap(at, 8 * PAGE) == ["none"] * 8, "splitting takes the PMD away"
    assert self.read(at + 2 * PAGE, 1) == b"\0"
    machine.check()


def test_other_processes(machine):
    file = filled(machine)
    at, there = file.mmap(), file.mmap(process=machine.process("peer"))
    self, peer = machine.process(), machine.process("peer")
    self.read(at, 1)
    peer.read(there, 1)
    assert peer.mm.rss(there, 8 * PAGE) == 8
    file.madvise_collapse()
    assert peer.mm.rss(there, 8 * PAGE) == 0, "the small pages are gone from everywhere"
    kept = machine.kernel in ("6.1", "6.4")
    assert isinstance(peer.mm.pmd(peer.mm.pmd_of(there)), PageTable) == kept, "v6.6 takes all page tables away"
    assert peer.read(there + PAGE, 1) == b"\2"
    assert isinstance(peer.mm.pmd(peer.mm.pmd_of(there)), HugePmd) != kept
    peer.madvise_collapse(there, 8 * PAGE)
    assert peer.mm.pagemap(there, 8 * PAGE) == ["pmd"] * 8
    machine.check()
    peer.exit()
    self.exit()
    machine.check()
    assert file.read(PAGE, 1) == b"\2"


def test_a_private_copy_keeps_the_page_table_though_the_cache_is_collapsed(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap(shared=False)
    self.write(at + 5 * PAGE, b"mine")
    with pytest.raises(OSError) as refused:
        file.madvise_collapse()
    assert refused.value.errno == errno.EINVAL
    assert file.mapping.i_pages.get_order(0) == 3
    assert self.mm.pagemap(at, 8 * PAGE)[5] == "anon"
    assert self.read(at + 5 * PAGE, 4) == b"mine"
    machine.check()


def test_mlock_faults_everything_in(machine):
    file = filled(machine, 3, 8)
    self = machine.process()
    at = file.mmap()
    self.mlock(at, 8 * PAGE)
    assert file.mincore() == [True] * 8
    self.madvise_collapse(at, 8 * PAGE)
    assert self.mincore(at, 8 * PAGE) == [True] * 8
    machine.check()


def test_a_vma_that_is_split_cannot_be_collapsed_until_it_is_whole_again(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.mlock(at, 2 * PAGE)
    assert len(self.mm.vmas) == 2
    with pytest.raises(OSError) as refused:
        self.madvise_collapse(at, 8 * PAGE)
    assert refused.value.errno == errno.EINVAL
    self.munlock(at, 2 * PAGE)
    assert len(self.mm.vmas) == 1
    self.madvise_collapse(at, 8 * PAGE)
    machine.check()


def test_a_vma_that_is_skewed_or_too_small(machine):
    file = filled(machine)
    for length, skew in ((8 * PAGE, PAGE), (7 * PAGE, 0)):
        at = file.mmap(length, skew=skew)
        with pytest.raises(OSError) as refused:
            machine.process().madvise_collapse(at, length)
        assert refused.value.errno == errno.EINVAL
        machine.process().munmap(at, length)
    machine.check()


def test_ranges_as_the_kernel_counts_them(machine):
    file = filled(machine, 16)
    self = machine.process()
    at = file.mmap(16 * PAGE)
    self.read(at, 1)
    self.read(at + 8 * PAGE, 1)
    for start, length, code in (
        (at, PAGE, 0), (at + PAGE, 8 * PAGE, 0), (at + PAGE, PAGE, errno.EINVAL), (at + 1, PAGE, errno.EINVAL),
        (at, 0, 0), (at + 16 * PAGE, 8 * PAGE, errno.ENOMEM), (at, 8 * PAGE, 0), (at, 32 * PAGE, errno.ENOMEM),
    ):  # fmt: skip
        if code:
            with pytest.raises(OSError) as refused:
                self.madvise_collapse(start, length)
            assert refused.value.errno == code, (start - at, length)
        else:
            self.madvise_collapse(start, length)
    assert self.mm.pagemap(at, 16 * PAGE) == ["pmd"] * 16
    machine.check()


def test_eagain_goes_on_and_an_empty_range_stops(machine):
    file = filled(machine, 32)
    self = machine.process()
    at = file.mmap(32 * PAGE)
    for page in range(0, 32, 8):
        self.read(at + page * PAGE, 1)
    unpin = self.vmsplice(at)
    file.punch_hole(16 * PAGE, 8 * PAGE)
    with pytest.raises(OSError) as refused:
        self.madvise_collapse(at, 32 * PAGE)
    assert refused.value.errno == errno.EINVAL, "the last failure's"
    orders = [file.mapping.i_pages.get_order(page) for page in range(0, 32, 8)]
    assert orders == [0, 3, 0, 0], "the pinned one is skipped, the empty one ends it"
    unpin()
    machine.check()


def test_nohugepage_and_prctl(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.read(at, 1)
    self.madvise("MADV_NOHUGEPAGE", at, 8 * PAGE)
    with pytest.raises(OSError, match="cannot have huge pages"):
        self.madvise_collapse(at, 8 * PAGE)
    machine.collapse(file, 0)
    self.read(at, 1)
    mapped = "pmd" if machine.kernel in ("6.1", "6.4") else "file"
    table = isinstance(self.mm.pmd(self.mm.pmd_of(at)), PageTable)
    assert self.mm.pagemap(at, PAGE) == (["file"] if table else [mapped])
    machine.check()


def test_a_write_through_the_tlb_is_seen_by_the_file(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.write(at, b"one")
    self.write(at, b"two")
    assert file.read(0, 3) == b"two"
    file.madvise_collapse()
    self.write(at, b"six")
    assert file.read(0, 3) == b"six", "the collapse has flushed the TLB"
    machine.check()


def test_gup_pins_the_page_behind_the_address(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    unpin = self.vmsplice(at + 2 * PAGE)
    with pytest.raises(OSError) as refused:
        file.madvise_collapse()
    assert refused.value.errno == errno.EAGAIN
    machine.check()
    unpin()
    file.madvise_collapse()
    unpin = self.vmsplice(at + 2 * PAGE)
    file.punch_hole(0, PAGE)
    assert file.mapping.i_pages.get_order(0) == 3, "a pinned huge page is not split"
    assert file.read(0, 1) == b"\0"
    unpin()
    machine.check()


@pytest.mark.parametrize("advice", ["MADV_DONTNEED", "MADV_COLD", "MADV_REMOVE"])
def test_advice_on_a_part_of_a_huge_page_splits_its_mapping(machine, advice):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.read(at, 1)
    file.madvise_collapse()
    self.madvise(advice, at, PAGE)
    assert self.mm.pagemap(at, 8 * PAGE) == ["none"] * 8
    assert self.read(at, 1) == (b"\0" if advice == "MADV_REMOVE" else b"\1")
    machine.check()


def test_broken_memory(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.read(at, 1)
    file.madvise_collapse()
    self.madvise("MADV_HWPOISON", at + 2 * PAGE, PAGE)
    machine.check()
    with pytest.raises(BusError):
        self.read(at + 2 * PAGE, 1)
    with pytest.raises(OSError) as broken:
        file.read(2 * PAGE, 1)
    assert broken.value.errno == errno.EIO
    assert self.read(at + 3 * PAGE, 1) == b"\4"
    with pytest.raises(OSError) as refused:
        file.madvise_collapse()
    assert refused.value.errno == errno.EAGAIN
    assert machine.khugepaged.trace[-1].result is ScanResult.PAGE_LRU
    machine.check()


def test_soft_offline_moves_a_page(machine):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.read(at, 1)
    file.madvise_collapse()
    self.madvise("MADV_SOFT_OFFLINE", at + 2 * PAGE, PAGE)
    machine.check()
    assert [self.read(at + page * PAGE, 1)[0] for page in range(8)] == list(range(1, 9))
    file.madvise_collapse()
    machine.check()


@pytest.mark.parametrize(("advice", "code"), [
    ("MADV_DONTNEED", errno.EINVAL), ("MADV_COLD", errno.EINVAL), ("MADV_PAGEOUT", errno.EINVAL),
    ("MADV_REMOVE", errno.EINVAL), ("MADV_HUGEPAGE", 0), ("MADV_COLLAPSE", 0),
])  # fmt: skip
def test_advice_on_locked_memory(machine, advice, code):
    file = filled(machine)
    self = machine.process()
    at = file.mmap()
    self.mlock(at, 8 * PAGE)
    if code:
        with pytest.raises(OSError) as refused:
            self.madvise(advice, at, 8 * PAGE)
        assert refused.value.errno == code
    else:
        self.madvise(advice, at, 8 * PAGE)
    assert self.mincore(at, 8 * PAGE) == [True] * 8
    machine.check()


def test_only_what_could_be_written_can_be_removed(machine):
    """How the file was opened counts, not what the mapping allows at the moment (as Linux 6.18 answers)."""
    file = filled(machine)
    self = machine.process()
    on_disk = machine.ro_file("disk", bytes(4 * PAGE))
    for mapping in (file.mmap(shared=False), on_disk.mmap(prot="r")):
        with pytest.raises(OSError) as refused:
            self.madvise("MADV_REMOVE", mapping, PAGE)
        assert refused.value.errno == errno.EACCES
    assert file.mapping.nrpages == 8
    self.madvise("MADV_REMOVE", file.mmap(prot="r"), PAGE)
    assert file.mapping.nrpages == 7


def test_a_punched_huge_page_falls_into_single_pages_or_not(machine):
    file = filled(machine)
    machine.collapse(file, 0)
    file.punch_hole(2 * PAGE, PAGE)
    orders = [file.mapping.i_pages.get_order(page) for page in (0, 1, 3, 4)]
    assert orders == ([1, 1, 0, 2] if machine.kernel == "6.18" else [0, 0, 0, 0])
    machine.check()
    self, at = machine.process(), file.mmap()
    self.read(at, 1)
    assert [self.read(at + page * PAGE, 1)[0] for page in range(8)] == [1, 2, 0, 4, 5, 6, 7, 8]
    machine.check()
    file.madvise_collapse()
    assert file.mapping.i_pages.get_order(0) == 3
    machine.check()


@pytest.mark.parametrize(("huge", "size", "advised", "order"), [
    ("never", 16, True, 0), ("always", 3, False, 3), ("within_size", 16, False, 3), ("within_size", 7, False, 0),
    ("advise", 16, False, 0), ("advise", 16, True, 3),
])  # fmt: skip
def test_tmpfs_mounted_with_huge(machine, huge, size, advised, order):
    file = machine.shmem_file("f", size * PAGE, huge=huge)
    self, at = machine.process(), file.mmap(16 * PAGE)
    if advised:
        self.madvise("MADV_HUGEPAGE", at, 16 * PAGE)
    self.write(at + 2 * PAGE, b"x")
    assert file.mapping.i_pages.get_order(2) == order
    assert (file.st_blocks, self.mm.rss(at, 16 * PAGE)) == ((1, 1) if order == 0 else (8, 8))
    assert self.mm.pagemap(at, 3 * PAGE)[2] == ("file" if order == 0 else "pmd")
    machine.check()
    if huge != "advise":
        other = machine.shmem_file("g", size * PAGE, huge=huge)
        other.write(PAGE, b"x")
        assert other.mapping.i_pages.get_order(1) == order
        assert other.read(0, PAGE + 2) == bytes(PAGE) + b"x\0"
        machine.check()


def test_a_huge_page_that_does_not_fit_the_filesystem_becomes_small_ones(machine):
    file = machine.shmem_file("f", 16 * PAGE, max_pages=7, huge="always")
    file.write(0, b"x")
    assert (file.mapping.nrpages, file.mapping.i_pages.get_order(0)) == (1, 0)
    machine.check()
    with pytest.raises(UsageError, match="give never, always, within_size or advise"):
        machine.shmem_file("g", huge="sometimes")
