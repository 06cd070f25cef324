# SPDX-License-Identifier: GPL-2.0-only
"""The twins under a weak memory model: what waits, what it orders, and that a CPU sees what it has done itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import mmref.explore.twins
from mmref.cli import main
from mmref.explore import Execution, Trace, explore, get_scenario, replay, scenarios
from mmref.explore.locations import MODE_NAMES, READ
from mmref.explore.memory import MODELS, Order, StoreBuffers
from mmref.explore.twins import TRACED, parts
from mmref.explore.twins.fields import SharedField
from mmref.explore.twins.folios import CLEAR, SET, TEST_CLEAR
from mmref.explore.twins.orders import ORDERS, ROWS
from mmref.explore.twins.weak import BUFFERED, BufferedField, BufferedSlots, in_memory
from mmref.folio import PG_ACTIVE, PG_DIRTY, PG_LRU, PG_UPTODATE, Folio
from mmref.machine import Machine
from mmref.pagecache import folios_of
from mmref.sync import smp_mb
from mmref.view import ladder
from mmref.view.stores import told

WEAK = sorted(MODELS)
STRATEGIES = ["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"]
PAGE = 512
TWINS = Path(mmref.explore.twins.__file__).parent


class Program:
    """A program as a scenario, so that it can be built with the twins of the memory model."""

    name = "program"

    def __init__(self, build: Callable[[], Execution]) -> None:
        self.build_one = build

    def build(self, strategy: object | None) -> Execution:  # noqa: ARG002 (part of the interface)
        return self.build_one()

    def spec(self, strategy: object | None) -> str:  # noqa: ARG002
        return ""


# The table -------------------------------------------------------------------------------------------------


def test_the_table_says_of_every_operation_what_it_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    announce = StoreBuffers.announce

    def noted(self, cpu):  # type: ignore[no-untyped-def]
        accesses = [(cpu.location, cpu.mode), *(cpu.more or ())]
        writing = [location.name for location, mode in accesses if mode != READ]
        if writing:
            seen.setdefault(cpu.label or MODE_NAMES[cpu.mode], writing[0])
        announce(self, cpu)

    monkeypatch.setattr(StoreBuffers, "announce", noted)
    for scenario in scenarios().values():
        for strategy in STRATEGIES:
            explore(scenario, strategy, memory="pso", engine="random", seed=1, max_executions=2, stop_at_first=False,
                    shrink_counterexample=False)  # fmt: skip
    assert {label: place for label, place in seen.items() if label not in ORDERS} == {}
    assert len(seen) > 40


def test_the_table_has_nothing_twice_and_nothing_that_is_not_there() -> None:
    labels = [label for row in ROWS for label in row.labels]
    assert len(labels) == len(set(labels)) == len(ORDERS)
    code = "".join(path.read_text() for path in TWINS.glob("*.py") if path.name != "orders.py")
    made = {*SET.values(), *CLEAR.values(), *TEST_CLEAR.values()}
    assert [label for label in labels if f'"{label}"' not in code and label not in made] == []


def test_every_shared_field_can_be_stored_late() -> None:
    for name, weak in vars(BUFFERED).items():
        plain = getattr(TRACED, name)
        if weak is plain or not isinstance(weak, type):
            continue
        shared = {key for base in plain.__mro__ for key, value in vars(base).items() if isinstance(value, SharedField)}
        assert shared, plain
        for key in shared:
            field = next(vars(base)[key] for base in weak.__mro__ if key in vars(base))
            assert isinstance(field, BufferedField), f"{weak.__name__}.{key}"
            assert ORDERS[key] in {Order.PLAIN, Order.RELEASE}
    mine = {name for name, weak in vars(BUFFERED).items() if weak is not getattr(TRACED, name)}
    fields = {
        name for name, twin in vars(TRACED).items()
        if isinstance(twin, type) and any(isinstance(value, SharedField) for base in twin.__mro__
                                          for value in vars(base).values())
    }  # fmt: skip
    assert fields <= mine


def test_what_waits_in_which_model() -> None:
    assert {order for order in Order if order in MODELS["tso"].delayed} == {Order.PLAIN, Order.RELEASE}
    assert {order for order in Order if order in MODELS["pso"].delayed} == {Order.PLAIN, Order.RELEASE, Order.RELAXED}
    for model in MODELS.values():
        assert Order.FULL in model.draining
        for row in ROWS:
            assert not row.waits or row.order not in {Order.FULL, Order.ACQUIRE}


# A CPU sees what it has done itself ------------------------------------------------------------------------


@pytest.mark.parametrize("memory", WEAK)
@pytest.mark.parametrize("seed", range(8))
def test_a_cpu_reads_what_it_has_written_and_all_of_it_arrives(memory: str, seed: int) -> None:
    rng = random.Random(seed)
    ops = [
        (rng.randrange(7), rng.randrange(4 * PAGE), rng.randrange(1, 2 * PAGE), rng.randrange(256)) for _ in range(25)
    ]

    def apply(folio: Folio, source: Folio, op: tuple[int, int, int, int]) -> object:
        kind, offset, length, byte = op
        length = min(length, 4 * PAGE - offset)
        if kind == 0:
            folio.write(offset, bytes([byte]) * length)
        elif kind == 1:
            folio.zero_range(offset, length)
        elif kind == 2:
            folio.clear_page(offset // PAGE)
        elif kind == 3:
            folio.zero_around(offset, length)
        elif kind == 4:
            source.write(0, bytes([byte]) * 3)
            folio.copy_page(offset // PAGE, source, 0)
        elif kind == 5:
            (folio.mark_uptodate, folio.mark_dirty, folio.set_lru, folio.clear_active)[byte % 4]()
        else:
            smp_mb()
        flags = [folio.test_flag(flag) for flag in (PG_UPTODATE, PG_DIRTY, PG_LRU, PG_ACTIVE)]
        return folio.read(offset, length), flags

    def pair(machine: Machine) -> tuple[Folio, Folio]:
        folio, source = machine.memory.allocator.alloc(2), machine.memory.allocator.alloc(0)
        assert folio is not None
        assert source is not None
        return folio, source

    plain = pair(Machine(order=2, page_size=PAGE))
    expected = [apply(*plain, op) for op in ops]

    def build() -> Execution:
        folios = pair(Machine(order=2, page_size=PAGE, parts=parts()))

        def act() -> None:
            assert [apply(*folios, op) for op in ops] == expected

        def at_rest() -> None:
            for one, other in zip(folios, plain, strict=True):
                assert (one.data, one.initialised, one.peek()) == (other.data, other.initialised, other.peek())

        return Execution([act], ["writer"], None, at_rest)

    report = explore(Program(build), memory=memory, engine="random", seed=seed, max_executions=20)
    assert report.holds, report.counterexample


@pytest.mark.parametrize("memory", WEAK)
@pytest.mark.parametrize("seed", range(4))
def test_the_holder_of_xa_lock_sees_its_own_stores_and_others_what_is_in_memory(memory: str, seed: int) -> None:
    rng = random.Random(seed)
    stores = [(rng.randrange(40), rng.choice((None, 1, 2, 3))) for _ in range(10)]

    def build() -> Execution:
        machine = Machine(order=2, chunk_shift=2, page_size=PAGE, parts=parts())
        tree = machine.shmem_file("f", 4 * PAGE).mapping.i_pages
        for index in range(0, 40, 3):
            tree.store(index, 9)

        def write() -> None:
            known = dict.fromkeys(range(0, 40, 3), 9)
            for index, value in stores:
                tree.store(index, value)
                known[index] = value
                assert tree.load(index) == value
            assert {index: tree.load(index) for index in known} == known

        def read() -> None:
            values = {value for at, value in stores if at == 6} | {9}
            assert tree.load(6) in values

        def on_step() -> None:
            in_memory(tree, tree.check)

        return Execution([write, read], ["writer", "reader"], None if seed else on_step)

    report = explore(Program(build), memory=memory, engine="random", seed=seed, max_executions=15)
    assert report.holds, report.counterexample


def test_a_check_looks_at_memory_while_stores_wait() -> None:
    shown: list[tuple[object, object]] = []

    def build() -> Execution:
        machine = Machine(order=1, page_size=PAGE, parts=parts())
        file = machine.shmem_file("f", 2 * PAGE)
        file.write(0, bytes(2 * PAGE))
        tree = file.mapping.i_pages
        head = tree._peek_head()

        def act() -> None:
            with tree.xa_lock:
                head.slots[1] = None
                assert isinstance(head.slots, BufferedSlots)
                mine = folios_of(file.mapping).get(1)
                in_memory(tree, lambda: shown.append((mine, folios_of(file.mapping).get(1))))

        return Execution([act], ["writer"])

    explore(Program(build), memory="tso", max_executions=1)
    mine, others = shown[0]
    assert mine is None
    assert isinstance(others, Folio)


# Scenarios -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", WEAK)
@pytest.mark.parametrize(
    ("name", "strategy"),
    [("seek-data", "lock-and-insert-late"), ("mincore", "upstream-6.12"), ("write", "freeze-and-replace"),
     ("write-hole", "upstream-6.12"), ("punch-all", "upstream-6.12"),
     ("file-read", "freeze-and-replace"), ("swap-out", "upstream-6.12"), ("pin", "lock-and-insert-late")],
)  # fmt: skip
def test_strategies_hold_as_they_do_if_nothing_waits(name: str, strategy: str, memory: str) -> None:
    strong = explore(get_scenario(name), strategy)
    weak = explore(get_scenario(name), strategy, memory=memory)
    assert strong.exhaustive
    assert weak.exhaustive, weak.counterexample
    assert weak.blocked == 0
    assert weak.executions >= strong.executions


@pytest.mark.parametrize("memory", WEAK)
def test_a_race_that_needs_no_weak_memory_is_found_in_it(memory: str) -> None:
    for name, invariant in (("seek-data", "A1"), ("mincore", "A2"), ("alone", "A5")):
        report = explore(get_scenario(name), "freeze-and-replace", memory=memory)
        assert report.counterexample is not None
        assert report.counterexample.verdict.id == invariant


def test_a_counterexample_says_where_a_store_was_issued_and_where_it_was_seen(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = explore(get_scenario("file-open"), "counted-plainly", memory="tso")
    trace = report.counterexample
    assert trace is not None
    assert trace.cpus[:3] == ("khugepaged", "open", "khugepaged's stores")
    assert trace.stores_from == 2
    assert [trace.owner(cpu) for cpu in range(4)] == [0, 1, 0, 1]
    assert str(trace.schedule).startswith("file-open/counted-plainly/layout=DD,chunk_shift=6:v1-tso:")
    assert replay(str(trace.schedule)) == trace
    assert Trace.from_json(trace.to_json()) == trace

    store = next(event for event in trace.events if event.location == "mapping.nr_thps" and event.mode == "write")
    assert store.cpu == 2
    assert store.issued is not None
    assert 0 <= store.issued < store.step
    between = {trace.owner(event.cpu) for event in trace.events[store.issued + 1 : store.step]}
    assert 1 in between

    telling = told(trace)
    assert telling.trace.cpus == ("khugepaged", "open")
    assert [event.step for event in telling.trace.events] == list(range(len(telling.trace.events)))
    assert len(telling.trace.events) == len(trace.events) + len(telling.issued)
    lines = [line.strip() for line in ladder(trace).splitlines()]
    places = [lines.index(line) for line in ("mapping->nr_thps waits", "file->i_writecount == 0",
                                             "mapping->nr_thps == 0", "(mapping->nr_thps = 1 is visible)")]  # fmt: skip
    assert places == sorted(places)

    assert main(["replay", str(trace.schedule)]) == 0  # it is on record
    assert "nr_thps = 1 is visible)" in capsys.readouterr().out
    path = tmp_path / "trace.json"
    trace.save(path)
    assert main(["replay", str(path)]) == 0
    assert "nr_thps = 1 is visible)" in capsys.readouterr().out


def test_a_counterexample_is_simplified() -> None:
    scenario = get_scenario("seek-data")
    found = explore(scenario, "freeze-and-replace", memory="tso", shrink_counterexample=False).counterexample
    short = explore(scenario, "freeze-and-replace", memory="tso").counterexample
    assert found is not None
    assert short is not None
    assert short.schedule.switches < found.schedule.switches
    assert short.verdict.same_finding(found.verdict)
    assert short.pair is not None
    assert replay(short.pair.schedule, scenario, "freeze-and-replace").verdict.holds


def test_weak_scenarios_shared_among_workers() -> None:
    from concurrent.futures import ThreadPoolExecutor

    scenario = get_scenario("write-hole")
    alone = explore(scenario, "upstream-6.12", memory="pso", stop_at_first=False)
    with ThreadPoolExecutor(2) as executor:
        shared = explore(scenario, "upstream-6.12", memory="pso", stop_at_first=False, executor=executor)
    assert (shared.executions, shared.exhaustive) == (alone.executions, True)


def store_buffering(parts_of: Callable[[], object]) -> Sequence[str]:
    """Return the model under which two CPUs can both see the other's flag unset, of a folio each."""
    found = []
    for memory in ("sc", *WEAK):

        def build() -> Execution:
            machine = Machine(order=1, page_size=PAGE, parts=parts_of())  # type: ignore[arg-type]
            folios = [machine.memory.allocator.alloc(0) for _ in range(2)]
            seen: list[bool] = []

            def act(mine: Folio, other: Folio) -> None:
                mine.set_lru()
                seen.append(other.test_lru())
                assert seen != [False, False]

            one, other = folios
            assert one is not None
            assert other is not None
            return Execution([lambda: act(one, other), lambda: act(other, one)])

        if not explore(Program(build), memory=memory).holds:
            found.append(memory)
    return found


def test_a_bit_set_atomically_waits_where_atomic_operations_are_no_barriers() -> None:
    assert store_buffering(parts) == ["pso"]
