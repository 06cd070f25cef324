# SPDX-License-Identifier: GPL-2.0-only
"""The examples on the page about the XArray do what the page says, and its table names every test of an odd use."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "xarray.md"


def test_examples() -> None:
    text = re.sub(r"^```.*$", "", PAGE.read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) >= 18
    complaints: list[str] = []
    assert doctest.DocTestRunner().run(test, out=complaints.append).failed == 0, "".join(complaints)


def test_table_of_odd_uses() -> None:
    rows = re.findall(r"^\| (\d\d(?:, \d\d)*) \|", PAGE.read_text(), re.MULTILINE)
    numbers = {int(number) for row in rows for number in row.split(", ")}
    tests = (Path(__file__).parent / "test_quirks.py").read_text()
    same = {int(n) for n in re.findall(r'^    "(\d\d)-', tests, re.MULTILINE)}
    own = {int(n) for n in re.findall(r"^def test_(\d\d)_", tests, re.MULTILINE)}
    assert numbers == same | own
