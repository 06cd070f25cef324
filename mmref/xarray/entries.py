# SPDX-License-Identifier: GPL-2.0-only
"""What a slot of the XArray can hold.

The kernel tells entries apart by the two lowest bits of a pointer. Python has types for that:

| kernel encoding | here |
|---|---|
| ``NULL`` | ``None`` |
| value entry (bit 0 set) | an ``int`` from 0 to 2**63 - 1, or a `TaggedPointer` |
| plain pointer | any other object (a ``bool`` too: only exact ``int`` counts as a value) |
| pointer to a node | an `XaNode` |
| sibling entry, retry entry, zero entry | one of the few `Internal` objects |

Conventions in this file: *entry* is whatever a slot holds, *number* is what the kernel would shift into
an internal entry (a slot number for siblings, 256 for retry, 257 for zero).
"""

from __future__ import annotations

from errno import EINVAL
from typing import Final, TypeGuard, final

from mmref.errors import UsageError, XArrayError

__all__ = [
    "RETRY",
    "ULONG_MAX",
    "XA_FLAGS_ACCOUNT",
    "XA_FLAGS_ALLOC",
    "XA_FLAGS_ALLOC1",
    "XA_FLAGS_ALLOC_WRAPPED",
    "XA_FLAGS_LOCK_BH",
    "XA_FLAGS_LOCK_IRQ",
    "XA_FLAGS_TRACK_FREE",
    "XA_FLAGS_ZERO_BUSY",
    "XA_FREE_MARK",
    "XA_MARK_0",
    "XA_MARK_1",
    "XA_MARK_2",
    "XA_MARK_MAX",
    "XA_MAX_MARKS",
    "XA_PRESENT",
    "ZERO",
    "Internal",
    "InvalidArgument",
    "TaggedPointer",
    "is_internal",
    "is_retry",
    "is_sibling",
    "is_value",
    "is_zero",
    "same_entry",
    "sibling",
    "xa_flags_mark",
]

ULONG_MAX: Final = 2**64 - 1
"""The highest index. Kernel: ULONG_MAX on a 64-bit machine."""

LONG_MAX: Final = 2**63 - 1
"""The highest value entry."""

XA_MARK_0: Final = 0
XA_MARK_1: Final = 1
XA_MARK_2: Final = 2
XA_PRESENT: Final = 8
"""The filter that accepts every entry, marked or not."""
XA_MARK_MAX: Final = XA_MARK_2
XA_MAX_MARKS: Final = 3
XA_FREE_MARK: Final = XA_MARK_0
"""The mark that allocating arrays keep on free indices."""

XA_FLAGS_LOCK_IRQ: Final = 1
XA_FLAGS_LOCK_BH: Final = 2
XA_FLAGS_TRACK_FREE: Final = 4
XA_FLAGS_ZERO_BUSY: Final = 8
XA_FLAGS_ALLOC_WRAPPED: Final = 16
XA_FLAGS_ACCOUNT: Final = 32

_GFP_BITS_SHIFT: Final = 26  # the marks of the whole array sit above the allocation flags


def xa_flags_mark(mark: int) -> int:
    """Return the bit of `xa_flags` that says whether any entry of the array has this mark.

    Kernel: XA_FLAGS_MARK(), include/linux/xarray.h.

    >>> xa_flags_mark(1) == 2 * xa_flags_mark(0)
    True
    """
    return (1 << _GFP_BITS_SHIFT) << mark


XA_FLAGS_ALLOC: Final = XA_FLAGS_TRACK_FREE | (1 << _GFP_BITS_SHIFT)
"""Flags of an array that hands out free indices from 0."""
XA_FLAGS_ALLOC1: Final = XA_FLAGS_TRACK_FREE | XA_FLAGS_ZERO_BUSY
"""Flags of an array that hands out free indices from 1."""


class InvalidArgument(UsageError, XArrayError):
    """Bad input for which the kernel has an errno as well (`-EINVAL`)."""

    def __init__(self, message: str) -> None:
        XArrayError.__init__(self, EINVAL, message)

    def __reduce__(self) -> tuple[type[InvalidArgument], tuple[str]]:
        return type(self), (self.message,)


@final
class Internal:
    """An entry that has a meaning for the XArray itself: a sibling, `RETRY` or `ZERO`.

    Kernel: xa_mk_internal(), include/linux/xarray.h.

    There is one object per number, so entries can be compared with ``is``. Numbers below 64 are siblings.

    Attributes:
        number: slot of the canonical entry for a sibling, 256 for `RETRY`, 257 for `ZERO`.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number: Final = number

    def __repr__(self) -> str:
        if self.number < 64:
            return f"sibling({self.number})"
        return "RETRY" if self.number == 256 else "ZERO"

    def __copy__(self) -> Internal:
        return self

    def __deepcopy__(self, memo: object) -> Internal:
        return self

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return _internal, (self.number,)


RETRY: Final = Internal(256)
"""What a lockless reader finds in a freed node: walk again from the head. Kernel: XA_RETRY_ENTRY."""

ZERO: Final = Internal(257)
"""A reserved index: the normal API loads it as None. Kernel: XA_ZERO_ENTRY."""

SIBLINGS: Final = tuple(Internal(offset) for offset in range(64))


def _internal(number: int) -> Internal:
    """Find the one object with this number (pickle comes back through here)."""
    return SIBLINGS[number] if number < 64 else RETRY if number == 256 else ZERO


def sibling(offset: int) -> Internal:
    """Return the sibling entry that refers to a slot.

    Kernel: xa_mk_sibling(), include/linux/xarray.h.

    Args:
        offset: slot number of the canonical entry in the same node, 0 to 62.

    >>> sibling(8) is sibling(8)
    True
    """
    return SIBLINGS[offset]


@final
class TaggedPointer:
    """A pointer with a small tag in its low bits; counts as a value entry everywhere.

    Kernel: xa_tag_pointer(), include/linux/xarray.h.

    Attributes:
        pointer: the object pointed to. Kernel: xa_untag_pointer().
        tag: 1 or 3 (a tag of 0 is a plain pointer). Kernel: xa_pointer_tag().

    Raises:
        UsageError: any other tag.

    >>> item = object()
    >>> TaggedPointer(item, 1) == TaggedPointer(item, 1) != TaggedPointer(item, 3)
    True
    """

    __slots__ = ("pointer", "tag")

    def __init__(self, pointer: object, tag: int) -> None:
        if tag not in (1, 3):
            raise UsageError(f"a pointer cannot carry the tag {tag!r}: use 1 or 3 (0 is the plain pointer)")
        self.pointer: Final = pointer
        self.tag: Final = tag

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaggedPointer) and self.pointer is other.pointer and self.tag == other.tag

    def __hash__(self) -> int:
        return hash((id(self.pointer), self.tag))

    def __repr__(self) -> str:
        return f"TaggedPointer({self.pointer!r}, {self.tag})"


def is_value(entry: object) -> TypeGuard[int | TaggedPointer]:
    """Say whether an entry is a value rather than a pointer.

    Kernel: xa_is_value(), include/linux/xarray.h.

    >>> [is_value(entry) for entry in (0, 7, None, "page", RETRY)]
    [True, True, False, False, False]
    """
    return type(entry) is int or type(entry) is TaggedPointer


def is_internal(entry: object) -> TypeGuard[Internal]:
    """Say whether an entry is a sibling, `RETRY` or `ZERO` (nodes are told apart by their own type).

    Kernel: xa_is_internal(), include/linux/xarray.h.
    """
    return type(entry) is Internal


def is_sibling(entry: object) -> TypeGuard[Internal]:
    """Say whether an entry only refers to another slot of its node.

    Kernel: xa_is_sibling(), include/linux/xarray.h.
    """
    return type(entry) is Internal and entry.number < 64


def is_retry(entry: object) -> bool:
    """Say whether an entry tells its reader to walk again.

    Kernel: xa_is_retry(), include/linux/xarray.h.
    """
    return entry is RETRY


def is_zero(entry: object) -> bool:
    """Say whether an entry is a reservation.

    Kernel: xa_is_zero(), include/linux/xarray.h.
    """
    return entry is ZERO


def same_entry(one: object, other: object) -> bool:
    """Say whether two entries have the same bits in the kernel: the same object, or the same value.

    >>> same_entry(2**40, 2**40), same_entry([], []), same_entry(None, ZERO)
    (True, False, False)
    """
    if one is other:
        return True
    kind = type(one)
    return (kind is int or kind is TaggedPointer) and kind is type(other) and one == other
