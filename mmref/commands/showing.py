# SPDX-License-Identifier: GPL-2.0-only
"""What the commands print: tables, findings, and how far an exploration is."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mmref.explore import Progress
    from mmref.view.rows import Found, Row

__all__ = ["Watcher", "command", "print_found", "print_table", "progress_of", "steps_of"]


def command(arguments: Sequence[str]) -> str:
    """Return what to type to run this command again: `make race` installs it where no PATH leads."""
    called, name = sys.argv[0], "mmref"
    if shutil.which("mmref") is None and Path(called).name == "mmref":
        name = os.path.relpath(called)
    return " ".join([name, *(shlex.quote(one) for one in arguments)])


def print_table(rows: Sequence[Row], compact: bool = False) -> None:
    """Print scenario by strategy.

    Args:
        rows: what was explored.
        compact: few words per cell, for many lines.
    """
    from rich.console import Console
    from rich.table import Table

    from mmref.khugepaged.records import RECORDS
    from mmref.view.matrix import by_shape, circles, strategies_of

    columns = strategies_of(rows)
    table = Table(title="Is there an interleaving that goes wrong?", title_justify="left")
    table.add_column("scenario", no_wrap=not compact)
    for strategy in columns:
        table.add_column(strategy)
    for (name, shape), line in by_shape(rows).items():
        table.add_row(
            f"{name} {shape}" if compact else name,
            *(_cell(line[one], compact) if one in line else "" for one in columns),
        )
    Console(soft_wrap=False).print(table)
    seconds = sum(row.seconds for row in rows)
    executions = sum(row.executions + row.blocked for row in rows)
    print(f"explored {executions} executions in {seconds:.2f} s")
    for known in dict.fromkeys(row.known for row in rows if row.known):
        print(f"{known}: {RECORDS[known].text if known in RECORDS else 'as the strategy says'}")
    for steps in circles(rows):
        print("locks are taken in a circle:", *steps, sep="\n  ")


def _cell(row: Row, compact: bool) -> str:
    if compact:
        return row.short
    return row.verdict + (f"\n(known: {row.known})" if row.known else "")


def print_found(title: str, found: Found) -> None:
    """Print a race: the ladder, what it means, what matters, and how to see it again."""
    from mmref.view.ladder import WIDTH

    what = f"breaks {found.invariant}" if found.invariant else f"ends in a {found.kind}"
    print(f"\n{title}: {found.headline} {what}\n")
    print(found.ladder)
    print("\n" + textwrap.fill(found.consequence, WIDTH))
    if found.pair:
        print("what matters is the order of two accesses:", *found.pair, sep="\n  ")
    print(f"schedule: {found.schedule}")
    print(f"replay:   {command(['replay'])} '{found.schedule}'")


class Watcher(Protocol):
    """Is told how far it is."""

    def begin(self, number: int, what: str) -> None:
        """Take note that an exploration begins."""

    def update(self, progress: Progress) -> None:
        """Take note of how far it is."""

    def end(self, number: int, row: Row) -> None:
        """Take note of what came of it."""


class _Nobody:
    """Nobody is watching."""

    def begin(self, number: int, what: str) -> None:
        pass

    def update(self, progress: Progress) -> None:
        pass

    def end(self, number: int, row: Row) -> None:
        pass


class _Lines:
    """A line for each exploration that has ended: for a log, where many are asked for."""

    def __init__(self, total: int) -> None:
        self.total = total

    def begin(self, number: int, what: str) -> None:
        pass

    def update(self, progress: Progress) -> None:
        pass

    def end(self, number: int, row: Row) -> None:
        print(f"[{number + 1}/{self.total}] {row.spec}: {row.short} ({row.seconds:.1f} s)", file=sys.stderr, flush=True)


_MANY = 12
"""From so many explorations on there is a line for each (on a terminal, for each race) as it ends."""


@contextmanager
def progress_of(total: int) -> Iterator[Watcher]:
    """Show how far the explorations are, if there is somebody to see it."""
    if sys.stderr.isatty():
        from mmref.view.progress import bar

        with bar(total, tell=total >= _MANY) as watcher:
            yield watcher
    elif total >= _MANY:
        yield _Lines(total)
    else:
        yield _Nobody()


def steps_of(names: Sequence[str], quiet: bool) -> Iterator[str]:
    """Pass names on one by one, and show how far it is, if there is somebody to see it."""
    if quiet or not sys.stderr.isatty():
        yield from names
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(names, "explored", console=Console(stderr=True), transient=True)
