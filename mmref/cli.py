# SPDX-License-Identifier: GPL-2.0-only
"""The command `mmref`.

Exit status: 0 nothing unexpected, 1 a race that is not on record for that strategy, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmref import __version__
from mmref.commands.museum import add_options as add_museum_options
from mmref.commands.museum import museum as run_museum
from mmref.commands.race import add_options
from mmref.commands.race import race as run_race
from mmref.errors import MmrefError, UsageError

__all__ = ["main"]


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
        epilog="`mmref scenarios` lists the scenarios, `mmref strategies` the strategies.",
    )
    add_options(race)
    race.set_defaults(run=run_race)

    scenarios = commands.add_parser("scenarios", help="list the scenarios")
    scenarios.add_argument("--json", action="store_true", help="print the list as JSON")
    scenarios.set_defaults(run=_scenarios)

    strategies = commands.add_parser("strategies", help="list the strategies")
    strategies.add_argument("--json", action="store_true", help="print the list as JSON")
    strategies.set_defaults(run=_strategies)

    museum = commands.add_parser(
        "museum",
        help="see the bugs of the past caught",
        description="Explore each exhibit of the museum, a strategy with one step changed, and what it changes.",
    )
    add_museum_options(museum)
    museum.set_defaults(run=run_museum)

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


# mmref scenarios, mmref strategies ---------------------------------------------------------------------------


def _scenarios(options: argparse.Namespace) -> int:
    from mmref.explore.catalogue import scenarios

    found = scenarios()
    if options.json:
        print(json.dumps([{"name": one.name, "summary": one.summary, "layout": one.layout, "cpus": one.cpus,
                           "consequence": one.consequence} for one in found.values()], indent=2))  # fmt: skip
        return 0
    width = max(map(len, found))
    for one in found.values():
        print(f"  {one.name:<{width}}  {one.layout:<8}  {one.summary}")
    return 0


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


# mmref replay ------------------------------------------------------------------------------------------------


def _replay(options: argparse.Namespace) -> int:
    from mmref.commands.showing import print_found
    from mmref.explore import replay
    from mmref.explore.catalogue import scenario_from_spec
    from mmref.explore.judged import known_race
    from mmref.view import headline, ladder
    from mmref.view.rows import found_of

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
    elif (found := found_of(scenario, trace)) is not None:
        print_found(f"{scenario.name}, {strategy.name}", found)
    else:
        print(f"{headline(trace)}: {len(trace.events)} steps, nothing goes wrong\n")
        print(ladder(trace))
    return 0 if trace.verdict.holds or known_race(scenario, strategy, trace) else 1


# mmref live ------------------------------------------------------------------------------------------------


def _live(options: argparse.Namespace) -> int:
    from mmref.live.command import live

    return live(options.programs, options.seed, options.json)


if __name__ == "__main__":
    sys.exit(main())
