# SPDX-License-Identifier: GPL-2.0-only
"""The anchor of an array: lock, flags, head, and the shape of its nodes.

`XArray` (array.py) is an anchor with the normal API on top; the cursor needs only what is here.

Conventions in this file: *xa* is the array, *mark* one of 0, 1 and 2, *head* the entry or node that
everything hangs from.
"""

from __future__ import annotations

from typing import Any

from mmref.errors import MmrefError, UsageError
from mmref.sync import SpinLock
from mmref.xarray.entries import (
    XA_FLAGS_ACCOUNT,
    XA_FLAGS_ALLOC,
    XA_FLAGS_ALLOC1,
    XA_FLAGS_LOCK_BH,
    XA_FLAGS_LOCK_IRQ,
    XA_FLAGS_ZERO_BUSY,
    xa_flags_mark,
)
from mmref.xarray.node import NodeAllocator, XaNode

__all__ = ["Anchor"]

_KNOWN_FLAGS = (
    XA_FLAGS_ACCOUNT | XA_FLAGS_ALLOC | XA_FLAGS_ALLOC1 | XA_FLAGS_LOCK_BH | XA_FLAGS_LOCK_IRQ | XA_FLAGS_ZERO_BUSY
)


class Anchor:
    """What every operation on an array starts from.

    Kernel: struct xarray, include/linux/xarray.h.

    A traced twin overrides `_new_slots()` (a list subclass that reports each access), `_free_node()`,
    `_new_lock()` and `_peek_head()`, and shadows `xa_head` and `xa_flags` by descriptors.

    Attributes:
        xa_lock: protects the array. The normal API takes it; users of cursors take it themselves.
        xa_flags: `XA_FLAGS_*`, and the array's own three mark bits.
        xa_head: None, the only entry if that is at index 0, or the top node.
        chunk_shift: log2 of the slots per node (kernel: `XA_CHUNK_SHIFT`).
        chunk_size: slots per node.
        chunk_mask: the highest slot number.
        allocator: where its nodes come from.
    """

    __slots__ = (
        "__weakref__",
        "allocator",
        "chunk_mask",
        "chunk_shift",
        "chunk_size",
        "xa_flags",
        "xa_head",
        "xa_lock",
    )

    xa_head: Any  # the kernel's `void *`
    xa_flags: int
    xa_lock: SpinLock

    def __init__(
        self,
        chunk_shift: int = 6,
        flags: int = 0,
        *,
        allocator: NodeAllocator | None = None,
        lock: SpinLock | None = None,
    ) -> None:
        if chunk_shift not in range(1, 7):
            raise UsageError(f"nodes of 2**{chunk_shift!r} slots: chunk_shift goes from 1 to 6")
        if flags & ~_KNOWN_FLAGS:
            raise UsageError(f"unknown array flags {flags!r}: combine XA_FLAGS_* constants")
        self.chunk_shift = chunk_shift
        self.chunk_size = 1 << chunk_shift
        self.chunk_mask = self.chunk_size - 1
        self.allocator = NodeAllocator() if allocator is None else allocator
        self.xa_lock = self._new_lock() if lock is None else lock
        self.xa_flags = flags
        self.xa_head = None

    def _new_lock(self) -> SpinLock:
        """Make the lock of a new array; a traced twin hands out a traced one."""
        return SpinLock("xa_lock")

    def _new_slots(self) -> list[Any]:
        """Make the slots of a new node; a traced twin hands out a list subclass."""
        return [None] * self.chunk_size

    def _new_node(self, blocking: bool) -> XaNode | None:
        """Allocate a node that is all zero; None if the allocator has been told to fail."""
        if not self.allocator.take(blocking):
            return None
        return XaNode(self, self._new_slots())

    def _free_node(self, node: XaNode) -> None:
        """Retire a node. It stays readable, as for a reader inside an RCU section, and is not used again.

        Kernel: xa_node_free(), lib/xarray.c.
        """
        node.array = None
        self.allocator.live -= 1

    def _misused(self, what: str, instead: str) -> MmrefError:
        """Make the error for a change through a cursor that would spoil the tree: what it is, and what to do."""
        return UsageError(f"{what}{instead}")

    def _peek_head(self) -> Any:
        """Read the head without that being an access (for dump, check and repr)."""
        return self.xa_head

    def marked(self, mark: int) -> bool:
        """Say whether any entry of the array has a mark.

        Kernel: xa_marked(), include/linux/xarray.h.

        Args:
            mark: `XA_MARK_0` to `XA_MARK_2`.

        Raises:
            UsageError: no such mark.

        Context: any; no lock needed.
        """
        if mark not in (0, 1, 2):
            raise bad_mark(mark)
        return bool(self.xa_flags & xa_flags_mark(mark))

    def empty(self) -> bool:
        """Say whether every index of the array holds None.

        Kernel: xa_empty(), include/linux/xarray.h.

        Context: any; no lock needed.
        """
        return self.xa_head is None


def bad_mark(mark: object) -> UsageError:
    """Make the error for a mark that does not exist."""
    return UsageError(f"there is no mark {mark!r}: use XA_MARK_0, XA_MARK_1 or XA_MARK_2")


def bad_index(index: object) -> UsageError:
    """Make the error for something that is not an index."""
    return UsageError(f"{index!r} is not an index: indices are integers from 0 to 2**64 - 1")
