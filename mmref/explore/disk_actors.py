# SPDX-License-Identifier: GPL-2.0-only
"""More of those who use a file on a disk: what follows from a collapse later, and from a disk that fails."""

from __future__ import annotations

from errno import EIO

from typing_extensions import override

from mmref.errors import InvariantViolation
from mmref.explore.actors import Actor, CompleteIo, OpenForWrite, Read
from mmref.pagecache import RegularInode

__all__ = ["CompleteBareIo", "OpenCopied", "OpenLater", "ReadError", "Refault", "Shrink"]


class OpenLater(OpenForWrite):
    """Open the file for writing when the collapse is over; nothing of it gets lost (A3)."""

    @override
    def act(self) -> None:
        """Wait."""

    @override
    def settle(self) -> None:
        super().act()


class OpenCopied(OpenForWrite):
    """Open the file for writing; a private copy of one of its pages stays as it is (A15)."""

    copied = b"\xc0"

    @override
    def prepare(self) -> None:
        super().prepare()
        self.address = self.file.mmap(shared=False)
        self.process.write(self.address_of(self.at), self.copied * self.size)

    @override
    def settle(self) -> None:
        super().settle()
        got = self.process.read(self.address_of(self.at), self.size)
        if got != self.copied * self.size:
            raise InvariantViolation("A15", f"the private copy of page {self.at} reads as bytes {sorted(set(got))[:4]}")


class Shrink(Actor):
    """Cut the file off before the page; the huge page that it is in is split."""

    label = "truncate"

    @property
    def behind(self) -> range:
        """The pages that are cut off."""
        return self.everything[self.at :]

    @override
    def prepare(self) -> None:
        self.scene.may_lose(self.behind)
        for page in self.behind:
            self.scene.may_read(page, b"", bytes(self.size))

    @override
    def act(self) -> None:
        self.file.truncate(self.at * self.size)
        for page in self.behind:
            self.scene.truth.pop(page, None)
        self.scene.emptied(self.behind)


class CompleteBareIo(CompleteIo):
    """Let the disk say so on a filesystem that keeps nothing about its folios, such as XFS with blocks of a page.

    Elsewhere it is what the filesystem keeps (`PG_private`) that makes a collapse leave the folio alone.
    """

    @override
    def prepare(self) -> None:
        inode = self.file.inode
        assert isinstance(inode, RegularInode)
        for folio in inode.in_flight():
            folio.detach_private()


class Refault(Read):
    """Read a page of a huge page that was reclaimed."""

    @override
    def prepare(self) -> None:
        self.scene.may_evict(self.scene.layout.extent(self.at >> self.scene.layout.order))
        self.file.swap_out(self.at, 1)


class ReadError(Read):
    """Read a page that the disk cannot read."""

    @override
    def prepare(self) -> None:
        inode = self.file.inode
        assert isinstance(inode, RegularInode)
        inode.bad_blocks.add(self.at)
        del self.scene.truth[self.at]

    @override
    def act(self) -> None:
        try:
            super().act()
        except OSError as error:
            if error.errno != EIO:
                raise

