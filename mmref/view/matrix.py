# SPDX-License-Identifier: GPL-2.0-only
"""Scenario by strategy: what was found everywhere, as a page in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from mmref.khugepaged.records import RECORDS
from mmref.view.rows import Row

__all__ = ["by_shape", "circles", "markdown", "strategies_of"]


def strategies_of(rows: Iterable[Row]) -> list[str]:
    """Return the strategies: the columns, in the order in which they come."""
    return list(dict.fromkeys(row.strategy for row in rows))


def by_shape(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Return the lines of a matrix: (scenario, shape) -> strategy -> row."""
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.scenario, row.shape), {})[row.strategy] = row
    return lines


def circles(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Return the locks that are taken in a circle, and where that was seen.

    Circles through the same places in the code count as one: which folio it was does not matter.
    """
    found: dict[frozenset[str], tuple[tuple[str, ...], list[Row]]] = {}
    for row in rows:
        for steps in row.inversions:
            places = frozenset(step.partition(", ")[2] or step for step in steps)
            found.setdefault(places, (steps, []))[1].append(row)
    return dict(found.values())


def markdown(rows: Sequence[Row], command: str) -> str:
    """Return the page: the table, what the records say, and a ladder for every finding.

    Args:
        rows: what was explored.
        command: what was typed.
    """
    return "\n".join([*_head(rows, command), *_table(rows), "", *_records(rows), *_inversions(rows), *_races(rows)])


def _head(rows: Sequence[Row], command: str) -> Iterator[str]:
    findings = [row for row in rows if not row.holds]
    news = sum(row.unexpected for row in rows)
    exhausted = sum(row.holds and row.exhaustive for row in rows)
    stopped = [row for row in rows if row.holds and not row.exhaustive]
    yield "# Every scenario under every strategy"
    yield ""
    yield f"Written by `{command}`."
    yield ""
    yield (
        f"{len(rows)} explorations, {sum(row.executions + row.blocked for row in rows):,} executions: {len(findings)}"
        f" end in a race or a deadlock ({news} of them not on record), {exhausted} hold in all executions that can"
        f" differ, {len(stopped)} were stopped before that."
    )
    yield ""
    yield (
        "A cell says how many executions there are and none of them goes wrong, or what goes wrong, where that is on"
        " record, and in which execution it was met. `(stopped)`: nothing was found, and not everything was looked at."
        " Those were looked at again, at all schedules with few preemptions; where that came to its end, or found"
        " something, it says `with 2 preemptions`."
    )
    reasons = sorted({row.reason for row in stopped})
    if reasons:
        yield ""
        yield f"Why: {'; '.join(reasons)}."
    yield ""


def _table(rows: Sequence[Row]) -> Iterator[str]:
    columns = strategies_of(rows)
    yield "| scenario | layout | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 2) + "|"
    for (name, shape), line in by_shape(rows).items():
        cells = [_cell(line.get(one)) for one in columns]
        yield f"| {name} | `{shape.replace('|', chr(92) + '|')}` | " + " | ".join(cells) + " |"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return row.short if row.holds else f"**{row.short}**"


def _records(rows: Sequence[Row]) -> Iterator[str]:
    known = dict.fromkeys(row.known for row in rows if row.known)
    if not known:
        return
    yield "## On record"
    yield ""
    for record in sorted(known):
        yield f"* {record}: {RECORDS[record].text if record in RECORDS else 'as the strategy says'}"
    yield ""


def _inversions(rows: Sequence[Row]) -> Iterator[str]:
    found = circles(rows)
    if not found:
        return
    yield "## Locks taken in a circle"
    yield ""
    yield "Whether or not it came to a deadlock."
    yield ""
    circles_told: dict[str, dict[str, None]] = {}
    for steps, where in found.items():
        told = circles_told.setdefault(_without_lines("; ".join(steps)), {})
        told.update(dict.fromkeys(f"{row.scenario} under {row.strategy}" for row in where))
    for text, seen in circles_told.items():
        yield f"* {text} ({', '.join(seen)})"
    yield ""


_LINE = re.compile(r",? (?:called at )?\S+\.py:\d+(?: \([\w.<>]+\))?")


def _without_lines(text: str) -> str:
    """Leave out where in the code it is: on a page that is kept, that would soon be wrong."""
    return _LINE.sub("", text)


def _races(rows: Sequence[Row]) -> Iterator[str]:
    if not all(row.holds for row in rows):
        yield "## The ladders"
    for row in rows:
        found = row.found
        if found is None:
            continue
        yield ""
        yield f"### {row.scenario} `{row.shape}`, {row.strategy}"
        yield ""
        yield f"{found.invariant or found.kind} ({row.known or 'not on record'}): {found.headline}."
        yield ""
        yield "```text"
        yield found.ladder
        yield "```"
        yield ""
        if found.pair:
            yield "What matters is the order of two accesses:"
            yield ""
            yield from (f"* {_without_lines(line)}" for line in found.pair)
            yield ""
        yield f"    mmref replay '{found.schedule}'"
