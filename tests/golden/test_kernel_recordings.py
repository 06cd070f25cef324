# SPDX-License-Identifier: GPL-2.0-only
"""The model answers what real kernels answered; what it cannot express is listed by name, with the reason."""

import copy
import functools
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DATA = HERE.parent / "data" / "kernel"

_spec = importlib.util.spec_from_file_location("replay_kernel", HERE / "replay_kernel.py")
replay_kernel = importlib.util.module_from_spec(_spec)
sys.modules["replay_kernel"] = replay_kernel
_spec.loader.exec_module(replay_kernel)

RECORDINGS = sorted(path.name.removesuffix(".jsonl.gz") for path in DATA.glob("*.jsonl.gz"))

PLAIN = ["full_512", "holes_1_first", "holes_1_mid", "holes_2", "holes_255", "holes_256_alt", "holes_511_last_present",
         "all_holes", "half_first", "falloc_half_rest_written", "falloc_half_rest_hole", "falloc_written_hole_mix",
         "falloc_only_page0"]  # fmt: skip

AGREE = {"6.1": 171, "6.1-rofs": 32, "6.1-rothp": 166, "6.12": 172, "6.12-rofs": 32, "6.18": 134}
"""How many scenarios of each recording agree, at least: a number that may only grow."""


@functools.cache
def recording(name):
    return replay_kernel.scenarios(DATA / f"{name}.jsonl.gz")


@functools.cache
def verdicts(name):
    return list(replay_kernel.replay_all(DATA / f"{name}.jsonl.gz"))


def test_every_recording_is_judged():
    assert sorted(AGREE) == RECORDINGS


@pytest.mark.parametrize("kernel", ["6.12", "6.18"])
@pytest.mark.parametrize("name", [name + point for name in PLAIN for point in ("", "@pt")])
def test_plain_layouts_agree(kernel, name):
    replay_kernel.replay(recording(kernel)[name], recording(kernel)["_meta"])


@pytest.mark.parametrize("name", RECORDINGS)
def test_whatever_can_be_expressed_agrees(name):
    assert [verdict for verdict in verdicts(name) if verdict.kind == "differs"] == []
    assert sum(verdict.kind == "agrees" for verdict in verdicts(name)) >= AGREE[name]


def test_the_table_lists_what_is_not_expressed():
    table = (DATA / "not-expressed.tsv").read_text(encoding="utf-8")
    assert replay_kernel.table({name: verdicts(name) for name in RECORDINGS}) == table, (
        "print it anew: python tests/golden/replay_kernel.py --table tests/data/kernel > "
        "tests/data/kernel/not-expressed.tsv, and look at what changed"
    )


def altered(change):
    scenario = copy.deepcopy(recording("6.12")["full_512"])
    change(next(step for step in scenario["steps"] if step["op"] == "madvise_collapse"))
    return scenario


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("ret", lambda step: step.update(ret=-1)),
        ("errno", lambda step: step.update(errno="EAGAIN")),
        ("sigbus", lambda step: step.update(sigbus=1)),
        ("SCAN codes", lambda step: step.update(trace=[])),
        ("size", lambda step: step["observe"].update(size=4096)),
        ("blocks", lambda step: step["observe"].update(blocks=8)),
        ("data", lambda step: step["observe"].update(data=[[0, 4096]])),
        ("core_cache", lambda step: step["observe"].update(core_cache=[[0, 511]])),
        ("content", lambda step: step["observe"].update(content=[[0, 512, 2]])),
    ],
)
def test_an_altered_recording_is_noticed(what, change):
    with pytest.raises(replay_kernel.Difference, match=f": {what}: kernel"):
        replay_kernel.replay(altered(change), recording("6.12")["_meta"])


def test_the_checksum_is_compared_where_a_page_is_mixed():
    """collapse_trunc_subpage cuts a page in two: its content is tagged as mixed, and only the checksum tells more."""
    scenario = copy.deepcopy(recording("6.12")["collapse_trunc_subpage"])
    step = next(
        step for step in scenario["steps"] if any(run[2] < 0 for run in step.get("observe", {}).get("content", ()))
    )
    replay_kernel.replay(scenario, recording("6.12")["_meta"])
    step["observe"]["ck"] = "0123456789abcdef"
    with pytest.raises(replay_kernel.Difference, match="checksum"):
        replay_kernel.replay(scenario, recording("6.12")["_meta"])


def run(*arguments):
    return subprocess.run(
        [sys.executable, HERE / "replay_kernel.py", *arguments], capture_output=True, text=True, check=False
    )


def test_the_replayer_runs_alone(tmp_path):
    shutil.copy(DATA / "6.12.jsonl.gz", tmp_path)
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"6.12.jsonl.gz: {replay_kernel.summary(verdicts('6.12'))}\n"
    missing = sum(verdict.kind == "not expressed" for verdict in verdicts("6.12"))
    assert len(run("--list", tmp_path).stdout.splitlines()) == 1 + missing


def test_the_replayer_says_what_is_missing(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2
    assert "holds no recording" in done.stderr
    assert run().returncode == run("--what", tmp_path).returncode == 2
    (tmp_path / "6.1.jsonl.gz").write_bytes((DATA / "6.1.jsonl.gz").read_bytes()[:5000])
    done = run(tmp_path)
    assert done.returncode == 1
    assert "6.1.jsonl.gz is not a complete recording" in done.stderr
