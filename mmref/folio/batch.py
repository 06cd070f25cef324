# SPDX-License-Identifier: GPL-2.0-only
"""Many ordinary folios at once.

On a machine with one CPU nobody can look between the steps that a collapse takes with one folio, so for small folios
that nobody uses the steps of all of them can be taken together. The result is the same, bit by bit (a test holds the
two ways against each other). `mmref.explore` has folios of its own class, and gets every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from mmref.folio.flags import (
    PG_HWPOISON,
    PG_LOCKED,
    PG_LRU,
    PG_PRIVATE,
    PG_SWAPCACHE,
    PG_UPTODATE,
    PG_WRITEBACK,
)
from mmref.folio.folio import Folio
from mmref.folio.lru import Lru
from mmref.sync import this_cpu

__all__ = ["claim_ordinary", "copy_ordinary", "let_go_of_ordinary"]

_LOOKED_AT = PG_LOCKED | PG_UPTODATE | PG_LRU | PG_WRITEBACK | PG_HWPOISON | PG_PRIVATE | PG_SWAPCACHE
_ORDINARY = PG_UPTODATE | PG_LRU


def claim_ordinary(folios: Sequence[object], mapping: object, start: int, lru: Lru, freeze: bool) -> bool:
    """Lock small folios, take a reference to each and isolate them; all or none.

    What `trylock()`, `get()` and `Lru.isolate()` do, and `ref_freeze()` if asked for.

    Args:
        folios: what an array of pages holds, from the first to the last page.
        mapping: the file that they must belong to.
        start: the page that the first must be.
        lru: where they must be listed.
        freeze: leave each with a count of 0 instead of 3.

    Returns:
        False if one of them is anything but small, uptodate, unlocked, on the LRU, unmapped and unused.
    """
    index, kind, looked_at, ordinary = start, Folio, _LOOKED_AT, _ORDINARY  # local names: a quarter faster
    for folio in folios:
        if (
            type(folio) is not kind
            or folio._flags & looked_at != ordinary
            or folio._refcount != 1
            or folio._mapcount
            or folio.order
            or folio.index != index
            or folio.mapping is not mapping
        ):
            return False
        index += 1
    refs, flip = 0 if freeze else 3, PG_LOCKED | PG_LRU  # the one is clear and the other set
    claimed = cast("Sequence[Folio]", folios)
    for folio in claimed:
        folio._flags ^= flip
        folio._refcount = refs
    lru.isolate_all(claimed)
    return True


def copy_ordinary(to: Folio, folios: Sequence[Folio]) -> None:
    """Copy small folios into a huge one, one after the other: what `Folio.copy_page()` does for each."""
    size = to.allocator.page_size
    position = 0
    with memoryview(to.data) as data:
        for folio in folios:
            data[position : position + size] = folio.data
            position += size
    if all(folio.initialised for folio in folios):
        to.initialised |= (1 << len(folios)) - 1
    else:
        to.initialised |= sum(folio.initialised << page for page, folio in enumerate(folios))


def let_go_of_ordinary(folios: Sequence[Folio]) -> None:
    """Free small folios that were claimed: out of their file, unlocked, with the last reference gone.

    What clearing `mapping` and the flags, `unlock()`, `put_refs()` and `PageAllocator.free()` do.
    """
    allocator = folios[0].allocator
    poison = allocator.poison
    for folio in folios:
        folio.mapping = None
        folio._flags = folio._refcount = folio.initialised = folio.index = 0
        if folio.memcg is not None:
            folio.memcg.uncharge(1)
            folio.memcg = None
        folio.data[:] = poison
        folio.free = True
    allocator.take_back(folios, this_cpu().id)
