# SPDX-License-Identifier: GPL-2.0-only
import pytest

from mmref.live.observation import MIXED, checksum, content_tags, page_content, runs, tag_of

PAGE = 4096


def test_the_pattern_tells_page_generation_and_word():
    content = page_content(0x123, 7)
    assert len(content) == PAGE
    assert int.from_bytes(content[8 * 5 : 8 * 6], "little") == 0x5A << 56 | 7 << 40 | 0x123 << 12 | 5


@pytest.mark.parametrize("gen", [1, 2, 250, 255])
def test_a_page_is_named_by_its_generation(gen):
    assert tag_of(page_content(9, gen), 9) == gen
    assert tag_of(page_content(9, gen), 10) == MIXED
    assert tag_of(page_content(9, gen)[:100], 9) == gen


def test_anything_else_is_mixed():
    assert tag_of(bytes(PAGE), 3) == 0
    assert tag_of(bytes(7), 3) == 0
    assert tag_of(b"\1" * PAGE, 3) == MIXED
    assert tag_of(page_content(3, 1)[:-1] + b"\0", 3) == MIXED
    assert tag_of(bytes(100) + page_content(3, 1)[100:], 3) == MIXED


def test_content_is_runs_and_mixed_pages_have_a_checksum():
    content = page_content(0, 1) + page_content(1, 1) + bytes(PAGE) + b"x" * 10
    tags, mixed = content_tags(content)
    assert tags == [[0, 2, 1], [2, 3, 0], [3, 4, MIXED]]
    assert [page for page, _ in mixed] == [3]
    assert content_tags(content[:-1])[1] != mixed


def test_runs_keep_gaps_apart():
    assert runs([True, False, True, True], False) == [[0, 1, True], [2, 4, True]]
    assert runs([]) == []


def test_the_checksum_is_that_of_the_recordings():
    """full_512 of every recording: 512 pages of generation 1."""
    assert checksum(b"".join(page_content(page, 1) for page in range(512))) == "2836007ee3ce2325"
    assert checksum(b"") == "cbf29ce484222325"
    assert checksum(b"a") == checksum(b"a" + bytes(4095))
