# SPDX-License-Identifier: GPL-2.0-only
"""Traced twins: the classes that hold shared state, with a scheduling point before each access.

The page cache and the strategies are plain Python and know nothing of this. They touch shared state only
through the methods and fields that are overridden here, so a machine assembled from `TRACED` runs the same
code, and the explorer decides at every access which CPU goes on. `TRACED` is a `Parts`, as `Machine` takes it. Under a
weak memory model (`weak.py`), stores to some of the state wait in a buffer.

Conventions in this file: `at_...` is the `Location` of a piece of state. A method announces its access with
`point()` and then does what the plain class does. Reading `_flags` or `_refcount` to tell whether an operation
would take effect is looking, not an access.
"""

from __future__ import annotations

from mmref.explore.locations import THREAD
from mmref.explore.twins.address_spaces import (
    TracedMm,
    TracedPageTable,
    TracedSwapDevice,
    TracedTlb,
    TracedUserfaultfd,
    TracedVma,
)
from mmref.explore.twins.array import TracedSlots, TracedXArray
from mmref.explore.twins.fields import TracedRwSem, TracedSpinLock
from mmref.explore.twins.files import TracedAddressSpace, TracedMemCgroup, TracedRegularInode, TracedShmemInode
from mmref.explore.twins.folios import TracedFolio, TracedPageAllocator
from mmref.machine import Parts

__all__ = ["TRACED", "TracedFolio", "TracedPageAllocator", "TracedSlots", "TracedXArray", "parts"]

TRACED = Parts(
    folio=TracedFolio,
    allocator=TracedPageAllocator,
    mapping=TracedAddressSpace,
    inode=TracedShmemInode,
    spinlock=TracedSpinLock,
    rwsem=TracedRwSem,
    xarray=TracedXArray,
    regular=TracedRegularInode,
    mm=TracedMm,
    vma=TracedVma,
    page_table=TracedPageTable,
    tlb=TracedTlb,
    swap=TracedSwapDevice,
    memcg=TracedMemCgroup,
    uffd=TracedUserfaultfd,
)


def parts() -> Parts:
    """Return the classes to assemble a machine from, for the execution that is being built and its memory model."""
    run = THREAD.run
    if run is None or run.buffers is None:
        return TRACED
    from mmref.explore.twins.orders import ORDERS
    from mmref.explore.twins.weak import BUFFERED

    run.buffers.orders = ORDERS
    return BUFFERED
