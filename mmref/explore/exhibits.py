# SPDX-License-Identifier: GPL-2.0-only
"""Which scenario catches which exhibit of the museum: does the explorer see the bugs that history had?

Each exhibit of `mmref.khugepaged.museum` is a strategy with one step changed. Here stands the scenario in which that is
seen, and by which invariant; the strategy that was changed passes the same scenario. `mmref museum` judges all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from mmref.errors import UsageError
from mmref.explore.catalogue import scenario_from_spec
from mmref.explore.explorer import explore
from mmref.explore.report import Report
from mmref.khugepaged import CollapseStrategy
from mmref.khugepaged.museum import MUSEUM, Exhibit

__all__ = ["CASES", "Case", "MuseumRow", "base_of", "exhibit", "judge", "museum_page", "museum_row",
           "museum_table"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Where an exhibit is caught.

    Attributes:
        scenario: the name of the scenario.
        invariant: what the exhibit violates there: an id of docs/invariants.md, or the kind of finding.
        parameters: the shape of the scenario, as in a schedule string: ``layout=D.,ask=1``.
        memory: the memory model under which it is caught.
    """

    scenario: str
    invariant: str
    parameters: str = ""
    memory: str = "sc"

    def text(self) -> str:
        """Say which scenario, in which shape."""
        under = "" if self.memory == "sc" else f" under {self.memory.upper()}"
        return f"{self.scenario} {self.parameters}".rstrip() + under

    def explore(self, strategy: type[CollapseStrategy], max_seconds: float | None) -> Report:
        """Explore the scenario under a strategy."""
        scenario, chosen = scenario_from_spec(f"{self.scenario}/{strategy.name}/{self.parameters}")
        return explore(scenario, chosen, memory=self.memory, max_seconds=max_seconds)


CASES: dict[str, Case] = {
    # publishing
    "uptodate-after-insert": Case("seek-data", "A1", "layout=DD"),
    "frozen-in-cache": Case("mincore", "A8", "layout=DD"),
    "new-folio-frozen": Case("read", "A8"),
    "new-in-holes": Case("pinned", "Q1"),
    # holes
    "gaps-not-cleared": Case("quiet", "A4", "layout=.D"),
    "tail-not-cleared": Case("quiet", "A4", "layout=D."),
    "no-empty-check": Case("punch-all", "A9"),
    "swap-in-allocates": Case("punch-all", "A9", "layout=sD"),
    "holes-not-recounted": Case("write-hole", "Q1"),
    # userfaultfd
    "no-userfaultfd-check": Case("uffd-tail", "A7"),
    "userfaultfd-checked-early": Case("uffd-tail", "A7"),
    "holes-not-blocked": Case("uffd-tail", "A7"),
    "userfaultfd-checked-at-start": Case("uffd-tail", "A7"),
    # accounting
    "holes-not-taken-back": Case("write-hole", "Q1"),
    "alloced-before-nrpages": Case("quiet", "Q2", "layout=D."),
    "charged-under-xa-lock": Case("quiet", "SleepInAtomic", "layout=D."),
    "holes-taken-back-twice": Case("write-hole", "Q2"),
    "thps-not-taken-back": Case("file-read", "Q4", "layout=Dx"),
    "holes-forgotten-on-copy-error": Case("read", "Q1", "layout=.x,ask=0"),
    "new-leaked": Case("no-nodes", "Q9"),
    # references
    "mapping-cleared-late": Case("write", "A6"),
    "not-put-back": Case("pinned", "Q6"),
    "no-drain": Case("quiet-swap", "L2"),
    "busy-is-invalid": Case("pinned", "A16"),
    # cursor
    "cursor-reset": Case("quiet", "L2"),
    "stale-cursor": Case("punch", "A12", "layout=DD,ask=1"),
    "stale-cursor-store": Case("punch", "A12", "layout=DD,ask=1"),
    "node-forgotten": Case("pinned", "A12"),
    # large folios
    "huge-ignored": Case("collapse", "Q3"),
    "count-of-small": Case("quiet", "L2", "layout=[DD]DD"),
    "one-page-copied": Case("quiet", "A4", "layout=[DD]DD"),
    "one-index-on": Case("quiet", "L2", "layout=[DD]DD"),
    # files
    "uptodate-not-checked": Case("file-read-error", "A4"),
    "writers-checked-first": Case("file-open", "A10"),
    "thps-counted-late": Case("file-open", "A10"),
    "writeback-ignored": Case("file-writeback-bare", "UseAfterFree"),
    "no-flush": Case("file-quiet", "L2"),
    "dirty-not-flushed": Case("file-open-later", "A3"),
    # opening
    "open-does-not-purge": Case("file-open", "A10"),
    "purge-takes-copies": Case("file-open-copied", "A15"),
    "split-keeps-count": Case("file-shrink", "Q4"),
    "shadow-not-split": Case("file-refault", "A12"),
    # barriers
    "collapse-without-fence": Case("file-open", "A10", memory="pso"),
    "collapse-without-fence-6.4": Case("file-open", "A10", memory="pso"),
    "counted-plainly": Case("file-open", "A10", memory="tso"),
    "open-without-order": Case("file-open", "A10", memory="pso"),
    "uptodate-without-barrier": Case("file-readahead", "A3", memory="pso"),
}
"""Where each exhibit is caught, by its name."""


def exhibit(name: str) -> type[Exhibit]:
    """Return an exhibit by its name, or by its id.

    Raises:
        UsageError: there is none; the message suggests the nearest.

    >>> exhibit("m32").name
    'uptodate-after-insert'
    """
    by_id = {one.mutation: one for one in _exhibits()}
    known = {one.name: one for one in _exhibits()} | by_id
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(MUSEUM)}."
        raise UsageError(f"There is no exhibit {name!r}; {hint}")
    return known[name]


def _exhibits() -> Iterator[type[Exhibit]]:
    for one in MUSEUM.values():
        assert issubclass(one, Exhibit)
        yield one


def base_of(one: type[Exhibit]) -> type[CollapseStrategy]:
    """Return the strategy that an exhibit changes.

    >>> base_of(exhibit("m32")).name
    'lock-and-insert-late'
    """
    return next(
        kind for kind in one.__mro__ if issubclass(kind, CollapseStrategy) and not issubclass(kind, Exhibit)
    )


def judge(name: str, max_seconds: float | None = None) -> tuple[Report, Report]:
    """Explore the scenario of an exhibit twice; return the reports of the exhibit and of what it changes.

    Args:
        name: the name of the exhibit, or its id.
        max_seconds: when to give up each of the two.
    """
    one = exhibit(name)
    case = CASES[one.name]
    return case.explore(one, max_seconds), case.explore(base_of(one), max_seconds)


@dataclass(frozen=True)
class MuseumRow:
    """A line of the table.

    Attributes:
        mutation: the id of the exhibit.
        name: its name.
        bug: what is wrong with it.
        scenario: where it is caught, with the shape of the scenario.
        invariant: what it violates there; empty if it was not caught.
        executions: in which execution that was seen; 0 if it was not.
        base: the strategy that it changes.
        base_executions: after how many executions that one has passed; 0 if it has not.
        fixed_by: the commit that mended it.
    """

    mutation: str
    name: str
    bug: str
    scenario: str
    invariant: str
    executions: int
    base: str
    base_executions: int
    fixed_by: str

    @property
    def caught(self) -> bool:
        """Whether it was caught as it should be."""
        return self.invariant == CASES[self.name].invariant

    @property
    def passes(self) -> bool:
        """Whether the strategy that it changes passes, in every execution."""
        return self.base_executions > 0

    def markdown(self) -> str:
        """Write the line for the documentation."""
        cells = (
            self.mutation, f"`{self.name}`", self.bug, f"`{self.scenario}`", self.invariant or "not caught",
            str(self.executions), f"{self.base}: {self.base_executions}", self.fixed_by,
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


def museum_row(name: str, max_seconds: float | None = None) -> MuseumRow:
    """Judge one exhibit, as `judge()` does; return its line of the table."""
    one = exhibit(name)
    caught, passes = judge(name, max_seconds)
    trace = caught.counterexample
    return MuseumRow(
        mutation=one.mutation,
        name=one.name,
        bug=one.summary.partition(", but ")[2],
        scenario=CASES[one.name].text(),
        invariant="" if trace is None else trace.verdict.id or trace.verdict.kind,
        executions=caught.found_in or 0,
        base=base_of(one).name,
        base_executions=passes.executions if passes.holds and passes.exhaustive else 0,
        fixed_by=one.fixed_by,
    )


def museum_table(max_seconds: float | None = None) -> list[MuseumRow]:
    """Judge all exhibits, as `judge()` does; return the lines of the table."""
    return [museum_row(name, max_seconds) for name in MUSEUM]


_PAGE = """\
# The museum

Each exhibit is a strategy of which one step is changed, such that a bug of `collapse_file()`'s history comes back. The
table says in which scenario the explorer catches it, by which invariant ([invariants](invariants.md)), and in which
execution. The strategy that is changed passes the same scenario in every interleaving; how many there are is the last
but one column. Exhibits are strategies: `mmref race seek-data --strategy uptodate-after-insert --layout DD`.

This page is made by `mmref museum --markdown docs/museum.md`, and a test holds it. `mmref museum NAME`
shows one of them.

Not here: page tables that are used after they were freed, which nobody watches (m14, m27, m39); readahead that reads
too much (m15); and two who open a file and drop its cache at once (m19), which was mended once more since, by looking
at each folio again under its lock.

| mutation | exhibit | what is wrong | scenario | invariant | caught in execution | passes, exhausted | mended by |
|---|---|---|---|---|---|---|---|
"""


def museum_page(rows: list[MuseumRow]) -> str:
    """Write the table as a page of the documentation (Markdown)."""
    return _PAGE + "".join(f"{row.markdown()}\n" for row in rows)

