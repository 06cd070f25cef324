# SPDX-License-Identifier: GPL-2.0-only
"""Reading where a real file has data, and making a small layout of it."""

import os

import pytest

from mmref.errors import UsageError
from mmref.live import data_extents, layout_like, sparse_file

PAGE = 4096


@pytest.fixture
def holes_work(tmp_path):
    sparse_file(tmp_path / "probe", "D.D.")
    if data_extents(tmp_path / "probe")[1] == [(0, 4 * PAGE)]:
        pytest.skip("this filesystem does not report holes")


@pytest.mark.parametrize("layout", ["D", "DDDD", "DD.D", ".DDD", "D..D", "...D", "D...", ".D.D.D.D"])
@pytest.mark.usefixtures("holes_work")
def test_what_is_written_is_what_is_read(tmp_path, layout):
    sparse_file(tmp_path / "f", layout)
    size, extents = data_extents(tmp_path / "f")
    assert size == len(layout) * PAGE
    pages = [any(start <= page * PAGE < end for start, end in extents) for page in range(len(layout))]
    assert pages == [kind == "D" for kind in layout]
    assert layout_like(tmp_path / "f", len(layout)) == layout


@pytest.mark.parametrize(
    ("layout", "pages", "expected"),
    [
        ("DD", 4, "DD.."),  # behind the end of the file is a hole
        ("D" * 100, 4, "DDDD"),
        ("D" * 50 + "." * 50, 4, "DD.."),
        ("D" * 90 + "." * 5 + "D" * 5, 8, "DDDDDD.D"),
        ("D.D.D.D.D.", 4, "D.D."),
        ("." * 64 + "DD", 4, "...D"),
        ("D" + "." * 200 + "D", 8, "D......D"),
    ],
)
@pytest.mark.usefixtures("holes_work")
def test_a_larger_file_is_shrunk_to_its_first_extents(tmp_path, layout, pages, expected):
    sparse_file(tmp_path / "f", layout)
    assert layout_like(tmp_path / "f", pages) == expected


def test_a_file_that_ends_inside_a_page(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * (PAGE + 1))
    assert layout_like(tmp_path / "f", 4) == "DD.."


def test_only_so_many_extents_are_read(tmp_path):
    sparse_file(tmp_path / "f", "D." * 50)
    assert len(data_extents(tmp_path / "f", most=7)[1]) <= 7


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda _: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.write_bytes(b""), "is empty; give a file that has data"),
    ],
)
def test_what_has_no_layout_is_refused(tmp_path, make, text):
    make(tmp_path / "f")
    with pytest.raises(UsageError, match=text):
        layout_like(tmp_path / "f")


@pytest.mark.usefixtures("holes_work")
def test_a_file_that_is_one_hole_is_refused(tmp_path):
    sparse_file(tmp_path / "f", "....")
    with pytest.raises(UsageError, match="is one hole of 16384 bytes"):
        layout_like(tmp_path / "f")


def test_a_name_with_a_null_byte_is_refused():
    with pytest.raises(UsageError, match="cannot be read"):
        layout_like("a\0b")
