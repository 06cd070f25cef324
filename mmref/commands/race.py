# SPDX-License-Identifier: GPL-2.0-only
"""`mmref race`: explore scenarios under strategies, and show what goes wrong."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from mmref.commands.showing import command, print_found, print_table, progress_of
from mmref.commands.unfinished import Cell, Unfinished
from mmref.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from mmref.explore.scenario import CollapseScenario
    from mmref.view.rows import Row

__all__ = ["add_options", "race"]

SHOWN_LAYOUT = "DD.D"
"""What the sparse file looks like that `mmref race` makes if it is given none."""

SHOWN_SCENARIOS = ("seek-data", "seek-hole", "mincore")
"""What `mmref race` explores if it is not told."""

SHOWN_STRATEGIES = ("freeze-and-replace", "lock-and-insert-late")
"""What it compares if it is not told: before the patch, and after it."""

BOUND_OF_ALL = 3_000
"""Executions after which `mmref race --all` leaves a scenario, unless it is told otherwise."""

PREEMPTIONS_OF_ALL = 2
"""With how many preemptions `mmref race --all` looks again at what it could not exhaust."""

MANY = 12
"""From so many explorations on, a table says less of each, and the ladders are only on the page."""

FRONTIER_FILE = "mmref-race.frontier"
"""Where what was left unfinished is kept."""

INTERRUPTED = "interrupted"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mmref race`."""
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="what to explore (default: the first three)")
    parser.add_argument("--all", action="store_true", help="every scenario in all its shapes, under every strategy")
    parser.add_argument(
        "--strategy",
        action="append",
        metavar="NAME",
        help="a strategy to judge, also as module:Class; may be repeated (default: Linux 6.1's and 6.4's)",
    )
    shape = parser.add_argument_group("the file")
    where = shape.add_mutually_exclusive_group()
    where.add_argument("--like", metavar="FILE", help="take data and holes from the first extents of this file")
    where.add_argument("--layout", metavar="PAGES", help="say what each page is: D data, . hole, f fallocated ...")
    shape.add_argument("--pages", type=int, metavar="N", help="size of the huge page, in pages (default: 4)")
    shape.add_argument(
        "--chunk-shift", type=int, metavar="K", help="log2 of the slots of a tree node, 1 to 6 (default: 6)"
    )
    how = parser.add_argument_group("the search")
    how.add_argument("--engine", metavar="NAME", help="the algorithm (default: optimal)")
    how.add_argument("--memory", metavar="MODEL", help="the memory model: sc, tso or pso (default: sc)")
    how.add_argument("--jobs", type=int, default=1, metavar="N", help="share the work among N processes (default: 1)")
    how.add_argument(
        "--max-executions", type=int, metavar="N",
        help=f"leave a scenario after so many executions (default: no limit; with --all {BOUND_OF_ALL})",
    )  # fmt: skip
    how.add_argument(
        "--preemptions", type=int, metavar="K",
        help="look again at what was left like that, at all schedules with at most K preemptions (with --all: 2)",
    )  # fmt: skip
    how.add_argument("--max-seconds", type=float, metavar="S", help="leave off after so many seconds in all")
    how.add_argument("--resume", metavar="FILE", help=f"go on where an earlier run has left off ({FRONTIER_FILE})")
    out = parser.add_argument_group("the result")
    out.add_argument("--markdown", metavar="FILE", help="write a page with the table and all ladders")
    out.add_argument(
        "--tests", metavar="FILE", help="write a pytest test for each race: it fails as long as that happens"
    )
    out.add_argument("--json", action="store_true", help="print everything as JSON")


def race(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    todo, origin = _resumed(options) if options.resume is not None else _asked_for(options)
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: give 1 or more.")
    if options.preemptions is not None and (options.preemptions < 0 or (options.memory or "sc") != "sc"):
        raise UsageError(f"--preemptions {options.preemptions}: give 0 or more, and leave --memory out.")
    for option in ("markdown", "tests"):
        path = getattr(options, option)
        if path is not None and not Path(path).parent.is_dir():
            raise UsageError(f"--{option} {path}: there is no folder {Path(path).parent}.")
    if not options.json and origin:
        print(origin + "\n")
    with _workers(options.jobs) as executor:
        why = _explore(todo, options, executor) or _look_again(todo, executor)
    rows = [cell.row for cell in todo.cells if cell.row is not None]
    _show(rows, options)
    keep = why or (options.max_executions and any(cell.frontier for cell in todo.cells))
    if keep:
        _keep(todo, options, why)
    elif options.resume is not None:
        Path(options.resume).unlink(missing_ok=True)  # nothing is left of it
    if why == INTERRUPTED:
        return 130
    return 1 if any(row.unexpected for row in rows) else 0


# What to explore -------------------------------------------------------------------------------------------


def _asked_for(options: argparse.Namespace) -> tuple[Unfinished, str]:
    """Return the explorations that the options ask for, and a line about the file."""
    from mmref.khugepaged import get_strategy, strategies

    if options.all:
        if options.scenarios or options.like or options.layout or options.pages:
            raise UsageError("--all explores every scenario in its own shapes: leave scenarios and shapes out.")
        from mmref.explore.catalogue import variants

        chosen = [shape for shapes in variants().values() for shape in shapes]
        if options.chunk_shift is not None:
            chosen = [shape for shape in chosen if shape.chunk_shift == options.chunk_shift]
        names, origin = options.strategy or list(strategies()), ""
        bound = options.max_executions or BOUND_OF_ALL
    else:
        chosen, origin = _chosen_scenarios(options)
        names = options.strategy or list(SHOWN_STRATEGIES)
        bound = options.max_executions
    judged = [get_strategy(name) for name in names]
    cells = [
        Cell(scenario.spec(strategy)) for scenario in chosen for strategy in judged
        if not options.all or scenario.exists_under(strategy)
    ]  # fmt: skip
    look_again = options.preemptions
    if options.all and look_again is None and (options.memory or "sc") == "sc":
        look_again = PREEMPTIONS_OF_ALL
    return Unfinished(cells, options.engine, bound, options.memory or "sc", look_again), origin


def _resumed(options: argparse.Namespace) -> tuple[Unfinished, str]:
    """Return the explorations that an earlier run has left."""
    if options.scenarios or options.all or options.strategy or options.like or options.layout or options.pages:
        raise UsageError("--resume goes on with what the file says: leave scenarios, strategies and shapes out.")
    todo = Unfinished.load(options.resume)
    if options.engine is not None and options.engine != todo.engine:
        raise UsageError(f"--engine {options.engine}: {options.resume!r} was begun with {todo.engine or 'optimal'}.")
    if options.memory is not None and options.memory != todo.memory:
        raise UsageError(f"--memory {options.memory}: {options.resume!r} was begun with {todo.memory}.")
    todo.max_executions = options.max_executions or todo.max_executions
    todo.preemptions = todo.preemptions if options.preemptions is None else options.preemptions
    left = len(todo.left())
    if not left:
        raise UsageError(
            f"{options.resume!r}: each exploration has had its {todo.max_executions} executions; give a larger"
            " --max-executions."
        )
    return todo, f"{left} of {len(todo.cells)} explorations are left to do"


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
    shape = {"layout": layout, "chunk_shift": 6 if options.chunk_shift is None else options.chunk_shift}
    chosen = [replace(get_scenario(name), **shape) for name in options.scenarios or SHOWN_SCENARIOS]
    return chosen, f"{origin}   (D data, . hole)\nhuge page: {chosen[0].geometry}"


# Exploring -------------------------------------------------------------------------------------------------


@contextmanager
def _workers(jobs: int) -> Iterator[Executor | None]:
    """Give a pool of processes, or None for one."""
    if jobs == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(jobs) as executor:
        yield executor


def _explore(todo: Unfinished, options: argparse.Namespace, executor: Executor | None) -> str:
    """Explore what is not done; returns why it was left off, "" if it was not.

    What has been explored stands in the cells in any case.
    """
    deadline = None if options.max_seconds is None else monotonic() + options.max_seconds
    try:
        with progress_of(len(todo.cells)) as progress:
            for number, cell in enumerate(todo.cells):
                if cell.done(todo.max_executions):
                    continue
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return f"out of time after {options.max_seconds:g} s"
                progress.begin(number, cell.spec)
                _explore_cell(cell, todo, executor, left, progress.update)
                assert cell.row is not None
                progress.end(number, cell.row)
                if "worker was lost" in cell.row.reason:
                    return cell.row.reason
    except KeyboardInterrupt:
        return INTERRUPTED
    return f"out of time after {options.max_seconds:g} s" if todo.left() else ""


def _look_again(todo: Unfinished, executor: Executor | None) -> str:
    """Look at what could not be exhausted with few preemptions; returns why it was left off, "" if it was not."""
    from mmref.commands.second_look import second_look

    if todo.preemptions is None:
        return ""
    try:
        with progress_of(len(todo.cells)) as progress:
            second_look(todo.cells, todo.preemptions, executor, progress.end)
    except KeyboardInterrupt:
        return INTERRUPTED
    return ""


def _explore_cell(cell: Cell, todo: Unfinished, executor: Executor | None, seconds: float | None, tell: object) -> None:
    """Explore one scenario under one strategy, or go on with it."""
    from mmref.explore import Interrupted, explore
    from mmref.explore.catalogue import scenario_from_spec
    from mmref.explore.judged import Judged
    from mmref.view.rows import row_of

    scenario, strategy = scenario_from_spec(cell.spec)
    interrupted = False
    try:
        report = explore(
            scenario, strategy, executor=executor, engine=todo.engine, memory=todo.memory,
            max_executions=todo.max_executions, max_seconds=seconds, resume=cell.frontier, progress=tell,  # type: ignore[arg-type]
        )  # fmt: skip
    except Interrupted as end:
        report, interrupted = end.report, True
    cell.row = row_of(Judged(scenario, strategy, report))
    cell.frontier = report.frontier
    if interrupted:
        raise KeyboardInterrupt


# Showing ---------------------------------------------------------------------------------------------------


def _show(rows: Sequence[Row], options: argparse.Namespace) -> None:
    if options.markdown is not None:
        from mmref.view.matrix import markdown

        page = markdown(rows, command(sys.argv[1:] or ["race"]))
        Path(options.markdown).write_text(page.rstrip("\n") + "\n", encoding="utf-8")
    if options.tests is not None:
        Path(options.tests).write_text(_tests(rows), encoding="utf-8")
    if options.json:
        print(json.dumps([row.as_json() for row in rows], indent=2))
        return
    print_table(rows, compact=options.all or len(rows) > MANY)
    if len(rows) > MANY:
        if options.markdown is None:
            print("The ladders: give --markdown FILE")
        return
    for row in rows:
        if row.found is not None:
            print_found(f"{row.scenario}, {row.strategy}", row.found)


def _tests(rows: Sequence[Row]) -> str:
    """Return a module of pytest tests, one for each race."""
    tests = [row.found.test.partition("\n\n\n") for row in rows if row.found is not None]
    imports = dict.fromkeys(head for head, _, _ in tests)
    numbered = [
        test.replace("() -> None:", f"_{number}() -> None:", 1).rstrip("\n")  # two layouts may make one name
        for number, (_, _, test) in enumerate(tests, 1)
    ]
    return "\n\n\n".join([*imports, *numbered]) + "\n"


def _keep(todo: Unfinished, options: argparse.Namespace, why: str) -> None:
    """Keep what there is, and say how to go on."""
    path = options.resume or FRONTIER_FILE
    todo.save(path)
    unfinished = sum(cell.row is None or cell.frontier is not None for cell in todo.cells)
    more = [] if todo.left() else ["--max-executions", "N"]
    print(
        f"mmref: {f'{why}: ' if why else ''}{unfinished} of {len(todo.cells)} explorations are not finished; to go on:"
        f" {command(['race', '--resume', path, *more])}",
        file=sys.stderr,
    )
