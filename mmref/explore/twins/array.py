# SPDX-License-Identifier: GPL-2.0-only
"""The twin of the XArray: its head, and the slots of its nodes."""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override

from mmref.errors import DoubleFree, InvariantViolation, UseAfterFree
from mmref.explore.atomic import in_section_since, sections
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
from mmref.sync import SpinLock, might_sleep, rcu_read_lock, rcu_read_unlock, this_cpu
from mmref.xarray import RETRY, ULONG_MAX, XA_PRESENT, XaNode, XArray, is_sibling

__all__ = ["TracedSlots", "TracedXArray", "note_entry"]


class TracedSlots(list[Any]):
    """The slots of a node: reading or writing one is an access; a slice is written slot by slot, in order."""

    __slots__ = ("at", "freed", "freed_in", "ids", "owner")

    def __init__(self, owner: TracedXArray, size: int) -> None:
        super().__init__([None] * size)
        self.owner = owner
        self.at: list[Location | None] = [None] * size
        self.ids = reserve(size)
        self.freed = -1  # after how many steps the node was freed; -1 if it has not been
        self.freed_in = 0  # and in which section of xa_lock

    def _at(self, offset: int) -> Location:
        where = self.at[offset]
        if where is None:
            where = self.at[offset] = Location(f"slot {offset} of {self.owner.number(self)}", self.ids[offset])
        return where

    def _check_alive(self, access: str) -> None:
        """Report a use of a node that has been freed by who cannot rely on its being there still.

        Who has taken xa_lock since must not know of it any more (A12). Without the lock, who was in an RCU section
        then, and is in it still, may go on.
        """
        owner, run = self.owner, THREAD.run
        if owner.xa_lock.owner is this_cpu():
            if owner.section != self.freed_in:
                raise InvariantViolation(
                    "A12", f"{owner.number(self)} was freed while xa_lock was not held, and is used"
                )
        elif run is not None and run.live:
            since = in_section_since(run.current)
            if since is None or since >= self.freed:
                raise UseAfterFree(owner.number(self), access)

    def history(self) -> object:
        """Return what matters of when the node was freed: who may still use it."""
        run = THREAD.run
        if run is None or (self.freed < 0 and not self.freed_in):
            return None
        before = tuple([tuple([since < self.freed for since in sections(cpu)]) for cpu in run.cpus])
        return self.freed >= 0, self.freed_in == self.owner.section, before

    def __getitem__(self, offset: Any) -> Any:
        if type(offset) is slice:
            return [self[at] for at in range(*offset.indices(len(self)))]
        point(self.at[offset] or self._at(offset), READ, "slot load")
        if self.freed >= 0:
            self._check_alive(f"a load of slot {offset}")
        entry = list.__getitem__(self, offset)
        note_entry(entry)
        return entry

    def __setitem__(self, offset: Any, entry: Any) -> None:
        if type(offset) is slice:
            for at, one in zip(range(*offset.indices(len(self))), entry, strict=True):
                self[at] = one
            return
        place = self.at[offset] or self._at(offset)
        point(place, WRITE, "slot store")
        if self.freed >= 0:
            self._check_alive(f"a store to slot {offset}")
        if entry is RETRY:
            hold(place, "blocked with a RETRY entry")
        elif list.__getitem__(self, offset) is RETRY:
            let_go(place)
        list.__setitem__(self, offset, entry)
        note_entry(entry)


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
        for slots in self.array.retired:
            slots.freed = _steps()
        self.array.retired.clear()
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
        retired: the nodes that have been freed since: the grace period cannot end before the lock is released, for its
            holder is in an RCU section as well. (lib/xarray.c frees a node just before it takes it out of the tree.)
    """

    __slots__ = ("at_xa_head", "frozen", "nodes_made", "retired", "section")

    at_xa_head: Location
    slots_class: ClassVar[type[TracedSlots]] = TracedSlots
    xa_head = SharedField(XArray, "xa_head")

    def __init__(self, chunk_shift: int = 6) -> None:
        self.frozen: set[TracedFolio] = set()
        self.nodes_made: list[TracedSlots] = []
        self.section = 0
        self.retired: list[TracedSlots] = []
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
        slots = self.slots_class(self, self.chunk_size)
        self.nodes_made.append(slots)
        return slots

    @override
    def _new_node(self, blocking: bool) -> XaNode | None:
        if blocking:
            might_sleep("kmem_cache_alloc(GFP_KERNEL)")
        return super()._new_node(blocking)

    @override
    def _free_node(self, node: XaNode) -> None:
        slots = node.slots
        assert isinstance(slots, TracedSlots)
        if node.array is None:
            raise DoubleFree(self.number(slots), "xa_node_free()", "it is free already")
        slots.freed_in = self.section
        super()._free_node(node)
        if self.xa_lock.owner is this_cpu():
            self.retired.append(slots)
        else:
            slots.freed = _steps()

    @override
    def _misused(self, what: str, instead: str) -> InvariantViolation:
        return InvariantViolation("A12", what)

    @override
    def _peek_head(self) -> Any:
        return slot_of(XArray, "xa_head").__get__(self)

    def peek(self, index: int) -> Any:
        """Look at what is at an index without that being an access."""
        entry = self._peek_head()
        if type(entry) is not XaNode:
            return entry if index == 0 else None
        if index >> entry.shift > self.chunk_mask:
            return None
        while type(entry) is XaNode:
            slots = entry.slots
            entry = list.__getitem__(slots, index >> entry.shift & self.chunk_mask)
            if is_sibling(entry):
                entry = list.__getitem__(slots, entry.number)
        return entry

    # The normal API takes the RCU read lock itself.

    @override
    def load(self, index: int) -> Any:
        rcu_read_lock()
        entry = super().load(index)
        rcu_read_unlock()
        return entry

    @override
    def find(self, index: int, max: int = ULONG_MAX, filter: int = XA_PRESENT) -> tuple[int, Any] | None:
        rcu_read_lock()
        found = super().find(index, max, filter)
        rcu_read_unlock()
        return found

    @override
    def get_order(self, index: int) -> int:
        rcu_read_lock()
        order = super().get_order(index)
        rcu_read_unlock()
        return order


def _steps() -> int:
    """Return how many steps have been performed; 0 in set-up."""
    run = THREAD.run
    return run.steps if run is not None and run.live else 0


def note_entry(entry: object) -> None:
    """Record the entry that was loaded or stored."""
    run = THREAD.run
    if run is not None and run.recorder is not None:
        note(entry_text(entry))
