# SPDX-License-Identifier: GPL-2.0-only
"""Shared state is touched through primitives only, so that the explorer can stand before each access.

A primitive is a method or declared field of a class that `mmref.explore.twins` shadows. Here the source of every
module from the locks to the machine is searched for anything that reaches around them.
"""

import ast
import inspect
from pathlib import Path

import pytest

import mmref
from mmref.explore.twins import TRACED
from mmref.machine import Parts

ROOT = Path(mmref.__file__).parent
MODULES = sorted(
    path
    for room in ("folio", "pagecache", "khugepaged", "machine.py", "process.py")
    for path in ([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"))
)

RAW = {
    "_flags": "folio", "_refcount": "folio", "_mapcount": "folio", "_list": "folio/lru.py", "_batches": "folio/lru.py",
    "_free": "folio/allocator.py", "_ptes": "pagecache/page_table.py", "_pmds": "pagecache/mm.py",
    "_entries": "pagecache/tlb.py", "_pending": "pagecache/tlb.py", "_cache": "pagecache/swap.py",
    "_map": "pagecache/swap.py", "_content": "pagecache/swap.py", "_counters": "pagecache/vmstat.py",
    "slots": "xarray", "xa_head": "xarray",
}  # fmt: skip
"""Raw fields, and the room or module in which they are at home."""

LOOKING = {("pagecache/check.py", "slots"), ("khugepaged/museum/cursor.py", "slots")}
"""Checkers look at what is there without that being an access. Exhibit m02 is the bug of storing past the node."""

PEEKS = {"peek", "peek_mapcount", "_peek_head", "in_use", "cached", "waiting", "in_batches", "snapshot", "by_tag"}
"""Methods that look without an access: for checkers and pictures only."""

MAY_PEEK = {"pagecache/check.py", "pagecache/mm.py", "machine.py"}


def name(path):
    return path.relative_to(ROOT).as_posix()


def raw_accesses(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in RAW:
            yield node.attr, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_reaches_around_the_primitives(path):
    found = [
        (field, line)
        for field, line in raw_accesses(path)
        if not name(path).startswith(RAW[field]) and (name(path), field) not in LOOKING
    ]
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_checkers_look_without_an_access(path):
    calls = [
        (node.func.attr, node.lineno)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PEEKS
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "self")
    ]  # fmt: skip
    assert name(path) in MAY_PEEK or calls == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_room_imports_from_a_floor_above(path):
    floors = ["errors", "sync", "xarray", "folio", "pagecache", "khugepaged", "process", "machine"]
    own = name(path).split("/")[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmref."):
            room = node.module.split(".")[1]
            assert room in floors, f"line {node.lineno} imports {node.module}"
            assert floors.index(room) <= floors.index(own), f"line {node.lineno} imports {node.module}"


def test_every_part_of_a_machine_has_a_twin():
    plain = Parts()
    for part in Parts.__dataclass_fields__:
        ours, traced = getattr(plain, part), getattr(TRACED, part)
        assert traced is not ours, part
        if isinstance(ours, type):
            assert issubclass(traced, ours), part


RAW_OF = {"folio": {"_flags", "_refcount", "_mapcount", "data", "initialised"}, "page_table": {"_ptes"},
          "tlb": {"_entries"}}  # fmt: skip
LOOKERS = {"folio": {"peek", "peek_mapcount", "__repr__", "__init__"}, "page_table": {"peek", "__repr__", "__init__"},
           "tlb": {"__repr__", "__init__"}}  # fmt: skip


@pytest.mark.parametrize("part", sorted(RAW_OF))
def test_every_method_that_touches_a_raw_field_is_traced(part):
    """A new method on raw state, forgotten in the twin, would be invisible to the explorer."""
    plain, traced = getattr(Parts(), part), getattr(TRACED, part)
    tree = ast.parse(inspect.getsource(plain))
    for method in tree.body[0].body:
        if not isinstance(method, ast.FunctionDef) or method.name in LOOKERS[part]:
            continue
        touches = {node.attr for node in ast.walk(method) if isinstance(node, ast.Attribute)} & RAW_OF[part]
        if touches:
            assert getattr(traced, method.name) is not getattr(plain, method.name), f"{method.name} touches {touches}"
