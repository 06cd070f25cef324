# SPDX-License-Identifier: GPL-2.0-only
"""One execution of a scenario: the machine, the file, and what may be seen of it.

Conventions in this file: *pages* count from 0 at the start of the file. What a page may read as while others act is a
set that is fixed before anybody acts, so that no check depends on the order of steps that do not conflict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mmref.explore.layout import Layout
from mmref.khugepaged import CollapseResult, CollapseStrategy
from mmref.machine import File, Machine

__all__ = ["Scene"]


@dataclass
class Scene:
    """One execution of a scenario.

    Attributes:
        layout: what the file was at the start.
        strategy: how the file is collapsed.
        machine: the machine.
        file: the file.
        truth: what each page must read as at rest.
        start: first page of the huge page that is collapsed.
        data: the pages that hold data, whatever anybody does.
        resident: those of them that stay in memory.
        results: what the collapses came to, in the order in which they ended.
        at_rest: what is to be done before the checks at rest, such as dropping pins.
    """

    layout: Layout
    strategy: CollapseStrategy
    machine: Machine
    file: File
    truth: dict[int, bytes]
    start: int = 0
    data: set[int] = field(default_factory=set)
    resident: set[int] = field(default_factory=set)
    results: list[CollapseResult] = field(default_factory=list)
    at_rest: list[Callable[[], None]] = field(default_factory=list)
    _readable: dict[int, set[bytes]] = field(default_factory=dict)
    _filled: set[int] = field(default_factory=set)  # huge pages that may have something in the cache
    _not_emptied: set[int] = field(default_factory=set)  # those that somebody may fill without the inode lock

    def __post_init__(self) -> None:
        self.data |= self.layout.data
        self.resident |= self.layout.resident
        self._readable = {page: {content} for page, content in self.truth.items()}
        kinds = self.layout.pages
        self._filled = {page >> self.layout.order for page, kind in enumerate(kinds) if kind != "."}
        if not self.file.inode.is_shmem:  # reading brings every page into the cache
            self._not_emptied = set(range(self.layout.extents))

    @property
    def size(self) -> int:
        """Bytes per page."""
        return self.machine.page_size

    # Before anybody acts -----------------------------------------------------------------------------------

    def may_read(self, page: int, *contents: bytes) -> None:
        """Say that somebody may put this content into a page; ``b""`` if the file may end before it."""
        self._readable.setdefault(page, set()).update(contents)

    def may_lose(self, pages: Iterable[int]) -> None:
        """Say that somebody takes data out of the file."""
        self.data -= set(pages)
        self.resident -= self.resident - self.data

    def may_evict(self, pages: Iterable[int]) -> None:
        """Say that somebody takes pages out of memory."""
        self.resident -= set(pages)

    def may_fill(self, page: int) -> None:
        """Say that somebody may put a page into the cache without taking the inode lock."""
        self._not_emptied.add(page >> self.layout.order)

    # While they act ----------------------------------------------------------------------------------------

    def readable(self, page: int) -> set[bytes]:
        """Return all that a page may read as while others act."""
        return self._readable.get(page, {b""})

    def wrote(self, page: int, content: bytes) -> None:
        """Say that a page has been written, or allocated. Context: the inode lock has just been released."""
        self.truth[page] = content
        self._filled.add(page >> self.layout.order)

    def emptied(self, pages: range) -> None:
        """Say that pages have been taken out. Context: the inode lock has just been released."""
        for page in pages:
            if page in self.truth:
                self.truth[page] = bytes(self.size)
        for extent in range(self.layout.extents):
            covered = self.layout.extent(extent)
            if pages.start <= covered.start and covered.stop <= pages.stop:
                self._filled.discard(extent)

    # At rest -----------------------------------------------------------------------------------------------

    def empty(self) -> list[int]:
        """Return the pages that must not be in the cache, because nobody has filled their huge page again."""
        extents = set(range(self.layout.extents)) - self._filled - self._not_emptied
        return [page for extent in sorted(extents) for page in self.layout.extent(extent)]
