# SPDX-License-Identifier: GPL-2.0-only
"""The programs of `peers.py` for mmref.

    python with_mmref.py PROGRAM

Prints how many executions or states there were, and the verdict.
"""

import sys

from mmref.explore import Cell, Mutex, explore


def readers(count):
    """One thread stores x, the others load it."""

    def program():
        x = Cell(0)
        return [lambda: x.store(1)] + [x.load] * count

    return program


def lastzero(count):
    """A scanner from the right, and writers that each copy their left neighbour, plus one."""

    def program():
        cells = [Cell(0) for _ in range(count + 1)]

        def scan():
            i = count
            while cells[i].load() != 0:
                i -= 1

        def writer(j):
            return lambda: cells[j].store(cells[j - 1].load() + 1)

        return [scan] + [writer(j) for j in range(1, count + 1)]

    return program


def indexer(count):
    """Threads that each put four words into one hash table."""

    def program():
        table = [Cell(0) for _ in range(128)]

        def thread(number):
            def insert():
                for message in range(1, 5):
                    word = 11 * message + number
                    place = 7 * word % 128
                    while not table[place].compare_exchange(0, word):
                        place = (place + 1) % 128

            return insert

        return [thread(number) for number in range(count)]

    return program


def page_cache(pages, readers, check=True):
    """A filler, and readers that must not see a page before its data."""

    def program():
        present = [Cell(0) for _ in range(pages)]
        data = [Cell(0) for _ in range(pages)]
        uptodate = [Cell(0) for _ in range(pages)]
        locks = [Mutex() for _ in range(pages)]

        def fill():
            for i in range(pages):
                with locks[i]:
                    present[i].store(1)
                    data[i].store(i + 1)
                    uptodate[i].store(1)

        def read():
            for i in range(pages):
                if present[i].load():
                    if check and not uptodate[i].load():
                        with locks[i]:
                            pass
                    assert data[i].load() == i + 1

        return [fill] + [read] * readers

    return program


PROGRAMS = {
    "readers-8": lambda: explore(readers(8)),
    "readers-13": lambda: explore(readers(13)),
    "lastzero-2": lambda: explore(lastzero(2)),
    "lastzero-10": lambda: explore(lastzero(10)),
    "indexer-12": lambda: explore(indexer(12)),
    "indexer-15": lambda: explore(indexer(15)),
    "pc-4-1-bug": lambda: explore(page_cache(4, 1, check=False)),
    "pc-4-1": lambda: explore(page_cache(4, 1)),
    "pc-8-2": lambda: explore(page_cache(8, 2), engine="states"),
}

if __name__ == "__main__":
    report = PROGRAMS[sys.argv[1]]()
    count = f"{report.executions} executions" if report.states is None else f"{report.states} states"
    print(f"{count}, {'holds' if report.holds else 'counterexample'}")
    if report.holds and not report.exhaustive:
        sys.exit(f"not exhausted: {report.reason}")
