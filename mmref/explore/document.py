# SPDX-License-Identifier: GPL-2.0-only
"""Our JSON documents, read and written: traces, frontiers, what a command has left. Each says its kind and version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmref.errors import UsageError

__all__ = ["parse_document", "read_text", "write_text"]


def parse_document(text: str, source: str, kind: str, version: int) -> dict[str, Any]:
    """Return the object of a JSON document of one of our kinds.

    Args:
        text: the document; its key ``mmref_KIND`` has the version.
        source: what to call it in an error message.
        kind: for example "trace".
        version: the one that this mmref reads.

    Raises:
        UsageError: it is cut short, of another version, or something else altogether.
    """
    import json  # not needed to explore

    try:
        data = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{source} is not a whole JSON document ({error}): is the file cut short?") from None
    if not isinstance(data, dict):
        raise UsageError(f"{source} is not an mmref {kind}: the document is {str(data)[:40]}, not an object")
    found = data.get(f"mmref_{kind}")
    if found is None:
        raise UsageError(f'{source} is not an mmref {kind}: it has no "mmref_{kind}" key')
    if found != version:
        raise UsageError(f"{source} is a {kind} of version {found}; this mmref reads {version}")
    return data


def read_text(path: str | Path, kind: str) -> str:
    """Read a document's file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the {kind} {str(path)!r} cannot be read: {error}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a document's file; an older one is replaced only when the new one is whole."""
    target = Path(path)
    part = target.with_name(target.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(target)
