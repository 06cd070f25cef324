# SPDX-License-Identifier: GPL-2.0-only
"""Page faults: what a process gets when it touches a page that its page tables do not give it.

Conventions in this file (as in mm/memory.c): a `fault` is one try; a function that has nothing more to do returns,
and the access is tried again from the start. `FaultRetry` says so too, from deeper down.
"""

from __future__ import annotations

from errno import EIO, ENOMEM
from typing import TYPE_CHECKING

from mmref.errors import MmrefError
from mmref.folio import Folio
from mmref.pagecache.filemap import find_get_entry
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.page_table import HugePmd, PageTable, Pte, PteEntry, PteMarker, SwapPte
from mmref.pagecache.rmap import AnonVma, folio_test_anon
from mmref.pagecache.swap import swap_cluster_readahead
from mmref.pagecache.uffd import UffdEvent
from mmref.sync import rcu_read_lock, rcu_read_unlock
from mmref.xarray import XaState

if TYPE_CHECKING:
    from mmref.pagecache.mm import Mm
    from mmref.pagecache.vma import Vma

__all__ = ["FAULT_AROUND_PAGES", "BusError", "Fault", "FaultRetry", "SegmentationFault", "handle_mm_fault",
           "install_pte"]  # fmt: skip

FAULT_AROUND_PAGES = 16
"""How many pages a read fault maps if they are in the cache. Kernel: fault_around_pages, mm/memory.c."""


class BusError(MmrefError):
    """SIGBUS: there is no page behind the address, or its memory is broken."""

    def __init__(self, address: int, why: str) -> None:
        super().__init__(f"SIGBUS at {address:#x}: {why}")
        self.address = address


class SegmentationFault(MmrefError):
    """SIGSEGV: nothing is mapped at the address, or not for this access."""

    def __init__(self, address: int, why: str) -> None:
        super().__init__(f"SIGSEGV at {address:#x}: {why}")
        self.address = address


class FaultRetry(Exception):
    """The fault is over for now; try the access again. Kernel: VM_FAULT_RETRY."""


class Fault:
    """One page fault.

    Kernel: struct vm_fault, include/linux/mm.h.

    Attributes:
        vma: where.
        address: the page that is touched (bytes, rounded down).
        write: whether it is to be written.
        index: the page of the file.
    """

    __slots__ = ("address", "index", "vma", "write")

    def __init__(self, vma: Vma, address: int, write: bool) -> None:
        self.vma = vma
        self.address = address & -vma.page_size
        self.write = write
        self.index = vma.index_of(address)

    @property
    def mm(self) -> Mm:
        """The process."""
        return self.vma.mm

    def handle_userfault(self, reason: str) -> FaultRetry:
        """Hand the fault to the monitor, and return what to raise. Kernel: handle_userfault(), fs/userfaultfd.c.

        Context: holds no folio; gives `mmap_lock` up while it sleeps.
        """
        context = self.vma.uffd_ctx
        if context is not None:
            self.mm.mmap_lock.up_read()
            try:
                context.deliver(UffdEvent(reason, self.address, self.write))
            finally:
                self.mm.mmap_lock.down_read()
        return FaultRetry()


def handle_mm_fault(vma: Vma, address: int, write: bool) -> None:
    """Make an access possible, or at least more nearly so. Kernel: handle_mm_fault(), mm/memory.c.

    Raises:
        BusError: there is no page.
        OSError: ENOMEM.

    Context: `mmap_lock` is held shared; sleeps.
    """
    fault = Fault(vma, address, write)
    mm, at = fault.mm, fault.mm.pmd_of(address)
    try:
        pmd = mm.pmd(at)
        if isinstance(pmd, HugePmd):
            if not write or pmd.write:
                return  # somebody else was faster
            _wp_huge_pmd(fault, at)
            return
        entry = pmd.get(mm.pte_of(address)) if pmd is not None else None
        if isinstance(entry, Pte):
            if write and not entry.write:
                _do_wp_page(fault, entry)
        elif isinstance(entry, SwapPte):
            _do_swap_page(fault, entry)
        elif entry is PteMarker.POISONED:
            raise BusError(address, "the memory is broken")
        elif entry is PteMarker.UFFD_WP and not vma.userfaultfd_wp():
            mm.clear_marker(at, mm.pte_of(address))
        else:
            _do_fault(fault)
    except FaultRetry:
        return


def _do_fault(fault: Fault) -> None:
    """Bring a page of the file in. Kernel: do_fault(), mm/memory.c."""
    vma = fault.vma
    if not fault.write:
        if not vma.uffd & {"wp", "minor"} and _do_fault_around(fault):
            return
        folio = _vm_fault(fault)
        _finish_fault(fault, folio)
        folio.unlock()
        folio.put()
    elif not vma.shared:
        _do_cow_fault(fault)
    else:
        _do_shared_fault(fault)


def _vm_fault(fault: Fault) -> Folio:
    """Ask the file for the page: locked, with a reference. Kernel: __do_fault(), mm/memory.c."""
    try:
        folio = fault.vma.mapping.host.fault(fault)
    except OSError as error:
        if error.errno == ENOMEM:
            raise
        raise BusError(fault.address, str(error)) from error
    if folio.test_hwpoison():
        folio.unlock()
        folio.put()
        raise BusError(fault.address, "the memory is broken")
    return folio


def _do_cow_fault(fault: Fault) -> None:
    """Make a private copy of a page. Kernel: do_cow_fault(), mm/memory.c."""
    anon_vma = fault.vma.prepare_anon_vma()
    copy = _alloc_anon(fault)
    try:
        folio = _vm_fault(fault)
    except BaseException:
        copy.put()
        raise
    copied = copy.copy_page(0, folio, fault.index - folio.index)
    folio.unlock()
    folio.put()
    if not copied:
        copy.put()
        raise BusError(fault.address, "the memory is broken")
    copy.mark_uptodate()
    _map_anon(fault, copy, anon_vma, None)


def _alloc_anon(fault: Fault) -> Folio:
    memory = fault.mm.memory
    copy = memory.alloc_folio(0)
    if copy is None:
        raise OSError(ENOMEM, "Out of memory")
    if not memory.charge(copy):
        copy.put()
        raise OSError(ENOMEM, "The control group is at its limit")
    return copy


def _map_anon(fault: Fault, copy: Folio, anon_vma: AnonVma, expected: PteEntry) -> None:
    """Map a private copy, unless the entry has changed meanwhile; takes over the caller's reference."""
    mm = fault.mm
    at, offset = mm.pmd_of(fault.address), mm.pte_of(fault.address)
    table = mm.pte_alloc(at)
    with table.lock:
        mapped = table.get(offset) == expected
        if mapped:
            copy.set_swapbacked()
            copy.mapping = anon_vma
            copy.index = fault.index
            copy.add_rmap()
            table.set(offset, Pte(copy, 0, write=True, dirty=True))
            mm.tlb.flush_range(fault.address // fault.vma.page_size, 1)
            if isinstance(expected, Pte):
                expected.folio.remove_rmap()
    if not mapped:
        copy.put()
        return
    mm.memory.lru.add(copy)
    if isinstance(expected, Pte):
        expected.folio.put()


def _do_shared_fault(fault: Fault) -> None:
    """Map a page of the file for writing. Kernel: do_shared_fault(), mm/memory.c."""
    folio = _vm_fault(fault)
    if fault.vma.mapping.host.is_shmem or fault.vma.mapping.host.page_mkwrite(folio):
        _finish_fault(fault, folio)
        folio.mark_dirty()
    folio.unlock()
    folio.put()


def _finish_fault(fault: Fault, folio: Folio) -> None:
    """Map a locked folio: by a PMD if it is a whole huge page, else one page. Kernel: finish_fault(), mm/memory.c."""
    vma, mm = fault.vma, fault.mm
    at = mm.pmd_of(fault.address)
    if mm.pmd(at) is None and folio.order and do_set_pmd(vma, at, folio, fault.write):
        return
    if folio.order and vma.mapping.host.is_shmem and vma.mm.memory.rules.shmem_large_folios and not vma.uffd:
        _map_large(fault, folio)  # Linux 43e027e41423 (v6.11)
        return
    install_pte(vma, fault.address, folio, fault.write or vma.page_prot_write, keep_protection=vma.userfaultfd_wp())


def _map_large(fault: Fault, folio: Folio) -> None:
    """Map all pages of a large folio, if all of them fit into the VMA and the page table and none is mapped."""
    vma, mm = fault.vma, fault.mm
    page = fault.index - folio.index
    first = mm.pte_of(fault.address) - page
    write = fault.write or vma.page_prot_write
    fits = first >= 0 and first + folio.nr_pages <= 1 << mm.order and vma.vm_pgoff <= folio.index
    if not fits or folio.next_index > vma.vm_pgoff + vma.nr_pages:
        install_pte(vma, fault.address, folio, write)
        return
    table = mm.pte_alloc(mm.pmd_of(fault.address))
    with table.lock:
        if all(table.get(first + one) is None for one in range(folio.nr_pages)):
            folio.ref_add(folio.nr_pages)
            folio.add_rmap(folio.nr_pages)
            for one in range(folio.nr_pages):
                table.set(first + one, Pte(folio, one, write))
            return
    install_pte(vma, fault.address, folio, write)


def do_set_pmd(vma: Vma, at: int, folio: Folio, write: bool) -> bool:
    """Map a whole huge folio by a PMD entry, if everything fits. Kernel: do_set_pmd(), mm/memory.c.

    Returns:
        False if it does not fit: the page is to be mapped by a PTE then.

    Context: the folio is locked, and the caller has a reference, which it keeps.
    """
    mm = vma.mm
    if vma.thp_disabled() and mm.memory.rules.disabled_vma_maps_no_pmd:
        return False
    if not vma.suitable(mm.pmd_address(at)) or folio.order != mm.order or folio.test_hwpoison():
        return False
    with mm.page_table_lock:
        if mm.pmd(at) is not None:
            return True
        folio.get()
        folio.add_rmap()
        mm.set_pmd(at, HugePmd(folio, write=(write or vma.page_prot_write) and vma.shared, dirty=write))
    return True


def install_pte(vma: Vma, address: int, folio: Folio, write: bool, keep_protection: bool = False) -> bool:
    """Map one page of a locked folio; False if something is mapped there.

    Kernel: mfill_atomic_install_pte(), mm/userfaultfd.c, and set_pte_range(), mm/memory.c. A marker in its place is
    overwritten.

    Args:
        vma: where.
        address: the page (bytes).
        folio: what to map; the entry takes a reference of its own.
        write: whether the entry may be written.
        keep_protection: if the marker says so, the page is write-protected for the userfaultfd.
    """
    mm = vma.mm
    table = mm.pte_alloc(mm.pmd_of(address))
    offset = mm.pte_of(address)
    with table.lock:
        present = table.get(offset)
        if present is not None and present is not PteMarker.UFFD_WP:
            return False
        protected = keep_protection and present is PteMarker.UFFD_WP
        folio.get()
        folio.add_rmap()
        table.set(offset, Pte(folio, vma.index_of(address) - folio.index, write and not protected, False, protected))
    return True


def _do_fault_around(fault: Fault) -> bool:
    """Map what is in the cache around the page; True if the page itself is mapped now.

    Kernel: do_fault_around(), mm/memory.c.
    """
    rcu_read_lock()
    try:
        return _filemap_map_pages(fault)
    finally:
        rcu_read_unlock()


def _filemap_map_pages(fault: Fault) -> bool:
    """Map what is in the cache around the page. Kernel: filemap_map_pages(), mm/filemap.c.

    Context: in an RCU section; a page table that is missing has been allocated before (not modelled).
    """
    vma, mm = fault.vma, fault.mm
    at, offset = mm.pmd_of(fault.address), mm.pte_of(fault.address)
    in_vma = fault.index - vma.vm_pgoff
    first = max(offset & -FAULT_AROUND_PAGES, offset - min(offset, in_vma))
    last = min(first + FAULT_AROUND_PAGES, 1 << mm.order, offset + vma.nr_pages - in_vma) - 1
    base = fault.index - offset  # page of the file that the page table's first entry maps
    mapping = vma.mapping
    end = min(base + last, mapping.host.nr_pages - 1)
    xas = XaState(mapping.i_pages, base + first)
    done = False
    while (folio := _next_uptodate_folio(xas, mapping, end)) is not None:
        if mm.pmd(at) is None and folio.order and do_set_pmd(vma, at, folio, False):
            folio.unlock()
            folio.put()
            return True
        if isinstance(mm.pmd(at), HugePmd):
            folio.unlock()
            folio.put()
            return True
        table = mm.pte_alloc(at)
        start, stop = max(xas.index, base + first), min(folio.next_index - 1, end)
        if mm.memory.rules.faults_map_whole_folio and _fits(vma, base, folio):
            start, stop = folio.index, folio.next_index - 1
        with table.lock:
            for index in range(start, stop + 1):
                if table.get(index - base) is not None:
                    continue
                folio.get()
                folio.add_rmap()
                table.set(index - base, Pte(folio, index - folio.index, vma.page_prot_write))
                done |= index == fault.index
        following = folio.next_index
        folio.unlock()
        folio.put()
        xas.set(following)
        if following > end:
            break
    return done


def _fits(vma: Vma, base: int, folio: Folio) -> bool:
    """Tell whether a VMA and the page table whose first entry maps the page `base` have room for a whole folio."""
    first, last = max(vma.vm_pgoff, base), min(vma.vm_pgoff + vma.nr_pages, base + (1 << vma.mm.order)) - 1
    return first <= folio.index and folio.next_index - 1 <= last


def _next_uptodate_folio(xas: XaState, mapping: AddressSpace, end: int) -> Folio | None:
    """Return the next folio that can be mapped at once, locked and with a reference.

    Kernel: next_uptodate_folio(), mm/filemap.c. Leaves out what is locked, not uptodate, broken or on its way out.
    """
    while xas.index <= end and (entry := find_get_entry(xas, end)) is not None:
        if not isinstance(entry, Folio):
            continue
        if not entry.test_locked() and entry.test_uptodate() and not entry.test_readahead() and entry.trylock():
            usable = entry.mapping is mapping and entry.test_uptodate() and not entry.test_hwpoison()
            if usable and xas.index < mapping.host.nr_pages:
                return entry
            entry.unlock()
        entry.put()
    return None


def _do_wp_page(fault: Fault, pte: Pte) -> None:
    """Deal with a write to a page that is mapped read-only. Kernel: do_wp_page(), mm/memory.c."""
    vma, mm = fault.vma, fault.mm
    if pte.uffd_wp and vma.userfaultfd_wp():
        raise fault.handle_userfault("wp")
    at, offset = mm.pmd_of(fault.address), mm.pte_of(fault.address)
    table = mm.pmd(at)
    if not isinstance(table, PageTable):
        return
    if vma.shared or folio_test_anon(pte.folio):
        folio = pte.folio
        if vma.shared and not vma.mapping.host.is_shmem:
            if not folio.try_get():
                return
            folio.lock()
            usable = folio.mapping is vma.mapping and vma.mapping.host.page_mkwrite(folio)
            folio.unlock()
            folio.put()
            if not usable:
                return
        with table.lock:
            if table.get(offset) == pte:
                table.set(offset, pte._replace(write=True, dirty=True, uffd_wp=False))
                mm.tlb.flush_range(fault.address // vma.page_size, 1)
        if vma.mapping.host.is_shmem or not vma.shared:
            folio.mark_dirty()
        return
    anon_vma = vma.prepare_anon_vma()  # a private copy
    copy = _alloc_anon(fault)
    with table.lock:
        same = table.get(offset) == pte
        if same:
            pte.folio.get()
    if not same:
        copy.put()
        return
    copied = copy.copy_page(0, pte.folio, pte.page)
    pte.folio.put()
    if not copied:
        copy.put()
        raise BusError(fault.address, "the memory is broken")
    copy.mark_uptodate()
    _map_anon(fault, copy, anon_vma, pte)


def _wp_huge_pmd(fault: Fault, at: int) -> None:
    """Deal with a write to a huge page that is mapped read-only. Kernel: wp_huge_pmd(), mm/memory.c."""
    vma, mm = fault.vma, fault.mm
    if vma.shared and vma.mapping.host.is_shmem:
        with mm.page_table_lock:
            pmd = mm.pmd(at)
            if isinstance(pmd, HugePmd):
                mm.set_pmd(at, pmd._replace(write=True, dirty=True))
        return
    mm.split_huge_pmd(at)


def _do_swap_page(fault: Fault, pte: SwapPte) -> None:
    """Bring a private copy back from swap. Kernel: do_swap_page(), mm/memory.c."""
    mm, memory = fault.mm, fault.mm.memory
    device = memory.swap
    if device is None:
        raise BusError(fault.address, "there is no swap device")
    folio = device.cache_get(pte.entry) or swap_cluster_readahead(memory, pte.entry)
    if folio is None:
        raise OSError(ENOMEM, "Out of memory while swapping in")
    folio.lock()
    if not folio.test_swapcache() or folio.swap != pte.entry:
        folio.unlock()
        folio.put()
        return
    if not folio.test_uptodate():
        folio.unlock()
        folio.put()
        raise OSError(EIO, "The page could not be read from swap")
    table = mm.pte_alloc(mm.pmd_of(fault.address))
    offset = mm.pte_of(fault.address)
    with table.lock:
        same = table.get(offset) == pte
        if same:
            folio.get()
            folio.mapping = fault.vma.prepare_anon_vma()
            folio.index = fault.index
            folio.add_rmap()
            table.set(offset, Pte(folio, 0, write=True, dirty=fault.write))
    if same:
        device.cache_delete(folio)
        device.free(pte.entry)
        folio.mark_dirty()
    folio.unlock()
    folio.put()
