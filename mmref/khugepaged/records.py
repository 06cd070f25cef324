# SPDX-License-Identifier: GPL-2.0-only
"""Where a race is on record: what the ids in `CollapseStrategy.known_races` stand for."""

from __future__ import annotations

from typing import Final

__all__ = ["RECORDS"]

RECORDS: Final = {
    "B31": "a hole is filled that a userfaultfd monitor knows to be missing; mended by Linux ac492b9c70ca (v6.4)",
    "B32": "the new folio is in the cache before it is uptodate; mended by Linux a2e17cc2efc7 (v6.4)",
    "B38": "blocks are given back twice, by uncharge and by a concurrent recalc; mended by Linux 3c1b7528d896 (v6.6)",
    "B41": "the scan looks at folios without a reference; mended by Linux 595cf683519a (v6.16)",
    "F1": "SEEK_HOLE skips the siblings of an entry that it has not seen; docs/findings.md",
    "F2": "SEEK_DATA, asked in a hole, skips them too; docs/findings.md",
    "F3": "invalidate_lock is taken with folio locks held, truncation takes them the other way round; docs/findings.md",
    "m32": "the museum's bug: inserted, then marked uptodate",
    "m33": "the museum's bug: frozen folios left in the cache (turned down on review)",
}
"""A sentence for each id."""
