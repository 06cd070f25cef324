# SPDX-License-Identifier: GPL-2.0-only
"""F3 and F4 of docs/findings.md: what the explorer finds about files on a disk, and what would mend it."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmref.explore import explore
from mmref.explore.catalogue import get_scenario
from mmref.khugepaged import ScanResult
from mmref.khugepaged.strategy import Abandon
from mmref.khugepaged.upstream_6_12 import Upstream612
from mmref.pagecache import filemap_write_and_wait
from mmref.sync import smp_mb

V6_1, V6_4, V6_12 = "freeze-and-replace", "lock-and-insert-late", "upstream-6.12"


@pytest.mark.parametrize(
    ("strategy", "layout"), [(V6_1, "D.|[DD]"), (V6_4, "D.|[DD]"), (V6_12, "D.|[DD]"), (V6_12, "DD|[DD]")]
)
def test_f3_open_for_writing_and_a_second_collapse_wait_for_each_other(strategy, layout):
    report = explore(replace(get_scenario("file-open"), layout=layout), strategy, bound=1)
    assert report.counterexample.verdict.kind == "deadlock", str(report)
    detail = report.counterexample.verdict.detail
    assert "khugepaged waits for invalidate_lock (down_read), held by open" in detail
    assert "(folio_lock), held by khugepaged" in detail


class WriteFirst(Upstream612):
    """Linux 6.12.117, but all dirty folios are written before writers are looked for."""

    name = "write-first"

    def count_huge(self, run):
        if run.is_shmem:
            return
        mapping = run.mapping
        mapping.invalidate_lock.down_read()
        mapping.nr_thps_inc()
        smp_mb()
        failed = filemap_write_and_wait(mapping)
        if failed or run.inode.i_writecount > 0:
            mapping.nr_thps_dec()
            mapping.invalidate_lock.up_read()
            raise Abandon(ScanResult.FAIL)
        mapping.invalidate_lock.up_read()


def test_f4_dirty_data_is_lost_though_the_collapse_has_given_up():
    scenario = replace(get_scenario("file-open"), layout="DD|dD")
    report = explore(scenario, V6_12)
    trace = report.counterexample
    assert trace.verdict.id == "A3", str(report)
    assert trace.schedule.switches <= 3
    labels = [(event.cpu, event.label) for event in trace.events]
    seen = labels.index((1, "nr_thps"))
    assert (0, "filemap_nr_thps_inc") in labels[:seen]
    assert (0, "filemap_nr_thps_dec") in labels[seen:], "the collapse has given up"


@pytest.mark.parametrize("name", ["file-open", "file-open-later"])
def test_f4_does_not_happen_if_data_is_written_first(name):
    report = explore(replace(get_scenario(name), layout="DD|dD"), WriteFirst)
    assert report.holds, str(report)
    assert report.exhaustive
    page = " ".join((Path(__file__).parents[2] / "docs" / "findings.md").read_text().split())
    assert name != "file-open" or f"passes this scenario in all {report.executions} executions" in page
