# SPDX-License-Identifier: GPL-2.0-only
"""A counterexample is explained by the one pair of accesses whose order makes the difference."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmref.errors import InvariantViolation, UsageError
from mmref.explore import Cell, Execution, Mutex, Report, Trace, explore, get_scenario, replay
from mmref.sync import cpu_relax

from .programs import pc, readers

Thread = Callable[[], object]


def explained(report: Report) -> list[str]:
    trace = report.counterexample
    assert trace is not None
    assert trace.pair is not None
    return [f"{event.cpu}: {event.label} {event.location}" for event in (trace.pair.first, trace.pair.second)]


def page_cache_without_check() -> Sequence[Thread]:
    return pc(2, 1, check=False)()


def test_what_was_read_too_early() -> None:
    report = explore(page_cache_without_check)
    assert explained(report) == ["1: load data[1]", "0: store data[1]"]
    trace = report.counterexample
    assert trace is not None
    assert trace.pair is not None
    assert trace.pair.second in trace.aftermath
    assert ".reader)" in trace.pair.first.where
    assert "tests/explore/programs.py:" in trace.pair.first.where
    assert replay(trace.pair.schedule, page_cache_without_check).verdict.holds


class LostUpdate:
    """Two CPUs increment a counter, each by a load and a store."""

    name = "lost-update"

    def build(self, _strategy: object | None) -> Execution:
        x, noise = Cell(0, "x"), Cell(0, "noise")

        def add() -> None:
            noise.fetch_add(1)
            x.store(x.load() + 1)
            noise.fetch_add(1)

        def at_rest() -> None:
            if x.peek() != 2:
                raise InvariantViolation("SUM", f"x is {x.peek()}")

        return Execution([add, add], at_rest=at_rest)

    def spec(self, _strategy: object | None) -> str:
        return ""


def test_a_lost_update() -> None:
    # Both loads come before both stores. Either load could have come behind the other one's store.
    one, other = explained(explore(LostUpdate()))
    assert {one, other} in ({"0: load x", "1: store x"}, {"1: load x", "0: store x"})


def test_a_deadlock_is_explained_by_acquires() -> None:
    def program() -> Sequence[Thread]:
        a, b, c = Mutex("a"), Mutex("b"), Mutex("c")

        def thread(one: Mutex, other: Mutex) -> Thread:
            def run() -> None:
                with c:
                    pass
                with one, other:
                    pass

            return run

        return [thread(a, b), thread(b, a)]

    report = explore(program)
    assert explained(report) == ["0: acquire a", "1: acquire a"]
    trace = report.counterexample
    assert trace is not None
    assert trace.pair is not None
    assert (trace.pair.second.step, trace.pair.second.waited) == (-1, True)  # it still waits


def test_a_wait_that_missed_its_wakeup() -> None:
    def program() -> Sequence[Thread]:
        flag = Cell(0, "flag")

        def waiter() -> None:
            while flag.load() != 1:
                cpu_relax()

        def other() -> None:
            flag.store(1)
            flag.store(2)

        return [waiter, other]

    report = explore(program)
    assert report.counterexample is not None
    assert report.counterexample.verdict.kind == "livelock"
    assert explained(report) == ["1: store flag", "0: load flag"]


def test_the_race_of_the_collapse() -> None:
    race = explore(get_scenario("seek-data"), "freeze-and-replace")
    assert explained(race) == [
        "1: folio_test_uptodate new_folio PG_uptodate", "0: folio_mark_uptodate new_folio PG_uptodate",
    ]  # fmt: skip
    trace = race.counterexample
    assert trace is not None
    assert trace.pair is not None
    assert replay(trace.pair.schedule).verdict.holds
    assert "what matters is the order of two accesses:\n    first lseek SEEK_DATA: folio_test_uptodate" in str(race)
    assert ", called at mmref/" in trace.pair.first.where


def test_no_order_makes_a_difference() -> None:
    def program() -> Sequence[Thread]:
        x = Cell(0, "x")

        def broken() -> None:
            x.load()
            raise AssertionError("always")

        return [broken, lambda: x.store(1)]

    report = explore(program)
    assert report.counterexample is not None
    assert report.counterexample.pair is None
    assert "what matters" not in str(report)
    assert explore(readers(2)).counterexample is None


def test_a_pair_survives_its_file(tmp_path: Path) -> None:
    trace = explore(page_cache_without_check).counterexample
    assert trace is not None
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json").pair == trace.pair
    data: dict[str, Any] = json.loads(trace.to_json())
    del data["pair"]
    assert Trace.from_json(json.dumps(data)) == trace  # a trace without an explanation is still that execution
    data["pair"] = {"first": 1, "second": 2, "schedule": "v1:0"}
    with pytest.raises(UsageError, match="first of the pair is 1, not an object"):
        Trace.from_json(json.dumps(data))


# A test to paste


def run_test(text: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(text, "pasted", "exec"), names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test()


def test_the_test_of_a_scenario_fails_with_the_finding() -> None:
    text = explore(get_scenario("seek-data"), "freeze-and-replace").as_test()
    assert "def test_seek_data_freeze_and_replace_layout_dddd_chunk_shift_6_a1() -> None:" in text
    assert "    # first lseek SEEK_DATA: folio_test_uptodate of new_folio PG_uptodate, mmref/" in text
    with pytest.raises(AssertionError, match="violation: A1: data at pages 0, 1, 2, 3"):
        run_test(text)


def test_the_test_of_a_bare_program(monkeypatch: pytest.MonkeyPatch) -> None:
    report = explore(page_cache_without_check)
    with pytest.raises(UsageError, match=r"does not say where the program is: give as_test.. 'module:name'"):
        report.as_test()
    text = report.as_test(f"{__name__}:page_cache_without_check")
    with pytest.raises(AssertionError, match="page 1 was read before it was filled"):
        run_test(text)
    monkeypatch.setitem(globals(), "page_cache_without_check", pc(2, 1))  # mended
    run_test(text)


def test_there_is_no_test_without_a_finding() -> None:
    with pytest.raises(UsageError, match="nothing wrong was found"):
        explore(readers(2)).as_test()
