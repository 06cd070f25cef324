# SPDX-License-Identifier: GPL-2.0-only
"""What must be true of a file when nobody is working on it.

The ids (Q1, Q2, ...) are those of docs/invariants.md. Nothing here is an access of the simulated machine: the
tree is read through its own snapshot, folios through `peek()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmref.errors import InvariantViolation
from mmref.folio import PG_LOCKED, PG_LRU, PG_UPTODATE, Folio
from mmref.pagecache.mapping import AddressSpace
from mmref.pagecache.shmem import BLOCK_SIZE, ShmemInode
from mmref.xarray import XaNode, XArray, is_sibling

__all__ = ["check_file", "entries_of", "folios_of"]


def entries_of(xa: XArray[Any]) -> Iterator[tuple[int, object]]:
    """Yield what lookups can find, as (first index, entry), without that being an access; siblings are left out."""
    head = xa._peek_head()
    if type(head) is XaNode:
        yield from _node_entries(head, 0)
    elif head is not None:
        yield 0, head


def _node_entries(node: XaNode, base: int) -> Iterator[tuple[int, object]]:
    for offset, entry in enumerate(list.copy(node.slots)):
        index = base + (offset << node.shift)
        if type(entry) is XaNode:
            yield from _node_entries(entry, index)
        elif entry is not None and not is_sibling(entry):
            yield index, entry


def folios_of(mapping: AddressSpace) -> dict[int, Folio]:
    """Return the folios of a file by page index; a huge one stands at each index that it covers."""
    return {
        at: entry
        for index, entry in entries_of(mapping.i_pages)
        if isinstance(entry, Folio)
        for at in range(index, index + entry.nr_pages)
    }


def check_file(inode: ShmemInode, pins: Mapping[Folio, int] | None = None) -> None:
    """Check every invariant that holds at rest.

    Args:
        inode: the file.
        pins: how many references others hold to a folio, if any.

    Raises:
        InvariantViolation: naming the first that does not, and what was found.
    """
    inode.i_mapping.i_pages.check()
    cached = folios_of(inode.i_mapping)
    _check_accounting(inode, len(cached))
    for folio in dict.fromkeys(cached.values()):
        _check_folio(inode, folio, (pins or {}).get(folio, 0))


def _check_accounting(inode: ShmemInode, cached: int) -> None:
    nrpages = inode.i_mapping.nrpages
    if nrpages != cached:
        raise InvariantViolation("Q1", f"nrpages is {nrpages}, but folios cover {cached} indices")
    if inode.alloced != nrpages + inode.swapped:
        raise InvariantViolation(
            "Q2", f"alloced is {inode.alloced}, but nrpages {nrpages} + swapped {inode.swapped} is not that"
        )
    blocks = inode.alloced * (inode.memory.page_size // BLOCK_SIZE)
    if inode.i_blocks != blocks:
        raise InvariantViolation("Q2", f"i_blocks is {inode.i_blocks}, but {inode.alloced} pages are {blocks} blocks")


def _check_folio(inode: ShmemInode, folio: Folio, pins: int) -> None:
    flags, refs = folio.peek()
    lru = inode.memory.lru
    if flags & PG_LOCKED:
        raise InvariantViolation("Q5", f"{folio!r} is locked, but nobody is there who holds the lock")
    waiting = lru.waiting(folio)
    listed = folio in lru
    if bool(flags & PG_LRU) != listed or listed + waiting != 1:
        raise InvariantViolation(
            "Q6", f"{folio!r} should be on the LRU list or in one batch: listed {listed}, in {waiting} batches"
        )
    expected = folio.nr_pages + waiting + pins
    if refs != expected:
        raise InvariantViolation(
            "Q7", f"{folio!r} has {refs} references, but cache, batches and pins account for {expected}"
        )
    if flags & PG_UPTODATE and folio.initialised != (1 << folio.nr_pages) - 1:
        raise InvariantViolation(
            "A4", f"{folio!r} is uptodate, but only pages {folio.initialised:#b} (a bit each) were ever written"
        )
    if folio.mapping is not inode.i_mapping:
        raise InvariantViolation(
            "A6", f"{folio!r} is in the cache of {inode.name}, but says it belongs to {folio.mapping!r}"
        )
