# SPDX-License-Identifier: GPL-2.0-only
"""Every exception of mmref.errors survives pickle (processes of the explorer hand them to each other)."""

from __future__ import annotations

import copy
import pickle
from errno import EBUSY

import pytest

from mmref import errors
from mmref.xarray import InvalidArgument

EXAMPLES: list[errors.MmrefError] = [
    errors.MmrefError("something"),
    errors.UsageError("order 64 does not fit: orders go from 0 to 63"),
    errors.MmrefInternalError("the lock is not held"),
    errors.XArrayError(EBUSY, "index 5 is taken"),
    InvalidArgument("RETRY is reserved"),
    errors.Finding("a page was lost"),
    errors.InvariantViolation("A1", "two copies of page 5"),
    errors.Deadlock([("CPU 0", "xa_lock"), ("CPU 1", "mmap_lock")]),
    errors.Livelock([("CPU 0", "a change")]),
    errors.UseAfterFree("folio 7", "read"),
    errors.DoubleFree("folio 7", "folio_put()", "its count is 0"),
    errors.DataRace("x", "CPU 0 writes it at a.py:1 (f)", "CPU 1 reads it at a.py:2 (g)"),
    errors.LostUpdate("x", "CPU 0 loads it", "CPU 1 changes it", "CPU 0 stores over that"),
    errors.SleepInAtomic("CPU 0", "folio_lock()", "xa_lock", "file.py:3 (f)"),
]


def test_all_are_here() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == {*errors.__all__, "InvalidArgument"}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_survives_pickle(error: errors.MmrefError) -> None:
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error), pickle.loads(pickle.dumps(copy.copy(error)))):
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert vars(back) == vars(error)
