# SPDX-License-Identifier: GPL-2.0-only
"""Exploring: the scenarios of `mmref race`, and programs of the literature."""

from dataclasses import replace

import pytest

from mmref.explore import Cell, explore, get_scenario


@pytest.mark.benchmark(group="explore a scenario")
@pytest.mark.parametrize("strategy", ["freeze-and-replace", "lock-and-insert-late"])
@pytest.mark.parametrize(("name", "layout", "chunk_shift"), [("seek-data", "DDDD", 6), ("seek-data", "DDDDDDDD", 2)])
def test_seek_data(benchmark, name, layout, chunk_shift, strategy):
    scenario = replace(get_scenario(name), layout=layout, chunk_shift=chunk_shift)
    report = benchmark(explore, scenario, strategy)
    assert report.holds is (strategy == "lock-and-insert-late")


@pytest.mark.benchmark(group="explore a scenario")
def test_mincore_exhausted(benchmark):
    report = benchmark.pedantic(explore, args=(get_scenario("mincore"), "lock-and-insert-late"), rounds=5)
    assert report.exhaustive


@pytest.mark.benchmark(group="explore a program")
def test_readers_8(benchmark):
    def program():
        x = Cell(0)
        return [lambda: x.store(1)] + [x.load] * 8

    assert benchmark(explore, program).executions == 256
