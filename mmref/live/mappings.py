# SPDX-License-Identifier: GPL-2.0-only
"""The caller's side of madvise(MADV_COLLAPSE): its VMAs, and what each part of a request comes to.

Offsets are bytes of the file; a mapping whose address does not agree with its file offset modulo a huge page is
`skew` bytes off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from errno import EINVAL, ENOMEM

from mmref.khugepaged import ScanResult
from mmref.live.program import HUGE, PAGE

__all__ = ["FileMapping", "Vma"]

_GO_ON = frozenset(
    {
        ScanResult.PMD_NULL, ScanResult.PTE_NON_PRESENT, ScanResult.PTE_UFFD_WP, ScanResult.PAGE_RO,
        ScanResult.LACK_REFERENCED_PAGE, ScanResult.PAGE_NULL, ScanResult.PAGE_COUNT, ScanResult.PAGE_LOCK,
        ScanResult.PAGE_COMPOUND, ScanResult.PAGE_LRU, ScanResult.DEL_PAGE_LRU,
    }
)  # fmt: skip
"""After which results madvise_collapse() still tries the next range."""


@dataclass(frozen=True)
class Vma:
    """One area of a mapping.

    Attributes:
        start, end: which part of the file it maps (bytes).
        prot: its protection, for example "rw".
        locked: whether mlock(2) holds it.
    """

    start: int
    end: int
    prot: str = "rw"
    locked: bool = False


class FileMapping:
    """What mmap(2) returned, in as many VMAs as mprotect(2) and mlock(2) have made of it."""

    def __init__(self, off: int, length: int, prot: str = "rw", shared: bool = True, skew: int = 0) -> None:
        self.vmas = [Vma(off, off + -(-length // PAGE) * PAGE, prot)]
        self.shared = shared
        self.skew = skew

    def over(self, off: int, length: int) -> tuple[list[Vma], bool]:
        """Return the VMAs that a range touches, cut to it, and whether they cover all of it."""
        end = off + -(-length // PAGE) * PAGE
        cut = [replace(v, start=max(v.start, off), end=min(v.end, end)) for v in self.vmas if v.start < end > 0]
        cut = [vma for vma in cut if vma.start < vma.end]
        return cut, sum(vma.end - vma.start for vma in cut) == end - off

    def change(self, off: int, length: int, **changes: object) -> bool:
        """Change a range, splitting and merging VMAs; False if part of it is not mapped (the rest is changed)."""
        cut, whole = self.over(off, length)
        changed: list[Vma] = []
        for vma in self.vmas:
            inside = [piece for piece in cut if vma.start <= piece.start and piece.end <= vma.end]
            if not inside:
                changed.append(vma)
                continue
            piece = inside[0]
            changed += [replace(vma, end=piece.start), replace(piece, **changes), replace(vma, start=piece.end)]  # type: ignore[arg-type]
        self.vmas = []
        for vma in (vma for vma in changed if vma.start < vma.end):
            last = self.vmas[-1] if self.vmas else None
            if (
                last is not None
                and last.end == vma.start
                and replace(last, end=vma.end) == replace(vma, start=last.start)
            ):
                self.vmas[-1] = replace(last, end=vma.end)
            else:
                self.vmas.append(vma)
        return whole

    def suitable(self, vma: Vma) -> bool:
        """Whether a whole huge page fits a VMA. Kernel: thp_vma_suitable_order(), include/linux/huge_mm.h."""
        return not self.skew % HUGE and vma.end // HUGE * HUGE - HUGE >= vma.start

    def madvise_collapse(self, off: int, length: int, collapse: Callable[[int], ScanResult]) -> int:
        """Collapse what a range covers; returns the positive errno of madvise(2), or 0.

        Kernel: madvise_walk_vmas(), mm/madvise.c, and madvise_collapse(), mm/khugepaged.c.

        Args:
            off: where the range begins (bytes).
            length: how long it is (bytes).
            collapse: collapses the huge page at an offset (pages).
        """
        if (off + self.skew) % PAGE or length < 0:
            return EINVAL
        pieces, whole = self.over(off, length)
        for piece in pieces:
            vma = next(vma for vma in self.vmas if vma.start <= piece.start and piece.end <= vma.end)
            if not self.suitable(vma):
                return EINVAL
            starts = list(self._ranges(piece))
            done, failed = 0, ScanResult.FAIL
            for start in starts:
                result = collapse(start // PAGE)
                if result.succeeded:
                    done += 1
                    continue
                failed = result
                if result not in _GO_ON:
                    break
            if done != piece.end // HUGE - -(-piece.start // HUGE):
                return failed.errno
        return 0 if whole else ENOMEM

    @staticmethod
    def _ranges(piece: Vma) -> Iterator[int]:
        yield from range(-(-piece.start // HUGE) * HUGE, piece.end // HUGE * HUGE, HUGE)
