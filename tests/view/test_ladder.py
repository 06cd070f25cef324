# SPDX-License-Identifier: GPL-2.0-only
"""The ladder is what a kernel developer would write: short, in kernel terms, and a function of the trace alone."""

from dataclasses import replace

import pytest

from mmref.explore import Cell, Trace, explore, get_scenario, replay, scenarios
from mmref.view import headline, ladder
from mmref.view.kernel_names import kernel_name

RACES = [
    ("seek-data", "freeze-and-replace", "DDDD", 6),
    ("seek-data-rollback", "freeze-and-replace", "DD.D", 6),
    ("seek-hole", "lock-and-insert-late", "DDDD", 6),
    ("seek-hole", "lock-and-insert-late", "DDDDDDDD", 2),
    ("seek-data-in-hole", "lock-and-insert-late", ".DDD", 6),
    ("mincore", "freeze-and-replace", "DDDDDDDD", 2),
    ("mincore", "frozen-in-cache", "DD", 6),
    ("alone", "freeze-and-replace", "DDDD", 6),
]


def race(name, strategy, layout, chunk_shift):
    return explore(replace(get_scenario(name), layout=layout, chunk_shift=chunk_shift), strategy).counterexample


SEEK_DATA = """\
CPU 0 (khugepaged)                    CPU 1 (lseek SEEK_DATA)
------------------                    -----------------------
collapse_file()
  xas_store(new_folio)
                                      shmem_file_llseek()
                                        mapping_seek_hole_data()
                                          xas_find() == new_folio
                                          folio_test_uptodate(new_folio) ==
                                            false
                                        (data at pages 0, 1, 2, 3 reported
                                         as a hole: SEEK_DATA from page 0
                                         said that there is none)
  folio_mark_uptodate(new_folio)"""


def test_the_race_of_the_seed():
    trace = race(*RACES[0])
    assert ladder(trace) == SEEK_DATA, "\n" + ladder(trace)
    assert headline(trace) == "collapse_file() against shmem_file_llseek()"


@pytest.mark.parametrize("which", RACES)
def test_form(which):
    trace = race(*which)
    lines = ladder(trace).splitlines()
    text = "\n" + "\n".join(lines)
    assert max(map(len, lines)) <= 75, text
    assert lines[0].startswith("CPU 0 (khugepaged)"), text
    assert set(lines[1]) <= {"-", " "}, text
    assert len(lines) <= 40, text
    assert all(line == line.rstrip() for line in lines), text
    squeezed = " ".join(" ".join(lines).split())
    assert trace.verdict.detail.partition(":")[0] in squeezed, text
    column = 75 // len(trace.cpus) + 1
    for line in lines[2:]:
        assert len(trace.cpus) == 1 or not (line[:column].strip() and line[column:].strip()), (
            f"one event per line: {line!r}"
        )


@pytest.mark.parametrize("which", RACES)
def test_the_same_trace_gives_the_same_ladder_also_from_a_file(which, tmp_path):
    trace = race(*which)
    trace.save(tmp_path / "t.json")
    assert ladder(Trace.load(tmp_path / "t.json")) == ladder(trace)
    assert ladder(replay(str(trace.schedule))) == ladder(trace)


def test_what_is_repeated_for_every_page_is_shown_once():
    text = ladder(race("mincore", "freeze-and-replace", "DDDDDDDD", 2))
    assert text.count("folio_test_uptodate(new_folio)") == 1, text
    assert "... and the same for 7 more pages" in text


def test_a_schedule_without_a_finding_has_a_ladder_too():
    trace = replay(f"{scenarios()['seek-data'].spec()}:v1:0x5,1x3")
    assert trace.verdict.kind == "unfinished"
    assert ladder(trace).startswith("CPU 0 (khugepaged)")


def test_a_bare_program_has_a_ladder_too():
    def program():
        x = Cell(0, "x")

        def increment():
            x.store(x.load() + 1)
            assert x.peek() < 3

        def check():
            assert x.load() != 1, "it was seen half done"

        return [increment, increment, check]

    text = ladder(explore(program).counterexample)
    assert text.splitlines()[0].split() == ["CPU", "0", "CPU", "1", "CPU", "2"], text
    assert "store(x) = 1" in text
    assert "it was seen half done" in " ".join(text.split())


def test_kernel_names_come_from_docstrings():
    from mmref.khugepaged import lock_and_insert_late
    from mmref.pagecache import filemap, shmem

    assert kernel_name("ShmemInode.llseek", shmem.__file__) == "shmem_file_llseek"
    assert kernel_name("find_get_entry", filemap.__file__) == "find_get_entry"
    assert kernel_name("find_get_entry", "/elsewhere/site-packages/mmref/pagecache/filemap.py") == "find_get_entry"
    assert kernel_name("LockAndInsertLate.copy", lock_and_insert_late.__file__) is None, "a step is not a function"
    assert kernel_name("nothing", "/nowhere.py") is None
    assert kernel_name("x", "/elsewhere/mmref/gone.py") is None
