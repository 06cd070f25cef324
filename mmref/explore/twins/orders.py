# SPDX-License-Identifier: GPL-2.0-only
"""What the operations of the kernel's code order: the table that weak memory models go by.

Each row is a kind of operation of the kernel, with what it orders and where the kernel's documentation says so; its
operations are the labels under which the twins announce them. Documents are those of the kernel's Documentation/
folder. `waits` says whether the twins let such a store wait in a buffer, if the model delays what orders so little
(`memory.MODELS`); if not, it is performed at once, with what it orders observed.

What is performed at once although it could wait in the kernel: stores to page tables, to TLBs and through them (whose
readers are page walkers and the instructions of user space), unlocking, thawing a reference count. The table is
stricter there than the kernel's memory model, so that some of what that allows is not seen.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mmref.explore.memory import Order

__all__ = ["ORDERS", "ROWS", "Row"]


class Row(NamedTuple):
    """A kind of operation.

    Attributes:
        kernel: the kernel's operation.
        order: what it orders.
        waits: whether it can wait in a buffer.
        rule: where that is laid down.
        labels: the operations that are of this kind, as traces call them.
    """

    kernel: str
    order: Order
    waits: bool
    rule: str
    labels: tuple[str, ...]


ROWS: Final = (
    Row(
        "plain store, WRITE_ONCE(), __set_bit()", Order.PLAIN, True,
        "memory-barriers.txt, \"What may not be assumed about memory barriers?\": without one, nothing",
        ("copy_highpage", "clear_highpage", "copy_from_user", "folio_zero_range", "folio_zero_segments", "mapping",
         "nrpages", "nr_thps", "i_writecount", "i_size", "i_blocks", "i_private", "alloced", "swapped", "anon_vma",
         "uffd", "folio_set_swapbacked", "folio_clear_swapbacked"),
    ),
    Row(
        "rcu_assign_pointer()", Order.RELEASE, True,
        "memory-barriers.txt, \"Implicit kernel memory barriers\": a release; what was stored before is visible before",
        ("slot store", "xa_head"),
    ),
    Row(
        "set_bit(), clear_bit(), atomic_inc(), atomic_dec()", Order.RELAXED, True,
        "atomic_t.txt, atomic_bitops.txt, \"Ordering\": operations that return nothing are unordered",
        ("folio_mark_uptodate", "folio_clear_uptodate", "folio_set_lru", "folio_clear_lru", "folio_set_active",
         "folio_clear_active", "folio_set_unevictable", "folio_clear_unevictable", "folio_set_private",
         "folio_clear_private", "folio_set_swapcache", "folio_clear_swapcache", "folio_set_readahead",
         "folio_clear_readahead", "folio_set_referenced", "folio_clear_referenced", "filemap_nr_thps_inc",
         "filemap_nr_thps_dec", "atomic_add"),
    ),
    Row(
        "the same, of what is not looked at without more ado", Order.RELAXED, False, "as above",
        ("folio_get", "folio_ref_add", "folio_ref_sub", "folio_add_file_rmap_ptes", "swapin_readahead_hits"),
    ),
    Row(
        "set_pte(), set_pmd(), the per-CPU part of a counter, a store by user space", Order.PLAIN, False,
        "as of any plain store; a TLB flush waits for the stores through the TLB",
        ("set_pte_at", "set_pmd_at", "percpu_counter_add", "store"),
    ),
    Row(
        "what is no store of the CPU: its page walker, its TLB", Order.ASIDE, False,
        "the processor's own",
        ("TLB fill", "TLB miss", "load", "set the dirty bit"),
    ),
    Row(
        "spin_lock(), down_read(), test_and_set_bit_lock()", Order.ACQUIRE, False,
        "memory-barriers.txt, \"Lock acquisition functions\"; atomic_bitops.txt: test_and_set_bit_lock() is an acquire",
        ("spin_lock", "down_read", "down_write", "down_write_trylock", "folio_lock", "folio_trylock"),
    ),
    Row(
        "spin_unlock(), up_read(), clear_bit_unlock(), atomic_set_release()", Order.RELEASE, False,
        "memory-barriers.txt, \"Lock acquisition functions\"; atomic_bitops.txt: clear_bit_unlock() is a release",
        ("spin_unlock", "up_read", "up_write", "folio_unlock", "folio_ref_unfreeze"),
    ),
    Row(
        "test_and_set_bit(), atomic_dec_and_test(), atomic_cmpxchg(), xchg()", Order.FULL, False,
        "atomic_t.txt, atomic_bitops.txt, \"Ordering\": operations that return a value are fully ordered",
        ("folio_try_get", "folio_put", "folio_put_refs", "folio_ref_freeze", "folio_remove_rmap_ptes",
         "folio_test_clear_lru", "folio_test_clear_dirty", "folio_test_clear_private", "folio_test_clear_readahead",
         "folio_mark_dirty", "folio_clear_dirty", "folio_set_writeback", "folio_clear_writeback", "folio_set_hwpoison",
         "folio_clear_hwpoison", "atomic_inc_unless_negative", "ptep_get_and_clear", "try_charge",
         "page_counter_uncharge", "swapin_nr_pages"),
    ),
    Row(
        "a whole critical section in one step", Order.FULL, False,
        "memory-barriers.txt: the lock that it takes and gives back",
        ("folio_alloc", "free_unref_folios", "percpu_counter_limited_add", "swap cache store", "swap cache erase",
         "handle_userfault", "wake_userfault"),
    ),
    Row(
        "flush_tlb_range()", Order.FULL, False,
        "an interrupt on the other CPUs, for which the sender waits",
        ("flush_tlb_page", "flush_tlb_range", "flush_tlb_mm"),
    ),
)  # fmt: skip
"""The table."""

ORDERS: Final = {label: row.order for row in ROWS for label in row.labels}
"""The same by label."""
