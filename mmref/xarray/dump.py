# SPDX-License-Identifier: GPL-2.0-only
"""The tree as text.

Conventions in this file: *xa* is the array, *node* refers to an `XaNode`, *entry* to something stored in a slot,
*index* to the first index of that slot, *shift* to how many bits of an index are resolved below it.

Looking at a tree is not an access: slots are read past a traced list.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmref.xarray.anchor import Anchor
from mmref.xarray.entries import ULONG_MAX, XA_MAX_MARKS, Internal, TaggedPointer, xa_flags_mark
from mmref.xarray.node import XaNode

__all__ = ["dump", "nodes_of"]


def nodes_of(top: XaNode) -> Iterator[XaNode]:
    """Go through a node and all nodes below it, parents first."""
    waiting = [top]
    while waiting:
        node = waiting.pop()
        yield node
        if node.shift:
            waiting.extend(entry for entry in reversed(list.copy(node.slots)) if type(entry) is XaNode)


def dump(xa: Anchor) -> str:
    """Describe an array, a line for each node and entry.

    Kernel: xa_dump(), lib/xarray.c.

    >>> from mmref.xarray import XArray
    >>> xa = XArray()
    >>> xa.store_range(4, 5, "folio")
    >>> print(dump(xa))
    xarray: head node flags 0x0 marks 0 0 0
    0-63: node max 0 shift 0 count 2 values 0 marks 0 0 0
      4: 'folio'
      5: sibling (slot 4)
    """
    head = xa._peek_head()
    marks = " ".join(str(int(bool(xa.xa_flags & xa_flags_mark(mark)))) for mark in range(XA_MAX_MARKS))
    flags = xa.xa_flags & (xa_flags_mark(0) - 1)
    what = "node" if type(head) is XaNode else repr(head)
    lines = [f"xarray: head {what} flags {flags:#x} marks {marks}"]
    if head is not None:
        shift = head.shift + xa.chunk_shift if type(head) is XaNode else 0
        lines.extend(_dump_entry(head, 0, shift, 0))
    return "\n".join(lines)


def _dump_entry(entry: object, index: int, shift: int, depth: int) -> Iterator[str]:
    """Describe one slot, and what is below it."""
    where = str(index) if not shift else f"{index}-{min(index | ((1 << shift) - 1), ULONG_MAX)}"
    indent = "  " * depth
    if type(entry) is XaNode:
        role = "offset" if entry.parent is not None else "max"
        marks = " ".join(f"{bits:x}" for bits in entry.marks)
        yield (
            f"{indent}{where}: node {role} {entry.offset} shift {entry.shift} count {entry.count} "
            f"values {entry.nr_values} marks {marks}"
        )
        for offset, below in enumerate(list.copy(entry.slots)):
            if below is not None:
                yield from _dump_entry(below, index + (offset << entry.shift), entry.shift, depth + 1)
    elif type(entry) is int:
        yield f"{indent}{where}: value {entry} ({entry:#x})"
    elif type(entry) is TaggedPointer:
        yield f"{indent}{where}: {entry.pointer!r} tag {entry.tag}"
    elif type(entry) is Internal:
        kind = f"sibling (slot {entry.number})" if entry.number < 64 else f"{entry!r}".lower() + f" ({entry.number})"
        yield f"{indent}{where}: {kind}"
    else:
        yield f"{indent}{where}: {entry!r}"
