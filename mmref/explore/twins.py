# SPDX-License-Identifier: GPL-2.0-only
"""Traced twins: the classes that hold shared state, with a scheduling point before each access.

The page cache and the strategies are plain Python and know nothing of this. They touch shared state only
through the methods and fields that are overridden here, so a machine assembled from `TRACED` runs the same
code, and the explorer decides at every access which CPU goes on. `TRACED` is a `Parts`, as `Machine` takes it.

Conventions in this file: `at_...` is the `Location` of a piece of state. A method announces its access with
`point()` and then does what the plain class does. Reading `_flags` or `_refcount` to tell whether an operation
would take effect is looking, not an access.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from mmref.errors import InvariantViolation, UseAfterFree
from mmref.explore.locations import (
    DEC,
    INC,
    LOCK,
    READ,
    SHARE,
    THREAD,
    TRYINC,
    UNLOCK,
    UNSHARE,
    WRITE,
    Location,
    note,
    point,
    point_all,
    reserve,
)
from mmref.folio import PG_LOCKED, PG_WRITEBACK, Folio, MemCgroup, PageAllocator
from mmref.folio.flags import FLAG_NAMES
from mmref.machine import Parts
from mmref.pagecache import (
    AddressSpace,
    Mm,
    PageTable,
    RegularInode,
    ShmemInode,
    SwapDevice,
    Tlb,
    UffdEvent,
    Userfaultfd,
    Vma,
    entries_of,
)
from mmref.pagecache.page_table import HugePmd, Pmd, Pte, PteEntry
from mmref.pagecache.tlb import Translation
from mmref.sync import PercpuCounter, RwSem, SpinLock, this_cpu
from mmref.xarray import RETRY, XaNode, XArray, is_sibling

__all__ = ["TRACED", "TracedFolio", "TracedXArray"]


# Locks -----------------------------------------------------------------------------------------------------


class TracedSpinLock(SpinLock):
    """A spinlock for which the other CPUs wait."""

    __slots__ = ("at_lock",)

    def __init__(self, name: str = "lock") -> None:
        super().__init__(name)
        self.at_lock = Location(name)

    def _free(self) -> bool:
        return self.owner is None

    def _holder(self) -> str:
        return f"held by {getattr(self.owner, 'name', self.owner)}"

    @override
    def acquire(self) -> None:
        point(self.at_lock, LOCK, "spin_lock", None, self._free, self._holder)
        super().acquire()

    @override
    def release(self) -> None:
        point(self.at_lock, UNLOCK, "spin_unlock")
        if self.owner is not None:  # an execution that is over may unwind through here
            super().release()


class TracedRwSem(RwSem):
    """A read-write semaphore for which the other CPUs wait; new readers wait behind a writer that waits.

    Attributes:
        queued: how many writers wait.
    """

    __slots__ = ("at_lock", "queued")

    def __init__(self, name: str = "rwsem") -> None:
        super().__init__(name)
        self.at_lock = Location(name)
        self.queued = 0

    def _no_writer(self) -> bool:
        return self.writer is None and not self.queued

    def _free(self) -> bool:
        return self.writer is None and not self.readers

    def _holder(self) -> str:
        if self.writer is None and not self.readers:
            return "for which a writer waits"
        return f"held by {getattr(self.writer, 'name', f'{self.readers} readers')}"

    @override
    def down_read(self) -> None:
        point(self.at_lock, SHARE, "down_read", None, self._no_writer, self._holder)
        super().down_read()

    @override
    def up_read(self) -> None:
        point(self.at_lock, UNSHARE, "up_read")
        if self.readers:
            super().up_read()

    @override
    def down_write(self) -> None:
        point(self.at_lock, WRITE, "down_write")
        if not self._free():
            self.queued += 1
            point(self.at_lock, WRITE, "down_write", None, self._free, self._holder)
            self.queued -= 1
        super().down_write()

    @override
    def down_write_trylock(self) -> bool:
        point(self.at_lock, WRITE, "down_write_trylock", self._free)
        taken = super().down_write_trylock()
        note(taken)
        return taken

    @override
    def up_write(self) -> None:
        point(self.at_lock, UNLOCK, "up_write")
        if self.writer is not None:
            super().up_write()


class TracedCounter(PercpuCounter):
    """A counter: changes commute, unless a limit makes one of them fail."""

    __slots__ = ("at_value",)

    def __init__(self, name: str = "counter") -> None:
        super().__init__(name)
        self.at_value = Location(name)

    @override
    def add(self, amount: int) -> None:
        point(self.at_value, INC, "percpu_counter_add")
        super().add(amount)

    @override
    def limited_add(self, amount: int, limit: int) -> bool:
        point(self.at_value, WRITE, "percpu_counter_limited_add", lambda: self._value + amount <= limit)
        done = super().limited_add(amount, limit)
        note(done)
        return done


# Fields ----------------------------------------------------------------------------------------------------


def slot_of(owner: type, name: str) -> Any:  # Any: the member descriptor that __slots__ makes
    """Return the descriptor of a slot of a plain class, wherever in its bases it is declared."""
    return next(base.__dict__[name] for base in owner.__mro__ if name in base.__dict__)


class SharedField:
    """A field of a plain class, shadowed so that reading and writing it are accesses.

    The value stays where the plain class keeps it, in its slot.
    """

    def __init__(self, owner: type, name: str) -> None:
        self.plain = slot_of(owner, name)
        self.name = name
        self.at = "at_" + name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        point(getattr(instance, self.at), READ, self.name)
        value = self.plain.__get__(instance)
        note(value if isinstance(value, int) else None)
        return value

    def __set__(self, instance: Any, value: object) -> None:
        where = getattr(instance, self.at, None)
        if where is None:  # the constructor of the plain class
            where = Location((instance, "." + self.name))
            setattr(instance, self.at, where)
        else:
            point(where, WRITE, self.name)
        self.plain.__set__(instance, value)
        note(value if isinstance(value, int) else None)


class TracedAddressSpace(AddressSpace):
    """An address_space whose counters are shared."""

    __slots__ = ("at_nr_thps", "at_nrpages")

    nrpages = SharedField(AddressSpace, "nrpages")
    nr_thps = SharedField(AddressSpace, "nr_thps")

    def __str__(self) -> str:
        return "mapping"


class TracedShmemInode(ShmemInode):
    """A shmem inode whose size and accounting are shared."""

    __slots__ = ("at_alloced", "at_i_blocks", "at_i_private", "at_i_size", "at_swapped")

    i_size = SharedField(ShmemInode, "i_size")
    alloced = SharedField(ShmemInode, "alloced")
    swapped = SharedField(ShmemInode, "swapped")
    i_blocks = SharedField(ShmemInode, "i_blocks")
    counter_class = TracedCounter
    i_private = SharedField(ShmemInode, "i_private")

    def __str__(self) -> str:  # not __repr__(), which reads a traced field
        return self.name


class TracedRegularInode(RegularInode):
    """A file on a disk whose size, blocks and count of writers are shared; the disk itself is behind `i_rwsem`."""

    __slots__ = ("at_i_blocks", "at_i_size", "at_i_writecount")

    i_size = SharedField(RegularInode, "i_size")
    i_blocks = SharedField(RegularInode, "i_blocks")
    i_writecount = SharedField(RegularInode, "i_writecount")

    def __str__(self) -> str:  # not __repr__(), which reads a traced field
        return self.name


class TracedMemCgroup(MemCgroup):
    """A control group whose counter is shared."""

    __slots__ = ("at_usage",)

    def __init__(self, name: str, limit: int | None = None, swap_limit: int | None = None) -> None:
        super().__init__(name, limit, swap_limit)
        self.at_usage = Location(f"usage of {name}")

    @override
    def charge(self, pages: int) -> bool:
        point(self.at_usage, WRITE, "try_charge")
        charged = super().charge(pages)
        note(charged)
        return charged

    @override
    def uncharge(self, pages: int) -> None:
        point(self.at_usage, WRITE, "page_counter_uncharge")
        super().uncharge(pages)


NEIGHBOURS = 1024
"""Pages or PMD entries that one address space may have in use, for the ids of their locations: they lie together."""


# Address spaces --------------------------------------------------------------------------------------------


class TracedVma(Vma):
    """A VMA: what others look at without `mmap_lock` is shared; the rest changes under that lock only."""

    __slots__ = ("at_anon_vma", "at_uffd")

    anon_vma = SharedField(Vma, "anon_vma")
    uffd = SharedField(Vma, "uffd")

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


# Folios ----------------------------------------------------------------------------------------------------


class TracedFolio(Folio):
    """A folio: each flag, the count, the lock and each page's content are locations of their own.

    Attributes:
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
        "exposed",
        "flag_ids",
        "page_ids",
        "refused",
    )

    def __init__(self, allocator: PageAllocator, pfn: int, order: int) -> None:
        self.at_lock = Location((self, " lock"))
        self.at_ref = Location((self, " refcount"))
        self.at_mapcount = Location((self, " mapcount"))
        self.at_flags: dict[int, Location] = {}
        self.at_content: dict[int, Location] = {}
        self.flag_ids = reserve(len(FLAG_NAMES))
        self.page_ids = reserve(1 << order)
        self.exposed = False
        self.refused = ""
        super().__init__(allocator, pfn, order)
        if isinstance(allocator, TracedPageAllocator):
            allocator.folios.append(self)

    def __str__(self) -> str:
        return folio_text(self)

    mapping = SharedField(Folio, "mapping")

    def check_alive(self, access: str) -> None:
        """Report a use of this folio after it was freed."""
        if self.free:
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
        self.check_alive("folio_put()")
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
        note(frozen)
        return frozen

    @override
    def ref_unfreeze(self, refs: int) -> None:
        point(self.at_ref, WRITE, "folio_ref_unfreeze")
        super().ref_unfreeze(refs)
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
        point(self.at_lock, LOCK, "folio_lock", None, self._unlocked, "the folio is locked")
        self.check_alive("folio_lock()")
        super().lock()

    @override
    def unlock(self) -> None:
        point(self.at_lock, UNLOCK, "folio_unlock")
        self.check_alive("folio_unlock()")
        super().unlock()

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

    @override
    def clear_flag(self, flag: int) -> None:
        point(self._at_flag(flag), WRITE, CLEAR[flag], lambda: bool(self._flags & flag))
        self.check_alive(CLEAR[flag])
        super().clear_flag(flag)

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
        point(where, READ, "folio_wait_writeback", None, self._written_back, "the writeback")

    # Content

    def _at_page(self, page: int) -> Location:
        where = self.at_content.get(page)
        if where is None:
            where = self.at_content[page] = Location((self, f" page {page}"), self.page_ids[page])
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
        if length:
            point_all(self.at_bytes(offset, length, READ), "copy_to_user")
        self.check_alive("copy_to_user()")
        return super().read(offset, length)

    @override
    def write(self, offset: int, content: bytes) -> None:
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
    mapping = slot_of(Folio, "mapping").__get__(folio)
    array = getattr(mapping, "i_pages", None)
    return array.frozen if isinstance(array, TracedXArray) else set()


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
        point(self.at_free, WRITE, "folio_alloc")
        folio = super().alloc(order, nid)
        note(None if folio is None else folio_text(folio))
        return folio

    @override
    def _recycle(self, folio: Folio) -> None:
        point(self.at_free, INC, "free_unref_folios")
        super()._recycle(folio)


# XArray ----------------------------------------------------------------------------------------------------


class TracedSlots(list[Any]):
    """The slots of a node: reading or writing one is an access; a slice is written slot by slot, in order."""

    __slots__ = ("at", "ids", "owner")

    def __init__(self, owner: TracedXArray, size: int) -> None:
        super().__init__([None] * size)
        self.owner = owner
        self.at: list[Location | None] = [None] * size
        self.ids = reserve(size)

    def _at(self, offset: int) -> Location:
        where = self.at[offset]
        if where is None:
            where = self.at[offset] = Location(f"slot {offset} of {self.owner.number(self)}", self.ids[offset])
        return where

    def __getitem__(self, offset: Any) -> Any:
        if type(offset) is slice:
            return [self[at] for at in range(*offset.indices(len(self)))]
        point(self.at[offset] or self._at(offset), READ, "slot load")
        entry = list.__getitem__(self, offset)
        _note_entry(entry)
        return entry

    def __setitem__(self, offset: Any, entry: Any) -> None:
        if type(offset) is slice:
            for at, one in zip(range(*offset.indices(len(self))), entry, strict=True):
                self[at] = one
            return
        point(self.at[offset] or self._at(offset), WRITE, "slot store")
        list.__setitem__(self, offset, entry)
        _note_entry(entry)


class TracedXaLock(TracedSpinLock):
    """The lock of an XArray; when it is released, lookups can meet whatever is frozen in there (A8)."""

    __slots__ = ("array",)

    def __init__(self, array: TracedXArray) -> None:
        super().__init__("xa_lock")
        self.array = array

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
    """

    __slots__ = ("at_xa_head", "frozen", "nodes_made")

    xa_head = SharedField(XArray, "xa_head")

    def __init__(self, chunk_shift: int = 6) -> None:
        self.frozen: set[TracedFolio] = set()
        self.nodes_made: list[TracedSlots] = []
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
    def _peek_head(self) -> Any:
        return slot_of(XArray, "xa_head").__get__(self)


# Names for people ------------------------------------------------------------------------------------------


def folio_text(folio: Folio) -> str:
    """Name a folio in a trace: a small one by its page frame, the huge one as the kernel's code does."""
    return f"folio {folio.pfn}" if folio.order == 0 else "new_folio"


def entry_text(entry: object) -> str:
    """Name an entry of the tree in a trace."""
    if entry is None:
        return "NULL"
    if entry is RETRY:
        return "RETRY"
    if isinstance(entry, Folio):
        return folio_text(entry)
    if type(entry) is XaNode:
        return "node"
    if is_sibling(entry):
        return "sibling"
    return str(entry)


def _note_entry(entry: object) -> None:
    run = THREAD.run
    if run is not None and run.recorder is not None:
        note(entry_text(entry))


TRACED = Parts(
    folio=TracedFolio,
    allocator=TracedPageAllocator,
    mapping=TracedAddressSpace,
    inode=TracedShmemInode,
    spinlock=TracedSpinLock,
    rwsem=TracedRwSem,
    xarray=TracedXArray,
    regular=TracedRegularInode,
    mm=TracedMm,
    vma=TracedVma,
    page_table=TracedPageTable,
    tlb=TracedTlb,
    swap=TracedSwapDevice,
    memcg=TracedMemCgroup,
    uffd=TracedUserfaultfd,
)
