# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernels and is on record shows up in the models of them, and the running kernel takes a side."""

import pytest

from mmref.live import Program, run
from mmref.live.program import HUGE

START = [("memfd", {"size": HUGE}), ("mmap", {"len": HUGE}), ("pwrite_pages", {"lo": 0, "hi": 100, "gen": 1})]
COLLAPSE = ("madvise_collapse", {"off": 0, "len": HUGE})
TOUCH = ("map_read_pages", {"lo": 0, "hi": 1})
WATCHED = [
    *START,
    ("uffd_register", {"mode": "MISSING", "vma": 1}),
    COLLAPSE,
    ("uffd_touch", {"page": 300, "write": 0}),
]


def answers(steps, kernel=None):
    return [(result["ret"], result["errno"]) for result in run(Program(steps), kernel)]


def test_6_1_loses_an_event_of_userfaultfd_that_6_12_keeps():
    """A hole that a monitor knows of is filled by the collapse: nobody is told any more when it is touched (B31)."""
    assert answers(WATCHED, "6.1")[-1] == (0, "0")
    assert run(Program(WATCHED), "6.1")[-2]["observe"]["blocks"] == 4096
    assert answers(WATCHED, "6.12")[-2:] == [(-1, "EBUSY"), (1, "0")]
    assert run(Program(WATCHED), "6.12")[-2]["observe"]["blocks"] == 800


def test_6_1_collapses_without_a_page_table_and_says_that_it_has_not():
    steps = [*START, COLLAPSE, COLLAPSE]
    assert answers(steps, "6.1")[-2:] == [(-1, "EINVAL"), (0, "0")]
    assert run(Program(steps), "6.1")[3]["observe"]["blocks"] == 4096
    assert answers([*START, TOUCH, COLLAPSE], "6.1")[-1] == (0, "0")
    assert answers(steps, "6.12")[-2:] == [(0, "0"), (0, "0")]


@pytest.mark.parametrize("steps", [WATCHED, [*START, COLLAPSE, COLLAPSE], [*START, TOUCH, COLLAPSE]])
def test_the_running_kernel_is_like_the_model_of_its_generation(kernel, steps):
    assert answers(steps) == answers(steps, kernel)
