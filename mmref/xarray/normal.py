# SPDX-License-Identifier: GPL-2.0-only
"""The normal API: whole operations by index, each of which takes the lock that it needs.

Conventions in this file: *xa* is the array (``self``), *xas* a cursor made for one operation, *index* the index
of the entry operated on, *entry* what is stored there, *curr* what was found there, *mark* one of 0, 1 and 2,
*filter* a mark or `XA_PRESENT`.

An errno of the kernel becomes an `XArrayError`. Reserved indices (`ZERO`) load as None. Memory is allocated
with the lock dropped (`GFP_KERNEL`).
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EBUSY
from os import strerror
from typing import Any, Generic, TypeVar

from mmref.errors import UsageError, XArrayError
from mmref.sync import cpu_relax
from mmref.xarray.anchor import Anchor, bad_index, bad_mark
from mmref.xarray.cursor import XaState
from mmref.xarray.entries import (
    LONG_MAX,
    RETRY,
    ULONG_MAX,
    XA_FLAGS_TRACK_FREE,
    XA_FLAGS_ZERO_BUSY,
    XA_FREE_MARK,
    XA_MAX_MARKS,
    XA_PRESENT,
    ZERO,
    Internal,
    InvalidArgument,
    TaggedPointer,
    same_entry,
    xa_flags_mark,
)
from mmref.xarray.node import XaNode
from mmref.xarray.state import NodeState, UpdateNode

__all__ = ["NormalApi"]

T = TypeVar("T")


def storable(entry: object) -> bool:
    """Refuse what the normal API cannot store; say whether the entry is a value.

    Raises:
        InvalidArgument: a node, a sibling or `RETRY` (kernel: xa_is_advanced(), -EINVAL).
        UsageError: a value that does not fit.
    """
    if type(entry) is int:
        if not 0 <= entry <= LONG_MAX:
            raise UsageError(f"{entry} cannot be stored: value entries go from 0 to 2**63 - 1")
        return True
    kind = type(entry)
    if kind is XaNode or (kind is Internal and entry is not ZERO):
        raise InvalidArgument(f"{entry!r} is reserved for the XArray itself: store another object")
    return kind is TaggedPointer


def _check_filter(filter: int) -> None:
    if filter not in (0, 1, 2, XA_PRESENT):
        raise UsageError(f"there is no filter {filter!r}: use XA_MARK_0, XA_MARK_1, XA_MARK_2 or XA_PRESENT")


class NormalApi(Anchor, Generic[T]):
    """An array with the kernel's normal API."""

    __slots__ = ()

    # -- one index ---------------------------------------------------------------------------------------------

    def load(self, index: int) -> T | None:
        """Return the entry at an index, or None.

        Kernel: xa_load(), lib/xarray.c.

        Args:
            index: 0 to 2**64 - 1.

        Raises:
            UsageError: not an index.

        Context: any; takes the RCU read lock.
        """
        entry: Any = self.xa_head
        if type(entry) is XaNode and index >= 0:
            try:
                slots = entry.slots
                entry = slots[index >> entry.shift]  # an index above the tree has no slot here
                while type(entry) is XaNode:
                    slots = entry.slots
                    shift = entry.shift
                    if shift:
                        entry = slots[index >> shift & self.chunk_mask]
                    else:
                        entry = slots[index & self.chunk_mask]
                        break
                if type(entry) is not Internal:
                    return entry  # type: ignore[no-any-return]  # slots hold anything, and a typed local costs
                entry = slots[entry.number]  # a sibling leads to that slot; reservations and `RETRY` have no such one
                kind = type(entry)
                if kind is not Internal and kind is not XaNode:
                    return entry  # type: ignore[no-any-return]  # slots hold anything, and a typed local costs
            except IndexError:
                pass
        return self._load(index)

    def _load(self, index: int) -> T | None:
        """Load by the book: chains of siblings, reservations, and another walk after a retry entry."""
        xas = XaState(self, index)
        walked_twice = False
        while True:
            entry: Any = xas.load()
            if entry is ZERO:
                return None
            if entry is not RETRY:
                found: T | None = entry
                return found
            # Whoever was in a freed node finds another one in its place at the second try.
            if walked_twice:
                cpu_relax()
            walked_twice = True
            xas.reset()

    def store(self, index: int, entry: T | None) -> T | None:
        """Store an entry at an index; None erases.

        Kernel: xa_store(), lib/xarray.c.

        An index inside a multi-index entry stands for all of that entry. Marks stay, except if None is stored.

        Args:
            index: 0 to 2**64 - 1.
            entry: any object; an ``int`` is stored as a value, from 0 to 2**63 - 1.

        Returns:
            What was there before.

        Raises:
            UsageError: not an index, or an entry that cannot be stored (`InvalidArgument`, with errno EINVAL).
            XArrayError: ENOMEM.

        Context: takes and drops xa_lock; may sleep.
        """
        value = storable(entry)
        track_free = self.xa_flags & XA_FLAGS_TRACK_FREE
        what: Any = ZERO if track_free and entry is None else entry
        xas = XaState(self, index)
        with self.xa_lock:
            while True:
                curr = xas._store(what, value)
                if track_free:
                    xas._clear_mark(XA_FREE_MARK)
                if not xas._nomem_locked():
                    break
        return self._result(xas, curr)

    def erase(self, index: int) -> T | None:
        """Erase the entry at an index; a multi-index entry goes as a whole.

        Kernel: xa_erase(), lib/xarray.c.

        Args:
            index: 0 to 2**64 - 1.

        Returns:
            What was there before.

        Raises:
            UsageError: not an index.

        Context: takes and drops xa_lock.
        """
        xas = XaState(self, index)
        with self.xa_lock:
            curr = xas._store(None, False)
        return self._result(xas, curr)

    def insert(self, index: int, entry: T | None) -> None:
        """Store an entry at an index where there is none yet; None reserves the index.

        Kernel: xa_insert(), include/linux/xarray.h.

        Args:
            index: 0 to 2**64 - 1.
            entry: as for `store()`.

        Raises:
            UsageError: not an index, or an entry that cannot be stored.
            XArrayError: EBUSY if there is an entry or a reservation, ENOMEM.

        Context: takes and drops xa_lock; may sleep.
        """
        value = storable(entry)
        what: Any = ZERO if entry is None else entry
        xas = XaState(self, index)
        with self.xa_lock:
            while True:
                if xas.load() is None:
                    xas._store(what, value)
                    if self.xa_flags & XA_FLAGS_TRACK_FREE:
                        xas._clear_mark(XA_FREE_MARK)
                else:
                    xas.set_err(-EBUSY)
                if not xas._nomem_locked():
                    break
        self._raise(xas)

    def cmpxchg(self, index: int, old: T | Internal | None, entry: T | Internal | None) -> T | None:
        """Store an entry at an index if a given one is there now.

        Kernel: xa_cmpxchg(), include/linux/xarray.h.

        Objects are compared by identity, values by value.

        Args:
            index: 0 to 2**64 - 1.
            old: what has to be there; None for nothing at all, `ZERO` for a reservation.
            entry: what to store: as for `store()`, or `ZERO` to reserve.

        Returns:
            What was there. It is `old` if the entry has been stored.

        Raises:
            UsageError: not an index, or an entry that cannot be stored.
            XArrayError: ENOMEM.

        Context: takes and drops xa_lock; may sleep.
        """
        value = storable(entry)
        xas = XaState(self, index)
        with self.xa_lock:
            while True:
                curr = xas.load()
                if same_entry(curr, old):
                    xas._store(entry, value)
                    if entry is not None and curr is None and self.xa_flags & XA_FLAGS_TRACK_FREE:
                        xas._clear_mark(XA_FREE_MARK)
                if not xas._nomem_locked():
                    break
        return self._result(xas, curr)

    def reserve(self, index: int) -> None:
        """Make sure that a later store to an empty index needs no memory.

        Kernel: xa_reserve(), include/linux/xarray.h.

        Does nothing if an entry is there. The index still loads as None.

        Args:
            index: 0 to 2**64 - 1.

        Raises:
            UsageError: not an index.
            XArrayError: ENOMEM.

        Context: takes and drops xa_lock; may sleep.
        """
        self.cmpxchg(index, None, ZERO)

    def release(self, index: int) -> None:
        """Give a reservation back; an entry stored meanwhile stays.

        Kernel: xa_release(), include/linux/xarray.h.

        Args:
            index: 0 to 2**64 - 1.

        Raises:
            UsageError: not an index.

        Context: takes and drops xa_lock.
        """
        self.cmpxchg(index, ZERO, None)

    def get_order(self, index: int) -> int:
        """Return the order of the entry at an index: log2 of how many indices it covers.

        Kernel: xa_get_order(), lib/xarray.c.

        Args:
            index: 0 to 2**64 - 1.

        Returns:
            0 to 63; 0 also if there is no entry. A range that is not a power of two counts as the next larger.

        Raises:
            UsageError: not an index.

        Context: any; takes the RCU read lock.
        """
        xas = XaState(self, index)
        return 0 if xas.load() is None else xas.get_order()

    # -- ranges ------------------------------------------------------------------------------------------------

    def store_range(self, first: int, last: int, entry: T | None) -> None:
        """Store one entry over a range of indices; None erases.

        Kernel: xa_store_range(), lib/xarray.c.

        The range is covered by as few multi-index entries as it takes. An existing multi-index entry that the
        range only touches gets the new entry, too, all of it (or is erased).

        Args:
            first: lowest index.
            last: highest index, at most 2**64 - 2.
            entry: as for `store()`, but not `ZERO`.

        Raises:
            UsageError: not a range (`InvalidArgument` if it is empty), or one that ends at 2**64 - 1 (the kernel
                never returns from those), or an entry that cannot be stored.
            XArrayError: ENOMEM; a part of the range may have been stored.

        Context: takes and drops xa_lock; may sleep.

        >>> from mmref.xarray import XArray
        >>> xa = XArray()
        >>> xa.store_range(3, 7, "abc")
        >>> [xa.load(index) for index in (2, 3, 7, 8)]
        [None, 'abc', 'abc', None]
        """
        value = storable(entry)
        if type(entry) is Internal:
            raise InvalidArgument(f"{entry!r} cannot be stored over a range: reserve single indices instead")
        if not 0 <= first <= ULONG_MAX:
            raise bad_index(first)
        if not 0 <= last <= ULONG_MAX:
            raise bad_index(last)
        if last < first:
            raise InvalidArgument(f"the range from {first} to {last} is empty: `last` is its highest index")
        if last == ULONG_MAX:
            raise UsageError(
                f"the range from {first} ends at 2**64 - 1, where the kernel's loop never ends: "
                f"end it at 2**64 - 2 and store the last index by itself"
            )
        xas = XaState(self, 0)
        while True:
            with self.xa_lock:
                ready = True
                if entry is not None:
                    # First the path to the last index, so that the head is high enough for all that follows.
                    xas.set_order(last, ((last + 1) & -(last + 1)).bit_length() - 1)
                    xas._create(True)
                    ready = not xas.error
                while ready and first <= last:
                    self._set_range(xas, first, last)
                    xas._store(entry, value)
                    if xas.error:
                        ready = False
                    else:
                        first += xas.size()
            if not xas.nomem():
                break
        self._raise(xas)

    def _set_range(self, xas: XaState, first: int, last: int) -> None:
        """Aim a cursor at the largest entry that can begin a range (kernel: xas_set_range())."""
        chunk_shift = self.chunk_shift
        mask = self.chunk_mask
        shift = 0
        sibs = last - first
        offset = mask
        xas.set(first)
        while first & mask == 0:
            if sibs < mask or (sibs == mask and offset < mask):
                break
            shift += chunk_shift
            if offset == mask:
                offset = sibs & mask
            sibs >>= chunk_shift
            first >>= chunk_shift
        offset = first & mask
        if offset + sibs > mask:
            sibs = mask - offset
        if ((first + sibs + 1) << shift) - 1 > last:
            sibs -= 1
        xas.shift = shift
        xas.sibs = sibs

    def destroy(self) -> None:
        """Empty the array, and free all its nodes.

        Kernel: xa_destroy(), lib/xarray.c.

        Context: takes and drops xa_lock.
        """
        xas = XaState(self, 0)
        xas.node = None
        with self.xa_lock:
            head = self.xa_head
            self.xa_head = None
            xas._init_marks()
            if self.xa_flags & XA_FLAGS_ZERO_BUSY and self.xa_flags & xa_flags_mark(XA_FREE_MARK):
                self.xa_flags &= ~xa_flags_mark(XA_FREE_MARK)
            if type(head) is XaNode:
                xas._free_nodes(head)

    def delete_node(self, node: XaNode, update: UpdateNode | None = None) -> None:
        """Cut a node out of the tree, with everything that it holds.

        Kernel: xa_delete_node(), lib/xarray.c.

        Args:
            node: a node of this array.
            update: called after each change of a node's counts.

        Raises:
            UsageError: a node that is not in this array, or not any more.

        Context: xa_lock held.
        """
        if node.array is not self:
            raise UsageError(f"{node!r} is not in this array (any more): look it up again under the lock")
        shift = node.shift + self.chunk_shift
        xas = XaState(self, (node.offset << shift) & ULONG_MAX, update=update)
        xas.shift = shift
        xas.offset = node.offset
        xas.node = node.parent
        xas._store(None, False)

    # -- searching ---------------------------------------------------------------------------------------------

    def find(self, index: int, max: int = ULONG_MAX, filter: int = XA_PRESENT) -> tuple[int, T] | None:
        """Find the first entry at or after an index.

        Kernel: xa_find(), lib/xarray.c.

        Args:
            index: where to begin.
            max: the highest index to look at.
            filter: `XA_PRESENT` for any entry, or a mark that it must have.

        Returns:
            Its index and the entry; None if there is none. Begun in the middle of a multi-index entry, the index
            is the given one; for a mark it is where the entry begins.

        Raises:
            UsageError: not an index, or no such filter.

        Context: any; takes the RCU read lock.
        """
        _check_filter(filter)
        if not 0 <= max <= ULONG_MAX:
            raise bad_index(max)
        xas = XaState(self, index)
        while True:
            if filter < XA_MAX_MARKS:
                entry = xas.find_marked(max, filter)
            else:
                entry = xas.find(max)
            if not xas.retry(entry):
                break
        return None if entry is None else (xas.index, entry)

    def find_after(self, index: int, max: int = ULONG_MAX, filter: int = XA_PRESENT) -> tuple[int, T] | None:
        """Find the first entry that begins after an index.

        Kernel: xa_find_after(), lib/xarray.c.

        Args:
            index: where the search begins, exclusive.
            max: the highest index to look at.
            filter: `XA_PRESENT` for any entry, or a mark that it must have.

        Returns:
            Its index and the entry; None if there is none.

        Raises:
            UsageError: not an index, or no such filter. Also where the kernel finds a marked multi-index entry
                again and again: iterate with `items(mark=...)` or a cursor instead.

        Context: any; takes the RCU read lock.
        """
        _check_filter(filter)
        if not 0 <= index <= ULONG_MAX:
            raise bad_index(index)
        if not 0 <= max <= ULONG_MAX:
            raise bad_index(max)
        if index == ULONG_MAX:
            return None
        xas = XaState(self, index + 1)
        while True:
            if filter < XA_MAX_MARKS:
                entry = xas.find_marked(max, filter)
            else:
                entry = xas.find(max)
            node = xas.node
            if type(node) is NodeState:
                break
            if node is not None:
                # In the middle of an entry that began earlier (kernel: xas_sibling()).
                mask = (self.chunk_size << node.shift) - 1
                if xas.index & mask > xas.offset << node.shift:
                    continue
            if not xas.retry(entry):
                break
        if entry is None:
            return None
        if xas.index <= index:
            raise UsageError(
                f"find_after({index}) with a mark would find the multi-index entry at {xas.index} over and over, "
                f"as xa_find_after() does: use items(mark=...) or a cursor's for_each_marked()"
            )
        return xas.index, entry

    def for_each(self, first: int = 0, last: int = ULONG_MAX, filter: int = XA_PRESENT) -> Iterator[tuple[int, T]]:
        """Go through entries, looking each one up anew, so that the array may be changed meanwhile.

        Kernel: xa_for_each_range(), include/linux/xarray.h.

        `items()` does the same faster.

        Args:
            first: lowest index.
            last: highest index.
            filter: `XA_PRESENT` for all entries, or a mark that they must have.

        Raises:
            UsageError: as `find_after()`.

        Context: any; takes the RCU read lock for each step.
        """
        found = self.find(first, last, filter)
        while found is not None:
            yield found
            found = self.find_after(found[0], last, filter)

    def extract(self, start: int = 0, max: int = ULONG_MAX, n: int | None = None, filter: int = XA_PRESENT) -> list[T]:
        """Copy entries into a list.

        Kernel: xa_extract(), lib/xarray.c.

        Args:
            start: lowest index.
            max: highest index.
            n: how many entries at most; None for all.
            filter: `XA_PRESENT` for any entry, or a mark that they must have.

        Raises:
            UsageError: not an index, no such filter, or a negative count.

        Context: any; takes the RCU read lock.
        """
        _check_filter(filter)
        if not 0 <= max <= ULONG_MAX:
            raise bad_index(max)
        if n is not None and n < 0:
            raise UsageError(f"{n} entries cannot be extracted: give a count, or None for all")
        xas = XaState(self, start)
        entries: list[T] = []
        if n == 0:
            return entries
        found = xas.for_each_marked(max, filter) if filter < XA_MAX_MARKS else xas.for_each(max)
        for entry in found:
            if xas.retry(entry):
                continue
            entries.append(entry)
            if len(entries) == n:
                break
        return entries

    # -- marks -------------------------------------------------------------------------------------------------

    def get_mark(self, index: int, mark: int) -> bool:
        """Say whether the entry at an index has a mark.

        Kernel: xa_get_mark(), lib/xarray.c.

        Args:
            index: 0 to 2**64 - 1.
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Raises:
            UsageError: not an index, or no such mark.

        Context: any; takes the RCU read lock.
        """
        xas = XaState(self, index)
        entry = xas._start()
        while xas.get_mark(mark):
            if type(entry) is not XaNode:
                return True
            entry = xas._descend(entry)
        return False

    def set_mark(self, index: int, mark: int) -> None:
        """Mark the entry at an index; does nothing if there is none.

        Kernel: xa_set_mark(), lib/xarray.c.

        Args:
            index: 0 to 2**64 - 1.
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Raises:
            UsageError: not an index, or no such mark.

        Context: takes and drops xa_lock.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        xas = XaState(self, index)
        with self.xa_lock:
            if xas.load() is not None:
                xas._set_mark(mark)

    def clear_mark(self, index: int, mark: int) -> None:
        """Take a mark off the entry at an index.

        Kernel: xa_clear_mark(), lib/xarray.c.

        Args:
            index: 0 to 2**64 - 1.
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Raises:
            UsageError: not an index, or no such mark.

        Context: takes and drops xa_lock.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        xas = XaState(self, index)
        with self.xa_lock:
            if xas.load() is not None:
                xas._clear_mark(mark)

    # -- results -----------------------------------------------------------------------------------------------

    def _result(self, xas: XaState, curr: Any) -> T | None:
        """Turn what a cursor found into what the caller sees (kernel: xas_result())."""
        if curr is ZERO:
            return None
        self._raise(xas)
        result: T | None = curr
        return result

    def _raise(self, xas: XaState) -> None:
        """Raise the error that a cursor carries, if any."""
        error = -xas.error
        if error:
            if error == EBUSY:
                raise XArrayError(error, f"index {xas.index} is taken: an entry or a reservation is there")
            raise XArrayError(error, f"the operation at index {xas.index} failed: {strerror(error)}")
