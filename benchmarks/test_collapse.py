# SPDX-License-Identifier: GPL-2.0-only
"""Collapsing 512 resident pages (2 MiB), beside copying them page by page; and how the cost grows."""

import pytest

from mmref import Machine
from mmref.khugepaged import strategies

PAGE = 4096


def full_file(order):
    machine = Machine(order)
    file = machine.shmem_file("f", PAGE << order)
    for page in range(1 << order):
        file.write(page * PAGE, bytes((page % 251 + 1,)) * PAGE)
    machine.memory.lru.drain_all()
    return (machine, file), {}


def copy_by_slices(source, target, pages):
    for page in range(pages):
        target[page * PAGE : (page + 1) * PAGE] = source[page * PAGE : (page + 1) * PAGE]


@pytest.mark.benchmark(group="collapse 512 pages")
def test_copy_page_by_page(benchmark):
    source, target = bytearray(b"x") * (512 * PAGE), bytearray(512 * PAGE)
    benchmark.pedantic(copy_by_slices, args=(source, target, 512), rounds=40, warmup_rounds=3)
    assert target == source


@pytest.mark.benchmark(group="collapse 512 pages")
@pytest.mark.parametrize("strategy", list(strategies()))
def test_collapse(benchmark, strategy):
    benchmark.pedantic(collapse, kwargs=None, setup=lambda: with_strategy(9, strategy), rounds=20, warmup_rounds=15)


@pytest.mark.benchmark(group="collapse, by size")
@pytest.mark.parametrize("order", [6, 8, 9, 10, 12])
def test_collapse_grows_linearly(benchmark, order):
    benchmark.extra_info["pages"] = 1 << order
    benchmark.pedantic(collapse, setup=lambda: with_strategy(order, "lock-and-insert-late"), rounds=10, warmup_rounds=5)


def with_strategy(order, strategy):
    (machine, file), _ = full_file(order)
    return (machine, file, strategy), {}


def collapse(machine, file, strategy):
    assert machine.collapse(file, 0, strategy).errno == 0
