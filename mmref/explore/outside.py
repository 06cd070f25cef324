# SPDX-License-Identifier: GPL-2.0-only
"""What a program does besides accessing what it shares: it sleeps, starts threads, prints.

The explorer runs a program thousands of times, and decides alone which CPU goes on. Sleeping only costs time then, and
what a real thread or process does is not explored: both are refused, with the line that does it. In the first
execution of a search each call of a C function is looked at for that (by a profile function, unless there is one
already); in the others, what the interpreter tells by itself (an audit hook, PEP 578; newer Pythons tell more).

Printing is allowed. But nobody wants to read thousands of times the same, so what is printed during a search is held
back and a warning says so; `replay()` shows the output of one execution.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
import warnings
from functools import cache
from types import FrameType, TracebackType
from typing import Any, TextIO, cast

from mmref.explore.errors import OutputHeldBack, UnexplorableProgram
from mmref.explore.locations import THREAD
from mmref.explore.places import ENGINE_FILES, place_text

__all__ = ["HoldBack", "look_at_call", "refuse_what_is_not_explored"]

_SLEEP = ("sleeps", "no time passes in an exploration; leave it out, or wait for a cell to change with cpu_relax()")
_THREAD = ("starts a thread", "the explorer cannot see what it does; return one callable per thread instead")
_PROCESS = ("starts a process", "the explorer cannot see what it does; do that outside of the program")
_INPUT = ("asks for input", "it would be asked in every execution; ask outside of the program")

_EVENTS: dict[str, tuple[str, str]] = {
    "time.sleep": _SLEEP,
    "_thread.start_new_thread": _THREAD,
    "_thread.start_joinable_thread": _THREAD,
    "os.fork": _PROCESS,
    "subprocess.Popen": _PROCESS,
    "builtins.input": _INPUT,
}
"""Audit events: what the program does, and what to do instead."""

_CALLS: dict[object, tuple[str, str]] = {
    time.sleep: _SLEEP,
    _thread.start_new_thread: _THREAD,
    getattr(_thread, "start_joinable_thread", _thread.start_new_thread): _THREAD,
    input: _INPUT,
}
"""The same for functions."""

_LIBRARY = threading.__file__.rpartition("/")[0]


@cache
def refuse_what_is_not_explored() -> None:
    """Have programs that are explored refused if they sleep or start threads. Nobody else is affected."""
    sys.addaudithook(_audit)  # once and for all: a hook cannot be taken away


def _audit(event: str, arguments: tuple[object, ...]) -> None:  # noqa: ARG001 (part of the interface)
    if event in _EVENTS:
        _refuse(*_EVENTS[event], sys._getframe(1))


def look_at_call(frame: FrameType, event: str, called: object) -> None:
    """Refuse a call that is not to be made: a profile function, for `sys.setprofile()`."""
    if event == "c_call" and called in _CALLS:
        _refuse(*_CALLS[called], frame)


def _refuse(what: str, instead: str, frame: FrameType) -> None:
    run = THREAD.run
    if run is not None:
        error = UnexplorableProgram(f"the program {what} at {_where(frame)}: {instead}")
        run.crash = run.crash or error  # also if the program catches it
        raise error


def _where(frame: FrameType | None) -> str:
    """Name the innermost place that is neither in the library nor in the explorer."""
    while frame is not None:
        name = frame.f_code.co_filename
        library = name.startswith((_LIBRARY, "<frozen")) and "site-packages" not in name
        if not library and not name.startswith(ENGINE_FILES):
            return place_text(frame.f_code.co_qualname, name, frame.f_lineno)
        frame = frame.f_back
    return "an unknown place"


class HoldBack:
    """Hold back what programs print in this thread while the block runs, and warn of it afterwards."""

    def __init__(self) -> None:
        self._stream: _Filter | None = None

    def __enter__(self) -> None:
        self._stream = _Filter(sys.stdout)
        sys.stdout = cast(TextIO, self._stream)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        stream = self._stream
        assert stream is not None
        stream.over = True
        while isinstance(sys.stdout, _Filter) and sys.stdout.over:  # else another thread's stands in front
            sys.stdout = sys.stdout.stream
        if stream.held and kind is None:
            warnings.warn(
                f"the program prints, at {stream.held}: explore() runs it many times and shows nothing of that;"
                " replay() shows one execution",
                OutputHeldBack,
                stacklevel=3,
            )


class _Filter:
    """A stream that lets pass what does not come from a program that is explored in this thread.

    Attributes:
        stream: where that goes.
        held: where the program has printed first; empty if it has not.
        over: let everything pass.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.held = ""
        self.over = False
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Write, or keep in mind who wanted to."""
        if self.over or THREAD.run is None or threading.get_ident() != self._thread:
            return self.stream.write(text)
        self.held = self.held or _where(sys._getframe(1))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
