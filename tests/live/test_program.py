# SPDX-License-Identifier: GPL-2.0-only
import subprocess
import sys

import pytest

from mmref.errors import UsageError
from mmref.live import Op, Program, supported
from mmref.live.program import HUGE, OPERATIONS

SMALL = [("memfd", {"size": HUGE}), ("pwrite_pages", {"lo": 0, "hi": 3, "gen": 1})]


def test_a_program_is_plain_data():
    program = Program(SMALL)
    assert program.steps == (Op("memfd", {"size": HUGE}), Op("pwrite_pages", {"lo": 0, "hi": 3, "gen": 1}))
    assert list(program) == list(program.steps)
    assert len(program) == 2
    assert program == Program(program) == Program.from_json(program.to_json())
    assert str(program) == "memfd(size=2097152); pwrite_pages(lo=0, hi=3, gen=1)"


def test_it_does_not_share_its_arguments():
    args = {"size": HUGE}
    program = Program([("memfd", args)])
    args["size"] = 0
    assert program.steps[0].args == {"size": HUGE}


def test_it_prints_as_a_program_to_paste():
    text = Program(SMALL).as_python()
    names = {}
    exec(text.replace("print(compare(program))", ""), names)
    assert names["program"] == Program(SMALL)


def test_what_is_pasted_runs():
    if not (support := supported()):
        pytest.skip(support.reason)
    done = subprocess.run(
        [sys.executable, "-c", Program(SMALL).as_python()], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("agrees: ")


@pytest.mark.parametrize("step", [("memfd",), "memfd", ("memfd", 3), (1, {}), ("memfd", {1: 2}), None])
def test_another_shape_is_refused(step):
    with pytest.raises(UsageError, match="is not a step"):
        Program([step])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "is empty"),
        ([("pread", {"off": 0, "len": 1})], "starts with memfd"),
        ([*SMALL, ("memfd", {"size": 1})], "Step 3 .* one file"),
        ([*SMALL, ("fsync", {})], "'fsync', is not an operation; known are memfd, "),
        ([*SMALL, ("ftruncate", {})], "lacks size"),
        ([*SMALL, ("ftruncate", {"size": 1, "to": 2})], "has an argument 'to'; it takes size"),
        ([*SMALL, ("pipe_close", {"page": 2})], "it takes none"),
    ],
)
def test_a_program_that_cannot_run_is_refused(steps, message):
    with pytest.raises(UsageError, match=message):
        Program(steps).check()


@pytest.mark.parametrize("text", ["", "{", "{}", "3", '[["memfd"]]', '["memfd"]'])
def test_foreign_json_is_refused(text):
    with pytest.raises(UsageError):
        Program.from_json(text)


def test_every_operation_is_known_on_both_sides():
    from mmref.live.kernel import KernelFile
    from mmref.live.model import ModelFile

    for name in OPERATIONS:
        assert hasattr(KernelFile, f"_do_{name}"), name
        assert hasattr(ModelFile, f"_do_{name}"), name
