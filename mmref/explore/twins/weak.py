# SPDX-License-Identifier: GPL-2.0-only
"""The twins under a weak memory model: stores to what others look at without a lock can wait in a buffer.

They are twins of the twins: each announces a load of such a location as one that sees the CPU's own waiting stores,
and hands its stores to the buffers, if the model delays what orders so little (`orders.py`). Everything else they leave
to the twins of `mmref.explore.twins`, which perform it at once. Outside the CPUs' code (set-up, checks) they do what
the plain classes do.

What the plain fields hold is what is in memory. Only of the slots of a tree they hold what the holder of `xa_lock` has
stored, because it looks at them itself; what is in memory while its stores wait is kept beside them, and checks look
at it through `in_memory()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import override

from mmref.explore.locations import INC, THREAD, Location, hold, let_go, note
from mmref.explore.memory import UNSEEN, StoreBuffers
from mmref.explore.twins import TRACED
from mmref.explore.twins.address_spaces import TracedVma
from mmref.explore.twins.array import TracedSlots, TracedXArray, note_entry
from mmref.explore.twins.fields import SharedField, add_to
from mmref.explore.twins.files import TracedAddressSpace, TracedRegularInode, TracedShmemInode
from mmref.explore.twins.folios import CLEAR, SET, TEST, TracedFolio
from mmref.explore.twins.names import entry_text
from mmref.explore.twins.orders import ORDERS
from mmref.folio import PG_HWPOISON, Folio
from mmref.pagecache import AddressSpace, RegularInode, ShmemInode, Vma
from mmref.xarray import RETRY, XArray

if TYPE_CHECKING:
    from mmref.explore.scheduler import ExploredCpu

__all__ = ["BUFFERED", "in_memory"]


def buffers_of(location: Location) -> StoreBuffers | None:
    """Return the store buffers if a CPU's code is running, else None."""
    run = location.run
    return run.buffers if run is not None and run.live else None


def delaying(location: Location, label: str) -> StoreBuffers | None:
    """Return the store buffers if a store with this label is to wait there."""
    buffers = buffers_of(location)
    return buffers if buffers is not None and buffers.delays(ORDERS[label]) else None


def declared(location: Location) -> Location:
    """Let stores to a location wait."""
    if location.run is not None and location.run.buffers is not None:
        location.run.buffers.declare(location)
    return location


def current() -> ExploredCpu:
    """Return the CPU whose code is running."""
    run = THREAD.run
    assert run is not None
    return run.current


class BufferedField(SharedField):
    """A shared field whose stores can wait."""

    @override
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        where = getattr(instance, self.at)
        buffers = buffers_of(where)
        if buffers is None:
            return super().__get__(instance, owner)
        buffers.load([where], self.name)
        own = buffers.own(current(), where)
        value = own[-1] if own else self.plain.__get__(instance)
        note(value if isinstance(value, int) else None)
        return value

    @override
    def __set__(self, instance: Any, value: object) -> None:
        where = getattr(instance, self.at, None)
        if where is None:
            super().__set__(instance, value)
            declared(getattr(instance, self.at))
        elif (buffers := delaying(where, self.name)) is None:
            super().__set__(instance, value)
        else:
            buffers.store(current(), where, lambda: self._put(instance, value), value, self.name, ORDERS[self.name])

    def _put(self, instance: object, value: object) -> int | None:
        self.plain.__set__(instance, value)
        return value if isinstance(value, int) else None


# Folios ----------------------------------------------------------------------------------------------------


class Patch(NamedTuple):
    """A waiting store to a page: bytes from some offsets in the page on, and whether the page is initialised by it."""

    pieces: tuple[tuple[int, bytes], ...]
    initialises: bool


class BufferedFolio(TracedFolio):
    """A folio whose flags and content can be stored late."""

    __slots__ = ()

    mapping = BufferedField(Folio, "mapping")

    @override
    def _at_flag(self, flag: int) -> Location:
        return self.at_flags.get(flag) or declared(super()._at_flag(flag))

    @override
    def _at_page(self, page: int) -> Location:
        return self.at_content.get(page) or declared(super()._at_page(page))

    # Flags

    @override
    def test_flag(self, flag: int) -> bool:
        where = self._at_flag(flag)
        buffers = buffers_of(where)
        if buffers is None:
            return super().test_flag(flag)
        buffers.load([where], TEST[flag])
        self.check_alive(TEST[flag])
        own = buffers.own(current(), where)
        is_set = bool(own[-1]) if own else self._flags & flag != 0
        note(is_set)
        return is_set

    @override
    def set_flag(self, flag: int) -> None:
        where = self._at_flag(flag)
        buffers = delaying(where, SET[flag])
        if buffers is None:
            super().set_flag(flag)
            return
        self.check_alive(SET[flag])
        buffers.store(current(), where, lambda: Folio.set_flag(self, flag), True, SET[flag], ORDERS[SET[flag]])

    @override
    def clear_flag(self, flag: int) -> None:
        where = self._at_flag(flag)
        buffers = delaying(where, CLEAR[flag])
        if buffers is None:
            super().clear_flag(flag)
            return
        self.check_alive(CLEAR[flag])
        buffers.store(current(), where, lambda: Folio.clear_flag(self, flag), False, CLEAR[flag], ORDERS[CLEAR[flag]])

    # Content

    @override
    def copy_page(self, page: int, source: Folio, source_page: int) -> bool:
        assert isinstance(source, BufferedFolio)
        where = source._at_page(source_page)
        buffers = buffers_of(where)
        if buffers is None:
            return super().copy_page(page, source, source_page)
        buffers.load([where], "copy_highpage")
        source.check_alive("copy_highpage()")
        if source._flags & PG_HWPOISON:
            return False
        content, initialised = source._seen(source_page)
        self._store(page, Patch(((0, bytes(content)),), initialised), "copy_highpage")
        return True

    @override
    def clear_page(self, page: int) -> None:
        if delaying(self._at_page(page), "clear_highpage") is None:
            super().clear_page(page)
        else:
            self._store(page, Patch(((0, bytes(self.allocator.page_size)),), True), "clear_highpage")

    @override
    def read(self, offset: int, length: int) -> bytes:
        size = self.allocator.page_size
        pages = range(offset // size, -(-(offset + length) // size))
        buffers = buffers_of(self.at_ref)
        if buffers is None or not length:
            return super().read(offset, length)
        buffers.load([self._at_page(page) for page in pages], "copy_to_user")
        self.check_alive("copy_to_user()")
        content = b"".join(bytes(self._seen(page)[0]) for page in pages)
        start = offset - pages.start * size
        return content[start : start + length]

    @override
    def write(self, offset: int, content: bytes) -> None:
        if delaying(self.at_ref, "copy_from_user") is None:
            super().write(offset, content)
        else:
            self.check_alive("copy_from_user()")
            self._store_bytes(offset, content, "copy_from_user")

    @override
    def zero_range(self, offset: int, length: int) -> None:
        if delaying(self.at_ref, "folio_zero_range") is None:
            super().zero_range(offset, length)
        else:
            self._store_bytes(offset, bytes(length), "folio_zero_range")

    @override
    def zero_around(self, offset: int, length: int) -> None:
        if delaying(self.at_ref, "folio_zero_segments") is None:
            super().zero_around(offset, length)
            return
        size = self.allocator.page_size
        for page in range(self.nr_pages):
            first = page * size
            before = max(0, min(offset - first, size))
            behind = max(0, min(offset + length - first, size))
            pieces = ((0, bytes(before)), (behind, bytes(size - behind)))
            self._store(page, Patch(pieces, True), "folio_zero_segments")

    def _store_bytes(self, offset: int, content: bytes, label: str) -> None:
        """Let a store wait, page by page."""
        size = self.allocator.page_size
        at = 0
        while at < len(content):
            page, start = divmod(offset + at, size)
            piece = content[at : at + size - start]
            self._store(page, Patch(((start, piece),), len(piece) == size), label)
            at += len(piece)

    def _store(self, page: int, patch: Patch, label: str) -> None:
        buffers = buffers_of(self.at_ref)
        assert buffers is not None
        buffers.store(current(), self._at_page(page), lambda: self._put(page, patch), patch, label, ORDERS[label])

    def _put(self, page: int, patch: Patch) -> None:
        size = self.allocator.page_size
        for start, piece in patch.pieces:
            self.data[page * size + start : page * size + start + len(piece)] = piece
        if patch.initialises:
            self.initialised |= 1 << page

    def _seen(self, page: int) -> tuple[bytearray, bool]:
        """Return a page as the running CPU sees it, and whether it is initialised."""
        size = self.allocator.page_size
        content = bytearray(self.data[page * size : (page + 1) * size])
        initialised = bool(self.initialised >> page & 1)
        buffers = buffers_of(self.at_ref)
        assert buffers is not None
        for patch in buffers.own(current(), self._at_page(page)):
            assert isinstance(patch, Patch)
            for start, piece in patch.pieces:
                content[start : start + len(piece)] = piece
            initialised |= patch.initialises
        return content, initialised


# The tree --------------------------------------------------------------------------------------------------


class BufferedSlots(TracedSlots):
    """The slots of a node, with what is in memory of those that the holder of `xa_lock` has stored to.

    Attributes:
        hidden: offset -> what is in memory, and what the waiting stores but the last will make of it.
        writer: who has issued those stores.
    """

    __slots__ = ("hidden", "writer")

    def __init__(self, owner: TracedXArray, size: int) -> None:
        super().__init__(owner, size)
        self.hidden: dict[int, list[Any]] = {}
        self.writer: ExploredCpu | None = None

    @override
    def _at(self, offset: int) -> Location:
        return self.at[offset] or declared(super()._at(offset))

    @override
    def __getitem__(self, offset: Any) -> Any:
        if type(offset) is slice:
            return super().__getitem__(offset)
        where = self.at[offset] or self._at(offset)
        buffers = buffers_of(where)
        if buffers is None:
            return super().__getitem__(offset)
        buffers.load([where], "slot load")
        if self.freed >= 0:
            self._check_alive(f"a load of slot {offset}")
        if offset in self.hidden and self.writer is not current():
            entry = self.hidden[offset][0]
        else:
            entry = list.__getitem__(self, offset)
        note_entry(entry)
        return entry

    @override
    def __setitem__(self, offset: Any, entry: Any) -> None:
        if type(offset) is slice:
            super().__setitem__(offset, entry)
            return
        where = self._at(offset)
        buffers = delaying(where, "slot store")
        if buffers is None:
            super().__setitem__(offset, entry)
            return
        if self.freed >= 0:
            self._check_alive(f"a store to slot {offset}")
        there = list.__getitem__(self, offset)
        if entry is RETRY:
            hold(where, "blocked with a RETRY entry")
        elif there is RETRY:
            let_go(where)
        self.hidden.setdefault(offset, []).append(there)
        self.writer = current()
        list.__setitem__(self, offset, entry)
        buffers.store(current(), where, lambda: self._show(offset, entry), entry, "slot store", ORDERS["slot store"])

    def _show(self, offset: int, entry: object) -> str:
        """Let everybody see the oldest of the stores to a slot."""
        hidden = self.hidden[offset]
        hidden.pop(0)
        if not hidden:
            del self.hidden[offset]
        return entry_text(entry)


class BufferedXArray(TracedXArray):
    """An XArray whose head and slots can be stored late."""

    __slots__ = ()

    xa_head = BufferedField(XArray, "xa_head")
    slots_class = BufferedSlots

    @override
    def _peek_head(self) -> Any:
        buffers = buffers_of(self.at_xa_head)
        own: Sequence[Any] = () if buffers is None else buffers.own(current(), self.at_xa_head)
        return own[-1] if own else super()._peek_head()


def in_memory(array: XArray[Any], look: Callable[[], object]) -> None:
    """Call a check while the slots of a tree show what is in memory."""
    nodes = array.nodes_made if isinstance(array, BufferedXArray) else ()
    stored: list[tuple[BufferedSlots, int, object]] = []
    for slots in nodes:
        if isinstance(slots, BufferedSlots):
            for offset, hidden in slots.hidden.items():
                stored.append((slots, offset, list.__getitem__(slots, offset)))
                list.__setitem__(slots, offset, hidden[0])
    try:
        look()
    finally:
        for slots, offset, entry in stored:
            list.__setitem__(slots, offset, entry)


# Files -----------------------------------------------------------------------------------------------------


class BufferedAddressSpace(TracedAddressSpace):
    """An address_space whose counters can be stored late."""

    __slots__ = ()

    nrpages = BufferedField(AddressSpace, "nrpages")
    nr_thps = BufferedField(AddressSpace, "nr_thps")

    @override
    def nr_thps_inc(self) -> None:
        if not _add_late(self, AddressSpace, "nr_thps", 1, "filemap_nr_thps_inc"):
            super().nr_thps_inc()

    @override
    def nr_thps_dec(self) -> None:
        if not _add_late(self, AddressSpace, "nr_thps", -1, "filemap_nr_thps_dec"):
            super().nr_thps_dec()


class BufferedShmemInode(TracedShmemInode):
    """A shmem inode whose size and accounting can be stored late."""

    __slots__ = ()

    i_size = BufferedField(ShmemInode, "i_size")
    alloced = BufferedField(ShmemInode, "alloced")
    swapped = BufferedField(ShmemInode, "swapped")
    i_blocks = BufferedField(ShmemInode, "i_blocks")
    i_private = BufferedField(ShmemInode, "i_private")


class BufferedRegularInode(TracedRegularInode):
    """A file on a disk whose size, blocks and count of writers can be stored late."""

    __slots__ = ()

    i_size = BufferedField(RegularInode, "i_size")
    i_blocks = BufferedField(RegularInode, "i_blocks")
    i_writecount = BufferedField(RegularInode, "i_writecount")

    @override
    def writecount_add(self, writers: int) -> None:
        if not _add_late(self, RegularInode, "i_writecount", writers, "atomic_add"):
            super().writecount_add(writers)


def _add_late(instance: object, owner: type, name: str, amount: int, label: str) -> bool:
    """Let an addition wait, if the model delays it; tell whether it does. Its CPU does not know the sum meanwhile."""
    where: Location = getattr(instance, "at_" + name)
    buffers = delaying(where, label)
    if buffers is None:
        return False
    buffers.store(
        current(), where, lambda: add_to(owner, name, instance, amount), UNSEEN, label, ORDERS[label], INC
    )  # fmt: skip
    return True


class BufferedVma(TracedVma):
    """A VMA: what others look at without `mmap_lock` can be stored late."""

    __slots__ = ()

    anon_vma = BufferedField(Vma, "anon_vma")
    uffd = BufferedField(Vma, "uffd")


BUFFERED = replace(
    TRACED, folio=BufferedFolio, mapping=BufferedAddressSpace, inode=BufferedShmemInode, regular=BufferedRegularInode,
    xarray=BufferedXArray, vma=BufferedVma,
)  # fmt: skip
"""The classes that a machine is assembled from for an execution under a weak memory model."""
