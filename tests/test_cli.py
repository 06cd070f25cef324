# SPDX-License-Identifier: GPL-2.0-only
"""The command line: what it prints, and its exit status."""

import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mmref import __version__, cli
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


def test_ctrl_c_keeps_what_has_been_explored(mmref, monkeypatch):
    explore = cli._explore

    def interrupted(scenario, strategy, quiet):
        if scenario.name == "seek-hole":
            raise KeyboardInterrupt
        return explore(scenario, strategy, quiet)

    monkeypatch.setattr(cli, "_explore", interrupted)
    done = mmref("race --layout DD", status=130)
    assert "seek-data" in done.out
    assert "interrupted after 2 of 6 explorations" in done.err


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
