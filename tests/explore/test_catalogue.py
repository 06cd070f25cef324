# SPDX-License-Identifier: GPL-2.0-only
"""The verdict of each scenario of the catalogue, under each strategy.

What is on record (`CollapseStrategy.known_races`) is found, and nothing else is. To exhaust all of them takes minutes:
where nothing is on record, so many executions are looked at here as fit into a moment; `mmref race --all` goes on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmref.explore import explore
from mmref.explore.catalogue import get_scenario, scenario_from_spec, scenarios, variants
from mmref.explore.judged import known_race
from mmref.khugepaged import LockAndInsertLate, ScanResult, get_strategy
from mmref.pagecache import shmem
from mmref.pagecache.filemap import filemap_remove_folio
from mmref.pagecache.inode import MAX_LFS_FILESIZE
from mmref.pagecache.regular import RegularInode
from mmref.pagecache.rmap import unmap_mapping_range
from mmref.pagecache.truncate import truncate_inode_pages_range

FINDINGS = " ".join((Path(__file__).parents[2] / "docs" / "findings.md").read_text().split())
"""Its numbers are those of the explorations here."""

STRATEGIES = ["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"]

FEW, MANY = 15, 2_500

# Races that show in another shape than the usual one, or only to a search that begins with few preemptions.
SHOWN_BY = {
    ("file-open", ""): {"layout": "DD|dD"},
    ("no-space", "freeze-and-replace"): {"layout": "D..D", "max_pages": 3},
    ("no-space", "lock-and-insert-late"): {"layout": "D..D", "max_pages": 3},
    ("no-memory", "lock-and-insert-late"): {"fail": 2},
    ("file-truncate", "freeze-and-replace"): {"layout": "D."},
    ("file-truncate", "lock-and-insert-late"): {"layout": "D."},
    ("file-punch", "freeze-and-replace"): {"layout": "D."},
    ("file-punch", "lock-and-insert-late"): {"layout": "D."},
    ("file-truncate+read", "freeze-and-replace"): {"layout": "D."},
    ("file-truncate+read", "lock-and-insert-late"): {"layout": "D."},
}
MEMORY = {("uffd-look", "lock-and-insert-late"): "tso", ("uffd-look", "upstream-6.12"): "tso"}
PREEMPTIONS = {"file-truncate": 1, "file-punch": 1, "file-truncate+read": 1, "fault+fault": 2,
               "swap-out+mincore": 2}  # fmt: skip


def shown_by(name, strategy):
    shape = SHOWN_BY.get((name, strategy)) or SHOWN_BY.get((name, ""), {})
    return replace(get_scenario(name), **shape)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", scenarios())
def test_what_is_on_record_is_found_and_nothing_else(name, strategy):
    judge = get_strategy(strategy)
    expected = judge.known_races.get(name.removesuffix("-rollback"), "")
    if not expected or (name.endswith("-rollback") and strategy != "freeze-and-replace"):
        report = explore(get_scenario(name), strategy, max_executions=FEW)
        assert report.holds, str(report)
        return
    scenario = shown_by(name, strategy)
    if name in PREEMPTIONS:
        report = explore(scenario, strategy, engine="bounded", bound=PREEMPTIONS[name])
    else:
        report = explore(scenario, strategy, memory=MEMORY.get((name, strategy), "sc"), max_executions=MANY)
    assert report.counterexample is not None, str(report)
    assert known_race(scenario, judge, report.counterexample) == expected.split()[0], str(report)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_race_on_record_is_of_a_scenario(strategy):
    assert set(get_strategy(strategy).known_races) <= set(scenarios())


def test_the_shapes_of_the_matrix():
    found = variants()
    assert list(found) == list(scenarios())
    assert all(shapes[0] == get_scenario(name) for name, shapes in found.items())
    assert 110 <= sum(map(len, found.values())) <= 150
    for shapes in found.values():
        assert len({shape.spec() for shape in shapes}) == len(shapes), "no shape stands there twice"
        for shape in shapes:
            assert scenario_from_spec(shape.spec("upstream-6.12"))[0] == shape
    old = variants("freeze-and-replace")
    left_out = {shape.layout for name, shapes in found.items() for shape in shapes if shape not in old[name]}
    assert left_out == {"[DD]D.", "[DD]DD"}, "6.1 has no such folios on tmpfs"
    assert variants("upstream-6.12") == found


def test_every_shape_can_be_built():
    for strategy in STRATEGIES:
        for shapes in variants(strategy).values():
            for shape in shapes:
                execution = shape.build(strategy)
                assert len(execution.cpus) == len(shape.cpus) == len(shape.others) + 1


# What the findings are about: the smallest change with which each of them is gone (docs/findings.md) ---------------


class WithLaterAccounting(LockAndInsertLate):
    """Linux 6.4 with the accounting of 6.6."""

    name = "later-accounting"
    rules = {"recalc_with_deltas": True}  # noqa: RUF012


@pytest.mark.parametrize(
    ("name", "layout"),
    [("write-hole", "D."), ("fallocate", "D."), ("fault-on-hole", ".D"), ("uffd-copy", "D."), ("punch-all", "DD"),
     ("punch-all", "D.D."), ("truncate", "DD")],
)  # fmt: skip
def test_b38_is_a_matter_of_accounting_alone(name, layout):
    scenario = replace(get_scenario(name), layout=layout, ask=0 if layout[0] == "." else get_scenario(name).ask)
    assert explore(scenario, "lock-and-insert-late").counterexample.verdict.id == "Q2"
    after = explore(scenario, WithLaterAccounting)
    assert (after.holds, after.exhaustive) == (True, True), str(after)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["scan", "madvise"])
def test_b41_is_gone_if_the_scan_takes_a_reference(name, strategy, monkeypatch):
    """As Linux 595cf683519a (v6.16) does; one that is about to be freed ends the scan here instead of being retried."""

    def look_at_folio(folio, start, order, strategy, control):
        if not folio.try_get():
            return ScanResult.PAGE_COUNT
        try:
            if folio.order == order and folio.index == start:
                return ScanResult.PTE_MAPPED_HUGEPAGE
            control.node_load[folio.nid] += 1
            if not folio.test_lru():
                return ScanResult.PAGE_LRU
            expected = 1 + folio.mapcount() + folio.nr_pages + int(folio.test_private())
            return ScanResult.SUCCEED if folio.ref_count() == expected else ScanResult.PAGE_COUNT
        finally:
            folio.put()

    assert explore(get_scenario(name), strategy).counterexample.verdict.id == "UseAfterFree"
    monkeypatch.setattr("mmref.khugepaged.scan.look_at_folio", look_at_folio)
    report = explore(get_scenario(name), strategy)
    assert (report.holds, report.exhaustive) == (True, True), str(report)


def test_f4_is_gone_if_the_opener_looks_again(monkeypatch):
    def open_for_write(inode):
        inode.get_write_access()
        mapping = inode.i_mapping
        if mapping.nr_thps:
            mapping.invalidate_lock.down_write()
            try:
                if mapping.nr_thps:  # once more: a collapse may have given way to us
                    unmap_mapping_range(mapping, 0, None, even_cows=False)
                    truncate_inode_pages_range(mapping, 0, MAX_LFS_FILESIZE)
            finally:
                mapping.invalidate_lock.up_write()

    scenario = shown_by("file-open", "upstream-6.12")
    assert explore(scenario, "upstream-6.12").counterexample.verdict.id == "A3"
    monkeypatch.setattr(RegularInode, "open_for_write", open_for_write)
    report = explore(scenario, "upstream-6.12")
    assert (report.holds, report.exhaustive) == (True, True), str(report)
    assert f"when it has the lock: {report.executions} executions are left" in FINDINGS


def test_f5_is_gone_if_what_is_taken_out_again_is_accounted_for(monkeypatch):
    def remove(folio):
        inode = folio.mapping.host
        filemap_remove_folio(folio)
        inode.recalc_inode()

    assert explore(get_scenario("no-space"), "upstream-6.12").counterexample.verdict.id == "Q2"
    monkeypatch.setattr(shmem, "filemap_remove_folio", remove)
    report = explore(get_scenario("no-space"), "upstream-6.12")
    assert (report.holds, report.exhaustive) == (True, True), str(report)
    assert f"mends it (all {report.executions} executions" in FINDINGS


@pytest.mark.parametrize(
    ("layout", "chunk_shift", "races"),
    [("DD", 6, True), ("DD", 1, False), ("DDDDDDDD", 2, False), ("[DD]DD", 6, True)],
)
def test_f6_is_about_large_folios_inside_a_leaf(layout, chunk_shift, races):
    scenario = replace(get_scenario("punch+read"), layout=layout, chunk_shift=chunk_shift)
    report = explore(scenario, "upstream-6.12", max_executions=300)
    assert report.holds is not races, str(report)


def test_the_second_pass_of_a_truncation_starts_over():
    """A collapse of 6.1 that fails puts folios back behind the back of a truncation that waits for the new folio."""
    report = explore(get_scenario("file-truncate"), "freeze-and-replace", max_executions=200)
    assert report.holds, str(report)
