# SPDX-License-Identifier: GPL-2.0-only
"""Files on a disk: readahead, writeback, the purge, shadow entries, reclaim; and swap's corners."""

import errno

import pytest

from mmref import Machine
from mmref.errors import Deadlock, InvariantViolation, UsageError
from mmref.khugepaged import ScanResult
from mmref.pagecache import NR_FILE_THPS, BusError
from mmref.pagecache.regular import filemap_flush, filemap_write_and_wait

PAGE = 512


@pytest.fixture
def machine():
    return Machine(order=3, chunk_shift=2, page_size=PAGE, kernel="6.12")


def test_reading_reads_ahead(machine):
    file = machine.ro_file("f", bytes(range(256)) * 2 * 100)
    assert file.mincore() == [False] * 100
    assert file.read(3, 4) == b"\3\4\5\6"
    assert file.mincore() == [True] * 32 + [False] * 68
    assert file.inode.file_read(50 * PAGE, 1, readahead=1) == b"\0"
    assert [page for page, there in enumerate(file.mincore()) if there][32:] == [50]
    machine.check()


def test_faults_read_around_and_then_ahead():
    machine = Machine(order=7, page_size=PAGE, kernel="6.12")
    file = machine.ro_file("f", bytes(128 * PAGE))
    self, at = machine.process(), file.mmap(prot="r")
    self.read(at + 40 * PAGE, 1)
    assert [page for page, there in enumerate(file.mincore()) if there] == list(range(24, 56))
    for page in range(40, 49):  # page 48 is marked: only 8 are left
        self.read(at + page * PAGE, 1)
    assert [page for page, there in enumerate(file.mincore()) if there] == list(range(24, 88))
    machine.check()


def test_writeback(machine):
    file = machine.ro_file("f", b"o" * 4 * PAGE)
    close = file.open_for_write()
    file.write(PAGE, b"new")
    folio = file.mapping.i_pages.load(1)
    assert folio.test_dirty()
    assert folio.test_private()
    file.inode.slow_io = True
    filemap_flush(file.mapping)
    assert folio.test_writeback()
    assert not folio.test_dirty()
    machine.check()
    with pytest.raises(Deadlock, match="the writeback of"):
        folio.wait_writeback()
    close()
    assert machine.collapse(file, 0).status is ScanResult.FAIL, "B18: not while it is being written"
    file.inode.complete_io()
    assert not folio.test_writeback()
    machine.check()
    assert file.inode.disk[1][:4] == b"newo"
    file.inode.slow_io = False


def test_a_disk_that_fails(machine):
    file = machine.ro_file("f", b"o" * PAGE)
    file.open_for_write()
    file.write(0, b"new")
    file.inode.fail_io = True
    assert filemap_write_and_wait(file.mapping)
    with pytest.raises(OSError) as failed:
        file.fsync()
    assert failed.value.errno == errno.EIO
    assert file.mapping.i_pages.load(0).test_dirty(), "not lost"
    machine.check()


def test_opening_for_write_purges_only_if_there_is_a_huge_page(machine):
    file = machine.ro_file("f", b"x" * 16 * PAGE)
    file.read(0, 16 * PAGE)
    file.open_for_write()()
    assert file.mapping.nrpages == 16
    at = file.mmap(prot="r", shared=False)
    assert machine.process().read(at, 1) == b"x"
    file.madvise_collapse(0, 8 * PAGE)
    assert (file.mapping.nr_thps, machine.stats[NR_FILE_THPS]) == (1, 8)
    machine.check()
    file.open_for_write()()
    assert (file.mapping.nrpages, file.mapping.nr_thps, machine.stats[NR_FILE_THPS]) == (0, 0, 0)
    assert machine.process().mm.rss(at, 16 * PAGE) == 0
    machine.check()


def test_the_purge_leaves_private_copies(machine):
    """B20: merely opening a mapped library for writing must not take its users' data away."""
    file = machine.ro_file("f", b"x" * 8 * PAGE)
    self, at = machine.process(), file.mmap(prot="rw", shared=False)
    self.write(at + 2 * PAGE, b"mine")
    machine.collapse(file, 0)
    file.open_for_write()()
    assert file.mapping.nrpages == 0
    assert self.read(at + 2 * PAGE, 5) == b"minex"
    machine.check()


def test_truncating_inside_a_huge_page_splits_it_and_the_counter_follows(machine):
    """B21."""
    file = machine.ro_file("f", b"x" * 8 * PAGE)
    machine.collapse(file, 0)
    file.truncate(3 * PAGE + 5)
    assert (file.mapping.nr_thps, file.mapping.nrpages, machine.stats[NR_FILE_THPS]) == (0, 4, 0)
    machine.check()
    file.truncate(8 * PAGE)
    assert file.read(0, 8 * PAGE) == b"x" * (3 * PAGE + 5) + bytes(5 * PAGE - 5)
    machine.check()


def test_reclaim_leaves_shadows(machine):
    file = machine.ro_file("f", b"x" * 8 * PAGE)
    file.read(0, 8 * PAGE)
    assert file.swap_out(2, 3) == 3
    assert [type(file.mapping.i_pages.load(page)) for page in (2, 3, 4)] == [int] * 3
    machine.check()
    assert file.mincore() == [True, True, False, False, False, True, True, True]
    assert file.data_extents() == [(0, 8 * PAGE)]
    assert file.read(0, 8 * PAGE) == b"x" * 8 * PAGE
    file.truncate(0)
    assert file.mapping.i_pages.empty()


def test_a_small_folio_over_the_shadow_of_a_huge_one(machine):
    """B16: the shadow covers the whole huge page, the folio only one page: the shadow must be split."""
    file = machine.ro_file("f", bytes(page + 1 for page in range(8) for _ in range(PAGE)))
    machine.collapse(file, 0)
    assert file.swap_out() == 8
    assert (file.mapping.nr_thps, file.mapping.i_pages.get_order(0)) == (0, 3)
    machine.check()
    assert file.inode.file_read(3 * PAGE, 1, readahead=1) == b"\4"
    assert (file.mapping.nrpages, file.mapping.i_pages.load(3).index) == (1, 3)
    assert [type(file.mapping.i_pages.load(page)) for page in (0, 2, 4, 7)] == [int] * 4
    machine.check()
    assert file.read(0, 8 * PAGE) == file.inode.file_read(0, 8 * PAGE)
    assert machine.collapse(file, 0).errno == 0
    machine.check()


def test_what_is_dirty_mapped_or_pinned_is_not_dropped(machine):
    file = machine.ro_file("f", b"x" * 8 * PAGE)
    file.read(0, 8 * PAGE)
    close = file.open_for_write()
    file.write(0, b"y")
    unpin = file.pin(1)
    at = file.mmap(PAGE, 2 * PAGE, prot="r")
    machine.process().read(at, 1)
    assert file.fadvise_dontneed() == 5
    assert file.mincore() == [True] * 3 + [False] * 5
    unpin()
    close()
    machine.check()


def test_a_shared_writable_mapping_keeps_the_file_open_for_writing(machine):
    file = machine.ro_file("f", b"x" * 8 * PAGE)
    self, at = machine.process(), file.mmap(prot="rw")
    assert file.inode.i_writecount == 1
    self.write(at, b"through")
    assert file.mapping.i_pages.load(0).test_dirty()
    assert machine.collapse(file, 0).status is ScanResult.FAIL
    self.munmap(at, 8 * PAGE)
    assert file.inode.i_writecount == 0
    file.fsync()
    assert machine.collapse(file, 0).errno == 0
    assert file.read(0, 7) == b"through"
    machine.check()


def test_a_hole_on_the_disk_is_filled_with_zeros(machine):
    file = machine.ro_file("f")
    close = file.open_for_write()
    file.truncate(8 * PAGE)
    file.write(2 * PAGE, b"x" * PAGE)
    file.fsync()
    close()
    file.fadvise_dontneed()
    assert (file.data_extents(), file.st_blocks) == ([(2 * PAGE, 3 * PAGE)], 1)
    assert machine.collapse(file, 0).errno == 0
    assert file.read(0, 8 * PAGE) == bytes(2 * PAGE) + b"x" * PAGE + bytes(5 * PAGE)
    assert file.data_extents() == [(2 * PAGE, 3 * PAGE)], "the disk does not change"
    machine.check()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda machine: machine.shmem_file("s").open_for_write(), "is on tmpfs; make a file on a disk"),
        (lambda machine: machine.shmem_file("s").fsync(), "is on tmpfs"),
        (lambda machine: machine.set_node(3), "There is no node 3; give 0 to 0"),
        (lambda machine: machine.swapon(-1), "cannot have -1 pages"),
        (lambda machine: machine.cgroup(""), "cannot be called ''"),
        (lambda machine: machine.cgroup("g", -1), "A limit of -1 pages"),
        (lambda machine: machine.set_shmem_orders(3), "sizes between one page and a huge page, 1 to 2"),
        (lambda machine: machine.process().madvise("MADV_FREE", 0, PAGE), "There is no advice 'MADV_FREE'"),
        (lambda machine: machine.khugepaged.set("enabled", "maybe"), "cannot be 'maybe'; give one of always"),
        (lambda machine: machine.khugepaged.set("max_ptes_none", "-1"), "cannot be '-1'; give a number"),
        (lambda machine: machine.khugepaged.set("speed", "9"), "There is no setting 'speed'"),
        (lambda _: Machine(kernel="2.6"), "There are no rules for kernel '2.6'; known are 6.1, 6.4, 6.12, 6.18"),
        (lambda _: Machine(numa_nodes=0), "numa_nodes 0: give 1 to 64"),
        (lambda _: Machine(kernel="6.1").set_shmem_orders(2), "Kernel 6.1 has no large folios on tmpfs"),
    ],
)
def test_bad_input(machine, call, text):
    with pytest.raises(UsageError, match=text):
        call(machine)
    machine.check()


# Swap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_swap_and_back(kernel):
    machine = Machine(order=3, page_size=PAGE, kernel=kernel, swap_pages=4)
    file = machine.shmem_file("f", 8 * PAGE)
    file.write(0, bytes(page + 1 for page in range(6) for _ in range(PAGE)))
    assert file.swap_out() == 4, "the device is full then"
    assert (file.inode.swapped, file.st_blocks, file.mapping.nrpages) == (4, 6, 2)
    machine.check()
    assert file.data_extents() == [(0, 6 * PAGE)], "what is in swap is data"
    assert file.mincore()[:4] == [False] * 4
    assert file.read(0, 6 * PAGE) == bytes(page + 1 for page in range(6) for _ in range(PAGE))
    machine.check()
    file.swap_out()
    file.truncate(PAGE)
    machine.check()
    file.punch_hole(0, PAGE)
    machine.check()
    assert machine.memory.swap.in_use() == frozenset()


def test_an_unwritten_page_becomes_data_when_it_is_swapped_out():
    machine = Machine(order=2, page_size=PAGE, kernel="6.12", swap_pages=4)
    file = machine.shmem_file("f", 4 * PAGE)
    file.fallocate(0, 4 * PAGE)
    assert file.data_extents() == []
    file.swap_out(1, 1)
    assert file.data_extents() == [(PAGE, 2 * PAGE)]
    machine.check()


def test_a_huge_page_is_split_when_it_is_swapped_out():
    machine = Machine(order=2, page_size=PAGE, kernel="6.12", swap_pages=4)
    file = machine.shmem_file("f", 4 * PAGE)
    file.write(0, b"x" * 4 * PAGE)
    machine.collapse(file, 0)
    assert file.swap_out() == 4
    machine.check()
    assert file.read(0, 4 * PAGE) == b"x" * 4 * PAGE


def test_readahead_brings_neighbours_into_the_swap_cache():
    machine = Machine(order=3, page_size=PAGE, kernel="6.12", swap_pages=16)
    file = machine.shmem_file("f", 8 * PAGE)
    file.write(0, b"x" * 8 * PAGE)
    file.swap_out()
    file.read(3 * PAGE, 1)
    cached = machine.memory.swap.cached()
    assert len(cached) >= 1
    assert sum(file.mincore()) == 1 + len(cached), "mincore looks into the swap cache"
    machine.check()


def test_private_copies_go_to_swap_and_come_back():
    machine = Machine(order=2, page_size=PAGE, kernel="6.12", swap_pages=8)
    file = machine.shmem_file("f", 4 * PAGE)
    self, at = machine.process(), file.mmap(shared=False)
    self.write(at, b"mine")
    self.madvise("MADV_PAGEOUT", at, PAGE)
    assert (self.mm.pagemap(at, PAGE), self.mincore(at, PAGE)) == (["swap"], [False])
    machine.check()
    assert self.read(at, 4) == b"mine"
    machine.check()
    self.madvise("MADV_PAGEOUT", at, PAGE)
    self.munmap(at, 4 * PAGE)
    machine.check()
    assert machine.memory.swap.in_use() == frozenset()


def test_no_swap_no_reclaim():
    machine = Machine(order=2, page_size=PAGE)
    file = machine.shmem_file("f", 4 * PAGE)
    file.write(0, b"x" * 4 * PAGE)
    assert file.swap_out() == 0
    machine.check()


# check() -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "invariant"),
    [
        (lambda _, file: setattr(file.mapping, "nr_thps", 2), "Q4: nr_thps of f is 2, but it has 0 huge folios"),
        (lambda machine, _: machine.memory.vmstat.add("NR_SHMEM", 1), "Q3: NR_SHMEM by"),
        (lambda machine, _: machine.memory.alloc_folio(), "Q9: 9 pages are allocated, but 8 are in use"),
        (lambda _, file: file.mapping.i_pages.load(0).add_rmap(), "Q7"),
        (lambda _, file: file.inode.i_rwsem.down_write(), "L1: a lock of f is held"),
        (lambda machine, file: machine.memory.swap.alloc(file.mapping.i_pages.load(0)), r"Q12: swap slots \[1\] are"),
    ],
)
def test_check_catches(machine, spoil, invariant):
    machine.swapon(4)
    file = machine.ro_file("f", b"x" * 8 * PAGE)
    file.read(0, 8 * PAGE)
    machine.check()
    spoil(machine, file)
    with pytest.raises(InvariantViolation, match=invariant):
        machine.check()


def test_a_fault_behind_the_end_of_the_file(machine):
    file = machine.ro_file("f", b"x" * PAGE)
    at = file.mmap(prot="r")
    with pytest.raises(BusError):
        machine.process().read(at + PAGE, 1)
    machine.check()
