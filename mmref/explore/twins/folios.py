# SPDX-License-Identifier: GPL-2.0-only
"""Twins of the folio and of the page allocator."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from mmref.errors import DoubleFree, InvariantViolation, UseAfterFree
from mmref.explore.locations import (
    DEC,
    INC,
    LOCK,
    READ,
    THREAD,
    TRYINC,
    UNLOCK,
    WRITE,
    Location,
    LockLocation,
    MarkedLocation,
    PlainLocation,
    hold,
    let_go,
    note,
    point,
    point_all,
    reserve,
)
from mmref.explore.twins.fields import SharedField, slot_of
from mmref.explore.twins.names import folio_text
from mmref.folio import PG_LOCKED, PG_WRITEBACK, Folio, PageAllocator
from mmref.folio.flags import FLAG_NAMES
from mmref.sync import might_sleep, this_cpu

__all__ = ["TracedFolio", "TracedPageAllocator"]


class TracedFolio(Folio):
    """A folio: each flag, the count, the lock and each page's content are locations of their own.

    Attributes:
        dying: its last reference is gone, and it is not free yet.
        exposed: it could be found since it was frozen, with nobody holding xa_lock (A8).
        refused: the CPU whose lookup has failed since it was frozen; empty if none has.
    """

    __slots__ = (
        "at_content",
        "at_flags",
        "at_lock",
        "at_mapcount",
        "at_mapping",
        "at_ref",
        "dying",
        "exposed",
        "flag_ids",
        "page_ids",
        "refused",
    )

    def __init__(self, allocator: PageAllocator, pfn: int, order: int) -> None:
        self.at_lock = LockLocation((self, " lock"))
        self.at_ref = Location((self, " refcount"))
        self.at_mapcount = Location((self, " mapcount"))
        self.at_flags: dict[int, Location] = {}
        self.at_content: dict[int, Location] = {}
        self.flag_ids = reserve(len(FLAG_NAMES))
        self.page_ids = reserve(1 << order)
        self.dying = False
        self.exposed = False
        self.refused = ""
        super().__init__(allocator, pfn, order)
        if isinstance(allocator, TracedPageAllocator):
            allocator.folios.append(self)

    def __str__(self) -> str:
        return folio_text(self)

    mapping = SharedField(Folio, "mapping", PlainLocation)  # under the folio lock

    def check_alive(self, access: str) -> None:
        """Report a use of this folio after it was freed, or as it is being freed: their order has no meaning."""
        if self.free or self.dying:
            raise UseAfterFree(folio_text(self), access)

    # Reference count

    def _held(self) -> bool:
        return self._refcount != 0

    @override
    def ref_count(self) -> int:
        point(self.at_ref, READ, "folio_ref_count")
        self.check_alive("folio_ref_count()")
        note(self._refcount)
        return super().ref_count()

    @override
    def get(self) -> None:
        point(self.at_ref, INC, "folio_get")
        self.check_alive("folio_get()")
        super().get()

    @override
    def try_get(self) -> bool:
        point(self.at_ref, TRYINC, "folio_try_get", self._held)
        got = super().try_get()
        note(got)
        if not got and not self.free:
            self.refused = str(getattr(this_cpu(), "name", this_cpu()))
            self.check_frozen()
        return got

    def check_frozen(self) -> None:
        """Report A8 if a lookup has met this folio frozen, and it was not just for a moment under xa_lock.

        Whether the lookup came before or after xa_lock was released makes no difference: it cannot go on.
        """
        if self.refused and self.exposed:
            raise InvariantViolation(
                "A8",
                f"{self} (page {self.index}) is in the page cache with reference count 0,"
                f" and {self.refused} spins until it is thawed",
            )

    @override
    def put_refs(self, refs: int) -> None:
        point(self.at_ref, DEC, "folio_put" if refs == 1 else "folio_put_refs")
        if self.free or self._refcount < refs:
            raise DoubleFree(
                folio_text(self), "folio_put()",
                f"its count is {self._refcount}, and {refs} {'is' if refs == 1 else 'are'} dropped",
            )  # fmt: skip
        self.dying = self._refcount == refs
        super().put_refs(refs)

    @override
    def ref_add(self, refs: int) -> None:
        point(self.at_ref, INC, "folio_ref_add")
        super().ref_add(refs)

    @override
    def ref_sub(self, refs: int) -> None:
        point(self.at_ref, DEC, "folio_ref_sub")
        super().ref_sub(refs)

    @override
    def ref_freeze(self, expected: int) -> bool:
        point(self.at_ref, WRITE, "folio_ref_freeze", lambda: self._refcount == expected)
        self.check_alive("folio_ref_freeze()")
        frozen = super().ref_freeze(expected)
        if frozen:
            self.exposed = False
            self.refused = ""
            frozen_folios(self).add(self)
            hold(self.at_ref, "frozen")
        note(frozen)
        return frozen

    @override
    def ref_unfreeze(self, refs: int) -> None:
        point(self.at_ref, WRITE, "folio_ref_unfreeze")
        super().ref_unfreeze(refs)
        let_go(self.at_ref)
        frozen_folios(self).discard(self)

    # Mappings

    @override
    def mapcount(self) -> int:
        point(self.at_mapcount, READ, "folio_mapcount")
        note(self._mapcount)
        return super().mapcount()

    @override
    def mapped(self) -> bool:
        point(self.at_mapcount, READ, "folio_mapped")
        note(self._mapcount > 0)
        return super().mapped()

    @override
    def add_rmap(self, ptes: int = 1) -> None:
        point(self.at_mapcount, WRITE, "folio_add_file_rmap_ptes")
        self.check_alive("folio_add_file_rmap_ptes()")
        super().add_rmap(ptes)

    @override
    def remove_rmap(self, ptes: int = 1) -> None:
        point(self.at_mapcount, WRITE, "folio_remove_rmap_ptes")
        super().remove_rmap(ptes)

    # Lock

    def _unlocked(self) -> bool:
        return not self._flags & PG_LOCKED

    @override
    def trylock(self) -> bool:
        point(self.at_lock, WRITE, "folio_trylock", self._unlocked)
        self.check_alive("folio_trylock()")
        locked = super().trylock()
        note(locked)
        return locked

    @override
    def lock(self) -> None:
        might_sleep("folio_lock()")
        point(self.at_lock, LOCK, "folio_lock", None, self._unlocked, "the folio is locked")
        self.check_alive("folio_lock()")
        super().lock()

    @override
    def unlock(self) -> None:
        point(self.at_lock, UNLOCK, "folio_unlock")
        self.check_alive("folio_unlock()")
        self.check_place()
        super().unlock()

    def check_place(self) -> None:
        """Report A6 if this folio says that it belongs to a file which has another entry in its place.

        Whoever takes it out of the file clears `mapping` before it is unlocked: those who wait for the lock go by that.
        """
        run = THREAD.run
        if run is None or not run.live or run.buffers is not None:  # a store to `mapping` may wait in a buffer
            return
        i_pages = getattr(_mapping_of(self), "i_pages", None)
        if i_pages is not None and i_pages.peek(self.index) is not self:
            raise InvariantViolation("A6", f"{self} is unlocked: it is not in the page cache, but says that it is")

    @override
    def test_locked(self) -> bool:
        point(self.at_lock, READ, "folio_test_locked")
        return super().test_locked()

    # Flags

    def _at_flag(self, flag: int) -> Location:
        where = self.at_flags.get(flag)
        if where is None:
            where = self.at_flags[flag] = Location(
                (self, " PG_" + FLAG_NAMES[flag]), self.flag_ids[flag.bit_length() - 1]
            )
        return where

    @override
    def test_flag(self, flag: int) -> bool:
        point(self._at_flag(flag), READ, TEST[flag])
        self.check_alive(TEST[flag])
        is_set = super().test_flag(flag)
        note(is_set)
        return is_set

    @override
    def set_flag(self, flag: int) -> None:
        point(self._at_flag(flag), WRITE, SET[flag])
        self.check_alive(SET[flag])
        super().set_flag(flag)
        if flag == PG_WRITEBACK:
            hold(self._at_flag(flag), "started")

    @override
    def clear_flag(self, flag: int) -> None:
        point(self._at_flag(flag), WRITE, CLEAR[flag], lambda: bool(self._flags & flag))
        self.check_alive(CLEAR[flag])
        super().clear_flag(flag)
        if flag == PG_WRITEBACK:
            let_go(self._at_flag(flag))

    @override
    def test_clear_flag(self, flag: int) -> bool:
        point(self._at_flag(flag), WRITE, TEST_CLEAR[flag], lambda: bool(self._flags & flag))
        was = super().test_clear_flag(flag)
        note(was)
        return was

    def _written_back(self) -> bool:
        return not self._flags & PG_WRITEBACK

    @override
    def wait_writeback(self) -> None:
        where = self._at_flag(PG_WRITEBACK)
        if not self._written_back():
            might_sleep("folio_wait_writeback()")
        point(where, READ, "folio_wait_writeback", None, self._written_back, "the writeback")

    # Content

    def _at_page(self, page: int) -> Location:
        where = self.at_content.get(page)
        if where is None:
            where = self.at_content[page] = MarkedLocation((self, f" page {page}"), self.page_ids[page])
        return where

    def at_bytes(self, offset: int, length: int, mode: int) -> list[tuple[Location, int]]:
        """Return the pages that an access to some bytes touches, with its mode."""
        size = self.allocator.page_size
        return [(self._at_page(page), mode) for page in range(offset // size, -(-(offset + length) // size))]

    @override
    def copy_page(self, page: int, source: Folio, source_page: int) -> bool:
        assert isinstance(source, TracedFolio)
        point_all([(self._at_page(page), WRITE), (source._at_page(source_page), READ)], "copy_highpage")
        source.check_alive("copy_highpage()")
        return super().copy_page(page, source, source_page)

    @override
    def clear_page(self, page: int) -> None:
        point(self._at_page(page), WRITE, "clear_highpage")
        super().clear_page(page)

    @override
    def read(self, offset: int, length: int) -> bytes:
        might_sleep("copy_to_user()")
        if length:
            point_all(self.at_bytes(offset, length, READ), "copy_to_user")
        self.check_alive("copy_to_user()")
        return super().read(offset, length)

    @override
    def write(self, offset: int, content: bytes) -> None:
        might_sleep("copy_from_user()")
        if content:
            point_all(self.at_bytes(offset, len(content), WRITE), "copy_from_user")
        self.check_alive("copy_from_user()")
        super().write(offset, content)

    @override
    def zero_around(self, offset: int, length: int) -> None:
        point_all(self.at_bytes(0, self.size, WRITE), "folio_zero_segments")
        super().zero_around(offset, length)

    @override
    def zero_range(self, offset: int, length: int) -> None:
        if length:
            point_all(self.at_bytes(offset, length, WRITE), "folio_zero_range")
        super().zero_range(offset, length)


def frozen_folios(folio: TracedFolio) -> set[TracedFolio]:
    """Return where the frozen folios of this one's file are kept."""
    mapping = _mapping_of(folio)
    frozen: set[TracedFolio] = getattr(getattr(mapping, "i_pages", None), "frozen", set())
    return frozen


TEST = {flag: f"folio_test_{name}" for flag, name in FLAG_NAMES.items()}
SET = {flag: f"folio_{'mark' if name in ('uptodate', 'dirty') else 'set'}_{name}" for flag, name in FLAG_NAMES.items()}
CLEAR = {flag: f"folio_clear_{name}" for flag, name in FLAG_NAMES.items()}
TEST_CLEAR = {flag: f"folio_test_clear_{name}" for flag, name in FLAG_NAMES.items()}


class TracedPageAllocator(PageAllocator):
    """The allocator: free lists are per CPU, so frees commute with each other but not with an allocation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at_free = Location("free pages")
        self.folios: list[TracedFolio] = []

    @override
    def alloc(self, order: int = 0, nid: int = 0) -> Folio | None:
        might_sleep("folio_alloc(GFP_KERNEL)")
        point(self.at_free, WRITE, "folio_alloc")
        folio = super().alloc(order, nid)
        note(None if folio is None else folio_text(folio))
        return folio

    @override
    def _recycle(self, folio: Folio) -> None:
        point(self.at_free, INC, "free_unref_folios")
        super()._recycle(folio)
        assert isinstance(folio, TracedFolio)
        folio.dying = False


def _mapping_of(folio: Folio) -> object:
    """Look at the file that a folio belongs to, without that being an access."""
    return slot_of(Folio, "mapping").__get__(folio)
