# SPDX-License-Identifier: GPL-2.0-only
"""What `mmref race` has explored and what it has not, as a file: to go on there another time.

The JSON schema, version 1: {"mmref_race": 1, "max_executions": int or null, "engine": text or null, "memory": text
(the memory model), "preemptions": int or null (of the second look), "cells": [{"spec": what builds scenario and
strategy, "row": see `view/rows.py`, or null if it was not begun, "frontier": see `explore/resume.py`, or null if there
is nothing to resume}, ...]}.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmref.errors import UsageError

if TYPE_CHECKING:
    from mmref.explore import Frontier
    from mmref.view.rows import Row

__all__ = ["Cell", "Unfinished"]

VERSION = 1


@dataclass
class Cell:
    """One exploration that is asked for: scenario and strategy by their spec, and how far it has come."""

    spec: str
    row: Row | None = None
    frontier: Frontier | None = field(default=None, repr=False)

    def done(self, max_executions: int | None) -> bool:
        """Tell whether it has come to its end, or as far as it is to come."""
        if self.row is None:
            return False
        if self.frontier is None:
            return True
        return max_executions is not None and self.row.executions + self.row.blocked >= max_executions


@dataclass
class Unfinished:
    """All explorations that are asked for, and how: enough to go on with them."""

    cells: list[Cell]
    engine: str | None = None
    max_executions: int | None = None
    memory: str = "sc"
    preemptions: int | None = None

    def left(self) -> list[Cell]:
        """Return what is still to do."""
        return [cell for cell in self.cells if not cell.done(self.max_executions)]

    def save(self, path: str) -> None:
        """Write everything to a file; an older one is replaced only when the new one is whole.

        Raises:
            UsageError: it cannot be written.
        """
        from mmref.explore.document import write_text

        data = {
            "mmref_race": VERSION,
            "engine": self.engine,
            "max_executions": self.max_executions,
            "memory": self.memory,
            "preemptions": self.preemptions,
            "cells": [
                {
                    "spec": cell.spec,
                    "row": None if cell.row is None else cell.row.as_json(),
                    "frontier": None if cell.frontier is None else json.loads(cell.frontier.to_json()),
                }
                for cell in self.cells
            ],
        }
        try:
            write_text(path, json.dumps(data))
        except OSError as error:
            raise UsageError(f"{path!r} cannot be written: {error.strerror}.") from None

    @classmethod
    def load(cls, path: str) -> Unfinished:
        """Read such a file.

        Raises:
            UsageError: it cannot be read, is cut short, of another version, or something else altogether.
        """
        from mmref.explore import Frontier
        from mmref.explore.document import parse_document, read_text
        from mmref.view.rows import Row

        data = parse_document(read_text(path, "race"), repr(path), "race", VERSION)
        try:
            cells = [
                Cell(
                    str(one["spec"]),
                    None if one["row"] is None else Row.of(one["row"], repr(path)),
                    None if one["frontier"] is None else Frontier.from_json(json.dumps(one["frontier"]), repr(path)),
                )
                for one in data["cells"]
            ]
            return cls(cells, data["engine"], data["max_executions"], data["memory"], data["preemptions"])
        except (LookupError, TypeError) as error:
            raise UsageError(f"{path!r} is not whole ({type(error).__name__}: {error}): explore again.") from None
