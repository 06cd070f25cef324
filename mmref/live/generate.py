# SPDX-License-Identifier: GPL-2.0-only
"""Random programs.

Everything is drawn from one seed: the same seed gives the same program on every machine.
"""

from __future__ import annotations

import random

from mmref.live.program import HUGE, HUGE_PAGES, PAGE, Op, Program

__all__ = ["WEIGHTS", "Writer", "random_program"]

WEIGHTS = {
    "madvise_collapse": 20,
    "pwrite_pages": 14,
    "punch": 12,
    "ftruncate": 8,
    "fallocate": 8,
    "map_write_pages": 8,
    "map_read_pages": 6,
    "vmsplice_pin": 6,
    "pipe_close": 6,
    "splice_file_to_pipe": 2,
    "mlock": 3,
    "munlock": 2,
    "mmap2": 4,
    "map2_read_pages": 10,
    "munmap2": 3,
    "madvise_collapse_map2": 6,
    "madvise": 3,
    "mprotect": 1,
    "pread": 1,
    "uffd_register": 1,
    "uffd_touch": 8,
}
"""How often each kind of operation is drawn, relative to the others."""


_NEEDS_SECOND = ("map2_read_pages", "munmap2", "madvise_collapse_map2")
_TOUCHES = ("map_read_pages", "map_write_pages", "vmsplice_pin", "mlock", "mprotect")


class Writer:
    """Draws operations one by one, keeping what later ones depend on: the size, what is mapped, the generation.

    Args:
        rng: where to draw from.
        huge: size of the file at the start (huge pages); None to draw 1 to 3.
    """

    def __init__(self, rng: random.Random, huge: int | None = None) -> None:
        self.rng = rng
        self.huge = huge or rng.choices((1, 2, 3), (5, 3, 2))[0]
        self.pages = self.huge * HUGE_PAGES
        self.gen = 0
        self.second = False
        self.private = False
        self.watched = 0  # which mapping a userfaultfd watches: 1, 2 or none
        self.size = self.pages * PAGE  # of the file (bytes), if everything so far was done
        self.first2 = 0  # first page of the second mapping

    def start(self) -> list[Op]:
        """Create the file, sometimes with its end inside a huge page, and map all of its huge pages."""
        size = self.pages * PAGE
        if self.rng.random() < 0.3:
            size -= self._amount(HUGE)
        self.size = size
        length = self.pages * PAGE
        if self.rng.random() < 0.05:
            length -= PAGE * self.rng.choice((1, 7, 256))
        mapping: dict[str, int | str] = {"len": length}
        self.private = self.rng.random() < 0.06
        if self.private:
            mapping["flags"] = "private"
        return [Op("memfd", {"size": size}), Op("mmap", mapping)]

    def draw(self) -> Op:
        """Draw one operation."""
        while True:
            kind = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if not self._possible(kind):
                continue
            drawn: Op = getattr(self, "_" + kind)()
            return drawn

    def _possible(self, kind: str) -> bool:
        """Whether an operation makes sense now.

        What a userfaultfd watches is only touched by `uffd_touch`: the faults that system calls take there are not
        for it, and fail.
        """
        if kind in _NEEDS_SECOND:
            return self.second and (self.watched != 2 or kind == "madvise_collapse_map2")
        if kind == "mmap2":
            return not self.second
        if kind == "uffd_register":
            return not self.watched
        if kind == "uffd_touch":
            return bool(self.watched) and bool(self._watched_pages())
        return self.watched != 1 or kind not in _TOUCHES

    # Amounts: whole ranges, ends of ranges and single pages are drawn more often than chance would -----------

    def _amount(self, most: int) -> int:
        """A number of bytes below `most`: most often whole pages."""
        pages = max(most // PAGE, 1)
        whole = self.rng.choice((1, 2, 3, 255, 256, 257, self.rng.randrange(pages))) % pages * PAGE
        return min(whole + (self.rng.choice((1, 100, 2048, 4095)) if self.rng.random() < 0.3 else 0), most - 1)

    def _page(self) -> int:
        base = self.rng.randrange(self.huge) * HUGE_PAGES
        return base + self.rng.choice((0, 1, 255, 256, 510, 511, *(self.rng.randrange(HUGE_PAGES) for _ in range(6))))

    def _pages(self) -> tuple[int, int]:
        """A run of pages: a whole huge page, a single page, or anything."""
        kind = self.rng.random()
        if kind < 0.25:
            lo = self.rng.randrange(self.huge) * HUGE_PAGES
            return lo, lo + HUGE_PAGES
        lo = self._page()
        if kind < 0.45:
            return lo, lo + 1
        hi = min(lo + self.rng.choice((2, 15, 16, 17, 64, 256, self.rng.randrange(1, 2 * HUGE_PAGES))), self.pages)
        return lo, max(hi, lo + 1)

    def _bytes(self) -> dict[str, int]:
        """A range of bytes: pages, sometimes with odd ends."""
        lo, hi = self._pages()
        off, end = lo * PAGE, hi * PAGE
        if self.rng.random() < 0.35:
            off += self.rng.choice((1, 100, 2048, 4095))
        if self.rng.random() < 0.35:
            end -= self.rng.choice((1, 100, 2048, 4095))
        return {"off": off, "len": max(end - off, 1)}

    def _huge_range(self) -> dict[str, int]:
        """What to collapse: all, some of the huge pages, or something that is not aligned."""
        kind = self.rng.random()
        if kind < 0.4:
            return {"off": 0, "len": self.pages * PAGE}
        first = self.rng.randrange(self.huge)
        if kind < 0.9:
            return {"off": first * HUGE, "len": self.rng.randint(1, self.huge - first) * HUGE}
        lo, hi = self._pages()
        return {"off": lo * PAGE, "len": (hi - lo) * PAGE}

    # Operations --------------------------------------------------------------------------------------------------

    def _pwrite_pages(self) -> Op:
        return self._writes("pwrite_pages")

    def _map_write_pages(self) -> Op:
        return self._writes("map_write_pages")

    def _writes(self, name: str) -> Op:
        lo, hi = self._pages()
        self.gen = self.gen % 250 + 1
        step: dict[str, int] = {"step": self.rng.choice((2, 3, 16))} if self.rng.random() < 0.15 else {}
        if name == "pwrite_pages":
            self.size = max(self.size, (range(lo, hi, step.get("step", 1))[-1] + 1) * PAGE)
        return Op(name, {"lo": lo, "hi": hi, "gen": self.gen, **step})

    def _map_read_pages(self) -> Op:
        lo, hi = self._pages()
        return Op("map_read_pages", {"lo": lo, "hi": hi})

    def _map2_read_pages(self) -> Op:
        lo, hi = self._pages()
        return Op("map2_read_pages", {"lo": lo, "hi": hi})

    def _madvise_collapse(self) -> Op:
        return Op("madvise_collapse", self._huge_range())

    def _madvise_collapse_map2(self) -> Op:
        return Op("madvise_collapse_map2", self._huge_range())

    def _madvise(self) -> Op:
        lo, hi = self._pages()
        advice = self.rng.choice(("MADV_DONTNEED", "MADV_REMOVE"))
        return Op("madvise", {"advice": advice, "off": lo * PAGE, "len": (hi - lo) * PAGE})

    def _fallocate(self) -> Op:
        mode, where = self.rng.choice(("0", "KEEP_SIZE")), self._bytes()
        if mode == "0":
            self.size = max(self.size, where["off"] + where["len"])
        return Op("fallocate", {"mode": mode, **where})

    def _punch(self) -> Op:
        return Op("fallocate", {"mode": "PUNCH_HOLE", **self._bytes()})

    def _ftruncate(self) -> Op:
        size = self.pages * PAGE
        if self.rng.random() < 0.65:
            size -= self._amount(size) if self.rng.random() < 0.5 else self._amount(HUGE)
        self.size = max(size, 0)
        return Op("ftruncate", {"size": self.size})

    def _vmsplice_pin(self) -> Op:
        return Op("vmsplice_pin", {"page": self._page()})

    def _splice_file_to_pipe(self) -> Op:
        return Op("splice_file_to_pipe", {"page": self._page()})

    def _pipe_close(self) -> Op:
        return Op("pipe_close", {})

    def _mlock(self) -> Op:
        if self.rng.random() < 0.5:
            return Op("mlock", {"off": 0, "len": self.pages * PAGE})
        lo, hi = self._pages()
        return Op("mlock", {"off": lo * PAGE, "len": (hi - lo) * PAGE})

    def _munlock(self) -> Op:
        return Op("munlock", {"off": 0, "len": self.pages * PAGE})

    def _mmap2(self) -> Op:
        self.second = True
        first = self.rng.randrange(self.huge)
        off = first * HUGE + (PAGE if self.rng.random() < 0.2 else 0)
        self.first2 = off // PAGE
        return Op("mmap2", {"len": self.pages * PAGE - off, "off": off})

    def _mprotect(self) -> Op:
        lo, hi = self._pages()
        prot = self.rng.choice(("r", "rw", "rw"))
        return Op("mprotect", {"off": lo * PAGE, "len": (hi - lo) * PAGE, "prot": prot})

    def _uffd_register(self) -> Op:
        self.watched = 2 if self.second and self.rng.random() < 0.5 else 1
        mode = self.rng.choice(("MISSING", "MISSING", "MINOR", "WP", "MISSING|MINOR"))
        return Op("uffd_register", {"mode": mode, "vma": self.watched})

    def _uffd_touch(self) -> Op:
        page = self.rng.choice(self._watched_pages())
        return Op("uffd_touch", {"page": page, "write": int(self.rng.random() < 0.3)})

    def _watched_pages(self) -> range:
        """Pages that can be touched: behind the end of the file that would be the end of the process."""
        return range(self.first2 if self.watched == 2 else 0, min(-(-self.size // PAGE), self.pages - 256))

    def _munmap2(self) -> Op:
        self.second = False
        return Op("munmap2", {})

    def _pread(self) -> Op:
        return Op("pread", self._bytes())


def random_program(seed: int | str, length: int | None = None) -> Program:
    """Return the random program of a seed.

    Args:
        seed: any number or text.
        length: how many operations after the first two; None to draw 3 to 14.
    """
    rng = random.Random(f"mmref live {seed}")
    writer = Writer(rng)
    steps = writer.start()
    steps += (writer.draw() for _ in range(length or rng.randint(3, 14)))
    return Program(steps)
