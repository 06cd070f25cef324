# SPDX-License-Identifier: GPL-2.0-only
"""What the table of conflicts calls independent really commutes, in the traced page cache as well.

Reordering the independent events of an execution must change no operation and no result. A twin that looked at
shared state without an access, or announced too weak a mode, would show here; the explorer could then miss races.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from mmref.explore import Execution, scenarios
from mmref.explore.program import builder
from mmref.explore.recording import Recorder
from mmref.explore.sampling import Pct
from mmref.explore.schedule import FollowSchedule, Schedule
from mmref.explore.scheduler import Run
from mmref.explore.shrink import _Ordering

from .programs import casw, indexer, lastzero, pc
from .random_programs import Outcomes, generate

Build = Callable[[], Execution]


def lanes(recorder: Recorder, choices: tuple[int, ...]) -> dict[int, list[tuple[object, ...]]]:
    """Return what each CPU did and saw."""
    found: dict[int, list[tuple[object, ...]]] = {}
    for event in recorder.events[: len(choices)]:
        found.setdefault(event.cpu, []).append((event.label, event.location, event.mode, repr(event.value)))
    return found


def differs(one: dict[int, list[tuple[object, ...]]], other: dict[int, list[tuple[object, ...]]]) -> str:
    """Name the first operation of a CPU that is not the same in both executions; "" if there is none."""
    for cpu, events in one.items():
        for number, (event, reordered) in enumerate(zip(events, other.get(cpu, []), strict=False)):
            if event != reordered:
                before = events[number - 1] if number else None
                return f"CPU {cpu}, access {number} (after {before}): {event}, but {reordered} in another order"
    return "" if one.keys() == other.keys() else "not the same CPUs"


def another_order(ordering: _Ordering, choices: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    """Return a random linear extension of the happens-before order."""
    waiting = {cpu: [event for event, other in enumerate(choices) if other == cpu] for cpu in set(choices)}
    performed = 0
    order: list[int] = []
    while any(waiting.values()):
        ready = [cpu for cpu, rest in waiting.items() if rest and not ordering.before[rest[0]] & ~performed]
        cpu = rng.choice(ready)
        for _ in range(rng.choice((1, 3, 30))):
            if not waiting[cpu] or ordering.before[waiting[cpu][0]] & ~performed:
                break
            performed |= 1 << waiting[cpu].pop(0)
            order.append(cpu)
    return tuple(order)


def check(build: Build, executions: int, orders: int) -> None:
    engine = Pct(7, 4)
    for number in range(executions):
        recorder = Recorder()
        run = Run(engine, max_steps=20_000, recorder=recorder)
        run.go(build)
        engine.finish(run)
        choices = run.schedule()
        if run.found_at is not None:
            choices = choices[:-1]  # the step that fails may well fail earlier or later in another order
        ordering = _Ordering(choices)
        Run(ordering, max_steps=20_000).go(build)
        for order in range(orders):
            again = Recorder()
            other = another_order(ordering, choices, random.Random(number * 100 + order))
            rerun = Run(FollowSchedule(other), max_steps=20_000, recorder=again)
            rerun.go(build)
            if rerun.finding is None or rerun.steps == len(other):
                difference = differs(lanes(recorder, choices), lanes(again, other))
                assert not difference, (
                    f"{difference}: something shared is looked at without an access, or in too weak a mode"
                    f" (schedules {Schedule(choices)} and {Schedule(other)})"
                )


@pytest.mark.parametrize("name", list(scenarios()))
@pytest.mark.parametrize("strategy", ["freeze-and-replace", "lock-and-insert-late"])
def test_scenarios(name: str, strategy: str) -> None:
    check(builder(scenarios()[name], strategy), 6, 3)


@pytest.mark.parametrize("program", [casw(4), indexer(13), lastzero(6), pc(3, 2)])
def test_literature(program: Callable[[], list[Callable[[], object]]]) -> None:
    check(builder(program, None), 10, 3)


def test_random_programs() -> None:
    for seed in range(60):
        threads = generate(seed, locks=seed % 2 == 1, waits=seed % 5 == 0)
        check(builder(Outcomes(threads).program, None), 4, 3)
