# SPDX-License-Identifier: GPL-2.0-only
"""A search that is shared among the workers of a Dask cluster finds what the serial one finds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import cloudpickle
import pytest
from distributed import Client, LocalCluster

from mmref.errors import UsageError
from mmref.explore import explore, get_scenario
from mmref.explore.workers import workers_of

from . import programs
from .programs import lastzero, pc
from .test_executors import outcome

Thread = Callable[[], object]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two worker processes of one thread each, on this machine. They cannot import what stands here."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def sent_by_value() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(programs)
    yield
    cloudpickle.unregister_pickle_by_value(programs)


@pytest.fixture
def executor(client: Client) -> Iterator[Executor]:
    with client.get_executor(pure=False) as executor:
        yield executor


@pytest.mark.usefixtures("sent_by_value")
@pytest.mark.parametrize("engine", ["source", "optimal"])
def test_a_program(executor: Executor, engine: str) -> None:
    program = lastzero(7)  # a closure: Dask sends what pickle cannot
    assert outcome(explore(program, engine=engine, executor=executor)) == outcome(explore(program, engine=engine))


@pytest.mark.usefixtures("sent_by_value")
def test_a_bug(executor: Executor) -> None:
    program = pc(3, 1, check=False)
    report = explore(program, executor=executor)
    assert not report.holds
    assert outcome(report) == outcome(explore(program))


@pytest.mark.parametrize("strategy", ["freeze-and-replace", "lock-and-insert-late"])
def test_a_scenario(executor: Executor, strategy: str) -> None:
    scenario = get_scenario("mincore")
    assert outcome(explore(scenario, strategy, executor=executor)) == outcome(explore(scenario, strategy))


def test_every_worker_gets_work(executor: Executor) -> None:
    assert workers_of(executor) == 2


def test_a_program_that_the_workers_cannot_import(executor: Executor) -> None:
    with pytest.raises(UsageError, match=r"the worker cannot load the program \(No module named .*\): put it where"):
        explore(lastzero(3), executor=executor)


@pytest.mark.usefixtures("sent_by_value")
def test_a_worker_that_is_killed(executor: Executor, client: Client) -> None:
    killed: list[int] = []

    def kill_one(_: object) -> None:
        if not killed:
            killed.extend(client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    program = lastzero(10)
    report = explore(program, executor=executor, progress=kill_one)
    assert killed
    if report.frontier is not None:  # Dask gives the work to another worker, if it can
        assert report.reason.startswith("a worker was lost")
        report = explore(program, resume=report.frontier)
    assert (report.executions, report.blocked, report.exhaustive) == (3328, 0, True)
