# SPDX-License-Identifier: GPL-2.0-only
"""What somebody else does to a file while it is being collapsed, and what must come of it.

Conventions in this file: a *scene* is one execution's machine with its file; `truth` says what each page must read
as at rest. An *actor* acts on a scene on a CPU of its own. It raises `InvariantViolation` if it sees what it must not
see, and changes the truth when what it did takes effect. `at` is the page it is about (see the scenario).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EEXIST
from typing import TYPE_CHECKING

from mmref.errors import InvariantViolation
from mmref.explore.watched import check_content, check_hole, check_resident, check_seek
from mmref.folio import PG_LOCKED, Folio
from mmref.khugepaged import CollapseResult, CollapseStrategy, collapse_file
from mmref.khugepaged.control import CollapseControl
from mmref.khugepaged.scan import hpage_collapse_scan_file
from mmref.machine import File, Machine
from mmref.pagecache import UffdEvent, filemap_get_entry, folios_of

if TYPE_CHECKING:
    from mmref.explore.scenario import CollapseScenario

__all__ = ["ACTORS", "Actor", "Scene"]


@dataclass
class Scene:
    """One execution of a scenario.

    Attributes:
        scenario: the scenario.
        strategy: how the file is collapsed.
        machine: the machine.
        file: the file.
        truth: what each page must read as at rest.
        address: where the file is mapped, if the actor has mapped it (bytes).
        result: what the collapse came to, once it has ended.
        at_rest: what is to be done before the checks at rest, such as dropping pins.
        notes: what an actor keeps for its check at rest.
    """

    scenario: CollapseScenario
    strategy: CollapseStrategy
    machine: Machine
    file: File
    truth: dict[int, bytes]
    address: int = 0
    result: CollapseResult | None = None
    at_rest: list[Callable[[], None]] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes per page."""
        return self.machine.page_size

    @property
    def at(self) -> int:
        """The page that the actor is about."""
        return self.scenario.at

    @property
    def data(self) -> frozenset[int]:
        """The pages that held data at the start."""
        return self.scenario.data


Act = Callable[[Scene], object]


def _nothing(scene: Scene) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Actor:
    """Somebody on the second CPU.

    Attributes:
        name: what to call the CPU.
        act: what is done there.
        prepare: what is set up before, while nobody else is there.
        settle: what must hold at rest, besides what must hold for every scenario.
    """

    name: str
    act: Act
    prepare: Act = _nothing
    settle: Act = _nothing


# Looking ---------------------------------------------------------------------------------------------------


def look_for_data(scene: Scene) -> int | None:
    """Ask SEEK_DATA once, and hold the answer against A1."""
    try:
        found = scene.file.seek_data(scene.at * scene.size) // scene.size
    except OSError:
        found = None
    check_seek(scene.at, found, scene.data)
    return found


def look_for_hole(scene: Scene) -> int:
    """Ask SEEK_HOLE once, and hold the answer against A1."""
    found = scene.file.seek_hole(scene.at * scene.size) // scene.size
    check_hole(scene.at, found, scene.data)
    return found


def ask_mincore(scene: Scene) -> list[bool]:
    """Ask mincore() about the whole file, and hold the answer against A2."""
    resident = scene.file.mincore()
    check_resident(0, resident, scene.data)
    return resident


def read(scene: Scene) -> None:
    """Read one page with read(2)."""
    check_content(scene.at, scene.file.read(scene.at * scene.size, scene.size), scene.truth[scene.at])


def map_file(scene: Scene) -> None:
    """Map the whole file."""
    scene.address = scene.file.mmap()


def map_and_touch(scene: Scene) -> None:
    """Map the whole file, and touch the page so that a page table maps it."""
    map_file(scene)
    scene.machine.process().read(scene.address + scene.at * scene.size, 1)


def mapped_read(scene: Scene) -> None:
    """Load a page through a mapping."""
    got = scene.machine.process().read(scene.address + scene.at * scene.size, scene.size)
    check_content(scene.at, got, scene.truth[scene.at])


# Writing ---------------------------------------------------------------------------------------------------


def _new(scene: Scene) -> bytes:
    return b"\xee" * scene.size


def write(scene: Scene) -> None:
    """Overwrite one page with write(2)."""
    scene.file.write(scene.at * scene.size, _new(scene))
    scene.truth[scene.at] = _new(scene)


def mapped_write(scene: Scene) -> None:
    """Overwrite one page through a mapping."""
    scene.machine.process().write(scene.address + scene.at * scene.size, _new(scene))
    scene.truth[scene.at] = _new(scene)


def fallocate(scene: Scene) -> None:
    """Allocate one page."""
    scene.file.fallocate(scene.at * scene.size, scene.size)


def punch(scene: Scene) -> None:
    """Punch one page out."""
    scene.file.punch_hole(scene.at * scene.size, scene.size)
    scene.truth[scene.at] = bytes(scene.size)


def punch_all(scene: Scene) -> None:
    """Punch everything out."""
    scene.file.punch_hole(0, scene.size * len(scene.truth))
    scene.truth.update((page, bytes(scene.size)) for page in scene.truth)


def truncate(scene: Scene) -> None:
    """Cut the file down to nothing."""
    scene.file.truncate(0)
    scene.truth.clear()


def nothing_is_left(scene: Scene) -> None:
    """A9: what was punched or truncated whole stays empty."""
    left = sorted(folios_of(scene.file.mapping))
    if left:
        raise InvariantViolation("A9", f"pages {left} are in the cache again after everything was taken out")


# Reclaim, swap, pins ---------------------------------------------------------------------------------------


def add_swap(scene: Scene) -> None:
    """Add a swap device."""
    if scene.machine.memory.swap is None:
        scene.machine.swapon(2 * len(scene.truth))


def swap_out(scene: Scene) -> None:
    """Reclaim one page."""
    scene.file.swap_out(scene.at, 1)


def pin(scene: Scene) -> None:
    """Take a reference to one page and keep it, as get_user_pages() does; look at it again at the end."""
    entry = filemap_get_entry(scene.file.mapping, scene.at)
    if isinstance(entry, Folio):
        scene.file.pins[entry] += 1
        scene.notes["pinned"] = entry


def the_pinned_page_is_the_page(scene: Scene) -> None:
    """A13: a page that was pinned in time is still the file's, so that what is written through the pin arrives."""
    folio = scene.notes.get("pinned")
    if not isinstance(folio, Folio):
        return
    succeeded = scene.result is not None and scene.result.status.succeeded
    cached = folios_of(scene.file.mapping).get(scene.at)
    if cached is not folio and not (succeeded and folio.mapping is None):
        raise InvariantViolation("A13", f"{folio} was pinned, but page {scene.at} is {cached} now")
    scene.file.pins[folio] -= 1
    folio.put()


# userfaultfd -----------------------------------------------------------------------------------------------


def register_look_touch(scene: Scene) -> None:
    """Register for missing pages, see that one is missing, touch it: the monitor must hear of it (A7)."""
    process = scene.machine.process()

    def monitor(event: UffdEvent) -> None:
        try:
            uffd.zeropage(event.address)
        except OSError as error:
            if error.errno != EEXIST:  # somebody else has filled the page meanwhile: let the task try again
                raise
            uffd.wake(event.address)

    uffd = process.userfaultfd(monitor)
    uffd.register(scene.address, len(scene.truth) * scene.size, "missing")
    missing = _nothing_there(scene)
    process.read(scene.address + scene.at * scene.size, 1)
    if missing and not uffd.events:
        raise InvariantViolation("A7", f"page {scene.at} was seen missing, but touching it raised no userfaultfd event")


def _nothing_there(scene: Scene) -> bool:
    entry = filemap_get_entry(scene.file.mapping, scene.at)
    if isinstance(entry, Folio):
        entry.put()
    return entry is None


# A second collapse, the scan -------------------------------------------------------------------------------


def collapse_too(scene: Scene) -> CollapseResult:
    """Collapse the same range."""
    return collapse_file(scene.file.mapping, 0, scene.strategy)


def scan(scene: Scene) -> object:
    """Scan the range as khugepaged does, and collapse it if it looks good."""
    return hpage_collapse_scan_file(scene.file.mapping, 0, scene.strategy, CollapseControl())


# Files on a disk -------------------------------------------------------------------------------------------


def open_for_write(scene: Scene) -> None:
    """Open the file for writing; what is in the cache then must be small (A10)."""
    close = scene.file.open_for_write()
    # A huge folio that is still locked is one that a collapse has yet to give up: nobody can write into it.
    _no_huge_folio(scene, lambda folio: not folio.peek()[0] & PG_LOCKED)
    scene.at_rest.append(close)


def only_small_folios_are_left(scene: Scene) -> None:
    """A10, at rest."""
    _no_huge_folio(scene, lambda _: True)


def _no_huge_folio(scene: Scene, counts: Callable[[Folio], bool]) -> None:
    for folio in folios_of(scene.file.mapping).values():
        if folio.order and counts(folio):
            raise InvariantViolation("A10", f"{folio} is in the cache of a file that is open for writing")


def open_and_write(scene: Scene) -> None:
    """Open the file for writing, and write one page."""
    open_for_write(scene)
    write(scene)


ACTORS = {
    "seek-data": Actor("lseek SEEK_DATA", look_for_data),
    "seek-hole": Actor("lseek SEEK_HOLE", look_for_hole),
    "mincore": Actor("mincore", ask_mincore),
    "read": Actor("read", read),
    "mapped-read": Actor("load", mapped_read, map_and_touch),
    "fault": Actor("page fault", mapped_read, map_file),
    "write": Actor("write", write),
    "write-fault": Actor("store", mapped_write, map_and_touch),
    "fallocate": Actor("fallocate", fallocate),
    "punch": Actor("punch", punch),
    "punch-all": Actor("punch", punch_all, settle=nothing_is_left),
    "truncate": Actor("truncate", truncate, settle=nothing_is_left),
    "swap-out": Actor("reclaim", swap_out, add_swap),
    "swap-in": Actor("read", read, add_swap),
    "pin": Actor("pin", pin, settle=the_pinned_page_is_the_page),
    "uffd": Actor("userfaultfd", register_look_touch, map_file),
    "collapse": Actor("madvise", collapse_too),
    "scan": Actor("khugepaged 2", scan),
    "open-for-write": Actor("open", open_for_write, settle=only_small_folios_are_left),
    "open-and-write": Actor("open, write", open_and_write, settle=only_small_folios_are_left),
}
"""Who can be on the second CPU, by the name of the scenario."""
