# SPDX-License-Identifier: GPL-2.0-only
"""One execution as data: what every view shows, what is written to a file, what `replay()` checks against.

The JSON schema, version 1 (every key but "pair", "stores_from" and "issued" is required):

    {"mmref_trace": 1,
     "program": name, "spec": what rebuilds the program ("" if nothing does), "schedule": schedule string,
     "cpus": [name, ...],
     "events": [{"step": int, "cpu": int, "label": text, "location": text, "mode": text, "value": JSON value,
                 "waited": bool, "stack": [[function, file, line], ...]}, ...],
     "verdict": {"kind": text, "id": text, "detail": text, "cpu": int or null},
     "aftermath": [events as above, steps counted on: what the other CPUs did after a finding],
     "pair": null, or {"first": event, "second": event, "schedule": schedule string}: the two accesses whose order makes
         the difference, and the schedule of an execution in which they come the other way round and nothing is wrong.
         They are events of the execution or of its aftermath, or, with step -1, what a CPU still waits to do,
     "stores_from": under a weak memory model, the number of CPUs: those in "cpus" from there on are store buffers, in
         the order of the CPUs, over and over again; 0 otherwise}

An event of a store buffer has the key "issued", too: the step after which its CPU has issued the store, -1 if it was
before all of that CPU's steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mmref.errors import UsageError
from mmref.explore.document import parse_document, read_text, write_text
from mmref.explore.places import ENGINE_FILES, place_text
from mmref.explore.recording import Event, Frame, Recorder
from mmref.explore.schedule import Schedule
from mmref.explore.scheduler import Run
from mmref.explore.verdict import Verdict, without_addresses

__all__ = ["SCHEMA_VERSION", "RacingPair", "Trace", "TraceEvent", "Verdict", "frozen_event"]

SCHEMA_VERSION = 1

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One access. The attributes are those of the JSON schema."""

    step: int
    cpu: int
    label: str
    location: str
    mode: str
    value: JsonValue = None
    waited: bool = False
    stack: tuple[Frame, ...] = ()
    issued: int | None = None

    @property
    def where(self) -> str:
        """The file, line and function of the access, and of the call that led to it; "" if unknown.

        Files below the working directory are named from there; files of the explorer do not count.
        """
        places = []
        for function, file, line in reversed(self.stack):
            if not file.startswith(ENGINE_FILES):
                places.append(place_text(function, file, line))
        return ", called at ".join(places[:2])


@dataclass(frozen=True, slots=True)
class RacingPair:
    """Two accesses of different CPUs whose order makes the difference. The attributes are those of the JSON schema."""

    first: TraceEvent
    second: TraceEvent
    schedule: Schedule

    def describe(self, cpus: Sequence[str]) -> str:
        """Say in two lines who did what too early."""
        lines = []
        for word, event in (("first", self.first), ("then", self.second)):
            where = f", {event.where}" if event.where else ""
            lines.append(f"{word} {cpus[event.cpu]}: {event.label} of {event.location}{where}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Trace:
    """One execution, from the program's name to the verdict."""

    program: str
    spec: str
    schedule: Schedule
    cpus: tuple[str, ...]
    events: tuple[TraceEvent, ...]
    verdict: Verdict = field(default=Verdict("holds"))
    aftermath: tuple[TraceEvent, ...] = ()
    pair: RacingPair | None = field(default=None, compare=False)  # an explanation, no part of what happened
    stores_from: int = 0

    def owner(self, cpu: int) -> int:
        """Return the number of the CPU itself, or of the one whose store buffer it is."""
        return cpu if not self.stores_from else cpu % self.stores_from

    @classmethod
    def of(cls, run: Run, recorder: Recorder, program: str, spec: str, aftermath: Sequence[Event] = ()) -> Trace:
        """Return the trace of a recorded execution, and of what the other CPUs did after its finding."""
        events = tuple(frozen_event(event) for event in recorder.events)
        memory = "sc" if run.buffers is None else run.buffers.model.name
        schedule = Schedule.of((event.cpu for event in events), spec, memory)
        further = tuple(frozen_event(event) for event in aftermath)
        count = max((event.cpu + 1 for event in (*events, *further)), default=0)
        names = run.names[: max(count, len(run.execution.names))]
        stores_from = 0 if run.buffers is None else run.real
        while len(names) < count:  # store buffers that came into use after the finding
            names.append(f"{names[len(names) % stores_from]}'s stores {len(names) // stores_from - 1}")
        return cls(program, spec, schedule, tuple(names), events, Verdict.of(run), further, stores_from=stores_from)

    def to_json(self, indent: int | None = None) -> str:
        """Return the trace as JSON text."""
        verdict = self.verdict
        data = {
            "mmref_trace": SCHEMA_VERSION,
            "program": self.program,
            "spec": self.spec,
            "schedule": str(self.schedule),
            "cpus": list(self.cpus),
            "events": [_event_data(event) for event in self.events],
            "verdict": {
                "kind": verdict.kind, "id": verdict.id, "detail": verdict.detail, "cpu": verdict.cpu,
            },
            "aftermath": [_event_data(event) for event in self.aftermath],
            "pair": None if self.pair is None else {
                "first": _event_data(self.pair.first), "second": _event_data(self.pair.second),
                "schedule": str(self.pair.schedule),
            },
            "stores_from": self.stores_from,
        }  # fmt: skip
        import json  # not needed to explore

        return json.dumps(data, indent=indent)

    @classmethod
    def from_json(cls, text: str, source: str = "the trace") -> Trace:
        """Read JSON text.

        Args:
            text: what `to_json()` has returned.
            source: what to call it in an error message, for example the file's name.

        Raises:
            UsageError: it is cut short, of another version, or something else altogether.
        """
        top = parse_document(text, source, "trace", SCHEMA_VERSION)
        reader = _Reader(source)
        schedule = Schedule.parse(reader.get(top, "schedule", str))
        cpus = tuple(reader.check(name, str, "a name in cpus") for name in reader.get(top, "cpus", list))
        events = tuple(
            reader.event(item, step, len(cpus)) for step, item in enumerate(reader.get(top, "events", list))
        )
        if tuple(event.cpu for event in events) != schedule.choices:
            raise UsageError(
                f"{source} contradicts itself: its {len(events)} events are not those of its schedule, which has"
                f" {len(schedule.choices)} steps"
            )
        aftermath = tuple(
            reader.event(item, step, len(cpus))
            for step, item in enumerate(reader.get(top, "aftermath", list), start=len(events))
        )
        stores_from = reader.check(top.get("stores_from", 0), int, "'stores_from'")
        if not 0 <= stores_from <= len(cpus):
            raise UsageError(f"{source} is not a valid mmref trace: store buffers from CPU {stores_from} on")
        verdict = reader.mapping(top.get("verdict"), "verdict")
        cpu = verdict.get("cpu")
        return cls(
            reader.get(top, "program", str), reader.get(top, "spec", str), schedule, cpus, events,
            Verdict(
                reader.get(verdict, "kind", str), reader.get(verdict, "id", str),
                reader.get(verdict, "detail", str), None if cpu is None else reader.check(cpu, int, "cpu"),
            ),
            aftermath, reader.pair(top.get("pair"), len(cpus)), stores_from,
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the trace to a file."""
        write_text(path, self.to_json(indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace from a file.

        Raises:
            UsageError: it cannot be read, or is no trace.
        """
        return cls.from_json(read_text(path, "trace"), repr(str(path)))


class _Reader:
    """Take values out of parsed JSON, or say in one sentence what is wrong with it."""

    def __init__(self, source: str) -> None:
        self._source = source

    def mapping(self, value: Any, what: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise UsageError(f"{self._source} is not an mmref trace: {what} is {_brief(value)}, not an object")
        return value

    def get(self, data: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
        if key not in data:
            raise UsageError(f"{self._source} is not a whole mmref trace: the key {key!r} is missing")
        return self.check(data[key], kind, repr(key))

    def check(self, value: Any, kind: type[Any], what: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise UsageError(
                f"{self._source} is not a valid mmref trace: {what} is {_brief(value)}, not of type"
                f" {kind.__name__}"
            )
        return value

    def pair(self, item: Any, cpus: int) -> RacingPair | None:
        if item is None:
            return None
        data = self.mapping(item, "pair")
        first, second = (self.mapping(data.get(key), f"{key} of the pair") for key in ("first", "second"))
        return RacingPair(
            self.event(first, self.get(first, "step", int), cpus),
            self.event(second, self.get(second, "step", int), cpus),
            Schedule.parse(self.get(data, "schedule", str)),
        )  # fmt: skip

    def event(self, item: Any, step: int, cpus: int) -> TraceEvent:
        data = self.mapping(item, f"event {step}")
        cpu = self.get(data, "cpu", int)
        if not 0 <= cpu < cpus or self.get(data, "step", int) != step:
            raise UsageError(f"{self._source} is not a valid mmref trace: event {step} has a wrong cpu or step")
        stack = []
        for frame in self.get(data, "stack", list):
            if not isinstance(frame, list) or [type(part) for part in frame] != [str, str, int]:
                raise UsageError(
                    f"{self._source} is not a valid mmref trace: {_brief(frame)} in the stack of event {step} is"
                    " not [function, file, line]"
                )
            stack.append((frame[0], frame[1], frame[2]))
        if "value" not in data:
            raise UsageError(f"{self._source} is not a whole mmref trace: event {step} has no 'value'")
        issued = None if data.get("issued") is None else self.get(data, "issued", int)
        return TraceEvent(
            step, cpu, self.get(data, "label", str), self.get(data, "location", str),
            self.get(data, "mode", str), data["value"], self.get(data, "waited", bool), tuple(stack), issued,
        )  # fmt: skip


def _event_data(event: TraceEvent) -> dict[str, object]:
    data: dict[str, object] = {
        "step": event.step,
        "cpu": event.cpu,
        "label": event.label,
        "location": event.location,
        "mode": event.mode,
        "value": event.value,
        "waited": event.waited,
        "stack": [list(frame) for frame in event.stack],
    }
    if event.issued is not None:
        data["issued"] = event.issued
    return data


def frozen_event(event: Event) -> TraceEvent:
    """Return a recorded event in the form in which a trace has it."""
    value = _as_json(event.value)
    return TraceEvent(event.step, event.cpu, event.label, event.location, event.mode, value, event.waited,
                      event.stack, event.issued)  # fmt: skip


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _as_json(value: object) -> JsonValue:
    """Return a value that survives JSON unchanged: scalars as they are, anything else as text."""
    if value is None or (isinstance(value, bool | int | str) and type(value) in {bool, int, str}):
        return value
    if isinstance(value, list | tuple) and type(value) in {list, tuple}:
        return [_as_json(item) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _as_json(item) for key, item in value.items()}
    return without_addresses(repr(value))
