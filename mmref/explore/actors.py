# SPDX-License-Identifier: GPL-2.0-only
"""What others do to a file while it is being collapsed, and what must come of it.

An *actor* acts on the file of one execution, on a CPU of its own. It says beforehand what it may change, raises
`InvariantViolation` if it sees what it must not see, and keeps the truth up to date: the content that each page must
have at rest. `at` is the page it is about; the scenario says which.

Whoever changes content through system calls is ordered by the inode lock. A store through a mapping is not: let nobody
else change the same page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from errno import EEXIST, EIO
from typing import ClassVar

from typing_extensions import override

from mmref.errors import InvariantViolation
from mmref.explore.scene import Scene
from mmref.explore.watched import check_content, check_hole, check_resident, check_seek
from mmref.folio import PG_LOCKED, Folio
from mmref.khugepaged import CollapseResult, collapse_file
from mmref.khugepaged.control import CollapseControl
from mmref.khugepaged.scan import hpage_collapse_scan_file
from mmref.pagecache import BusError, RegularInode, UffdEvent, filemap_get_entry, folios_of
from mmref.process import Process

__all__ = ["ACTORS", "Actor", "CompleteIo", "OpenForWrite", "Read", "RegisterLook", "RegisterTail"]


class Actor(ABC):
    """Somebody on a CPU of its own, in one execution.

    Attributes:
        label: what to call the CPU.
        completes_io: it ends the writes to the disk that have been started.
        scene: the execution.
        at: the page that it is about.
        address: where it has mapped the file, if it has (bytes).
    """

    label: ClassVar[str]
    completes_io: ClassVar[bool] = False

    def __init__(self, scene: Scene, at: int) -> None:
        self.scene = scene
        self.file = scene.file
        self.size = scene.size
        self.at = at
        self.address = 0

    def prepare(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """Set up what must be there before anybody acts, and say what may change."""

    @abstractmethod
    def act(self) -> object:
        """Do it."""

    def settle(self) -> None:  # noqa: B027
        """Check what must hold at rest, besides what must hold in every scenario."""

    @property
    def everything(self) -> range:
        """All pages of the file."""
        return range(len(self.scene.layout.pages))

    @property
    def process(self) -> Process:
        """The process that maps the file: all actors are its threads."""
        return self.scene.machine.process()

    def map_file(self) -> None:
        """Map the whole file; one on a disk for reading only, for a mapping to write to would be a writer."""
        self.address = self.file.mmap(prot="rw" if self.file.inode.is_shmem else "r")

    def address_of(self, page: int) -> int:
        """Return where a page is mapped (bytes)."""
        return self.address + page * self.size

    def check_read(self, got: bytes) -> None:
        """Check A3 of what was read of the page."""
        check_content(self.at, got, *self.scene.readable(self.at))


# Looking ---------------------------------------------------------------------------------------------------


class SeekData(Actor):
    """Ask SEEK_DATA once, and hold the answer against A1."""

    label = "lseek SEEK_DATA"

    @override
    def act(self) -> int | None:
        try:
            found = self.file.seek_data(self.at * self.size) // self.size
        except OSError:
            found = None
        check_seek(self.at, found, frozenset(self.scene.data))
        return found


class SeekHole(Actor):
    """Ask SEEK_HOLE once, and hold the answer against A1."""

    label = "lseek SEEK_HOLE"

    @override
    def act(self) -> int | None:
        try:
            found = self.file.seek_hole(self.at * self.size) // self.size
        except OSError:  # behind the end of the file
            return None
        check_hole(self.at, found, frozenset(self.scene.data))
        return found


class Mincore(Actor):
    """Ask mincore() about the whole file, and hold the answer against A2."""

    label = "mincore"

    @override
    def act(self) -> list[bool]:
        resident = self.file.mincore()
        check_resident(0, resident, frozenset(self.scene.resident))
        return resident


class MappedMincore(Mincore):
    """Ask mincore() about a mapping, some pages of which the page tables map."""

    @override
    def prepare(self) -> None:
        self.map_file()
        self.process.read(self.address_of(self.at), 1)

    @override
    def act(self) -> list[bool]:
        resident = self.process.mincore(self.address, len(self.everything) * self.size)
        check_resident(0, resident, frozenset(self.scene.resident))
        return resident


class Read(Actor):
    """Read one page with read(2)."""

    label = "read"

    @override
    def act(self) -> None:
        try:
            got = self.file.read(self.at * self.size, self.size)
        except OSError as error:
            if error.errno != EIO or self.at not in self.scene.layout.broken:
                raise
        else:
            self.check_read(got)


class SwapIn(Read):
    """Read one page that is in swap."""

    @override
    def prepare(self) -> None:
        add_swap(self.scene)


class Fault(Actor):
    """Load a page through a mapping that has no page table yet."""

    label = "page fault"

    @override
    def prepare(self) -> None:
        self.map_file()
        self.scene.may_fill(self.at)

    @override
    def act(self) -> None:
        try:
            got = self.process.read(self.address_of(self.at), self.size)
        except BusError:
            if self.at in self.scene.layout.broken:
                return
            got = b""  # behind the end of the file
        self.check_read(got)


class MappedRead(Fault):
    """Load a page that a page table maps."""

    label = "load"

    @override
    def prepare(self) -> None:
        super().prepare()
        self.process.read(self.address_of(self.at), 1)


# Writing ---------------------------------------------------------------------------------------------------


class Changes(Actor):
    """Somebody who puts new content into one page."""

    @property
    def new(self) -> bytes:
        """What is written: nothing else in the file looks like it."""
        return bytes((0xE0 + self.at % 16,)) * self.size

    @override
    def prepare(self) -> None:
        self.scene.may_read(self.at, self.new)


class Write(Changes):
    """Overwrite one page with write(2)."""

    label = "write"

    @override
    def act(self) -> None:
        self.file.write(self.at * self.size, self.new)
        self.scene.wrote(self.at, self.new)


class WriteFault(Changes):
    """Overwrite one page through a mapping that reads it already."""

    label = "store"

    @override
    def prepare(self) -> None:
        super().prepare()
        self.map_file()
        self.scene.may_fill(self.at)
        self.process.read(self.address_of(self.at), 1)

    @override
    def act(self) -> None:
        self.process.write(self.address_of(self.at), self.new)
        self.scene.wrote(self.at, self.new)


class Fallocate(Actor):
    """Allocate one page."""

    label = "fallocate"

    @override
    def act(self) -> None:
        self.file.fallocate(self.at * self.size, self.size)
        self.scene.wrote(self.at, self.scene.truth.get(self.at, bytes(self.size)))


class FallocateRest(Actor):
    """Allocate from one page to the end; what has been allocated is taken back if there is not room for all."""

    label = "fallocate"

    @override
    def act(self) -> None:
        rest = self.everything[self.at :]
        self.file.fallocate(rest.start * self.size, len(rest) * self.size)
        for page in rest:
            self.scene.wrote(page, self.scene.truth.get(page, bytes(self.size)))


class Punch(Actor):
    """Punch one page out."""

    label = "punch"

    @property
    def punched(self) -> range:
        """The pages that are punched out."""
        return range(self.at, self.at + 1)

    @override
    def prepare(self) -> None:
        self.scene.may_lose(self.punched)
        for page in self.punched:
            self.scene.may_read(page, bytes(self.size))

    @override
    def act(self) -> None:
        pages = self.punched
        self.file.punch_hole(pages.start * self.size, len(pages) * self.size)
        self.scene.emptied(pages)


class PunchAll(Punch):
    """Punch everything out."""

    @property
    @override
    def punched(self) -> range:
        return self.everything


class Truncate(Actor):
    """Cut the file down to nothing."""

    label = "truncate"

    @override
    def prepare(self) -> None:
        self.scene.may_lose(self.everything)
        for page in self.everything:
            self.scene.may_read(page, b"", bytes(self.size))

    @override
    def act(self) -> None:
        self.file.truncate(0)
        self.scene.truth.clear()
        self.scene.emptied(self.everything)


class TruncateAndGrow(Actor):
    """Cut the file off before one page, and make it as long again: the page and what is behind it is a hole."""

    label = "truncate twice"

    @override
    def prepare(self) -> None:
        behind = self.everything[self.at :]
        self.scene.may_lose(behind)
        for page in behind:
            self.scene.may_read(page, b"", bytes(self.size))

    @override
    def act(self) -> None:
        behind = self.everything[self.at :]
        self.file.truncate(self.at * self.size)
        for page in behind:
            self.scene.truth.pop(page, None)
        self.scene.emptied(behind)
        self.file.truncate(len(self.everything) * self.size)
        for page in behind:
            self.scene.truth.setdefault(page, bytes(self.size))


# Reclaim, swap, pins ---------------------------------------------------------------------------------------


def add_swap(scene: Scene) -> None:
    """Add a swap device, if there is none yet."""
    if scene.machine.memory.swap is None:
        scene.machine.swapon(2 * len(scene.layout.pages))


class SwapOut(Actor):
    """Reclaim one page: to swap, or from the cache of a file on a disk."""

    label = "reclaim"

    @override
    def prepare(self) -> None:
        if self.file.inode.is_shmem:
            add_swap(self.scene)
        huge = self.scene.layout.extent(self.at >> self.scene.layout.order)
        # A huge page on tmpfs is split, and its first page written; of a file on a disk it goes as a whole.
        self.scene.may_evict([self.at, huge.start] if self.file.inode.is_shmem else huge)

    @override
    def act(self) -> None:
        self.file.swap_out(self.at, 1)


class Pin(Actor):
    """Take a reference to one page and keep it, as splice(2) does; look at it again at the end (A13)."""

    label = "pin"
    pinned: Folio | None = None

    def take(self) -> Folio | None:
        """Take the reference."""
        entry = filemap_get_entry(self.file.mapping, self.at)
        return entry if isinstance(entry, Folio) else None

    @override
    def act(self) -> None:
        self.pinned = self.take()
        if self.pinned is not None:
            self.file.pins[self.pinned] += 1

    @override
    def settle(self) -> None:
        """A page that was pinned in time is still the file's, so that what is written through the pin arrives."""
        folio = self.pinned
        if folio is None:
            return
        cached = folios_of(self.file.mapping).get(self.at)
        if cached is not folio and not self.may_be_replaced(folio):
            raise InvariantViolation("A13", f"{folio} was pinned, but page {self.at} is {cached} now")
        self.file.pins[folio] -= 1
        folio.put()

    def may_be_replaced(self, folio: Folio) -> bool:
        """Tell whether the pin may have come too late: a collapse had counted the references."""
        return folio.mapping is None and any(result.status.succeeded for result in self.scene.results)


class GupPin(Pin):
    """Pin one page through the page tables, as get_user_pages() does, for instance for a network card."""

    label = "GUP"

    @override
    def prepare(self) -> None:
        self.map_file()
        self.process.read(self.address_of(self.at), 1)

    @override
    def take(self) -> Folio | None:
        return self.process.mm.pin(self.address_of(self.at))

    @override
    def settle(self) -> None:
        """There was a page to pin in any case."""
        assert self.pinned is not None
        super().settle()

    @override
    def may_be_replaced(self, folio: Folio) -> bool:
        """It cannot: pages are unmapped before their references are counted."""
        return False


# userfaultfd -----------------------------------------------------------------------------------------------


class RegisterLookTouch(Actor):
    """Register for missing pages, see that one is missing, touch it: the monitor must hear of it (A7)."""

    label = "userfaultfd"

    @override
    def prepare(self) -> None:
        self.map_file()
        self.scene.may_fill(self.at)

    @override
    def act(self) -> None:
        self.register_and_look()
        self.touch()

    def register_and_look(self) -> None:
        """Register, and look whether the page is missing."""

        def monitor(event: UffdEvent) -> None:
            try:
                uffd.zeropage(event.address)
            except OSError as error:
                if error.errno != EEXIST:  # somebody else has filled the page meanwhile: let the task try again
                    raise
                uffd.wake(event.address)

        uffd = self.uffd = self.process.userfaultfd(monitor)
        vma = self.process.mm.find_vma(self.address_of(self.at))
        assert vma is not None
        uffd.register(vma.vm_start, vma.vm_end - vma.vm_start, "missing")
        self.missing = self._nothing_there()

    def touch(self) -> None:
        """Touch the page."""
        self.process.read(self.address_of(self.at), 1)
        if self.missing and not self.uffd.events:
            raise InvariantViolation(
                "A7", f"page {self.at} was seen missing, but touching it raised no userfaultfd event"
            )

    def _nothing_there(self) -> bool:
        entry = filemap_get_entry(self.file.mapping, self.at)
        if isinstance(entry, Folio):
            entry.put()
        return entry is None


class RegisterLook(RegisterLookTouch):
    """The same, but touch it when everybody has finished."""

    @override
    def act(self) -> None:
        self.register_and_look()

    @override
    def settle(self) -> None:
        self.touch()


class RegisterTail(RegisterLookTouch):
    """The same with a mapping of that page alone."""

    @override
    def map_file(self) -> None:
        self.address = self.file.mmap(self.size, self.at * self.size) - self.at * self.size


class UffdCopy(Changes):
    """Fill a missing page of a registered range, as a monitor does ahead of time (UFFDIO_COPY)."""

    label = "uffd monitor"

    @override
    def prepare(self) -> None:
        super().prepare()
        self.map_file()
        self.scene.may_fill(self.at)
        self.uffd = self.process.userfaultfd()
        self.uffd.register(self.address, len(self.everything) * self.size, "missing")

    @override
    def act(self) -> None:
        try:
            self.uffd.copy(self.address_of(self.at), self.new)
        except OSError as error:
            if error.errno != EEXIST:  # a page is there already, and stays as it is
                raise
        else:
            self.scene.wrote(self.at, self.new)


# A second collapse, the scan -------------------------------------------------------------------------------


class CollapseToo(Actor):
    """Collapse the huge page that the page is in."""

    label = "madvise"

    @property
    def start(self) -> int:
        """First page of that huge page."""
        return self.scene.layout.extent(self.at >> self.scene.layout.order).start

    @override
    def act(self) -> object:
        result = collapse_file(self.file.mapping, self.start, self.scene.strategy)
        self.scene.results.append(result)
        return result


class Scan(CollapseToo):
    """Scan the range as khugepaged does, and collapse it if it looks good."""

    label = "khugepaged 2"

    @override
    def act(self) -> object:
        status, holes = hpage_collapse_scan_file(self.file.mapping, self.start, self.scene.strategy, CollapseControl())
        result = CollapseResult(status, self.start, holes)
        self.scene.results.append(result)
        return result


class Madvise(CollapseToo):
    """Collapse the huge page with MADV_COLLAPSE where it is mapped, which also maps it by one entry."""

    @override
    def prepare(self) -> None:
        self.map_file()
        self.process.read(self.address_of(self.at), 1)

    @override
    def act(self) -> object:
        huge = self.process.mm.huge_size
        # It may lose against the other collapse; what counts is what is left behind.
        with suppress(OSError):
            self.process.madvise_collapse(self.address_of(self.start), huge, self.scene.strategy)
        return None


class Munmap(Actor):
    """Unmap the file, whose pages are all in the page tables."""

    label = "munmap"

    @override
    def prepare(self) -> None:
        self.map_file()
        for page in sorted(self.scene.layout.resident):
            self.process.read(self.address_of(page), 1)

    @override
    def act(self) -> None:
        huge = self.process.mm.huge_size
        self.process.munmap(self.address, self.scene.layout.extents * huge)


# Files on a disk -------------------------------------------------------------------------------------------


class FileTruncate(Truncate):
    """Cut the file down to nothing by its path: nobody has it open. Kernel: vfs_truncate(), fs/open.c."""

    @override
    def act(self) -> None:
        inode = self.file.inode
        assert isinstance(inode, RegularInode)
        inode.get_write_access()
        try:
            super().act()
        finally:
            inode.put_write_access()


class OpenForWrite(Actor):
    """Open the file for writing; what is in the cache then must be small (A10)."""

    label = "open"

    @override
    def prepare(self) -> None:
        self.scene.may_evict(self.everything)

    @override
    def act(self) -> None:
        close = self.file.open_for_write()
        # A huge folio that is still locked is one that a collapse has yet to give up: nobody can write into it.
        self._no_huge_folio(lambda folio: not folio.peek()[0] & PG_LOCKED)
        self.scene.at_rest.append(close)

    @override
    def settle(self) -> None:
        self._no_huge_folio(lambda _: True)

    def _no_huge_folio(self, counts: Callable[[Folio], bool]) -> None:
        for folio in folios_of(self.file.mapping).values():
            if folio.order and counts(folio):
                raise InvariantViolation("A10", f"{folio} is in the cache of a file that is open for writing")


class OpenAndWrite(OpenForWrite, Write):
    """Open the file for writing, and write one page."""

    label = "open, write"

    @override
    def prepare(self) -> None:
        OpenForWrite.prepare(self)
        Write.prepare(self)

    @override
    def act(self) -> None:
        OpenForWrite.act(self)
        Write.act(self)


class OpenAndPunch(OpenForWrite, Punch):
    """Open the file for writing, and punch one page out."""

    label = "open, punch"

    @override
    def prepare(self) -> None:
        OpenForWrite.prepare(self)
        Punch.prepare(self)

    @override
    def act(self) -> None:
        OpenForWrite.act(self)
        Punch.act(self)


class CompleteIo(Actor):
    """Let the disk say that what it was given has been written. Kernel: end_page_writeback(), in an interrupt."""

    label = "disk"
    completes_io = True

    @override
    def act(self) -> None:
        assert isinstance(self.file.inode, RegularInode)
        self.file.inode.complete_io()


ACTORS: dict[str, type[Actor]] = {
    "seek-data": SeekData, "seek-hole": SeekHole, "mincore": Mincore, "mincore-mapped": MappedMincore, "read": Read,
    "mapped-read": MappedRead, "fault": Fault, "write": Write, "write-fault": WriteFault, "fallocate": Fallocate,
    "fallocate-rest": FallocateRest, "punch": Punch, "punch-all": PunchAll, "truncate": Truncate,
    "truncate-grow": TruncateAndGrow, "swap-out": SwapOut, "swap-in": SwapIn, "pin": Pin, "gup": GupPin,
    "uffd": RegisterLookTouch, "uffd-copy": UffdCopy, "collapse": CollapseToo, "scan": Scan, "madvise": Madvise,
    "munmap": Munmap, "open-for-write": OpenForWrite, "open-and-write": OpenAndWrite, "open-and-punch": OpenAndPunch,
    "file-truncate": FileTruncate, "complete-io": CompleteIo,
}  # fmt: skip
"""Who can be on the other CPUs, by the name that scenarios use."""
