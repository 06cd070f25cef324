# SPDX-License-Identifier: GPL-2.0-only
"""Bugs that the kernels have which the strategies follow: each must be found in them, and gone where it was mended."""

import errno
from dataclasses import replace

import pytest

from mmref import Machine
from mmref.errors import InvariantViolation
from mmref.explore import explore
from mmref.explore.catalogue import get_scenario
from mmref.khugepaged import ScanResult, get_strategy
from mmref.khugepaged.records import is_record_of

PAGE = 512
V6_1, V6_4, V6_12 = "freeze-and-replace", "lock-and-insert-late", "upstream-6.12"

# bug, scenario, its shape, invariant, the strategies that have it
SHIPPED = [
    ("B30", "quiet-swap", {}, "L2", {V6_1}),
    ("B31", "uffd-tail", {}, "A7", {V6_1}),
    ("B32", "seek-data", {"layout": "DD"}, "A1", {V6_1}),
    ("B32", "mincore", {"layout": "DD"}, "A2", {V6_1}),
    ("B41", "scan", {}, "UseAfterFree", {V6_1, V6_4, V6_12}),
    ("B45", "file-open-later", {}, "A3", {V6_1, V6_4}),
]


@pytest.mark.parametrize("strategy", [V6_1, V6_4, V6_12])
@pytest.mark.parametrize(("bug", "name", "shape", "invariant", "who"), SHIPPED)
def test_a_bug_is_where_it_was_and_nowhere_else(bug, name, shape, invariant, who, strategy):
    scenario = replace(get_scenario(name), **shape)
    report = explore(scenario, strategy)
    known = get_strategy(strategy).known_races.get(name)
    if strategy in who:
        assert report.counterexample is not None, str(report)
        assert report.counterexample.verdict.id == invariant, str(report)
        assert bug in known.split()
        assert is_record_of(bug, report.counterexample.verdict.kind, invariant, "sc")
    elif known is None:
        assert report.holds, str(report)
        assert report.exhaustive
    else:
        assert (strategy, name, known) == (V6_4, "uffd-tail", "B38"), "another bug hides whether this one is there"
        assert report.counterexample.verdict.id == "Q2"


@pytest.mark.parametrize("strategy", [V6_1, V6_4, V6_12])
@pytest.mark.parametrize("by", ["node", "control group"])
def test_b43_pages_stay_counted_where_the_old_folios_were(strategy, by):
    """Linux 4188b2592ff6: only holes are counted for the huge page; its node and group differ from the old pages'."""
    kernel = {V6_1: "6.1", V6_4: "6.4", V6_12: "6.12"}[strategy]
    machine = Machine(2, page_size=PAGE, kernel=kernel, numa_nodes=2)
    machine.set_node(0)
    file = machine.shmem_file("f", 4 * PAGE)
    file.write(0, b"x" * 4 * PAGE)
    machine.check()
    if by == "node":
        machine.set_node(1)
    else:
        machine.enter_cgroup(machine.cgroup("other"))
    assert machine.collapse(file, 0, strategy).status is ScanResult.SUCCEED
    with pytest.raises(InvariantViolation, match="NR_FILE_PAGES by") as caught:
        machine.check()
    assert caught.value.invariant == "Q3"
    file.truncate(0)
    assert min(machine.memory.vmstat.by_tag("NR_FILE_PAGES").values()) < 0, "what was seen in production: below zero"


@pytest.mark.parametrize("strategy", [V6_1, V6_4, V6_12])
def test_b43_does_not_show_on_one_node_and_in_one_group(strategy):
    machine = Machine(2, page_size=PAGE)
    file = machine.shmem_file("f", 4 * PAGE)
    file.write(0, b"x" * 4 * PAGE)
    assert machine.collapse(file, 0, strategy).status is ScanResult.SUCCEED
    machine.check()


@pytest.mark.parametrize("strategy", [V6_1, V6_4, V6_12])
def test_b44_a_dirty_page_is_reported_as_if_trying_again_were_of_no_use(strategy):
    """Linux 5173ae0a068d makes it EAGAIN: the collapse itself has the page written, and the next one succeeds."""
    machine = Machine(1, page_size=PAGE)
    file = machine.ro_file("f", b"x" * 2 * PAGE)
    close = file.open_for_write()
    file.write(0, b"y")
    close()
    first = machine.collapse(file, 0, strategy)
    assert (first.status, first.errno) == (ScanResult.FAIL, errno.EINVAL)
    assert machine.collapse(file, 0, strategy).status is ScanResult.SUCCEED


@pytest.mark.parametrize("strategy", [V6_1, V6_4, V6_12])
def test_b44_a_page_under_writeback_too(strategy):
    machine = Machine(1, page_size=PAGE)
    file = machine.ro_file("f", b"x" * 2 * PAGE)
    file.inode.slow_io = True
    close = file.open_for_write()
    file.write(0, b"y")
    close()
    machine.collapse(file, 0, strategy)  # starts the write
    result = machine.collapse(file, 0, strategy)
    assert (result.status, result.errno) == (ScanResult.FAIL, errno.EINVAL)
    file.inode.complete_io()
    assert machine.collapse(file, 0, strategy).status is ScanResult.SUCCEED
