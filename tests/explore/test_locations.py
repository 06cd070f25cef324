# SPDX-License-Identifier: GPL-2.0-only
"""Locations keep their ids whatever the schedule is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mmref.explore import Cell, NondeterministicProgram, explore
from mmref.explore.locations import READ, Location, point, reserve

Thread = Callable[[], object]


def test_ids_do_not_depend_on_the_schedule() -> None:
    """Each CPU counts what it creates, so the order of the CPUs makes no difference."""
    seen: set[tuple[int, ...]] = set()

    def program() -> Sequence[Thread]:
        x = Cell(0)

        def thread() -> int:
            x.fetch_add(1)
            return Location().id

        return [thread, thread, lambda: x.id]

    explore(program, on_execution=lambda done: seen.add(tuple(done.results)))  # type: ignore[arg-type]
    assert len(seen) == 1
    assert len(set(seen.pop())) == 3


def lazy(place: Callable[[], int | None]) -> Callable[[], Sequence[Thread]]:
    """Threads that create the location of a slot when they first need it."""

    def program() -> Sequence[Thread]:
        x, y = Cell(0, "x"), Cell(0, "y")
        found: list[Location] = []
        id = place()

        def access() -> None:
            if not found:
                found.append(Location("slot", id))
            point(found[0], READ)

        return [lambda: (x.load(), access()), lambda: (y.load(), access()), lambda: x.store(1)]

    return program


@pytest.mark.parametrize("engine", ["source", "optimal"])
def test_reserved_ids(engine: str) -> None:
    report = explore(lazy(lambda: reserve(2)[1]), engine=engine)
    assert (report.executions, report.blocked, report.exhaustive) == (2, 0, True)


def test_ids_that_depend_on_the_schedule_are_noticed() -> None:
    with pytest.raises(NondeterministicProgram, match=r"must have an id from reserve\(\)"):
        explore(lazy(lambda: None), engine="optimal")


def test_default_names_tell_who_created_a_location() -> None:
    names: list[str] = []

    def program() -> Sequence[Thread]:
        x = Cell(0)
        return [lambda: (x.load(), names.append(Cell(0).name)), lambda: names.append(x.name)]

    explore(program)
    assert set(names) == {"cell 0 of CPU 0", "cell 0"}
