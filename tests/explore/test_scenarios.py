# SPDX-License-Identifier: GPL-2.0-only
"""The race and its fix: what every scenario must show, for every layout and geometry."""

from dataclasses import dataclass, replace

import pytest

from mmref.errors import UsageError
from mmref.explore import Execution, explore, invariants, replay
from mmref.explore.actors import ACTORS
from mmref.explore.catalogue import get_scenario, scenario_from_spec, scenarios
from mmref.explore.scenario import CollapseScenario, strategy_text
from mmref.khugepaged import LockAndInsertLate, get_strategy

# (layout, chunk_shift): inside one leaf; one slot of a parent; several slots of a parent, as the kernel's 6 and 9.
FULL = [("DD", 6), ("DD", 1), ("DDDD", 6), ("DDDD", 2), ("DDDD", 1), ("DDDDDDDD", 2)]
HOLES = [(".D", 6), ("D.", 1), ("DD.D", 6), (".DDD", 2), ("D..D", 1), ("DDD.DDDD", 2)]
LOOKS = ["seek-data", "seek-hole", "mincore"]


def possible(name, layout):
    """Tell whether a scenario says something about a layout in a time that suits a test.

    A collapse that fails at the last data page has to have another one to hide before; and a look at eight pages
    that stay where they are has some hundred thousand executions (docs/findings.md has the number).
    """
    return not name.endswith("-rollback") or (layout.count("D") > 1 and (len(layout) < 8 or "seek" in name))


def shaped(name, layout, chunk_shift):
    return replace(get_scenario(name), layout=layout, chunk_shift=chunk_shift)


@pytest.mark.parametrize(
    ("name", "layout", "chunk_shift"),
    [(look + end, *shape) for end in ("", "-rollback") for look in LOOKS for shape in FULL + HOLES
     if end == "" or shape[0].count("D") > 1],
)  # fmt: skip
def test_freeze_and_replace_races(name, layout, chunk_shift):
    report = explore(shaped(name, layout, chunk_shift), "freeze-and-replace")
    trace = report.counterexample
    assert trace is not None, f"{name} did not race: {report}"
    assert trace.verdict.id == {"mincore": "A2"}.get(name.partition("-r")[0], "A1"), str(report)
    assert report.found_in <= 200, "a race this wide is found soon"
    assert trace.schedule.switches <= 2
    assert not report.exhaustive


@pytest.mark.parametrize(
    ("name", "layout", "chunk_shift"),
    [(name, *shape) for name in ("seek-data", "mincore", "seek-data-rollback", "mincore-rollback", "alone")
     for shape in FULL + HOLES if possible(name, shape[0])],
)  # fmt: skip
def test_lock_and_insert_late_does_not(name, layout, chunk_shift):
    report = explore(shaped(name, layout, chunk_shift), "lock-and-insert-late")
    assert report.holds, str(report)
    assert report.exhaustive
    assert report.executions >= 1


# What the explorer finds where nothing is prescribed: findings F1 and F2 (docs/findings.md). A lookup that has not
# yet come to a slot which the insert turns into a sibling takes it for a part of what it has seen, and skips it.
FOUND = [
    ("seek-hole", "DD", 6, True), ("seek-hole", "DDDD", 6, True), ("seek-hole", "DD.D", 6, True),
    ("seek-hole", "D...DDDD", 6, False),  # the hole behind page 0 is reported before the walk gets anywhere
    ("seek-hole", "DDDD", 2, False), ("seek-hole", "DDDD", 1, False),  # one slot has no siblings
    ("seek-hole", "DDDDDDDD", 2, True), ("seek-hole", "DD.DDD.D", 2, False),
    ("seek-hole", "DDDDDDDD", 3, False),
    ("seek-data-in-hole", ".D", 6, True), ("seek-data-in-hole", ".DDD", 6, True),
    ("seek-data-in-hole", "..DD", 2, False), ("seek-data-in-hole", "....DDDD", 2, True),
    ("seek-data-in-hole", "...DDDDD", 2, False), ("seek-data-in-hole", "....DDDD", 3, False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout", "chunk_shift", "races"), FOUND)
def test_what_the_fix_leaves(name, layout, chunk_shift, races):
    report = explore(shaped(name, layout, chunk_shift), "lock-and-insert-late")
    assert report.holds is not races, str(report)
    assert races or report.exhaustive
    if races:
        assert report.counterexample.verdict.id == "A1"


@pytest.mark.parametrize("name", [*LOOKS, "alone"])
@pytest.mark.parametrize(("layout", "chunk_shift"), [("DD", 6), ("DD.D", 6), ("DDDDDDDD", 2)])
def test_marking_uptodate_after_the_insert_brings_the_race_back(name, layout, chunk_shift):
    class Mine(LockAndInsertLate):
        name = "mine"

        def publish(self, run):
            self.join(run)
            self.mark_uptodate(run)

    for strategy in (Mine, "uptodate-after-insert"):
        report = explore(shaped(name, layout, chunk_shift), strategy)
        assert report.counterexample is not None, str(report)
        assert report.counterexample.verdict.id == {"mincore": "A2", "alone": "A5"}.get(name, "A1")


@pytest.mark.parametrize(
    ("name", "layout", "chunk_shift"),
    [(name, *shape) for name in (*LOOKS, "mincore-rollback") for shape in (("DD", 6), ("DD.D", 6), ("DDDDDDDD", 2))
     if possible(name, shape[0])],
)  # fmt: skip
def test_folios_frozen_in_the_cache_are_reported_with_who_spins(name, layout, chunk_shift):
    report = explore(shaped(name, layout, chunk_shift), "frozen-in-cache")
    verdict = report.counterexample.verdict
    assert verdict.id == "A8", str(report)
    looker = get_scenario(name).cpus[1]
    assert f"reference count 0, and {looker} spins until it is thawed" in verdict.detail
    refused = [
        event for event in report.counterexample.events if event.label == "folio_try_get" and event.value is False
    ]
    assert refused, "the ladder must show the lookup that fails"
    assert refused[-1].cpu == 1


def test_folios_frozen_in_the_cache_are_reported_without_a_reader():
    report = explore(get_scenario("alone"), "frozen-in-cache")
    assert report.counterexample.verdict.id == "A8", str(report)
    assert explore(get_scenario("alone"), "freeze-and-replace").counterexample.verdict.id == "A5"


@dataclass(frozen=True)
class OtherWayRound:
    """A scenario with its CPUs in the other order."""

    inner: CollapseScenario

    @property
    def name(self):
        return self.inner.name

    def spec(self, strategy):  # noqa: ARG002 (the signature of a scenario)
        return ""

    def build(self, strategy):
        found = self.inner.build(strategy)
        return Execution(found.cpus[::-1], found.names[::-1], found.on_step, found.at_rest)


@pytest.mark.parametrize("strategy", ["lock-and-insert-late", "freeze-and-replace"])
@pytest.mark.parametrize(("name", "layout"), [("seek-data", "DD.D"), ("mincore", "DD"), ("mincore", "D.")])
def test_the_number_of_executions_does_not_depend_on_the_order_of_the_cpus(name, layout, strategy):
    scenario = shaped(name, layout, 6)
    one, other = (explore(which, strategy, stop_at_first=False) for which in (scenario, OtherWayRound(scenario)))
    assert (one.executions, one.findings) == (other.executions, other.findings)


def test_a_trace_is_replayed_exactly_also_from_its_string_and_from_a_file(tmp_path):
    for name, strategy in (("seek-data", "freeze-and-replace"), ("mincore-rollback", "freeze-and-replace"),
                           ("seek-hole", "lock-and-insert-late"), ("mincore", "frozen-in-cache")):  # fmt: skip
        trace = explore(shaped(name, "DD.D", 6), strategy).counterexample
        trace.save(tmp_path / "trace.json")
        for what in (trace, str(trace.schedule), tmp_path / "trace.json"):
            again = replay(what)
            assert again == trace, f"{what} did not replay"


def test_a_schedule_that_goes_well_is_replayed_too():
    seen = []
    explore(get_scenario("seek-data"), "lock-and-insert-late", on_execution=seen.append)
    for completed in seen:
        trace = replay(f"{get_scenario('seek-data').spec()}:{_schedule(completed.schedule)}")
        assert trace.verdict.kind == "holds"


def _schedule(choices):
    return "v1:" + ",".join(map(str, choices))


def test_every_scenario_says_how_to_build_it_again():
    for name, scenario in scenarios().items():
        for strategy in (None, "freeze-and-replace", LockAndInsertLate, get_strategy("frozen-in-cache")):
            spec = scenario.spec(strategy)
            again, chosen = scenario_from_spec(spec)
            assert again == scenario, spec
            assert strategy is None or type(chosen) is type(get_strategy(strategy))
        assert scenario.name == name
        assert scenario.summary


class Elsewhere(LockAndInsertLate):
    """A strategy that no registry knows."""

    name = "elsewhere"


def test_a_strategy_of_ones_own_is_named_by_where_it_is():
    assert strategy_text(Elsewhere).endswith(":Elsewhere")
    assert strategy_text("mmref.khugepaged:LockAndInsertLate") == "lock-and-insert-late"


def test_geometry_is_told_in_words():
    assert shaped("seek-data", "DDDD", 6).geometry == "order 2, chunk_shift 6: 4 slots of a leaf"
    assert shaped("seek-data", "DDDDDDDD", 2).geometry == "order 3, chunk_shift 2: 2 slots of a node above the leaves"
    assert shaped("seek-data", "DDDD", 2).geometry == "order 2, chunk_shift 2: 1 slot of a node above the leaves"


def test_the_watched_invariants_have_names():
    assert {"A1", "A2", "A4", "A5", "A8", "Q1", "Q2", "Q5", "Q6", "Q7"} <= set(invariants())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: get_scenario("seek-date"), "There is no scenario 'seek-date'; did you mean seek-data"),
        (lambda: get_scenario("zzz"), "known are seek-data, seek-hole"),
        (lambda: shaped("seek-data", "DDD", 6), "A huge page of 3 pages: give a power of two from 2 on"),
        (lambda: shaped("seek-data", "D", 6), "A huge page of 1 pages"),
        (lambda: shaped("seek-data", "DX", 6), "Layout 'DX': give one letter per page"),
        (lambda: shaped("seek-data", "..", 6), "Layout '..' has no data"),
        (lambda: shaped("seek-data", "D" * 1024, 6), "1024 pages are too many"),
        (lambda: shaped("seek-data", "DD", 0), "chunk_shift 0"),
        (lambda: shaped("seek-data", "DD", 7), "chunk_shift 7"),
        (lambda: replace(get_scenario("seek-data"), ask=4), "There is no page 4 to ask about; give 0 to 3"),
        (lambda: shaped("seek-data-in-hole", "DD", 6).at, "has no hole with data behind it"),
        (lambda: scenario_from_spec("seek-data"), "does not say what to run"),
        (lambda: scenario_from_spec("seek-data/freeze-and-replace/pages=4"), "'pages=4' in .* is not a parameter"),
        (lambda: scenario_from_spec("seek-data/freeze-and-replace/ask=x"), "'ask=x' in .* is not a parameter"),
        (lambda: scenario_from_spec("seek-data/frieze/layout=DD"), "There is no strategy 'frieze'"),
        (lambda: explore(get_scenario("seek-data"), 5), "5 is not a strategy"),
        (lambda: replay("seek-data/freeze-and-replace/layout=DD:v1:0x5000,1"), "does not fit"),
        (lambda: replay("seek-data/freeze-and-replace/layout=DD:v1:0,7"), "CPU 7"),
    ],
)  # fmt: skip
def test_bad_input(call, text):
    with pytest.raises(UsageError, match=text):
        call()


# Three CPUs, two huge pages, and pages that are in no ordinary state --------------------------------------------


def cast(layout, others, **shape):
    """Return a scenario that is not in the catalogue."""
    return CollapseScenario("cast", "", "", tuple(ACTORS[one] for one in others.split("+") if one), layout, **shape)


@pytest.mark.parametrize(
    ("scenario", "strategy", "found"),
    [
        (cast("DD", "write+seek-data", ask=(0, 1)), "freeze-and-replace", "A1"),
        (cast("DD", "write+seek-data", ask=(0, 1)), "lock-and-insert-late", ""),
        (cast("DD", "collapse+seek-data"), "freeze-and-replace", "A1"),
        (cast("DD", "collapse+seek-data"), "upstream-6.12", ""),
        (cast("DD|D.", "read", extent=1), "freeze-and-replace", ""),
        (cast("DD|[DD]", "collapse", ask=2), "lock-and-insert-late", ""),
        (cast("DD|dD", "open-for-write", on_disk=True), "lock-and-insert-late", "A3"),  # B45
        (cast("DDx.", "seek-data"), "lock-and-insert-late", ""),
        (cast("DDx.", ""), "freeze-and-replace", "Finding"),  # B29
        (cast("Dw", "complete-io", on_disk=True), "freeze-and-replace", ""),
        (cast("Dd", "read", on_disk=True), "upstream-6.12", ""),
        (cast("[DD]D.", "read"), "upstream-6.12", ""),
        (cast("[DD]DD", "punch"), "upstream-6.12", ""),
        (cast("D.", "fault", ask=1, fail=1), "freeze-and-replace", ""),
        (cast("D..D", "fallocate", ask=1, max_pages=3), "upstream-6.12", ""),
    ],
    ids=lambda value: getattr(value, "layout", value),
)
def test_any_cast(scenario, strategy, found):
    report = explore(scenario, strategy)
    assert report.holds is not bool(found), str(report)
    if found:
        assert report.counterexample.verdict.id == found
    else:
        assert report.exhaustive


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("seek-data/upstream-6.12/layout=[DD]D.|DDDD,chunk_shift=2,ask=5,extent=1", "order 2"),
        ("seek-data/upstream-6.12/layout=D.,chunk_shift=6,fail=2,max_pages=4", "order 1"),
    ],
)
def test_all_of_a_shape_is_in_the_spec(spec, text):
    scenario, strategy = scenario_from_spec(spec)
    assert scenario.spec(strategy) == spec
    assert text in scenario.geometry
    assert explore(scenario, strategy, max_executions=50).executions > 1


def test_a_page_for_each_of_three():
    three = cast("DD", "write+read", ask=(0, 1))
    assert three.cpus == ("khugepaged", "write", "read")
    assert ",ask=0+1" in three.spec()
    assert cast("DD", "write+read").at == (0, 0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: shaped("seek-data", "DD|DDDD", 6), "as many pages on both sides of each |"),
        (lambda: shaped("seek-data", "D[DD]D", 6), r"\[DD\] is no folio: a large one has a power of two of pages, and"),
        (lambda: shaped("seek-data", "[D]D", 6), r"\[D\] is no folio"),
        (lambda: shaped("seek-data", "[Df]", 6), "give one letter per page"),
        (lambda: shaped("seek-data", "Dd", 6), "give one letter per page: D data, . hole, f fallocated"),
        (lambda: shaped("file-read", "Df", 6), "D data, . on the disk alone, d dirty, w under writeback"),
        (lambda: shaped("file-read", "[DD]DD", 6), "knows small folios only"),
        (lambda: shaped("file-read", "Dw", 6), "has nobody to complete it"),
        (lambda: shaped("seek-data", "DD|..", 6).pages and cast("DD|..", "read", extent=1), "has no data"),
        (lambda: cast("DD|..", "read", extent=2), "There is no huge page 2 to collapse; give 0 to 1"),
        (lambda: cast("DD", "read+read", ask=(0,)), "1 pages to ask about, but 2 to ask"),
        (lambda: cast("DD", "read", max_pages=3, on_disk=True), "only a file on tmpfs has such a limit"),
        (lambda: explore(shaped("seek-data", "[DD]DD", 6), "freeze-and-replace"), "Kernel 6.1 has no large folios"),
        (lambda: scenario_from_spec("seek-data/upstream-6.12/ask=1+x"), "'ask=1[+]x' in"),
        (lambda: scenario_from_spec("seek-data/freeze-and-replace/fail=1+2"), "'fail=1[+]2' in"),
    ],
)  # fmt: skip
def test_impossible_shapes(call, text):
    with pytest.raises(UsageError, match=text):
        call()
