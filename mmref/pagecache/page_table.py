# SPDX-License-Identifier: GPL-2.0-only
"""Page tables: the entries of one process, as far as huge pages need them.

Two levels are modelled. A PMD entry covers one huge page: it is none, points to a page table, or maps a huge folio.
A PTE is none, maps one page of a folio, or says where the page went. Each read or write of an entry is one step.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

from mmref.folio import Folio
from mmref.sync import SpinLock

__all__ = ["HugePmd", "PageTable", "Pmd", "Pte", "PteEntry", "PteMarker", "SwapPte"]


class Pte(NamedTuple):
    """A present entry: one page of a folio.

    Attributes:
        folio: what it maps.
        page: which page of it.
        write: whether it may be written without a fault.
        dirty: whether it was written through this entry.
        uffd_wp: write-protected by a userfaultfd.
    """

    folio: Folio
    page: int
    write: bool
    dirty: bool = False
    uffd_wp: bool = False


class SwapPte(NamedTuple):
    """An anonymous page that has been swapped out, and the slot it is in."""

    entry: int


class PteMarker(Enum):
    """An entry that maps nothing, but says something. Kernel: pte_marker, include/linux/swapops.h."""

    UFFD_WP = "write-protected by a userfaultfd when it comes back"
    POISONED = "the memory behind it broke: SIGBUS"


PteEntry: TypeAlias = Pte | SwapPte | PteMarker | None


class HugePmd(NamedTuple):
    """A PMD entry that maps a whole huge folio."""

    folio: Folio
    write: bool
    dirty: bool = False


class PageTable:
    """The PTEs of one huge page's worth of addresses.

    Attributes:
        lock: the page table lock. Kernel: pte_lockptr(), include/linux/mm.h.
    """

    __slots__ = ("_ptes", "lock")

    def __init__(self, nr: int, lock: SpinLock) -> None:
        self._ptes: list[PteEntry] = [None] * nr
        self.lock = lock

    def __repr__(self) -> str:
        return f"<PageTable: {sum(pte is not None for pte in self._ptes)} of {len(self._ptes)} entries in use>"

    def get(self, at: int) -> PteEntry:
        """Read an entry. Kernel: ptep_get(), include/linux/pgtable.h."""
        return self._ptes[at]

    def set(self, at: int, entry: PteEntry) -> None:
        """Write an entry. Kernel: set_pte_at(), include/linux/pgtable.h. Context: `lock` is held."""
        self._ptes[at] = entry

    def mark_dirty(self, at: int, entry: Pte) -> bool:
        """Set the dirty bit of an entry as the processor does, unless it has changed: one atomic step."""
        if self._ptes[at] != entry:
            return False
        self._ptes[at] = entry._replace(dirty=True)
        return True

    def get_and_clear(self, at: int) -> PteEntry:
        """Take an entry away. Kernel: ptep_get_and_clear(), include/linux/pgtable.h. Context: `lock` is held."""
        entry = self._ptes[at]
        self._ptes[at] = None
        return entry

    def peek(self) -> list[PteEntry]:
        """Return all entries: for checkers and pictures, never an access of the simulated machine."""
        return list(self._ptes)


Pmd: TypeAlias = PageTable | HugePmd | None
