# SPDX-License-Identifier: GPL-2.0-only
"""userfaultfd: page faults that user space resolves.

A monitor registers a VMA for faults on missing pages, on write-protected ones, or on pages that are in the cache but
not mapped ("minor"). A fault becomes an event; the faulting task sleeps until the monitor wakes it, and then tries
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EEXIST, EFAULT, EINVAL, ENOENT
from typing import TYPE_CHECKING

from mmref.errors import Deadlock, UsageError
from mmref.pagecache.page_table import PageTable, Pte, PteMarker
from mmref.sync import this_cpu

if TYPE_CHECKING:
    from mmref.pagecache.mm import Mm
    from mmref.pagecache.vma import Vma

__all__ = ["MODES", "UffdEvent", "Userfaultfd"]

MODES = ("missing", "wp", "minor")
"""What a VMA can be registered for."""


@dataclass
class UffdEvent:
    """A fault that waits for the monitor.

    Attributes:
        reason: one of `MODES`.
        address: the page that was touched (bytes, rounded down).
        write: whether it was to be written.
        resolved: the faulting task may try again.
    """

    reason: str
    address: int
    write: bool
    resolved: bool = field(default=False)


class Userfaultfd:
    """A monitor of one process.

    Kernel: struct userfaultfd_ctx, fs/userfaultfd.c.

    Attributes:
        mm: the process.
        handler: called for each event, as the monitor's thread would run; it resolves the event with one of the
            methods below. Without one the faulting task just sleeps.
        events: all events so far, oldest first.
    """

    def __init__(self, mm: Mm, handler: Callable[[UffdEvent], None] | None = None) -> None:
        self.mm = mm
        self.handler = handler
        self.events: list[UffdEvent] = []

    def __repr__(self) -> str:
        return f"<Userfaultfd of {self.mm.name}: {len(self.events)} events>"

    def register(self, start: int, length: int, *modes: str) -> None:
        """Watch a range (bytes) for faults. Kernel: userfaultfd_register(), fs/userfaultfd.c.

        Raises:
            OSError: EINVAL: not aligned, nothing mapped there, or an unknown mode.
        """
        if not modes or set(modes) - set(MODES):
            raise OSError(EINVAL, f"Modes {', '.join(modes) or 'none'}; known are {', '.join(MODES)}")
        self.mm.uffd_register(start, length, frozenset(modes), self)

    def unregister(self, start: int, length: int) -> None:
        """Stop watching a range (bytes). Kernel: userfaultfd_unregister(), fs/userfaultfd.c."""
        self.mm.uffd_register(start, length, frozenset(), None)

    def deliver(self, event: UffdEvent) -> None:
        """Queue an event and sleep until it is resolved. Kernel: handle_userfault(), fs/userfaultfd.c.

        Raises:
            Deadlock: on the plain machine, if there is no handler or it does not resolve the event.
        """
        self.events.append(event)
        if self.handler is not None:
            try:
                self.handler(event)
            except OSError as error:  # not to be taken for an error of the fault
                raise UsageError(f"The handler of {self!r} failed on {event}: {error}") from error
        self.wait(event)

    def wait(self, event: UffdEvent) -> None:
        """Sleep until an event is resolved."""
        if not event.resolved:
            raise Deadlock([(repr(this_cpu()), f"somebody to resolve the {event.reason} fault at {event.address:#x}")])

    def wake(self, address: int) -> None:
        """Wake who waits for a page. Kernel: wake_userfault(), fs/userfaultfd.c."""
        page = address & -self.mm.memory.page_size
        for event in self.events:
            if event.address == page:
                event.resolved = True

    # Resolving ---------------------------------------------------------------------------------------------

    def copy(self, address: int, content: bytes) -> None:
        """Fill a missing page (UFFDIO_COPY). Kernel: shmem_mfill_atomic_pte(), mm/shmem.c.

        Raises:
            OSError: EEXIST: there is a page already; ENOENT: nothing is mapped there; EFAULT: behind the end.
        """
        from mmref.pagecache.fault import install_pte
        from mmref.pagecache.shmem import ShmemInode

        vma, size = self._vma(address), self.mm.memory.page_size
        inode = vma.mapping.host
        if not isinstance(inode, ShmemInode):
            raise OSError(EINVAL, "Only shmem can be filled")
        folio = inode.mfill_folio(vma.index_of(address), content[:size].ljust(size, b"\0"))
        try:
            if not install_pte(vma, address, folio, write=True):
                raise OSError(EEXIST, f"Address {address:#x} is mapped already")
        finally:
            folio.unlock()
            folio.put()
        self.wake(address)

    def zeropage(self, address: int) -> None:
        """Fill a missing page with zeros (UFFDIO_ZEROPAGE). Kernel: mfill_atomic_pte_zeropage(), mm/userfaultfd.c."""
        self.copy(address, b"")

    def resume(self, address: int) -> None:
        """Map the page that is in the cache (UFFDIO_CONTINUE). Kernel: mfill_atomic_pte_continue(), mm/userfaultfd.c.

        Raises:
            OSError: EFAULT: there is none; EEXIST: it is mapped already.
        """
        from mmref.pagecache.fault import install_pte
        from mmref.pagecache.shmem import Sgp, ShmemInode

        vma = self._vma(address)
        inode = vma.mapping.host
        if not isinstance(inode, ShmemInode):
            raise OSError(EINVAL, "Only shmem has minor faults")
        try:
            folio = inode.get_folio(vma.index_of(address), Sgp.NOALLOC)
        except OSError as error:
            raise OSError(EFAULT, f"No page at address {address:#x}") from error
        if folio is None:
            raise OSError(EFAULT, f"No page at address {address:#x}")
        try:
            if not install_pte(vma, address, folio, write=vma.page_prot_write):
                raise OSError(EEXIST, f"Address {address:#x} is mapped already")
        finally:
            folio.unlock()
            folio.put()
        self.wake(address)

    def writeprotect(self, start: int, length: int, protect: bool = True) -> None:
        """Protect a range (bytes) from being written, or no more. Kernel: mwriteprotect_range(), mm/userfaultfd.c.

        Entries of a file that are not present get a marker. Stopping wakes who waits.
        """
        mm, size = self.mm, self.mm.memory.page_size
        for address in range(start, start + length, size):
            vma = self._vma(address)
            if "wp" not in vma.uffd:
                raise OSError(ENOENT, f"The VMA at {address:#x} is not registered for wp")
            at, offset = mm.pmd_of(address), mm.pte_of(address)
            mm.split_huge_pmd(at)
            table = mm.pmd(at)
            if table is None and protect:
                table = mm.pte_alloc(at)
            if not isinstance(table, PageTable):
                continue
            with table.lock:
                entry = table.get(offset)
                if isinstance(entry, Pte):
                    table.set(offset, entry._replace(uffd_wp=protect, write=not protect and vma.page_prot_write))
                    mm.tlb.flush_range(address // size, 1)
                elif entry is None and protect:
                    table.set(offset, PteMarker.UFFD_WP)
                elif entry is PteMarker.UFFD_WP and not protect:
                    table.set(offset, None)
            if not protect:
                self.wake(address)

    def _vma(self, address: int) -> Vma:
        vma = self.mm.find_vma(address)
        if vma is None or vma.uffd_ctx is not self:
            raise OSError(ENOENT, f"Address {address:#x} is not registered")
        return vma
