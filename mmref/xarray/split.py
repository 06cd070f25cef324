# SPDX-License-Identifier: GPL-2.0-only
"""Splitting a multi-index entry into smaller ones, all holding the same new entry.

Conventions in this file: *xas* is the cursor (``self``), *entry* refers to what the smaller entries hold,
*order* to the size of the present entry, *sibs* to its sibling slots, *node* to the node it is in, *child* to
a node that takes the place of one of its slots, *canon* to the first slot of a smaller entry.
"""

from __future__ import annotations

from typing import Any

from mmref.errors import UsageError
from mmref.xarray.create import XAS_ENOMEM
from mmref.xarray.entries import SIBLINGS, Internal, is_value
from mmref.xarray.find import Find
from mmref.xarray.marks import node_get_marks, node_set_marks
from mmref.xarray.node import XaNode
from mmref.xarray.state import NO_RUN

__all__ = ["Split"]


class Split(Find):
    """A cursor that can also split the entry it is on."""

    __slots__ = ()

    def split_alloc(self, entry: Any, order: int) -> None:
        """Allocate what `split()` will need, filled with the new entry; no nodes if none are needed.

        Kernel: xas_split_alloc(), lib/xarray.c.

        The cursor's own order is the order of the smaller entries. If memory is short, the cursor carries
        -ENOMEM.

        Args:
            entry: what the smaller entries will hold.
            order: log2 of the number of indices that the present entry covers.

        Raises:
            UsageError: an entry that cannot be stored; an order out of range; a split over more than one level
                of nodes (6.12 makes entries of the wrong order there).

        Context: no lock held: it may sleep.
        """
        self._check_split(entry, order)
        xa = self.xa
        if self.shift + xa.chunk_shift > order:
            return
        mask = self.sibs
        nodes = 1 << order % xa.chunk_shift
        while nodes:
            node = xa._new_node(blocking=True)
            if node is None:
                self.destroy()
                self.node = XAS_ENOMEM
                self._run = NO_RUN
                return
            filled = [SIBLINGS[i & ~mask] if i & mask else entry for i in range(xa.chunk_size)]
            list.__setitem__(node.slots, slice(None), filled)  # no access: nobody can reach the node yet
            node.parent = self.alloc
            self.alloc = node
            nodes -= 1

    def split(self, entry: Any, order: int) -> None:
        """Split the entry at the cursor's index into entries of the cursor's order.

        Kernel: xas_split(), lib/xarray.c.

        Marks are copied to all of them.

        Args:
            entry: what each of them holds, the same as given to `split_alloc()`.
            order: log2 of the number of indices that the present entry covers.

        Raises:
            UsageError: as `split_alloc()`; nodes are needed and have not been allocated.

        Context: xa_lock held.

        >>> from mmref.xarray import XArray, XaState
        >>> xa = XArray()
        >>> XaState(xa, 64, order=3).store("folio of 8")
        >>> xas = XaState(xa, 64, order=1)
        >>> xas.split_alloc("folio of 2", order=3)
        >>> xas.split("folio of 2", order=3)
        >>> xa.get_order(64), xa.load(71)
        (1, 'folio of 2')
        """
        self._check_split(entry, order)
        chunk_shift = self.xa.chunk_shift
        sibs = (1 << order % chunk_shift) - 1
        if type(self.node) is XaNode:
            self._check_place(self.node)
        curr = self.load()
        node = self.node
        if type(node) is not XaNode:
            return
        if self.shift < node.shift:
            self._check_prepared(sibs + 1)

        marks = node_get_marks(node, self.offset)
        value = is_value(entry)
        value_before = is_value(curr)
        values = 0
        slots = node.slots
        offset = self.offset + sibs
        while True:
            if self.shift < node.shift:
                child = self.alloc
                assert child is not None
                self.alloc = child.parent
                child.shift = node.shift - chunk_shift
                child.offset = offset
                child.count = self.xa.chunk_size
                child.nr_values = self.xa.chunk_size if value else 0
                child.parent = node
                node_set_marks(node, offset, marks, child, self.sibs)
                slots[offset] = child
                values -= value_before
                if self.update is not None:
                    self.update(child)
            else:
                canon = offset - self.sibs
                node_set_marks(node, canon, marks)
                slots[canon] = entry
                while offset > canon:
                    slots[offset] = SIBLINGS[canon]
                    offset -= 1
                values += (value - value_before) * (self.sibs + 1)
            if offset <= self.offset:
                break
            offset -= 1

        node.nr_values += values
        if self.update is not None:
            self.update(node)

    def _check_split(self, entry: Any, order: int) -> None:
        """Refuse what the kernel's split would get wrong."""
        if not 0 <= order <= 63:
            raise UsageError(f"there is no entry of order {order!r} to split: orders go from 0 to 63")
        if entry is None or type(entry) is XaNode or (type(entry) is Internal and entry.number < 64):
            raise UsageError(f"{entry!r} cannot be stored: give the entry that takes the place of the old one")
        if self.shift + 2 * self.xa.chunk_shift <= order:
            raise UsageError(
                f"an entry of order {order} cannot be split into such small ones at once: that would cross two "
                f"levels of nodes of {self.xa.chunk_size} slots; split it in steps"
            )

    def _check_prepared(self, nodes: int) -> None:
        """Refuse to split without the nodes for it."""
        waiting = 0
        node = self.alloc
        while node is not None and waiting < nodes:
            waiting += 1
            node = node.parent
        if waiting < nodes:
            raise UsageError(f"this split needs {nodes} nodes and has {waiting}: call split_alloc() first")
