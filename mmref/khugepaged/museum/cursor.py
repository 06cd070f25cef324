# SPDX-License-Identifier: GPL-2.0-only
"""The cursor over i_pages, which points into the tree while others change it."""

from __future__ import annotations

from typing_extensions import override

from mmref.folio import Folio
from mmref.khugepaged.freeze_and_replace import FreezeAndReplace
from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.strategy import Abandon, CollapseRun
from mmref.khugepaged.upstream_6_12 import Upstream612
from mmref.xarray import XaNode

__all__ = ["CursorReset", "NodeForgotten", "StaleCursor", "StaleCursorStore"]


class CursorReset(Exhibit, LockAndInsertLate):
    """The first regression of the seed patch: the cursor is set back to the index, and the next step returns it again.

    The page there is locked, by this very collapse: it always fails. An assertion that debugging kernels have
    moved the cursor on, so that they did not show it.
    """

    name = "cursor-reset"
    mutation = "m35"
    fixed_by = "c8a8f3b4a95a, v6.4"
    summary = "lock-and-insert-late, but the cursor meets each page twice"
    races_in = ("quiet",)

    look_at = FreezeAndReplace.look_at

    @override
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Set the cursor, as when there was something to store."""
        run.xas.set(folio.index)
        super().claim_old(run, folio)


class StaleCursor(Exhibit, Upstream612):
    """The second regression: the cursor is kept while i_pages is unlocked, and may then point to a freed node."""

    name = "stale-cursor"
    mutation = "m36"
    fixed_by = "e8c716bc6812, v6.4.1"
    summary = "upstream-6.12, but the cursor is kept while i_pages is unlocked"
    races_in = ("punch", "punch-all", "truncate")

    look_at = FreezeAndReplace.look_at


class StaleCursorStore(Exhibit, FreezeAndReplace):
    """The same mistake in the first version of collapse_shmem(), which stores at the cursor."""

    name = "stale-cursor-store"
    mutation = "m01"
    fixed_by = "91a45f71078a, v4.10"
    summary = "freeze-and-replace, but the cursor is kept while i_pages is unlocked"
    races_in = ("punch", "punch-all", "truncate")

    @override
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Freeze the old folio, and store the new one where the cursor was before."""
        if not folio.ref_freeze(3):
            raise Abandon(ScanResult.PAGE_COUNT)
        run.old.append(folio)
        run.xas.store(run.new)


class NodeForgotten(Exhibit, FreezeAndReplace):
    """Rolling back empties slots without telling their node: it counts them for ever, and is never freed."""

    name = "node-forgotten"
    mutation = "m02"
    fixed_by = "59749e6ce537, v4.10"
    summary = "freeze-and-replace, but rolling back empties slots behind the back of their node"
    races_in = ("pinned",)

    @override
    def empty_slot(self, run: CollapseRun) -> None:
        """Write the slot, and no more."""
        node = run.xas.node
        assert isinstance(node, XaNode)
        node.slots[run.xas.offset] = None
