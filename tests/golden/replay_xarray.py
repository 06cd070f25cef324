#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Replay recorded XArray traces and compare everything: results, cursors, callbacks, dumps, node counts.

    python tests/golden/replay_xarray.py DIR

replays all ``*.jsonl.gz`` in a folder, and below it. For each trace that differs it prints the name, the first
differing line (what the kernel did, what the port did) and the tree before that line. The last line of output is
``N of M traces replay``. Exit status: 0 all agree, 1 some differ, 2 the folder holds no traces or one of them
cannot be read.

The format is defined in tests/data/xarray/FORMAT.md.
"""

# ruff: noqa: ARG002  (one signature for all operations, whether they have arguments or not)

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmref.errors import MmrefError, UsageError, XArrayError
from mmref.xarray import (
    RETRY,
    XA_FLAGS_ALLOC,
    XA_FLAGS_ALLOC1,
    XA_FLAGS_ALLOC_WRAPPED,
    XA_PRESENT,
    XAS_BOUNDS,
    XAS_RESTART,
    ZERO,
    Internal,
    NodeState,
    TaggedPointer,
    XaNode,
    XArray,
    XaState,
    sibling,
)

Json = Any
FLAGS = {"0": 0, "ALLOC": XA_FLAGS_ALLOC, "ALLOC1": XA_FLAGS_ALLOC1}
CURSORS = 8


class UnreadableTrace(Exception):
    """A file is not a complete trace; the message is one sentence for the user."""


class Item:
    """One of the 256 things that plain pointers of a trace point to."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"p{self.number}"


ITEMS = [Item(number) for number in range(256)]


@dataclass(frozen=True)
class Difference:
    """The first line of a trace where the port does something else than the kernel."""

    name: str
    line: int
    operation: str
    expected: str
    got: str
    tree: str

    def __str__(self) -> str:
        return (
            f"{self.name}: line {self.line} differs: {self.operation}\n"
            f"  expected {self.expected}\n"
            f"  got      {self.got}\n"
            f"  the tree before it:\n" + "".join(f"    {line}\n" for line in self.tree.splitlines())
        )


def decode(entry: Json) -> Any:
    """Turn a trace's entry into one of ours."""
    if entry is None:
        return None
    if isinstance(entry, str):
        if entry == "zero":
            return ZERO
        if entry == "retry":
            return RETRY
        return sibling(int(entry.removeprefix("sib:")))
    if "v" in entry:
        return entry["v"]
    item = ITEMS[entry["p"]]
    return TaggedPointer(item, entry["t"]) if "t" in entry else item


def encode(entry: Any) -> Json:
    """Turn an entry of ours into a trace's."""
    if entry is None:
        return None
    if type(entry) is int:
        return {"v": entry}
    if type(entry) is Item:
        return {"p": entry.number}
    if type(entry) is TaggedPointer and type(entry.pointer) is Item:
        return {"p": entry.pointer.number, "t": entry.tag}
    if type(entry) is Internal:
        return "zero" if entry is ZERO else "retry" if entry is RETRY else f"sib:{entry.number}"
    if type(entry) is XaNode:
        return f"node:{entry.shift}"
    return f"UNKNOWN {entry!r}"


def encode_node(node: XaNode) -> tuple[Json, int]:
    """Turn a node into a dump, and count the nodes in it."""
    nodes = 1
    slots: dict[str, Json] = {}
    for offset, entry in enumerate(node.slots):
        if type(entry) is XaNode and node.shift:
            slots[str(offset)], below = encode_node(entry)
            nodes += below
        elif entry is not None:
            slots[str(offset)] = encode(entry)
    return {
        "shift": node.shift,
        "offset": node.offset,
        "count": node.count,
        "nr_values": node.nr_values,
        "marks": [f"{bits:x}" for bits in node.marks],
        "slots": slots,
    }, nodes


def encode_dump(xa: XArray[Any]) -> Json:
    """Describe the array as a trace does."""
    head: Json
    if type(xa.xa_head) is XaNode:
        head, nodes = encode_node(xa.xa_head)
    else:
        head, nodes = encode(xa.xa_head), 0
    return {
        "marks": [xa.marked(mark) for mark in range(3)],
        "wrapped": bool(xa.xa_flags & XA_FLAGS_ALLOC_WRAPPED),
        "head": head,
        "nodes": nodes,
        "live": xa.allocator.live,
    }


def encode_state(xas: XaState) -> Json:
    """Describe a cursor as a trace does."""
    node = xas.node
    where: Json
    if node is None:
        where = None
    elif type(node) is NodeState:
        where = "restart" if node is XAS_RESTART else "bounds" if node is XAS_BOUNDS else {"err": node.errno}
    elif node.array is None:
        where = {"shift": node.shift, "dead": True}
    else:
        base = 0
        below = node
        while below.parent is not None:
            base += below.offset << below.parent.shift
            below = below.parent
        where = {"shift": node.shift, "base": base}
    waiting = 0
    spare = xas.alloc
    while spare is not None:
        waiting += 1
        spare = spare.parent
    return {
        "index": xas.index,
        "shift": xas.shift,
        "sibs": xas.sibs,
        "offset": xas.offset,
        "node": where,
        "alloc": waiting,
    }


class Replay:
    """An array, its eight cursors, and one method for each operation of the format.

    A method takes the operation's line and returns a dict with ``ret`` and the further outputs.
    """

    def __init__(self, header: dict[str, Json]) -> None:
        self.xa: XArray[Any] = XArray(chunk_shift=header["xa_chunk_shift"], flags=FLAGS[header["flags"]])
        self.cursors = [XaState(self.xa) for _ in range(CURSORS)]
        self.updates: list[Json] = []

    def run(self, line: dict[str, Json]) -> dict[str, Json]:
        """Do one operation; return the line as we would have recorded it, without the arguments."""
        self.updates.clear()
        op = line["op"]
        if "x" not in line:
            method: Callable[[dict[str, Json]], dict[str, Json]] = getattr(self, op)
            return method(line)
        number = line["x"]
        on_cursor: Callable[[XaState, dict[str, Json]], Json] = getattr(self, op)
        out = {"ret": on_cursor(self.cursors[number], line)}
        xas = self.cursors[number]
        out["st"] = encode_state(xas)
        if xas.update is not None:
            out["upd"] = list(self.updates)
        return out

    def record_update(self, node: XaNode) -> None:
        self.updates.append([node.shift, node.offset, node.count, node.nr_values])

    # -- the normal API ------------------------------------------------------------------------------------------

    @staticmethod
    def entry_or_error(call: Callable[[], Any]) -> dict[str, Json]:
        try:
            return {"ret": encode(call())}
        except XArrayError as error:
            return {"ret": {"err": -error.errno}}

    @staticmethod
    def status(call: Callable[[], Any]) -> dict[str, Json]:
        try:
            call()
        except XArrayError as error:
            return {"ret": -error.errno}
        return {"ret": 0}

    @staticmethod
    def filter(line: dict[str, Json]) -> int:
        return XA_PRESENT if line["filter"] == "present" else line["filter"]

    def xa_load(self, line: dict[str, Json]) -> dict[str, Json]:
        return {"ret": encode(self.xa.load(line["index"]))}

    def xa_store(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.entry_or_error(lambda: self.xa.store(line["index"], decode(line["entry"])))

    def xa_erase(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.entry_or_error(lambda: self.xa.erase(line["index"]))

    def xa_insert(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.status(lambda: self.xa.insert(line["index"], decode(line["entry"])))

    def xa_cmpxchg(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.entry_or_error(lambda: self.xa.cmpxchg(line["index"], decode(line["old"]), decode(line["entry"])))

    def xa_reserve(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.status(lambda: self.xa.reserve(line["index"]))

    def xa_release(self, line: dict[str, Json]) -> dict[str, Json]:
        self.xa.release(line["index"])
        return {"ret": None}

    def xa_store_range(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.entry_or_error(lambda: self.xa.store_range(line["first"], line["last"], decode(line["entry"])))

    def xa_find(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.found(line, self.xa.find(line["index"], line["max"], self.filter(line)))

    def xa_find_after(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.found(line, self.xa.find_after(line["index"], line["max"], self.filter(line)))

    @staticmethod
    def found(line: dict[str, Json], found: tuple[int, Any] | None) -> dict[str, Json]:
        index, entry = (line["index"], None) if found is None else found
        return {"ret": encode(entry), "index_out": index}

    @staticmethod
    def pairs(found: Iterator[tuple[int, Any]], line: dict[str, Json]) -> dict[str, Json]:
        return {"ret": [[index, encode(entry)] for index, entry in islice(found, line["limit"])]}

    def xa_for_each(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.pairs(self.xa.for_each(), line)

    def xa_for_each_range(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.pairs(self.xa.for_each(line["first"], line["last"]), line)

    def xa_for_each_marked(self, line: dict[str, Json]) -> dict[str, Json]:
        return self.pairs(self.xa.for_each(filter=line["filter"]), line)

    def xa_extract(self, line: dict[str, Json]) -> dict[str, Json]:
        entries = self.xa.extract(line["start"], line["max"], line["n"], self.filter(line))
        return {"ret": [encode(entry) for entry in entries]}

    def xa_set_mark(self, line: dict[str, Json]) -> dict[str, Json]:
        self.xa.set_mark(line["index"], line["mark"])
        return {"ret": None}

    def xa_clear_mark(self, line: dict[str, Json]) -> dict[str, Json]:
        self.xa.clear_mark(line["index"], line["mark"])
        return {"ret": None}

    def xa_get_mark(self, line: dict[str, Json]) -> dict[str, Json]:
        return {"ret": self.xa.get_mark(line["index"], line["mark"])}

    def xa_marked(self, line: dict[str, Json]) -> dict[str, Json]:
        return {"ret": self.xa.marked(line["mark"])}

    def xa_alloc(self, line: dict[str, Json]) -> dict[str, Json]:
        try:
            return {"ret": 0, "id": self.xa.alloc(decode(line["entry"]), line["min"], line["max"])}
        except XArrayError as error:
            return {"ret": -error.errno, "id": None}

    def xa_alloc_cyclic(self, line: dict[str, Json]) -> dict[str, Json]:
        try:
            got = self.xa.alloc_cyclic(decode(line["entry"]), line["next"], line["min"], line["max"])
        except XArrayError as error:
            return {"ret": -error.errno, "id": None, "next_out": line["next"]}
        return {"ret": int(got.wrapped), "id": got.id, "next_out": got.next}

    def xa_destroy(self, line: dict[str, Json]) -> dict[str, Json]:
        self.xa.destroy()
        return {"ret": None}

    def xa_empty(self, line: dict[str, Json]) -> dict[str, Json]:
        return {"ret": self.xa.empty()}

    def xa_get_order(self, line: dict[str, Json]) -> dict[str, Json]:
        return {"ret": self.xa.get_order(line["index"])}

    def fill(self, line: dict[str, Json]) -> dict[str, Json]:
        answers = 0
        for k in range(line["count"]):
            number = line["base"] + k
            entry = number if line["kind"] == "v" else ITEMS[number % 256]
            try:
                answers += self.xa.store(line["start"] + k * line["step"], entry) is not None
            except XArrayError:
                answers += 1
        return {"ret": answers}

    def erase_many(self, line: dict[str, Json]) -> dict[str, Json]:
        indices = range(line["start"], line["start"] + line["count"] * line["step"], line["step"])
        return {"ret": sum(self.xa.erase(index) is not None for index in indices)}

    def alloc_budget(self, line: dict[str, Json]) -> dict[str, Json]:
        self.xa.allocator.budget(line["nowait"], line["blocking"])
        return {"ret": None}

    def dump(self, line: dict[str, Json]) -> dict[str, Json]:
        return {"ret": encode_dump(self.xa)}

    # -- cursors -------------------------------------------------------------------------------------------------

    def XA_STATE(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.destroy()
        self.cursors[line["x"]] = XaState(self.xa, line["index"], line.get("order", 0))

    XA_STATE_ORDER = XA_STATE

    def xas_set(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.set(line["index"])

    def xas_set_order(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.set_order(line["index"], line["order"])

    def xas_reset(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.reset()

    def xas_set_err(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.set_err(line["errno"])

    def xas_set_update(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.set_update(self.record_update if line["on"] else None)

    def xas_load(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.load())

    def xas_reload(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.reload())

    def xas_next(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.next())

    def xas_prev(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.prev())

    def xas_find(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.find(line["max"]))

    def xas_next_entry(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.next_entry(line["max"]))

    def xas_find_marked(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.find_marked(line["max"], line["mark"]))

    def xas_next_marked(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.next_marked(line["max"], line["mark"]))

    def xas_find_conflict(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.find_conflict())

    @staticmethod
    def loop(found: Iterator[Any], limit: int, body: Callable[[Any], Json]) -> Json:
        """Run a loop over a cursor, and leave it the way the recorder does: from inside its body."""
        out = []
        for entry in found:
            out.append(body(entry))
            if len(out) == limit:
                break
        return out

    def xas_for_each(self, xas: XaState, line: dict[str, Json]) -> Json:
        def body(entry: Any) -> Json:
            pair = [xas.index, encode(entry)]
            xas.retry(entry)
            return pair

        return self.loop(xas.for_each(line["max"]), line["limit"], body)

    def xas_for_each_marked(self, xas: XaState, line: dict[str, Json]) -> Json:
        def body(entry: Any) -> Json:
            pair = [xas.index, encode(entry)]
            xas.retry(entry)
            return pair

        return self.loop(xas.for_each_marked(line["max"], line["mark"]), line["limit"], body)

    def xas_for_each_conflict(self, xas: XaState, line: dict[str, Json]) -> Json:
        return self.loop(xas.for_each_conflict(), line["limit"], encode)

    def xas_for_each_store(self, xas: XaState, line: dict[str, Json]) -> Json:
        def body(entry: Any) -> Json:
            pair = [xas.index, encode(entry)]
            xas.store(decode(line["entry"]))
            return pair

        return self.loop(xas.for_each(line["max"]), line["limit"], body)

    def xas_for_each_marked_tag(self, xas: XaState, line: dict[str, Json]) -> Json:
        def body(entry: Any) -> Json:
            pair = [xas.index, encode(entry)]
            xas.set_mark(line["set"])
            return pair

        return self.loop(xas.for_each_marked(line["max"], line["mark"]), line["limit"], body)

    def xas_pause(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.pause()

    def xas_retry(self, xas: XaState, line: dict[str, Json]) -> Json:
        return xas.retry(decode(line["entry"]))

    def xas_advance(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.advance(line["index"])

    def xas_get_mark(self, xas: XaState, line: dict[str, Json]) -> Json:
        return xas.get_mark(line["mark"])

    def xas_set_mark(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.set_mark(line["mark"])

    def xas_clear_mark(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.clear_mark(line["mark"])

    def xas_init_marks(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.init_marks()

    def xas_get_order(self, xas: XaState, line: dict[str, Json]) -> Json:
        return xas.get_order()

    def xas_store(self, xas: XaState, line: dict[str, Json]) -> Json:
        return encode(xas.store(decode(line["entry"])))

    def xas_store_nomem(self, xas: XaState, line: dict[str, Json]) -> Json:
        while True:
            old = xas.store(decode(line["entry"]))
            if not xas.nomem():
                return encode(old)

    def xas_create_range(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.create_range()

    def xas_split_alloc(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.split_alloc(decode(line["entry"]), line["order"])

    def xas_split(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.split(decode(line["entry"]), line["order"])

    def xas_nomem(self, xas: XaState, line: dict[str, Json]) -> Json:
        return xas.nomem()

    def xas_destroy(self, xas: XaState, line: dict[str, Json]) -> Json:
        xas.destroy()

    def xa_delete_node(self, xas: XaState, line: dict[str, Json]) -> Json:
        assert type(xas.node) is XaNode
        self.xa.delete_node(xas.node, xas.update)


OPERATIONS = frozenset(
    name for name in vars(Replay) if name.startswith(("xa_", "xas_", "XA_")) or name in ("fill", "erase_many")
) | {"alloc_budget", "dump"}
ARGUMENTS = frozenset(
    {"op", "x", "index", "entry", "old", "first", "last", "max", "filter", "limit", "start", "n", "mark", "min"}
    | {"next", "count", "step", "kind", "base", "order", "errno", "on", "set", "nowait", "blocking"}
)


def read_lines(path: Path) -> list[str]:
    """Read a trace's lines.

    Raises:
        UnreadableTrace: not a gzip file, or cut off.
    """
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UnreadableTrace(f"{path}: cannot be read as a trace ({error})") from error
    if not text.endswith("\n"):
        raise UnreadableTrace(f"{path}: cut off in the middle of a line")
    return text.splitlines()


def parse(path: Path, number: int, text: str) -> dict[str, Json]:
    """Parse one line of a trace."""
    try:
        line = json.loads(text)
    except ValueError as error:
        raise UnreadableTrace(f"{path}: line {number} is not JSON ({error})") from error
    if not isinstance(line, dict):
        raise UnreadableTrace(f"{path}: line {number} is not an operation")
    return line


def replay(path: Path | str) -> Difference | None:
    """Replay one trace.

    Args:
        path: a ``.jsonl.gz`` file.

    Returns:
        The first difference, or None.

    Raises:
        UnreadableTrace: the file is not a complete trace.
    """
    path = Path(path)
    lines = read_lines(path)
    if not lines:
        raise UnreadableTrace(f"{path}: the file is empty")
    header = parse(path, 1, lines[0])
    if header.get("flags") not in FLAGS or header.get("xa_chunk_shift") not in range(1, 7) or not header.get("multi"):
        raise UnreadableTrace(f"{path}: line 1 is not the header of an XArray trace")
    machine = Replay(header)
    for number, text in enumerate(lines[1:], 2):
        line = parse(path, number, text)
        if line.get("op") not in OPERATIONS or "ret" not in line:
            raise UnreadableTrace(f"{path}: line {number} is not an operation of the format")
        expected = {key: value for key, value in line.items() if key not in ARGUMENTS}
        # The tree is wanted as it was before the line: text costs too much to make for every line, so a trace
        # that differs is replayed once more up to there.
        try:
            got = machine.run(line)
        except (KeyError, IndexError) as error:
            if isinstance(error, KeyError) and error.args[0] in ARGUMENTS:
                raise UnreadableTrace(f"{path}: line {number} lacks {error}") from error
            got = {"raised": f"{type(error).__name__}: {error}"}
        except (MmrefError, UsageError, AssertionError, TypeError, AttributeError) as error:
            got = {"raised": f"{type(error).__name__}: {error}"}
        if not same(expected, got):
            operation = json.dumps({key: value for key, value in line.items() if key in ARGUMENTS})
            return Difference(path.name, number, operation, *show(expected, got), tree_before(header, lines, number))
    return None


def same(one: Json, other: Json) -> bool:
    """Compare two JSON values; true is not 1, and the order of keys counts where FORMAT.md gives one."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def show(expected: dict[str, Json], got: dict[str, Json]) -> tuple[str, str]:
    """Keep only the parts that differ."""
    keys = [key for key in dict.fromkeys([*expected, *got]) if not same(expected.get(key, ...), got.get(key, ...))]
    return tuple(  # type: ignore[return-value]
        json.dumps({key: part[key] for key in keys if key in part}) for part in (expected, got)
    )


def tree_before(header: dict[str, Json], lines: list[str], number: int) -> str:
    """Replay up to a line, and describe the array."""
    machine = Replay(header)
    for text in lines[1 : number - 1]:
        machine.run(json.loads(text))
    return machine.xa.dump()


def main(arguments: list[str]) -> int:
    """Replay every trace in a folder."""
    if len(arguments) != 1:
        print("usage: python tests/golden/replay_xarray.py DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    traces = sorted(folder.rglob("*.jsonl.gz")) if folder.is_dir() else []
    if not traces:
        print(f"{folder}: there are no traces (*.jsonl.gz) in this folder", file=sys.stderr)
        return 2
    agreeing = 0
    unreadable = False
    for path in traces:
        try:
            difference = replay(path)
        except UnreadableTrace as error:
            print(error, file=sys.stderr)
            unreadable = True
            continue
        if difference is None:
            agreeing += 1
        else:
            print(difference)
    print(f"{agreeing} of {len(traces)} traces replay")
    return 2 if unreadable else int(agreeing != len(traces))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
