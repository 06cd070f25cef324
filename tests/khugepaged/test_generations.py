# SPDX-License-Identifier: GPL-2.0-only
"""What one generation of collapse_file() gets wrong and another right: each on record for real kernels."""

import errno

import pytest

from mmref import Machine
from mmref.errors import InvariantViolation
from mmref.khugepaged import ScanResult, strategies
from mmref.pagecache import NR_FILE_PAGES, NR_SHMEM

PAGE = 512
OLD, SEED, NEW = "6.1", "6.4", "6.12"
KERNELS = [OLD, SEED, NEW, "6.18"]


def shmem(machine, layout):
    file = machine.shmem_file("f", len(layout) * PAGE)
    for page, kind in enumerate(layout):
        if kind == "D":
            file.write(page * PAGE, bytes([page + 1]) * PAGE)
        elif kind == "f":
            file.fallocate(page * PAGE, PAGE)
    return file


def refused(call):
    with pytest.raises(OSError) as error:
        call()
    return errno.errorcode[error.value.errno]


def test_each_kernel_has_its_own_strategy():
    assert [Machine(order=2, kernel=kernel).default_strategy for kernel in KERNELS] == [
        "freeze-and-replace", "lock-and-insert-late", "upstream-6.12", "upstream-6.12",
    ]  # fmt: skip
    assert Machine().default_strategy == "lock-and-insert-late"


# B31: the event of a userfaultfd ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "events"), [(OLD, 0), (SEED, 1), (NEW, 1)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_event_for_a_hole_is_lost_in_6_1_and_kept_since(kernel, events, elsewhere):
    """The monitor has seen the hole at page 2; whoever touches it must be reported."""
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    file = shmem(machine, "DD.D")
    self, watched = machine.process(), machine.process("watched" if elsewhere else "self")
    at, there = file.mmap(), file.mmap(process=watched)
    self.read(at, 1)
    seen = []
    monitor = watched.userfaultfd(lambda event: (seen.append(event.reason), monitor.zeropage(event.address)))
    monitor.register(there, 4 * PAGE, "missing")
    before = file.st_blocks, file.data_extents()
    if events:
        assert refused(file.madvise_collapse) == "EBUSY"
        assert machine.khugepaged.trace[-1].result is ScanResult.EXCEED_NONE_PTE
        assert (file.st_blocks, file.data_extents()) == before
    else:
        self.madvise_collapse(at, 4 * PAGE)
        assert file.data_extents() == [(0, 4 * PAGE)]
    machine.check()
    assert watched.read(there + 2 * PAGE, 1) == b"\0"
    assert seen == ["missing"] * events
    machine.check()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_userfaultfd_does_not_matter_where_there_is_no_hole(kernel):
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    file = shmem(machine, "DfDD")
    self = machine.process()
    at = file.mmap()
    self.read(at, 1)
    self.userfaultfd().register(at, 4 * PAGE, "missing", "minor")
    self.madvise_collapse(at, 4 * PAGE)
    machine.check()


@pytest.mark.parametrize(("first", "stops"), [(4, True), (5, False)])
def test_the_userfaultfd_check_looks_one_page_too_far(first, stops):
    """6.12.117 walks the VMAs from `start` to `end`, and both ends count: on record for real kernels."""
    machine = Machine(order=2, page_size=PAGE, kernel=NEW)
    file = shmem(machine, "D...DDDD")
    self = machine.process()
    file.mmap(8 * PAGE)
    there = file.mmap((8 - first) * PAGE, first * PAGE)
    self.userfaultfd().register(there, (8 - first) * PAGE, "missing")
    at = self.mm.vmas[0].vm_start
    if stops:
        assert refused(lambda: self.madvise_collapse(at, 4 * PAGE)) == "EBUSY"
    else:
        self.madvise_collapse(at, 4 * PAGE)
    machine.check()


# B45: dirty data elsewhere in a file -------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "survives"), [(OLD, False), (SEED, False), (NEW, True)])
def test_dirty_data_is_lost_at_the_next_open_for_write_in_6_1_and_flushed_in_6_12(kernel, survives):
    """S-D: data in the second huge page is dirty, the first is collapsed, then somebody opens the file for writing."""
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    file = machine.ro_file("f", b"o" * 8 * PAGE)
    close = file.open_for_write()
    file.write(4 * PAGE, b"new!" * (PAGE // 4))
    close()
    file.mmap(prot="rx")
    machine.process().read(machine.process().mm.vmas[0].vm_start, 1)
    machine.process().madvise_collapse(machine.process().mm.vmas[0].vm_start, 4 * PAGE)
    assert file.mapping.nr_thps == 1
    assert file.read(4 * PAGE, 4) == b"new!", "still in the cache"
    machine.check()
    close = file.open_for_write()
    assert file.mapping.nrpages == 0, "the whole cache is purged"
    assert file.read(4 * PAGE, 4) == (b"new!" if survives else b"oooo")
    close()
    machine.check()


def test_the_flush_fails_and_so_does_the_collapse():
    machine = Machine(order=2, page_size=PAGE, kernel=NEW)
    file = machine.ro_file("f", b"o" * 8 * PAGE)
    close = file.open_for_write()
    file.write(4 * PAGE, b"new!")
    close()
    file.inode.fail_io = True
    assert machine.collapse(file, 0).status is ScanResult.FAIL
    assert file.mapping.nr_thps == 0
    machine.check()
    file.inode.fail_io = False
    assert machine.collapse(file, 0).errno == 0


# B30: swapped-in folios --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "works"), [(OLD, False), (SEED, True), (NEW, True)])
def test_a_swapped_in_folio_waits_in_the_lru_batch_in_6_1(kernel, works):
    """Without readahead (vm.page-cluster=0) nothing drains the batch that the folio waits in."""
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    machine.swapon(16, page_cluster=0)
    file = shmem(machine, "DDDD")
    assert file.swap_out(1, 1) == 1
    result = machine.collapse(file, 0)
    assert result.status is (ScanResult.SUCCEED if works else ScanResult.DEL_PAGE_LRU)
    machine.check()
    assert machine.collapse(file, 0).errno == 0, "next time the batch has been drained"
    assert file.read(PAGE, 1) == b"\2"


@pytest.mark.parametrize("kernel", KERNELS)
def test_readahead_drains_the_batch_on_the_way(kernel):
    machine = Machine(order=2, page_size=PAGE, kernel=kernel, swap_pages=16)
    file = shmem(machine, "DDDD")
    assert file.swap_out() == 4
    machine.check()
    assert machine.collapse(file, 0).errno == 0
    assert file.read(0, 4 * PAGE) == b"".join(bytes([page + 1]) * PAGE for page in range(4))
    machine.check()


# B43: counters per node and control group ---------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tag", ["node", "cgroup"])
def test_statistics_stay_with_the_wrong_node_or_cgroup(kernel, tag):
    machine = Machine(order=2, page_size=PAGE, kernel=kernel, numa_nodes=2)
    group = machine.cgroup("group")
    file = shmem(machine, "DDDD")
    if tag == "node":
        machine.set_node(1)
    else:
        machine.enter_cgroup(group)
    assert machine.collapse(file, 0).errno == 0
    with pytest.raises(InvariantViolation, match="Q3: NR_FILE_PAGES by"):
        machine.check()
    file.truncate(0)
    wrong = (1, "") if tag == "node" else (0, "group")
    for item in (NR_FILE_PAGES, NR_SHMEM):
        assert machine.memory.vmstat.by_tag(item) == {(0, ""): 4, wrong: -4}, "a counter has become negative"
        assert machine.memory.vmstat[item] == 0, "in the sum nothing shows"


def test_the_huge_page_comes_from_the_node_that_has_most():
    machine = Machine(order=2, page_size=PAGE, kernel=NEW, numa_nodes=2)
    file = machine.shmem_file("f", 4 * PAGE)
    for page, node in enumerate((0, 1, 1, 1)):
        machine.set_node(node)
        file.write(page * PAGE, b"x")
    machine.set_node(0)
    file.mmap()
    file.madvise_collapse()
    assert file.mapping.i_pages.load(0).nid == 1


# Large folios, charges, memory that breaks ------------------------------------------------------------------


def with_a_large_folio(kernel):
    machine = Machine(order=3, page_size=PAGE, kernel=kernel)
    file = machine.shmem_file("f", 8 * PAGE)
    folio = file.inode._alloc_and_add(2, 1)
    for page in range(2):
        folio.write(page * PAGE, bytes([page + 3]) * PAGE)
    folio.mark_uptodate()
    folio.unlock()
    folio.put()
    file.write(7 * PAGE, b"\x08" * PAGE)
    machine.check()
    return machine, file


@pytest.mark.parametrize("kernel", [NEW, "6.18"])
def test_large_folios_are_collapsed_since_6_12(kernel):
    machine, file = with_a_large_folio(kernel)
    result = machine.collapse(file, 0)
    assert (result.status, result.nr_none) == (ScanResult.SUCCEED, 5)
    assert [file.read(page * PAGE, 1)[0] for page in range(8)] == [0, 0, 3, 4, 0, 0, 0, 8]
    machine.check()


@pytest.mark.parametrize("kernel", [OLD, SEED])
def test_large_folios_are_refused_before(kernel):
    machine, file = with_a_large_folio(kernel)
    assert machine.collapse(file, 0).status is ScanResult.PAGE_COMPOUND
    machine.check()


def test_faults_get_large_folios_where_the_settings_say_so():
    machine = Machine(order=4, page_size=PAGE, kernel=NEW)
    machine.set_shmem_orders(2)
    file = machine.shmem_file("f", 16 * PAGE)
    self = machine.process()
    at = file.mmap()
    self.write(at + 5 * PAGE, b"x")
    assert (file.mapping.i_pages.load(4).order, file.st_blocks) == (2, 4 * PAGE // 512)
    assert self.mm.pagemap(at, 16 * PAGE) == ["none"] * 4 + ["file"] * 4 + ["none"] * 8
    machine.check()
    file.punch_hole(6 * PAGE, PAGE)
    machine.check()
    self.madvise_collapse(at, 16 * PAGE)
    assert file.read(5 * PAGE, 1) == b"x"
    machine.check()


@pytest.mark.parametrize(("kernel", "seen"), [(OLD, [3, 4, 3]), (SEED, [3, 4, 3]), (NEW, [3])])
def test_st_blocks_rises_in_between_when_the_filesystem_is_full(kernel, seen, monkeypatch):
    """6.1 charges hole by hole and takes it back; 6.12 asks for all at once, and gets nothing."""
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    file = machine.shmem_file("f", 8 * PAGE, max_pages=4)
    for page in (0, 4, 5):
        file.write(page * PAGE, b"x")
    strategy = strategies()[machine.default_strategy]
    blocks = [file.st_blocks]
    for step in ("meet_hole", "roll_back"):
        original = getattr(strategy, step)

        def spy(*args, _original=original):
            try:
                return _original(*args)
            finally:
                blocks.append(file.st_blocks)

        monkeypatch.setattr(strategy, step, spy)
    assert machine.collapse(file, 0).status is ScanResult.FAIL
    assert [now for before, now in zip([None, *blocks], blocks, strict=False) if now != before] == seen
    machine.check()


@pytest.mark.parametrize("kernel", KERNELS)
def test_whoever_has_the_file_open_for_writing_stops_it(kernel):
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    file = machine.ro_file("f", b"x" * 4 * PAGE)
    close = file.open_for_write()
    file.mmap(prot="rx")
    assert refused(file.madvise_collapse) == "EINVAL"
    assert machine.khugepaged.trace == [], "without a look at the file"
    assert machine.collapse(file, 0).status is ScanResult.FAIL, "and again at the very end"
    assert (file.mapping.nr_thps, machine.stats["NR_FILE_THPS"]) == (0, 0)
    machine.check()
    close()
    assert machine.collapse(file, 0).errno == 0
    machine.check()


@pytest.mark.parametrize(("kernel", "prot", "works"), [(OLD, "r", False), (OLD, "rx", True), (NEW, "r", True)])
def test_6_1_wants_an_executable_mapping(kernel, prot, works):
    machine = Machine(order=2, page_size=PAGE, kernel=kernel)
    file = machine.ro_file("f", b"x" * 4 * PAGE)
    at = file.mmap(prot=prot)
    machine.process().read(at, 1)
    if works:
        file.madvise_collapse()
        assert machine.stats["NR_FILE_THPS"] == 4
    else:
        assert refused(file.madvise_collapse) == "EINVAL"
    machine.check()
