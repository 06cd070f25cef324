# SPDX-License-Identifier: GPL-2.0-only
"""A range of addresses that maps a range of a file.

Conventions in this file: addresses are in bytes, an `index` is a page of the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.rmap import AnonVma
from mmref.sync import might_sleep

if TYPE_CHECKING:
    from mmref.pagecache.mm import Mm
    from mmref.pagecache.uffd import Userfaultfd

__all__ = ["Vma"]


class Vma:
    """A range of addresses that maps a range of a file.

    Kernel: struct vm_area_struct, include/linux/mm_types.h.

    Attributes:
        mm: the process.
        vm_start, vm_end: first address, and the address behind the last.
        vm_pgoff: the page of the file that `vm_start` maps.
        mapping: the file's page cache.
        shared: MAP_SHARED; otherwise writes go to private copies.
        prot: a set of ``r``, ``w`` and ``x``.
        locked: VM_LOCKED: mlock(2) was called.
        hugepage: True after MADV_HUGEPAGE, False after MADV_NOHUGEPAGE, else None.
        uffd: what a userfaultfd watches: a set of ``missing``, ``wp``, ``minor``.
        uffd_ctx: that userfaultfd.
        anon_vma: where private copies belong, once there are any.
    """

    __slots__ = ("anon_vma", "hugepage", "locked", "mapping", "mm", "prot", "shared", "uffd", "uffd_ctx", "vm_end",
                 "vm_pgoff", "vm_start")  # fmt: skip

    def __init__(
        self, mm: Mm, start: int, end: int, pgoff: int, mapping: AddressSpace, shared: bool, prot: frozenset[str]
    ) -> None:
        self.mm = mm
        self.vm_start = start
        self.vm_end = end
        self.vm_pgoff = pgoff
        self.mapping = mapping
        self.shared = shared
        self.prot = prot
        self.locked = False
        self.hugepage: bool | None = None
        self.uffd: frozenset[str] = frozenset()
        self.uffd_ctx: Userfaultfd | None = None
        self.anon_vma: AnonVma | None = None

    def __repr__(self) -> str:
        kind = "shared" if self.shared else "private"
        return f"<Vma {self.vm_start:#x}-{self.vm_end:#x} {kind} page {self.vm_pgoff} of {self.mapping.host.name}>"

    @property
    def page_size(self) -> int:
        """Bytes per page."""
        return self.mm.memory.page_size

    @property
    def nr_pages(self) -> int:
        """Size in pages. Kernel: vma_pages(), include/linux/mm.h."""
        return (self.vm_end - self.vm_start) // self.mm.memory.page_size

    def address_of(self, index: int) -> int:
        """Return the address of a page of the file. Kernel: vma_address(), mm/internal.h."""
        return self.vm_start + (index - self.vm_pgoff) * self.mm.memory.page_size

    def index_of(self, address: int) -> int:
        """Return the page of the file at an address. Kernel: linear_page_index(), include/linux/pagemap.h."""
        return self.vm_pgoff + (address - self.vm_start) // self.mm.memory.page_size

    @property
    def page_prot_write(self) -> bool:
        """Whether a read maps a page for writing at once. Kernel: vma_wants_writenotify(), mm/mmap.c."""
        return self.shared and "w" in self.prot and self.mapping.host.is_shmem and "wp" not in self.uffd

    def userfaultfd_missing(self) -> bool:
        """Tell whether missing pages are watched. Kernel: userfaultfd_missing(), include/linux/userfaultfd_k.h."""
        return "missing" in self.uffd

    def userfaultfd_wp(self) -> bool:
        """Tell whether write-protection is watched. Kernel: userfaultfd_wp(), include/linux/userfaultfd_k.h."""
        return "wp" in self.uffd

    def userfaultfd_minor(self) -> bool:
        """Tell whether pages not mapped yet are watched. Kernel: userfaultfd_minor(), include/linux/userfaultfd_k.h."""
        return "minor" in self.uffd

    def thp_disabled(self) -> bool:
        """Tell whether huge pages are switched off here. Kernel: vma_thp_disabled(), include/linux/huge_mm.h."""
        return self.hugepage is False or self.mm.thp_disabled

    def suitable(self, address: int) -> bool:
        """Tell whether a huge page fits at an address. Kernel: thp_vma_suitable_order(), include/linux/huge_mm.h.

        The file offset must be aligned like the address, and the VMA must cover the whole of it.
        """
        size = self.mm.huge_size
        nr = 1 << self.mm.order
        if (self.vm_start // self.mm.memory.page_size - self.vm_pgoff) % nr:
            return False
        start = address & -size
        return start >= self.vm_start and start + size <= self.vm_end

    def prepare_anon_vma(self) -> AnonVma:
        """Make sure that there is a place for private copies. Kernel: __anon_vma_prepare(), mm/rmap.c.

        Context: mmap_lock is held; takes page_table_lock, as another fault may do the same at once.
        """
        found = self.anon_vma
        if found is not None:
            return found
        might_sleep("__anon_vma_prepare()")
        made = AnonVma()
        made.vmas[self] = None
        with self.mm.page_table_lock:
            found = self.anon_vma
            if found is None:
                self.anon_vma = found = made
        return found

    def same_kind(self, other: Vma) -> bool:
        """Tell whether two neighbours could be one. Kernel: can_vma_merge_after(), mm/vma.c."""
        return (
            self.vm_end == other.vm_start
            and self.mapping is other.mapping
            and self.index_of(self.vm_end) == other.vm_pgoff
            and (self.shared, self.prot, self.locked, self.hugepage, self.uffd, self.uffd_ctx)
            == (other.shared, other.prot, other.locked, other.hugepage, other.uffd, other.uffd_ctx)
            and (self.anon_vma is other.anon_vma or self.anon_vma is None or other.anon_vma is None)
        )
