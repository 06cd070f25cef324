# SPDX-License-Identifier: GPL-2.0-only
"""A scenario: a collapse on one CPU, others on one or two more, and what must hold.

What each page is at the start is said by a *layout*, one letter per page: see `mmref.explore.layout`. Pages count from
0 at the start of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from errno import ENOMEM, ENOSPC
from functools import cached_property

from mmref.errors import UsageError
from mmref.explore.actors import Actor
from mmref.explore.layout import Layout, disk_file, tmpfs_file
from mmref.explore.program import Execution
from mmref.explore.scene import Scene
from mmref.explore.twins import TRACED, parts
from mmref.explore.watched import (
    check_always,
    check_at_rest,
    check_empty,
    check_hidden_data,
    check_result,
    check_succeeds,
)
from mmref.khugepaged import CollapseResult, CollapseStrategy, collapse_file, get_strategy
from mmref.machine import DEFAULT_STRATEGY, Machine
from mmref.pagecache import RegularInode
from mmref.pagecache.kernel import DEFAULT_KERNEL, KERNELS, KernelRules, kernel_rules

__all__ = ["CollapseScenario", "as_strategy", "kernel_of", "strategy_text"]


@dataclass(frozen=True)
class CollapseScenario:
    """A collapse of one huge page, against others who use the file.

    Attributes:
        name: what to call it.
        summary: one line for lists.
        consequence: what a race means to a user, in one sentence.
        others: who is on the other CPUs; nobody if the collapse is alone.
        layout: the pages, see `mmref.explore.layout`.
        chunk_shift: log2 of the slots of an XArray node.
        ask: the page that the others are about, or a page for each of them; if None, the first data page of the huge
            page that is collapsed.
        extent: which huge page of the file is collapsed, counted from 0.
        fail: how many allocations succeed, before one fails; None if none does.
        max_pages: size of the filesystem on tmpfs (pages); None for no limit.
        nodes: how many nodes of the tree can be allocated; None for no limit.
        page_cluster: log2 of the pages that are read from swap at once; 0 as on zram.
        tries: after how many tries a collapse with nobody else there must have succeeded (L2); 0 if it need not.
        in_hole: if `ask` is None, the first page of a hole with data behind it instead.
        pinned: somebody holds a reference to the last page, so the collapse fails late and rolls back.
        hidden_data: also watch A5, which holds for no state in which a reader could be misled.
        on_disk: the file is on a disk and open for reading only, instead of on tmpfs.
    """

    name: str
    summary: str
    consequence: str
    others: tuple[type[Actor], ...] = field(repr=False)
    layout: str = "DDDD"
    chunk_shift: int = 6
    ask: int | tuple[int, ...] | None = None
    extent: int = 0
    fail: int | None = None
    max_pages: int | None = None
    nodes: int | None = None
    page_cluster: int = 3
    tries: int = 0
    in_hole: bool = False
    pinned: bool = False
    hidden_data: bool = False
    on_disk: bool = False

    def __post_init__(self) -> None:
        pages = self.pages
        if not 0 <= self.extent < pages.extents:
            raise UsageError(f"There is no huge page {self.extent} to collapse; give 0 to {pages.extents - 1}.")
        if not pages.data & {*pages.extent(self.extent)}:
            raise UsageError(f"Layout {self.layout!r} has no data, so none can get lost; give at least one D.")
        asked = (self.ask,) if isinstance(self.ask, int) else self.ask or ()
        for page in asked:
            if not 0 <= page < len(pages.pages):
                raise UsageError(f"There is no page {page} to ask about; give 0 to {len(pages.pages) - 1}.")
        if isinstance(self.ask, tuple) and len(asked) != len(self.others):
            raise UsageError(
                f"{len(asked)} pages to ask about, but {len(self.others)} to ask; give one page, or one for each."
            )
        if not 1 <= self.chunk_shift <= 6:
            raise UsageError(f"chunk_shift {self.chunk_shift}: a node has 2**1 to 2**6 slots; give 1 to 6.")
        if "w" in pages.pages and not any(other.completes_io for other in self.others):
            raise UsageError(f"Layout {self.layout!r}: a page is written, and {self.name!r} has nobody to complete it.")
        if self.max_pages is not None and self.on_disk:
            raise UsageError(f"max_pages={self.max_pages}: only a file on tmpfs has such a limit; leave it out.")
        _ = self.at  # refuses a layout that has no such page

    @cached_property
    def pages(self) -> Layout:
        """The layout."""
        return Layout.parse(self.layout, self.on_disk)

    @property
    def cpus(self) -> tuple[str, ...]:
        """The names of the CPUs."""
        return ("khugepaged", *[other.label for other in self.others])

    @property
    def at(self) -> tuple[int, ...]:
        """The page that each of the others is about."""
        if isinstance(self.ask, tuple):
            return self.ask
        return (self._one_page(),) * len(self.others)

    def _one_page(self) -> int:
        if isinstance(self.ask, int):
            return self.ask
        extent, data = self.pages.extent(self.extent), self.pages.data
        if not self.in_hole:
            return next(page for page in extent if page in data)
        last = max(page for page in extent if page in data)
        at = next((page for page in extent if page < last and page not in data), None)
        if at is None:
            raise UsageError(f"Layout {self.layout!r} has no hole with data behind it to ask in.")
        return at

    @property
    def geometry(self) -> str:
        """Where the huge entry lies in the tree, for reports."""
        order, shift = self.pages.order, self.chunk_shift
        level, rest = divmod(order, shift)
        slots = 1 << rest
        where = "a leaf" if level == 0 else "a node above the leaves"
        return f"order {order}, chunk_shift {shift}: {slots} slot{'s' * (slots > 1)} of {where}"

    def exists_under(self, strategy: object | None = None) -> bool:
        """Tell whether the kernel that a strategy belongs to has such a file."""
        small = [order for _, order in self.pages.large if order < self.pages.order]
        return not small or rules_of(as_strategy(strategy)).shmem_large_folios

    def spec(self, strategy: object | None = None) -> str:
        """Return the text from which `scenario_from_spec()` builds the same scenario and strategy again."""
        parameters = [f"layout={self.layout}", f"chunk_shift={self.chunk_shift}"]
        if self.ask is not None:
            asked = (self.ask,) if isinstance(self.ask, int) else self.ask
            parameters.append("ask=" + "+".join(map(str, asked)))
        if self.extent:
            parameters.append(f"extent={self.extent}")
        for name, value in (("fail", self.fail), ("max_pages", self.max_pages), ("nodes", self.nodes)):
            if value is not None:
                parameters.append(f"{name}={value}")
        return f"{self.name}/{strategy_text(strategy)}/{','.join(parameters)}"

    def build(self, strategy: object | None = None) -> Execution:
        """Set a machine up with the file, and return the CPUs.

        Raises:
            UsageError: the kernel that the strategy belongs to has no such file.
        """
        scene, actors = self.scene(as_strategy(strategy))
        file = scene.file

        def collapse() -> CollapseResult:
            result = collapse_file(file.mapping, scene.start, scene.strategy)
            scene.results.append(result)
            if not result.status.succeeded and len(scene.results) < self.tries:
                scene.machine.memory.lru.drain_all()
                return collapse()
            return result

        weak = scene.machine.parts is not TRACED

        def check() -> None:
            check_always(file, alone=not actors, weak=weak)
            if self.hidden_data:
                check_hidden_data(file, self.pages.resident)

        on_step = check
        if weak:
            from mmref.explore.twins.weak import in_memory

            def on_step() -> None:
                in_memory(file.mapping.i_pages, check)

        def at_rest() -> None:
            for actor in actors:
                actor.settle()
            for settle in scene.at_rest:
                settle()
            if not actors:
                check_result(file, scene.results[-1], self.pinned)
                check_succeeds(scene.results, self.tries)
            check_empty(file, scene.empty())
            check_at_rest(scene.machine, file, scene.truth)

        acts = [self._running_out(actor.act) for actor in actors]
        return Execution([collapse, *acts], list(self.cpus), on_step, at_rest)

    def _running_out(self, act: Callable[[], object]) -> Callable[[], object]:
        """Let an actor put up with what it is told, where memory or the filesystem is short."""
        if self.fail is None and self.max_pages is None:
            return act

        def try_to_act() -> object:
            try:
                return act()
            except OSError as error:
                if error.errno not in (ENOMEM, ENOSPC):
                    raise
                return None

        return try_to_act

    def scene(self, strategy: CollapseStrategy) -> tuple[Scene, list[Actor]]:
        """Set a machine up with the file, as it is before anybody acts; return it and who will."""
        pages = self.pages
        machine = Machine(pages.order, self.chunk_shift, parts=parts(), kernel=rules_of(strategy))
        if "s" in pages.pages:
            machine.swapon(2 * len(pages.pages), self.page_cluster)
        file, truth = disk_file(machine, pages) if self.on_disk else tmpfs_file(machine, pages, self.max_pages)
        scene = Scene(pages, strategy, machine, file, truth, pages.extent(self.extent).start)
        actors = [other(scene, at) for other, at in zip(self.others, self.at, strict=True)]
        for actor in actors:
            actor.prepare()
        machine.memory.lru.drain_all()
        if self.pinned:
            last = max(page for page in pages.extent(self.extent) if page in pages.resident)
            scene.at_rest.append(file.pin(last))
        if self.fail is not None:
            machine.memory.allocator.fail_next(after=self.fail)
            scene.at_rest.append(lambda: machine.memory.allocator.fail_next(0))
        if self.nodes is not None:
            nodes = file.mapping.i_pages.allocator
            nodes.budget(self.nodes, self.nodes)
            scene.at_rest.append(nodes.budget)
        if isinstance(file.inode, RegularInode):
            scene.at_rest.append(file.inode.complete_io)
        return scene, actors


def kernel_of(strategy: CollapseStrategy) -> str:
    """Return the kernel version whose collapse_file() a strategy is, or is a variant of."""
    names = [getattr(kind, "name", None) for kind in type(strategy).__mro__]
    return next(
        (version for name in names for version, rules in KERNELS.items() if rules.strategy == name), DEFAULT_KERNEL
    )


def rules_of(strategy: CollapseStrategy) -> KernelRules:
    """Return the rules of that kernel, with what the strategy changes of them."""
    return replace(kernel_rules(kernel_of(strategy)), **strategy.rules)  # type: ignore[arg-type]


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
