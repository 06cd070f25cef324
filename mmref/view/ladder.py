# SPDX-License-Identifier: GPL-2.0-only
"""A trace as kernel people write one down: a column per CPU, time running downwards.

An execution has hundreds of accesses; a ladder shows those that make the story. Kept are the pairs of accesses
of different CPUs whose order mattered, and what the CPU that found something wrong saw. Each is shown as the
call of the kernel function that it belongs to, below the calls that led there. A store that has waited in a store
buffer stands where it was issued, and again, in parentheses, where it became visible.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from mmref.explore.locations import CONFLICTS, MODE_NAMES
from mmref.explore.trace import Trace, TraceEvent
from mmref.view.kernel_names import kernel_name
from mmref.view.stores import Telling, told

__all__ = ["WIDTH", "calls_of", "headline", "ladder", "text_of"]

WIDTH = 75
"""No line is longer."""

_SLOT = frozenset({"slot load", "slot store", "xa_head"})
_FIELD = re.compile(r"\.(\w+)$")
_TAKE = frozenset({"folio_trylock", "down_write", "down_write_trylock"})
_MODES = {name: mode for mode, name in MODE_NAMES.items()}
_MANY = 3  # a group of calls that stands so many times in a row is shown once


@dataclass(frozen=True)
class Line:
    """One line of a ladder: a call at some depth, on one CPU."""

    cpu: int
    depth: int
    text: str

    @property
    def function(self) -> str:
        """The text up to the arguments."""
        return self.text.partition("(")[0]


def ladder(trace: Trace) -> str:
    """Return a trace as text: two or more columns, no line longer than 75 characters.

    Args:
        trace: one execution, from `explore().counterexample` or `replay()`.
    """
    telling = told(trace)
    trace = telling.trace
    column = WIDTH // len(trace.cpus) + 1
    plain = [f"CPU {number}" for number in range(len(trace.cpus))]
    heads = [one if name == one else f"{one} ({name})" for one, name in zip(plain, trace.cpus, strict=True)]
    rows = [
        "".join(head.ljust(column) for head in heads).rstrip(),
        "".join(("-" * len(head)).ljust(column) for head in heads).rstrip(),
    ]
    for line in [*_folded(_story(telling)), *_outcome(trace), *_too_late(trace)]:
        room = WIDTH - line.cpu * column if line.cpu == len(trace.cpus) - 1 else column - 1
        indent = "  " * line.depth
        hanging = " " if line.text.startswith("(") else "  "
        pieces = textwrap.wrap(line.text, max(room - len(indent), 12), subsequent_indent=hanging)
        rows.extend(" " * (line.cpu * column) + indent + piece for piece in pieces)
    return "\n".join(rows)


def headline(trace: Trace) -> str:
    """Say in kernel terms who gets in whose way, in one line."""
    trace = told(trace).trace
    calls = []
    for cpu, name in enumerate(trace.cpus):
        names = [call for event in trace.events if event.cpu == cpu for call in calls_of(event)[:1]]
        calls.append(f"{names[0]}()" if names else name)
    return " against ".join(calls)


def _outcome(trace: Trace) -> list[Line]:
    verdict = trace.verdict
    if verdict.holds:
        return []
    return [Line(verdict.cpu or 0, 1, f"({verdict.detail or verdict.kind})")]


def _too_late(trace: Trace) -> list[Line]:
    """Return what another CPU did afterwards, that the finder had looked at: the first such call of each kind."""
    looked_at = {
        event.location for event in trace.events
        if event.cpu == trace.verdict.cpu and (event.label.startswith("folio_test") or event.value is False)
    }  # fmt: skip
    lines: dict[str, Line] = {}
    for event in trace.aftermath:
        if event.cpu != trace.verdict.cpu and event.mode == "write" and event.location in looked_at:
            lines.setdefault(event.label, Line(event.cpu, 1, text_of(event, calls_of(event))))
    return list(lines.values())


def _story(telling: Telling) -> list[Line]:
    """Return the calls that make the story, each below the calls that led to it."""
    trace = telling.trace
    relevant = _relevant(trace)
    lines: list[Line] = []
    shown: dict[int, list[str]] = {}  # per CPU: the calls that the last line stands below
    last: dict[int, object] = {}  # per CPU: which call the last access belonged to
    for event in trace.events:
        calls = calls_of(event)
        text = telling.mark(event, text_of(event, calls))
        path = [call for call in calls[:2] if call != text.partition("(")[0]]
        same_call = last.get(event.cpu) == (identity := _identity(event, calls))
        last[event.cpu] = identity
        if event.step not in relevant:
            continue
        if same_call and lines and lines[-1].cpu == event.cpu and lines[-1].function == text.partition("(")[0]:
            if event.mode == "read":  # a walk down the tree: what it came to is what counts
                lines[-1] = Line(event.cpu, lines[-1].depth, text)
            continue  # several slots of one store: the first is the entry, the others point to it
        before = shown.get(event.cpu, [])
        common = 0
        while common < min(len(before), len(path)) and before[common] == path[common]:
            common += 1
        shown[event.cpu] = path
        lines.extend(Line(event.cpu, depth, f"{path[depth]}()") for depth in range(common, len(path)))
        lines.append(Line(event.cpu, len(path), text))
    return lines


def _identity(event: TraceEvent, calls: list[str]) -> object:
    """Tell one call of an XArray function from the next: consecutive accesses of one have the same identity."""
    if event.label not in _SLOT:
        return event.step
    outer = next((depth for depth, frame in enumerate(event.stack) if (kernel_name(*frame[:2]) or "")[:2] == "xa"), 0)
    return event.stack[:outer], tuple(calls)[:1]


def _folded(lines: list[Line]) -> Iterator[Line]:
    """Pass lines on, but of a group of calls that is repeated for page after page only the first."""
    at = 0
    while at < len(lines):
        length, times = _repetition(lines, at)
        yield from lines[at : at + length]
        if times > 1:
            many = f"{times - 1} more page{'s' * (times > 2)}"
            yield Line(lines[at].cpu, lines[at].depth, f"... and the same for {many}")
        at += length * times


def _repetition(lines: list[Line], at: int) -> tuple[int, int]:
    """Find the shortest group of lines that is repeated from here on: its length, and how many times it stands."""

    def shape(first: int, length: int) -> list[tuple[int, int, str]]:
        return [(line.cpu, line.depth, line.function) for line in lines[first : first + length]]

    for length in range(1, 7):
        group = shape(at, length)
        times = 1
        while shape(at + times * length, length) == group:
            times += 1
        if times >= _MANY:
            return length, times
    return 1, 1


def _relevant(trace: Trace) -> set[int]:
    """Return the steps whose order against another CPU's mattered, and what the finder saw itself."""
    steps: set[int] = set()
    touched: dict[str, list[TraceEvent]] = {}
    finder = trace.verdict.cpu if not trace.verdict.holds else None
    for event in trace.events:
        earlier = touched.setdefault(event.location, [])
        conflicts = CONFLICTS[_MODES[event.mode]]
        before = next((one for one in reversed(earlier) if conflicts >> _MODES[one.mode] & 1), None)
        if before is not None and before.cpu != event.cpu:
            steps |= {one.step for one in (before, event) if _tells(one)}
        earlier.append(event)
        if event.cpu == finder and (event.label.startswith("folio_test") or event.value is False):
            steps.add(event.step)
    if trace.verdict.kind in ("deadlock", "livelock"):
        return _acquisitions(trace)
    if not steps:  # a story of one CPU: its last few accesses
        steps.update(event.step for event in [one for one in trace.events if one.mode != "read"][-4:])
    return steps


def _acquisitions(trace: Trace) -> set[int]:
    """Return the steps at which a CPU last took what another one waits for in the end."""
    last: dict[str, int] = {}
    for event in trace.events:
        taken = event.mode in ("lock", "share") or (event.mode == "write" and event.label in _TAKE)
        if taken and event.value is not False and f"{event.location} (" in trace.verdict.detail:
            last[event.location] = event.step
    return set(last.values())


def _tells(event: TraceEvent) -> bool:
    """Tell whether an access is worth a line: taking and dropping references is not, unless it goes wrong."""
    if event.location.endswith(" refcount"):
        return event.value is False or "freeze" in event.label
    return "Walk.reload" not in [frame[0] for frame in event.stack[-3:]]


def calls_of(event: TraceEvent) -> list[str]:
    """Return the kernel functions that an access is inside of, outermost first; of the XArray's only the outermost."""
    names: list[str] = []
    for function, file, _ in event.stack:
        name = kernel_name(function, file)
        if name is not None and name not in names[-1:]:
            names.append(name)
        if name is not None and name.startswith(("xas_", "xa_")):
            break
    return names


def text_of(event: TraceEvent, calls: list[str]) -> str:
    """Return an access as the call that a kernel developer would name."""
    writes = event.mode != "read"
    if event.label in _SLOT:
        name = calls[-1] if calls else "xas_store" if writes else "xas_load"
        return f"{name}({event.value})" if writes else f"{name}() == {event.value}"
    field = _FIELD.search(event.location)
    if field and field[1] == event.label:
        name = f"{event.location[: field.start()]}->{field[1]}"
        return name if event.value is None else f"{name} {'=' if writes else '=='} {event.value}"
    what = re.sub(r" (lock|refcount|PG_\w+|page \d+)$", "", event.location)
    result = ""
    if isinstance(event.value, bool):
        result = " == true" if event.value else " == false"
    elif isinstance(event.value, int):
        result = f" {'=' if writes else '=='} {event.value}"
    return f"{event.label}({what}){result}"
