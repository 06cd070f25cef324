# SPDX-License-Identifier: GPL-2.0-only
"""Every result code of a collapse, each reached by what really leads to it."""

import errno
from contextlib import suppress

import pytest

from mmref import Machine
from mmref.folio import PG_HWPOISON
from mmref.khugepaged import (
    CollapseControl,
    FreezeAndReplace,
    LockAndInsertLate,
    ScanResult,
    Upstream612,
    collapse_pte_mapped_thp,
    get_strategy,
    hpage_collapse_scan_file,
)
from mmref.khugepaged.madvise import CONTINUE_ON, hugepage_vma_revalidate
from mmref.khugepaged.page_tables import retract_page_tables_exclusively
from mmref.khugepaged.result import ANONYMOUS_ONLY
from mmref.pagecache.mm import MMAP_BASE

PAGE = 512
REACHED = {}


def reaches(*results):
    """Note which results a test reaches; `test_every_result_is_reached` looks at the notes."""

    def note(test):
        for result in results:
            REACHED[result] = test.__name__
        return test

    return note


def machine_with(layout="DDDD", kernel="6.12", **options):
    machine = Machine(order=2, page_size=PAGE, kernel=kernel, **options)
    file = machine.shmem_file("f", len(layout) * PAGE)
    for page, kind in enumerate(layout):
        if kind == "D":
            file.write(page * PAGE, bytes([page + 1]) * PAGE)
        elif kind == "f":
            file.fallocate(page * PAGE, PAGE)
    machine.memory.lru.drain_all()
    return machine, file


def results(machine, call):
    """Make a call that may fail, and return the trace of results."""
    machine.khugepaged.trace.clear()
    with suppress(OSError):
        call()
    machine.check()
    return [event.result for event in machine.khugepaged.trace]


def kind(name):
    return ScanResult[name]


@reaches("SUCCEED")
@pytest.mark.parametrize("kernel", ["6.1", "6.4", "6.12", "6.18"])
def test_succeed(kernel):
    machine, file = machine_with("D.fD", kernel)
    assert machine.collapse(file, 0).status is ScanResult.SUCCEED


@reaches("PMD_MAPPED", "PTE_MAPPED_HUGEPAGE")
def test_mapped_already():
    machine, file = machine_with()
    file.mmap()
    assert results(machine, file.madvise_collapse) == [
        kind("PTE_MAPPED_HUGEPAGE"), kind("PTE_MAPPED_HUGEPAGE"), kind("SUCCEED"),
    ]  # fmt: skip
    assert results(machine, file.madvise_collapse) == [kind("PTE_MAPPED_HUGEPAGE"), kind("PMD_MAPPED")]


@reaches("PMD_NONE", "PMD_NULL")
def test_no_page_table_in_6_1():
    machine, file = machine_with("DDDDDDDD", "6.1")
    file.mmap()
    assert results(machine, lambda: file.madvise_collapse(0, 4 * PAGE))[-1] is kind("PMD_NONE")
    machine, file = machine_with("DDDDDDDD", "6.1")
    mm, far = machine.process().mm, MMAP_BASE + (1 << 40)
    mm.mmap(file.mapping, 8 * PAGE, address=far)
    seen = results(machine, lambda: machine.process().madvise_collapse(far, 8 * PAGE))
    assert seen == [kind("PMD_NULL")] * 4, "not even a table for the entry; the call goes on"
    assert file.mapping.i_pages.get_order(4) == 2


@reaches("FAIL")
def test_fail():
    machine, file = machine_with("D..f")
    file.truncate(3 * PAGE)
    file.fallocate(3 * PAGE, PAGE, keep_size=True)
    assert machine.collapse(file, 0).status is ScanResult.FAIL, "unwritten behind the end of the file"
    machine.check()


@reaches("EXCEED_NONE_PTE", "EXCEED_SWAP_PTE")
def test_limits_of_khugepaged():
    machine, file = machine_with("DDD.", swap_pages=8)
    self = machine.process()
    at = file.mmap()
    machine.khugepaged.set("shmem_enabled", "advise")
    self.madvise("MADV_HUGEPAGE", at, 4 * PAGE)
    machine.khugepaged.set("max_ptes_none", "0")
    assert results(machine, machine.khugepaged_run) == [kind("EXCEED_NONE_PTE")]
    machine.khugepaged.set("max_ptes_none", "3")
    machine.khugepaged.set("max_ptes_swap", "1")
    file.swap_out(0, 2)
    assert results(machine, machine.khugepaged_run) == [kind("EXCEED_SWAP_PTE")]
    machine.khugepaged.set("max_ptes_swap", "2")
    assert results(machine, machine.khugepaged_run) == [kind("SUCCEED")] * 2
    assert file.mapping.i_pages.get_order(0) == 2


@reaches("PTE_UFFD_WP")
def test_a_page_table_with_markers_stays():
    machine, file = machine_with()
    at = file.mmap()
    machine.process().read(at, 1)
    machine.process().userfaultfd().register(at, 4 * PAGE, "wp")
    assert results(machine, file.madvise_collapse)[-1] is kind("PTE_UFFD_WP")
    assert file.mapping.i_pages.get_order(0) == 2


@reaches("PTE_NON_PRESENT")
def test_a_private_copy_in_swap():
    machine, file = machine_with(swap_pages=8)
    self = machine.process()
    at = file.mmap(shared=False)
    self.write(at + PAGE, b"mine")
    self.madvise("MADV_PAGEOUT", at, 4 * PAGE)
    assert self.mm.pagemap(at, 4 * PAGE)[1] == "swap"
    machine.check()
    assert results(machine, file.madvise_collapse)[-1] is kind("PTE_NON_PRESENT")
    assert self.read(at + PAGE, 4) == b"mine"
    machine.check()


@reaches("PAGE_NULL", "PAGE_COMPOUND")
def test_the_huge_page_is_gone_when_it_is_to_be_mapped():
    machine, file = machine_with()
    mm, at = machine.process().mm, file.mmap()
    assert collapse_pte_mapped_thp(mm, at, True) is ScanResult.PAGE_COMPOUND, "split since"
    file.punch_hole(0, 4 * PAGE)
    assert collapse_pte_mapped_thp(mm, at, True) is ScanResult.PAGE_NULL, "punched since"
    machine.check()


@reaches("VMA_CHECK", "VMA_NULL", "ADDRESS_RANGE", "ANY_PROCESS")
def test_the_mapping_has_changed_since():
    machine, file = machine_with("DDDDDDDD")
    self, mm = machine.process(), machine.process().mm
    at = file.mmap(8 * PAGE)
    assert collapse_pte_mapped_thp(mm, at + 8 * PAGE, True) is ScanResult.VMA_CHECK
    assert hugepage_vma_revalidate(mm, at)[0] is ScanResult.SUCCEED
    assert hugepage_vma_revalidate(mm, at + 16 * PAGE)[0] is ScanResult.VMA_NULL
    self.munmap(at + 2 * PAGE, 2 * PAGE)
    assert hugepage_vma_revalidate(mm, at)[0] is ScanResult.ADDRESS_RANGE
    self.madvise("MADV_NOHUGEPAGE", at + 4 * PAGE, 4 * PAGE)
    assert hugepage_vma_revalidate(mm, at + 4 * PAGE)[0] is ScanResult.VMA_CHECK
    self.exit()
    assert hugepage_vma_revalidate(mm, at)[0] is ScanResult.ANY_PROCESS


@reaches("PAGE_ANON")
def test_a_private_copy_appears_while_6_1_waits_for_the_mapping():
    machine, file = machine_with(kernel="6.1")
    self, mm = machine.process(), machine.process().mm
    at = file.mmap(shared=False)
    self.read(at, 1)
    vma = mm.find_vma(at)

    class Racing(type(mm.mmap_lock)):
        __slots__ = ()

        def down_write_trylock(self):
            vma.prepare_anon_vma()  # a fault on another CPU was there first
            return super().down_write_trylock()

    mm.mmap_lock = Racing("mmap_lock")
    control = CollapseControl(mm=mm, address=at)
    new = file.mapping.i_pages.load(0)
    assert retract_page_tables_exclusively(file.mapping, 0, new, control) is ScanResult.PAGE_ANON


@reaches("SCAN_ABORT")
def test_pages_of_far_nodes():
    machine, file = machine_with("....", numa_nodes=2)
    for page in range(4):
        machine.set_node(page % 2)
        file.write(page * PAGE, b"x")
    file.mmap()
    machine.khugepaged.node_reclaim = True
    assert results(machine, file.madvise_collapse) == [kind("SCAN_ABORT")]


@reaches("PAGE_COUNT")
@pytest.mark.parametrize("late", [False, True])
def test_a_pinned_page(late):
    machine, file = machine_with()
    unpin = file.pin(2)
    if late:
        assert machine.collapse(file, 0).status is ScanResult.PAGE_COUNT, "by the comparison of references"
    else:
        file.mmap()
        assert results(machine, file.madvise_collapse) == [kind("PAGE_COUNT")], "by the scan"
    unpin()
    machine.check()


@reaches("PAGE_LRU", "DEL_PAGE_LRU")
def test_an_isolated_page():
    machine, file = machine_with()
    folio = file.mapping.i_pages.load(2)
    assert machine.memory.lru.isolate(folio)
    control = CollapseControl()
    strategy = get_strategy("upstream-6.12")
    assert hpage_collapse_scan_file(file.mapping, 0, strategy, control)[0] is ScanResult.PAGE_LRU
    assert machine.collapse(file, 0).status is ScanResult.DEL_PAGE_LRU
    machine.memory.lru.putback(folio)
    machine.check()


@reaches("PAGE_LOCK")
def test_a_locked_page():
    machine, file = machine_with()
    file.mapping.i_pages.load(2).lock()
    assert machine.collapse(file, 0).status is ScanResult.PAGE_LOCK
    file.mapping.i_pages.load(2).unlock()
    machine.check()


@reaches("ALLOC_HUGE_PAGE_FAIL")
def test_no_memory():
    machine, file = machine_with()
    machine.memory.allocator.fail_next()
    assert machine.collapse(file, 0).status is ScanResult.ALLOC_HUGE_PAGE_FAIL
    machine.check()


@reaches("CGROUP_CHARGE_FAIL")
def test_a_control_group_at_its_limit():
    machine, file = machine_with("....")
    machine.enter_cgroup(machine.cgroup("small", limit=7))
    for page in range(4):
        file.write(page * PAGE, b"x")
    file.mmap()
    assert results(machine, file.madvise_collapse)[-1] is kind("CGROUP_CHARGE_FAIL")
    machine.cgroups["small"].limit = 8
    assert results(machine, file.madvise_collapse)[-1] is kind("SUCCEED")
    assert machine.cgroups["small"].usage == 4


def test_a_control_group_with_swap_makes_room():
    machine, file = machine_with("....", swap_pages=16)
    machine.enter_cgroup(machine.cgroup("small", limit=10))
    other = machine.shmem_file("other", 8 * PAGE)
    other.write(0, b"y" * 6 * PAGE)
    for page in range(4):
        file.write(page * PAGE, b"x")
    machine.memory.lru.drain_all()
    file.mmap()
    file.madvise_collapse()
    assert other.inode.swapped == 4, "the oldest pages went to swap"
    assert other.read(0, 6 * PAGE) == b"y" * 6 * PAGE
    machine.check()


@reaches("TRUNCATED")
def test_an_empty_range():
    machine, file = machine_with("....")
    assert machine.collapse(file, 0).status is ScanResult.TRUNCATED


@reaches("PAGE_HAS_PRIVATE")
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_a_filesystem_that_does_not_let_go(kernel):
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    file = machine.ro_file("f", b"x" * 4 * PAGE)
    close = file.open_for_write()
    file.write(0, b"y" * 4 * PAGE)
    file.fsync()
    close()
    file.inode.keeps_private = True
    assert machine.collapse(file, 0).status is ScanResult.PAGE_HAS_PRIVATE
    machine.check()
    file.inode.keeps_private = False
    assert machine.collapse(file, 0).errno == 0
    machine.check()


@reaches("STORE_FAILED")
@pytest.mark.parametrize("strategy", [FreezeAndReplace, LockAndInsertLate, Upstream612])
def test_the_node_for_a_hole_is_gone_and_there_is_no_other(strategy):
    class Racing(strategy):
        def check_old(self, run, folio):
            super().check_old(run, folio)
            if folio.index == 3:
                file.write(5 * PAGE, b"x")  # somebody else uses the second leaf, and empties it
                file.punch_hole(5 * PAGE, PAGE)
                file.mapping.i_pages.allocator.budget(nowait=0, blocking=0)

    machine = Machine(order=3, chunk_shift=2, page_size=PAGE)
    file = machine.shmem_file("f", 8 * PAGE)
    file.write(0, b"x" * 3 * PAGE)
    file.fallocate(3 * PAGE, PAGE)
    assert machine.collapse(file, 0, Racing).status is ScanResult.STORE_FAILED
    file.mapping.i_pages.allocator.budget()
    machine.check()
    assert machine.collapse(file, 0, strategy).errno == 0
    machine.check()


@reaches("COPY_MC")
@pytest.mark.parametrize("on_disk", [False, True])
def test_broken_memory(on_disk):
    machine, file = machine_with()
    if on_disk:
        file = machine.ro_file("disk", b"x" * 4 * PAGE)
        file.read(0, 4 * PAGE)
    file.mapping.i_pages.load(2).set_flag(PG_HWPOISON)
    assert machine.collapse(file, 0).status is ScanResult.COPY_MC
    assert file.mapping.nr_thps == 0, "taken back"
    machine.check()


@reaches("PAGE_FILLED")
@pytest.mark.parametrize("strategy", [LockAndInsertLate, Upstream612])
def test_a_hole_is_filled_meanwhile(strategy):
    class Racing(strategy):
        def copy(self, run):
            super().copy(run)
            file.write(PAGE, b"quick")

    machine, file = machine_with("D.DD")
    assert machine.collapse(file, 0, Racing).status is ScanResult.PAGE_FILLED
    assert file.read(PAGE, 5) == b"quick"
    machine.check()
    assert ScanResult.PAGE_FILLED not in CONTINUE_ON
    assert ScanResult.PAGE_FILLED.errno == errno.EAGAIN


def test_every_result_is_reached():
    assert set(REACHED) | {result.name for result in ANONYMOUS_ONLY} == {result.name for result in ScanResult}
    assert not set(REACHED) & {result.name for result in ANONYMOUS_ONLY}
