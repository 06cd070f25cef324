# SPDX-License-Identifier: GPL-2.0-only
"""A trace of an execution under a weak memory model, told by its CPUs: where a store was issued, and where it was seen.

In the trace, a store that has waited is one event, when it became visible, of a store buffer. Here it is its CPU's. If
another CPU has done something in between, it stands in both places.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mmref.explore.trace import Trace, TraceEvent

__all__ = ["Telling", "told"]


@dataclass(frozen=True)
class Telling:
    """A trace without store buffers.

    Attributes:
        trace: the trace; its steps are counted anew.
        issued: the steps in which a store is issued that waits.
        visible: the steps in which such a store becomes visible.
    """

    trace: Trace
    issued: frozenset[int] = field(default=frozenset())
    visible: frozenset[int] = field(default=frozenset())

    def mark(self, event: TraceEvent, text: str) -> str:
        """Say of an event's text what has become of a store that has waited."""
        if event.step in self.issued:
            return f"{text} waits"
        return f"({text} is visible)" if event.step in self.visible else text


def told(trace: Trace) -> Telling:
    """Return a trace as its CPUs tell it."""
    real = trace.stores_from
    if not real:
        return Telling(trace)
    issued: dict[int, list[TraceEvent]] = {}  # by the step after which they are
    for event in (*trace.events, *trace.aftermath):
        if event.issued is not None and _delayed(trace, event):
            issued.setdefault(event.issued, []).append(event)
    events: list[TraceEvent] = []
    waits: set[int] = set()
    visible: set[int] = set()

    def tell(event: TraceEvent) -> TraceEvent:
        return replace(event, step=len(events), cpu=trace.owner(event.cpu))

    def issue(after: int) -> None:
        for event in issued.get(after, ()):
            waits.add(len(events))
            known = event.value if isinstance(event.value, str) else None  # what a counter comes to is not, yet
            events.append(replace(tell(event), value=known))

    issue(-1)
    for event in trace.events:
        if event.issued is not None and event in issued.get(event.issued, ()):
            visible.add(len(events))
        events.append(tell(event))
        issue(event.step)
    aftermath = tuple(replace(event, cpu=trace.owner(event.cpu)) for event in trace.aftermath)
    whole = replace(trace, cpus=trace.cpus[:real], events=tuple(events), aftermath=aftermath, stores_from=0)
    return Telling(whole, frozenset(waits), frozenset(visible))


def _delayed(trace: Trace, store: TraceEvent) -> bool:
    """Tell whether another CPU has done something before a store became visible that its CPU had issued."""
    assert store.issued is not None
    between = trace.events[store.issued + 1 : store.step]
    return any(trace.owner(event.cpu) != trace.owner(store.cpu) for event in between)
