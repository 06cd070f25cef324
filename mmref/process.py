# SPDX-License-Identifier: GPL-2.0-only
"""A process: system calls on its address space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from errno import EACCES, EINVAL, ENOMEM

from mmref.errors import UsageError
from mmref.folio import Folio
from mmref.khugepaged import CollapseStrategy, Khugepaged, get_strategy, madvise_collapse
from mmref.pagecache import (
    HugePmd,
    Inode,
    Mm,
    Pte,
    RegularInode,
    UffdEvent,
    Userfaultfd,
    Vma,
    reclaim_folio,
)
from mmref.pagecache.memory_failure import memory_failure, soft_offline_page

__all__ = ["Process"]


class Process:
    """A process; addresses and lengths are in bytes, as in the system calls that the methods are named after.

    Errors of the kernel come as OSError with the kernel's errno; a touch of an address may raise `BusError` or
    `SegmentationFault`.

    Attributes:
        mm: its address space.
        pins: references that `vmsplice()` has taken and that have not been dropped, by folio.
    """

    def __init__(
        self, mm: Mm, khugepaged: Khugepaged, strategy: str, uffd_class: type[Userfaultfd] = Userfaultfd
    ) -> None:
        self.mm = mm
        self.khugepaged = khugepaged
        self.strategy = strategy
        self._uffd_class = uffd_class
        self.pins: Counter[Folio] = Counter()

    def __repr__(self) -> str:
        return f"<Process {self.mm.name}>"

    def mmap(
        self, inode: Inode, length: int, offset: int = 0, prot: str = "rw", shared: bool = True, skew: int = 0
    ) -> int:
        """mmap(2): map a range of a file; returns the address. See `File.mmap()`."""
        if shared and "w" in prot and isinstance(inode, RegularInode):
            inode.get_write_access()  # the mapping keeps the file open for writing
        return self.mm.mmap(inode.i_mapping, length, offset, prot, shared, skew=skew).vm_start

    def munmap(self, start: int, length: int) -> None:
        """munmap(2)."""
        writable = [vma for vma in self.mm.vmas if self._counts(vma) and vma.vm_start < start + length and
                    start < vma.vm_end]  # fmt: skip
        self.mm.munmap(start, length)
        for vma in writable:
            if vma not in self.mm.vmas:
                inode = vma.mapping.host
                assert isinstance(inode, RegularInode)
                inode.put_write_access()

    @staticmethod
    def _counts(vma: Vma) -> bool:
        return vma.shared and "w" in vma.prot and not vma.mapping.host.is_shmem

    def exit(self) -> None:
        """End: unmap everything."""
        self.khugepaged.exit_mm(self.mm)
        self.mm.exit()

    def read(self, address: int, length: int) -> bytes:
        """Load bytes."""
        return self.mm.read(address, length)

    def write(self, address: int, content: bytes) -> None:
        """Store bytes."""
        self.mm.write(address, content)

    def mlock(self, start: int, length: int) -> None:
        """mlock(2): fault a range in, and keep it."""
        self.mm.mlock(start, length)

    def munlock(self, start: int, length: int) -> None:
        """munlock(2)."""
        self.mm.munlock(start, length)

    def mprotect(self, start: int, length: int, prot: str) -> None:
        """mprotect(2): change what may be done with a range; letters of ``rwx``."""
        self.mm.mprotect(start, length, prot)

    def mincore(self, start: int, length: int) -> list[bool]:
        """mincore(2): for each page of a range, whether it is resident."""
        return self.mm.mincore(start, length)

    def thp_disable(self, disable: bool = True) -> None:
        """prctl(2) with PR_SET_THP_DISABLE."""
        self.mm.thp_disabled = disable

    def userfaultfd(self, handler: Callable[[UffdEvent], None] | None = None) -> Userfaultfd:
        """userfaultfd(2): a monitor of this process; see there about the handler."""
        return self._uffd_class(self.mm, handler)

    def vmsplice(self, address: int, write: bool = False) -> Callable[[], None]:
        """vmsplice(2): hold a reference to the page at an address, as a pipe would; returns what drops it."""
        folio = self.mm.pin(address, write)
        self.pins[folio] += 1

        def unpin() -> None:
            self.pins[folio] -= 1
            folio.put()

        return unpin

    # madvise -----------------------------------------------------------------------------------------------

    def madvise_collapse(
        self, start: int, length: int, strategy: str | CollapseStrategy | type[CollapseStrategy] | None = None
    ) -> None:
        """madvise(2) with MADV_COLLAPSE. See `mmref.khugepaged.madvise_collapse()`."""
        control = self.khugepaged.control()
        madvise_collapse(self.mm, start, length, get_strategy(strategy or self.strategy), control)

    def madvise(self, advice: str, start: int, length: int) -> None:
        """madvise(2).

        Args:
            advice: MADV_COLLAPSE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT, MADV_REMOVE,
                MADV_HWPOISON or MADV_SOFT_OFFLINE.
            start: first address, the start of a page.
            length: how far.

        Raises:
            OSError: EINVAL, ENOMEM (not all of the range is mapped), and what the advice may lead to.
        """
        action = {
            "MADV_HUGEPAGE": self._hugepage, "MADV_NOHUGEPAGE": self._nohugepage, "MADV_DONTNEED": self._dontneed,
            "MADV_COLD": self._cold, "MADV_PAGEOUT": self._pageout, "MADV_REMOVE": self._remove,
            "MADV_HWPOISON": self._hwpoison, "MADV_SOFT_OFFLINE": self._soft_offline,
            "MADV_COLLAPSE": self.madvise_collapse,
        }.get(advice)  # fmt: skip
        if action is None:
            raise UsageError(f"There is no advice {advice!r} in the model; see the documentation of madvise().")
        size = self.mm.memory.page_size
        if start % size or length < 0:
            raise OSError(EINVAL, f"{start:#x} is not the start of a page, or {length} bytes are less than none")
        if length == 0:
            return
        length = -(-length // size) * size
        action(start, length)
        if not self.mm.covered(start, start + length):  # what is mapped has been dealt with all the same
            raise OSError(ENOMEM, f"Not all of {length} bytes from {start:#x} is mapped")

    def _hugepage(self, start: int, length: int) -> None:
        before = {vma: vma.hugepage for vma in self.mm.vmas}
        covering = self.mm.find_vma(start)
        known = before.get(covering) if covering is not None else None
        self._set_hugepage(start, length, True)
        for vma in self.mm.vmas:
            if vma.vm_start < start + length and start < vma.vm_end:
                self.khugepaged.enter_vma(vma, before.get(vma, known))

    def _nohugepage(self, start: int, length: int) -> None:
        self._set_hugepage(start, length, False)

    def _set_hugepage(self, start: int, length: int, hugepage: bool) -> None:
        for vma in self.mm.vmas:
            low, high = max(start, vma.vm_start), min(start + length, vma.vm_end)
            if low < high:
                self.mm.set_hugepage(low, high, hugepage)

    def _each_vma(self, start: int, length: int) -> list[tuple[Inode, int, int, int]]:
        """Return (inode, first address, end, first page) for each VMA of a range."""
        return [
            (vma.mapping.host, max(start, vma.vm_start), min(start + length, vma.vm_end),
             vma.index_of(max(start, vma.vm_start)))
            for vma in self.mm.vmas if vma.vm_start < start + length and start < vma.vm_end
        ]  # fmt: skip

    def _each_unlocked(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield the part of a range that is in each VMA, up to one that is locked. Kernel: can_madv_lru_vma()."""
        for vma in self.mm.vmas:
            if vma.vm_start < start + length and start < vma.vm_end:
                if vma.locked:
                    raise OSError(EINVAL, f"{vma!r} is locked in memory")
                yield max(start, vma.vm_start), min(start + length, vma.vm_end)

    def _dontneed(self, start: int, length: int) -> None:
        for low, high in self._each_unlocked(start, length):
            self.mm.zap_range(low, high)

    def _present(self, start: int, length: int) -> list[Folio]:
        """List the small folios that the page tables map in a range; a PMD that reaches over an end is split."""
        mm, size = self.mm, self.mm.memory.page_size
        found: dict[Folio, None] = {}
        for address in range(start, start + length, size):
            at = mm.pmd_of(address)
            pmd = mm.pmd(at)
            if isinstance(pmd, HugePmd):
                low = mm.pmd_address(at)
                if low < start or low + mm.huge_size > start + length:
                    mm.split_huge_pmd(at)
                elif pmd.folio.mapcount() == 1:
                    found[pmd.folio] = None
            elif pmd is not None:
                entry = pmd.get(mm.pte_of(address))
                if isinstance(entry, Pte):
                    found[entry.folio] = None
        return list(found)

    def _cold(self, start: int, length: int) -> None:
        for low, high in self._each_unlocked(start, length):
            self._present(low, high - low)

    def _pageout(self, start: int, length: int) -> None:
        """Reclaim what the range maps and nobody else does. Kernel: madvise_pageout(), mm/madvise.c."""
        memory = self.mm.memory
        memory.lru.drain()
        for low, high in self._each_unlocked(start, length):
            for folio in self._present(low, high - low):
                if folio.mapcount() == 1 and folio.try_get():
                    reclaim_folio(memory, folio)
                    folio.put()

    def _remove(self, start: int, length: int) -> None:
        """Punch a hole into the file. Kernel: madvise_remove(), mm/madvise.c."""
        size = self.mm.memory.page_size
        for vma in self.mm.vmas:
            if not (vma.vm_start < start + length and start < vma.vm_end):
                continue
            if vma.locked:
                raise OSError(EINVAL, f"{vma!r} is locked in memory")
            # What counts is how the file was opened, not what mprotect() says now. Kernel: vma_is_shared_maywrite().
            if not vma.shared or not vma.mapping.host.is_shmem:
                raise OSError(EACCES, f"{vma!r} is not a mapping through which the file could be written")
            low, high = max(start, vma.vm_start), min(start + length, vma.vm_end)
            inode = vma.mapping.host
            inode.punch_hole(vma.index_of(low) * size, high - low)

    def _hwpoison(self, start: int, length: int) -> None:
        size = self.mm.memory.page_size
        for inode, low, high, index in self._each_vma(start, length):
            for at in range((high - low) // size):
                self.mm.populate(low + at * size, write=False)
                memory_failure(inode.i_mapping, index + at)

    def _soft_offline(self, start: int, length: int) -> None:
        size = self.mm.memory.page_size
        for inode, low, high, index in self._each_vma(start, length):
            for at in range((high - low) // size):
                self.mm.populate(low + at * size, write=False)
                soft_offline_page(inode.i_mapping, index + at)
