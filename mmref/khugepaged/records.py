# SPDX-License-Identifier: GPL-2.0-only
"""Where a race is on record: what the ids in `CollapseStrategy.known_races` stand for."""

from __future__ import annotations

from typing import Final

__all__ = ["RECORDS"]

RECORDS: Final = {
    "B32": "the new folio is in the cache before it is uptodate; mended by Linux a2e17cc2efc7 (v6.4)",
    "F1": "SEEK_HOLE skips the siblings of an entry that it has not seen; docs/findings.md",
    "F2": "SEEK_DATA, asked in a hole, skips them too; docs/findings.md",
    "m32": "the museum's bug: inserted, then marked uptodate",
    "m33": "the museum's bug: frozen folios left in the cache (turned down on review)",
}
"""A sentence for each id."""
