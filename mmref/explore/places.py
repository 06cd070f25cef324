# SPDX-License-Identifier: GPL-2.0-only
"""Places in the code that is explored: where a CPU is, and how a report says that.

The explorer itself and the primitives that stand for locks are left out: of interest is who called them. (The frames of
a CPU's greenlet end with the function that runs its code.)
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType

from mmref import sync
from mmref.explore.recording import Frame

__all__ = ["ENGINE_FILES", "Place", "call_stack", "place_of", "place_text", "places_text"]

ENGINE_FILES = (__file__.rpartition("/")[0], sync.__file__)
"""Where code is not what is explored: this package, and the locks."""

Place = tuple[tuple[CodeType, int], ...]
"""Where something happens: the code and the line of a function, and those of the one that calls it."""

_EXPLORED: dict[CodeType, bool] = {}


def call_stack(depth: int) -> tuple[Frame, ...]:
    """Return the calls from the CPU's entry function down to the caller `depth` levels up."""
    frame: FrameType | None = sys._getframe(depth)
    frames: list[Frame] = []
    while frame is not None:
        code = frame.f_code
        frames.append((code.co_qualname, code.co_filename, frame.f_lineno))
        frame = frame.f_back
    frames.pop()
    frames.reverse()
    return tuple(frames)


def place_of(frame: FrameType | None) -> Place:
    """Return where a frame is in the code that is explored, and from where that is called."""
    places: list[tuple[CodeType, int]] = []
    while frame is not None and len(places) < 2:
        code = frame.f_code
        explored = _EXPLORED.get(code)
        if explored is None:
            explored = _EXPLORED[code] = not code.co_filename.startswith(ENGINE_FILES)
        if explored:
            places.append((code, frame.f_lineno))
        frame = frame.f_back
    return tuple(places)


def place_text(function: str, file: str, line: int) -> str:
    """Name a place in the code for a report; files below the working directory are named from there."""
    name = os.path.relpath(file)
    return f"{file if name.startswith('..') else name}:{line} ({function})"


def places_text(places: Place) -> str:
    """Name a place in the code, and from where it was called, for a report."""
    texts = [place_text(code.co_qualname, code.co_filename, line) for code, line in places]
    return ", called at ".join(texts) or "an unknown place"
