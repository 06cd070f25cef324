# SPDX-License-Identifier: GPL-2.0-only
"""An execution that makes no step any more is ended, and said where it hangs.

A loop with accesses in it comes to the step limit. One without never gives the explorer a chance to look, nor does a
wait for something that is not explored, such as a real lock whose holder is another simulated CPU. So a thread looks
now and then whether the execution under way has made a step, and if not for some seconds, raises `Overdue` in it.

Time counts only while this thread gets its turns, so a process that was stopped, or sits in a debugger, is left alone.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from mmref.explore.errors import EndlessLoop
from mmref.explore.locations import THREAD
from mmref.explore.places import ENGINE_FILES, place_text

if TYPE_CHECKING:
    from mmref.explore.scheduler import Run
    from mmref.explore.work import Interrupt

__all__ = ["MAX_STEP_SECONDS", "Overdue", "Watchdog"]

MAX_STEP_SECONDS = 5.0
"""For how long a CPU may run without an access."""

_IMPATIENT_SECONDS = 1.0
"""The same after Ctrl-C, which otherwise takes effect at the end of the execution."""

_DEBUGGERS = frozenset({"bdb", "pdb", "IPython", "pydevd", "_pydevd_bundle", "debugpy"})


class Overdue(BaseException):
    """Raised in an execution that makes no step."""


class Watchdog:
    """Watch the executions of this thread while the block runs.

    Args:
        seconds: for how long a CPU may run without an access; None for ever.
        interrupt: who treats Ctrl-C, if anybody does.
    """

    def __init__(self, seconds: float | None, interrupt: Interrupt | None = None) -> None:
        self._seconds = seconds
        self._interrupt = interrupt
        self._over = threading.Event()
        self._watched = threading.get_ident()
        self._state = THREAD.__dict__  # that of this thread
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if self._seconds is None:
            return
        thread = threading.Thread(target=self._watch, args=(self._seconds,), name="mmref watchdog", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there are no threads on this platform, or no more of them
            return
        self._thread = thread

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, seconds: float) -> None:
        pause = min(seconds / 5, 0.5)
        last: Run | None = None
        steps, idle = -1, 0.0
        while not self._over.wait(pause):
            run: Run | None = self._state.get("run")
            if run is None or run is not last or run.steps != steps:
                last, steps, idle = run, run.steps if run is not None else -1, 0.0
                continue
            idle += pause
            if self._interrupt is not None and self._interrupt.pressed and idle >= _IMPATIENT_SECONDS:
                self._raise(KeyboardInterrupt)
                idle = 0.0
            elif idle >= seconds:
                idle = 0.0
                frame = sys._current_frames().get(self._watched)
                if frame is not None and not _debugged(frame):
                    run.late = _endless(run, seconds, frame)
                    self._raise(Overdue)

    def _raise(self, kind: type[BaseException]) -> None:
        """Raise an exception in the watched thread, as soon as it runs Python code again."""
        interrupt = self._interrupt
        if interrupt is not None and interrupt.mine and hasattr(signal, "pthread_kill"):
            interrupt.urgent = kind
            signal.pthread_kill(self._watched, signal.SIGINT)  # also ends a wait for a real lock
            return
        import ctypes  # only for who needs it

        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._watched), ctypes.py_object(kind))


def _debugged(frame: FrameType | None) -> bool:
    """Tell whether somebody is looking at the program with a debugger."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False


def _endless(run: Run, seconds: float, frame: FrameType | None) -> EndlessLoop:
    """Describe where an execution hangs."""
    while frame is not None and frame.f_code.co_filename.startswith(ENGINE_FILES) and frame.f_back is not None:
        frame = frame.f_back
    where = "an unknown place"
    if frame is not None:
        where = place_text(frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno)
    return EndlessLoop(seconds, run.current.name if run.live else "the program", where)
