# SPDX-License-Identifier: GPL-2.0-only
"""What every collapse strategy has in common: the state of one run, the steps, and how a run gives up.

A strategy is a recipe: `collapse()` calls named steps in order and fits on one screen, so that two recipes
side by side show what a kernel patch changed. Steps are methods; a variant overrides the one that differs.

Conventions in this package: `run` is the state of one collapse; `new` is the huge folio that is built, an
`old` folio is one that it replaces; `index` is in pages. "i_pages locked" means that the run holds xa_lock.
A step that cannot go on raises `Abandon` with the result code; the recipe then rolls back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

from mmref.errors import InvariantViolation, MmrefInternalError
from mmref.folio import Folio
from mmref.folio.batch import claim_ordinary
from mmref.khugepaged.control import CollapseControl
from mmref.khugepaged.page_tables import retract_page_tables_exclusively
from mmref.khugepaged.result import ScanResult
from mmref.pagecache import (
    NR_FILE_PAGES,
    NR_FILE_THPS,
    NR_SHMEM,
    NR_SHMEM_THPS,
    AddressSpace,
    Inode,
    Sgp,
    ShmemInode,
    filemap_flush,
    filemap_lock_folio,
    page_cache_sync_readahead,
    try_to_unmap,
    try_to_unmap_flush,
)
from mmref.sync import smp_mb
from mmref.xarray import XaState

__all__ = ["Abandon", "CollapseRun", "CollapseStrategy"]


_HOME = "mmref.khugepaged.strategy"
_BUILT_IN = (_HOME, "mmref.khugepaged.freeze_and_replace", "mmref.khugepaged.lock_and_insert_late",
             "mmref.khugepaged.upstream_6_12")  # fmt: skip


class Abandon(Exception):
    """A step cannot go on, and what the result is."""

    def __init__(self, result: ScanResult) -> None:
        super().__init__(result.value)
        self.result = result


class CollapseRun:
    """The state of one collapse_file() call: what are local variables in the kernel.

    Attributes:
        mapping: the page cache of the file.
        control: on whose behalf it runs.
        start: first index (pages), a multiple of `nr`.
        end: index just behind the range (pages).
        nr: size of the huge folio (pages).
        is_shmem: whether the file is on tmpfs.
        new: the huge folio; set by the step that allocates it.
        old: the folios that it replaces, locked, isolated and referenced, by ascending index.
        nr_none: how many holes the range has, and the file has been charged for (pages).
        holes_met: how many holes the scan has come across, where that is charged for later (pages).
        xas: the cursor over i_pages.
        in_one_go: the old folios were claimed all at once.
    """

    new: Folio

    def __init__(self, mapping: AddressSpace, start: int, order: int, control: CollapseControl | None = None) -> None:
        self.mapping = mapping
        self.control = control or CollapseControl()
        self.is_shmem = mapping.host.is_shmem
        self.start = start
        self.order = order
        self.nr = 1 << order
        self.end = start + self.nr
        self.old: list[Folio] = []
        self.nr_none = 0
        self.holes_met = 0
        self.xas = XaState(mapping.i_pages, start, order)
        self.in_one_go = False
        self._locked = False

    @property
    def inode(self) -> Inode:
        """The file."""
        return self.mapping.host

    def xa_lock(self) -> None:
        """Lock i_pages. Kernel: xas_lock_irq(), include/linux/xarray.h."""
        self.mapping.i_pages.xa_lock.acquire()
        self._locked = True

    def xa_unlock(self) -> None:
        """Unlock i_pages. Kernel: xas_unlock_irq(), include/linux/xarray.h."""
        self._locked = False
        self.mapping.i_pages.xa_lock.release()

    def xa_unlock_if_locked(self) -> None:
        """Unlock i_pages if the step that gave up held it: the labels xa_locked and xa_unlocked of the kernel."""
        if self._locked:
            self.xa_unlock()


class CollapseStrategy(ABC):
    """A way to collapse a range of the page cache into one huge folio.

    Subclass it, give it a `name` and say which `kernel` it follows, write `collapse()` and override steps. The
    steps here are those that all generations share.

    Attributes:
        name: what to call it, on the command line too.
        kernel: which kernel it follows.
        summary: what it does, in a line.
        known_races: scenarios in which it is known to go wrong, and the ids of the records, with spaces between.
        collapses_large: whether it also replaces folios of several pages (Linux 7de856ffd007, v6.12).
        exclusive_page_tables: whether page tables are taken away under `mmap_lock` held exclusively (until
            Linux 1d65b771bc08, v6.6).
        rules: what is different in its kernel outside of collapse_file(): names and values of `KernelRules`. Scenarios
            make their machine accordingly.
    """

    name: ClassVar[str]
    kernel: ClassVar[str]
    summary: ClassVar[str] = ""
    known_races: ClassVar[Mapping[str, str]] = {}
    in_one_go: ClassVar[bool] = False
    collapses_large: ClassVar[bool] = False
    exclusive_page_tables: ClassVar[bool] = True
    rules: ClassVar[Mapping[str, object]] = {}

    def __repr__(self) -> str:
        return f"<strategy {self.name}>"

    @abstractmethod
    def collapse(self, run: CollapseRun) -> ScanResult:
        """Collapse the range of `run`. Kernel: collapse_file(), mm/khugepaged.c.

        Context: no locks held; sleeps.
        """

    # Preparing ---------------------------------------------------------------------------------------------

    def allocate_new(self, run: CollapseRun) -> None:
        """Allocate the huge folio, on the node that most old ones are on: one reference, not cleared.

        Kernel: alloc_charge_folio(), mm/khugepaged.c.
        """
        memory = run.mapping.memory
        new = memory.alloc_folio(run.order, run.control.target_node())
        if new is None:
            raise Abandon(ScanResult.ALLOC_HUGE_PAGE_FAIL)
        if not memory.charge(new):
            new.put()
            raise Abandon(ScanResult.CGROUP_CHARGE_FAIL)
        run.new = new

    def reserve_slots(self, run: CollapseRun) -> None:
        """Make sure that the tree has a slot for every page of the range; leaves i_pages locked."""
        while True:
            run.xa_lock()
            run.xas.create_range()
            if not run.xas.error:
                return
            run.xa_unlock()
            if not run.xas.nomem():
                raise Abandon(ScanResult.FAIL)

    def lock_new(self, run: CollapseRun) -> None:
        """Lock the new folio and say where it will belong. Nobody else can see it yet."""
        run.new.trylock()
        if run.is_shmem:
            run.new.set_swapbacked()
        run.new.index = run.start
        run.new.mapping = run.mapping

    # In one go ---------------------------------------------------------------------------------------------

    def __init_subclass__(cls) -> None:
        """Note whether a subclass takes the steps with an old folio as the built-in strategies do."""
        steps = ("scan", "check_not_empty", "check_old", "check_size", "isolate_old", "put_back", "lock_present",
                 "lock_old", "claim_old", "behind", "copy", "copy_folio", "copy_and_release", "release_old", "let_go",
                 "give_back_old")  # fmt: skip
        cls.in_one_go = all(getattr(getattr(cls, step, None), "__module__", _HOME) in _BUILT_IN for step in steps)

    def claim_all(self, run: CollapseRun, freeze: bool = False) -> bool:
        """Claim all old folios at once, if they are ordinary ones of a full range and nobody could see the steps.

        See `mmref.folio.batch`. Context: i_pages is locked.

        Returns:
            False if nothing was done: they are to be claimed one by one.
        """
        if not self.in_one_go or type(run.new) is not Folio or not run.is_shmem:
            return False
        folios = [entry for _, entry in run.mapping.i_pages.items(run.start, run.end)]
        if len(folios) != run.nr:
            return False
        run.in_one_go = claim_ordinary(folios, run.mapping, run.start, run.mapping.memory.lru, freeze)
        if run.in_one_go:
            run.old = cast("list[Folio]", folios)
        return run.in_one_go

    # Scanning ----------------------------------------------------------------------------------------------

    def scan(self, run: CollapseRun) -> None:
        """Visit every index of the range; i_pages is locked before and after, but not throughout."""
        if self.claim_all(run):
            return
        run.xas.set(run.start)
        index = run.start
        while index < run.end:
            entry = self.look_at(run, index)
            if entry is None and run.is_shmem:
                if index == run.start:
                    self.check_not_empty(run)
                self.meet_hole(run)
                index += 1
                continue
            folio = self.lock_old(run, index, entry) if run.is_shmem else self.lock_old_of_file(run, index, entry)
            try:
                self.check_old(run, folio)
                self.isolate_old(run, index, folio)
            except Abandon:
                folio.unlock()
                folio.put()
                raise
            index = self.behind(folio)

    def check_not_empty(self, run: CollapseRun) -> None:
        """Give up if nothing at all is there: it was punched or truncated since it was chosen.

        Linux 701270fa193a (v4.20). Context: i_pages is locked, and the cursor is at the first index.
        """
        if run.xas.next_entry(run.end - 1) is None:
            raise Abandon(ScanResult.TRUNCATED)
        run.xas.set(run.start)

    def behind(self, folio: Folio) -> int:
        """Return the index to go on with after a folio (pages)."""
        return folio.next_index

    @abstractmethod
    def look_at(self, run: CollapseRun, index: int) -> Folio | int | None:
        """Move the cursor to an index and load it. Context: i_pages is locked."""

    @abstractmethod
    def meet_hole(self, run: CollapseRun) -> None:
        """Deal with an index where nothing is. Context: i_pages is locked."""

    @abstractmethod
    def claim_old(self, run: CollapseRun, folio: Folio) -> None:
        """Make sure that nobody else uses the folio, and take it over. Context: i_pages and the folio are locked."""

    def lock_old(self, run: CollapseRun, index: int, entry: Folio | int | None) -> Folio:
        """Lock the folio at an index and take a reference; unlocks i_pages.

        A page in swap is brought back, an unwritten folio (from fallocate) cleared; with i_pages unlocked, because
        that may sleep.
        """
        if isinstance(entry, Folio) and entry.test_uptodate():
            return self.lock_present(run, entry)
        run.xa_unlock()
        return self.make_usable(run, index)

    def make_usable(self, run: CollapseRun, index: int, sgp: Sgp = Sgp.NOALLOC) -> Folio:
        """Bring a page back from swap, or clear it; return it locked. It is not allocated if it has gone meanwhile.

        Linux acdd9f8e0fed (v5.15). Context: i_pages is not locked; sleeps.
        """
        inode = run.inode
        if not isinstance(inode, ShmemInode):
            raise MmrefInternalError(f"{inode!r} is not on tmpfs")
        try:
            folio = inode.get_folio(index, sgp)
        except OSError:
            raise Abandon(ScanResult.FAIL) from None
        if folio is None:
            raise MmrefInternalError(f"{sgp} gave no folio at index {index}")
        return folio

    def lock_old_of_file(self, run: CollapseRun, index: int, entry: Folio | int | None) -> Folio:
        """Lock the folio at an index of a file on a disk and take a reference; unlocks i_pages.

        What is not in the cache is read. A dirty folio has not been written since it was last open for writing:
        start that, and fail this time.
        """
        if not isinstance(entry, Folio):
            run.xa_unlock()
            page_cache_sync_readahead(run.mapping, index, run.end - index)
            run.mapping.memory.lru.drain()
            folio = filemap_lock_folio(run.mapping, index)
            if folio is None:
                raise Abandon(ScanResult.FAIL)
            return folio
        if entry.test_dirty():
            run.xa_unlock()
            self.flush_dirty(run)
            raise Abandon(ScanResult.FAIL)
        self.check_writeback(entry)
        return self.lock_present(run, entry)

    def flush_dirty(self, run: CollapseRun) -> None:
        """Start writing the file, so that the next try finds it clean. Linux 75f360696ce9 (v5.5)."""
        filemap_flush(run.mapping)

    def check_writeback(self, folio: Folio) -> None:
        """Give up on a folio that is being written to the disk. Linux 74c42e1baacf (v5.15)."""
        if folio.test_writeback():
            raise Abandon(ScanResult.FAIL)

    def lock_present(self, run: CollapseRun, folio: Folio) -> Folio:
        """Lock a folio that is in the cache, if that needs no waiting, and take a reference; unlocks i_pages."""
        if not folio.trylock():
            raise Abandon(ScanResult.PAGE_LOCK)
        folio.get()
        run.xa_unlock()
        return folio

    def check_old(self, run: CollapseRun, folio: Folio) -> None:
        """Look again, now that the folio is locked: it may have changed since the cursor saw it."""
        self.check_uptodate(folio)
        self.check_size(run, folio)
        if folio.mapping is not run.mapping:
            raise Abandon(ScanResult.TRUNCATED)
        if not run.is_shmem:
            if folio.test_dirty():
                raise Abandon(ScanResult.FAIL)
            self.check_writeback(folio)

    def check_uptodate(self, folio: Folio) -> None:
        """Give up on a locked folio whose content is not valid. Linux 4655e5e5f387 (v5.4)."""
        if not folio.test_uptodate():
            raise Abandon(ScanResult.FAIL)

    def check_size(self, run: CollapseRun, folio: Folio) -> None:
        """Give up on a folio that is the huge one already, or of a size that is not collapsed."""
        if folio.order:
            if folio.order == run.order and folio.index == run.start:
                raise Abandon(ScanResult.PTE_MAPPED_HUGEPAGE)  # Linux 06a5e1268a5f (v4.20)
            if not self.collapses_large:
                raise Abandon(ScanResult.PAGE_COMPOUND)

    def isolate_old(self, run: CollapseRun, index: int, folio: Folio) -> None:
        """Take a locked folio off the LRU and out of the page tables, and claim it; leaves i_pages locked."""
        lru = run.mapping.memory.lru
        if not lru.isolate(folio):
            raise Abandon(ScanResult.DEL_PAGE_LRU)
        if not run.is_shmem and not run.inode.release_folio(folio):
            self.put_back(run, folio)
            raise Abandon(ScanResult.PAGE_HAS_PRIVATE)
        if folio.mapped():
            try_to_unmap(folio, batch_flush=True)
        run.xa_lock()
        found = run.mapping.i_pages.load(index)
        if found is not folio:  # VM_BUG_ON_FOLIO in the kernel
            raise InvariantViolation("A11", f"index {index} holds {found!r} while {folio!r} is locked for it")
        try:
            self.claim_old(run, folio)
        except Abandon:
            run.xa_unlock()
            self.put_back(run, folio)
            raise

    def put_back(self, run: CollapseRun, folio: Folio) -> None:
        """Put a folio back on the LRU that was isolated in vain. Linux 2f33a706027c (v5.7)."""
        run.mapping.memory.lru.putback(folio)

    # Finishing ---------------------------------------------------------------------------------------------

    def flush_tlbs(self, run: CollapseRun) -> None:
        """Make all CPUs forget where the old folios were mapped: from here on nobody can write to them."""
        try_to_unmap_flush(run.mapping)

    def announce_huge(self, run: CollapseRun) -> None:
        """Count the huge page, and let that be seen before anything is looked at. Linux eb6ecbed0aa2 (v5.14)."""
        run.mapping.nr_thps_inc()
        smp_mb()

    def count_huge(self, run: CollapseRun) -> None:
        """Announce a huge page to who opens the file for writing, unless somebody has it open already.

        Both sides write first and read then, each with a fence in between, so that one of them sees the other
        (Linux eb6ecbed0aa2, v5.14). Only for files that are not on tmpfs. Context: i_pages is locked.
        """
        if run.is_shmem:
            return
        self.announce_huge(run)
        if run.inode.i_writecount > 0:
            run.mapping.nr_thps_dec()
            raise Abandon(ScanResult.FAIL)

    def account(self, run: CollapseRun) -> None:
        """Count the huge folio, and the holes that it fills. Context: i_pages is locked.

        The old folios' pages stay counted where they were, though they are on the new folio's node and charged to its
        control group from now on: B43.
        """
        vmstat = run.mapping.memory.vmstat
        if run.order:
            vmstat.add(NR_SHMEM_THPS if run.is_shmem else NR_FILE_THPS, run.nr, run.new)
        if run.nr_none:
            vmstat.add(NR_FILE_PAGES, run.nr_none, run.new)
            vmstat.add(NR_SHMEM, run.nr_none, run.new)

    def mark_uptodate(self, run: CollapseRun) -> None:
        """Declare the new folio's content valid, and make it an ordinary one: references, dirty, LRU."""
        run.new.mark_uptodate()
        run.new.ref_add(run.nr - 1)  # one reference per page; the allocation's own is the first
        if run.is_shmem:
            run.new.mark_dirty()
        run.mapping.memory.lru.add(run.new)

    def join(self, run: CollapseRun) -> None:
        """Store the new folio over the whole range, as one multi-index entry. Context: i_pages is locked."""
        run.xas.set_order(run.start, run.order)
        run.xas.store(run.new)
        if run.xas.error:
            raise MmrefInternalError(f"storing the huge folio failed ({run.xas.error}) though slots were reserved")

    def retract_page_tables(self, run: CollapseRun) -> ScanResult:
        """Take the page tables away that the huge page can do without; say what became of the caller's own."""
        return retract_page_tables_exclusively(run.mapping, run.start, run.new, run.control)

    def unlock_new(self, run: CollapseRun) -> None:
        """Let everybody use the new folio."""
        run.new.unlock()

    # Giving up ---------------------------------------------------------------------------------------------

    def uncharge_holes(self, run: CollapseRun) -> None:
        """Take back what was charged for holes. Context: i_pages is locked."""
        if run.nr_none:
            run.mapping.nrpages -= run.nr_none
            run.inode.uncharge(run.nr_none)

    def drop_new(self, run: CollapseRun) -> None:
        """Free the new folio, which nobody but this run has a reference to."""
        run.new.mapping = None
        run.new.unlock()
        run.new.put()
