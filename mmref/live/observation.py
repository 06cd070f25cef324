# SPDX-License-Identifier: GPL-2.0-only
"""What is looked at after each operation, and how it is written down; the same on the model and on a kernel.

A page written by a program holds a pattern that tells which page of which generation it is, so that content can
be written down as a few runs: [first, behind, tag] with the generation as the tag, 0 for zeros, -1 for anything
else (then its checksum is written down too).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypedDict
from zlib import crc32

from mmref.live.program import PAGE

__all__ = ["MIXED", "SMAPS", "Observation", "StepResult", "checksum", "content_tags", "page_content", "runs"]

MIXED = -1
"""The tag of a page that holds neither zeros nor what one generation wrote."""

SMAPS = ("Rss", "Anonymous", "ShmemPmdMapped", "FilePmdMapped")
"""Which lines of /proc/self/smaps are looked at."""

ZEROS = bytes(PAGE)


class Observation(TypedDict, total=False):
    """The state of a file, as everybody can ask the kernel for it."""

    size: int
    """Size (bytes)."""
    blocks: int
    """st_blocks (512 bytes each)."""
    data: list[list[int]]
    """Data extents by SEEK_DATA and SEEK_HOLE, [start, end) in bytes."""
    core_cache: list[list[int]]
    """Resident pages by mincore(2) through a fresh mapping, [first, behind)."""
    core_vma: list[list[int]]
    """The same through the main mapping, in pages of the file."""
    pte_present: list[list[int]]
    """Pages of the file that the page tables of the main mapping have, [first, behind)."""
    vma2_pte_present: list[list[int]]
    """The same for the second mapping."""
    smaps: dict[str, int]
    """What /proc/self/smaps says of the main mapping: each of `SMAPS` (kB)."""
    content: list[list[int]]
    """Runs of pages [first, behind, tag] by pread(2)."""
    cache_thp: list[list[int]]
    """Pages that belong to a huge page, [first, behind); of files on a disk."""
    cache_dirty: list[list[int]]
    """Pages that are dirty; of files on a disk."""
    mixed: list[list[int]]
    """[page, CRC-32] of each page that is tagged `MIXED`."""


class StepResult(TypedDict, total=False):
    """What one operation answered, and what the file was like after it."""

    ret: int
    """Its return value, -1 for an error."""
    errno: str
    """The name of its error, "0" for none."""
    sigbus: int
    """1 if a store or a load through a mapping was answered with SIGBUS."""
    died: str
    """What became of the process that did it, if that ended it."""
    observe: Observation


@lru_cache(maxsize=8192)
def page_content(page: int, generation: int) -> bytes:
    """Return what a program writes into a page (of the file) in a generation.

    Word j of it is 0x5A << 56 | generation << 40 | page << 12 | j.
    """
    head = 0x5A << 56 | generation << 40 | page << 12
    return struct.pack("<512Q", *range(head, head + PAGE // 8))


def tag_of(content: bytes, page: int) -> int:
    """Name a page's content: its generation, 0 for zeros, `MIXED` for anything else. The last may be short."""
    if content == ZEROS or not content.strip(b"\0"):
        return 0
    generation = int.from_bytes(content[5:7], "little")
    expected = page_content(page, generation)
    return generation if content == expected or (len(content) < PAGE and expected.startswith(content)) else MIXED


def content_tags(content: bytes) -> tuple[list[list[int]], list[list[int]]]:
    """Return the content of a file as `content` and `mixed` of an `Observation` have it."""
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    tags = [tag_of(page, at) for at, page in enumerate(pages)]
    return runs(tags), [[at, crc32(pages[at])] for at, tag in enumerate(tags) if tag == MIXED]


def runs(values: Iterable[Any], skip: Any = None) -> list[list[Any]]:
    """Compress values to [first, behind, value] runs, leaving out those of the value `skip`.

    >>> runs([1, 1, 0, 2], skip=0)
    [[0, 2, 1], [3, 4, 2]]
    """
    found: list[list[Any]] = []
    for index, value in enumerate(values):
        if found and found[-1][2] == value and found[-1][1] == index:
            found[-1][1] = index + 1
        elif value != skip:
            found.append([index, index + 1, value])
    return found


def checksum(content: bytes) -> str:
    """Return the checksum that recordings have: FNV-1a over 64-bit words of whole pages, padded with zeros."""
    value = 0xCBF29CE484222325
    for (word,) in struct.iter_unpack("<Q", content + bytes(-len(content) % PAGE)):
        value = (value ^ word) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"
