# SPDX-License-Identifier: GPL-2.0-only
"""The traced twins are complete: nothing shared is touched but through what they override."""

import ast
import inspect
from pathlib import Path

import pytest

import mmref
from mmref.errors import UseAfterFree
from mmref.explore import Execution, explore
from mmref.explore.catalogue import get_scenario
from mmref.explore.locations import Location
from mmref.explore.twins import TRACED, TracedFolio, TracedSlots, TracedXArray
from mmref.folio import PG_DIRTY, Folio
from mmref.machine import Machine

PACKAGE = Path(mmref.__file__).parent

# Raw state, and the rooms (or single modules) whose business it is.
RAW = {
    "_flags": {"folio/", "explore/twins/"},
    "_refcount": {"folio/", "explore/twins/"},
    "data": {"folio/", "explore/"},  # in explore/ it is the field of scenarios and of saved searches
    # In check.py: past the traced list, for checkers. Exhibit m02 is the bug of storing a slot past its node.
    "slots": {"xarray/", "explore/twins/", "pagecache/check.py", "khugepaged/museum/cursor.py"},
    "xa_head": {"xarray/", "explore/twins/"},
    "_list": {"folio/lru.py"},
    "_batches": {"folio/lru.py"},
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", RAW)
def test_raw_state_is_touched_by_the_primitives_alone(name):
    offenders = []
    for path in modules():
        where = path.relative_to(PACKAGE).as_posix()
        if any(where.startswith(room) for room in RAW[name]) or where.startswith(("view/", "live/")):
            continue
        offenders += [
            f"{where}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr == name and not _is_own(node)
        ]
    assert offenders == []


def _is_own(node):
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def test_every_method_of_a_folio_that_touches_shared_state_is_traced():
    exempt = {"__init__", "__repr__", "peek", "contains"}
    for name, function in inspect.getmembers(Folio, inspect.isfunction):
        if name in exempt:
            continue
        body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
        touches = {node.attr for node in ast.walk(body) if isinstance(node, ast.Attribute)} & {
            "_flags",
            "_refcount",
            "data",
        }
        assert not touches or name in vars(TracedFolio), f"Folio.{name} touches {touches}, but has no traced twin"


def test_a_slice_of_slots_is_stored_slot_by_slot_in_the_order_of_the_kernel():
    order = []

    def program():
        machine = Machine(order=2, parts=TRACED)
        file = machine.shmem_file("f", 4 * 4096)
        file.write(0, b"x")
        slots = file.mapping.i_pages._peek_head()
        array = TracedXArray()
        node = TracedSlots(array, 4)
        array.nodes_made.append(node)

        def writer():
            node[0:3] = ["entry", "sibling", "sibling"]

        def reader():
            order.append([node[at] for at in (2, 1, 0)])

        assert slots is not None
        return [writer, reader]

    assert explore(program).exhaustive
    seen = {tuple(one) for one in order}
    assert (None, None, "entry") in seen, "a reader may run between two slot stores"
    assert ("sibling", None, None) not in seen, "but never sees a sibling before its entry"
    assert all(one[2] == "entry" for one in seen if one[0] == "sibling")


def test_outside_an_exploration_the_twins_are_the_plain_classes():
    machine = Machine(order=3, chunk_shift=2, parts=TRACED)
    file = machine.shmem_file("f", 8 * 4096)
    for page in (0, 1, 5):
        file.write(page * 4096, bytes([page + 1]) * 4096)
    for strategy in ("freeze-and-replace", "lock-and-insert-late"):
        unpin = file.pin(5)
        assert machine.collapse(file, 0, strategy).status.name == "PAGE_COUNT"
        unpin()
        machine.memory.lru.drain_all()
        machine.check()
    assert machine.collapse(file, 0).errno == 0
    file.punch_hole(4096, 4096)
    file.truncate(0)
    machine.check()
    assert machine.stats["allocated"] == 0


def test_use_of_a_freed_folio_is_a_finding():
    def program():
        machine = Machine(order=0, parts=TRACED)
        folio = machine.memory.allocator.alloc()
        return [folio.put, lambda: folio.test_flag(PG_DIRTY)]

    report = explore(program)
    assert report.counterexample is not None
    assert report.counterexample.verdict.id == UseAfterFree.__name__, str(report)
    assert "folio_test_dirty on folio 0 after it was freed" in report.counterexample.verdict.detail


def test_names_in_a_trace_are_those_of_the_objects():
    trace = explore(get_scenario("seek-data"), "freeze-and-replace").counterexample
    names = {event.location for event in trace.events}
    assert {
        "xa_lock",
        "inode_lock",
        "file.i_size",
        "folio 0 refcount",
        "new_folio PG_uptodate",
        "slot 0 of node 0",
    } <= names
    assert not [name for name in names if "<" in name or "object at" in name]


def test_making_a_machine_of_twins_has_no_accesses():
    built = get_scenario("mincore").build("lock-and-insert-late")
    assert isinstance(built, Execution)
    assert Location("outside").id == -1
