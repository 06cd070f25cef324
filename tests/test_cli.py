# SPDX-License-Identifier: GPL-2.0-only
"""The command line: what it prints, and its exit status."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmref import __version__, cli
from mmref.commands import race
from mmref.explore import catalogue
from mmref.explore.catalogue import get_scenario, scenarios
from mmref.khugepaged import strategies
from mmref.live import data_extents, sparse_file, supported

MINE = """
from mmref.khugepaged import LockAndInsertLate

class Mine(LockAndInsertLate):
    name = "mine"

    def publish(self, run):
        self.join(run)
        self.mark_uptodate(run)
"""


@pytest.fixture
def mmref(capsys):
    def run(line, status=0):
        try:
            found = cli.main(shlex.split(line))
        except SystemExit as end:
            found = end.code
        out = capsys.readouterr()
        assert found == status, out.out + out.err
        return SimpleNamespace(out=out.out, err=out.err, lines=out.out.splitlines())

    return run


def test_race_as_a_newcomer_sees_it(mmref):
    done = mmref("race")
    assert "a sparse file, as lseek(SEEK_DATA) and lseek(SEEK_HOLE) show it here" in done.out
    for text in ("RACE in execution", "none in", "exhausted", "CPU 0 (khugepaged)", "collapse_file()", "schedule: ",
                 "replay:   mmref replay", "explored ", "A program that"):  # fmt: skip
        assert text in done.out
    assert done.err == ""
    table = [line for line in done.lines if line.startswith("│")]
    assert [line.split()[1] for line in table if line.split()[1] != "│"] == ["seek-data", "seek-hole", "mincore"]


def test_every_replay_line_replays(mmref):
    lines = [line for line in mmref("race --layout DD").lines if line.startswith("replay: ")]
    assert len(lines) >= 3
    for line in lines:
        command = shlex.split(line.partition(":")[2])
        assert command[:2] == ["mmref", "replay"]
        done = mmref(shlex.join(command[1:]))
        assert line in done.lines, "it names itself again"
        assert "CPU 0 (khugepaged)" in done.out


def test_race_as_json(mmref):
    cells = json.loads(mmref("race seek-data seek-hole --layout DDDDDDDD --chunk-shift 2 --json").out)
    assert [(cell["scenario"], cell["strategy"], cell["holds"]) for cell in cells] == [
        ("seek-data", "freeze-and-replace", False), ("seek-data", "lock-and-insert-late", True),
        ("seek-hole", "freeze-and-replace", False), ("seek-hole", "lock-and-insert-late", False),
    ]  # fmt: skip
    race = cells[0]
    assert (race["invariant"], race["known"], race["layout"], race["chunk_shift"]) == ("A1", "B32", "DDDDDDDD", 2)
    assert race["ladder"].startswith("CPU 0")
    assert race["schedule"].startswith("seek-data/freeze-and-replace/")
    assert cells[1]["exhaustive"] is True
    assert "ladder" not in cells[1]


def test_a_race_that_is_not_on_record_has_status_1(mmref, tmp_path, monkeypatch):
    (tmp_path / "my_strategy.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    done = mmref("race seek-data --strategy my_strategy:Mine", status=1)
    line = next(line for line in done.lines if line.startswith("replay: "))
    assert "seek-data/my_strategy:Mine/layout=" in line
    done = mmref(shlex.join(shlex.split(line.partition(":")[2])[1:]), status=1)
    assert "folio_test_uptodate" in done.out


def test_race_like_a_file(mmref, tmp_path):
    sparse_file(tmp_path / "f", ".DD.")
    if len(data_extents(tmp_path / "f")[1]) != 1:
        pytest.skip("this filesystem does not report holes")
    done = mmref(f"race seek-data --strategy lock-and-insert-late --like {tmp_path / 'f'}")
    assert "f: .DD." in done.lines[0]
    assert "none in" in done.out
    done = mmref(f"race seek-data --strategy lock-and-insert-late --pages 8 --like {tmp_path / 'f'}")
    assert "f: .DD....." in done.lines[0]


@pytest.mark.parametrize("pages", [2, 8])
def test_race_with_so_many_pages(mmref, pages):
    done = mmref(f"race seek-data --strategy freeze-and-replace --pages {pages} --json")
    assert len(json.loads(done.out)[0]["layout"]) == pages


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("race seek-date", "There is no scenario 'seek-date'; did you mean seek-data?"),
        ("race --strategy freeze", "There is no strategy 'freeze'; did you mean freeze-and-replace?"),
        ("race --strategy nowhere:Thing", "cannot be imported"),
        ("race --pages 3", "--pages 3: a huge page has a power of two of pages, from 2 on."),
        ("race --pages 0", "--pages 0"),
        ("race --pages -4", "--pages -4"),
        ("race --layout DD --pages 4", "--pages 4 does not fit --layout DD"),
        ("race --layout DXD.", "give one letter per page"),
        ("race --layout ''", "A huge page of 0 pages"),
        ("race --chunk-shift 9", "chunk_shift 9: a node has 2**1 to 2**6 slots; give 1 to 6."),
        ("race --like /nonexistent/file", "cannot be read: No such file or directory."),
        ("race --like /", "is not a regular file"),
        ("race seek-data-in-hole --layout DDDD", "has no hole with data behind it"),
        ("replay nonsense", "'nonsense' is not a schedule"),
        ("replay v1:0x3", "does not say what to run"),
        ("replay seek-data/freeze-and-replace/layout=DD:v1:0x9999", "does not fit"),
        ("replay seek-data/freeze-and-replace/layout=DD:v1:0x2,5", "does not fit"),
        ("replay seek-data/freeze-and-replace/layout=DD:v9:0", "version v9"),
        ("replay /nonexistent/trace.json", "cannot be read"),
    ],
)
def test_bad_usage_is_one_sentence_and_status_2(mmref, line, text):
    done = mmref(line, status=2)
    assert done.out == ""
    assert done.err.startswith("mmref: ")
    assert done.err.count("\n") == 1
    assert text in done.err


@pytest.mark.parametrize(
    "line", ["race --pages x", "race --chunk-shift", "rase", "", "replay", "race --like a --layout b"]
)
def test_argparse_has_status_2_too(mmref, line):
    assert "usage: mmref" in mmref(line, status=2).err


def test_replay_from_a_file_and_saving_one(mmref, tmp_path):
    schedule = json.loads(mmref("race seek-data --strategy freeze-and-replace --json").out)[0]["schedule"]
    path = tmp_path / "trace.json"
    first = mmref(f"replay '{schedule}' --save {path}")
    again = mmref(f"replay {path}")
    assert again.out == first.out
    assert json.loads(mmref(f"replay {path} --json").out)["mmref_trace"] == 1
    assert "cannot be written" in mmref(f"replay {path} --save /nonexistent/x", status=2).err


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "version", "schedule"])
def test_a_damaged_trace_file(mmref, tmp_path, damage):
    path = tmp_path / "trace.json"
    mmref(f"replay seek-data/freeze-and-replace/layout=DD:v1:0x5 --save {path}")
    text = path.read_text()
    path.write_text({
        "cut": text[: len(text) // 2], "empty": "", "foreign": '{"hello": 1}',
        "version": text.replace('"mmref_trace": 1', '"mmref_trace": 99'), "schedule": text.replace("v1:0x5", "v1:0x4"),
    }[damage])  # fmt: skip
    done = mmref(f"replay {path}", status=2)
    assert done.err.startswith("mmref: ")
    assert done.err.count("\n") == 1
    assert str(path) in done.err


def test_replaying_a_schedule_that_goes_well(mmref):
    done = mmref("replay seek-data/lock-and-insert-late/layout=DD:v1:0x3,1x2")
    assert "collapse_file() against shmem_file_llseek(): 5 steps, nothing goes wrong" in done.out


def test_strategies(mmref):
    done = mmref("strategies")
    assert "freeze-and-replace" in done.out
    assert "Linux 6.1.192" in done.out
    listed = json.loads(mmref("strategies --json").out)
    assert [one["name"] for one in listed["strategies"]][:2] == ["freeze-and-replace", "lock-and-insert-late"]
    assert {"uptodate-after-insert", "frozen-in-cache"} <= {one["name"] for one in listed["museum"]}


def test_museum(mmref, in_folder):
    done = mmref("museum m32 frozen-in-cache --json")
    rows = json.loads(done.out)
    assert [(row["mutation"], row["name"], row["invariant"]) for row in rows] == [
        ("m32", "uptodate-after-insert", "A1"), ("m33", "frozen-in-cache", "A8"),
    ]  # fmt: skip
    assert all(row["base_executions"] > 0 for row in rows)
    assert "2 of 2 are caught" in mmref("museum m32 m33 --markdown page.md").out
    assert "| m33 | `frozen-in-cache` |" in (in_folder / "page.md").read_text()
    shown = mmref("museum m32").out
    for text in ("m32, uptodate-after-insert", "mended by: ", "breaks A1", "replay: ", "in the same scenario: none"):
        assert text in shown
    assert "did you mean" in mmref("museum m320", status=2).err
    assert "give more than 0" in mmref("museum --max-seconds 0", status=2).err


def test_live(mmref):
    support = supported()
    if not support:
        assert support.reason in mmref("live", status=2).err
        pytest.skip(support.reason)
    done = json.loads(mmref("live --programs 3 --json").out)
    assert (done["programs"], done["first_difference"]) == (3, None)
    assert "no difference" in mmref("live --programs 2 --seed 7").out
    assert "give 1 or more" in mmref("live --programs 0", status=2).err


def test_version_and_help(mmref):
    assert mmref("--version").out.strip() == f"mmref {__version__}"
    assert "race" in mmref("--help").out


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(mmref, line, status=0):
    """Return what JSON says about each exploration, but for the time it took."""
    rows = json.loads(mmref(f"{line} --json", status=status).out)
    for row in rows:
        del row["seconds"]
    return rows


def test_ctrl_c_keeps_what_has_been_explored_and_says_how_to_go_on(mmref, in_folder, monkeypatch):
    whole = rows_of(mmref, "race --layout DD")
    explore_cell = race._explore_cell

    def interrupted(cell, *others):
        if cell.spec.startswith("seek-hole"):
            raise KeyboardInterrupt
        explore_cell(cell, *others)

    monkeypatch.setattr(race, "_explore_cell", interrupted)
    done = mmref("race --layout DD", status=130)
    assert "seek-data" in done.out
    assert done.err == (
        "mmref: interrupted: 4 of 6 explorations are not finished; to go on: mmref race --resume mmref-race.frontier\n"
    )
    monkeypatch.setattr(race, "_explore_cell", explore_cell)
    assert rows_of(mmref, "race --resume mmref-race.frontier") == whole
    assert not (in_folder / "mmref-race.frontier").exists(), "nothing is left of it"


def test_a_budget_leaves_what_can_be_resumed(mmref, in_folder):
    line = "race mincore --strategy lock-and-insert-late --layout DDDD"
    whole = rows_of(mmref, line)
    assert whole[0]["exhaustive"]
    assert whole[0]["executions"] > 20
    done = mmref(f"{line} --max-executions 20")
    assert "none in 20 executions, stopped by max_executions=20" in done.out
    assert "--max-executions N" in done.err
    left = "race --resume mmref-race.frontier"
    assert "each exploration has had its 20 executions; give a larger" in mmref(left, status=2).err
    assert rows_of(mmref, f"{left} --max-executions 30")[0]["executions"] == 30
    assert rows_of(mmref, f"{left} --max-executions 100000") == whole
    done = mmref(f"{line} --max-seconds 0.001")
    assert "out of time after 0.001 s: 1 of 1 explorations are not finished" in done.err
    assert rows_of(mmref, left) == whole


@pytest.mark.parametrize("damage", ["cut", "foreign", "version", "row", "frontier"])
def test_a_damaged_file_to_resume_from(mmref, in_folder, damage):
    mmref("race mincore --layout DDDD --max-executions 20")
    path = in_folder / "mmref-race.frontier"
    text = path.read_text()
    path.write_text({
        "cut": text[: len(text) // 2], "foreign": "{}", "version": text.replace('"mmref_race": 1', '"mmref_race": 7'),
        "row": text.replace('"blocked"', '"clogged"'), "frontier": text.replace('"tree"', '"shrub"'),
    }[damage])  # fmt: skip
    done = mmref("race --resume mmref-race.frontier", status=2)
    assert done.err.startswith("mmref: 'mmref-race.frontier' is" if damage != "row" else "mmref: 'mmref-race.frontier'")
    assert done.err.count("\n") == 1


def test_two_processes_find_what_one_finds(mmref):
    line = "race seek-data mincore --layout DDDD"
    assert rows_of(mmref, f"{line} --jobs 2") == rows_of(mmref, line)


def test_another_engine(mmref):
    assert [row["engine"] for row in rows_of(mmref, "race seek-data --layout DD --engine source")] == ["source"] * 2
    assert "did you mean 'source'?" in mmref("race seek-data --layout DD --engine sauce", status=2).err
    row = rows_of(mmref, "race mincore --strategy lock-and-insert-late --layout DD --engine states")[0]
    assert (row["exhaustive"], row["verdict"]) == (True, f"none in {row['states']} states, exhausted")


def test_the_matrix_of_everything(mmref, in_folder, monkeypatch):
    few = {name: [replace(get_scenario(name), layout="DD")] for name in ("seek-data", "seek-hole", "read")}
    monkeypatch.setattr(catalogue, "variants", lambda: few)
    done = mmref("race --all --markdown page.md")
    assert "RACE A1 (B32) in " in done.out
    page = (in_folder / "page.md").read_text()
    rows = rows_of(mmref, "race --all")
    asked = [(one, other) for one in few for other in strategies()]
    assert [(row["scenario"], row["strategy"]) for row in rows] == asked
    for row in rows:
        assert row["holds"] or f"{row['ladder']}\n```\n" in page
        assert row["holds"] or f"    mmref replay '{row['schedule']}'" in page
    line = next(line for line in page.splitlines() if line.startswith("| read |"))
    assert line.count("none in ") == len(strategies())
    assert "--all explores every scenario" in mmref("race read --all", status=2).err


def test_a_second_look_with_few_preemptions(mmref, in_folder):
    line = "race mincore seek-hole --strategy lock-and-insert-late --layout DDDD --max-executions 5 --preemptions 1"
    mincore, seek_hole = rows_of(mmref, line)
    assert (mincore["holds"], mincore["exhaustive"], mincore["preemptions"]) == (True, False, 1)
    assert mincore["again"] > 5
    assert (seek_hole["known"], seek_hole["engine"], seek_hole["preemptions"]) == ("F1", "bounded", 1)
    assert rows_of(mmref, f"{line} --jobs 2") == [mincore, seek_hole]
    assert "give 0 or more" in mmref("race --preemptions -1", status=2).err


def test_where_the_page_is_to_be_written_is_looked_at_first(mmref):
    assert "there is no folder /nonexistent" in mmref("race --layout DD --markdown /nonexistent/page.md", status=2).err


def test_a_race_is_explained(mmref):
    done = mmref("race seek-data --strategy freeze-and-replace --layout DD")
    at = done.lines.index("what matters is the order of two accesses:")
    first, then = done.lines[at + 1 : at + 3]
    assert "CPU 1: folio_test_uptodate(new_folio) == false in folio_seek_hole_data(), " in first
    assert "CPU 0: folio_mark_uptodate(new_folio) in collapse_file(), " in then
    for line in (first, then):
        file, _, number = line.rpartition(", ")[2].partition(":")
        path = Path(cli.__file__).parents[1] / file[file.index("mmref/") :]
        assert "uptodate(" in path.read_text().splitlines()[int(number) - 1]


def test_every_race_becomes_a_test(mmref, in_folder):
    mmref("race --layout DD --tests test_races.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_races.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "4 failed" in done.stdout, done.stdout + done.stderr
    assert "violation: A2: page" in done.stdout


def test_scenarios(mmref):
    assert "uffd" in mmref("scenarios").out
    listed = json.loads(mmref("scenarios --json").out)
    assert [one["name"] for one in listed] == list(scenarios())


def test_importing_mmref_imports_next_to_nothing():
    code = (
        "import sys; before = set(sys.modules); import mmref; print(sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['mmref']"
    done = subprocess.run(
        [sys.executable, "-c", "import sys, mmref; mmref.Machine; print({'rich', 'greenlet'} & set(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_the_module_runs_too():
    done = subprocess.run(
        [sys.executable, "-m", "mmref.cli", "race", "seek-data", "--layout", "DD"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "RACE" in done.stdout


def test_a_weak_memory_model(mmref, in_folder):
    line = "race uffd-look --strategy upstream-6.12 --layout D."
    assert rows_of(mmref, f"{line} --memory sc") == rows_of(mmref, line)
    done = mmref(f"{line} --memory tso")
    assert "W1: a RETRY entry" in done.out
    assert "(xas_store(RETRY) is visible)" in done.out
    assert ":v1-tso:" in done.out
    assert "memory='arm' is unknown" in mmref(f"{line} --memory arm", status=2).err

    line = "race mincore --strategy lock-and-insert-late --layout DDDD --memory tso"
    whole = rows_of(mmref, line)
    mmref(f"{line} --max-executions 20")
    left = "race --resume mmref-race.frontier --max-executions 10000"
    refused = mmref(f"{left} --memory pso", status=2)
    assert refused.err == "mmref: --memory pso: 'mmref-race.frontier' was begun with tso.\n"
    assert rows_of(mmref, left) == whole
