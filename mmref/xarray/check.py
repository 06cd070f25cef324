# SPDX-License-Identifier: GPL-2.0-only
"""What must hold in every array while nobody is changing it.

Conventions in this file: *xa* is the array, *node* refers to an `XaNode`, *offset* to one of its slots, *entry* to
what that holds, *canonical* to the entry that a sibling refers to.

Looking at a tree is not an access: slots are read past a traced list.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from mmref.errors import InvariantViolation
from mmref.xarray.anchor import Anchor
from mmref.xarray.dump import dump, nodes_of
from mmref.xarray.entries import (
    RETRY,
    XA_FLAGS_TRACK_FREE,
    XA_FREE_MARK,
    XA_MAX_MARKS,
    Internal,
    is_sibling,
    is_value,
    xa_flags_mark,
)
from mmref.xarray.node import XaNode

__all__ = ["check"]


def check(xa: Anchor, show: bool = True) -> None:
    """Assert every invariant of an array.

    Args:
        xa: the array.
        show: print the whole tree to stderr if one does not hold.

    Raises:
        InvariantViolation: with the invariant's name.

    Context: xa_lock, or nobody else around.
    """
    try:
        _check(xa)
    except InvariantViolation:
        if show:
            print(dump(xa), file=sys.stderr)
        raise


def _check(xa: Anchor) -> None:
    head = xa._peek_head()
    if type(head) is not XaNode:
        # A sibling needs a node to refer to, and nothing is retried at the head.
        if is_sibling(head) or head is RETRY:
            _fail("head", f"the head holds {head!r}")
        # Only something present can be marked, except by the free mark.
        if head is None:
            for mark in range(XA_MAX_MARKS):
                free = mark == XA_FREE_MARK and xa.xa_flags & XA_FLAGS_TRACK_FREE
                if xa.xa_flags & xa_flags_mark(mark) and not free:
                    _fail("marks", f"the array is empty and has mark {mark}")
        return
    # The top node has no parent.
    if head.parent is not None:
        _fail("parent", f"the top node {head!r} has a parent")
    # The top node's slot in its parent is 0, for the day when it gets one.
    if head.offset != 0:
        _fail("offset", f"the top node {head!r} claims slot {head.offset}")
    for node in nodes_of(head):
        _check_node(xa, node)
    # The array has a mark exactly if some slot of the top node has it.
    for mark in range(XA_MAX_MARKS):
        if bool(xa.xa_flags & xa_flags_mark(mark)) != bool(head.marks[mark]):
            _fail("marks", f"mark {mark} of the array and of its top node {head!r} differ")
    # All nodes that the allocator has handed to this array are in the tree or wait in a cursor.
    nodes = sum(1 for _ in nodes_of(head))
    if nodes > xa.allocator.live:
        _fail("live", f"{nodes} nodes are in the tree, of {xa.allocator.live} that are allocated")


def _check_node(xa: Anchor, node: XaNode) -> None:
    entries = list.copy(node.slots)
    # A node in the tree belongs to its array; a freed one belongs to none.
    if node.array is not xa:
        _fail("array", f"{node!r} is in the tree and does not belong to its array")
    # Each node has the array's number of slots.
    if len(entries) != xa.chunk_size:
        _fail("slots", f"{node!r} has {len(entries)} slots instead of {xa.chunk_size}")
    # Levels are a chunk apart, and no shift is as large as an index.
    if node.shift % xa.chunk_shift or not 0 <= node.shift < 64:
        _fail("shift", f"{node!r} has a shift that is not a level of the tree")
    # Every occupied slot is counted, siblings included.
    occupied = sum(entry is not None for entry in entries)
    if node.count != occupied:
        _fail("count", f"{node!r} counts {node.count} entries and holds {occupied}")
    # An empty node is only left behind by create_range() or by a store that ran out of memory: so it may be.
    values = 0
    for offset, entry in enumerate(entries):
        canonical = entry
        if is_sibling(entry):
            canonical = _check_sibling(node, entries, offset, entry)
        elif type(entry) is XaNode:
            _check_child(xa, node, offset, entry)
        values += is_value(canonical)
        for mark in range(XA_MAX_MARKS):
            _check_mark(xa, node, offset, entry, mark)
    # Every slot that holds a value, or a sibling of one, is counted.
    if node.nr_values != values:
        _fail("nr_values", f"{node!r} counts {node.nr_values} values and holds {values}")
    # No bitmap goes beyond the slots.
    for mark in range(XA_MAX_MARKS):
        if node.marks[mark] >> xa.chunk_size:
            _fail("marks", f"mark {mark} of {node!r} goes beyond its slots")


def _check_sibling(node: XaNode, entries: list[Any], offset: int, entry: Internal) -> object:
    # A sibling refers to an earlier slot of its node.
    if entry.number >= offset:
        _fail("sibling", f"slot {offset} of {node!r} refers to slot {entry.number}, which does not come before it")
    # It refers, if need be by way of other siblings, to an entry: not to nothing, and not to a node.
    target = _canonical(entries, offset)
    canonical = entries[target]
    if canonical is None or type(canonical) is XaNode:
        _fail("sibling", f"slot {offset} of {node!r} leads to {canonical!r}")
    # The slot before it belongs to the same entry.
    if _canonical(entries, offset - 1) != target:
        _fail("sibling", f"slot {offset} of {node!r} refers to slot {entry.number} across another entry")
    return canonical


def _canonical(entries: list[Any], offset: int) -> int:
    """Follow siblings to the slot of their entry; siblings only ever refer backwards."""
    entry = entries[offset]
    while is_sibling(entry) and entry.number < offset:
        offset = entry.number
        entry = entries[offset]
    return offset


def _check_child(xa: Anchor, node: XaNode, offset: int, child: XaNode) -> None:
    # Leaves have no nodes below them.
    if not node.shift:
        _fail("shift", f"slot {offset} of the leaf {node!r} holds the node {child!r}")
    # A child is one level further down.
    if child.shift != node.shift - xa.chunk_shift:
        _fail("shift", f"{child!r} in slot {offset} of {node!r} is not one level down")
    # A child knows its parent, and its slot there.
    if child.parent is not node:
        _fail("parent", f"{child!r} in slot {offset} of {node!r} has another parent")
    if child.offset != offset:
        _fail("offset", f"{child!r} is in slot {offset} of {node!r} and claims slot {child.offset}")
    # A slot has a mark exactly if something in the node below it has.
    for mark in range(XA_MAX_MARKS):
        if bool(node.marks[mark] >> offset & 1) != bool(child.marks[mark]):
            _fail("marks", f"mark {mark} of slot {offset} of {node!r} and of the node there differ")


def _check_mark(xa: Anchor, node: XaNode, offset: int, entry: object, mark: int) -> None:
    marked = node.marks[mark] >> offset & 1
    if mark == XA_FREE_MARK and xa.xa_flags & XA_FLAGS_TRACK_FREE:
        # An empty slot is free, so it has the free mark.
        if entry is None and not marked:
            _fail("free mark", f"slot {offset} of {node!r} is empty and not marked as free")
    # Nothing else can be marked where there is no entry, and siblings leave that to the entry they refer to.
    elif marked and (entry is None or is_sibling(entry)):
        _fail("marks", f"slot {offset} of {node!r} has mark {mark} and holds {entry!r}")


def _fail(invariant: str, detail: str) -> NoReturn:
    raise InvariantViolation(f"xarray {invariant}", detail)
