# SPDX-License-Identifier: GPL-2.0-only
"""Weak memory: stores that wait in a buffer before others see them.

`tso` (total store order, as on x86): each CPU has one buffer, first in, first out. `pso` (partial store order): one
buffer for each location that a CPU stores to, so that its stores to different locations may become visible in any
order. A load takes the newest value in the CPU's own buffer if there is one, else that in memory. What waits in which
model, and what waits for empty buffers, is in `MODELS`; what an operation of the kernel's code is, says the table that
the twins bring (`twins/orders.py`). Loads are never delayed, so what only later loads would bring about (load
buffering, a missing `smp_rmb()`) is not seen.

To the engine, a buffer is a CPU of its own (without code) whose next operation is its oldest store. What it must come
after in spite of being another CPU's: the last event of its owner before it was issued. And what waits for stores comes
after the events in which they became visible. Both are given to the engine as `joins`.

A CPU's load and the end of its own store's wait do not depend on each other: it sees its store either way. So that the
engine does not try both orders, a location whose stores can wait has a *view* per CPU, a location by itself: a load is
a read of its CPU's view, a store writes the views of the other CPUs (and the location itself, for the order of stores).

Conventions in this file: the *owner* of a buffer is the CPU that has issued its stores. To *drain* is to wait until
one's buffers are empty. A store *needs* others that must become visible before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast

from mmref.explore.locations import READ, WRITE, Location, Mode, point_all
from mmref.explore.places import call_stack
from mmref.explore.recording import Frame
from mmref.explore.scheduler import ExploredCpu, Run

__all__ = ["MODELS", "UNSEEN", "MemoryModel", "Order", "Store", "StoreBuffer", "StoreBuffers"]


class Order(Enum):
    """What an operation that changes memory orders, in the kernel's terms (Documentation/atomic_t.txt)."""

    PLAIN = "nothing: a plain store, WRITE_ONCE()"
    RELAXED = "nothing: atomic, but nothing is returned"
    RELEASE = "what the CPU did before, before it"
    ACQUIRE = "it before what the CPU does next"
    FULL = "everything before it before everything after it"
    ASIDE = "nothing: no store of the CPU"


@dataclass(frozen=True)
class MemoryModel:
    """A weak memory model.

    Attributes:
        name: as given to `explore(memory=...)`.
        buffer_per_location: each location that a CPU stores to has a buffer of its own.
        delayed: the stores that wait in a buffer, if they are to a location for which that is modelled.
        draining: the operations, performed at once, before which the CPU drains.
    """

    name: str
    buffer_per_location: bool
    delayed: frozenset[Order]
    draining: frozenset[Order]


MODELS: Final = {
    "tso": MemoryModel("tso", False, frozenset({Order.PLAIN, Order.RELEASE}), frozenset(Order) - {Order.ASIDE}),
    "pso": MemoryModel(
        "pso", True, frozenset({Order.PLAIN, Order.RELEASE, Order.RELAXED}), frozenset({Order.RELEASE, Order.FULL})
    ),
}  # fmt: skip
"""The weak memory models. On x86 every atomic operation is a full barrier, and a store performed at once must not
overtake those that wait. Under `pso`, it is one that happens not to wait; but a release comes after all others.
"""

UNSEEN: Final = object()
"""The value of a waiting store whose CPU does not know it: an increment."""

_FENCES = 1 << 60  # location ids from here on are those of fences; nobody shares them
_VIEWS = 48  # a view's id has its CPU's number, from 1 on, in front of that of the location


class Store:
    """A store that waits, or has waited.

    Attributes:
        location, mode, label: as of any operation.
        put: performs it, and returns what a trace is to show.
        value: what the owner sees meanwhile; `UNSEEN` if it must wait to see it.
        needs: see the top of the module.
        issued: position of the owner's last event before it; -1 if there is none.
        position: that of the event in which it has become visible; -1 if it has not.
        stack: the calls that led to it, if they are recorded.
    """

    __slots__ = ("issued", "label", "location", "mode", "needs", "position", "put", "stack", "value")

    def __init__(
        self, location: Location, mode: Mode, label: str, put: Callable[[], object], value: object,
        needs: tuple[Store, ...], issued: int, stack: tuple[Frame, ...],
    ) -> None:  # fmt: skip
        self.location = location
        self.mode = mode
        self.label = label
        self.put = put
        self.value = value
        self.needs = needs
        self.issued = issued
        self.stack = stack
        self.position = -1


class StoreBuffer(ExploredCpu):
    """A buffer, as the engine sees it: a CPU whose next operation is the oldest store.

    Attributes:
        owner: see the top of the module.
        stores: those that wait, the oldest first.
    """

    __slots__ = ("owner", "stores")

    def __init__(self, id: int, name: str, owner: ExploredCpu, run: Run) -> None:
        super().__init__(id)
        self.owner = owner
        self.stores: deque[Store] = deque()
        self.prepare(run, name, lambda: None)

    @property
    def issued(self) -> int:
        """The position of the owner's last event before the oldest store; -1 if there is none."""
        return self.stores[0].issued


class _Owner:
    """What is known about the stores of a CPU.

    Attributes:
        event: position of its last event; -1 if it had none.
        buffers: its buffers, in the order in which it first stored to them.
        places: location -> which of them.
        since: buffer -> its last store, of those that were issued since the CPU last drained.
        last: the same by location.
        barrier: what a store needs that is issued after `smp_wmb()`.
        fence: the location of its fences.
    """

    def __init__(self, fence: Location) -> None:
        self.event = -1
        self.buffers: list[StoreBuffer] = []
        self.places: dict[int, int] = {}
        self.since: dict[int, Store] = {}
        self.last: dict[int, Store] = {}
        self.barrier: tuple[Store, ...] = ()
        self.fence = fence

    def drained(self) -> None:
        """Forget what whatever comes now comes after in any case."""
        self.since.clear()
        self.last.clear()
        self.barrier = ()


class StoreBuffers:
    """The buffers of an execution.

    Attributes:
        model: the memory model.
        orders: the label of an operation -> what it orders; `Order.FULL` if it is not in there.
        waiting: set of the CPUs and buffers whose next operation needs stores that still wait.
    """

    def __init__(self, model: str) -> None:
        self.model = MODELS[model]
        self.orders: Mapping[str, Order] = {}
        self.waiting = 0
        self._run = cast(Run, None)
        self._owners: list[_Owner] = []
        self._needs: dict[int, tuple[Store, ...]] = {}  # of each CPU's or buffer's next operation
        self._draining = 0
        self._forwards = False  # the next announced load sees the CPU's own waiting stores
        self._views: dict[int, list[Location]] = {}  # of the locations whose stores can wait

    def start(self, run: Run) -> None:
        """Set the buffers of the CPUs up."""
        self._run = run
        self._owners = [_Owner(Location("the store buffer", _FENCES + cpu.id)) for cpu in run.cpus]
        if not self.model.buffer_per_location:
            self._more_buffers("")

    def declare(self, location: Location) -> None:
        """Take note that stores to a location can wait. Must be called before it is first accessed."""
        self._views[location.id] = []

    def _views_of(self, location: Location) -> list[Location]:
        views = self._views[location.id]
        if not views:
            for cpu in range(self._run.real):
                views.append(Location(lambda: location.name, location.id | (cpu + 1) << _VIEWS))
        return views

    def _more_buffers(self, of: str) -> None:
        """Give every CPU one more buffer, so that a buffer's number does not depend on who was the first to need it."""
        run = self._run
        for owner, cpu in zip(self._owners, run.cpus, strict=False):
            buffer = StoreBuffer(len(run.cpus), f"{cpu.name}'s stores{of}", cpu, run)
            run.cpus.append(buffer)
            owner.buffers.append(buffer)

    # Called from the CPUs' code

    def delays(self, order: Order) -> bool:
        """Tell whether a store that orders so much waits in a buffer."""
        return order in self.model.delayed

    def store(
        self, cpu: ExploredCpu, location: Location, put: Callable[[], object], value: object, label: str = "store",
        order: Order = Order.PLAIN, mode: Mode = WRITE,
    ) -> None:  # fmt: skip
        """Put a store into a buffer.

        Args:
            cpu: the owner.
            location: what is stored to; it has been declared.
            put: performs the store, and returns what a trace is to show.
            value: what the CPU sees there from now on; `UNSEEN` if that cannot be told.
            label: the operation's name for the trace.
            order: what it orders.
            mode: how it accesses the location.
        """
        owner = self._owners[cpu.id]
        place = 0
        needs: tuple[Store, ...] = ()
        if self.model.buffer_per_location:
            place = owner.places.setdefault(location.id, len(owner.places))
            if place == len(owner.buffers):
                self._more_buffers(f" {place}")
            needs = tuple(owner.since.values()) if order is Order.RELEASE else owner.barrier
        stack = call_stack(2) if self._run.recorder is not None else ()
        store = Store(location, mode, label, put, value, needs, owner.event, stack)
        owner.since[place] = owner.last[location.id] = store
        buffer = owner.buffers[place]
        buffer.stores.append(store)
        if len(buffer.stores) == 1:
            self._show(buffer)
            self._run.unfinished |= buffer.bit

    def load(self, locations: Sequence[Location], label: str = "load") -> None:
        """Do as `point_all()`, for a load that looks at `own()` as well."""
        self._forwards = True
        point_all([(location, READ) for location in locations], label)

    def own(self, cpu: ExploredCpu, location: Location) -> list[object]:
        """Return the values of a CPU's own stores to a location that still wait, the oldest first."""
        owner = self._owners[cpu.id]
        last = owner.last.get(location.id)
        if last is None or last.position >= 0:
            return []
        place = owner.places[location.id] if self.model.buffer_per_location else 0
        return [store.value for store in owner.buffers[place].stores if store.location is location]

    def fence(self, cpu: ExploredCpu) -> None:
        """Drain."""
        owner = self._owners[cpu.id]
        if owner.since:
            cpu.pend(owner.fence, READ, "smp_mb")

    def write_barrier(self, cpu: ExploredCpu) -> None:
        """Let no later store become visible before an earlier one."""
        owner = self._owners[cpu.id]
        owner.barrier = tuple(owner.since.values())

    # Called from the scheduler

    def announce(self, cpu: ExploredCpu) -> None:
        """Take note of a CPU's next operation: which stores does it need, which views does it touch?"""
        owner = self._owners[cpu.id]
        forwards, self._forwards = self._forwards, False
        if cpu.mode == READ and cpu.more is None and cpu.location is not owner.fence:  # most operations
            self._announce_load(cpu, owner, forwards)
            return
        accesses = ((cpu.location, cpu.mode), *cpu.more) if cpu.more is not None else ((cpu.location, cpu.mode),)
        if cpu.location is owner.fence or (
            any(mode != READ for _, mode in accesses)
            and self.orders.get(cpu.label, Order.FULL) in self.model.draining
        ):
            self._draining |= cpu.bit
            needs = tuple(owner.since.values())
        elif owner.last:
            own = [owner.last[location.id] for location, _ in accesses if location.id in owner.last]
            needs = tuple([one for one in own if not forwards or one.value is UNSEEN])
        else:
            needs = ()
        self._wait_for(cpu, needs)
        seen: list[tuple[Location, Mode]] = []
        for location, mode in accesses:
            if location.id not in self._views:
                seen.append((location, mode))
            elif mode == READ:
                seen.append((self._views_of(location)[cpu.id], READ))
            else:
                seen.append((location, mode))
                seen.extend(self._others(location, mode, cpu))
                cpu.effect = None  # whether it would take effect elsewhere in the order, not even its views tell
        cpu.location, cpu.mode = seen[0]
        cpu.more = tuple(seen[1:]) or None

    def _announce_load(self, cpu: ExploredCpu, owner: _Owner, forwards: bool) -> None:
        """Do as `announce()` for a load of one location."""
        location = cpu.location
        views = self._views.get(location.id)
        store = None
        if views is not None:
            store = owner.last.get(location.id)
            cpu.location = (views or self._views_of(location))[cpu.id]
        self._wait_for(cpu, () if store is None or (forwards and store.value is not UNSEEN) else (store,))

    def _others(self, location: Location, mode: Mode, cpu: ExploredCpu) -> list[tuple[Location, Mode]]:
        """Return what a change of a location does to the other CPUs' views of it."""
        return [(view, mode) for number, view in enumerate(self._views_of(location)) if number != cpu.id]

    def _show(self, buffer: StoreBuffer) -> None:
        """Make a buffer's oldest store its next operation."""
        store = buffer.stores[0]
        buffer.location = store.location
        buffer.mode = store.mode
        buffer.label = store.label
        buffer.stack = store.stack
        buffer.more = tuple(self._others(store.location, store.mode, buffer.owner)) or None
        self._wait_for(buffer, store.needs)

    def _wait_for(self, cpu: ExploredCpu, needs: tuple[Store, ...]) -> None:
        """Let the next operation of a CPU or buffer wait for stores."""
        self._needs[cpu.id] = needs
        if not needs or all(store.position >= 0 for store in needs):
            self.waiting &= ~cpu.bit
        else:
            self.waiting |= cpu.bit

    def joins(self, cpu: ExploredCpu) -> tuple[int, ...]:
        """Return the positions of what the next operation of a CPU or buffer comes after."""
        found = tuple([store.position for store in self._needs.get(cpu.id, ())])
        if isinstance(cpu, StoreBuffer) and cpu.issued >= 0:
            return (cpu.issued, *found)
        return found

    def choose(self, cpu: ExploredCpu, again: bool) -> None:
        """Take note that the next operation of a CPU or buffer is about to be performed.

        Args:
            cpu: the CPU or buffer.
            again: an earlier execution has begun in the same way, so that nobody asks what it comes after.
        """
        if not again:
            cpu.joins = self.joins(cpu)
        if isinstance(cpu, StoreBuffer):
            return
        owner = self._owners[cpu.id]
        owner.event = self._run.steps
        if self._draining & cpu.bit:
            self._draining &= ~cpu.bit
            owner.drained()

    def flush(self, buffer: StoreBuffer) -> None:
        """Perform the oldest store of a buffer."""
        store = buffer.stores.popleft()
        value = store.put()
        store.position = self._run.steps - 1
        buffer.seen.clear()
        if self._run.recorder is not None:
            self._run.recorder.note(value)
        if buffer.stores:
            self._show(buffer)
        else:
            self._run.unfinished &= ~buffer.bit
        waiting = self.waiting
        while waiting:
            bit = waiting & -waiting
            waiting ^= bit
            if all(one.position >= 0 for one in self._needs[bit.bit_length() - 1]):
                self.waiting ^= bit
