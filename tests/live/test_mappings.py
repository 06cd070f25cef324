# SPDX-License-Identifier: GPL-2.0-only
"""What madvise(MADV_COLLAPSE) answers by the shape of the request alone."""

from errno import EAGAIN, EBUSY, EINVAL, ENOMEM

import pytest

from mmref.khugepaged import ScanResult
from mmref.live.mappings import FileMapping, Vma
from mmref.live.program import HUGE, PAGE

OK, COUNT, EMPTY = ScanResult.SUCCEED, ScanResult.PAGE_COUNT, ScanResult.TRUNCATED


def asked(mapping, off, length, *results):
    """Return the errno, and the huge pages that were tried."""
    tried = []
    answers = dict(enumerate(results))

    def collapse(start):
        tried.append(start // 512)
        return answers.get(len(tried) - 1, OK)

    return mapping.madvise_collapse(off, length, collapse), tried


@pytest.mark.parametrize(
    ("off", "length", "errno", "tried"),
    [
        (0, 3 * HUGE, 0, [0, 1, 2]),
        (HUGE, HUGE, 0, [1]),
        (0, PAGE, 0, []),
        (PAGE, HUGE, 0, []),
        (PAGE, PAGE, EINVAL, []),
        (PAGE, 2 * HUGE, 0, [1]),
        (HUGE + 1, HUGE, EINVAL, []),
        (0, 0, 0, []),
        (0, HUGE - 1, 0, [0]),
        (2 * HUGE, 2 * HUGE, ENOMEM, [2]),
        (4 * HUGE, HUGE, ENOMEM, []),
    ],
)
def test_the_range_decides_what_is_tried(off, length, errno, tried):
    assert asked(FileMapping(0, 3 * HUGE), off, length) == (errno, tried)


def test_a_busy_page_does_not_stop_it_and_an_empty_range_does():
    mapping = FileMapping(0, 3 * HUGE)
    assert asked(mapping, 0, 3 * HUGE, COUNT, OK, OK) == (EAGAIN, [0, 1, 2])
    assert asked(mapping, 0, 3 * HUGE, OK, EMPTY) == (EINVAL, [0, 1])
    assert asked(mapping, 0, 3 * HUGE, COUNT, EMPTY) == (EINVAL, [0, 1])
    assert asked(mapping, 0, 3 * HUGE, ScanResult.EXCEED_NONE_PTE) == (EBUSY, [0])
    assert asked(mapping, 0, 3 * HUGE, OK, OK, COUNT) == (EAGAIN, [0, 1, 2])


def test_a_mapping_without_room_for_a_huge_page_is_refused():
    assert asked(FileMapping(0, HUGE - PAGE), 0, HUGE - PAGE) == (EINVAL, [])
    assert asked(FileMapping(PAGE, HUGE), PAGE, HUGE) == (EINVAL, [])
    assert asked(FileMapping(0, HUGE, skew=PAGE), 0, HUGE) == (EINVAL, [])
    assert asked(FileMapping(0, HUGE, skew=HUGE), 0, HUGE) == (0, [0])


def test_mlock_splits_and_munlock_merges():
    mapping = FileMapping(0, 2 * HUGE)
    assert mapping.change(HUGE // 2, HUGE, locked=True)
    assert mapping.vmas == [
        Vma(0, HUGE // 2), Vma(HUGE // 2, HUGE // 2 + HUGE, locked=True), Vma(HUGE // 2 + HUGE, 2 * HUGE)
    ]  # fmt: skip
    assert asked(mapping, 0, 2 * HUGE) == (EINVAL, [])
    assert mapping.change(0, HUGE // 2 + PAGE, locked=True)
    assert len(mapping.vmas) == 2
    assert mapping.change(0, 2 * HUGE, locked=False)
    assert mapping.vmas == [Vma(0, 2 * HUGE)]
    assert asked(mapping, 0, 2 * HUGE) == (0, [0, 1])


def test_a_change_of_what_is_not_mapped_changes_the_rest():
    mapping = FileMapping(0, HUGE)
    assert not mapping.change(HUGE // 2, HUGE, prot="r")
    assert mapping.vmas == [Vma(0, HUGE // 2), Vma(HUGE // 2, HUGE, "r")]
    assert not mapping.change(2 * HUGE, HUGE, prot="r")


def test_a_failing_area_ends_the_walk():
    mapping = FileMapping(0, 3 * HUGE)
    mapping.change(0, PAGE, locked=True)
    assert asked(mapping, 0, 3 * HUGE) == (EINVAL, [])
    assert asked(mapping, PAGE, 3 * HUGE - PAGE) == (0, [1, 2])
