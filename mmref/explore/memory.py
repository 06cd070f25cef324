# SPDX-License-Identifier: GPL-2.0-only
"""Weak memory: stores that wait in a buffer before others see them.

`tso` (total store order, as on x86): each CPU has one buffer, first in, first out. `pso` (partial store order): one
buffer for each cell that a CPU stores to, so that its stores to different cells may become visible in any order. A
load takes the newest value in the CPU's own buffer if there is one, else that in memory. `smp_mb()`, every operation
that reads and writes at once, and every operation on a lock wait until the CPU's buffers are empty. Loads are never
delayed, so what only later loads would bring about (load buffering) is not seen.

To the engine, a buffer is a CPU of its own (without code) whose next operation is its oldest store: the `WRITE` of the
cell. What it must come after in spite of being another CPU's: the last event of its owner before it was issued. And
what waits for empty buffers comes after their last events. Both are given to the engine as `joins`.

Conventions in this file: the *owner* of a buffer is the CPU that has issued its stores.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar, cast

from mmref.errors import UsageError
from mmref.explore.cells import BufferedCell, Cell, Mutex
from mmref.explore.locations import READ, WRITE, Location
from mmref.explore.scheduler import ExploredCpu, Frame, Run, call_stack

if TYPE_CHECKING:
    from typing import Any

__all__ = ["MEMORY_MODELS", "StoreBuffer", "StoreBuffers"]

MEMORY_MODELS: dict[str, int] = {"tso": 1, "pso": 6}
"""The weak memory models, each with the number of buffers per CPU."""

_FENCES = 1 << 50  # location ids from here on are those of fences; nobody shares them

T = TypeVar("T")


class StoreBuffer(ExploredCpu):
    """A buffer, as the engine sees it: a CPU whose next operation is the oldest store.

    Attributes:
        owner: see the top of the module.
        stores: (cell, value, position of the owner's last event before it or -1, call stack).
        flushed: position of the last store that has become visible; -1 if none has.
    """

    __slots__ = ("flushed", "owner", "stores")

    def __init__(self, id: int, name: str, owner: ExploredCpu, run: Run) -> None:
        super().__init__(id)
        self.name = name
        self.owner = owner
        self.run = run
        self.stores: deque[tuple[Cell[Any], object, int, tuple[Frame, ...]]] = deque()
        self.flushed = -1
        self.started = False
        self.guarded = False
        self.waited = False
        self.spin = None
        self.spun = False
        self.enabled = None
        self.holder = None
        self.result = None
        self.mode = WRITE
        self.label = "store"

    def show(self) -> None:
        """Make the oldest store the pending operation."""
        cell, _, position, stack = self.stores[0]
        self.location = cell
        self.stack = stack
        self.joins = () if position < 0 else (position,)


class StoreBuffers:
    """The buffers of an execution.

    Attributes:
        model: the memory model.
        draining: set of the CPUs that wait until their buffers are empty.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.draining = 0
        self._count = MEMORY_MODELS[model]
        self._run = cast(Run, None)
        self._buffers: list[list[StoreBuffer]] = []  # of each CPU
        self._places: list[dict[int, int]] = []  # of each CPU: cell -> buffer (with pso)
        self._last: list[int] = []  # position of each CPU's last event
        self._fences: list[Location] = []

    def start(self, run: Run, cpus: list[ExploredCpu]) -> list[StoreBuffer]:
        """Set the buffers of the CPUs up; return them in the order of their ids."""
        if len(cpus) * (1 + self._count) > 255:
            raise UsageError(
                f"{len(cpus)} CPUs are too many for memory={self.model!r}: at most {255 // (1 + self._count)}"
            )
        self._run = run
        made: list[StoreBuffer] = []
        self._buffers = [[] for _ in cpus]
        for number in range(self._count):
            for cpu in cpus:
                name = f"{cpu.name}'s stores" + (f" {number}" if number else "")
                buffer = StoreBuffer(len(cpus) + len(made), name, cpu, run)
                self._buffers[cpu.id].append(buffer)
                made.append(buffer)
        self._places = [{} for _ in cpus]
        self._last = [-1] * len(cpus)
        self._fences = [Location("the store buffer", _FENCES + cpu.id) for cpu in cpus]
        return made

    # Called from the CPUs' code

    def store(self, cpu: ExploredCpu, cell: Cell[T], value: T) -> None:
        """Put a store into a buffer."""
        place = 0
        if self._count > 1:
            places = self._places[cpu.id]
            place = places.setdefault(cell.id, len(places))
            if place >= self._count:
                self._refuse(
                    f"{cpu.name} stores to more than {self._count} cells, and memory={self.model!r} has no more buffers"
                    " per CPU: use memory='tso', or a smaller program"
                )
        buffer = self._buffers[cpu.id][place]
        stack = call_stack(3) if self._run.recorder is not None else ()
        buffer.stores.append((cell, value, self._last[cpu.id], stack))
        if len(buffer.stores) == 1:
            buffer.show()
            self._run.unfinished |= buffer.bit

    def value(self, cpu: ExploredCpu, cell: Cell[T]) -> T:
        """Return what a CPU sees in a cell."""
        for buffer in self._buffers[cpu.id]:
            for stored, value, _, _ in reversed(buffer.stores):
                if stored is cell:
                    return cast(T, value)
        return cell.peek()

    def fence(self, cpu: ExploredCpu) -> None:
        """Wait until the CPU's buffers are empty."""
        if any(buffer.stores for buffer in self._buffers[cpu.id]):
            cpu.pend(self._fences[cpu.id], READ, "smp_mb")

    def _refuse(self, why: str) -> None:
        """End the exploration: an exception in a CPU's code would be taken for a finding."""
        self._run.crash = UsageError(why)
        self._run.hub.switch()

    # Called from the scheduler

    def announce(self, cpu: ExploredCpu) -> None:
        """Take note of a CPU's next operation: does it wait for the buffers?"""
        location = cpu.location
        if cpu.mode == READ and location is not self._fences[cpu.id]:
            return
        if not isinstance(location, BufferedCell | Mutex) and location is not self._fences[cpu.id]:
            self._refuse(
                f"{location.name} is a {type(location).__name__}, whose stores cannot be buffered yet:"
                f" memory={self.model!r} is for programs of Cell and Mutex; use memory='sc'"
            )
        self.draining |= cpu.bit

    def waiting(self) -> int:
        """Return the set of CPUs that wait until their buffers are empty."""
        mask = self.draining
        if mask:
            for buffers in self._buffers:
                bit = buffers[0].owner.bit
                if mask & bit and not any(buffer.stores for buffer in buffers):
                    mask &= ~bit
        return mask

    def joins(self, cpu: ExploredCpu) -> tuple[int, ...]:
        """Return the positions of the stores that the pending operation of a CPU comes after."""
        if not self.draining & cpu.bit:
            return ()
        return tuple([one.flushed for one in self._buffers[cpu.id] if one.flushed >= 0])

    def choose(self, cpu: ExploredCpu) -> None:
        """Take note that the pending operation of a CPU is about to be performed."""
        if cpu.id < len(self._last):
            cpu.joins = ()
            if self.draining & cpu.bit:
                cpu.joins = self.joins(cpu)
                self.draining &= ~cpu.bit
            self._last[cpu.id] = self._run.steps

    def flush(self, buffer: StoreBuffer) -> None:
        """Perform the oldest store of a buffer."""
        cell, value, _, _ = buffer.stores.popleft()
        cell.put(value)
        buffer.seen.clear()
        buffer.flushed = self._run.steps - 1
        if self._run.recorder is not None:
            self._run.recorder.note(value)
        if buffer.stores:
            buffer.show()
        else:
            self._run.unfinished &= ~buffer.bit
