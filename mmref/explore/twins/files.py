# SPDX-License-Identifier: GPL-2.0-only
"""Twins of the page cache's anchor, of inodes and of control groups."""

from __future__ import annotations

from typing_extensions import override

from mmref.explore.locations import (
    INC,
    WRITE,
    Location,
    OnceLocation,
    PlainLocation,
    note,
    point,
)
from mmref.explore.twins.fields import SharedField, TracedCounter, add_to, slot_of
from mmref.folio import MemCgroup
from mmref.pagecache import (
    AddressSpace,
    RegularInode,
    ShmemInode,
)

__all__ = ["TracedAddressSpace", "TracedMemCgroup", "TracedRegularInode", "TracedShmemInode"]


class TracedAddressSpace(AddressSpace):
    """An address_space whose counters are shared."""

    __slots__ = ("at_nr_thps", "at_nrpages")

    at_nr_thps: Location
    # Changes under xa_lock; READ_ONCE() in shmem_recalc_inode(), mm/shmem.c.
    nrpages = SharedField(AddressSpace, "nrpages", OnceLocation)
    nr_thps = SharedField(AddressSpace, "nr_thps")  # an atomic_t

    def __str__(self) -> str:
        return "mapping"

    @override
    def nr_thps_inc(self) -> None:
        point(self.at_nr_thps, INC, "filemap_nr_thps_inc")
        note(add_to(AddressSpace, "nr_thps", self, 1))

    @override
    def nr_thps_dec(self) -> None:
        point(self.at_nr_thps, INC, "filemap_nr_thps_dec")
        note(add_to(AddressSpace, "nr_thps", self, -1))


class TracedShmemInode(ShmemInode):
    """A shmem inode whose size and accounting are shared."""

    __slots__ = ("at_alloced", "at_i_blocks", "at_i_private", "at_i_size", "at_swapped")

    i_size = SharedField(ShmemInode, "i_size")  # i_size_read() acquires, i_size_write() releases: include/linux/fs.h
    alloced = SharedField(ShmemInode, "alloced", PlainLocation)  # under info->lock
    swapped = SharedField(ShmemInode, "swapped", OnceLocation)  # READ_ONCE() in shmem_swap_usage(), mm/shmem.c
    i_blocks = SharedField(ShmemInode, "i_blocks", OnceLocation)  # generic_fillattr(), fs/stat.c, takes no i_lock
    counter_class = TracedCounter
    # Changes under i_lock; shmem_fault(), mm/shmem.c, looks before it takes that.
    i_private = SharedField(ShmemInode, "i_private", OnceLocation)

    def __str__(self) -> str:  # not __repr__(), which reads a traced field
        return self.name


class TracedRegularInode(RegularInode):
    """A file on a disk whose size, blocks and count of writers are shared; the disk itself is behind `i_rwsem`."""

    __slots__ = ("at_i_blocks", "at_i_size", "at_i_writecount")

    at_i_writecount: Location
    i_size = SharedField(RegularInode, "i_size")  # as in the above
    i_blocks = SharedField(RegularInode, "i_blocks", OnceLocation)
    i_writecount = SharedField(RegularInode, "i_writecount")  # an atomic_t

    def __str__(self) -> str:  # not __repr__(), which reads a traced field
        return self.name

    def _writable(self) -> bool:
        return bool(slot_of(RegularInode, "i_writecount").__get__(self) >= 0)

    @override
    def writecount_inc(self) -> bool:
        point(self.at_i_writecount, WRITE, "atomic_inc_unless_negative", self._writable)
        counted = self._writable()
        if counted:
            add_to(RegularInode, "i_writecount", self, 1)
        note(counted)
        return counted

    @override
    def writecount_add(self, writers: int) -> None:
        point(self.at_i_writecount, INC, "atomic_add")
        add_to(RegularInode, "i_writecount", self, writers)


class TracedMemCgroup(MemCgroup):
    """A control group whose counter is shared."""

    __slots__ = ("at_usage",)

    def __init__(self, name: str, limit: int | None = None, swap_limit: int | None = None) -> None:
        super().__init__(name, limit, swap_limit)
        self.at_usage = Location(f"usage of {name}")

    @override
    def charge(self, pages: int) -> bool:
        point(self.at_usage, WRITE, "try_charge")
        charged = super().charge(pages)
        note(charged)
        return charged

    @override
    def uncharge(self, pages: int) -> None:
        point(self.at_usage, WRITE, "page_counter_uncharge")
        super().uncharge(pages)
