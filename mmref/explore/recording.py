# SPDX-License-Identifier: GPL-2.0-only
"""The events of one execution, kept while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.explore.locations import MODE_NAMES, Mode

if TYPE_CHECKING:
    from mmref.explore.scheduler import ExploredCpu

__all__ = ["Event", "Frame", "Recorder"]

Frame = tuple[str, str, int]
"""One level of a call stack: qualified function name, file, line."""


class Event:
    """One performed access, as recorded for a trace.

    Attributes:
        step: its number in the execution, from 0.
        cpu: the number of its CPU.
        label: the operation's name.
        location: the name of the location.
        mode: the name of its mode in effect.
        value: what the operation reported through `note()`.
        stack: calls from the CPU's entry function inwards.
        waited: whether the CPU could not have gone on at once when it came to this operation.
        issued: of a store that has waited in a buffer: the step after which its CPU has issued it.
    """

    __slots__ = ("cpu", "issued", "label", "location", "mode", "stack", "step", "value", "waited")

    def __init__(
        self, *, step: int, cpu: int, label: str, location: str, mode: str, stack: tuple[Frame, ...],
        waited: bool, issued: int | None = None,
    ) -> None:  # fmt: skip
        self.step = step
        self.cpu = cpu
        self.label = label
        self.location = location
        self.mode = mode
        self.stack = stack
        self.waited = waited
        self.issued = issued
        self.value: object = None



class Recorder:
    """Collect the events of one execution, with their call stacks."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def note(self, value: object) -> None:
        """Keep a result with the access just performed."""
        if self.events:
            self.events[-1].value = value

    def add(self, step: int, cpu: ExploredCpu, mode: Mode) -> None:
        """Keep an access that is about to be performed."""
        location = cpu.location
        self.events.append(
            Event(step=step, cpu=cpu.id, label=cpu.label or MODE_NAMES[mode], location=location.name,
                  mode=MODE_NAMES[mode], stack=cpu.stack, waited=cpu.waited,
                  issued=getattr(cpu, "issued", None))
        )  # fmt: skip
