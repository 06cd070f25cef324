# SPDX-License-Identifier: GPL-2.0-only
"""The two accesses whose order makes the difference, in the kernel's names, with the lines that make them."""

from __future__ import annotations

from mmref.explore.places import ENGINE_FILES, place_text
from mmref.explore.trace import Trace, TraceEvent
from mmref.view.ladder import calls_of, text_of

__all__ = ["pair_lines"]

_PRIMITIVES = ("mmref/folio/folio.py", "mmref/sync.py", "mmref/xarray/")
"""Where an access is made for somebody: the line that matters is the caller's."""


def pair_lines(trace: Trace) -> list[str]:
    """Say who does what too early: two lines, or none if the trace has no explanation.

    Each is the access, the kernel function that makes it, and the line here: ``CPU 1: folio_test_uptodate(...) in
    folio_seek_hole_data(), mmref/pagecache/filemap.py:143``.
    """
    if trace.pair is None:
        return []
    return [_line(trace, event) for event in (trace.pair.first, trace.pair.second)]


def _line(trace: Trace, event: TraceEvent) -> str:
    calls = calls_of(event)
    text = text_of(event, calls)
    inside = next((name for name in reversed(calls) if name != text.partition("(")[0]), "")
    inside = f" in {inside}()" if inside else ""
    place = _place(event)
    who = f"CPU {trace.owner(event.cpu)}" + ("'s stores" if event.cpu != trace.owner(event.cpu) else "")
    return f"{who}: {text}{inside}" + (f", {place}" if place else "")


def _place(event: TraceEvent) -> str:
    """Return file and line of the innermost call that is not one of a primitive."""
    outside = [frame for frame in event.stack if not frame[1].startswith(ENGINE_FILES)]
    for function, file, line in reversed(outside):
        place = place_text(function, file, line)
        if not any(part in file.replace("\\", "/") for part in _PRIMITIVES):
            return place.partition(" (")[0]
    return place_text(*outside[-1]).partition(" (")[0] if outside else ""
