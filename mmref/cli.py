# SPDX-License-Identifier: GPL-2.0-only
"""The command `mmref`.

Exit status: 0 nothing unexpected, 1 a race that is not on record for that strategy, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmref import __version__
from mmref.errors import MmrefError, UsageError

if TYPE_CHECKING:
    from mmref.explore import Progress, Report, Trace
    from mmref.explore.scenario import CollapseScenario
    from mmref.khugepaged import CollapseStrategy

__all__ = ["main"]

SHOWN_LAYOUT = "DD.D"
"""What the sparse file looks like that `mmref race` makes if it is given none."""

SHOWN_STRATEGIES = ("freeze-and-replace", "lock-and-insert-late")
"""What `mmref race` compares if it is not told: before the patch, and after it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except UsageError as error:
        print(f"mmref: {error}", file=sys.stderr)
        return 2
    except MmrefError as error:
        print(f"mmref: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mmref: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmref",
        description="An executable reference for how Linux turns many page-cache pages into one huge page.",
        epilog="Exit status: 0 nothing unexpected, 1 a race that is not on record, 2 bad usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"mmref {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    race = commands.add_parser(
        "race",
        help="explore scenarios under strategies, and show each race",
        description="Explore every interleaving of a collapse and somebody who looks at the same file.",
        epilog="Scenarios: seek-data, seek-hole, mincore (the default), each also as NAME-rollback, and alone.",
    )
    race.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="what to explore (default: the first three)")
    race.add_argument(
        "--strategy",
        action="append",
        metavar="NAME",
        help="a strategy to judge, also as module:Class; may be repeated (default: Linux 6.1's and 6.4's)",
    )
    where = race.add_mutually_exclusive_group()
    where.add_argument("--like", metavar="FILE", help="take data and holes from the first extents of this file")
    where.add_argument("--layout", metavar="PAGES", help="say what each page is: D data, . hole, f fallocated")
    race.add_argument("--pages", type=int, metavar="N", help="size of the huge page, in pages (default: 4)")
    race.add_argument(
        "--chunk-shift", type=int, default=6, metavar="K", help="log2 of the slots of a tree node, 1 to 6 (default: 6)"
    )
    race.add_argument("--json", action="store_true", help="print everything as JSON")
    race.set_defaults(run=_race)

    strategies = commands.add_parser("strategies", help="list the strategies")
    strategies.add_argument("--json", action="store_true", help="print the list as JSON")
    strategies.set_defaults(run=_strategies)

    replay = commands.add_parser("replay", help="run one schedule again, and show it")
    replay.add_argument("what", metavar="SCHEDULE|FILE", help="a schedule string, or a trace file")
    replay.add_argument("--save", metavar="FILE", help="write the trace to a file")
    replay.add_argument("--json", action="store_true", help="print the trace as JSON")
    replay.set_defaults(run=_replay)

    live = commands.add_parser(
        "live",
        help="hold the model against this machine's own kernel",
        description="Run random programs on the kernel that runs here and on the model of it, and compare.",
    )
    live.add_argument("--programs", type=int, default=200, metavar="N", help="how many (default: 200)")
    live.add_argument("--seed", type=int, default=0, metavar="S", help="what they are drawn from (default: 0)")
    live.add_argument("--json", action="store_true", help="print everything as JSON")
    live.set_defaults(run=_live)
    return parser


# mmref race ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One scenario explored under one strategy."""

    scenario: CollapseScenario
    strategy: CollapseStrategy
    report: Report

    @property
    def known(self) -> str:
        """Where a race of this strategy in this scenario is on record; empty if it is not."""
        return self.strategy.known_races.get(self.scenario.name.removesuffix("-rollback"), "")

    @property
    def unexpected(self) -> bool:
        """Whether there is a race that is not on record."""
        return not self.report.holds and not self.known

    def as_json(self) -> dict[str, object]:
        """Return everything about it as plain data."""
        from mmref.view import ladder

        report, trace = self.report, self.report.counterexample
        found: dict[str, object] = {
            "scenario": self.scenario.name,
            "strategy": self.strategy.name,
            "layout": self.scenario.layout,
            "chunk_shift": self.scenario.chunk_shift,
            "verdict": report.verdict,
            "holds": report.holds,
            "known": self.known,
            "executions": report.executions,
            "blocked": report.blocked,
            "exhaustive": report.exhaustive,
            "found_in": report.found_in,
            "seconds": round(report.seconds, 4),
        }
        if trace is not None:
            found |= {
                "invariant": trace.verdict.id,
                "detail": trace.verdict.detail,
                "consequence": self.scenario.consequence,
                "schedule": str(trace.schedule),
                "ladder": ladder(trace),
            }
        return found


def _race(options: argparse.Namespace) -> int:
    from mmref.khugepaged import get_strategy

    judged = [get_strategy(name) for name in options.strategy or SHOWN_STRATEGIES]
    chosen, origin = _chosen_scenarios(options)
    if not options.json:
        print(origin)
        print(f"huge page: {chosen[0].geometry}\n")
    cells: list[Cell] = []
    interrupted = False
    try:
        for scenario in chosen:
            for strategy in judged:
                cells.append(Cell(scenario, strategy, _explore(scenario, strategy, quiet=options.json)))
    except KeyboardInterrupt:
        interrupted = True  # what is explored is shown all the same
    if options.json:
        print(json.dumps([cell.as_json() for cell in cells], indent=2))
    else:
        _print_table(cells, judged)
        for cell in cells:
            if cell.report.counterexample is not None:
                _print_race(cell.scenario, cell.report.counterexample)
    if interrupted:
        total = len(chosen) * len(judged)
        print(f"mmref: interrupted after {len(cells)} of {total} explorations", file=sys.stderr)
        return 130
    return 1 if any(cell.unexpected for cell in cells) else 0


def _chosen_scenarios(options: argparse.Namespace) -> tuple[list[CollapseScenario], str]:
    """Return the scenarios in the shape that was asked for, and a line about where that shape comes from."""
    from mmref.explore.catalogue import get_scenario
    from mmref.live import layout_like, sparse_file

    pages = options.pages
    if pages is not None and (pages < 2 or pages & (pages - 1)):
        raise UsageError(f"--pages {pages}: a huge page has a power of two of pages, from 2 on.")
    if options.layout is not None:
        layout = options.layout
        if pages is not None and pages != len(layout):
            raise UsageError(f"--pages {pages} does not fit --layout {layout}, which has {len(layout)}; leave one out.")
        origin = f"layout as given: {layout}"
    elif options.like is not None:
        layout = layout_like(options.like, pages or 4)
        origin = f"layout of {options.like}: {layout}"
    else:
        wanted = (SHOWN_LAYOUT * (pages or 4))[: pages or 4]
        with tempfile.TemporaryDirectory(prefix="mmref-") as folder:
            path = Path(folder) / "sparse"
            sparse_file(path, wanted)
            layout = layout_like(path, len(wanted))
        origin = f"a sparse file, as lseek(SEEK_DATA) and lseek(SEEK_HOLE) show it here: {layout}"
        if layout != wanted:
            origin += f"\n(it was written as {wanted}; this filesystem does not report its holes)"
    names = options.scenarios or ["seek-data", "seek-hole", "mincore"]
    shape = {"layout": layout, "chunk_shift": options.chunk_shift}
    return [replace(get_scenario(name), **shape) for name in names], f"{origin}   (D data, . hole)"


def _explore(scenario: CollapseScenario, strategy: CollapseStrategy, quiet: bool) -> Report:
    from mmref.explore import explore

    with _progress(f"{scenario.name} under {strategy.name}", quiet) as update:
        return explore(scenario, strategy, progress=update)


def _progress(title: str, quiet: bool) -> AbstractContextManager[Callable[[Progress], None] | None]:
    """Show how far an exploration is, if there is somebody to see it."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    from mmref.view.progress import spinner

    return spinner(title)


def _print_table(cells: list[Cell], judged: list[CollapseStrategy]) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmref.khugepaged.records import RECORDS

    table = Table(title="Is there an interleaving that goes wrong?", title_justify="left")
    table.add_column("scenario", no_wrap=True)
    for strategy in judged:
        table.add_column(strategy.name)
    rows: dict[str, list[str]] = {}
    for cell in cells:
        verdict = cell.report.verdict + (f"\n(known: {cell.known})" if not cell.report.holds and cell.known else "")
        rows.setdefault(cell.scenario.name, []).append(verdict)
    for name, verdicts in rows.items():
        table.add_row(name, *verdicts)
    Console(soft_wrap=False).print(table)
    seconds = sum(cell.report.seconds for cell in cells)
    executions = sum(cell.report.executions + cell.report.blocked for cell in cells)
    print(f"explored {executions} executions in {seconds:.2f} s")
    for known in dict.fromkeys(cell.known for cell in cells if not cell.report.holds and cell.known):
        print(f"{known}: {RECORDS.get(known, 'as the strategy says')}")


def _print_race(scenario: CollapseScenario, trace: Trace) -> None:
    from mmref.view import headline, ladder
    from mmref.view.ladder import WIDTH

    print(f"\n{scenario.name}, {trace.spec.split('/')[1]}: {headline(trace)} breaks {trace.verdict.id}\n")
    print(ladder(trace))
    print("\n" + textwrap.fill(scenario.consequence, WIDTH))
    print(f"schedule: {trace.schedule}")
    print(f"replay:   {_command()} replay '{trace.schedule}'")


def _command() -> str:
    """Return what to type to run this command again: `make race` installs it where no PATH leads."""
    called = sys.argv[0]
    if shutil.which("mmref") is None and Path(called).name == "mmref":
        return os.path.relpath(called)
    return "mmref"


# mmref strategies, mmref replay ------------------------------------------------------------------------------


def _strategies(options: argparse.Namespace) -> int:
    from mmref.khugepaged import MUSEUM, strategies

    groups = {"strategies": strategies(), "museum": MUSEUM}
    if options.json:
        print(
            json.dumps(
                {
                    group: [{"name": one.name, "kernel": one.kernel, "summary": one.summary} for one in found.values()]
                    for group, found in groups.items()
                },
                indent=2,
            )
        )
        return 0
    for group, found in groups.items():
        print(f"{group}:")
        for one in found.values():
            print(f"  {one.name}\n      {one.kernel}\n      {one.summary}")
    return 0


def _replay(options: argparse.Namespace) -> int:
    from mmref.explore import replay
    from mmref.explore.catalogue import scenario_from_spec
    from mmref.view import headline, ladder

    what = options.what
    trace = replay(Path(what) if Path(what).is_file() else what)
    scenario, strategy = scenario_from_spec(trace.spec)
    if options.save is not None:
        try:
            trace.save(options.save)
        except OSError as error:
            raise UsageError(f"{options.save!r} cannot be written: {error.strerror}.") from None
    if options.json:
        print(trace.to_json(indent=2))
    elif trace.verdict.holds:
        print(f"{headline(trace)}: {len(trace.events)} steps, nothing goes wrong\n")
        print(ladder(trace))
    else:
        _print_race(scenario, trace)
    known = strategy.known_races.get(scenario.name.removesuffix("-rollback"), "")
    return 0 if trace.verdict.holds or known else 1


# mmref live ------------------------------------------------------------------------------------------------


def _live(options: argparse.Namespace) -> int:
    from mmref.live.command import live

    return live(options.programs, options.seed, options.json)


if __name__ == "__main__":
    sys.exit(main())
