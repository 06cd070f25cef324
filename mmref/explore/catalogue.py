# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios: a collapse on one CPU, somebody else on another, and what must hold.

Conventions in this file: a *layout* says what each page of the range is at the start, one letter per page:
``D`` data, ``.`` hole, ``f`` allocated by fallocate but unwritten. Pages count from 0; the file is exactly the
range that is collapsed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property

from mmref.errors import UsageError
from mmref.explore.program import Execution
from mmref.explore.twins import TRACED
from mmref.explore.watched import (
    check_always,
    check_at_rest,
    check_hidden_data,
    check_hole,
    check_resident,
    check_seek,
)
from mmref.khugepaged import CollapseResult, CollapseStrategy, collapse_file, get_strategy
from mmref.machine import DEFAULT_STRATEGY, File, Machine

__all__ = ["CollapseScenario", "get_scenario", "scenario_from_spec", "scenarios"]

Strategy = str | CollapseStrategy | type[CollapseStrategy]
Looker = Callable[["CollapseScenario", File], object]


@dataclass(frozen=True)
class CollapseScenario:
    """A collapse of one huge page, against somebody who looks at the file.

    Attributes:
        name: what to call it.
        summary: one line for lists.
        consequence: what a race means to a user, in one sentence.
        other: the name of the second CPU; empty if the collapse is alone.
        look: what the second CPU does; raises `InvariantViolation` if it sees what it must not see.
        layout: the pages, see the top of this file; their number is that of the huge page.
        chunk_shift: log2 of the slots of an XArray node.
        ask: the page that the second CPU asks about first; if None, the first data page.
        in_hole: if `ask` is None, the first page of a hole with data behind it instead.
        pinned: somebody holds a reference to the last page, so the collapse fails late and rolls back.
        hidden_data: also watch A5, which holds for no state in which a reader could be misled.
    """

    name: str
    summary: str
    consequence: str
    other: str
    look: Looker = field(repr=False)
    layout: str = "DDDD"
    chunk_shift: int = 6
    ask: int | None = None
    in_hole: bool = False
    pinned: bool = False
    hidden_data: bool = False

    def __post_init__(self) -> None:
        pages = len(self.layout)
        if pages < 2 or pages & (pages - 1):
            raise UsageError(f"A huge page of {pages} pages: give a power of two from 2 on.")
        if pages > 512:
            raise UsageError(f"{pages} pages are too many to explore; give at most 512.")
        if set(self.layout) - set("D.f"):
            raise UsageError(f"Layout {self.layout!r}: give one letter per page: D data, . hole, f fallocated.")
        if "D" not in self.layout:
            raise UsageError(f"Layout {self.layout!r} has no data, so none can get lost; give at least one D.")
        if self.ask is not None and not 0 <= self.ask < pages:
            raise UsageError(f"There is no page {self.ask} to ask about; give 0 to {pages - 1}.")
        if not 1 <= self.chunk_shift <= 6:
            raise UsageError(f"chunk_shift {self.chunk_shift}: a node has 2**1 to 2**6 slots; give 1 to 6.")
        _ = self.at  # refuses a layout that has no such page

    @cached_property
    def data(self) -> frozenset[int]:
        """The pages that hold data."""
        return frozenset(page for page, kind in enumerate(self.layout) if kind == "D")

    @property
    def at(self) -> int:
        """The page that the second CPU asks about first."""
        if self.ask is not None:
            return self.ask
        if not self.in_hole:
            return min(self.data)
        at = next((page for page in range(max(self.data)) if page not in self.data), None)
        if at is None:
            raise UsageError(f"Layout {self.layout!r} has no hole with data behind it to ask in.")
        return at

    @property
    def geometry(self) -> str:
        """Where the huge entry lies in the tree, for reports."""
        order, shift = len(self.layout).bit_length() - 1, self.chunk_shift
        level, rest = divmod(order, shift)
        slots = 1 << rest
        where = "a leaf" if level == 0 else "a node above the leaves"
        return f"order {order}, chunk_shift {shift}: {slots} slot{'s' * (slots > 1)} of {where}"

    def spec(self, strategy: object | None = None) -> str:
        """Return the text from which `scenario_from_spec()` builds the same scenario and strategy again."""
        parameters = f"layout={self.layout},chunk_shift={self.chunk_shift}"
        if self.ask is not None:
            parameters += f",ask={self.ask}"
        return f"{self.name}/{strategy_text(strategy)}/{parameters}"

    def build(self, strategy: object | None = None) -> Execution:
        """Set a machine up with the file, and return the CPUs."""
        chosen = as_strategy(strategy)
        machine = Machine(len(self.layout).bit_length() - 1, self.chunk_shift, parts=TRACED)
        file = machine.shmem_file("file", len(self.layout) * machine.page_size)
        content = fill(file, self.layout)
        unpin = file.pin(max(self.data)) if self.pinned else None
        data = self.data

        def collapse() -> CollapseResult:
            return collapse_file(file.mapping, 0, chosen)

        def other() -> object:
            return self.look(self, file)

        def on_step() -> None:
            check_always(file, alone=not self.other)
            if self.hidden_data:
                check_hidden_data(file, data)

        def at_rest() -> None:
            if unpin is not None:
                unpin()
            check_at_rest(file, content)

        if not self.other:
            return Execution([collapse], ["khugepaged"], on_step, at_rest)
        return Execution([collapse, other], ["khugepaged", self.other], on_step, at_rest)


def fill(file: File, layout: str) -> dict[int, bytes]:
    """Write a layout into an empty file; return the content of each page that must keep it."""
    size = file.machine.page_size
    content: dict[int, bytes] = {}
    for page, kind in enumerate(layout):
        if kind == "D":
            content[page] = bytes((page % 251 + 1,)) * size
            file.write(page * size, content[page])
        elif kind == "f":
            file.fallocate(page * size, size)
    file.machine.memory.lru.drain_all()
    return content


# What the second CPU does ----------------------------------------------------------------------------------


def look_for_data(scenario: CollapseScenario, file: File) -> int | None:
    """Ask SEEK_DATA once, and hold the answer against A1."""
    size = file.machine.page_size
    try:
        found = file.seek_data(scenario.at * size) // size
    except OSError:
        found = None
    check_seek(scenario.at, found, scenario.data)
    return found


def look_for_hole(scenario: CollapseScenario, file: File) -> int:
    """Ask SEEK_HOLE once, and hold the answer against A1."""
    size = file.machine.page_size
    found = file.seek_hole(scenario.at * size) // size
    check_hole(scenario.at, found, scenario.data)
    return found


def ask_mincore(scenario: CollapseScenario, file: File) -> list[bool]:
    """Ask mincore() about the whole file, and hold the answer against A2."""
    resident = file.mincore()
    check_resident(0, resident, scenario.data)
    return resident


def nothing(scenario: CollapseScenario, file: File) -> None:
    """Do not look."""


_SEEK_DATA = (
    "A program that copies only what SEEK_DATA finds (cp, tar, rsync) silently leaves these pages out of the copy."
)
_SEEK_HOLE = (
    "A program that takes the first hole for the end of an extent (cp, tar, rsync) stops copying there;"
    " what follows is lost unless it happens to ask again."
)
_MINCORE = "A program that trusts mincore() (a database choosing what to prefetch) takes resident memory for absent."

_SCENARIOS = (
    CollapseScenario(
        "seek-data", "collapse against lseek(SEEK_DATA) at a page that holds data",
        _SEEK_DATA, "lseek SEEK_DATA", look_for_data,
    ),
    CollapseScenario(
        "seek-hole", "collapse against lseek(SEEK_HOLE) at a page that holds data",
        _SEEK_HOLE, "lseek SEEK_HOLE", look_for_hole,
    ),
    CollapseScenario(
        "mincore", "collapse against mincore() over the whole range",
        _MINCORE, "mincore", ask_mincore,
    ),
)  # fmt: skip

_IN_HOLE = CollapseScenario(
    "seek-data-in-hole", "collapse against lseek(SEEK_DATA) in a hole with data behind it",
    _SEEK_DATA, "lseek SEEK_DATA", look_for_data, layout=".DDD", in_hole=True,
)  # fmt: skip


def scenarios() -> dict[str, CollapseScenario]:
    """Return the scenarios by name, each with its usual layout and geometry.

    >>> list(scenarios())[:3]
    ['seek-data', 'seek-hole', 'mincore']
    """
    found = {one.name: one for one in _SCENARIOS}
    for one in _SCENARIOS:
        late = replace(
            one, name=f"{one.name}-rollback", summary=f"{one.summary}, and the collapse fails late", pinned=True
        )
        found[late.name] = late
    alone = CollapseScenario(
        "alone", "a collapse with nobody looking: is data ever hidden (A5)?",
        "Whoever looks at that moment without taking the folio lock does not see the data.", "", nothing,
        hidden_data=True,
    )  # fmt: skip
    found[alone.name] = alone
    found[_IN_HOLE.name] = _IN_HOLE
    return found


def get_scenario(name: str) -> CollapseScenario:
    """Return a scenario by its name.

    Raises:
        UsageError: there is none of that name; the message suggests the nearest.
    """
    known = scenarios()
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise UsageError(f"There is no scenario {name!r}; {hint}")
    return known[name]


def scenario_from_spec(spec: str) -> tuple[CollapseScenario, CollapseStrategy]:
    """Build scenario and strategy again from what `CollapseScenario.spec()` gave.

    Raises:
        UsageError: the text is not of that form, or names something unknown.
    """
    parts = spec.split("/")
    if len(parts) != 3:
        raise UsageError(
            f"{spec!r} does not say what to run; it should look like seek-data/freeze-and-replace/layout=DDDD"
        )
    scenario = get_scenario(parts[0])
    strategy = get_strategy(parts[1])
    changes: dict[str, str | int] = {}
    for parameter in filter(None, parts[2].split(",")):
        key, _, value = parameter.partition("=")
        if key == "layout":
            changes[key] = value
        elif key in ("chunk_shift", "ask") and value.isdecimal():
            changes[key] = int(value)
        else:
            raise UsageError(
                f"{parameter!r} in {spec!r} is not a parameter; known are layout=..., chunk_shift=N, ask=N"
            )
    return replace(scenario, **changes), strategy  # type: ignore[arg-type]


def as_strategy(strategy: object | None) -> CollapseStrategy:
    """Return the strategy that was asked for, or the default one."""
    if strategy is None:
        return get_strategy(DEFAULT_STRATEGY)
    if isinstance(strategy, (str, CollapseStrategy, type)):
        return get_strategy(strategy)
    raise UsageError(f"{strategy!r} is not a strategy; give its name, its class or an instance.")


def strategy_text(strategy: object | None) -> str:
    """Name a strategy so that `get_strategy()` finds it again: by its name, or as ``module:Class``."""
    chosen = as_strategy(strategy)
    kind = type(chosen)
    try:
        if type(get_strategy(chosen.name)) is kind:
            return chosen.name
    except UsageError:
        pass
    return f"{kind.__module__}:{kind.__qualname__}"
