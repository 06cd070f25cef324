# SPDX-License-Identifier: GPL-2.0-only
"""Both strategies run alone: what a collapse does, what it refuses, and that failing leaves nothing changed."""

import errno

import pytest

from mmref import Machine
from mmref.errors import Finding, UsageError
from mmref.folio import PG_HWPOISON
from mmref.khugepaged import (
    MUSEUM,
    CollapseStrategy,
    FreezeAndReplace,
    LockAndInsertLate,
    ScanResult,
    get_strategy,
    strategies,
)

PAGE = 512
BOTH = ["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"]
GEOMETRIES = [(2, 1), (2, 6), (3, 2), (3, 1), (6, 6), (7, 6), (4, 3), (9, 6)]
LAYOUTS = ["D", "DD.D", ".DDD", "D...", "...D", "fD", "Df.f", "f", "f...", ".f.D"]


def machine_with(layout, order, chunk_shift=6):
    """Return a machine with a file whose pages repeat a layout, and the bytes that it must read as."""
    machine = Machine(order, chunk_shift, page_size=PAGE)
    file = machine.shmem_file("f", PAGE << order)
    content = b""
    for page in range(1 << order):
        kind = layout[page % len(layout)]
        if kind == "D":
            file.write(page * PAGE, bytes([page % 255 + 1]) * PAGE)
        elif kind == "f":
            file.fallocate(page * PAGE, PAGE)
        content += (bytes([page % 255 + 1]) if kind == "D" else b"\0") * PAGE
    return machine, file, content


@pytest.mark.parametrize("strategy", [*BOTH, "uptodate-after-insert", "frozen-in-cache"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("order", "chunk_shift"), GEOMETRIES)
def test_collapse(strategy, layout, order, chunk_shift):
    machine, file, content = machine_with(layout, order, chunk_shift)
    old = [file.mapping.i_pages.load(index) for index in range(1 << order)]
    present = sum(folio is not None for folio in old)
    result = machine.collapse(file, 0, strategy)
    machine.check()
    nr = 1 << order
    assert (result.status, result.errno, result.nr_none) == (ScanResult.SUCCEED, 0, nr - present)
    new = file.mapping.i_pages.load(0)
    assert (new.order, new.index, new.mapping) == (order, 0, file.mapping)
    assert all(file.mapping.i_pages.load(index) is new for index in range(nr))
    assert file.mapping.i_pages.get_order(0) == order
    assert all(folio.free for folio in old if folio), "the old folios are free"
    assert file.read(0, nr * PAGE) == content
    assert (file.data_extents(), file.mincore()) == ([(0, nr * PAGE)], [True] * nr), "a hole becomes data"
    assert file.st_blocks == nr * PAGE // 512
    assert machine.stats == {
        "NR_FILE_PAGES": nr, "NR_SHMEM": nr, "NR_SHMEM_THPS": nr, "NR_FILE_THPS": 0, "allocated": nr,
    }  # fmt: skip


def unchanged_after(machine, file, strategy, status, number):
    """Run a collapse that must fail, and check that nothing but unwritten pages has changed."""
    xa = file.mapping.i_pages
    before = {index: xa.load(index) for index in range(1 << machine.order)}
    seen = file.read(0, file.size), file.st_blocks, machine.stats
    result = machine.collapse(file, 0, strategy)
    machine.memory.lru.drain_all()
    machine.check()
    assert (result.status, result.errno) == (status, number)
    assert {index: xa.load(index) for index in range(1 << machine.order)} == before
    assert (file.read(0, file.size), file.st_blocks, machine.stats) == seen
    assert not any(folio.test_locked() for folio in before.values() if folio)
    return result


@pytest.mark.parametrize("strategy", [*BOTH, "uptodate-after-insert", "frozen-in-cache"])
@pytest.mark.parametrize("layout", ["D", "DD.D", ".DDD", "Df.D"])
@pytest.mark.parametrize(("order", "chunk_shift"), [(2, 6), (3, 2), (3, 1), (9, 6)])
@pytest.mark.parametrize("which", [0, -1])
def test_a_pinned_page_makes_it_fail_and_roll_back(strategy, layout, order, chunk_shift, which):
    machine, file, _ = machine_with(layout, order, chunk_shift)
    data = [index for index in range(1 << order) if layout[index % len(layout)] == "D"]
    unpin = file.pin(data[which])
    unchanged_after(machine, file, strategy, ScanResult.PAGE_COUNT, errno.EAGAIN)
    unpin()
    assert machine.collapse(file, 0, strategy).errno == 0, "and works once the pin is gone"
    machine.check()


@pytest.mark.parametrize("strategy", BOTH)
def test_a_locked_page(strategy):
    machine, file, _ = machine_with("DDDD", 2)
    folio = file.mapping.i_pages.load(2)
    folio.lock()
    result = machine.collapse(file, 0, strategy)
    assert (result.status, result.errno) == (ScanResult.PAGE_LOCK, errno.EAGAIN)
    folio.unlock()
    machine.check()


@pytest.mark.parametrize("strategy", BOTH)
def test_an_isolated_page(strategy):
    machine, file, _ = machine_with("DD.D", 2)
    lru, folio = machine.memory.lru, file.mapping.i_pages.load(3)
    lru.drain_all()
    assert lru.isolate(folio)
    result = machine.collapse(file, 0, strategy)
    assert (result.status, result.errno) == (ScanResult.DEL_PAGE_LRU, errno.EAGAIN)
    lru.putback(folio)
    machine.check()


@pytest.mark.parametrize("strategy", BOTH)
def test_an_empty_range(strategy):
    machine = Machine(order=2)
    file = machine.shmem_file("f", 4 * 4096)
    unchanged_after(machine, file, strategy, ScanResult.TRUNCATED, errno.EINVAL)


@pytest.mark.parametrize("strategy", BOTH)
@pytest.mark.parametrize("layout", ["DDDD", "D.DD"])
def test_out_of_memory(strategy, layout):
    machine, file, _ = machine_with(layout, 2)
    machine.memory.allocator.fail_next()
    unchanged_after(machine, file, strategy, ScanResult.ALLOC_HUGE_PAGE_FAIL, errno.ENOMEM)
    assert machine.collapse(file, 0, strategy).errno == 0


@pytest.mark.parametrize("strategy", BOTH)
def test_no_nodes_for_the_tree(strategy):
    machine, file, _ = machine_with("D.......", 3, chunk_shift=2)
    file.mapping.i_pages.allocator.budget(nowait=0, blocking=0)
    unchanged_after(machine, file, strategy, ScanResult.FAIL, errno.EINVAL)
    file.mapping.i_pages.allocator.budget()
    assert machine.collapse(file, 0, strategy).errno == 0
    machine.check()


@pytest.mark.parametrize("strategy", BOTH)
def test_a_full_filesystem(strategy):
    machine = Machine(order=2)
    file = machine.shmem_file("small", 4 * 4096, max_pages=3)
    file.write(0, b"x" * 4096)
    file.write(3 * 4096, b"x" * 4096)
    unchanged_after(machine, file, strategy, ScanResult.FAIL, errno.EINVAL)


@pytest.mark.parametrize("strategy", BOTH)
def test_an_unwritten_page_behind_the_end_of_the_file(strategy):
    machine = Machine(order=2)
    file = machine.shmem_file("f", 2 * 4096)
    file.write(0, b"x")
    file.fallocate(3 * 4096, 4096, keep_size=True)
    unchanged_after(machine, file, strategy, ScanResult.FAIL, errno.EINVAL)


@pytest.mark.parametrize("strategy", BOTH)
def test_a_second_collapse_finds_a_huge_page(strategy):
    machine, file, content = machine_with("DDDD", 2)
    assert machine.collapse(file, 0, strategy).status is ScanResult.SUCCEED
    result = machine.collapse(file, 0, strategy)
    assert (result.status, result.errno) == (ScanResult.PTE_MAPPED_HUGEPAGE, 0)
    assert file.read(0, file.size) == content
    machine.check()


def test_poisoned_memory_fails_the_copy_and_rolls_back():
    machine, file, _ = machine_with("DD.D", 2)
    file.mapping.i_pages.load(3).set_flag(PG_HWPOISON)
    unchanged_after(machine, file, "lock-and-insert-late", ScanResult.COPY_MC, errno.EINVAL)


def test_poisoned_memory_kills_the_older_kernel():
    machine, file, _ = machine_with("DDDD", 2)
    file.mapping.i_pages.load(3).set_flag(PG_HWPOISON)
    with pytest.raises(Finding, match="machine check while copying"):
        machine.collapse(file, 0, "freeze-and-replace")


@pytest.mark.parametrize("strategy", BOTH)
def test_only_the_range_is_touched(strategy):
    machine = Machine(order=2, chunk_shift=1)
    file = machine.shmem_file("f", 12 * 4096)
    for page in range(12):
        file.write(page * 4096, bytes([page + 1]) * 4096)
    assert machine.collapse(file, 4, strategy).start == 4
    assert [file.mapping.i_pages.get_order(page) for page in range(12)] == [0] * 4 + [2] * 4 + [0] * 4
    assert file.read(0, 12 * 4096) == b"".join(bytes([page + 1]) * 4096 for page in range(12))
    machine.check()


@pytest.mark.parametrize("start", [-4, 1, 2, 3, 5, 2**60, 2.0, None, True])
def test_a_start_that_is_not_aligned_is_refused(start):
    machine, file, _ = machine_with("DDDD", 2)
    with pytest.raises(UsageError, match=f"A collapse cannot start at page {start!r}: give a multiple of 4"):
        machine.collapse(file, start)
    machine.check()


def test_a_file_of_another_machine_is_refused():
    machine, _, _ = machine_with("DDDD", 2)
    _, stranger, _ = machine_with("DDDD", 2)
    with pytest.raises(UsageError, match="is not a file of this machine"):
        machine.collapse(stranger, 0)


def test_an_unknown_strategy_gets_a_suggestion():
    machine, file, _ = machine_with("DDDD", 2)
    with pytest.raises(UsageError, match="There is no strategy 'freeze-and-replase'; did you mean freeze-and-replace"):
        machine.collapse(file, 0, "freeze-and-replase")
    with pytest.raises(UsageError, match="known are freeze-and-replace, lock-and-insert-late"):
        get_strategy("zzz")
    machine.check()


@pytest.mark.parametrize(
    ("name", "text"),
    [("nowhere:Thing", "cannot be imported"), ("mmref.machine:Nothing", "cannot be imported"),
     ("mmref.machine:Machine", "not a subclass of"), (int, "not a subclass of")],
)  # fmt: skip
def test_what_is_no_strategy_is_refused(name, text):
    with pytest.raises(UsageError, match=text):
        get_strategy(name)


def test_strategies_are_found_by_name_class_instance_and_import_path():
    for given in ("freeze-and-replace", FreezeAndReplace, FreezeAndReplace(), "mmref.khugepaged:FreezeAndReplace"):
        assert type(get_strategy(given)) is FreezeAndReplace
    assert list(strategies()) == ["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"]
    assert all(one.kernel and one.summary and name == one.name for name, one in (strategies() | MUSEUM).items())


def test_another_package_can_announce_a_strategy(monkeypatch):
    class Announced(LockAndInsertLate):
        name = "announced"

    class Point:
        name = "announced"

        def load(self):
            return Announced

    monkeypatch.setattr(
        "mmref.khugepaged.registry.entry_points", lambda group: [Point()] * (group == "mmref.strategies")
    )
    assert type(get_strategy("announced")) is Announced
    assert "announced" in strategies()


def test_every_result_has_the_errno_of_the_kernel():
    by_errno = {}
    for result in ScanResult:
        by_errno.setdefault(errno.errorcode.get(result.errno, 0), set()).add(result.name)
    assert by_errno[0] == {"SUCCEED", "PMD_MAPPED", "PTE_MAPPED_HUGEPAGE"}
    assert by_errno["ENOMEM"] == {"ALLOC_HUGE_PAGE_FAIL"}
    assert by_errno["EBUSY"] == {"CGROUP_CHARGE_FAIL", "EXCEED_NONE_PTE"}
    assert by_errno["EAGAIN"] == {"PAGE_COUNT", "PAGE_LOCK", "PAGE_LRU", "DEL_PAGE_LRU", "PAGE_FILLED"}
    assert len(by_errno["EINVAL"]) == len(ScanResult) - 11


def test_a_strategy_of_ones_own_is_a_recipe():
    class Shouting(LockAndInsertLate):
        name = "shouting"

        def __init__(self):
            self.steps = []

        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if callable(found) and name in dir(LockAndInsertLate) and not name.startswith("_"):
                self.steps.append(name)
            return found

    strategy = Shouting()
    machine, file, _ = machine_with("D.DD", 2)
    machine.collapse(file, 0, strategy)
    recipe = [step for step in strategy.steps if step in RECIPE]
    assert recipe == RECIPE


RECIPE = ["allocate_new", "lock_new", "reserve_slots", "scan", "copy", "block_holes", "account", "publish",
          "mark_uptodate", "join", "unlock_new", "release_old"]  # fmt: skip


def test_abstract_strategies_cannot_be_run():
    class Half(CollapseStrategy):
        name, kernel = "half", "none"

    with pytest.raises(TypeError, match="abstract"):
        get_strategy(Half)
