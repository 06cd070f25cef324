# SPDX-License-Identifier: GPL-2.0-only
"""Translation lookaside buffers: what each CPU remembers of the page tables, whether or not it is still true.

Conventions in this file: `vpn` is a virtual address in pages.
"""

from __future__ import annotations

from typing import NamedTuple

from mmref.folio import Folio
from mmref.sync import this_cpu

__all__ = ["FlushBatch", "Tlb", "Translation"]


class Translation(NamedTuple):
    """Where a virtual page is.

    Attributes:
        folio: the folio.
        page: which of its pages.
        write: whether it may be written.
    """

    folio: Folio
    page: int
    write: bool


class Tlb:
    """The translations of one address space, of all CPUs."""

    def __init__(self) -> None:
        self._entries: dict[int, dict[int, Translation]] = {}  # vpn -> CPU -> translation

    def __repr__(self) -> str:
        return f"<Tlb {sum(map(len, self._entries.values()))} translations>"

    def load(self, vpn: int) -> Translation | None:
        """Return what this CPU remembers of a page, without a look at the page table."""
        known = self._entries.get(vpn)
        return known.get(this_cpu().id) if known else None

    def fill(self, vpn: int, translation: Translation) -> None:
        """Remember a translation on this CPU."""
        self._entries.setdefault(vpn, {})[this_cpu().id] = translation

    def load_bytes(self, vpn: int, offset: int, length: int, page_size: int) -> bytes | None:
        """Load bytes of a page through what this CPU remembers; None if it remembers nothing.

        One step: a CPU that flushes the TLBs waits until the access is over.
        """
        known = self.load(vpn)
        return None if known is None else known.folio.read(known.page * page_size + offset, length)

    def store_bytes(self, vpn: int, offset: int, content: bytes, page_size: int) -> bool:
        """Store bytes as `load_bytes()` loads them; False if this CPU does not remember a page that may be written."""
        known = self.load(vpn)
        if known is None or not known.write:
            return False
        known.folio.write(known.page * page_size + offset, content)
        return True

    def flush_range(self, first: int, nr: int) -> None:
        """Make every CPU forget `nr` pages from `first` on. Kernel: flush_tlb_range(), arch/x86/mm/tlb.c."""
        if nr <= len(self._entries):
            for vpn in range(first, first + nr):
                self._entries.pop(vpn, None)
        else:
            for vpn in [vpn for vpn in self._entries if first <= vpn < first + nr]:
                del self._entries[vpn]

    def flush_all(self) -> None:
        """Make every CPU forget everything. Kernel: flush_tlb_mm(), arch/x86/mm/tlb.c."""
        self._entries.clear()


class FlushBatch:
    """Address spaces of which a translation was removed but not yet flushed, per CPU that removed it.

    Kernel: struct tlbflush_unmap_batch, include/linux/mm_types_task.h.
    """

    def __init__(self) -> None:
        self._pending: dict[int, dict[Tlb, None]] = {}

    def add(self, tlb: Tlb) -> None:
        """Note that an address space needs a flush. Kernel: set_tlb_ubc_flush_pending(), mm/rmap.c."""
        self._pending.setdefault(this_cpu().id, {})[tlb] = None

    def flush(self) -> None:
        """Flush what this CPU has put off. Kernel: try_to_unmap_flush(), mm/rmap.c."""
        for tlb in self._pending.pop(this_cpu().id, ()):
            tlb.flush_all()
