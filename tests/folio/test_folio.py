# SPDX-License-Identifier: GPL-2.0-only
"""Folios alone: references, lock, flags, content, LRU batches, allocation."""

import pytest

from mmref.errors import Deadlock, InvariantViolation, UsageError
from mmref.folio import PG_DIRTY, PG_HWPOISON, PG_LRU, PG_UPTODATE, POISON, Lru, PageAllocator, flag_text
from mmref.folio.lru import BATCH_SIZE


@pytest.fixture
def lru():
    return Lru()


@pytest.fixture
def pages(lru):
    return PageAllocator(lru, page_size=4096)


def test_a_new_folio_has_one_reference_no_flags_and_poison(pages):
    folio = pages.alloc(2)
    assert folio.peek() == (0, 1)
    assert (folio.nr_pages, folio.size, pages.allocated) == (4, 16384, 4)
    assert folio.read(0, 3) == bytes([POISON]) * 3
    assert folio.initialised == 0


def test_the_last_reference_frees_and_the_next_allocation_reuses(pages):
    folio = pages.alloc()
    folio.clear_page(0)
    folio.mark_uptodate()
    folio.put()
    assert (folio.peek(), pages.allocated, folio.free) == ((0, 0), 0, True)
    assert not folio.try_get(), "a lookup with a stale pointer must not revive a free folio"
    again = pages.alloc()
    assert again is folio
    assert again.read(0, 1) == bytes([POISON]), "freed content must not be seen again"
    assert folio.try_get(), "and now the stale pointer meets somebody else's folio"


def test_freeze_takes_the_expected_count_or_nothing(pages):
    folio = pages.alloc()
    folio.get()
    assert not folio.ref_freeze(1)
    assert folio.ref_count() == 2
    assert folio.ref_freeze(2)
    assert (folio.ref_count(), folio.try_get()) == (0, False)
    folio.ref_unfreeze(2)
    assert folio.ref_count() == 2
    with pytest.raises(InvariantViolation, match="not frozen"):
        folio.ref_unfreeze(1)


def test_dropping_more_references_than_there_are_is_a_bug(pages):
    folio = pages.alloc()
    with pytest.raises(InvariantViolation, match="2 references dropped"):
        folio.put_refs(2)
    assert folio.ref_count() == 1


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda folio: folio.trylock(), "while locked"),
        (lambda folio: setattr(folio, "mapping", object()), "belongs to a mapping"),
    ],
)
def test_a_folio_in_use_cannot_be_freed(pages, spoil, text):
    folio = pages.alloc()
    spoil(folio)
    with pytest.raises(InvariantViolation, match=text):
        folio.put()


def test_lock(pages):
    folio = pages.alloc()
    assert folio.trylock()
    assert folio.test_locked()
    assert not folio.trylock()
    with pytest.raises(Deadlock, match="CPU 0 waits for the lock of <Folio pfn=0"):
        folio.lock()
    folio.unlock()
    folio.lock()
    folio.unlock()
    with pytest.raises(InvariantViolation, match="not locked"):
        folio.unlock()


def test_flags_are_independent(pages):
    folio = pages.alloc()
    folio.mark_uptodate()
    folio.mark_dirty()
    folio.set_lru()
    assert flag_text(folio.peek()[0]) == "uptodate|dirty|lru"
    assert folio.test_clear_lru()
    assert not folio.test_clear_lru()
    folio.cancel_dirty()
    assert folio.peek()[0] == PG_UPTODATE
    assert folio.test_uptodate()
    assert not folio.test_dirty()


def test_content_page_by_page(pages):
    source, target = pages.alloc(1), pages.alloc(1)
    source.write(0, b"a" * 4096)
    assert source.initialised == 0b01
    assert target.copy_page(1, source, 0)
    assert target.initialised == 0b10
    assert target.read(4096, 4096) == b"a" * 4096
    assert target.read(0, 1) == bytes([POISON])
    target.clear_page(0)
    assert (target.initialised, target.read(4095, 2)) == (0b11, b"\0a")


def test_copying_what_was_never_written_leaves_the_copy_uninitialised(pages):
    source, target = pages.alloc(), pages.alloc()
    assert target.copy_page(0, source, 0)
    assert target.initialised == 0


def test_copying_poisoned_memory_fails_and_changes_nothing(pages):
    source, target = pages.alloc(), pages.alloc()
    source.write(0, b"x" * 4096)
    source.set_flag(PG_HWPOISON)
    assert not target.copy_page(0, source, 0)
    assert (target.initialised, target.read(0, 1)) == (0, bytes([POISON]))


@pytest.mark.parametrize(
    ("offset", "length", "initialised"),
    [(0, 4096, 0b001), (0, 4095, 0), (1, 4096, 0), (1, 8191, 0b010), (0, 12288, 0b111), (4096, 8192, 0b110)],
)
def test_only_pages_written_whole_count_as_initialised(pages, offset, length, initialised):
    for how in ("write", "zero"):
        folio = pages.alloc(2)
        if how == "write":
            folio.write(offset, b"x" * length)
        else:
            folio.zero_range(offset, length)
        assert folio.initialised == initialised


def test_a_batch_hides_a_folio_from_isolation_until_it_is_drained(pages, lru):
    folio = pages.alloc()
    lru.add(folio)
    assert folio.ref_count() == 2, "the batch holds a reference"
    assert not folio.test_lru()
    assert not lru.isolate(folio)
    lru.drain()
    assert (folio.ref_count(), folio.test_lru(), folio in lru) == (1, True, True)
    assert lru.isolate(folio)
    assert (folio.ref_count(), folio.test_lru(), folio in lru) == (2, False, False)
    assert not lru.isolate(folio), "a folio can be isolated once"
    lru.putback(folio)
    lru.drain_all()
    assert (folio.ref_count(), folio in lru) == (1, True)


def test_a_full_batch_drains_itself(pages, lru):
    folios = [pages.alloc() for _ in range(BATCH_SIZE)]
    for folio in folios[:-1]:
        lru.add(folio)
    assert not any(folio.test_lru() for folio in folios)
    lru.add(folios[-1])
    assert all(folio.peek() == (PG_LRU, 1) for folio in folios)


def test_a_large_folio_does_not_wait(pages, lru):
    small, large = pages.alloc(), pages.alloc(2)
    lru.add(small)
    lru.add(large)
    assert small in lru
    assert large in lru


def test_freeing_takes_a_folio_off_the_list(pages, lru):
    folio = pages.alloc()
    lru.add(folio)
    lru.drain()
    folio.put()
    assert folio not in lru
    assert folio.free


def test_split_keeps_content_flags_and_lock(pages):
    folio = pages.alloc(2)
    for page in range(4):
        folio.write(page * 4096, bytes([page]) * 4096)
    folio.trylock()
    folio.set_flag(PG_DIRTY | PG_LRU)
    assert folio.ref_freeze(1)
    tails = pages.split(folio, [(page, 0) for page in range(4)])
    assert [tail.pfn for tail in tails] == [1, 2, 3]
    assert all(tail.test_locked() and tail.test_dirty() and not tail.test_lru() for tail in tails)
    assert all(tail.ref_count() == 0 and tail.initialised == 1 for tail in tails)
    assert [tail.read(0, 1)[0] for tail in tails] == [1, 2, 3]
    assert (folio.order, folio.size, folio.initialised) == (0, 4096, 1)


def test_allocation_failure_on_demand(pages):
    pages.fail_next(2)
    assert [pages.alloc() is None for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("order", [-1, 19])
def test_an_order_out_of_range_is_refused(pages, order):
    with pytest.raises(UsageError, match=f"order {order}: folios have an order from 0 to 18"):
        pages.alloc(order)
