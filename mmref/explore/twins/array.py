# SPDX-License-Identifier: GPL-2.0-only
"""The twin of the XArray: its head, and the slots of its nodes."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from mmref.errors import InvariantViolation
from mmref.explore.locations import (
    READ,
    THREAD,
    WRITE,
    Location,
    hold,
    let_go,
    note,
    point,
    reserve,
)
from mmref.explore.twins.fields import SharedField, TracedSpinLock, slot_of
from mmref.explore.twins.folios import TracedFolio
from mmref.explore.twins.names import entry_text
from mmref.pagecache import (
    entries_of,
)
from mmref.sync import SpinLock, this_cpu
from mmref.xarray import RETRY, XaNode, XArray

__all__ = ["TracedSlots", "TracedXArray"]


class TracedSlots(list[Any]):
    """The slots of a node: reading or writing one is an access; a slice is written slot by slot, in order."""

    __slots__ = ("at", "freed_in", "ids", "owner")

    def __init__(self, owner: TracedXArray, size: int) -> None:
        super().__init__([None] * size)
        self.owner = owner
        self.at: list[Location | None] = [None] * size
        self.ids = reserve(size)
        self.freed_in = 0

    def _at(self, offset: int) -> Location:
        where = self.at[offset]
        if where is None:
            where = self.at[offset] = Location(f"slot {offset} of {self.owner.number(self)}", self.ids[offset])
        return where

    def _check_in_the_tree(self) -> None:
        """Check A12: who has taken xa_lock since the node left the tree must not know of it any more.

        Those without the lock may: they are inside an RCU section. So may who has just freed it.
        """
        owner = self.owner
        if owner.xa_lock.owner is this_cpu() and owner.section != self.freed_in:
            raise InvariantViolation("A12", f"{owner.number(self)} was freed while xa_lock was not held, and is used")

    def __getitem__(self, offset: Any) -> Any:
        if type(offset) is slice:
            return [self[at] for at in range(*offset.indices(len(self)))]
        point(self.at[offset] or self._at(offset), READ, "slot load")
        if self.freed_in:
            self._check_in_the_tree()
        entry = list.__getitem__(self, offset)
        _note_entry(entry)
        return entry

    def __setitem__(self, offset: Any, entry: Any) -> None:
        if type(offset) is slice:
            for at, one in zip(range(*offset.indices(len(self))), entry, strict=True):
                self[at] = one
            return
        place = self.at[offset] or self._at(offset)
        point(place, WRITE, "slot store")
        if self.freed_in:
            self._check_in_the_tree()
        if entry is RETRY:
            hold(place, "blocked with a RETRY entry")
        elif list.__getitem__(self, offset) is RETRY:
            let_go(place)
        list.__setitem__(self, offset, entry)
        _note_entry(entry)


class TracedXaLock(TracedSpinLock):
    """The lock of an XArray; when it is released, lookups can meet whatever is frozen in there (A8)."""

    __slots__ = ("array",)

    def __init__(self, array: TracedXArray) -> None:
        super().__init__("xa_lock")
        self.array = array

    @override
    def acquire(self) -> None:
        super().acquire()
        self.array.section += 1

    @override
    def release(self) -> None:
        super().release()
        if self.array.frozen:
            for _, entry in entries_of(self.array):
                if isinstance(entry, TracedFolio) and entry in self.array.frozen:
                    entry.exposed = True


class TracedXArray(XArray[Any]):
    """An XArray whose head and slots are shared. Cursors and marks are not: writers hold the lock.

    Attributes:
        frozen: the folios of this file whose reference count is frozen.
        nodes_made: the slots of every node that was ever made, in that order.
        section: how many times xa_lock has been taken.
    """

    __slots__ = ("at_xa_head", "frozen", "nodes_made", "section")

    xa_head = SharedField(XArray, "xa_head")

    def __init__(self, chunk_shift: int = 6) -> None:
        self.frozen: set[TracedFolio] = set()
        self.nodes_made: list[TracedSlots] = []
        self.section = 0
        super().__init__(chunk_shift=chunk_shift)

    def __str__(self) -> str:
        return "i_pages"

    def number(self, slots: TracedSlots) -> str:
        """Name a node by the order in which nodes were made."""
        return next(f"node {number}" for number, made in enumerate(self.nodes_made) if made is slots)

    @override
    def _new_lock(self) -> SpinLock:
        return TracedXaLock(self)

    @override
    def _new_slots(self) -> list[Any]:
        slots = TracedSlots(self, self.chunk_size)
        self.nodes_made.append(slots)
        return slots

    @override
    def _free_node(self, node: XaNode) -> None:
        super()._free_node(node)
        assert isinstance(node.slots, TracedSlots)
        node.slots.freed_in = self.section

    @override
    def _stale_cursor(self, index: int) -> InvariantViolation:
        return InvariantViolation("A12", f"the cursor at index {index} points to a node that has left the tree")

    @override
    def _peek_head(self) -> Any:
        return slot_of(XArray, "xa_head").__get__(self)


def _note_entry(entry: object) -> None:
    run = THREAD.run
    if run is not None and run.recorder is not None:
        note(entry_text(entry))
