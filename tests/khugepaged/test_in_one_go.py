# SPDX-License-Identifier: GPL-2.0-only
"""Ordinary folios are claimed, copied and freed all at once; step by step the outcome must be the same, bit by bit."""

import pytest

from mmref import Machine
from mmref.folio import PG_ACTIVE, PG_DIRTY, Folio
from mmref.khugepaged import FreezeAndReplace, LockAndInsertLate, Upstream612

PAGE = 512


def step_by_step(strategy):
    class Stepwise(strategy):
        def check_old(self, run, folio):
            super().check_old(run, folio)

    return Stepwise


def state(machine, file):
    """Everything that there is to see, with folios told apart by their page frame."""
    memory = machine.memory
    new = file.mapping.i_pages.load(0)
    folios = sorted({folio for free in memory.allocator._free.values() for each in free.values() for folio in each},
                    key=lambda folio: folio.pfn)  # fmt: skip
    return {
        "free": [(folio.pfn, folio.peek(), folio.mapping, folio.index, folio.initialised, bytes(folio.data[:8]),
                  folio.free, folio.memcg, folio.nid, folio.order) for folio in folios],
        "order of reuse": {key: {cpu: [folio.pfn for folio in free] for cpu, free in lists.items()}
                           for key, lists in memory.allocator._free.items()},
        "new": (new.pfn, new.peek(), new.index, new.initialised, bytes(new.data), new.memcg and new.memcg.usage),
        "lru": [folio.pfn for folio in memory.lru.oldest_first()],
        "stats": machine.stats,
        "tags": {item: memory.vmstat.by_tag(item) for item in ("NR_SHMEM", "NR_FILE_PAGES", "NR_SHMEM_THPS")},
        "tree": file.mapping.i_pages.dump(),
        "blocks": file.st_blocks,
    }  # fmt: skip


def collapsed(strategy, order=4, prepare=None, mixed=False):
    machine = Machine(order, chunk_shift=2, page_size=PAGE, numa_nodes=2)
    group = machine.cgroup("group")
    file = machine.shmem_file("f", PAGE << order)
    for page in range(1 << order):
        if mixed:
            machine.set_node(page % 2)
            machine.enter_cgroup(group if page % 3 else None)
        file.write(page * PAGE, bytes([page + 1]) * PAGE)
    if prepare:
        prepare(machine, file)
    result = machine.collapse(file, 0, strategy)
    return machine, file, result


@pytest.mark.parametrize("strategy", [FreezeAndReplace, LockAndInsertLate, Upstream612])
@pytest.mark.parametrize("mixed", [False, True])
def test_both_ways_agree(strategy, mixed):
    assert strategy.in_one_go
    assert not step_by_step(strategy).in_one_go, "a strategy that overrides a step gets every step"
    one_go = collapsed(strategy, mixed=mixed)
    stepwise = collapsed(step_by_step(strategy), mixed=mixed)
    assert one_go[2] == stepwise[2]
    assert state(*one_go[:2]) == state(*stepwise[:2])


@pytest.mark.parametrize("strategy", [FreezeAndReplace, LockAndInsertLate, Upstream612])
@pytest.mark.parametrize(
    "prepare",
    [
        lambda _, file: file.mapping.i_pages.load(7).set_flag(PG_ACTIVE),
        lambda _, file: file.mapping.i_pages.load(7).clear_flag(PG_DIRTY),
        lambda _, file: file.punch_hole(3 * PAGE, PAGE),
        lambda _, file: (file.punch_hole(3 * PAGE, PAGE), file.fallocate(3 * PAGE, PAGE)),
        lambda machine, file: machine.process().read(file.mmap(), 1),
    ],
)
def test_out_of_the_ordinary(strategy, prepare):
    one_go = collapsed(strategy, prepare=prepare)
    stepwise = collapsed(step_by_step(strategy), prepare=prepare)
    assert one_go[2] == stepwise[2]
    assert one_go[2].errno == 0
    assert state(*one_go[:2]) == state(*stepwise[:2])


@pytest.mark.parametrize("spoil", ["get", "trylock", "test_clear_lru"])
def test_none_is_touched_unless_all_can_be_claimed(spoil, monkeypatch):
    claimed = []
    original = LockAndInsertLate.claim_all
    monkeypatch.setattr(LockAndInsertLate, "claim_all", lambda *a: claimed.append(original(*a)) or claimed[-1])

    def prepare(machine, file):
        machine.memory.lru.drain_all()
        getattr(file.mapping.i_pages.load(15), spoil)()

    _, file, result = collapsed(LockAndInsertLate, prepare=prepare)
    assert claimed == [False]
    assert result.errno != 0
    assert type(file.mapping.i_pages.load(0)) is Folio
    assert (
        file.mapping.i_pages.load(0).peek()
        == collapsed(LockAndInsertLate, prepare=prepare)[1].mapping.i_pages.load(0).peek()
    )
