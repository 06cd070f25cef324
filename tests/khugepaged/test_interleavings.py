# SPDX-License-Identifier: GPL-2.0-only
"""Collapse on one CPU, something else on another, every relevant interleaving: what holds, and what does not.

Where a space is too large to exhaust here, so many executions are looked at as fit into a moment.
"""

import pytest

from mmref import Machine
from mmref.errors import InvariantViolation
from mmref.explore import explore
from mmref.explore.program import Execution
from mmref.explore.twins import TRACED
from mmref.khugepaged import Abandon, LockAndInsertLate, ScanResult, Upstream612, collapse_file
from mmref.sync import smp_mb

PAGE = 512
KERNEL = {"freeze-and-replace": "6.1", "lock-and-insert-late": "6.4", "upstream-6.12": "6.12"}
STRATEGIES = list(KERNEL)


class Duel:
    """A collapse of two pages against somebody else.

    Args:
        other: what the other does, given machine, file and address of a mapping; returns what must be there at the end.
        layout: D data ("a", "b"), . hole, s in swap.
        kernel: whose rules hold besides the strategy.
    """

    name = "duel"

    def __init__(self, other, layout="DD", kernel=None, on_disk=False):
        self.other, self.layout, self.kernel, self.on_disk = other, layout, kernel, on_disk

    def spec(self, strategy):
        return f"{self.name} {strategy}"

    def build(self, strategy):
        machine = Machine(order=1, page_size=PAGE, parts=TRACED, kernel=self.kernel or KERNEL.get(strategy, "6.12"))
        machine.swapon(8, page_cluster=0)
        if self.on_disk:
            file = machine.ro_file("f", b"a" * PAGE + b"b" * PAGE)
            file.read(0, 2 * PAGE)
        else:
            file = machine.shmem_file("f", 2 * PAGE)
        for page, kind in enumerate("" if self.on_disk else self.layout):
            if kind in "Ds":
                file.write(page * PAGE, bytes([97 + page]) * PAGE)
            machine.memory.lru.drain_all()
            if kind == "s":
                file.swap_out(page, 1)
        at = file.mmap(prot="r" if self.on_disk else "rw")
        machine.memory.lru.drain_all()
        act, expected = self.other(machine, file, at)

        def at_rest():
            machine.memory.lru.drain_all()
            machine.check()
            found = bytes(file.read(page * PAGE, 1)[0] for page in range(2))
            if found != expected:
                raise InvariantViolation("A3", f"the pages begin with {found}, not {expected}")

        return Execution(
            [lambda: collapse_file(file.mapping, 0, strategy), act], ["khugepaged", "other"], None, at_rest
        )


def write(machine, file, at):
    return lambda: file.write(PAGE, b"w"), b"aw"


def store(machine, file, at):
    process = machine.process()
    process.write(at, b"x")  # so that the CPU remembers where the page is

    def twice():
        process.write(at, b"1")
        process.write(at, b"2")

    return twice, b"2b"


def load(machine, file, at):
    def look():
        if (seen := machine.process().read(at + PAGE, 1)) != b"b":
            raise InvariantViolation("A3", f"read {seen}")

    return look, b"ab"


def punch(machine, file, at):
    return lambda: file.punch_hole(0, PAGE), b"\0b"


def truncate(machine, file, at):
    def cut_and_grow():
        file.truncate(PAGE)
        file.truncate(2 * PAGE)

    return cut_and_grow, b"a\0"


def swap_out(machine, file, at):
    return lambda: file.swap_out(1, 1), b"ab"


def read(machine, file, at):
    def look():
        if (seen := file.read(0, 1)) != b"a":
            raise InvariantViolation("A3", f"read {seen}")

    return look, b"ab"


def pin(machine, file, at):
    machine.process().read(at, 1)

    def hold():
        machine.process().vmsplice(at)

    return hold, b"ab"


def collapse_too(machine, file, at):
    return lambda: collapse_file(file.mapping, 0, machine.default_strategy), b"ab"


def open_for_write(machine, file, at):
    def act():
        file.open_for_write()
        file.write(0, b"w")

    return act, b"wb"


def fill(machine, file, at):
    return lambda: file.write(PAGE, b"w" * PAGE), b"aw"


def fault_in(machine, file, at):
    return lambda: machine.process().write(at + PAGE, b"w"), b"aw"


def fallocate(machine, file, at):
    return lambda: file.fallocate(PAGE, PAGE), b"a\0"


def touch_watched(machine, file, at):
    monitor = machine.process().userfaultfd()
    monitor.handler = lambda event: monitor.zeropage(event.address)
    monitor.register(at, 2 * PAGE, "missing")

    def touch():
        machine.process().read(at + PAGE, 1)
        if not monitor.events:
            raise InvariantViolation("A7", "the hole was known, but nobody heard of the fault")

    return touch, b"a\0"


def verdict(duel, strategy, most=150):
    report = explore(duel, strategy=strategy, max_executions=most)
    found = report.counterexample
    return None if found is None else str(found.verdict)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("other", [write, store, load, punch, truncate, swap_out, pin, collapse_too])
def test_full_range(strategy, other):
    assert verdict(Duel(other), strategy) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("other", [punch, read])
def test_with_a_page_in_swap(strategy, other):
    assert verdict(Duel(other, layout="sD"), strategy) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_against_an_open_for_write(strategy):
    assert verdict(Duel(open_for_write, on_disk=True), strategy) is None


@pytest.mark.parametrize("strategy", ["freeze-and-replace", "upstream-6.12"])
@pytest.mark.parametrize("other", [fill, fault_in, fallocate])
def test_with_a_hole(strategy, other):
    assert verdict(Duel(other, layout="D."), strategy) is None


@pytest.mark.parametrize("other", [fill, fault_in, fallocate])
def test_6_4_accounts_twice_for_a_hole_that_is_filled_meanwhile(other):
    """B38: between lowering nrpages and uncharging, whoever filled the hole finds a page too many, and uncharges it.

    The collapse then uncharges once more. Linux 3c1b7528d896 (v6.6) leaves it to recalc_inode() alone. Since quotas
    came (v6.6, too), charging may sleep: it was moved out of xa_lock.
    """
    assert "Q2: alloced is 1, but nrpages 2" in verdict(Duel(other, layout="D."), "lock-and-insert-late")
    in_6_12 = Duel(other, layout="D.", kernel="6.12")
    assert "SleepInAtomic: khugepaged may sleep in shmem_inode_acct" in verdict(in_6_12, "lock-and-insert-late")
    assert verdict(in_6_12, "upstream-6.12") is None


def test_the_event_of_a_userfaultfd():
    """B31."""
    assert "A7: the hole was known" in verdict(Duel(touch_watched, layout="D."), "freeze-and-replace")
    assert verdict(Duel(touch_watched, layout="D."), "upstream-6.12") is None


# What a missing step would do --------------------------------------------------------------------------------


def test_without_the_tlb_flush_a_store_goes_to_freed_memory():
    class NoFlush(LockAndInsertLate):
        name = "no-flush"

        def flush_tlbs(self, run):
            """Leave the TLBs as they are."""

    assert verdict(Duel(store), NoFlush) == (
        "violation: UseAfterFree: a store through the TLB on folio 0 after it was freed"
    )


def test_without_the_unmap_the_extra_references_stop_it():
    class NoUnmap(LockAndInsertLate):
        name = "no-unmap"

        def isolate_old(self, run, _, folio):
            if not run.mapping.memory.lru.isolate(folio):
                raise Abandon(ScanResult.DEL_PAGE_LRU)
            run.xa_lock()
            self.claim_old(run, folio)

    duel = Duel(store)
    execution = duel.build(NoUnmap)
    assert execution.cpus[0]().status is ScanResult.PAGE_COUNT, "the page table entry has a reference"


def test_without_the_check_for_userfaultfd_the_event_is_lost():
    """m31a."""

    class NoCheck(Upstream612):
        name = "no-uffd-check"

        def block_holes(self, run):
            run.xa_lock()
            self.put_retry_entries(run)

    assert "A7" in verdict(Duel(touch_watched, layout="D."), NoCheck)


def test_looking_for_writers_before_the_announcement_is_too_early():
    """m17a."""

    class TooEarly(Upstream612):
        name = "writers-too-early"

        def count_huge(self, run):
            if run.inode.i_writecount > 0:
                raise Abandon(ScanResult.FAIL)
            smp_mb()
            run.mapping.nr_thps += 1

    assert "A10: f has 1 huge folios, and is open for writing" in verdict(
        Duel(open_for_write, on_disk=True), TooEarly, most=5000
    )


def test_unlocking_before_the_mapping_is_cleared_loses_a_write():
    """m06."""

    class TooLate(LockAndInsertLate):
        name = "mapping-too-late"

        def release_old(self, run):
            for folio in run.old:
                folio.unlock()
                folio.mapping = None
                folio.put_refs(2 + folio.nr_pages)

    assert verdict(Duel(write), TooLate) is not None
