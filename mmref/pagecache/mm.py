# SPDX-License-Identifier: GPL-2.0-only
"""A process's address space: what it has mapped where, and its page tables.

Conventions in this file: addresses, starts, ends and lengths are in bytes; `at` is the number of a PMD entry (an
address divided by the size of a huge page), `offset` the number of a PTE in its page table; `vpn` is an address in
pages.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from errno import EFAULT, EINVAL, ENOMEM
from typing import TYPE_CHECKING

from mmref.errors import MmrefInternalError, UsageError
from mmref.folio import Folio, MemCgroup
from mmref.pagecache.fault import BusError, SegmentationFault, handle_mm_fault
from mmref.pagecache.mapping import AddressSpace, Memory
from mmref.pagecache.mincore import mincore_page
from mmref.pagecache.page_table import HugePmd, PageTable, Pmd, Pte, PteMarker, SwapPte
from mmref.pagecache.rmap import folio_test_anon
from mmref.pagecache.tlb import Tlb, Translation
from mmref.pagecache.vma import Vma
from mmref.sync import RwSem, SpinLock

if TYPE_CHECKING:
    from mmref.pagecache.uffd import Userfaultfd

__all__ = ["MMAP_BASE", "Mm"]

MMAP_BASE = 0x7F0000000000
"""Where mappings go if nobody says where."""

_PUD_SHIFT = 9
"""log2 of the PMD entries in one PMD table, which covers 1 GiB on x86-64."""


class Mm:
    """An address space.

    Kernel: struct mm_struct, include/linux/mm_types.h.

    Attributes:
        memory: the machine's memory.
        name: for people.
        order: log2 of the pages of a huge page.
        mmap_lock: held shared by faults, exclusively by who changes the VMAs.
        page_table_lock: protects PMD entries. Kernel: pmd_lock(), include/linux/mm.h.
        tlb: what the CPUs remember of its page tables.
        thp_disabled: prctl(PR_SET_THP_DISABLE) was called.
        exiting: it is being torn down.
        memcg: the control group of the process.
    """

    def __init__(
        self,
        memory: Memory,
        name: str,
        order: int,
        rwsem_class: type[RwSem] = RwSem,
        lock_class: type[SpinLock] = SpinLock,
        vma_class: type[Vma] = Vma,
        table_class: type[PageTable] = PageTable,
        tlb_class: type[Tlb] = Tlb,
    ) -> None:
        self.memory = memory
        self.name = name
        self.order = order
        self.huge_size = memory.page_size << order
        self.mmap_lock = rwsem_class("mmap_lock")
        self.page_table_lock = lock_class("page_table_lock")
        self.tlb = tlb_class()
        self.thp_disabled = False
        self.exiting = False
        self.memcg: MemCgroup | None = memory.memcg
        self._lock_class = lock_class
        self._vma_class = vma_class
        self._table_class = table_class
        self._vmas: list[Vma] = []
        self._pmds: dict[int, PageTable | HugePmd] = {}
        self._pmd_tables: set[int] = {self.pmd_of(MMAP_BASE) >> _PUD_SHIFT}

    def __repr__(self) -> str:
        return f"<Mm {self.name}: {len(self._vmas)} VMAs>"

    # Geometry ----------------------------------------------------------------------------------------------

    def pmd_of(self, address: int) -> int:
        """Return the number of the PMD entry of an address."""
        return address // self.huge_size

    def pte_of(self, address: int) -> int:
        """Return the number of an address's PTE in its page table."""
        return address % self.huge_size // self.memory.page_size

    def pmd_address(self, at: int) -> int:
        """Return the first address of a PMD entry."""
        return at * self.huge_size

    # Page tables -------------------------------------------------------------------------------------------

    def pmd(self, at: int) -> Pmd:
        """Read a PMD entry: page table, huge folio, or None. Kernel: pmdp_get_lockless(), include/linux/pgtable.h."""
        return self._pmds.get(at)

    def set_pmd(self, at: int, pmd: Pmd) -> None:
        """Write a PMD entry. Kernel: set_pmd_at(), include/linux/pgtable.h. Context: `page_table_lock` is held."""
        if pmd is None:
            self._pmds.pop(at, None)
        else:
            self._pmds[at] = pmd

    def mark_pmd_dirty(self, at: int, pmd: HugePmd) -> bool:
        """Set the dirty bit of a PMD entry as the processor does, unless it has changed: one atomic step."""
        if self._pmds.get(at) != pmd:
            return False
        self._pmds[at] = pmd._replace(dirty=True)
        return True

    def has_pmd_table(self, at: int) -> bool:
        """Tell whether there is a table that this PMD entry is in. Kernel: mm_find_pmd(), mm/rmap.c."""
        return at >> _PUD_SHIFT in self._pmd_tables

    def pte_alloc(self, at: int) -> PageTable:
        """Return the page table of a PMD entry, and make one if there is none. Kernel: __pte_alloc(), mm/memory.c.

        Raises:
            FaultRetry: a huge folio is mapped there by now.
        """
        pmd = self.pmd(at)
        if pmd is None:
            table = self._table_class(1 << self.order, self._lock_class("page table lock"))
            with self.page_table_lock:
                self._pmd_tables.add(at >> _PUD_SHIFT)
                pmd = self.pmd(at)
                if pmd is None:
                    self.set_pmd(at, table)
                    return table
        if isinstance(pmd, HugePmd):
            from mmref.pagecache.fault import FaultRetry

            raise FaultRetry
        return pmd

    def split_huge_pmd(self, at: int) -> None:
        """Take a huge folio's PMD entry away; its pages are faulted in again one by one.

        Kernel: __split_huge_pmd(), mm/huge_memory.c, for a file: there are no PTEs to put in its place.
        """
        with self.page_table_lock:
            pmd = self.pmd(at)
            if not isinstance(pmd, HugePmd):
                return
            self.set_pmd(at, None)
            self.tlb.flush_range(self.pmd_address(at) // self.memory.page_size, 1 << self.order)
            if pmd.dirty:
                pmd.folio.mark_dirty()
            pmd.folio.remove_rmap()
        pmd.folio.put()

    def clear_marker(self, at: int, offset: int) -> None:
        """Forget a marker that no longer means anything. Kernel: pte_marker_clear(), mm/memory.c."""
        table = self.pmd(at)
        if isinstance(table, PageTable):
            with table.lock:
                if isinstance(table.get(offset), PteMarker):
                    table.set(offset, None)

    def zap_range(self, start: int, end: int, even_cows: bool = True) -> None:
        """Take a range of a VMA out of the page tables. Kernel: zap_page_range_single(), mm/memory.c.

        A huge folio that is mapped by a PMD and only partly in the range is taken away whole.
        """
        size = self.memory.page_size
        address = start
        while address < end:
            at = self.pmd_of(address)
            behind = min(end, self.pmd_address(at + 1))
            pmd = self.pmd(at)
            if isinstance(pmd, HugePmd):
                self.split_huge_pmd(at)
            elif pmd is not None:
                for one in range(address, behind, size):
                    self._zap_pte(pmd, one, even_cows)
            address = behind

    def _zap_pte(self, table: PageTable, address: int, even_cows: bool) -> None:
        offset = self.pte_of(address)
        if table.get(offset) is None:
            return
        with table.lock:
            entry = table.get(offset)
            anon = isinstance(entry, SwapPte) or (isinstance(entry, Pte) and folio_test_anon(entry.folio))
            if entry is None or (anon and not even_cows) or (isinstance(entry, PteMarker) and not even_cows):
                return
            table.get_and_clear(offset)
            if isinstance(entry, Pte):
                self.tlb.flush_range(address // self.memory.page_size, 1)
                if entry.dirty and not anon:
                    entry.folio.mark_dirty()
                entry.folio.remove_rmap()
                if anon:
                    entry.folio.mapping = None
                elif entry.uffd_wp and not even_cows:
                    table.set(offset, PteMarker.UFFD_WP)
        if isinstance(entry, Pte):
            if anon and entry.folio.test_swapcache() and self.memory.swap is not None:
                swap = entry.folio.swap
                self.memory.swap.cache_delete(entry.folio)
                self.memory.swap.free(swap)
            entry.folio.put()
        elif isinstance(entry, SwapPte) and self.memory.swap is not None:
            self.memory.swap.free_swap_and_cache(entry.entry)

    # VMAs --------------------------------------------------------------------------------------------------

    @property
    def vmas(self) -> list[Vma]:
        """The VMAs by address."""
        return list(self._vmas)

    def find_vma(self, address: int) -> Vma | None:
        """Return the VMA at an address. Kernel: vma_lookup(), include/linux/mm.h."""
        at = bisect_right(self._vmas, address, key=_vma_start) - 1
        if at >= 0 and address < self._vmas[at].vm_end:
            return self._vmas[at]
        return None

    def mmap(
        self, mapping: AddressSpace, length: int, offset: int = 0, prot: str = "rw", shared: bool = True,
        address: int | None = None, skew: int = 0,
    ) -> Vma:  # fmt: skip
        """Map a range of a file. Kernel: do_mmap(), mm/mmap.c.

        Args:
            mapping: the file's page cache.
            length: bytes, rounded up to pages.
            offset: where in the file (bytes, whole pages).
            prot: what may be done: letters of ``rwx``.
            shared: MAP_SHARED, not MAP_PRIVATE.
            address: where, if not anywhere; what was mapped there is unmapped (MAP_FIXED).
            skew: bytes to add to an address that would suit huge pages.

        Raises:
            OSError: EINVAL: nothing to map, or not whole pages.
        """
        size = self.memory.page_size
        if length <= 0 or offset < 0 or offset % size or skew % size or (address or 0) % size:
            raise OSError(EINVAL, f"Cannot map {length} bytes from offset {offset}")
        if set(prot) - set("rwx-"):
            raise UsageError(f"Protection {prot!r}: give letters of rwx.")
        length = -(-length // size) * size
        self.mmap_lock.down_write()
        try:
            if address is None:
                end = max((vma.vm_end for vma in self._vmas), default=MMAP_BASE)
                start = -(-(end + self.huge_size) // self.huge_size) * self.huge_size
                address = start + offset % self.huge_size + skew
            else:
                self._unmap(address, address + length)
            flags = frozenset(prot) - {"-"}
            vma = self._vma_class(self, address, address + length, offset // size, mapping, shared, flags)
            self._link(vma)
            return vma
        finally:
            self.mmap_lock.up_write()

    def munmap(self, start: int, length: int) -> None:
        """Unmap a range. Kernel: do_munmap(), mm/mmap.c."""
        end = self._check_range(start, length)
        self.mmap_lock.down_write()
        try:
            self._unmap(start, end)
        finally:
            self.mmap_lock.up_write()

    def exit(self) -> None:
        """Unmap everything: the process ends. Kernel: exit_mmap(), mm/mmap.c."""
        self.exiting = True
        self.mmap_lock.down_write()
        for vma in self.vmas:
            self._unmap(vma.vm_start, vma.vm_end)
        self.mmap_lock.up_write()

    def _unmap(self, start: int, end: int) -> None:
        for vma in self._isolate(start, end):
            self.zap_range(vma.vm_start, vma.vm_end)
            self._unlink(vma)
        for at in range(self.pmd_of(start), self.pmd_of(end - 1) + 1):  # free_pgtables()
            low, high = self.pmd_address(at), self.pmd_address(at + 1)
            if not any(vma.vm_start < high and low < vma.vm_end for vma in self._vmas):
                with self.page_table_lock:
                    self.set_pmd(at, None)

    def _link(self, vma: Vma) -> None:
        insort(self._vmas, vma, key=_vma_start)
        rwsem = vma.mapping.i_mmap_rwsem
        rwsem.down_write()
        vma.mapping.i_mmap[vma] = None
        rwsem.up_write()

    def _unlink(self, vma: Vma) -> None:
        self._vmas.remove(vma)
        rwsem = vma.mapping.i_mmap_rwsem
        rwsem.down_write()
        del vma.mapping.i_mmap[vma]
        rwsem.up_write()
        if vma.anon_vma is not None:
            vma.anon_vma.vmas.pop(vma, None)

    def _split(self, vma: Vma, address: int) -> None:
        """Cut a VMA in two at an address. Kernel: __split_vma(), mm/vma.c."""
        if not vma.vm_start < address < vma.vm_end:
            return
        if address % self.huge_size:
            self.split_huge_pmd(self.pmd_of(address))  # Kernel: vma_adjust_trans_huge()
        tail = self._vma_class(self, address, vma.vm_end, vma.index_of(address), vma.mapping, vma.shared, vma.prot)
        tail.locked, tail.hugepage, tail.uffd, tail.uffd_ctx = vma.locked, vma.hugepage, vma.uffd, vma.uffd_ctx
        tail.anon_vma = vma.anon_vma
        if tail.anon_vma is not None:
            tail.anon_vma.vmas[tail] = None
        vma.vm_end = address
        self._link(tail)

    def _isolate(self, start: int, end: int) -> list[Vma]:
        """Cut VMAs at both ends of a range; return those in it."""
        for address in (start, end):
            vma = self.find_vma(address)
            if vma is not None:
                self._split(vma, address)
        return [vma for vma in self._vmas if start <= vma.vm_start and vma.vm_end <= end]

    def _change(self, start: int, end: int, **flags: object) -> list[tuple[int, int]]:
        """Change all VMAs of a range, and merge what has become alike. Kernel: vma_modify(), mm/vma.c.

        A VMA that is that way already is left alone: not even cut at the ends of the range.

        Returns:
            the parts of the range that have changed, as (start, end).
        """
        changed = []
        for vma in self._overlapping(start, end):
            if all(getattr(vma, flag) == value for flag, value in flags.items()):
                continue
            low, high = max(start, vma.vm_start), min(end, vma.vm_end)
            for part in self._isolate(low, high):
                for flag, value in flags.items():
                    setattr(part, flag, value)
            changed.append((low, high))
        for vma in self.vmas:
            at = self._vmas.index(vma)
            if at and self._vmas[at - 1].same_kind(vma):
                head = self._vmas[at - 1]
                self._unlink(vma)
                head.vm_end = vma.vm_end
                if head.anon_vma is None and vma.anon_vma is not None:
                    head.anon_vma = vma.anon_vma
                    vma.anon_vma.vmas[head] = None
        return changed

    def covered(self, start: int, end: int) -> bool:
        """Tell whether everything between two addresses is mapped."""
        while start < end:
            vma = self.find_vma(start)
            if vma is None:
                return False
            start = vma.vm_end
        return True

    def _check_range(self, start: int, length: int) -> int:
        size = self.memory.page_size
        if start % size or length <= 0:
            raise OSError(EINVAL, f"{length} bytes from {start:#x}: not whole pages")
        return start + -(-length // size) * size

    def mprotect(self, start: int, length: int, prot: str) -> None:
        """Change what may be done with a range. Kernel: mprotect_fixup(), mm/mprotect.c."""
        for low, high in self._change_covered(start, length, prot=frozenset(prot) - {"-"}):
            self._protect(low, high)

    def _protect(self, start: int, end: int) -> None:
        """Take write permission out of the page tables. Kernel: change_protection(), mm/mprotect.c.

        Faults give it back.
        """
        size = self.memory.page_size
        for address in range(start, end, size):
            at = self.pmd_of(address)
            pmd = self.pmd(at)
            if isinstance(pmd, HugePmd):
                with self.page_table_lock:
                    self.set_pmd(at, pmd._replace(write=False))
            elif pmd is not None:
                with pmd.lock:
                    entry = pmd.get(self.pte_of(address))
                    if isinstance(entry, Pte) and entry.write:
                        pmd.set(self.pte_of(address), entry._replace(write=False))
        self.tlb.flush_range(start // size, (end - start) // size)

    def mlock(self, start: int, length: int) -> None:
        """Lock a range in memory: fault all of it in. Kernel: do_mlock(), mm/mlock.c.

        Raises:
            OSError: EINVAL, ENOMEM: not all of it is mapped, or there is no page behind a part.
        """
        self._change_covered(start, length, locked=True)
        end = self._check_range(start, length)
        for vma in self._overlapping(start, end):
            for address in range(max(start, vma.vm_start), min(end, vma.vm_end), self.memory.page_size):
                try:
                    self.populate(address, "w" in vma.prot and not vma.shared)
                except BusError as error:
                    raise OSError(ENOMEM, str(error)) from error

    def munlock(self, start: int, length: int) -> None:
        """Undo `mlock()`. Kernel: sys_munlock(), mm/mlock.c."""
        self._change_covered(start, length, locked=False)

    def _change_covered(self, start: int, length: int, **flags: object) -> list[tuple[int, int]]:
        """Change a range as `_change()` does, up to the first address that is not mapped.

        Raises:
            OSError: ENOMEM: there is one; what comes before it has been changed.
        """
        end = self._check_range(start, length)
        self.mmap_lock.down_write()
        try:
            mapped = start
            while mapped < end and (vma := self.find_vma(mapped)) is not None:
                mapped = vma.vm_end
            changed = self._change(start, min(mapped, end), **flags) if mapped > start else []
            if mapped < end:
                raise OSError(ENOMEM, f"Nothing is mapped at {mapped:#x}")
        finally:
            self.mmap_lock.up_write()
        return changed

    def set_hugepage(self, start: int, end: int, hugepage: bool) -> None:
        """Ask for huge pages, or against them (MADV_HUGEPAGE, MADV_NOHUGEPAGE). Kernel: hugepage_madvise()."""
        self._change_covered(start, end - start, hugepage=hugepage)

    def uffd_register(self, start: int, length: int, modes: frozenset[str], context: Userfaultfd | None) -> None:
        """Let a userfaultfd watch a range; see `Userfaultfd.register()`."""
        end = self._check_range(start, length)

        self.mmap_lock.down_write()
        try:
            if not self._overlapping(start, end):
                raise OSError(EINVAL, f"Nothing is mapped at {start:#x}")
            self._change(start, end, uffd=modes, uffd_ctx=context)
        finally:
            self.mmap_lock.up_write()

    def _overlapping(self, start: int, end: int) -> list[Vma]:
        return [vma for vma in self._vmas if vma.vm_start < end and start < vma.vm_end]

    # Accesses ----------------------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """Load bytes as the process would.

        Raises:
            BusError: there is no page behind an address.
            SegmentationFault: nothing is mapped there.
        """
        size = self.memory.page_size
        parts = []
        for start, nr in self._pages(address, length):
            while (part := self.tlb.load_bytes(start // size, start % size, nr, size)) is None:
                self.touch(start, write=False)
            parts.append(part)
        return b"".join(parts)

    def write(self, address: int, content: bytes) -> None:
        """Store bytes as the process would; raises as `read()`."""
        size = self.memory.page_size
        done = 0
        for start, nr in self._pages(address, len(content)):
            while not self.tlb.store_bytes(start // size, start % size, content[done : done + nr], size):
                self.touch(start, write=True)
            done += nr

    def _pages(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        size = self.memory.page_size
        end = address + length
        while address < end:
            nr = min(size - address % size, end - address)
            yield address, nr
            address += nr

    def populate(self, address: int, write: bool) -> None:
        """Make sure that a page is mapped, as mlock(2) does. Kernel: faultin_page(), mm/gup.c."""
        while self._walk(address, write) is None:
            self._fault(address, write)

    def touch(self, address: int, write: bool) -> None:
        """Let the processor walk the page tables to a page and remember what it finds, or fault."""
        found = self._walk(address, write)
        if found is None:
            self._fault(address, write)
        else:
            self._remember(address, found)

    def _remember(self, address: int, translation: Translation) -> None:
        """Fill the TLB: with the walk one step."""
        self.tlb.fill(address // self.memory.page_size, translation)

    def _walk(self, address: int, write: bool) -> Translation | None:
        """Walk the page tables; a write sets the dirty bit of the entry."""
        at, offset = self.pmd_of(address), self.pte_of(address)
        pmd = self.pmd(at)
        if isinstance(pmd, HugePmd):
            if write and (not pmd.write or not (pmd.dirty or self.mark_pmd_dirty(at, pmd))):
                return None
            return Translation(pmd.folio, offset, pmd.write)
        if pmd is None:
            return None
        entry = pmd.get(offset)
        if not isinstance(entry, Pte):
            return None
        if write and (not entry.write or not (entry.dirty or pmd.mark_dirty(offset, entry))):
            return None
        return Translation(entry.folio, entry.page, entry.write)

    def _fault(self, address: int, write: bool) -> None:
        """Handle a page fault. Kernel: do_user_addr_fault(), arch/x86/mm/fault.c."""
        self.mmap_lock.down_read()
        try:
            vma = self.find_vma(address)
            if vma is None:
                raise SegmentationFault(address, "nothing is mapped there")
            if write and "w" not in vma.prot:
                raise SegmentationFault(address, "it is mapped read-only")
            if not vma.prot:
                raise SegmentationFault(address, "it must not be touched")
            handle_mm_fault(vma, address, write)
        finally:
            self.mmap_lock.up_read()

    def pin(self, address: int, write: bool = False) -> Folio:
        """Take a reference to the page behind an address. Kernel: get_user_pages_fast(), mm/gup.c.

        Walks the page tables without a lock: after the reference is taken the entry is read again, and if it has
        changed the reference is dropped.

        Raises:
            OSError: EFAULT: there is nothing to pin.
        """
        at, offset = self.pmd_of(address), self.pte_of(address)
        while True:
            pmd = self.pmd(at)
            entry: Pte | HugePmd | None = None
            if isinstance(pmd, HugePmd):
                entry = pmd
            elif pmd is not None:
                found = pmd.get(offset)
                entry = found if isinstance(found, Pte) else None
            if entry is not None and (entry.write or not write) and entry.folio.try_get():
                if self._still(at, offset, pmd, entry):
                    return entry.folio
                entry.folio.put()
                continue
            try:
                self._fault(address, write)
            except (SegmentationFault, BusError) as error:
                raise OSError(EFAULT, str(error)) from error

    def _still(self, at: int, offset: int, pmd: Pmd, entry: Pte | HugePmd) -> bool:
        """Tell whether an entry is what it was."""
        again = self.pmd(at)
        if again is not pmd:
            return False
        return pmd is entry or (isinstance(again, PageTable) and again.get(offset) == entry)

    def mincore(self, start: int, length: int) -> list[bool]:
        """Tell for each page of a range whether it is resident. Kernel: sys_mincore(), mm/mincore.c.

        Raises:
            OSError: EINVAL: not aligned; ENOMEM: not all of it is mapped.
        """
        size = self.memory.page_size
        if start % size:
            raise OSError(EINVAL, f"{start:#x} is not the start of a page")
        end = start + -(-length // size) * size
        self.mmap_lock.down_read()
        try:
            if not self.covered(start, end):
                raise OSError(ENOMEM, f"Not all of {start:#x}-{end:#x} is mapped")
            return [self._mincore_one(address) for address in range(start, end, size)]
        finally:
            self.mmap_lock.up_read()

    def _mincore_one(self, address: int) -> bool:
        vma = self.find_vma(address)
        if vma is None:
            raise MmrefInternalError(f"nothing is mapped at {address:#x} any more")
        pmd = self.pmd(self.pmd_of(address))
        if isinstance(pmd, HugePmd):
            return True
        entry = pmd.get(self.pte_of(address)) if pmd is not None else None
        if isinstance(entry, Pte) or entry is PteMarker.POISONED:
            return True
        if isinstance(entry, SwapPte):
            cached = self.memory.swap.cache_get(entry.entry) if self.memory.swap is not None else None
            if cached is None:
                return False
            present = cached.test_uptodate()
            cached.put()
            return present
        return mincore_page(vma.mapping, vma.index_of(address))

    # Looking without touching ------------------------------------------------------------------------------

    def peek(self) -> dict[int, PageTable | HugePmd]:
        """Return all PMD entries: for checkers and pictures, never an access of the simulated machine."""
        return dict(self._pmds)

    def pagemap(self, start: int, length: int) -> list[str]:
        """Name the entry of each page of a range: ``none``, ``file``, ``anon``, ``pmd``, ``swap``, ``marker``."""
        size = self.memory.page_size
        found = []
        for address in range(start, start + length, size):
            pmd = self._pmds.get(self.pmd_of(address))
            entry = pmd.peek()[self.pte_of(address)] if isinstance(pmd, PageTable) else None
            if isinstance(pmd, HugePmd):
                found.append("pmd")
            elif isinstance(entry, Pte):
                found.append("anon" if folio_test_anon(entry.folio) else "file")
            elif isinstance(entry, SwapPte):
                found.append("swap")
            else:
                found.append("none" if entry is None else "marker")
        return found

    def rss(self, start: int, length: int) -> int:
        """Count the present pages of a range, as Rss in /proc/self/smaps does (pages)."""
        return sum(one in ("file", "anon", "pmd") for one in self.pagemap(start, length))


def _vma_start(vma: Vma) -> int:
    return vma.vm_start
