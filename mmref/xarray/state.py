# SPDX-License-Identifier: GPL-2.0-only
"""The cursor's fields, and what can be done to it without looking at the tree.

The cursor grows layer by layer, one concept a file: state (here), walk, marks, create, store, find, split;
cursor.py puts the last layer on and names the result `XaState`.

Conventions in this file: *xas* is the cursor (``self``), *xa* its array, *index* the index that it is about,
*node* where it stands: an `XaNode`, None for the head of the array, or one of the `NodeState` objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from mmref.errors import UsageError
from mmref.xarray.anchor import Anchor, bad_index
from mmref.xarray.entries import RETRY, ULONG_MAX, ZERO
from mmref.xarray.node import XaNode

__all__ = ["XAS_BOUNDS", "XAS_RESTART", "CursorNode", "NodeState", "State", "UpdateNode", "xas_error_node"]

UpdateNode = Callable[[XaNode], None]
"""Called after each change of a node's counts. Kernel: xa_update_node_t, include/linux/xarray.h."""


@final
class NodeState:
    """What a cursor's `node` is while it is not on a node: restart, bounds, or an error.

    Kernel: XAS_RESTART, XAS_BOUNDS and XA_ERROR(), include/linux/xarray.h.

    There is one object per state, so states can be compared with ``is``.

    Attributes:
        errno: the negative error number; 0 for restart and bounds.
        shift: more than any node has. A state is no leaf, then, and the quick paths for leaves need not ask.
        slots: none.
    """

    __slots__ = ("errno", "name", "shift", "slots")

    def __init__(self, name: str, errno: int = 0) -> None:
        self.name: Final = name
        self.errno: Final = errno
        self.shift: Final = 64
        self.slots: Final[list[Any]] = []

    def __repr__(self) -> str:
        return self.name


XAS_RESTART: Final = NodeState("XAS_RESTART")
"""Not walked yet, or to be walked again from the head."""
XAS_BOUNDS: Final = NodeState("XAS_BOUNDS")
"""Ran off the end of the nodes."""

_ERRORS: dict[int, NodeState] = {}

CursorNode = XaNode | NodeState | None

NO_RUN: Final[list[Any]] = []
"""The slots that a cursor has at hand which is not in the middle of a run of `next()`."""

AT_CONFLICT: Final[list[Any]] = []
"""The same, for a cursor that `find_conflict()` has just left on an entry."""


def xas_error_node(errno: int) -> NodeState:
    """Return the state of a cursor that carries an error.

    Kernel: XA_ERROR(), include/linux/xarray.h.

    Args:
        errno: a negative error number.
    """
    state = _ERRORS.get(errno)
    if state is None:
        state = _ERRORS[errno] = NodeState(f"XA_ERROR({errno})", errno)
    return state


class State:
    """The fields of a cursor.

    Kernel: struct xa_state, include/linux/xarray.h.

    Args:
        xa: the array.
        index: the index of interest (`XA_STATE`).
        order: log2 of how many indices the entry to be stored shall cover (`XA_STATE_ORDER`).
        update: called after each change of a node's counts.

    Attributes:
        xa: the array.
        index: the current index, in entries (pages, in the page cache).
        shift: with `sibs`, how much is stored at once: entries of 2**shift indices per slot ...
        sibs: ... and so many sibling slots after the first.
        offset: slot in `node`; 255 is -1, and the chunk size means "past the end". Left over from earlier
            whenever `node` is not a node.
        node: where the cursor stands (see the top of this file).
        alloc: first node of the list that waits to be used, linked by their `parent`.
        update: the callback, or None.

    Change `index`, `offset` and `node` by the methods only: while `next()` steps through a leaf it keeps that leaf's
    slots at hand (`_run`), and every other method that moves the cursor lets go of them.

    Raises:
        UsageError: an index below 0 or above 2**64 - 1, or an order above 63.
    """

    __slots__ = ("_mask", "_run", "alloc", "index", "node", "offset", "shift", "sibs", "update", "xa")

    node: CursorNode
    alloc: XaNode | None
    _run: list[Any]

    def __init__(self, xa: Anchor, index: int = 0, order: int = 0, update: UpdateNode | None = None) -> None:
        if not 0 <= index <= ULONG_MAX:
            raise bad_index(index)
        self.xa = xa
        self._mask = xa.chunk_mask
        self.index = index
        self.shift = 0
        self.sibs = 0
        self.offset = 0
        self.node = XAS_RESTART
        self._run = NO_RUN
        self.alloc = None
        self.update = update
        if order:
            if not 0 < order <= 63:
                raise bad_order(order)
            chunk_shift = xa.chunk_shift
            self.index = index >> order << order
            self.shift = order - order % chunk_shift
            self.sibs = (1 << order % chunk_shift) - 1

    def __repr__(self) -> str:
        where = "head" if self.node is None else repr(self.node)
        return (
            f"<{type(self).__name__} index {self.index} shift {self.shift} sibs {self.sibs} "
            f"offset {self.offset} at {where}>"
        )

    @property
    def error(self) -> int:
        """The sticky error: 0, or a negative error number.

        Kernel: xas_error(), include/linux/xarray.h.
        """
        node = self.node
        return node.errno if type(node) is NodeState else 0

    def set_err(self, errno: int) -> None:
        """Note an error in the cursor: nothing works any more until `reset()` or `set()`.

        Kernel: xas_set_err(), include/linux/xarray.h.

        Args:
            errno: a negative error number.

        Raises:
            UsageError: zero or a positive number.
        """
        if not -4095 <= errno < 0:
            raise UsageError(f"{errno!r} is not an error of a cursor: give a negative errno, or use reset()")
        self.node = xas_error_node(errno)
        self._run = NO_RUN

    def invalid(self) -> bool:
        """Say whether the cursor stands nowhere: restart, bounds or error.

        Kernel: xas_invalid(), include/linux/xarray.h.
        """
        return type(self.node) is NodeState

    def valid(self) -> bool:
        """Say whether the cursor stands on a node or on the head.

        Kernel: xas_valid(), include/linux/xarray.h.
        """
        return type(self.node) is not NodeState

    def is_node(self) -> bool:
        """Say whether the cursor stands on a node.

        Kernel: xas_is_node(), include/linux/xarray.h.
        """
        return type(self.node) is XaNode

    def reset(self) -> None:
        """Forget any error and position; the next walk starts from the head.

        Kernel: xas_reset(), include/linux/xarray.h.
        """
        self.node = XAS_RESTART
        self._run = NO_RUN

    def retry(self, entry: object) -> bool:
        """Say whether to skip an entry that lockless readers may meet, and get ready to walk again if so.

        Kernel: xas_retry(), include/linux/xarray.h.

        Args:
            entry: what a walk returned.

        Returns:
            True for `ZERO`, and for `RETRY`, which also resets the cursor.
        """
        if entry is ZERO:
            return True
        if entry is not RETRY:
            return False
        self.node = XAS_RESTART
        self._run = NO_RUN
        return True

    def set(self, index: int) -> None:
        """Move to another index; the next walk starts from the head.

        Kernel: xas_set(), include/linux/xarray.h.

        Raises:
            UsageError: not an index.
        """
        if not 0 <= index <= ULONG_MAX:
            raise bad_index(index)
        self.index = index
        self.node = XAS_RESTART
        self._run = NO_RUN

    def set_order(self, index: int, order: int) -> None:
        """Move to another index, and set how many indices the next store covers.

        Kernel: xas_set_order(), include/linux/xarray.h.

        Args:
            index: any index of the entry; it is rounded down to a multiple of 2**order.
            order: log2 of the number of indices, 0 to 63.

        Raises:
            UsageError: not an index, or an order that does not exist. The kernel takes order 64 here, and
                then stores at index 0 alone.
        """
        if not 0 <= index <= ULONG_MAX:
            raise bad_index(index)
        if not 0 <= order <= 63:
            raise bad_order(order)
        chunk_shift = self.xa.chunk_shift
        self.index = index >> order << order
        self.shift = order - order % chunk_shift
        self.sibs = (1 << order % chunk_shift) - 1
        self.node = XAS_RESTART
        self._run = NO_RUN

    def set_update(self, update: UpdateNode | None) -> None:
        """Have a function called after each change of a node's counts.

        Kernel: xas_set_update(), include/linux/xarray.h.

        Args:
            update: gets the node, with xa_lock held; None for no callback.
        """
        self.update = update

    def size(self) -> int:
        """Return how many indices the next store covers.

        Kernel: xas_size(), lib/xarray.c.
        """
        return ((self.sibs + 1) << self.shift) & ULONG_MAX


def bad_order(order: object) -> UsageError:
    """Make the error for an order that does not exist."""
    return UsageError(f"an entry of order {order!r} does not fit: orders go from 0 to 63")
