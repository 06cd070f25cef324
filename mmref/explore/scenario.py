# SPDX-License-Identifier: GPL-2.0-only
"""A scenario: a collapse on one CPU, somebody else on another, and what must hold.

Conventions in this file: a *layout* says what each page of the range is at the start, one letter per page:
``D`` data, ``.`` hole, ``f`` allocated by fallocate but unwritten, ``s`` data that is swapped out. Of a file on a
disk, ``D`` is in the cache and ``.`` is on the disk alone. Pages count from 0; the file is exactly the range that is
collapsed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from mmref.errors import UsageError
from mmref.explore.actors import Actor, Scene
from mmref.explore.program import Execution
from mmref.explore.twins import TRACED
from mmref.explore.watched import check_always, check_at_rest, check_hidden_data
from mmref.khugepaged import CollapseResult, CollapseStrategy, collapse_file, get_strategy
from mmref.machine import DEFAULT_STRATEGY, File, Machine
from mmref.pagecache.kernel import DEFAULT_KERNEL, KERNELS

__all__ = ["CollapseScenario", "as_strategy", "kernel_of", "strategy_text"]


@dataclass(frozen=True)
class CollapseScenario:
    """A collapse of one huge page, against somebody who uses the file.

    Attributes:
        name: what to call it.
        summary: one line for lists.
        consequence: what a race means to a user, in one sentence.
        actor: who is on the second CPU; None if the collapse is alone.
        layout: the pages, see the top of this file; their number is that of the huge page.
        chunk_shift: log2 of the slots of an XArray node.
        ask: the page that the actor is about; if None, the first data page.
        in_hole: if `ask` is None, the first page of a hole with data behind it instead.
        pinned: somebody holds a reference to the last page, so the collapse fails late and rolls back.
        hidden_data: also watch A5, which holds for no state in which a reader could be misled.
        on_disk: the file is on a disk and open for reading only, instead of on tmpfs.
    """

    name: str
    summary: str
    consequence: str
    actor: Actor | None = field(repr=False)
    layout: str = "DDDD"
    chunk_shift: int = 6
    ask: int | None = None
    in_hole: bool = False
    pinned: bool = False
    hidden_data: bool = False
    on_disk: bool = False

    def __post_init__(self) -> None:
        pages = len(self.layout)
        if pages < 2 or pages & (pages - 1):
            raise UsageError(f"A huge page of {pages} pages: give a power of two from 2 on.")
        if pages > 512:
            raise UsageError(f"{pages} pages are too many to explore; give at most 512.")
        letters = "D." if self.on_disk else "D.fs"
        if set(self.layout) - set(letters):
            raise UsageError(
                f"Layout {self.layout!r}: give one letter per page: D data, . hole"
                f"{'' if self.on_disk else ', f fallocated, s swapped out'}."
            )
        if "D" not in self.layout:
            raise UsageError(f"Layout {self.layout!r} has no data, so none can get lost; give at least one D.")
        if self.ask is not None and not 0 <= self.ask < pages:
            raise UsageError(f"There is no page {self.ask} to ask about; give 0 to {pages - 1}.")
        if not 1 <= self.chunk_shift <= 6:
            raise UsageError(f"chunk_shift {self.chunk_shift}: a node has 2**1 to 2**6 slots; give 1 to 6.")
        _ = self.at  # refuses a layout that has no such page

    @cached_property
    def data(self) -> frozenset[int]:
        """The pages that hold data in memory."""
        return frozenset(page for page, kind in enumerate(self.layout) if kind == "D")

    @property
    def other(self) -> str:
        """The name of the second CPU; empty if the collapse is alone."""
        return "" if self.actor is None else self.actor.name

    @property
    def at(self) -> int:
        """The page that the actor is about."""
        if self.ask is not None:
            return self.ask
        if not self.in_hole:
            return min(self.data)
        at = next((page for page in range(max(self.data)) if page not in self.data), None)
        if at is None:
            raise UsageError(f"Layout {self.layout!r} has no hole with data behind it to ask in.")
        return at

    @property
    def geometry(self) -> str:
        """Where the huge entry lies in the tree, for reports."""
        order, shift = len(self.layout).bit_length() - 1, self.chunk_shift
        level, rest = divmod(order, shift)
        slots = 1 << rest
        where = "a leaf" if level == 0 else "a node above the leaves"
        return f"order {order}, chunk_shift {shift}: {slots} slot{'s' * (slots > 1)} of {where}"

    def spec(self, strategy: object | None = None) -> str:
        """Return the text from which `scenario_from_spec()` builds the same scenario and strategy again."""
        parameters = f"layout={self.layout},chunk_shift={self.chunk_shift}"
        if self.ask is not None:
            parameters += f",ask={self.ask}"
        return f"{self.name}/{strategy_text(strategy)}/{parameters}"

    def build(self, strategy: object | None = None) -> Execution:
        """Set a machine up with the file, and return the CPUs."""
        scene = self.scene(as_strategy(strategy))
        file, actor = scene.file, self.actor

        def collapse() -> CollapseResult:
            scene.result = collapse_file(file.mapping, 0, scene.strategy)
            return scene.result

        def act() -> object:
            assert actor is not None
            return actor.act(scene)

        def on_step() -> None:
            check_always(file, alone=actor is None)
            if self.hidden_data:
                check_hidden_data(file, self.data)

        def at_rest() -> None:
            if actor is not None:
                actor.settle(scene)
            for settle in scene.at_rest:
                settle()
            check_at_rest(scene.machine, file, scene.truth)

        if actor is None:
            return Execution([collapse], ["khugepaged"], on_step, at_rest)
        return Execution([collapse, act], ["khugepaged", actor.name], on_step, at_rest)

    def scene(self, strategy: CollapseStrategy) -> Scene:
        """Set a machine up with the file, as it is before anybody acts."""
        pages, swapped = len(self.layout), self.layout.count("s")
        machine = Machine(
            pages.bit_length() - 1, self.chunk_shift, parts=TRACED, kernel=kernel_of(strategy),
            swap_pages=2 * pages if swapped else None,
        )  # fmt: skip
        if self.on_disk:
            file, truth = disk_file(machine, self.layout)
        else:
            file = machine.shmem_file("file", pages * machine.page_size)
            truth = fill(file, self.layout)
        scene = Scene(self, strategy, machine, file, truth)
        if self.actor is not None:
            self.actor.prepare(scene)
        machine.memory.lru.drain_all()
        if self.pinned:
            scene.at_rest.append(file.pin(max(self.data)))
        return scene


def fill(file: File, layout: str) -> dict[int, bytes]:
    """Write a layout into an empty file on tmpfs; return what each page reads as."""
    size = file.machine.page_size
    content = {page: bytes(size) for page in range(len(layout))}
    for page, kind in enumerate(layout):
        if kind in "Ds":
            content[page] = bytes((page % 251 + 1,)) * size
            file.write(page * size, content[page])
        elif kind == "f":
            file.fallocate(page * size, size)
    for page, kind in enumerate(layout):
        if kind == "s":
            file.swap_out(page, 1)
    return content


def disk_file(machine: Machine, layout: str) -> tuple[File, dict[int, bytes]]:
    """Make a file on a disk, some pages of which are in the cache; return it and what each page reads as."""
    size = machine.page_size
    content = {page: bytes((page % 251 + 1,)) * size for page in range(len(layout))}
    file = machine.ro_file("file", b"".join(content.values()))
    file.read(0, len(layout) * size)
    for page, kind in enumerate(layout):
        if kind == ".":
            file.fadvise_dontneed(page, 1)
    return file, content


def kernel_of(strategy: CollapseStrategy) -> str:
    """Return the kernel version whose collapse_file() a strategy is, or is a variant of."""
    names = [getattr(kind, "name", None) for kind in type(strategy).__mro__]
    return next(
        (version for name in names for version, rules in KERNELS.items() if rules.strategy == name), DEFAULT_KERNEL
    )


def as_strategy(strategy: object | None) -> CollapseStrategy:
    """Return the strategy that was asked for, or the default one."""
    if strategy is None:
        return get_strategy(DEFAULT_STRATEGY)
    if isinstance(strategy, (str, CollapseStrategy, type)):
        return get_strategy(strategy)
    raise UsageError(f"{strategy!r} is not a strategy; give its name, its class or an instance.")


def strategy_text(strategy: object | None) -> str:
    """Name a strategy so that `get_strategy()` finds it again: by its name, or as ``module:Class``."""
    chosen = as_strategy(strategy)
    kind = type(chosen)
    try:
        if type(get_strategy(chosen.name)) is kind:
            return chosen.name
    except UsageError:
        pass
    return f"{kind.__module__}:{kind.__qualname__}"
