# SPDX-License-Identifier: GPL-2.0-only
"""What each page of a file is before anybody acts: read from a short text, made on a machine.

A *layout* has one letter per page. ``|`` stands between the ranges that huge pages can cover: ``DD|D.`` is a file of
two huge pages of two pages each. Brackets enclose the pages of one large folio: ``[DD]D.``; one that fills its
range, as in ``DD|[DD]``, is a huge page that is there already.

The letters, of a file on tmpfs and of one on a disk:

    D   data                                        data, in the cache and clean
    .   a hole                                      on the disk alone
    f   allocated by fallocate() but unwritten
    s   data that is swapped out
    d                                               data, dirty
    w                                               data, being written to the disk
    x   data whose memory is broken                 the same

Conventions in this file: pages count from 0 at the start of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

from mmref.errors import UsageError
from mmref.folio import PG_HWPOISON, Folio
from mmref.machine import File, Machine
from mmref.pagecache import RegularInode, filemap_flush

__all__ = ["DISK_LETTERS", "TMPFS_LETTERS", "Layout", "disk_file", "tmpfs_file"]

TMPFS_LETTERS = {"D": "data", ".": "hole", "f": "fallocated", "s": "swapped out", "x": "data in broken memory"}
DISK_LETTERS = {
    "D": "data", ".": "on the disk alone", "d": "dirty", "w": "under writeback", "x": "data in broken memory",
}  # fmt: skip
_IN_MEMORY = "Ddwx"
_MAX_PAGES = 512
_PIECE = re.compile(r"\[(D+)\]|([A-Za-z.])")


@dataclass(frozen=True)
class Layout:
    """A layout that has been read.

    Attributes:
        text: as it was given.
        pages: the letter of each page.
        order: log2 of the pages of a huge page.
        large: first page and order (log2 of pages) of each large folio.
    """

    text: str
    pages: str
    order: int
    large: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str, on_disk: bool = False) -> Layout:
        """Read a layout.

        Raises:
            UsageError: it is not one, or not one for such a file.
        """
        return _parse(text, on_disk)

    @property
    def extents(self) -> int:
        """How many huge pages the file has room for."""
        return len(self.pages) >> self.order

    def extent(self, number: int) -> range:
        """Return the pages that one huge page covers."""
        return range(number << self.order, number + 1 << self.order)

    @cached_property
    def resident(self) -> frozenset[int]:
        """The pages that hold data in memory."""
        return frozenset(page for page, kind in enumerate(self.pages) if kind in _IN_MEMORY)

    @cached_property
    def data(self) -> frozenset[int]:
        """The pages that hold data, in memory or in swap."""
        return self.resident | {page for page, kind in enumerate(self.pages) if kind == "s"}

    @cached_property
    def broken(self) -> frozenset[int]:
        """The pages whose memory is broken, so that they cannot be read."""
        return frozenset(page for page, kind in enumerate(self.pages) if kind == "x")


@cache
def _parse(text: str, on_disk: bool) -> Layout:
    letters = DISK_LETTERS if on_disk else TMPFS_LETTERS
    known = ", ".join(f"{letter} {meaning}" for letter, meaning in letters.items())
    pages: list[str] = []
    large: list[tuple[int, int]] = []
    for extent in text.split("|"):
        pages.append("")
        end = 0
        for piece in _PIECE.finditer(extent):
            folio, letter = piece.groups("")
            if piece.start() != end or (letter and letter not in letters):
                break
            end = piece.end()
            nr, at = len(folio), len(pages[-1])
            if folio and (nr < 2 or nr & (nr - 1) or at % nr):
                raise UsageError(
                    f"Layout {text!r}: [{folio}] is no folio: a large one has a power of two of pages, and starts"
                    " at a multiple of that."
                )
            if folio:
                large.append((sum(map(len, pages)), nr.bit_length() - 1))
            pages[-1] += folio or letter
        if end != len(extent):
            raise UsageError(
                f"Layout {text!r}: give one letter per page: {known}; brackets around the pages of one large folio,"
                " | between huge pages."
            )
    nr = len(pages[0])
    if nr < 2 or nr & (nr - 1):
        raise UsageError(f"A huge page of {nr} pages: give a power of two from 2 on.")
    if any(len(extent) != nr for extent in pages):
        raise UsageError(f"Layout {text!r}: give as many pages on both sides of each |.")
    if nr * len(pages) > _MAX_PAGES:
        raise UsageError(f"{nr * len(pages)} pages are too many to explore; give at most {_MAX_PAGES}.")
    order = nr.bit_length() - 1
    if on_disk and any(size < order for _, size in large):
        raise UsageError(
            f"Layout {text!r}: the filesystem of a file on a disk knows small folios only; [...] has to fill a huge"
            " page there."
        )
    return Layout(text, "".join(pages), order, tuple(large))


def _content(machine: Machine, page: int) -> bytes:
    return bytes((page % 251 + 1,)) * machine.page_size


def tmpfs_file(machine: Machine, layout: Layout, max_pages: int | None = None) -> tuple[File, dict[int, bytes]]:
    """Make a file on tmpfs; return it and what each page reads as: all but those whose memory is broken.

    Args:
        machine: where.
        layout: what each page is.
        max_pages: size of the filesystem (pages), or None for no limit.

    Raises:
        UsageError: this machine's kernel has no such folios on tmpfs.
    """
    size = machine.page_size
    file = machine.shmem_file("file", len(layout.pages) * size, max_pages)
    content = {page: bytes(size) for page in range(len(layout.pages))}
    for first, order in layout.large:
        if order < layout.order:
            _fault_in(machine, file, first, order)
    for page, kind in enumerate(layout.pages):
        if kind in "Dsx":
            content[page] = _content(machine, page)
            file.write(page * size, content[page])
        elif kind == "f":
            file.fallocate(page * size, size)
    for page, kind in enumerate(layout.pages):
        if kind == "s":
            file.swap_out(page, 1)
    _finish(machine, file, layout)
    for page in layout.broken:
        del content[page]
    return file, content


def _fault_in(machine: Machine, file: File, first: int, order: int) -> None:
    """Let a page fault put a large folio into an empty place."""
    machine.set_shmem_orders(order)
    address = file.mmap()
    process = machine.process()
    process.write(address + first * machine.page_size, b"\0")
    process.munmap(address, process.mm.huge_size * -(-file.size // process.mm.huge_size))
    machine.set_shmem_orders()
    folio = file.mapping.i_pages.load(first)
    if not isinstance(folio, Folio) or folio.order != order:
        raise UsageError(f"Kernel {machine.kernel} did not put a folio of order {order} at page {first}.")


def disk_file(machine: Machine, layout: Layout) -> tuple[File, dict[int, bytes]]:
    """Make a file on a disk, some pages of which are in the cache; return it and what each page reads as.

    Pages whose memory is broken cannot be read.
    """
    size = machine.page_size
    content = {page: _content(machine, page) for page in range(len(layout.pages))}
    file = machine.ro_file("file", b"".join(content.values()))
    file.read(0, file.size)
    close = file.open_for_write()
    for kind in "wd":  # what is being written first: the disk would take the dirty ones with it
        for page in [page for page, one in enumerate(layout.pages) if one == kind]:
            content[page] = bytes((0x80 + page % 100,)) * size
            file.write(page * size, content[page])
        if kind == "w":
            _start_writing(file)
    close()
    for page, kind in enumerate(layout.pages):
        if kind == ".":
            file.fadvise_dontneed(page, 1)
    _finish(machine, file, layout)
    for page in layout.broken:
        del content[page]
    return file, content


def _start_writing(file: File) -> None:
    """Write all dirty pages to the disk, which is not through with it before `complete_io()`."""
    assert isinstance(file.inode, RegularInode)
    file.inode.slow_io = True
    filemap_flush(file.mapping)
    file.inode.slow_io = False


def _finish(machine: Machine, file: File, layout: Layout) -> None:
    """Collapse what is huge already, and break the memory that is broken."""
    for first, order in layout.large:
        if order == layout.order:
            machine.collapse(file, first)
    for page in layout.broken:
        folio = file.mapping.i_pages.load(page)
        assert isinstance(folio, Folio)
        folio.set_flag(PG_HWPOISON)
