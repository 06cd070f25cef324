# SPDX-License-Identifier: GPL-2.0-only
"""Where the data and the holes of a real file are, and the small layout that a scenario makes of it."""

from __future__ import annotations

import os
import stat
from errno import ENXIO
from pathlib import Path

from mmref.errors import UsageError

__all__ = ["data_extents", "layout_like", "sparse_file"]


def data_extents(path: str | Path, most: int = 1000) -> tuple[int, list[tuple[int, int]]]:
    """Ask the kernel with lseek() where a file has data.

    Args:
        path: a regular file.
        most: stop after so many extents.

    Returns:
        its size (bytes), and (start, end) of each data extent (bytes).

    Raises:
        UsageError: it cannot be read, or is no regular file.
    """
    extents: list[tuple[int, int]] = []
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{str(path)!r} is not a regular file; give one that has data.")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        size, end = os.fstat(fd).st_size, 0
        while end < size and len(extents) < most:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == ENXIO:  # no more data
                    break
                raise UsageError(f"{str(path)!r} cannot be searched for data: {error.strerror}.") from None
            end = os.lseek(fd, start, os.SEEK_HOLE)
            extents.append((start, end))
        return size, extents
    finally:
        os.close(fd)


def layout_like(path: str | Path, pages: int = 4, page_size: int = 4096) -> str:
    """Return a layout of so many pages that looks like the first extents of a file.

    A file that fits is taken page by page. Of a larger one each extent, data or hole, gets at least one page, and
    longer ones get more, as far as there are pages.

    Args:
        path: a regular file.
        pages: how many pages the layout has.
        page_size: bytes per page.

    Raises:
        UsageError: it cannot be read, is empty, or has no data.
    """
    size, extents = data_extents(path, most=pages)
    if not size:
        raise UsageError(f"{str(path)!r} is empty; give a file that has data.")
    if not extents:
        raise UsageError(f"{str(path)!r} is one hole of {size} bytes; give a file that has data.")
    runs: list[tuple[str, int]] = []
    at = 0
    for start, end in extents:
        first, behind = start // page_size, -(-end // page_size)
        if first > at:
            runs.append((".", first - at))
        runs.append(("D", behind - max(first, at)))
        at = behind
    if -(-size // page_size) > at:
        runs.append((".", -(-size // page_size) - at))
    runs = [(kind, length) for kind, length in runs if length > 0][:pages]
    layout = "".join(kind * share for (kind, _), share in zip(runs, _shares(runs, pages), strict=True))
    return layout.ljust(pages, ".")


def _shares(runs: list[tuple[str, int]], pages: int) -> list[int]:
    """Divide the pages among the runs: one each, and each further one to the run that is shortened the most."""
    shares = [1] * len(runs)
    for _ in range(pages - len(runs)):
        wanting = [(length / share, -at) for at, ((_, length), share) in enumerate(zip(runs, shares, strict=True))]
        ratio, at = max(wanting)
        if ratio <= 1:  # every run has all its pages
            break
        shares[-at] += 1
    return shares


def sparse_file(path: str | Path, layout: str, page_size: int = 4096) -> None:
    """Write a real file with such a layout: ``D`` becomes data, anything else a hole."""
    with open(path, "wb") as file:
        file.truncate(len(layout) * page_size)
        for page, kind in enumerate(layout):
            if kind == "D":
                file.seek(page * page_size)
                file.write(bytes((page % 251 + 1,)) * page_size)
        file.flush()
        os.fsync(file.fileno())  # some filesystems report a block as data only once it is allocated
