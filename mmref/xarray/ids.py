# SPDX-License-Identifier: GPL-2.0-only
"""Handing out free indices, in arrays made with `XA_FLAGS_ALLOC` or `XA_FLAGS_ALLOC1`.

Such arrays keep mark 0, the free mark, on every index that is free, so the lowest free one is a search for a
mark. Storing None in them reserves the index; only `erase()` makes it free again.

Conventions in this file: *id* is an index handed out, 32 bits as in the kernel; *min* and *max* are the
limits of a request, both inclusive; *next* is where a cyclic search goes on.
"""

from __future__ import annotations

from errno import EBUSY
from typing import Any, NamedTuple, TypeVar

from mmref.errors import UsageError, XArrayError
from mmref.xarray.cursor import XaState
from mmref.xarray.entries import (
    XA_FLAGS_ALLOC_WRAPPED,
    XA_FLAGS_TRACK_FREE,
    XA_FREE_MARK,
    ZERO,
    Internal,
    InvalidArgument,
)
from mmref.xarray.normal import NormalApi, storable
from mmref.xarray.state import XAS_RESTART

__all__ = ["UINT_MAX", "CyclicId", "IdApi"]

T = TypeVar("T")

UINT_MAX = 2**32 - 1
"""The highest index that can be handed out."""


class CyclicId(NamedTuple):
    """What `alloc_cyclic()` found.

    Attributes:
        id: the index handed out.
        next: where the next search should begin.
        wrapped: whether the search had to start again at the lower limit, now or since last time.
    """

    id: int
    next: int
    wrapped: bool


class IdApi(NormalApi[T]):
    """An array that can also find free indices."""

    __slots__ = ()

    def alloc(self, entry: T | None, min: int = 0, max: int = UINT_MAX) -> int:
        """Store an entry at the lowest free index; None reserves it.

        Kernel: xa_alloc(), include/linux/xarray.h.

        Args:
            entry: as for `store()`, but not `ZERO`.
            min: lowest index to hand out.
            max: highest index to hand out.

        Returns:
            The index.

        Raises:
            UsageError: limits that are not 32-bit numbers; an array without the free mark, or an entry that
                cannot be stored (both `InvalidArgument`, with errno EINVAL).
            XArrayError: EBUSY if all are taken, ENOMEM.

        Context: takes and drops xa_lock; may sleep.

        >>> from mmref.xarray import XA_FLAGS_ALLOC1, XArray
        >>> xa = XArray(flags=XA_FLAGS_ALLOC1)
        >>> xa.alloc("first"), xa.alloc("second")
        (1, 2)
        """
        value = self._check_request(entry, min, max)
        with self.xa_lock:
            xas = self._alloc_id(entry, value, min, max)
        self._raise_alloc(xas, min, max)
        return xas.index

    def alloc_cyclic(self, entry: T | None, next: int, min: int = 0, max: int = UINT_MAX) -> CyclicId:
        """Store an entry at the first free index from `next` on, or else from `min` on.

        Kernel: xa_alloc_cyclic(), include/linux/xarray.h.

        Args:
            entry: as for `store()`, but not `ZERO`.
            next: where to begin; what the last call returned as `next`.
            min: lowest index to hand out.
            max: highest index to hand out.

        Returns:
            The index, where to go on, and whether the search wrapped around.

        Raises:
            UsageError: as `alloc()`.
            XArrayError: EBUSY if all are taken, ENOMEM.

        Context: takes and drops xa_lock; may sleep.

        >>> from mmref.xarray import XA_FLAGS_ALLOC, XArray
        >>> xa = XArray(flags=XA_FLAGS_ALLOC)
        >>> xa.alloc_cyclic("a", next=7, max=7)
        CyclicId(id=7, next=8, wrapped=False)
        >>> xa.alloc_cyclic("b", next=8, max=7)
        CyclicId(id=0, next=1, wrapped=True)
        """
        value = self._check_request(entry, min, max)
        if not 0 <= next <= UINT_MAX:
            raise UsageError(f"{next!r} is no place to go on from: indices handed out go from 0 to 2**32 - 1")
        wrapped = False
        with self.xa_lock:
            start = next if next > min else min
            xas = self._alloc_id(entry, value, start, max)
            if not xas.error and self.xa_flags & XA_FLAGS_ALLOC_WRAPPED:
                self.xa_flags &= ~XA_FLAGS_ALLOC_WRAPPED
                wrapped = True
            if xas.error and start > min:
                xas = self._alloc_id(entry, value, min, max)
                wrapped = True
            if not xas.error:
                next = (xas.index + 1) & UINT_MAX
                if next == 0:
                    self.xa_flags |= XA_FLAGS_ALLOC_WRAPPED
        self._raise_alloc(xas, min, max)
        return CyclicId(xas.index, next, wrapped)

    def _check_request(self, entry: object, min: int, max: int) -> bool:
        """Refuse what cannot be handed an index; say whether the entry is a value."""
        value = storable(entry)
        if type(entry) is Internal:
            raise InvalidArgument(f"{entry!r} cannot be given an index: None reserves one")
        if not self.xa_flags & XA_FLAGS_TRACK_FREE:
            raise InvalidArgument("this array does not track free indices: make it with flags=XA_FLAGS_ALLOC")
        if not 0 <= min <= UINT_MAX or not 0 <= max <= UINT_MAX:
            raise UsageError(f"limits {min!r} to {max!r}: indices handed out go from 0 to 2**32 - 1")
        return value

    def _alloc_id(self, entry: Any, value: bool, min: int, max: int) -> XaState:
        """Find a free index and store there; the cursor tells how it went (kernel: __xa_alloc())."""
        xas = XaState(self, min)
        if entry is None:
            entry = ZERO
        while True:
            xas.index = min
            xas.find_marked(max, XA_FREE_MARK)
            if xas.node is XAS_RESTART:
                xas.set_err(-EBUSY)
            found = xas.index
            xas._store(entry, value)
            xas._clear_mark(XA_FREE_MARK)
            if not xas._nomem_locked():
                break
        xas.index = found
        return xas

    def _raise_alloc(self, xas: XaState, min: int, max: int) -> None:
        """Raise what the search for an index failed with, if it did."""
        if xas.error == -EBUSY:
            raise XArrayError(EBUSY, f"no index from {min} to {max} is free")
        self._raise(xas)
