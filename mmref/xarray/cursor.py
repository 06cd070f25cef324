# SPDX-License-Identifier: GPL-2.0-only
"""The cursor, complete: the loops over a range.

Conventions in this file: *xas* is the cursor (``self``), *max* the highest index to go to.

The loops are generators that keep all their state in the cursor, so the body may do to the cursor what the
body of the kernel's loops may do: store, mark, pause, and leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmref.xarray.entries import ULONG_MAX
from mmref.xarray.split import Split

__all__ = ["XaState"]


class XaState(Split):
    """A cursor: a position in an array, and the range that is to be stored there.

    Kernel: struct xa_state, include/linux/xarray.h.

    Args:
        xa: the array.
        index: the index of interest.
        order: log2 of how many indices the entry to be stored shall cover; the index is rounded down to that.
        update: called after each change of a node's counts.

    Attributes:
        index: the current index.
        node: an `XaNode`, None at the head, or `XAS_RESTART`, `XAS_BOUNDS` or an error.
        offset: the slot in that node.
        shift: together with `sibs`: how much a store covers.
        sibs: sibling slots that a store writes.
        error: 0 or a negative errno, which stays until `reset()` or `set()`.

    >>> from mmref.xarray import XArray
    >>> xa = XArray()
    >>> for index in (3, 64, 70):
    ...     _ = xa.store(index, f"page {index}")
    >>> xas = XaState(xa, 4)
    >>> [(xas.index, entry) for entry in xas.for_each(100)]
    [(64, 'page 64'), (70, 'page 70')]
    """

    __slots__ = ()

    def for_each(self, max: int = ULONG_MAX) -> Iterator[Any]:
        """Go through the present entries from the cursor's index on.

        Kernel: xas_for_each(), include/linux/xarray.h.

        Yields `RETRY` and `ZERO` too: call ``xas.retry(entry)`` for each entry where those can occur.

        Args:
            max: the highest index.

        Context: xa_lock or the RCU read lock; call `pause()` before dropping it.
        """
        entry = self.find(max)
        while entry is not None:
            yield entry
            entry = self.next_entry(max)

    def for_each_marked(self, max: int, mark: int) -> Iterator[Any]:
        """Go through the entries with a mark from the cursor's index on.

        Kernel: xas_for_each_marked(), include/linux/xarray.h.

        Args:
            max: the highest index.
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Raises:
            UsageError: no such mark.

        Context: xa_lock or the RCU read lock; call `pause()` before dropping it.
        """
        entry = self.find_marked(max, mark)
        while entry is not None:
            yield entry
            entry = self.next_marked(max, mark)

    def for_each_conflict(self) -> Iterator[Any]:
        """Go through the entries inside the range that the cursor's order asks for.

        Kernel: xas_for_each_conflict(), include/linux/xarray.h.

        Context: xa_lock held.
        """
        entry = self.find_conflict()
        while entry is not None:
            yield entry
            entry = self.find_conflict()
