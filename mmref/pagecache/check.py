# SPDX-License-Identifier: GPL-2.0-only
"""What must be true of a file, and of the whole machine, when nobody is working on it.

The ids (Q1, Q2, ...) are those of docs/invariants.md. Nothing here is an access of the simulated machine: the
tree is read through its own snapshot, folios through `peek()`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmref.errors import InvariantViolation
from mmref.folio import PG_LOCKED, PG_LRU, PG_PRIVATE, PG_SWAPCACHE, PG_UPTODATE, Folio
from mmref.pagecache.inode import BLOCK_SIZE, Inode
from mmref.pagecache.mapping import AddressSpace, Memory
from mmref.pagecache.mm import Mm
from mmref.pagecache.page_table import HugePmd, Pte, SwapPte
from mmref.pagecache.regular import RegularInode
from mmref.pagecache.shmem import ShmemInode
from mmref.pagecache.vmstat import NR_FILE_PAGES, NR_FILE_THPS, NR_SHMEM, NR_SHMEM_THPS, Tag
from mmref.xarray import XaNode, XArray, is_sibling
from mmref.xarray.check import check as check_tree

__all__ = ["check_file", "check_machine", "entries_of", "folios_of"]


def entries_of(xa: XArray[Any]) -> Iterator[tuple[int, object]]:
    """Yield what lookups can find, as (first index, entry), without that being an access; siblings are left out."""
    head = xa._peek_head()
    if type(head) is XaNode:
        yield from _node_entries(head, 0)
    elif head is not None:
        yield 0, head


def _nodes_of(xa: XArray[Any]) -> int:
    """Count the nodes that are in the tree."""
    head = xa._peek_head()
    nodes = [head] if type(head) is XaNode else []
    for node in nodes:
        nodes.extend(entry for entry in list.copy(node.slots) if type(entry) is XaNode)
    return len(nodes)


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


def swap_entries_of(mapping: AddressSpace) -> dict[int, int]:
    """Return the swap entries of a shmem file by page index."""
    return {index: entry for index, entry in entries_of(mapping.i_pages) if isinstance(entry, int)}


def check_file(inode: Inode, pins: Mapping[Folio, int] | None = None) -> None:
    """Check every invariant of a file that holds at rest.

    Args:
        inode: the file.
        pins: how many references others hold to a folio, if any.

    Raises:
        InvariantViolation: naming the first that does not, and what was found.
    """
    mapping = inode.i_mapping
    try:
        check_tree(mapping.i_pages, show=False)
    except InvariantViolation as broken:
        raise InvariantViolation("A12", f"{broken.invariant} of {inode.name}: {broken.detail}") from None
    cached = folios_of(mapping)
    _check_accounting(inode, len(cached))
    huge = 0
    for index, folio in cached.items():
        if not folio.index <= index < folio.next_index:
            raise InvariantViolation("A6", f"{folio!r} is in the cache of {inode.name} at page {index}")
    for folio in dict.fromkeys(cached.values()):
        _check_folio(inode, folio, (pins or {}).get(folio, 0))
        huge += folio.order == inode.pmd_order and folio.order > 0
    if mapping.nr_thps != (0 if inode.is_shmem else huge):
        raise InvariantViolation("Q4", f"nr_thps of {inode.name} is {mapping.nr_thps}, but it has {huge} huge folios")
    if huge and not inode.is_shmem and inode.i_writecount > 0:
        raise InvariantViolation("A10", f"{inode.name} has {huge} huge folios, and is open for writing")
    if inode.i_rwsem.writer is not None or mapping.invalidate_lock.writer is not None or mapping.i_mmap_rwsem.readers:
        raise InvariantViolation("L1", f"a lock of {inode.name} is held, but nobody is there who holds it")


def _check_accounting(inode: Inode, cached: int) -> None:
    nrpages = inode.i_mapping.nrpages
    if nrpages != cached:
        raise InvariantViolation("Q1", f"nrpages is {nrpages}, but folios cover {cached} indices")
    if not isinstance(inode, ShmemInode):
        return
    entries = len(swap_entries_of(inode.i_mapping))
    if inode.swapped != entries:
        raise InvariantViolation("Q12", f"swapped is {inode.swapped}, but {entries} indices hold a swap entry")
    if inode.alloced != nrpages + inode.swapped:
        raise InvariantViolation(
            "Q2", f"alloced is {inode.alloced}, but nrpages {nrpages} + swapped {inode.swapped} is not that"
        )
    blocks = inode.alloced * (inode.memory.page_size // BLOCK_SIZE)
    if inode.i_blocks != blocks:
        raise InvariantViolation("Q2", f"i_blocks is {inode.i_blocks}, but {inode.alloced} pages are {blocks} blocks")
    if inode.used_pages.peek() != inode.alloced:
        raise InvariantViolation("Q2", f"{inode.used_pages.peek()} blocks are in use, but alloced is {inode.alloced}")


def _check_folio(inode: Inode, folio: Folio, pins: int) -> None:
    flags, refs = folio.peek()
    lru = inode.memory.lru
    if flags & PG_LOCKED:
        raise InvariantViolation("Q5", f"{folio!r} is locked, but nobody is there who holds the lock")
    waiting = lru.waiting(folio)
    listed = folio in lru
    off_lru = folio.broken and not listed and not waiting  # memory-failure takes a broken page off for good
    if not off_lru and (bool(flags & PG_LRU) != listed or listed + waiting != 1):
        raise InvariantViolation(
            "Q6", f"{folio!r} should be on the LRU list or in one batch: listed {listed}, in {waiting} batches"
        )
    expected = folio.nr_pages + waiting + pins + folio.peek_mapcount() + bool(flags & PG_PRIVATE) + off_lru
    if refs != expected:
        raise InvariantViolation(
            "Q7", f"{folio!r} has {refs} references, but cache, mappings, batches and pins account for {expected}"
        )
    if flags & PG_UPTODATE and folio.initialised != (1 << folio.nr_pages) - 1:
        raise InvariantViolation(
            "A4", f"{folio!r} is uptodate, but only pages {folio.initialised:#b} (a bit each) were ever written"
        )
    if folio.mapping is not inode.i_mapping:
        raise InvariantViolation(
            "A6", f"{folio!r} is in the cache of {inode.name}, but says it belongs to {folio.mapping!r}"
        )


def check_machine(memory: Memory, inodes: Iterable[Inode], mms: Iterable[Mm], pins: Mapping[Folio, int]) -> None:
    """Check every invariant that holds at rest, of all files and processes together.

    Args:
        memory: the machine's memory.
        inodes: all files.
        mms: all processes.
        pins: how many references others hold to a folio.

    Raises:
        InvariantViolation: naming the first that does not, and what was found.
    """
    inodes, mms = list(inodes), list(mms)
    mapped, swap_ptes = _mapped(mms)
    in_use: dict[Folio, None] = dict.fromkeys(folio for folio, nr in pins.items() if nr)
    for inode in inodes:
        check_file(inode, pins)
        cached = folios_of(inode.i_mapping)
        in_use.update(dict.fromkeys(cached.values()))
        if isinstance(inode, RegularInode):
            in_use.update(dict.fromkeys(inode.in_flight()))
    in_use.update(dict.fromkeys(mapped))
    in_use.update(dict.fromkeys(memory.lru.in_batches()))  # a batch keeps a folio that has left its file for a while
    for folio in in_use:
        if folio.peek_mapcount() != mapped[folio]:
            raise InvariantViolation(
                "Q7", f"the mapcount of {folio!r} is {folio.peek_mapcount()}, but {mapped[folio]} entries map it"
            )
    _check_swap(memory, inodes, swap_ptes, in_use)
    _check_counters(memory, inodes)
    pages = sum(folio.nr_pages for folio in in_use)
    if pages != memory.allocator.allocated:
        raise InvariantViolation(
            "Q9", f"{memory.allocator.allocated} pages are allocated, but {pages} are in use: some have leaked"
        )
    for inode in inodes:
        array = inode.i_mapping.i_pages
        live, there = array.allocator.live, _nodes_of(array)
        if live != there:
            raise InvariantViolation(
                "Q9",
                f"{live} nodes of the page cache of {inode.name} are allocated, but {there}"
                f" {'is' if there == 1 else 'are'} in the tree: some have leaked",
            )


def _mapped(mms: list[Mm]) -> tuple[Counter[Folio], list[int]]:
    """Count how many entries of all page tables map each folio, and list the swap entries in them."""
    mapped: Counter[Folio] = Counter()
    swap: list[int] = []
    for mm in mms:
        for pmd in mm.peek().values():
            if isinstance(pmd, HugePmd):
                mapped[pmd.folio] += 1
                continue
            for pte in pmd.peek():
                if isinstance(pte, Pte):
                    mapped[pte.folio] += 1
                elif isinstance(pte, SwapPte):
                    swap.append(pte.entry)
    return mapped, swap


def _check_swap(memory: Memory, inodes: list[Inode], swap_ptes: list[int], in_use: dict[Folio, None]) -> None:
    entries = Counter(swap_ptes)
    for inode in inodes:
        if inode.is_shmem:
            entries.update(swap_entries_of(inode.i_mapping).values())
    device = memory.swap
    slots = device.in_use() if device is not None else frozenset()
    doubled = [entry for entry, times in entries.items() if times > 1]
    if doubled:
        raise InvariantViolation("Q12", f"swap slots {doubled} stand for more than one page")
    if slots != set(entries):
        raise InvariantViolation(
            "Q12", f"swap slots {sorted(slots ^ set(entries))} are in use but stand for no page, or the other way round"
        )
    if device is None:
        return
    for entry, folio in device.cached().items():
        flags, refs = folio.peek()
        if folio.swap != entry or not flags & PG_SWAPCACHE:
            raise InvariantViolation("Q12", f"{folio!r} is in the swap cache for slot {entry}, but does not say so")
        expected = 1 + memory.lru.waiting(folio) + folio.peek_mapcount()
        if refs != expected:
            raise InvariantViolation("Q7", f"{folio!r} in the swap cache has {refs} references, not {expected}")
        in_use[folio] = None


def _check_counters(memory: Memory, inodes: list[Inode]) -> None:
    """Check Q3: what each node and control group is charged for is what is there."""
    expected: dict[str, Counter[Tag]] = {
        item: Counter() for item in (NR_FILE_PAGES, NR_SHMEM, NR_SHMEM_THPS, NR_FILE_THPS)
    }
    for inode in inodes:
        for folio in dict.fromkeys(folios_of(inode.i_mapping).values()):
            tag = folio.nid, folio.memcg.name if folio.memcg is not None else ""
            expected[NR_FILE_PAGES][tag] += folio.nr_pages
            if inode.is_shmem:
                expected[NR_SHMEM][tag] += folio.nr_pages
            if folio.order == inode.pmd_order and folio.order > 0:
                expected[NR_SHMEM_THPS if inode.is_shmem else NR_FILE_THPS][tag] += folio.nr_pages
    for item, tags in expected.items():
        found = memory.vmstat.by_tag(item)
        if found != dict(tags):
            raise InvariantViolation(
                "Q3", f"{item} by (node, control group) is {found}, but the pages that are there make {dict(tags)}"
            )
