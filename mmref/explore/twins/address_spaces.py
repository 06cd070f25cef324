# SPDX-License-Identifier: GPL-2.0-only
"""Twins of what an address space is made of, of userfaultfd and of swap."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from mmref.explore.locations import (
    READ,
    WRITE,
    Location,
    OnceLocation,
    note,
    point,
    point_all,
    reserve,
)
from mmref.explore.twins.fields import SharedField
from mmref.explore.twins.folios import TracedFolio
from mmref.folio import Folio
from mmref.pagecache import (
    Mm,
    PageTable,
    SwapDevice,
    Tlb,
    UffdEvent,
    Userfaultfd,
    Vma,
)
from mmref.pagecache.page_table import HugePmd, Pmd, Pte, PteEntry
from mmref.pagecache.tlb import Translation
from mmref.sync import SpinLock, might_sleep

__all__ = ["TracedMm", "TracedPageTable", "TracedSwapDevice", "TracedTlb", "TracedUserfaultfd", "TracedVma"]


NEIGHBOURS = 1024
"""Pages or PMD entries that one address space may have in use, for the ids of their locations: they lie together."""


class TracedVma(Vma):
    """A VMA: what others look at without `mmap_lock` is shared; the rest changes under that lock only."""

    __slots__ = ("at_anon_vma", "at_uffd")

    # Is set under page_table_lock; READ_ONCE() in retract_page_tables(), mm/khugepaged.c.
    anon_vma = SharedField(Vma, "anon_vma", OnceLocation)
    # Changes under mmap_lock held exclusively; collapse_file() looks with i_mmap_rwsem alone.
    uffd = SharedField(Vma, "uffd", OnceLocation)

    def __str__(self) -> str:
        return f"VMA at page {self.vm_pgoff}"


class TracedPageTable(PageTable):
    """A page table: each entry is a location of its own."""

    __slots__ = ("at_ptes", "pte_ids")

    def __init__(self, nr: int, lock: SpinLock) -> None:
        super().__init__(nr, lock)
        self.at_ptes: dict[int, Location] = {}
        self.pte_ids = reserve(nr)

    def __str__(self) -> str:
        return "page table"

    def _at_pte(self, at: int) -> Location:
        where = self.at_ptes.get(at)
        if where is None:
            where = self.at_ptes[at] = Location((self, f" entry {at}"), self.pte_ids[at])
        return where

    @override
    def get(self, at: int) -> PteEntry:
        point(self._at_pte(at), READ, "ptep_get")
        return super().get(at)

    @override
    def set(self, at: int, entry: PteEntry) -> None:
        point(self._at_pte(at), WRITE, "set_pte_at")
        super().set(at, entry)

    @override
    def mark_dirty(self, at: int, entry: Pte) -> bool:
        point(self._at_pte(at), WRITE, "set the dirty bit")
        return super().mark_dirty(at, entry)

    @override
    def get_and_clear(self, at: int) -> PteEntry:
        point(self._at_pte(at), WRITE, "ptep_get_and_clear")
        return super().get_and_clear(at)


class TracedTlb(Tlb):
    """TLBs: each virtual page is a location, of all CPUs together; a flush of everything is a location, too."""

    def __init__(self) -> None:
        super().__init__()
        self.at_all = Location("TLBs")
        self.at_pages: dict[int, Location] = {}
        self.page_ids = reserve(NEIGHBOURS)

    def _at_page(self, vpn: int) -> Location:
        where = self.at_pages.get(vpn)
        if where is None:
            where = self.at_pages[vpn] = Location(f"TLB entries of page {vpn:#x}", self.page_ids[vpn % NEIGHBOURS])
        return where

    @override
    def load(self, vpn: int) -> Translation | None:
        point_all([(self._at_page(vpn), READ), (self.at_all, READ)], "TLB lookup")
        known = super().load(vpn)
        note("hit" if known is not None else "miss")
        return known

    @override
    def fill(self, vpn: int, translation: Translation) -> None:
        point_all([(self._at_page(vpn), WRITE), (self.at_all, READ)], "TLB fill")
        super().fill(vpn, translation)

    @override
    def load_bytes(self, vpn: int, offset: int, length: int, page_size: int) -> bytes | None:
        known = Tlb.load(self, vpn)
        self._access(vpn, known, offset, length, page_size, READ, "load")
        if known is None or Tlb.load(self, vpn) != known:
            return None
        assert isinstance(known.folio, TracedFolio)
        known.folio.check_alive("a load through the TLB")
        return Folio.read(known.folio, known.page * page_size + offset, length)

    @override
    def store_bytes(self, vpn: int, offset: int, content: bytes, page_size: int) -> bool:
        known = Tlb.load(self, vpn)
        if known is not None and not known.write:
            known = None
        self._access(vpn, known, offset, len(content), page_size, WRITE, "store")
        if known is None or Tlb.load(self, vpn) != known:
            return False
        assert isinstance(known.folio, TracedFolio)
        known.folio.check_alive("a store through the TLB")
        Folio.write(known.folio, known.page * page_size + offset, content)
        return True

    def _access(
        self, vpn: int, known: Translation | None, offset: int, length: int, page_size: int, mode: int, label: str
    ) -> None:
        """Announce an access to memory through the TLB: one step with the look into the TLB."""
        places = [(self._at_page(vpn), READ), (self.at_all, READ)]
        if known is not None:
            assert isinstance(known.folio, TracedFolio)
            places += known.folio.at_bytes(known.page * page_size + offset, length, mode)
        point_all(places, label if known is not None else "TLB miss")

    def fill_with(self, vpn: int, translation: Translation, read: list[Location], walk: Any) -> None:
        """Fill an entry with what a walk of the page tables has found, if it would find the same now: one step."""
        point_all([(self._at_page(vpn), WRITE), (self.at_all, READ), *((place, READ) for place in read)], "TLB fill")
        if walk() == translation:
            Tlb.fill(self, vpn, translation)

    @override
    def flush_range(self, first: int, nr: int) -> None:
        if nr == 1:
            point_all([(self._at_page(first), WRITE), (self.at_all, READ)], "flush_tlb_page")
        else:
            point(self.at_all, WRITE, "flush_tlb_range")
        super().flush_range(first, nr)

    @override
    def flush_all(self) -> None:
        point(self.at_all, WRITE, "flush_tlb_mm")
        super().flush_all()


class TracedMm(Mm):
    """An address space: each PMD entry is a location; VMAs change under `mmap_lock` held exclusively."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.at_pmds: dict[int, Location] = {}
        self.pmd_ids = reserve(NEIGHBOURS)
        super().__init__(*args, **kwargs)

    def __str__(self) -> str:
        return self.name

    def _at_pmd(self, at: int) -> Location:
        where = self.at_pmds.get(at)
        if where is None:
            where = self.at_pmds[at] = Location((self, f" PMD {at:#x}"), self.pmd_ids[at % NEIGHBOURS])
        return where

    @override
    def pmd(self, at: int) -> Pmd:
        point(self._at_pmd(at), READ, "pmdp_get_lockless")
        return super().pmd(at)

    @override
    def set_pmd(self, at: int, pmd: Pmd) -> None:
        point(self._at_pmd(at), WRITE, "set_pmd_at")
        super().set_pmd(at, pmd)

    @override
    def mark_pmd_dirty(self, at: int, pmd: HugePmd) -> bool:
        point(self._at_pmd(at), WRITE, "set the dirty bit")
        return super().mark_pmd_dirty(at, pmd)

    @override
    def _remember(self, address: int, translation: Translation) -> None:
        at, offset = self.pmd_of(address), self.pte_of(address)
        table = Mm.pmd(self, at)
        read = [self._at_pmd(at)]
        if isinstance(table, TracedPageTable):
            read.append(table._at_pte(offset))
        assert isinstance(self.tlb, TracedTlb)
        self.tlb.fill_with(address // self.memory.page_size, translation, read, lambda: self._look(at, offset))

    def _look(self, at: int, offset: int) -> Translation | None:
        """Walk the page tables without that being an access."""
        pmd = Mm.pmd(self, at)
        if isinstance(pmd, HugePmd):
            return Translation(pmd.folio, offset, pmd.write)
        entry = PageTable.get(pmd, offset) if pmd is not None else None
        return Translation(entry.folio, entry.page, entry.write) if isinstance(entry, Pte) else None


class TracedUserfaultfd(Userfaultfd):
    """A userfaultfd for whose monitor the faulting CPU really waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at_events = Location("userfaultfd events")

    @override
    def deliver(self, event: UffdEvent) -> None:
        point(self.at_events, WRITE, "handle_userfault")
        super().deliver(event)

    @override
    def wait(self, event: UffdEvent) -> None:
        might_sleep("handle_userfault()")
        point(self.at_events, READ, "wait for the monitor", None, lambda: event.resolved, "the monitor")
        super().wait(event)

    @override
    def wake(self, address: int) -> None:
        point(self.at_events, WRITE, "wake_userfault")
        super().wake(address)


class TracedSwapDevice(SwapDevice):
    """A swap device: each slot of the swap cache is a location; the map is behind its lock."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at_cache: dict[int, Location] = {}
        self.slot_ids = reserve(self.pages + 1)
        self.at_readahead = Location("swap readahead window")

    def _at_slot(self, entry: int) -> Location:
        where = self.at_cache.get(entry)
        if where is None:
            where = self.at_cache[entry] = Location(f"swap cache slot {entry}", self.slot_ids[entry])
        return where

    @override
    def count_hit(self) -> None:
        point(self.at_readahead, WRITE, "swapin_readahead_hits")
        super().count_hit()

    @override
    def swapin_nr_pages(self, entry: int) -> int:
        point(self.at_readahead, WRITE, "swapin_nr_pages")
        return super().swapin_nr_pages(entry)

    @override
    def peek_cache(self, entry: int) -> Folio | None:
        point(self._at_slot(entry), READ, "swap cache load")
        return super().peek_cache(entry)

    @override
    def _cache_insert(self, entry: int, folio: Folio) -> bool:
        point(self._at_slot(entry), WRITE, "swap cache store")
        return super()._cache_insert(entry, folio)

    @override
    def _cache_remove(self, folio: Folio) -> None:
        point(self._at_slot(folio.swap), WRITE, "swap cache erase")
        super()._cache_remove(folio)
