# SPDX-License-Identifier: GPL-2.0-only
"""The model answers what real kernels answered, on the layouts that it can express so far."""

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
_spec.loader.exec_module(replay_kernel)

PLAIN = ["full_512", "holes_1_first", "holes_1_mid", "holes_2", "holes_255", "holes_256_alt", "holes_511_last_present",
         "all_holes", "half_first", "falloc_half_rest_written", "falloc_half_rest_hole", "falloc_written_hole_mix",
         "falloc_only_page0"]  # fmt: skip


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("name", [name + point for name in PLAIN for point in ("", "@pt")])
def test_plain_layouts_agree(kernel, name):
    replay_kernel.replay(replay_kernel.scenarios(DATA / f"{kernel}.jsonl.gz")[name], kernel)


@pytest.mark.parametrize(("kernel", "agree"), [("6.1", 72), ("6.12", 76)])
def test_whatever_can_be_expressed_agrees(kernel, agree):
    verdicts = list(replay_kernel.replay_all(DATA / f"{kernel}.jsonl.gz", kernel))
    assert [verdict for verdict in verdicts if verdict[1] == "differs"] == []
    assert sum(verdict == "agrees" for _, verdict, _ in verdicts) >= agree


@pytest.mark.parametrize(
    ("path", "value"),
    [(("blocks",), 8), (("data",), [[0, 4096]]), (("core_cache",), [[0, 511]]), (("content",), [[0, 512, 2]])],
)
def test_an_altered_recording_is_noticed(path, value):
    scenario = replay_kernel.scenarios(DATA / "6.12.jsonl.gz")["full_512"]
    step = next(step for step in scenario["steps"] if step.get("observe"))
    step["observe"][path[0]] = value
    with pytest.raises(replay_kernel.Difference, match=f"{path[0]}: kernel"):
        replay_kernel.replay(scenario, "6.12")


def run(folder):
    return subprocess.run(
        [sys.executable, HERE / "replay_kernel.py", folder], capture_output=True, text=True, check=False
    )


def test_the_replayer_runs_alone(tmp_path):
    shutil.copy(DATA / "6.12.jsonl.gz", tmp_path)
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "6.12.jsonl.gz: 76 agree, 0 differ, 100 not expressed\n"


def test_the_replayer_says_what_is_missing(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2
    assert "holds no recording of 6.1 or 6.12" in done.stdout
    (tmp_path / "6.1.jsonl.gz").write_bytes((DATA / "6.1.jsonl.gz").read_bytes()[:5000])
    done = run(tmp_path)
    assert done.returncode == 1
    assert "6.1.jsonl.gz is not a complete recording" in done.stderr
