# SPDX-License-Identifier: GPL-2.0-only
"""The programs of `peers.py` for frontrun (https://pypi.org/project/frontrun/), as its users would write them.

    python with_frontrun.py PROGRAM

Prints how many interleavings frontrun explored, and whether the property holds. All interleavings are asked for: no
bound on preemptions, and none on executions.
"""

import sys
import threading

import frontrun


class Registers:
    """readers(8): one thread stores x, eight load it."""

    def __init__(self):
        self.x = 0

    def write(self):
        self.x = 1

    def read(self):
        return self.x


class Zeros:
    """lastzero(n): a scanner from the right, and n writers that each copy their left neighbour, plus one."""

    def __init__(self, count):
        self.count = count
        self.cells = [0] * (count + 1)

    def scan(self):
        i = self.count
        while self.cells[i] != 0:
            i -= 1

    def writer(self, j):
        def write(state):
            state.cells[j] = state.cells[j - 1] + 1

        return write


class PageCache:
    """pc(n, 1): a filler and a reader, page after page."""

    def __init__(self, pages):
        self.present = [0] * pages
        self.data = [0] * pages
        self.uptodate = [0] * pages
        self.locks = [threading.Lock() for _ in range(pages)]
        self.wrong = False

    def fill(self):
        for i in range(len(self.present)):
            with self.locks[i]:
                self.present[i] = 1
                self.data[i] = i + 1
                self.uptodate[i] = 1

    def read(self, check=True):
        for i in range(len(self.present)):
            if self.present[i]:
                if check and not self.uptodate[i]:
                    with self.locks[i]:
                        pass
                if self.data[i] != i + 1:
                    self.wrong = True

    def read_without_check(self):
        self.read(check=False)


def readers(count):
    return {"setup": Registers, "workers": [Registers.write] + [Registers.read] * count, "invariant": lambda _: True}


def lastzero(count):
    writers = [Zeros(count).writer(j) for j in range(1, count + 1)]
    return {"setup": lambda: Zeros(count), "workers": [Zeros.scan, *writers], "invariant": lambda _: True}


def page_cache(pages, read=PageCache.read):
    return {"setup": lambda: PageCache(pages), "workers": [PageCache.fill, read], "invariant": lambda s: not s.wrong}


PROGRAMS = {
    "readers-8": lambda: readers(8),
    "lastzero-2": lambda: lastzero(2),
    "lastzero-10": lambda: lastzero(10),
    "pc-4-1": lambda: page_cache(4),
    "pc-4-1-bug": lambda: page_cache(4, PageCache.read_without_check),
}

if __name__ == "__main__":
    result = frontrun.explore(**PROGRAMS[sys.argv[1]](), preemption_bound=None, detect_io=False, reproduce_on_failure=0)
    verdict = {True: "holds", False: "counterexample", None: f"inconclusive: {result.inconclusive_reason}"}
    print(f"{result.num_explored} executions, {verdict[result.property_holds]}")
