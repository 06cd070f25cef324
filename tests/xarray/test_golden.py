# SPDX-License-Identifier: GPL-2.0-only
"""Every recorded trace of the kernel's own lib/xarray.c replays without one difference."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPLAYER = Path(__file__).parents[1] / "golden" / "replay_xarray.py"
TRACES = sorted((Path(__file__).parents[1] / "data" / "xarray").glob("*.jsonl.gz"))


def load_replayer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay_xarray", REPLAYER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


replayer = load_replayer()


def test_all_themes_are_here() -> None:
    assert len(TRACES) == 72


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name.removesuffix(".jsonl.gz"))
def test_replays(path: Path) -> None:
    difference = replayer.replay(path)
    assert difference is None, str(difference)


# -- the replayer itself ---------------------------------------------------------------------------------------


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(REPLAYER), str(folder)], capture_output=True, text=True, check=False)


def write_trace(path: Path, lines: list[Any]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), mtime=0))


def read_trace(name: str) -> list[Any]:
    path = next(path for path in TRACES if path.name.startswith(name))
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def test_folder_that_agrees(tmp_path: Path) -> None:
    write_trace(tmp_path / "a.jsonl.gz", read_trace("tiny-1052"))
    done = run(tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 traces replay")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key], (*path, key))]
    if isinstance(value, list):
        return [leaf for key in range(len(value)) for leaf in leaves(value[key], (*path, key))]
    return [path]


def alter(line: Any, path: tuple[Any, ...]) -> None:
    for key in path[:-1]:
        line = line[key]
    old = line[path[-1]]
    if isinstance(old, bool):
        line[path[-1]] = not old
    elif isinstance(old, int):
        line[path[-1]] = old + 1
    elif isinstance(old, str):
        line[path[-1]] = old + "1"
    else:
        line[path[-1]] = False


@pytest.mark.parametrize("name", ["tiny-1052", "nomem-1059", "alloc-cyclic-1042", "update-callback-1036"])
def test_one_altered_result_is_caught(tmp_path: Path, name: str) -> None:
    lines = read_trace(name)
    chance = random.Random(name)
    for number in chance.sample(range(1, min(len(lines), 150)), 12):
        outputs = {key: lines[number][key] for key in lines[number] if key not in replayer.ARGUMENTS}
        places = leaves(outputs)
        for path in chance.sample(places, min(len(places), 6)):
            altered = json.loads(json.dumps(lines[: number + 1]))
            alter(altered[number], path)
            write_trace(tmp_path / "altered.jsonl.gz", altered)
            difference = replayer.replay(tmp_path / "altered.jsonl.gz")
            assert difference is not None, (number, path)
            assert difference.line == number + 1


def test_folder_that_differs(tmp_path: Path) -> None:
    lines = read_trace("tiny-1053")
    write_trace(tmp_path / "good.jsonl.gz", lines)
    number = next(number for number, line in enumerate(lines) if line.get("op") == "dump" and line["ret"]["nodes"])
    lines[number]["ret"]["live"] += 1
    write_trace(tmp_path / "wrong.jsonl.gz", lines)
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith(f"wrong.jsonl.gz: line {number + 1} differs: ")
    assert "the tree before it:\n    xarray: head" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 of 2 traces replay"


def test_folder_without_traces(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no traces" in done.stderr


def packed(text: bytes) -> bytes:
    """Compress without the time: test ids must be the same in every process."""
    return gzip.compress(text, mtime=0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not gzip", "cannot be read"),
        (packed(b'{"flags":"0","xa_chunk_shift":6,"multi":true}\n')[:-9], "cannot be read"),
        (packed(b""), "cut off"),
        (packed(b'{"flags":"0","xa_chunk_shift":6,"multi":true}\n{"op":"xa_'), "cut off"),
        (packed(b'{"flags":"0","xa_chunk_shift":6,"multi":true}\n{"op":"xa_load"}\n'), "not an operation"),
        (packed(b'{"flags":"0","xa_chunk_shift":6,"multi":true}\n{"op":"xa_load","ret":1}\n'), "lacks 'index'"),
        (packed(b'{"flags":"0","xa_chunk_shift":6,"multi":true}\n{"op":\n'), "not JSON"),
        (packed(b'{"flags":"0","xa_chunk_shift":6,"multi":true}\n7\n'), "not an operation"),
        (packed(b'{"flags":"WHAT"}\n'), "not the header"),
    ],
)
def test_unreadable_trace(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "broken.jsonl.gz").write_bytes(content)
    done = run(tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert complaint in done.stderr
    assert done.stdout.splitlines()[-1] == "0 of 1 traces replay"
