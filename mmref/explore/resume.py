# SPDX-License-Identifier: GPL-2.0-only
"""The frontier of an exploration that was left before its end: a value to go on with, or a file.

The JSON schema, version 1: {"mmref_frontier": 1, "program": name, "spec": as of a schedule string, "engine": name,
"stop_at_first": bool, "memory": name, "detect": [names], "tree": see `frontier.Tree.data()`}.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmref.errors import UsageError
from mmref.explore.document import parse_document, read_text, write_text
from mmref.explore.frontier import Tree
from mmref.explore.work import DPOR, dpor

__all__ = ["FRONTIER_VERSION", "Frontier"]

FRONTIER_VERSION = 1

_KEYS: dict[str, type] = {
    "program": str,
    "spec": str,
    "engine": str,
    "stop_at_first": bool,
    "memory": str,
    "detect": list,
    "tree": list,
}


@dataclass(frozen=True, slots=True)
class Frontier:
    """What is left of an exploration, and what it has come to so far. Give it to `explore(resume=...)`.

    Attributes:
        program, spec: what was explored.
        engine: the algorithm.
        stop_at_first: whether the first finding was to end it.
        memory: the memory model.
        detect: what was looked for.
        tree: the search, as plain data.
    """

    program: str
    spec: str
    engine: str
    stop_at_first: bool
    memory: str
    detect: list[str]
    tree: list[Any] = field(repr=False)

    @property
    def executions(self) -> int:
        """How many complete executions there have been so far."""
        return Tree.of(dpor(self.engine).merge, self.tree).known().executions

    @property
    def pending(self) -> int:
        """How many branches are known and not yet explored."""
        return Tree.of(dpor(self.engine).merge, self.tree).pending()

    def search(self) -> Tree:
        """Return the search, to go on with."""
        return Tree.of(dpor(self.engine).merge, self.tree)

    def check(
        self, program: str, spec: str, engine: str | None, stop_at_first: bool, memory: str, detect: list[str] | None
    ) -> None:
        """Refuse to go on with something else.

        Raises:
            UsageError: the frontier is one of another program, engine or memory model.
        """
        for what, mine, given in (
            ("program", self.spec or self.program, spec or program),
            ("engine", self.engine, engine or self.engine),
            ("stop_at_first", self.stop_at_first, stop_at_first),
            ("memory model", self.memory, memory),
            ("detect", self.detect, self.detect if detect is None else detect),
        ):
            if mine != given:
                raise UsageError(f"the frontier is one of {what} {mine!r}, not {given!r}: resume it with {mine!r}")

    def to_json(self) -> str:
        """Return the frontier as JSON text."""
        import json

        data = {"mmref_frontier": FRONTIER_VERSION, **{key: getattr(self, key) for key in _KEYS}}
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, source: str = "the frontier") -> Frontier:
        """Read JSON text.

        Args:
            text: what `to_json()` has returned.
            source: what to call it in an error message, for example the file's name.

        Raises:
            UsageError: it is cut short, of another version, or something else altogether.
        """
        data = parse_document(text, source, "frontier", FRONTIER_VERSION)
        for key, kind in _KEYS.items():
            if type(data.get(key)) is not kind:
                raise UsageError(f"{source} is not a valid mmref frontier: {key!r} is not of type {kind.__name__}")
        frontier = cls(**{key: data[key] for key in _KEYS})
        if frontier.engine not in DPOR:
            raise UsageError(
                f"{source} is not a valid mmref frontier: there is no engine {frontier.engine!r} to resume"
            )
        try:
            frontier.search()
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise UsageError(
                f"{source} is not a valid mmref frontier ({type(error).__name__}: {error}): explore from the start"
            ) from None
        return frontier

    def save(self, path: str | Path) -> None:
        """Write the frontier to a file; an older one is replaced only when the new one is whole."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Frontier:
        """Read a frontier from a file.

        Raises:
            UsageError: it cannot be read, or is no frontier.
        """
        return cls.from_json(read_text(path, "frontier"), repr(str(path)))
