# SPDX-License-Identifier: GPL-2.0-only
"""The XArray of Linux 6.12, node for node.

`XArray` is the array with the kernel's normal API and a Python mapping's; `XaState` is the cursor that the page
cache works with. The files follow lib/xarray.c, one concept each:

* entries, node, anchor: what there is
* state, walk, marks, create, store, find, split, cursor: the cursor, layer by layer
* normal, ids, array: the array, layer by layer
* dump, check: looking at it
"""

from mmref.xarray.array import XArray
from mmref.xarray.cursor import XaState
from mmref.xarray.entries import (
    RETRY,
    ULONG_MAX,
    XA_FLAGS_ACCOUNT,
    XA_FLAGS_ALLOC,
    XA_FLAGS_ALLOC1,
    XA_FLAGS_ALLOC_WRAPPED,
    XA_FLAGS_LOCK_BH,
    XA_FLAGS_LOCK_IRQ,
    XA_FLAGS_TRACK_FREE,
    XA_FLAGS_ZERO_BUSY,
    XA_FREE_MARK,
    XA_MARK_0,
    XA_MARK_1,
    XA_MARK_2,
    XA_MARK_MAX,
    XA_MAX_MARKS,
    XA_PRESENT,
    ZERO,
    Internal,
    InvalidArgument,
    TaggedPointer,
    is_internal,
    is_retry,
    is_sibling,
    is_value,
    is_zero,
    sibling,
)
from mmref.xarray.ids import UINT_MAX, CyclicId
from mmref.xarray.node import NodeAllocator, XaNode, is_node
from mmref.xarray.state import XAS_BOUNDS, XAS_RESTART, NodeState, UpdateNode

__all__ = [
    "RETRY",
    "UINT_MAX",
    "ULONG_MAX",
    "XAS_BOUNDS",
    "XAS_RESTART",
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
    "CyclicId",
    "Internal",
    "InvalidArgument",
    "NodeAllocator",
    "NodeState",
    "TaggedPointer",
    "UpdateNode",
    "XArray",
    "XaNode",
    "XaState",
    "is_internal",
    "is_node",
    "is_retry",
    "is_sibling",
    "is_value",
    "is_zero",
    "sibling",
]
