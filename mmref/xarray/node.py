# SPDX-License-Identifier: GPL-2.0-only
"""The nodes of the tree, and where they come from.

Conventions in this file: *node* is an `XaNode`, *parent* the node closer to the head, *offset* a slot
number, *mark* one of 0, 1 and 2, *entry* whatever a slot holds (see entries.py). A bitmap of marks is a
plain ``int`` whose bit i belongs to slot i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard, final

from mmref.errors import UsageError

if TYPE_CHECKING:
    from mmref.xarray.anchor import Anchor

__all__ = ["NodeAllocator", "XaNode", "is_node"]


@final
class XaNode:
    """One node: as many slots as the array's chunk size, and what the tree knows about them.

    Kernel: struct xa_node, include/linux/xarray.h.

    Every field is a plain attribute. Walks read a slot as ``node.slots[offset]`` and nothing else, so that a
    list subclass in `slots` sees each access.

    Attributes:
        shift: how many low bits of an index are resolved below this node; 0 for a leaf.
        offset: this node's slot in its parent.
        count: how many slots are not None, siblings included.
        nr_values: how many slots hold a value entry or a sibling of one.
        parent: the node above, None for the top node. In a node that waits in a cursor's list of
            preallocated nodes: the next node of that list.
        array: the array it belongs to; None as soon as it has left the tree (kernel: `XA_RCU_FREE`).
        slots: the entries.
        marks: three bitmaps, one per mark.
    """

    __slots__ = ("array", "count", "marks", "nr_values", "offset", "parent", "shift", "slots")

    def __init__(self, array: Anchor, slots: list[Any]) -> None:
        self.shift = 0
        self.offset = 0
        self.count = 0
        self.nr_values = 0
        self.parent: XaNode | None = None
        self.array: Anchor | None = array
        self.slots = slots  # list[Any]: a slot is the kernel's `void *`
        self.marks = [0, 0, 0]

    def __repr__(self) -> str:
        dead = "" if self.array is not None else " freed"
        return f"<XaNode{dead} shift {self.shift} offset {self.offset} count {self.count} values {self.nr_values}>"


def is_node(entry: object) -> TypeGuard[XaNode]:
    """Say whether an entry is a pointer to a node.

    Kernel: xa_is_node(), include/linux/xarray.h.
    """
    return type(entry) is XaNode


class NodeAllocator:
    """Where nodes come from: counts the live ones, and can be told to fail.

    Kernel: radix_tree_node_cachep, lib/radix-tree.c.

    Attributes:
        nowait: how many more allocations succeed while a store holds the lock (`GFP_NOWAIT`); -1: no limit.
        blocking: how many more succeed in `nomem()` and `split_alloc()` (`GFP_KERNEL`); -1: no limit.
        live: nodes allocated and not freed: those in trees and those that wait in cursors.

    >>> allocator = NodeAllocator()
    >>> allocator.budget(nowait=1)
    >>> [allocator.take(blocking=False) for _ in range(2)]
    [True, False]
    """

    __slots__ = ("blocking", "live", "nowait")

    def __init__(self) -> None:
        self.nowait = -1
        self.blocking = -1
        self.live = 0

    def budget(self, nowait: int = -1, blocking: int = -1) -> None:
        """Let only so many allocations succeed from now on.

        Args:
            nowait: allocations while storing; -1 for no limit.
            blocking: allocations that may sleep; -1 for no limit.

        Raises:
            UsageError: a number below -1.
        """
        if nowait < -1 or blocking < -1:
            raise UsageError(f"a budget of ({nowait}, {blocking}) nodes: give counts, or -1 for no limit")
        self.nowait = nowait
        self.blocking = blocking

    def take(self, blocking: bool) -> bool:
        """Count one allocation; False if it has to fail."""
        left = self.blocking if blocking else self.nowait
        if left == 0:
            return False
        if left > 0:
            if blocking:
                self.blocking = left - 1
            else:
                self.nowait = left - 1
        self.live += 1
        return True
