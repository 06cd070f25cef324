# SPDX-License-Identifier: GPL-2.0-only
"""How far an exploration is, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from mmref.explore import Progress

__all__ = ["spinner"]


@contextmanager
def spinner(title: str) -> Iterator[Callable[[Progress], None]]:
    """Show a line on stderr while an exploration runs; gives what `explore(progress=...)` calls."""
    with Console(stderr=True).status(title) as status:

        def update(progress: Progress) -> None:
            status.update(f"{title}: {progress.executions} executions, {progress.pending} branches pending")

        yield update
