# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel's code does in odd cases, and what the port does there: one test per row of docs/xarray.md.

The kernel's answers are in tests/data/xarray/quirks; each test is named for its file. "Same" tests compare with the
recording by way of the replayer; the others show the clear error that the port raises instead, and that the tree
stays as it was.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmref.errors import Livelock, UsageError
from mmref.xarray import ULONG_MAX, XA_FLAGS_ALLOC1, XArray, XaState

TESTS = Path(__file__).parents[1]
QUIRKS = TESTS / "data" / "xarray" / "quirks"
SAME = [
    "01-store-inside-entry",
    "03-overlapping-ranges",
    "05-pause-in-the-middle",
    "08-create-range",
    "09-alloc1-index-0",
    "10-order-of-a-range",
    "11-find-in-the-middle",
    "12-free-mark",
    "17-mark-survives-order-store",
    "18-nomem-leaves-nodes",
    "19-alloc1-zero-entry",
]


def load_replayer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay_xarray_quirks", TESTS / "golden" / "replay_xarray.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


replayer = load_replayer()


def recorded(name: str) -> list[dict[str, Any]]:
    lines = (QUIRKS / f"{name}.out").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def play(name: str, until: int | None = None) -> Any:
    """Replay a recording up to a line (all of it by default) and return the replayer."""
    header, *lines = recorded(name)
    machine = replayer.Replay(header)
    for number, line in enumerate(lines[:until]):
        expected = {key: value for key, value in line.items() if key not in replayer.ARGUMENTS}
        got = machine.run(line)
        assert replayer.same(expected, got), (number, line, got)
    return machine


def refused(machine: Any, line: dict[str, Any], match: str) -> None:
    """Run one more line: it is refused, and the tree stays as it was."""
    before = machine.xa.dump()
    with pytest.raises(UsageError, match=match):
        machine.run(line)
    assert machine.xa.dump() == before
    machine.xa.check()


@pytest.mark.parametrize("name", SAME)
def test_same_as_the_kernel(name: str) -> None:
    play(name)


def test_every_recording_has_a_test() -> None:
    names = {path.stem for path in QUIRKS.glob("*.out")}
    numbers = {name[:2] for name in names}
    tested = {name[:2] for name in SAME} | {name[5:7] for name in globals() if name.startswith("test_")}
    assert len(names) == 19
    assert numbers <= tested


def test_02_nr_values() -> None:
    """A store that turns a part of a multi-index entry from pointer to value: the counts would go wrong."""
    lines = recorded("02-nr-values")
    machine = play("02-nr-values", 3)
    refused(machine, lines[4], "part of a multi-index entry from pointer to value")
    # All of it at once is fine, and so is erasing it first.
    xas = XaState(machine.xa, 12, order=2)
    xas.store(5)
    machine.xa.check()
    machine.xa.erase(12)
    machine.xa.store(14, "pointer")
    machine.xa.check()


def test_04_for_each_marked() -> None:
    """xa_for_each_marked() would find a marked multi-index entry again and again; items() and cursors do not."""
    lines = recorded("04-for-each-marked")
    machine = play("04-for-each-marked", 5)
    refused(machine, lines[6], "over and over")
    refused(machine, lines[7], "over and over")
    assert [index for index, _ in machine.xa.items(mark=0)] == [12, 30]
    for line in lines[8:]:
        assert machine.run(line)["ret"] == line["ret"]


def test_06_next_in_the_middle() -> None:
    """xas_next() after a load in the middle of an entry: index and slot would disagree from then on."""
    lines = recorded("06-next-in-the-middle")
    machine = play("06-next-in-the-middle", 5)
    refused(machine, lines[6], "in the middle of an entry that begins at slot 12")
    xas = machine.cursors[0]
    with pytest.raises(UsageError, match="in the middle"):
        xas.prev()
    xas.advance(15)
    assert xas.next() is machine.xa.load(16)
    assert xas.index == xas.offset == 16


def test_06_next_in_the_middle_above_the_leaves() -> None:
    xa: XArray[Any] = XArray()
    XaState(xa, 128, order=7).store("large")
    xa.store(256, "after")
    xas = XaState(xa, 200)
    assert xas.load() == "large"
    with pytest.raises(UsageError, match="in the middle of an entry that begins at slot 2"):
        xas.next()
    assert xas.index == 200
    xas.advance(255)
    assert xas.next() == "after"


def test_07_split_12_to_0() -> None:
    """A split that crosses two levels: 6.12 makes entries of order 6 and says nothing."""
    lines = recorded("07-split-12-to-0")
    machine = play("07-split-12-to-0", 3)
    refused(machine, lines[4], "cross two levels")
    refused(machine, lines[5], "cross two levels")
    assert machine.xa.allocator.live == 1  # the node that the entry is in: nothing has been allocated
    for order in (6, 0):
        step = XaState(machine.xa, 4096, order)
        step.split_alloc("part", order + 6)
        step.split("part", order + 6)
    assert machine.xa.get_order(4096) == 0
    machine.xa.check()


def test_13_mark_on_empty_slot() -> None:
    """A mark on an empty slot: the kernel's next search for it never returns."""
    lines = recorded("13-mark-on-empty-slot")
    machine = play("13-mark-on-empty-slot", 3)
    refused(machine, lines[4], "nothing to mark at index 5")
    empty: XArray[Any] = XArray()
    xas = XaState(empty)
    xas.load()
    with pytest.raises(UsageError, match="nothing to mark at index 0"):
        xas.set_mark(0)


def test_13_search_that_would_spin() -> None:
    """If the mark is there all the same (a writer in the middle of its work), the search waits for the change."""
    xa: XArray[Any] = XArray()
    xa.store(3, "three")
    xa.store(9, "nine")
    xa.set_mark(9, 0)
    xa.xa_head.marks[0] |= 1 << 5
    xas = XaState(xa)
    with pytest.raises(Livelock):
        xas.find_marked(100, 0)
    assert (xas.index, xas.offset, xas.node) == (5, 5, xa.xa_head)  # whoever interrupts it sees where it waits
    with pytest.raises(Livelock):
        xa.find(0, 100, 0)


def test_14_find_limit_at_node_end() -> None:
    """A search that stopped at the end of a node: going on would read past the node's slots."""
    lines = recorded("14-find-limit-at-node-end")
    machine = play("14-find-limit-at-node-end", 4)
    refused(machine, lines[5], r"call set\(64\) first")
    xas = machine.cursors[0]
    with pytest.raises(UsageError, match=r"call set\(64\) first"):
        xas.next()
    assert (xas.index, xas.offset) == (64, 64)
    xas.set(64)
    assert xas.find(200) is machine.xa.load(100)


def test_15_order_64() -> None:
    """The whole index space as one entry: the kernel stores at index 0 alone."""
    xa: XArray[Any] = XArray()
    with pytest.raises(UsageError, match="orders go from 0 to 63"):
        XaState(xa, 12345, order=64)
    xas = XaState(xa, 7)
    with pytest.raises(UsageError, match="orders go from 0 to 63"):
        xas.set_order(12345, 64)
    assert (xas.index, xas.shift, xas.sibs) == (7, 0, 0)
    xas.set_order(2**63 + 5, 63)
    xas.store("half of everything")
    assert xa.load(ULONG_MAX) == "half of everything"
    assert xa.get_order(ULONG_MAX) == 63


@pytest.mark.parametrize("entry", ["entry", None])
@pytest.mark.parametrize("first", [0, 1, ULONG_MAX - 3, ULONG_MAX])
def test_16_range_to_the_top(first: int, entry: Any) -> None:
    """A range that ends at 2**64 - 1: the kernel's loop never ends."""
    xa: XArray[Any] = XArray()
    xa.store(5, 5)
    xa.store(ULONG_MAX, "last")
    before = xa.dump()
    with pytest.raises(UsageError, match=r"ends at 2\*\*64 - 1"):
        xa.store_range(first, ULONG_MAX, entry)
    assert xa.dump() == before
    xa.erase(ULONG_MAX)
    xa.store(ULONG_MAX - 10, "near")
    with pytest.raises(UsageError, match=r"ends at 2\*\*64 - 1"):
        xa.store_range(first, ULONG_MAX, entry)
    xa.erase(ULONG_MAX - 10)
    xa.store(ULONG_MAX, "last")
    xa.store_range(ULONG_MAX - 3, ULONG_MAX - 1, "entry")
    assert list(xa.items(6)) == [(ULONG_MAX - 3, "entry"), (ULONG_MAX, "last")]


def test_20_wrap_around() -> None:
    """xas_next() from the last index and xas_prev() from the first return NULL, whatever the other end holds: same."""
    xa: XArray[Any] = XArray()
    xa.store(0, "first")
    xa.store(ULONG_MAX, "last")
    xas = XaState(xa, ULONG_MAX)
    assert xas.next() == "last"
    assert xas.next() is None
    assert xas.index == 0
    assert xas.next() is None
    assert xas.index == 1
    xas.set(0)
    assert xas.prev() == "first"
    assert xas.prev() is None
    assert xas.index == ULONG_MAX
    assert xas.load() == "last"


# -- misuse of cursors that FORMAT.md lists and no recording shows -------------------------------------------------


def test_30_store_after_conflict() -> None:
    """Storing with a cursor that find_conflict() left on an entry: the kernel stores there, not at the range."""
    xa: XArray[Any] = XArray()
    xa.store(14, "in the way")
    xa.store(100, "elsewhere")
    before = xa.dump()
    xas = XaState(xa, 12, order=2)
    assert xas.find_conflict() == "in the way"
    with pytest.raises(UsageError, match="not on the slot of its index"):
        xas.store("entry")
    assert xa.dump() == before
    assert xas.find_conflict() is None
    xas.store("entry")
    assert xa.load(15) == "entry"
    xa.check()


def test_30_store_after_a_conflict_at_the_beginning() -> None:
    """A conflict at the range's own first slot leaves the cursor where a store belongs."""
    xa: XArray[Any] = XArray()
    xa.store(12, "in the way")
    xa.store(13, "as well")
    xas = XaState(xa, 12, order=2)
    assert xas.find_conflict() == "in the way"
    xas.store("entry")
    assert list(xa.items()) == [(12, "entry")]
    assert xa.load(15) == "entry"


def test_14_store_behind_the_last_slot() -> None:
    xa: XArray[Any] = XArray()
    xa.store(3, "three")
    xa.store(100, "hundred")
    xas = XaState(xa, 4)
    assert xas.find(63) is None
    assert xas.offset == 64
    with pytest.raises(UsageError, match="not on the slot of its index"):
        xas.store("entry")
    with pytest.raises(UsageError, match="nothing to mark"):
        xas.set_mark(0)
    assert xas.prev() is None
    assert (xas.index, xas.offset) == (63, 63)
    xas.store("entry")
    assert xa.load(63) == "entry"
    xa.check()


def test_31_store_after_conflict_in_a_lower_node() -> None:
    xa: XArray[Any] = XArray()
    xa.store(64, "in the way")
    xas = XaState(xa, 64, order=6)
    assert xas.find_conflict() == "in the way"
    for entry in ("entry", None):
        with pytest.raises(UsageError, match="not on the slot of its index"):
            xas.store(entry)
    xas.reset()
    xas.store("entry")
    assert xa.load(127) == "entry"
    xa.check()


@pytest.mark.parametrize("entry", ["entry", None])
def test_32_store_on_a_sibling(entry: Any) -> None:
    """Storing with a cursor that next() has moved to a sibling slot: the kernel tears the entry apart."""
    xa: XArray[Any] = XArray()
    XaState(xa, 12, order=2).store("four")
    before = xa.dump()
    xas = XaState(xa, 12)
    xas.load()
    xas.next()
    with pytest.raises(UsageError, match="not on the slot of its index"):
        xas.store(entry)
    assert xa.dump() == before
    xas = XaState(xa, 12)
    xas.load()
    xas.next()
    with pytest.raises(UsageError, match="which has its marks where it begins"):
        xas.set_mark(0)
    assert xa.dump() == before
    xas.set(13)
    assert xas.store("five") == "four"
    assert xa.load(15) == "five"


def test_33_stale_cursor() -> None:
    """Changing the tree through a cursor whose node has been freed: the kernel writes into freed memory."""
    xa: XArray[Any] = XArray()
    xa.store(5, "five")
    xa.store(70, "seventy")
    cursors = [XaState(xa, 70, order) for order in (0, 1)]
    for xas in cursors:
        xas.load()
    xa.erase(70)
    for xas in cursors:
        before = xa.dump()
        for change in (
            lambda xas=xas: xas.store("entry"),
            lambda xas=xas: xas.store(None),
            lambda xas=xas: xas.set_mark(0),
            lambda xas=xas: xas.clear_mark(0),
            xas.init_marks,
            xas.create_range,
            lambda xas=xas: xas.split("entry", 3),
        ):
            with pytest.raises(UsageError, match="is stale: its node has left the tree"):
                change()
        assert xa.dump() == before
        xas.reload()  # looking is allowed, as in an RCU section
        xas.reset()
        assert xas.store("entry") in (None, "entry")
    xa.check()


def test_34_cursor_at_the_head_of_an_array_that_has_grown() -> None:
    """A cursor at the head finds its way by itself, in the kernel as here."""
    xa: XArray[Any] = XArray()
    xa.store(0, "zero")
    xas = XaState(xa, 0)
    assert xas.load() == "zero"
    assert xas.node is None
    xa.store(1, "one")
    assert xas.store(None) == "zero"
    assert xa.extract() == ["one"]
    xa.check()


def test_35_delete_node_twice() -> None:
    xa: XArray[Any] = XArray()
    xa.store(64, "entry")
    xas = XaState(xa, 64)
    xas.load()
    node: Any = xas.node
    xa.delete_node(node)
    assert xa.empty()
    with pytest.raises(UsageError, match="not in this array"):
        xa.delete_node(node)
    other: XArray[Any] = XArray()
    other.store(64, "entry")
    with pytest.raises(UsageError, match="not in this array"):
        xa.delete_node(other.xa_head)
    assert other.load(64) == "entry"


def test_36_split_without_nodes() -> None:
    """xas_split() without xas_split_alloc(): the kernel follows a NULL pointer."""
    xa: XArray[Any] = XArray()
    XaState(xa, 64, order=6).store("large")
    before = xa.dump()
    xas = XaState(xa, 64, order=2)
    with pytest.raises(UsageError, match="needs 1 nodes and has 0"):
        xas.split("small", 6)
    assert xa.dump() == before


def test_09_is_what_the_kernel_does() -> None:
    """An ID that is free and never handed out: kept, because callers may reserve index 0."""
    xa: XArray[Any] = XArray(flags=XA_FLAGS_ALLOC1)
    xa.reserve(0)
    xa.store(64, "entry")
    assert xa.load(1) is None
    assert xa.alloc("other", min=1) == 65
