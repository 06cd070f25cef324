# SPDX-License-Identifier: GPL-2.0-only
"""A suite of pytest tests that judges a collapse strategy. `mmref.khugepaged.conformance` is its public door.

    from mmref.khugepaged.conformance import Conformance

    class TestMine(Conformance):
        strategy = "my_package:Mine"

A strategy passes if what it does alone is right (content, holes, accounting, failing without a trace), and if no
interleaving of the scenarios below goes wrong. Every scenario is explored until it is exhausted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from mmref.errors import UsageError
from mmref.explore import explore, get_scenario
from mmref.khugepaged import CollapseStrategy, ScanResult, get_strategy
from mmref.machine import File, Machine

__all__ = ["Conformance"]

_GEOMETRIES = [(1, 6), (2, 6), (2, 2), (3, 2), (3, 1), (9, 6)]
_LAYOUTS = ["D", "DD.D", ".D", "D.", "fD", "Df"]
_EXPLORED = [
    ("seek-data", "DD", 6), ("seek-data", "DD.D", 6), ("seek-data", "DDDDDDDD", 2), ("seek-data-rollback", "DD.D", 6),
    ("mincore", "DD", 6), ("mincore", "DD.D", 6), ("mincore-rollback", "DDD.", 2), ("alone", "DD.D", 6),
    ("read", "DD", 6), ("write", "DD", 6), ("write-fault", "DD", 6), ("fallocate-again", "Df", 6),
    ("punch", "DD", 6), ("swap-out", "DD", 6), ("pin", "DD", 6), ("collapse", "DD", 6), ("file-read", "DD", 6),
    ("quiet", "D.D.", 6), ("quiet-swap", "Ds", 6), ("pinned", ".D", 6), ("no-nodes", "D...", 1),
    ("file-quiet", "dD", 6), ("file-read", "Dx", 6), ("file-read-error", "D.", 6), ("file-open", "DD", 6),
]  # fmt: skip


class Conformance:
    """Subclass it in a test module, with a name that pytest collects, and name the strategy.

    Attributes:
        strategy: the strategy: its name, ``module:Class``, class or instance.
        page_size: bytes per page of the machines that are used.
    """

    strategy: ClassVar[str | CollapseStrategy | type[CollapseStrategy] | None] = None
    page_size: ClassVar[int] = 512

    @pytest.fixture
    def judged(self) -> CollapseStrategy:
        """The strategy, ready to run."""
        if self.strategy is None:
            raise UsageError(f"{type(self).__name__} does not say what to judge: set `strategy = ...` in it.")
        return get_strategy(self.strategy)

    def _file(self, order: int, chunk_shift: int, layout: str) -> tuple[Machine, File, bytes]:
        machine = Machine(order, chunk_shift, page_size=self.page_size)
        pages, size = 1 << order, self.page_size
        file = machine.shmem_file("file", pages * size)
        content = b""
        for page in range(pages):
            kind = layout[page % len(layout)]
            written = bytes((page % 251 + 1 if kind == "D" else 0,)) * size
            if kind == "D":
                file.write(page * size, written)
            elif kind == "f":
                file.fallocate(page * size, size)
            content += written
        return machine, file, content

    @pytest.mark.parametrize("layout", _LAYOUTS)
    @pytest.mark.parametrize(("order", "chunk_shift"), _GEOMETRIES)
    def test_the_range_becomes_one_huge_page_with_the_same_content(
        self, judged: CollapseStrategy, order: int, chunk_shift: int, layout: str
    ) -> None:
        """Content is copied, holes are cleared, the counters follow, and nothing of the old folios is left."""
        machine, file, content = self._file(order, chunk_shift, layout)
        result = machine.collapse(file, 0, judged)
        machine.check()
        assert result.status is ScanResult.SUCCEED, f"{layout} came to {result.status}"
        assert file.mapping.i_pages.get_order(0) == order
        assert file.read(0, file.size) == content
        assert file.mincore() == [True] * (1 << order)
        assert machine.stats["allocated"] == machine.stats["NR_SHMEM_THPS"] == 1 << order

    @pytest.mark.parametrize("layout", ["D", "DD.D", ".D"])
    @pytest.mark.parametrize("which", [0, -1])
    def test_a_failure_leaves_no_trace(self, judged: CollapseStrategy, layout: str, which: int) -> None:
        """A page that somebody holds makes the collapse fail, early or late, and everything is as it was."""
        machine, file, content = self._file(3, 2, layout)
        data = [page for page in range(8) if layout[page % len(layout)] == "D"]
        before = [file.mapping.i_pages.load(page) for page in range(8)], file.st_blocks, machine.stats
        unpin = file.pin(data[which])
        result = machine.collapse(file, 0, judged)
        unpin()
        machine.memory.lru.drain_all()
        machine.check()
        assert result.status is ScanResult.PAGE_COUNT
        assert ([file.mapping.i_pages.load(page) for page in range(8)], file.st_blocks, machine.stats) == before
        assert file.read(0, file.size) == content

    @pytest.mark.parametrize(("name", "layout", "chunk_shift"), _EXPLORED)
    def test_no_interleaving_goes_wrong(
        self, judged: CollapseStrategy, name: str, layout: str, chunk_shift: int
    ) -> None:
        """Explore a scenario until it is exhausted; a failure shows the ladder and how to replay it."""
        from mmref.view import ladder

        report = explore(replace(get_scenario(name), layout=layout, chunk_shift=chunk_shift), judged)
        if report.counterexample is not None:
            trace = report.counterexample
            pytest.fail(f"{report}\n\n{ladder(trace)}\n\nreplay: mmref replay '{trace.schedule}'", pytrace=False)
        assert report.exhaustive, str(report)
