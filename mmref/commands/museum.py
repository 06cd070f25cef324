# SPDX-License-Identifier: GPL-2.0-only
"""`mmref museum`: the bugs that collapse_file() had, each caught, and what was changed back passing."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mmref.commands.showing import print_found, steps_of
from mmref.errors import UsageError

if TYPE_CHECKING:
    from mmref.explore.exhibits import MuseumRow

__all__ = ["add_options", "museum"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mmref museum`."""
    parser.add_argument(
        "exhibits", nargs="*", metavar="EXHIBIT", help="show these, by name or id (default: a table of all)"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=60.0, metavar="S", help="time for each exploration (default: 60)"
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the table as a page")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def museum(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    from mmref.explore.exhibits import exhibit, museum_page, museum_row
    from mmref.khugepaged import MUSEUM

    if not options.max_seconds > 0:
        raise UsageError(f"--max-seconds {options.max_seconds:g}: give more than 0.")
    if options.exhibits and not options.json and options.markdown is None:
        return max(_show(exhibit(name).name, options.max_seconds) for name in options.exhibits)
    rows: list[MuseumRow] = []
    names = [exhibit(name).name for name in options.exhibits] or list(MUSEUM)
    try:
        for name in steps_of(names, quiet=options.json):
            rows.append(museum_row(name, options.max_seconds))
    except KeyboardInterrupt:
        print(f"mmref: interrupted after {len(rows)} of {len(names)} exhibits", file=sys.stderr)
        if options.markdown is not None:
            return 130  # a page that is not whole is not written
    if options.markdown is not None:
        Path(options.markdown).write_text(museum_page(rows), encoding="utf-8")
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    if len(rows) < len(names):
        return 130
    return 0 if all(row.caught and row.passes for row in rows) else 1


def _print_table(rows: Sequence[MuseumRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for head in ("", "exhibit", "caught in", "by", "execution", "without the bug"):
        table.add_column(head, justify="right" if head == "execution" else "left")
    for row in rows:
        table.add_row(
            row.mutation, row.name, row.scenario, row.invariant or "not caught", str(row.executions or ""),
            f"none in {row.base_executions}" if row.passes else "not passed",
        )  # fmt: skip
    Console(soft_wrap=False).print(table)
    caught, passed = sum(row.caught for row in rows), sum(row.passes for row in rows)
    print(
        f"{caught} of {len(rows)} are caught; what they change passes {passed} of the same scenarios in every execution"
    )


def _show(name: str, max_seconds: float) -> int:
    """Print one exhibit: the bug, the ladder, and that the strategy without it passes."""
    from mmref.explore.catalogue import get_scenario
    from mmref.explore.exhibits import CASES, base_of, exhibit, judge
    from mmref.view.ladder import WIDTH
    from mmref.view.rows import found_of

    one = exhibit(name)
    caught, passes = judge(name, max_seconds)
    scenario = get_scenario(CASES[one.name].scenario)
    print(f"{one.mutation}, {one.name}: {one.summary}")
    print(textwrap.fill(" ".join((one.__doc__ or "").split()), WIDTH))
    print(f"mended by: {one.fixed_by}")
    found = None if caught.counterexample is None else found_of(scenario, caught.counterexample)
    if found is None:
        print(f"{scenario.name}: {caught.verdict}")
    else:
        print_found(f"{scenario.name}, {one.name}", found)
    print(f"{base_of(one).name}, in the same scenario: {passes.verdict}\n")
    return 0 if found is not None and passes.holds else 1
