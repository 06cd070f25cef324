# SPDX-License-Identifier: GPL-2.0-only
"""check() catches the violation of each invariant, and prints the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmref.errors import InvariantViolation
from mmref.xarray import RETRY, XA_FLAGS_ALLOC, XaNode, XArray, XaState, sibling


def tree(flags: int = 0) -> XArray[Any]:
    """Make two leaves below a top node, a multi-index entry, values, and marks."""
    xa: XArray[Any] = XArray(flags=flags)
    XaState(xa, 8, order=2).store("four")
    for index in (0, 1, 20, 64, 65):
        xa.store(index, f"entry {index}")
    xa.store(30, 3)
    if not flags:
        xa.set_mark(20, 0)
    xa.set_mark(64, 1)
    xa.check()
    return xa


def top(xa: XArray[Any]) -> XaNode:
    assert type(xa.xa_head) is XaNode
    return xa.xa_head


def leaf(xa: XArray[Any], offset: int = 0) -> XaNode:
    node = top(xa).slots[offset]
    assert type(node) is XaNode
    return node


def set_slot(xa: XArray[Any], offset: int, entry: Any) -> None:
    leaf(xa).slots[offset] = entry


def set_count(xa: XArray[Any], count: int) -> None:
    top(xa).count = count


def swap(xa: XArray[Any]) -> None:
    slots = top(xa).slots
    slots[0], slots[1] = slots[1], slots[0]


VIOLATIONS: list[tuple[str, str, Callable[[XArray[Any]], Any]]] = [
    ("parent", "has a parent", lambda xa: setattr(top(xa), "parent", leaf(xa))),
    ("parent", "has another parent", lambda xa: setattr(leaf(xa), "parent", None)),
    ("offset", "claims slot 3", lambda xa: setattr(top(xa), "offset", 3)),
    ("offset", "claims slot 1", lambda xa: setattr(leaf(xa), "offset", 1)),
    ("offset", "claims slot", swap),
    ("array", "does not belong", lambda xa: setattr(leaf(xa), "array", None)),
    ("array", "does not belong", lambda xa: setattr(leaf(xa), "array", XArray())),
    ("slots", "63 slots", lambda xa: leaf(xa).slots.pop()),
    ("shift", "not a level", lambda xa: setattr(top(xa), "shift", 7)),
    ("shift", "not a level", lambda xa: setattr(top(xa), "shift", 66)),
    ("shift", "one level down", lambda xa: setattr(top(xa), "shift", 12)),
    ("shift", "one level down", lambda xa: setattr(leaf(xa), "shift", 6)),
    ("shift", "leaf", lambda xa: set_slot(xa, 0, leaf(xa, 1))),
    ("count", "counts 9 entries and holds 8", lambda xa: setattr(leaf(xa), "count", 9)),
    ("count", "holds 7", lambda xa: set_slot(xa, 1, None)),
    ("nr_values", "counts 2 values and holds 1", lambda xa: setattr(leaf(xa), "nr_values", 2)),
    ("nr_values", "holds 0", lambda xa: set_slot(xa, 30, "no value")),
    ("nr_values", "holds 5", lambda xa: set_slot(xa, 8, 7)),
    ("sibling", "does not come before", lambda xa: set_slot(xa, 9, sibling(9))),
    ("sibling", "does not come before", lambda xa: set_slot(xa, 9, sibling(20))),
    ("sibling", "across another entry", lambda xa: set_slot(xa, 10, sibling(1))),
    ("sibling", "across another entry", lambda xa: set_slot(xa, 10, "in between")),
    ("sibling", "leads to None", lambda xa: set_slot(xa, 30, sibling(29))),
    ("sibling", "leads to <XaNode", lambda xa: top(xa).slots.__setitem__(2, sibling(1)) or set_count(xa, 3)),
    ("marks", "of the node there differ", lambda xa: top(xa).marks.__setitem__(0, 3)),
    ("marks", "of the node there differ", lambda xa: top(xa).marks.__setitem__(1, 0)),
    ("marks", "top node", lambda xa: top(xa).marks.__setitem__(2, 1 << 1) or leaf(xa, 1).marks.__setitem__(2, 1)),
    ("marks", "top node", lambda xa: setattr(xa, "xa_flags", 0)),
    ("marks", "beyond its slots", lambda xa: leaf(xa).marks.__setitem__(0, 1 << 64 | 1 << 20)),
    ("marks", "holds None", lambda xa: leaf(xa).marks.__setitem__(0, 1 << 5)),
    ("marks", "holds sibling", lambda xa: leaf(xa).marks.__setitem__(0, 1 << 9)),
    ("live", "that are allocated", lambda xa: setattr(xa.allocator, "live", 2)),
]


@pytest.mark.parametrize(("name", "detail", "damage"), VIOLATIONS, ids=[f"{n}: {d}" for n, d, _ in VIOLATIONS])
def test_violation(
    name: str, detail: str, damage: Callable[[XArray[Any]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    xa = tree()
    damage(xa)
    with pytest.raises(InvariantViolation) as caught:
        xa.check()
    assert caught.value.invariant == f"xarray {name}"
    assert detail in caught.value.detail
    assert "xarray: head node" in capsys.readouterr().err


def test_free_mark() -> None:
    xa = tree(XA_FLAGS_ALLOC)
    leaf(xa).marks[0] ^= 1 << 40
    with pytest.raises(InvariantViolation, match=r"slot 40 of .* is empty and not marked as free"):
        xa.check()


@pytest.mark.parametrize("head", [RETRY, sibling(0)])
def test_head(head: object) -> None:
    xa: XArray[Any] = XArray()
    xa.xa_head = head
    with pytest.raises(InvariantViolation, match="the head holds"):
        xa.check()


@pytest.mark.parametrize("mark", range(3))
def test_marked_and_empty(mark: int) -> None:
    xa: XArray[Any] = XArray()
    xa.store(0, "entry")
    xa.set_mark(0, mark)
    xa.check()
    xa.xa_head = None
    with pytest.raises(InvariantViolation, match=f"the array is empty and has mark {mark}"):
        xa.check()


def test_allocating_array_that_is_empty() -> None:
    XArray(flags=XA_FLAGS_ALLOC).check()


def test_sound_trees_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tree().check()
    tree(XA_FLAGS_ALLOC).check()
    xa = tree()
    with xa.xa_lock:
        XaState(xa, 50).store(RETRY)  # the advanced API may
    xa.check()
    assert capsys.readouterr() == ("", "")


def test_dump() -> None:
    xa: XArray[Any] = XArray(chunk_shift=2)
    XaState(xa, 4, order=1).store("two")
    xa.store(3, 7)
    xa.set_mark(3, 1)
    with xa.xa_lock:
        XaState(xa, 16).store(RETRY)
    xa.reserve(20)
    assert xa.dump().splitlines() == [
        "xarray: head node flags 0x0 marks 0 1 0",
        "0-63: node max 0 shift 4 count 2 values 0 marks 0 1 0",
        "  0-15: node offset 0 shift 2 count 2 values 0 marks 0 1 0",
        "    0-3: node offset 0 shift 0 count 1 values 1 marks 0 8 0",
        "      3: value 7 (0x7)",
        "    4-7: node offset 1 shift 0 count 2 values 0 marks 0 0 0",
        "      4: 'two'",
        "      5: sibling (slot 0)",
        "  16-31: node offset 1 shift 2 count 2 values 0 marks 0 0 0",
        "    16-19: node offset 0 shift 0 count 1 values 0 marks 0 0 0",
        "      16: retry (256)",
        "    20-23: node offset 1 shift 0 count 1 values 0 marks 0 0 0",
        "      20: zero (257)",
    ]


def test_dump_without_nodes() -> None:
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC)
    assert xa.dump() == "xarray: head None flags 0x4 marks 1 0 0"
    xa = XArray()
    xa.store(0, 2**62)
    assert xa.dump().splitlines()[1] == f"0: value {2**62} (0x4000000000000000)"


def test_dump_of_the_highest_index() -> None:
    xa: XArray[Any] = XArray()
    xa.store(2**64 - 1, "last")
    lines = xa.dump().splitlines()
    assert lines[1].startswith("0-18446744073709551615: node max 0 shift 60 ")
    assert lines[-1].strip() == "18446744073709551615: 'last'"
