# SPDX-License-Identifier: GPL-2.0-only
"""The child that does the system calls: what it answers, and what is said if something becomes of it."""

import os
import signal
import threading
import time

import pytest

from mmref.errors import UsageError
from mmref.live import Op, Program, run
from mmref.live.comparing import first_difference
from mmref.live.kernel import CannotRun, ChildDied, KernelFile, KernelProcess, run_on_kernel
from mmref.live.observation import SMAPS
from mmref.live.program import HUGE, PAGE

pytestmark = pytest.mark.usefixtures("kernel")

START = [("memfd", {"size": HUGE}), ("mmap", {"len": HUGE})]


def answers(*steps):
    return run_on_kernel(Program([*START, *steps]))


def test_an_empty_file():
    first, second = answers()
    assert (first["ret"], first["errno"]) == (second["ret"], second["errno"]) == (0, "0")
    nothing = {"core_vma": [], "pte_present": [], "smaps": dict.fromkeys(SMAPS, 0)}
    assert second["observe"] == first["observe"] | nothing
    assert first["observe"] == {
        "size": HUGE, "blocks": 0, "data": [], "core_cache": [], "content": [[0, 512, 0]], "mixed": []
    }  # fmt: skip


def test_a_collapse_shows_in_everything():
    last = answers(("pwrite_pages", {"lo": 10, "hi": 12, "gen": 3}), ("madvise_collapse", {"off": 0, "len": HUGE}))[-1]
    assert (last["ret"], last["errno"]) == (0, "0")
    assert last["observe"] == {
        "size": HUGE, "blocks": 4096, "data": [[0, HUGE]], "core_cache": [[0, 512]],
        "content": [[0, 10, 0], [10, 12, 3], [12, 512, 0]], "mixed": [], "core_vma": [[0, 512]],
        "pte_present": [[0, 512]],
        "smaps": {"Rss": 2048, "Anonymous": 0, "ShmemPmdMapped": 2048, "FilePmdMapped": 0},
    }  # fmt: skip


def test_errors_have_names():
    assert answers(("madvise_collapse", {"off": 0, "len": HUGE}))[-1]["errno"] == "EINVAL"
    assert answers(("madvise_collapse", {"off": 0, "len": 2 * HUGE}))[-1]["errno"] in ("EINVAL", "ENOMEM")
    assert answers(("fallocate", {"mode": "0", "off": 0, "len": 0}))[-1]["errno"] == "EINVAL"
    assert answers(("ftruncate", {"size": -1}))[-1]["errno"] == "EINVAL"


def test_an_access_behind_the_end_is_answered_with_sigbus():
    cut = ("ftruncate", {"size": PAGE + 100})
    read = answers(cut, ("map_read_pages", {"lo": 0, "hi": 3}))[-1]
    assert (read["ret"], read["sigbus"]) == (2, 1)
    written = answers(cut, ("map_write_pages", {"lo": 1, "hi": 3, "gen": 5}), ("pread", {"off": 0, "len": 2 * PAGE}))
    assert (written[-2]["ret"], written[-2]["sigbus"]) == (1, 1)
    assert written[-1]["ret"] == PAGE + 100
    assert written[-1]["observe"]["content"] == [[0, 1, 0], [1, 2, 5]]
    assert answers(cut, ("vmsplice_pin", {"page": 2}))[-1]["errno"] == "EFAULT"


def test_stores_and_loads_reach_the_file():
    last = answers(("map_write_pages", {"lo": 3, "hi": 9, "gen": 2, "step": 3}))[-1]
    assert (last["ret"], last["observe"]["content"]) == (2, [[0, 3, 0], [3, 4, 2], [4, 6, 0], [6, 7, 2], [7, 512, 0]])
    last = answers(("map_read_pages", {"lo": 7, "hi": 8}))[-1]
    assert last["observe"]["data"] == [[7 * PAGE, 8 * PAGE]]


def test_a_pin_keeps_a_collapse_away_until_it_is_dropped():
    collapse = ("madvise_collapse", {"off": 0, "len": HUGE})
    write = ("pwrite_pages", {"lo": 0, "hi": 9, "gen": 1})
    results = answers(write, ("vmsplice_pin", {"page": 4}), collapse, ("pipe_close", {}), collapse)
    assert [result["errno"] for result in results[-3:]] == ["EAGAIN", "0", "0"]
    results = answers(write, ("splice_file_to_pipe", {"page": 4}), collapse)
    assert [(result["ret"], result["errno"]) for result in results[-2:]] == [(PAGE, "0"), (-1, "EAGAIN")]


def test_mappings_are_aligned_as_asked():
    collapse = ("madvise_collapse", {"off": 0, "len": HUGE})
    write = ("pwrite_pages", {"lo": 0, "hi": 9, "gen": 1})
    skewed = run_on_kernel(Program([START[0], write, ("mmap", {"len": HUGE, "skew": PAGE}), collapse]))
    assert skewed[-1]["errno"] == "EINVAL"
    second = answers(write, ("mmap2", {"len": HUGE}), ("madvise_collapse_map2", {"off": 0, "len": HUGE}))
    assert second[-1]["errno"] == "0"
    gone = answers(("mmap2", {"len": HUGE}), ("munmap2", {}), ("mmap2", {"len": HUGE - PAGE}))
    assert [result["errno"] for result in gone] == ["0"] * 5


@pytest.mark.parametrize(
    "step",
    [("map_read_pages", {"lo": 0, "hi": 1}), ("madvise_collapse", {"off": 0, "len": HUGE}), ("munmap2", {}),
     ("mlock", {"off": 0, "len": PAGE}), ("vmsplice_pin", {"page": 1})],
)  # fmt: skip
def test_what_needs_a_mapping_says_so(step):
    with pytest.raises(UsageError, match="Nothing is mapped yet"):
        run_on_kernel(Program([START[0], step]))


def test_unknown_advice_is_refused():
    with pytest.raises(UsageError, match="MADV_WISH"):
        answers(("madvise", {"advice": "MADV_WISH", "off": 0, "len": PAGE}))


# What may become of the child ----------------------------------------------------------------------------------


@pytest.fixture
def replaced(monkeypatch):
    """Let an operation do something else in the child."""

    def replace(name, action):
        monkeypatch.setattr(KernelFile, f"_do_{name}", lambda *_, **__: action())

    return replace


def test_a_killed_child_is_an_answer(replaced):
    replaced("observe", lambda: os.kill(os.getpid(), signal.SIGBUS))
    results = answers(("observe", {}), ("observe", {}))
    assert results[2:] == [{"died": "was killed by SIGBUS"}]


def test_an_exiting_child_is_an_answer(replaced):
    replaced("observe", lambda: os._exit(3))
    assert answers(("observe", {}))[-1] == {"died": "exited with status 3"}


def test_a_hanging_child_is_an_answer(replaced):
    replaced("observe", lambda: time.sleep(60))
    start = time.monotonic()
    results = run_on_kernel(Program([START[0], ("observe", {})]), timeout=0.3)
    assert results[-1] == {"died": "did not answer within 0.3 seconds"}
    assert time.monotonic() - start < 10


def test_a_bug_of_ours_in_the_child_is_not_silent(replaced):
    replaced("observe", lambda: 1 // 0)
    assert "ZeroDivisionError" in answers(("observe", {}))[-1]["died"]


def test_a_limit_of_the_user_is_told_apart(replaced):
    def refuse():
        raise CannotRun("RLIMIT_MEMLOCK is 0 bytes")

    replaced("mlock", refuse)
    with pytest.raises(CannotRun, match="RLIMIT_MEMLOCK"):
        answers(("mlock", {"off": 0, "len": PAGE}))


def test_the_child_is_gone_at_the_end():
    with KernelProcess() as process:
        process.step(Op("memfd", {"size": PAGE}))
        pid = process._pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    process.close()


def test_after_its_end_it_says_so():
    process = KernelProcess()
    os.kill(process._pid, signal.SIGKILL)
    with pytest.raises(ChildDied, match="SIGKILL"):
        process.step(Op("memfd", {"size": PAGE}))
    with pytest.raises(ChildDied, match="has ended"):
        process.step(Op("observe", {}))
    process.close()


def test_file_descriptors_are_given_back():
    answers()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        answers()
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_works_beside_threads():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert answers()[-1]["errno"] == "0"
    finally:
        done.set()
        thread.join()


def test_run_is_the_kernel_or_the_model_of_one():
    program = Program([*START, ("pwrite_pages", {"lo": 0, "hi": 9, "gen": 1})])
    assert run(program) == run_on_kernel(program)
    for op, theirs, ours in zip(program, run(program), run(program, "6.12"), strict=True):
        assert first_difference(0, op, theirs, ours)[0] is None
