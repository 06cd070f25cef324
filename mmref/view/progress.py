# SPDX-License-Identifier: GPL-2.0-only
"""How far the explorations are, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from mmref.explore import Progress
from mmref.view.rows import Row

__all__ = ["Bar", "bar"]


class Bar:
    """Two lines on stderr: how many explorations are done, and how far the one under way is."""

    def __init__(self, bars: Bars, total: int, tell: bool) -> None:
        self._bars = bars
        self._tell = tell
        self._all = bars.add_task("explorations", total=total)
        self._one = bars.add_task("", total=None)
        self._what = ""

    def begin(self, number: int, what: str) -> None:
        """Show what begins."""
        self._what = what
        self._bars.update(self._all, completed=number)
        self._bars.reset(self._one, description=what, total=None)

    def update(self, progress: Progress) -> None:
        """Show how many executions there were, are known to be pending, and are estimated in all."""
        estimated = "" if progress.estimated is None else f", about {progress.estimated} in all"
        explored = progress.executions if progress.states is None else f"{progress.states} states"
        self._bars.update(
            self._one,
            description=f"{self._what}: {explored} explored, {progress.pending} pending{estimated}",
            completed=progress.executions,
            total=progress.estimated,
        )

    def end(self, number: int, row: Row) -> None:
        """Show that one has ended; a race may be a line that stays."""
        self._bars.update(self._all, completed=number + 1)
        if self._tell and not row.holds:
            self._bars.console.print(f"{row.spec}: {row.short}", highlight=False)


@contextmanager
def bar(total: int, tell: bool) -> Iterator[Bar]:
    """Show the bar while explorations run.

    Args:
        total: how many there are.
        tell: also print each race as it is found.
    """
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bar(bars, total, tell)
