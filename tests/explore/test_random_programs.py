# SPDX-License-Identifier: GPL-2.0-only
"""On random small programs, the outcomes and the number of traces equal those of brute force."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from mmref.explore.dpor import SourceDpor
from mmref.explore.explorer import Engine
from mmref.explore.optimal import OptimalDpor

from .random_programs import ThreadCode, brute_force, generate, outcomes

CHUNKS = 20
PER_CHUNK = 25


@cache
def oracle(seed: int) -> tuple[list[ThreadCode], int, set]:
    threads = generate(seed, locks=seed % 2 == 1, waits=seed % 5 == 0)
    return threads, *brute_force(threads)


@pytest.mark.parametrize("engine", [SourceDpor, OptimalDpor], ids=lambda engine: engine.name)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_equals_brute_force(chunk: int, engine: Callable[[], Engine]) -> None:
    for seed in range(chunk * PER_CHUNK, (chunk + 1) * PER_CHUNK):
        threads, traces, expected = oracle(seed)
        complete, blocked, seen = outcomes(threads, engine())
        assert (complete, seen) == (traces, expected), f"seed {seed}: {threads}"
        assert not blocked or engine is SourceDpor, f"seed {seed}: {threads}"


# Programs on which an earlier version was wrong, each with its number of traces.
HARD_CASES: dict[str, tuple[list[ThreadCode], int]] = {
    "a waiting CPU is not asleep: its races count even where all others sleep": (
        [
            [("trylock", 0, []), ("keep", 0)],
            [("lock", 0, [("put_register", 0)])],
            [("trylock", 0, []), ("wait", 0)],
        ],
        74,
    ),
    "an acquire that never succeeds races with that of the holder": (
        [[("keep", 1), ("lock", 1, [])], [("load", 2), ("keep", 0)], [("write_lock", []), ("keep", 0)]],
        2,
    ),
    "either of two independent writes ends a wait": (
        [[("wait_either", 0, 1)], [("store", 0, 1)], [("store", 1, 1)]],
        5,
    ),
    "a compare-and-exchange that fails is a read, but might have been a write": (
        [[("put_register", 1)], [("cas", 1, 1, 2)], [("load", 1)], [("load", 1)]],
        8,
    ),
    "before a release a lock is never free": (
        [[("trylock", 1, []), ("keep", 1)], [("trylock", 0, []), ("keep", 1)]],
        3,
    ),
    "a wait that nothing else would end cannot go first": (
        [[("wait_either", 0, 1)], [("load", 0), ("cas", 0, 0, 2)], [("try_get",)]],
        2,
    ),
    "an increment that nobody sees does not end a wait": (
        [[("try_get",)], [("get",), ("wait_either", 0, 1)]],
        1,
    ),
}


@pytest.mark.parametrize("engine", [SourceDpor, OptimalDpor], ids=lambda engine: engine.name)
@pytest.mark.parametrize("case", HARD_CASES)
def test_hard_case(case: str, engine: Callable[[], Engine]) -> None:
    threads, expected = HARD_CASES[case]
    traces, seen = brute_force(threads)
    complete, blocked, found = outcomes(threads, engine())
    assert (complete, found) == (traces, seen)
    assert complete == expected
    assert not blocked or engine is SourceDpor
