# SPDX-License-Identifier: GPL-2.0-only
"""Programs of the literature on dynamic partial order reduction, with their number of Mazurkiewicz traces.

Each takes `order`, which permutes its threads: what is counted must not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmref.explore import Cell, Mutex

Thread = Callable[[], object]
Order = Callable[[list[Thread]], list[Thread]]


def as_written(threads: list[Thread]) -> list[Thread]:
    return threads


def reversed_order(threads: list[Thread]) -> list[Thread]:
    return threads[::-1]


def rotated(threads: list[Thread]) -> list[Thread]:
    middle = len(threads) // 2
    return threads[middle:] + threads[:middle]


ORDERS: tuple[Order, ...] = (as_written, reversed_order, rotated)


def readers(count: int, order: Order = as_written) -> Callable[[], Sequence[Thread]]:
    def program() -> list[Thread]:
        x = Cell(0, "x")
        return order([lambda: x.store(1)] + [x.load] * count)

    return program


def lastzero(count: int, order: Order = as_written) -> Callable[[], Sequence[Thread]]:
    def program() -> list[Thread]:
        a = [Cell(0, f"a[{i}]") for i in range(count + 1)]

        def scanner() -> int:
            i = count
            while a[i].load() != 0:
                i -= 1
            return i

        def writer(j: int) -> Thread:
            return lambda: a[j].store(a[j - 1].load() + 1)

        return order([scanner] + [writer(j) for j in range(1, count + 1)])

    return program


def indexer(count: int, order: Order = as_written) -> Callable[[], Sequence[Thread]]:
    def program() -> list[Thread]:
        table = [Cell(0, f"table[{i}]") for i in range(128)]

        def thread(number: int) -> Thread:
            def run() -> None:
                for message in range(1, 5):
                    word = 11 * message + number
                    place = 7 * word % 128
                    while not table[place].compare_exchange(0, word):
                        place = (place + 1) % 128

            return run

        return order([thread(number) for number in range(count)])

    return program


def inc(count: int, order: Order = as_written) -> Callable[[], Sequence[Thread]]:
    def program() -> list[Thread]:
        x = Cell(0, "x")
        return order([lambda: x.store(x.load() + 1)] * count)

    return program


def ainc(count: int, order: Order = as_written) -> Callable[[], Sequence[Thread]]:
    def program() -> list[Thread]:
        x = Cell(0, "x")
        return order([lambda: x.fetch_add(1)] * count)

    return program


def casw(count: int, order: Order = as_written) -> Callable[[], Sequence[Thread]]:
    def program() -> list[Thread]:
        x = Cell(0, "x")

        def thread(number: int) -> Thread:
            def run() -> None:
                x.compare_exchange(0, 1)
                x.store(number + 1)

            return run

        return order([thread(number) for number in range(count)])

    return program


def lockinc(count: int, order: Order = as_written) -> Callable[[], Sequence[Thread]]:
    def program() -> list[Thread]:
        x = Cell(0, "x")
        lock = Mutex("lock")

        def run() -> None:
            with lock:
                x.store(x.load() + 1)

        return order([run] * count)

    return program


def pc(pages: int, readers: int, order: Order = as_written, *, check: bool = True) -> Callable[[], Sequence[Thread]]:
    """A page cache: a filler, and readers that must not see a page before its data."""

    def program() -> list[Thread]:
        present = [Cell(0, f"present[{i}]") for i in range(pages)]
        data = [Cell(0, f"data[{i}]") for i in range(pages)]
        uptodate = [Cell(0, f"uptodate[{i}]") for i in range(pages)]
        lock = [Mutex(f"lock[{i}]") for i in range(pages)]

        def filler() -> None:
            for i in range(pages):
                lock[i].acquire()
                present[i].store(1)
                data[i].store(i + 1)
                uptodate[i].store(1)
                lock[i].release()

        def reader() -> None:
            for i in range(pages):
                if present[i].load():
                    if check and not uptodate[i].load():
                        lock[i].acquire()
                        lock[i].release()
                    assert data[i].load() == i + 1, f"page {i} was read before it was filled"

        return order([filler] + [reader] * readers)

    return program


# (program, argument tuple, traces)
COUNTS: list[tuple[Callable[..., Callable[[], Sequence[Thread]]], tuple[int, ...], int]] = [
    (readers, (2,), 4),
    (readers, (8,), 256),
    (lastzero, (5,), 64),
    (lastzero, (8,), 704),
    (indexer, (12,), 8),
    (indexer, (13,), 64),
    (inc, (2,), 4),
    (inc, (3,), 36),
    (inc, (4,), 576),
    (ainc, (5,), 120),
    (casw, (2,), 6),
    (casw, (3,), 66),
    (casw, (4,), 1200),
    (lockinc, (5,), 120),
    (pc, (4, 1), 81),
    (pc, (2, 2), 100),
]

# The same, for runs of more than a second.
BIG_COUNTS: list[tuple[Callable[..., Callable[[], Sequence[Thread]]], tuple[int, ...], int]] = [
    (readers, (13,), 8192),
    (lastzero, (10,), 3328),
    (indexer, (15,), 4096),
    (pc, (4, 2), 10000),
]
