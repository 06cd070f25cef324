# SPDX-License-Identifier: GPL-2.0-only
"""The comparison with other tools: its programs are right, and a tool that is missing is said to be missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("program", "executions"),
    [("readers-8", 256), ("lastzero-2", 5), ("indexer-12", 8), ("pc-4-1", 81)],
)
def test_programs_of_the_literature(program: str, executions: int) -> None:
    report = load(BENCHMARKS / "peers" / "with_mmref.py").PROGRAMS[program]()
    assert (report.executions, report.blocked, report.exhaustive) == (executions, 0, True)


def test_the_bug() -> None:
    report = load(BENCHMARKS / "peers" / "with_mmref.py").PROGRAMS["pc-4-1-bug"]()
    assert report.found_in <= 2


def test_the_table_without_peers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    peers = load(BENCHMARKS / "peers.py")
    assert set(peers.PROGRAMS) >= peers.FRONTRUN
    monkeypatch.setattr(peers, "find_frontrun", lambda: None)
    monkeypatch.setattr(peers.shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["peers.py", "--runs", "1", "pc-4-1", "pc-4-1-bug"])
    peers.main()
    shown = capsys.readouterr().out
    assert "frontrun is not installed, so it is not in the table" in shown
    assert "Spin is not in the table" in shown
    assert "s CPU (81 executions) |" in shown
    assert "s CPU (2 executions) |" in shown


def test_a_wrong_answer_is_no_measurement() -> None:
    peers = load(BENCHMARKS / "peers.py")
    with pytest.raises(SystemExit, match="'81 executions, holds', and it should say 'counterexample'"):
        peers.check("pc-4-1-bug", "81 executions, holds")
