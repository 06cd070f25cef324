# SPDX-License-Identifier: GPL-2.0-only
"""Where a race is on record: what the ids in `CollapseStrategy.known_races` stand for, and how each is recognised."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["RECORDS", "Record", "is_record_of"]


class Record(NamedTuple):
    """A race that is known.

    Attributes:
        text: what it is, and what mended it.
        shows: what it is seen by: ids of invariants, or the kind of the verdict where it has no id ("deadlock").
        weak: it takes a memory that is weaker than sequentially consistent.
    """

    text: str
    shows: frozenset[str]
    weak: bool = False


def _record(text: str, *shows: str, weak: bool = False) -> Record:
    return Record(text, frozenset(shows), weak)


RECORDS: Final = {
    "B29": _record("broken memory is found while copying, too late to go back; mended by Linux 12904d953364 (v6.4)",
                   "Finding"),
    "B30": _record(
        "a page that came from swap waits in an LRU batch, and cannot be isolated; mended by Linux efa3d814fad1 (v6.4)",
        "L2",
    ),
    "B31": _record(
        "a hole is filled that a userfaultfd monitor knows to be missing; mended by Linux ac492b9c70ca (v6.4)", "A7"
    ),
    "B32": _record(
        "the new folio is in the cache before it is uptodate; mended by Linux a2e17cc2efc7 (v6.4)", "A1", "A2", "A5"
    ),
    "B38": _record(
        "blocks are given back twice, by uncharge and by a concurrent recalc; mended by Linux 3c1b7528d896 (v6.6)", "Q2"
    ),
    "B41": _record("the scan looks at folios without a reference; mended by Linux 595cf683519a (v6.16)",
                   "UseAfterFree"),
    "B45": _record(
        "dirty pages of the rest of the file are dropped when it is opened for writing; mended by Linux 6.12.96", "A3"
    ),
    "F1": _record("SEEK_HOLE skips the siblings of an entry that it has not seen; docs/findings.md", "A1"),
    "F2": _record("SEEK_DATA, asked in a hole, skips them too; docs/findings.md", "A1"),
    "F3": _record(
        "invalidate_lock is taken with folio locks held, truncation takes them the other way round; docs/findings.md",
        "deadlock",
    ),
    "F4": _record(
        "who opens a file for writing drops its dirty pages though the collapse has given up; docs/findings.md", "A3"
    ),
    "F5": _record("a block stays charged that a full filesystem has refused; docs/findings.md", "Q2"),
    "F6": _record(
        "a lookup follows a sibling to a slot that has changed hands meanwhile; docs/findings.md", "A2", "A3"
    ),
    "W1": _record(
        "a RETRY entry may not be seen yet when userfaultfd is looked for; docs/memory-models.md", "A7", weak=True
    ),
    "m32": _record("the museum's bug: inserted, then marked uptodate", "A1", "A2", "A5"),
    "m33": _record("the museum's bug: frozen folios left in the cache (turned down on review)", "A8"),
}  # fmt: skip
"""The records by id."""


def is_record_of(record: str, kind: str, invariant: str, memory: str) -> bool:
    """Tell whether a verdict is what a record describes.

    Args:
        record: an id, as in `CollapseStrategy.known_races`. One that is not in `RECORDS` is taken at its word.
        kind: the kind of the verdict, such as "violation" or "deadlock".
        invariant: the id of the verdict; empty where the kind says all.
        memory: the memory model, such as "sc".
    """
    known = RECORDS.get(record)
    return known is None or ((invariant or kind) in known.shows and not (known.weak and memory == "sc"))
