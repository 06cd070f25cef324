# SPDX-License-Identifier: GPL-2.0-only
"""What must hold, and where it is checked.

*Always* invariants are checked after every step of every execution, *observed* ones by the CPU that looks, and
those *at rest* when every CPU has ended (`mmref.pagecache.check_file()`, which also serves `Machine.check()`).
Nothing here is an access of the simulated machine.
"""

from __future__ import annotations

from errno import EAGAIN, errorcode

from mmref.errors import InvariantViolation
from mmref.explore.twins import TracedPageAllocator
from mmref.folio import PG_UPTODATE
from mmref.khugepaged import CollapseResult
from mmref.machine import File, Machine
from mmref.pagecache import folios_of

__all__ = [
    "INVARIANTS",
    "check_always",
    "check_at_rest",
    "check_content",
    "check_empty",
    "check_hidden_data",
    "check_hole",
    "check_resident",
    "check_result",
    "check_seek",
    "check_succeeds",
    "invariants",
]

INVARIANTS = {
    "A1": "SEEK_DATA and SEEK_HOLE do not report a hole where the last completed write left data",
    "A2": "mincore() does not report a page absent that nobody has reclaimed, swapped out, truncated or punched",
    "A3": "a page reads as what was last written to it",
    "A4": "no byte of an uptodate folio is uninitialised",
    "A5": "a folio that is in the page cache and not uptodate holds no user data",
    "A6": "a folio in the page cache says that it belongs there; one that was taken out does not when unlocked",
    "A7": "whoever saw a page missing that a userfaultfd monitor watches gets an event when touching it",
    "A8": "no folio that a lookup can find has a reference count of 0, but under xa_lock",
    "A9": "what was punched or truncated stays empty until somebody writes or allocates there again",
    "A10": "a file that is open for writing has no huge folio in its cache, if its filesystem knows none",
    "A11": "no freed folio is used, and no assertion of the kernel fails",
    "A12": "the tree is sound, and who has taken xa_lock anew uses no node that has left it meanwhile",
    "A13": "a page that somebody has pinned is not replaced",
    "A15": "opening a file for writing changes no private copy of its pages",
    "A16": "a collapse succeeds if and only if its range is one huge folio then, and a page in use makes it say EAGAIN",
    "L2": "with nobody else there, a collapse succeeds after a bounded number of tries",
    "Q1": "at rest, nrpages is the number of indices that folios cover",
    "Q2": "at rest, alloced is nrpages + swapped, and i_blocks follows it",
    "Q3": "at rest, what each node and control group is charged for is what is there",
    "Q4": "at rest, nr_thps is the number of huge folios of a file whose filesystem knows only small ones",
    "Q5": "at rest, no folio is locked",
    "Q6": "at rest, every cached folio is on the LRU list or in one batch, and none is isolated",
    "Q7": "at rest, a folio has one reference per page, and one if it waits in a batch",
    "Q9": "at rest, all memory that is allocated is in use: nothing has leaked",
    "Q12": "at rest, each swap slot in use stands for one page",
}  # fmt: skip
"""The invariants that are watched, by the ids of docs/invariants.md."""


def invariants() -> dict[str, str]:
    """Return the watched invariants: id -> what must hold."""
    return dict(INVARIANTS)


def check_always(file: File, alone: bool = False, weak: bool = False) -> None:
    """Check A4 and A8 in the present state.

    A frozen folio in the cache is reported when a lookup has met it, so that the report shows who cannot go on;
    if the collapse is `alone` on the machine, at once. Under a weak memory model A4 is left to who reads: flags and
    content may reach memory in any order as long as nobody can see it.
    """
    allocator = file.machine.memory.allocator
    assert isinstance(allocator, TracedPageAllocator)
    for folio in allocator.folios:
        if folio.free:
            continue
        flags, refs = folio.peek()
        if not weak and flags & PG_UPTODATE and folio.initialised != (1 << folio.nr_pages) - 1:
            page = _first_clear(folio.initialised)
            raise InvariantViolation("A4", f"{folio} is uptodate, but its page {page} was never written")
        if refs == 0:
            folio.check_frozen()
            if alone and folio.exposed:
                raise InvariantViolation("A8", f"{folio} is in the page cache at {folio.index} with reference count 0")


def check_hidden_data(file: File, data: frozenset[int]) -> None:
    """Check A5 in the present state: each page that holds data is found in a folio that is uptodate."""
    for index, folio in folios_of(file.mapping).items():
        if index in data and not folio.peek()[0] & PG_UPTODATE:
            raise InvariantViolation("A5", f"page {index} holds data, but the cache has {folio}, not uptodate")


def _first_clear(bits: int) -> int:
    return (~bits & (bits + 1)).bit_length() - 1


def check_seek(at: int, found: int | None, data: frozenset[int]) -> None:
    """Check A1 of an answer to SEEK_DATA: nothing between where it was asked and what it found is data.

    Args:
        at: the page it was asked at.
        found: the page it reported, or None for ENXIO.
        data: the pages that hold data.
    """
    missed = [page for page in sorted(data) if page >= at and (found is None or page < found)]
    if missed:
        answer = "that there is none" if found is None else f"page {found}"
        raise InvariantViolation(
            "A1", f"data at {_pages(missed)} reported as a hole: SEEK_DATA from page {at} said {answer}"
        )


def check_hole(at: int, found: int, data: frozenset[int]) -> None:
    """Check A1 of an answer to SEEK_HOLE: the page it reported is not data."""
    if found in data:
        raise InvariantViolation("A1", f"data at page {found} reported as a hole: SEEK_HOLE from page {at} said so")


def check_resident(first: int, resident: list[bool], data: frozenset[int]) -> None:
    """Check A2 of an answer of mincore(): every page that holds data is resident."""
    absent = [first + at for at, is_resident in enumerate(resident) if not is_resident and first + at in data]
    if absent:
        raise InvariantViolation("A2", f"{_pages(absent)} reported absent, but nobody took it out of memory")


def _pages(pages: list[int]) -> str:
    return f"page {pages[0]}" if len(pages) == 1 else f"pages {', '.join(map(str, pages))}"


def check_content(page: int, got: bytes, *expected: bytes) -> None:
    """Check A3 of a read: it returns what was last written.

    Args:
        page: the page that was read.
        got: what was read.
        expected: what was written; several contents if somebody was writing at the time.
    """
    if got not in expected:
        seen = sorted(set(got))
        written = " or ".join(sorted(str(sorted(set(content))[:4]) for content in expected))
        raise InvariantViolation("A3", f"page {page} reads as bytes {seen[:4]}, but {written} was written there")


def check_empty(file: File, pages: list[int]) -> None:
    """Check A9: pages that were taken out, and not filled again, are not in the cache; nor is any behind the end."""
    cached = folios_of(file.mapping)
    left = sorted(page for page in cached if page in pages or page >= file.inode.nr_pages)
    if left:
        raise InvariantViolation("A9", f"{_pages(left)} in the cache, where nobody has put anything")


def check_result(file: File, result: CollapseResult, busy: bool) -> None:
    """Check A16 of a collapse that nobody has disturbed: it says that it succeeded if the huge folio is there.

    Args:
        file: the file.
        result: what the collapse came to.
        busy: a page is in use: that may pass, so a failure has to be one after which one tries again.
    """
    folio = folios_of(file.mapping).get(result.start)
    huge = folio is not None and folio.order == file.inode.pmd_order and bool(folio.peek()[0] & PG_UPTODATE)
    if result.status.succeeded != huge:
        raise InvariantViolation("A16", f"the collapse came to {result.status.name}, but {folio} is there")
    if busy and not huge and result.errno != EAGAIN:
        told = f"{result.status.name}, which is {errorcode[result.errno]}"
        raise InvariantViolation("A16", f"a page is in use, and the collapse came to {told}")


def check_succeeds(results: list[CollapseResult], tries: int) -> None:
    """Check L2: after so many tries a collapse with nobody else there has succeeded."""
    if tries and not results[-1].status.succeeded:
        told = ", ".join(result.status.name for result in results)
        raise InvariantViolation("L2", f"nobody else is there, and the collapse came to {told}")


def check_at_rest(machine: Machine, file: File, truth: dict[int, bytes]) -> None:
    """Check the machine when every CPU has ended: all that holds at rest, and that the data is still there."""
    machine.check()
    size = machine.page_size
    for page, expected in truth.items():
        check_content(page, file.read(page * size, size), expected)
