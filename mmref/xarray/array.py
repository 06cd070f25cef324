# SPDX-License-Identifier: GPL-2.0-only
"""The array as Python sees it: a sparse, ordered mapping from indices to entries.

Conventions in this file: *xa* is the array (``self``), *start* and *stop* bound a range the way Python does
(*stop* is not part of it), *mark* is one of 0, 1 and 2, *leaf* a node whose slots hold single indices.

A multi-index entry counts once, at the index where it begins (or where the range begins, if that is inside it).
Reserved indices do not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, compress, islice
from types import NoneType
from typing import TypeVar, overload

from mmref.errors import UsageError
from mmref.xarray.anchor import bad_index, bad_mark
from mmref.xarray.check import check as check_array
from mmref.xarray.cursor import XaState
from mmref.xarray.dump import dump as dump_array
from mmref.xarray.dump import nodes_of
from mmref.xarray.entries import ULONG_MAX, Internal
from mmref.xarray.node import XaNode
from mmref.xarray.shortcuts import Shortcuts

__all__ = ["XArray"]

T = TypeVar("T")


class _Shows(dict[type, bool]):
    """Which kinds of entries show in an iteration. At a slot that shows nothing, whoever asks is told to stop.

    Attributes:
        ended: whether that has happened.
    """

    __slots__ = ("ended",)

    def __missing__(self, kind: type) -> bool:
        if kind is NoneType or kind is Internal:
            self.ended = True
            raise StopIteration
        self[kind] = True
        return True


class XArray(Shortcuts[T]):
    """A sparse array of 2**64 entries, all None at first.

    Kernel: struct xarray, include/linux/xarray.h.

    The methods named as in the kernel take and return what the kernel's functions do. Beside them the array is a
    mapping of the indices that hold an entry: ``xa[i]``, ``xa[i] = entry``, ``del xa[i]``, ``i in xa``, iteration
    in the order of the indices, and ranges as ``xa[a:b] = entry`` and ``del xa[a:b]``.

    Args:
        chunk_shift: log2 of the slots per node, 1 to 6. The kernel's is 6 (4 on small machines).
        flags: `XA_FLAGS_ALLOC` or `XA_FLAGS_ALLOC1` for an array that hands out indices.
        allocator: where nodes come from; one of its own by default.
        lock: what `xa_lock` is to be; a `SpinLock` of its own by default.

    Raises:
        UsageError: another chunk_shift, or unknown flags.

    >>> xa: XArray[str] = XArray()
    >>> xa[5] = "five"
    >>> xa[100:200] = "a hundred"
    >>> 5 in xa, 6 in xa, xa[150]
    (True, False, 'a hundred')
    >>> del xa[100:200]
    >>> xa
    <XArray 1 entry, 1 node of 64 slots>
    """

    __slots__ = ()

    # -- one index ---------------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> dict[int, T]: ...
    def __getitem__(self, index: int | slice) -> T | dict[int, T]:
        if isinstance(index, slice):
            start, stop = self._bounds(index)
            return dict(self.items(start, stop))
        entry = self.load(index)
        if entry is None:
            raise KeyError(index)
        return entry

    def __setitem__(self, index: int | slice, entry: T | None) -> None:
        if type(index) is not slice:
            self.store(index, entry)
            return
        start, stop = self._bounds(index)
        if start < stop:
            self.store_range(start, stop - 1, entry)

    def __delitem__(self, index: int | slice) -> None:
        if isinstance(index, slice):
            start, stop = self._bounds(index)
            if start < stop:
                self.store_range(start, stop - 1, None)
        elif self.erase(index) is None:
            raise KeyError(index)

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and 0 <= index <= ULONG_MAX and self.load(index) is not None

    def get(self, index: int, default: T | None = None) -> T | None:
        """Return the entry at an index, or a default.

        Raises:
            UsageError: not an index.
        """
        entry = self.load(index)
        return default if entry is None else entry

    def update(self, entries: Mapping[int, T] | Iterable[tuple[int, T]]) -> None:
        """Store many entries, each at its index.

        Args:
            entries: a mapping, or pairs of index and entry.

        Raises:
            UsageError: not an index, or an entry that cannot be stored; those before it have been stored.
            XArrayError: ENOMEM.

        >>> xa: XArray[str] = XArray()
        >>> xa.update({1: "one", 2: "two"})
        >>> list(xa.items())
        [(1, 'one'), (2, 'two')]
        """
        pairs = entries.items() if isinstance(entries, Mapping) else entries
        store = self.store
        for index, entry in pairs:
            store(index, entry)

    # -- all indices -------------------------------------------------------------------------------------------

    def items(self, start: int = 0, stop: int = ULONG_MAX + 1, mark: int | None = None) -> Iterator[tuple[int, T]]:
        """Go through indices and entries in order; the array may be changed meanwhile.

        Kernel: xas_for_each(), include/linux/xarray.h.

        Args:
            start: lowest index.
            stop: the index after the highest one.
            mark: only entries with this mark.

        Raises:
            UsageError: bounds that are not indices, or no such mark.

        Context: any; takes the RCU read lock.

        >>> xa: XArray[str] = XArray()
        >>> xa.update({1: "one", 70: "seventy", 4096: "many"})
        >>> xa.set_mark(70, 1)
        >>> list(xa.items(2, 4097)), list(xa.items(mark=1))
        ([(70, 'seventy'), (4096, 'many')], [(70, 'seventy')])
        """
        if not 0 <= start <= ULONG_MAX + 1:
            raise bad_index(start)
        if not 0 <= stop <= ULONG_MAX + 1:
            raise bad_index(stop)
        if mark is None:
            return self._items(start, stop)
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        return self._marked_items(start, stop, mark)

    def _items(self, start: int, stop: int) -> Iterator[tuple[int, T]]:
        """Go through all entries."""
        return chain.from_iterable(self._runs(start, stop))

    def _runs(self, start: int, stop: int) -> Iterator[Iterable[tuple[int, T]]]:
        """Yield the entries run by run; whoever asks for the next run has come to the end of the one before.

        A full leaf is a run that needs no loop here: `compress()` and the others read each slot when its turn comes.
        """
        if start >= stop:
            return
        mask = self.chunk_mask
        shows = _Shows()
        xas = XaState(self, start)
        entry = xas.find(stop - 1)
        while entry is not None:
            index = xas.index
            node = xas.node
            if type(node) is not XaNode or node.shift or not self._quick:
                if not xas.retry(entry):
                    yield ((index, entry),)
            elif node.count <= mask or index & mask:
                if xas.offset != index & mask:
                    yield ((index, entry),)  # in the middle of an entry, which shows where the range begins
                yield self._leaves(xas, node, stop)
            else:
                while index + mask < stop:
                    pairs = enumerate(node.slots, index)
                    shows.ended = False
                    yield compress(pairs, map(shows.__getitem__, map(type, node.slots)))
                    index += mask + 1
                    if shows.ended:
                        # At a slot that shows nothing (any more): the rest of the leaf slot by slot.
                        xas.index = next(pairs, (index,))[0] - 1
                        yield self._leaves(xas, node, stop)
                        break
                    sister = self._sister(node)
                    if sister is None or sister.count <= mask:
                        self._leave(xas, node, index - 1, stop)
                        break
                    node = sister
                else:
                    xas.index = index
                    yield self._leaves(xas, node, stop)
            entry = xas.find(stop - 1)

    def _leaves(self, xas: XaState, node: XaNode, stop: int) -> Iterator[tuple[int, T]]:
        """Go through a leaf from the cursor on, and through its sisters up to a full one."""
        mask = self.chunk_mask
        base = xas.index & ~mask
        first = xas.index & mask
        while True:
            for pair in islice(enumerate(node.slots, base), first, min(stop - base, mask + 1)):
                entry = pair[1]
                if entry is not None and type(entry) is not Internal:
                    yield pair
                elif node.array is None:
                    xas.set(pair[0])  # freed meanwhile: there may be another leaf in its place
                    return
            base += mask + 1
            sister = self._sister(node)
            if sister is None or sister.count > mask or base >= stop:
                self._leave(xas, node, base - 1, stop)
                return
            node = sister
            first = 0

    def _sister(self, node: XaNode) -> XaNode | None:
        """Return the node beside this one, if there is one below the same parent."""
        parent = node.parent
        if node.array is None or parent is None or node.offset == self.chunk_mask:
            return None
        sister = parent.slots[node.offset + 1]
        return sister if type(sister) is XaNode else None

    def _leave(self, xas: XaState, leaf: XaNode, last: int, stop: int) -> None:
        """Put the cursor on the last index of a leaf; behind it, by another walk, if the leaf has been freed."""
        if leaf.array is None and last + 1 < stop:
            xas.set(last + 1)
        else:
            xas.node = leaf
            xas.offset = self.chunk_mask
            xas.index = last

    def _marked_items(self, start: int, stop: int, mark: int) -> Iterator[tuple[int, T]]:
        """Go through the entries with a mark."""
        if start >= stop:
            return
        xas = XaState(self, start)
        for entry in xas.for_each_marked(stop - 1, mark):
            if not xas.retry(entry):
                index = xas.index
                yield (index if index > start else start), entry

    def keys(self, start: int = 0, stop: int = ULONG_MAX + 1, mark: int | None = None) -> Iterator[int]:
        """Go through the indices that hold an entry, in order.

        Args:
            start: lowest index.
            stop: the index after the highest one.
            mark: only entries with this mark.

        Raises:
            UsageError: bounds that are not indices, or no such mark.
        """
        return (index for index, _ in self.items(start, stop, mark))

    def values(self, start: int = 0, stop: int = ULONG_MAX + 1, mark: int | None = None) -> Iterator[T]:
        """Go through the entries in the order of their indices.

        Args:
            start: lowest index.
            stop: the index after the highest one.
            mark: only entries with this mark.

        Raises:
            UsageError: bounds that are not indices, or no such mark.
        """
        return (entry for _, entry in self.items(start, stop, mark))

    def __iter__(self) -> Iterator[int]:
        return self.keys()

    def __len__(self) -> int:
        # Nothing keeps this number: it is counted, without that being an access.
        head = self._peek_head()
        if type(head) is not XaNode:
            return int(head is not None and type(head) is not Internal)
        return sum(
            entry is not None and type(entry) is not Internal and type(entry) is not XaNode
            for node in nodes_of(head)
            for entry in list.__iter__(node.slots)
        )

    def __bool__(self) -> bool:
        return not self.empty()

    def __repr__(self) -> str:
        entries = len(self)
        head = self._peek_head()
        nodes = sum(1 for _ in nodes_of(head)) if type(head) is XaNode else 0
        return (
            f"<{type(self).__name__} {entries} {'entry' if entries == 1 else 'entries'}, "
            f"{nodes} {'node' if nodes == 1 else 'nodes'} of {self.chunk_size} slots>"
        )

    # -- inspection --------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """Describe the whole tree, a line for each node and entry.

        Kernel: xa_dump(), lib/xarray.c.

        Context: any; better with xa_lock held.
        """
        return dump_array(self)

    def check(self) -> None:
        """Assert everything that must hold while nobody is changing the array.

        Raises:
            InvariantViolation: something does not hold; the whole tree has been printed to stderr.

        Context: xa_lock, or nobody else around.
        """
        check_array(self)

    def _bounds(self, part: slice) -> tuple[int, int]:
        """Turn a slice into bounds."""
        start = 0 if part.start is None else part.start
        stop = ULONG_MAX + 1 if part.stop is None else part.stop
        if part.step is not None:
            raise UsageError(f"a range with step {part.step!r}: ranges of an XArray have no step")
        if not isinstance(start, int) or not 0 <= start <= ULONG_MAX + 1:
            raise bad_index(start)
        if not isinstance(stop, int) or not 0 <= stop <= ULONG_MAX + 1:
            raise bad_index(stop)
        return start, stop
