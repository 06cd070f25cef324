# SPDX-License-Identifier: GPL-2.0-only
"""mmref in other people's tests: strategies as a parameter, explorations as assertions.

pytest loads this module through its entry point in every run where mmref is installed, so nothing of mmref is
imported before a test asks for it.

    def test_nothing_disappears(explore, strategy):     # pytest --mmref-strategy NAME, repeatable, or all
        explore("seek-data", strategy)

    @pytest.mark.mmref(scenario="mincore", layout="DD.D", engine="optimal", max_executions=5000)
    def test_mincore(explore, strategy):
        explore(strategy=strategy)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mmref.explore import Program, Report, Scenario
    from mmref.khugepaged import CollapseStrategy

__all__ = ["Explorer"]

_PROPERTY = "mmref"
_TOTALS: pytest.StashKey[dict[str, int]] = pytest.StashKey()
_MARKER = (
    "mmref(scenario=None, engine=None, bound=None, max_executions=None, layout=None, ...): what the `explore` fixture"
    " explores in this test if it is not told otherwise: arguments of explore(), and the shape of the scenario"
)
_SHAPE = ("layout", "chunk_shift", "ask", "extent", "fail", "max_pages", "nodes")
_DEFAULT = ("lock-and-insert-late",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --mmref-strategy."""
    group = parser.getgroup("mmref", "collapse strategies")
    group.addoption(
        "--mmref-strategy",
        action="append",
        default=[],
        metavar="NAME",
        help="a collapse strategy for the `strategy` fixture, or module:Class; may be repeated; 'all' for every one",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and start counting."""
    config.addinivalue_line("markers", _MARKER)
    config.stash[_TOTALS] = {"explorations": 0, "executions": 0, "races": 0}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for our `strategy` fixture once for each strategy that was named."""
    if "strategy" not in metafunc.fixturenames or any(
        "strategy" in _argument_names(mark) for mark in metafunc.definition.iter_markers("parametrize")
    ):
        return
    definitions = metafunc._arg2fixturedefs.get("strategy", ())  # no public way to ask whose fixture it is
    if not definitions or definitions[-1].func.__module__ != __name__:
        return
    metafunc.parametrize("strategy", _strategy_names(metafunc.config), indirect=True)


def _argument_names(mark: pytest.Mark) -> Sequence[str]:
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def _strategy_names(config: pytest.Config) -> list[str]:
    from mmref.errors import UsageError
    from mmref.khugepaged import get_strategy, strategies

    names: list[str] = []
    for name in config.getoption("--mmref-strategy") or _DEFAULT:
        names.extend(strategies() if name == "all" else [name])
    try:
        for name in names:
            get_strategy(name)
    except UsageError as error:
        raise pytest.UsageError(f"--mmref-strategy: {error}") from None
    return list(dict.fromkeys(names))


@pytest.fixture
def strategy(request: pytest.FixtureRequest) -> CollapseStrategy:
    """A collapse strategy: one test per --mmref-strategy."""
    from mmref.khugepaged import get_strategy

    return get_strategy(request.param)


class Explorer:
    """What the `explore` fixture is: call it to explore, and to fail the test if something goes wrong."""

    def __init__(self, defaults: dict[str, Any], record: Callable[[str, object], None]) -> None:
        self._defaults = defaults
        self._record = record

    def __call__(
        self, scenario: str | Scenario | Program | None = None, strategy: Any = None, **options: Any
    ) -> Report:
        """Explore, and fail the test with the ladder if anything is found.

        Args:
            scenario: a scenario, its name, or a bare program; None for that of the marker.
            strategy: how to collapse, for a scenario.
            options: what `mmref.explore.explore()` takes; for a scenario also `layout`, `chunk_shift`, `ask`.
        """
        __tracebackhide__ = True
        report = self.report(scenario, strategy, **options)
        if report.counterexample is not None:
            pytest.fail(self._explanation(report), pytrace=False)
        return report

    def report(self, scenario: str | Scenario | Program | None = None, strategy: Any = None, **options: Any) -> Report:
        """Explore, and return the report whatever it says. The arguments are those of a call."""
        from mmref.errors import UsageError
        from mmref.explore import explore, get_scenario

        options = {**self._defaults, **options}
        marked = options.pop("scenario", None)
        subject = marked if scenario is None else scenario
        if subject is None:
            raise UsageError("explore() was not told what to explore: name a scenario, here or in @pytest.mark.mmref.")
        shape = {key: options.pop(key) for key in _SHAPE if key in options}
        if isinstance(subject, str):
            subject = get_scenario(subject)
        if shape:
            from dataclasses import replace

            from mmref.explore.scenario import CollapseScenario

            if not isinstance(subject, CollapseScenario):
                raise UsageError(f"{', '.join(shape)}: only a scenario has a shape; leave it out for {subject!r}.")
            subject = replace(subject, **shape)
        report = explore(subject, strategy, **options)
        self._record(_PROPERTY, [report.executions + report.blocked, int(not report.holds)])
        return report

    def _explanation(self, report: Report) -> str:
        from mmref.view import headline, ladder

        trace = report.counterexample
        assert trace is not None
        lines = [f"{report.program}: {report.verdict}", f"{headline(trace)}: {trace.verdict}", "", ladder(trace), ""]
        lines.append(f"schedule: {trace.schedule}")
        if trace.spec:
            lines.append(f"replay:   mmref replay '{trace.schedule}'")
        return "\n".join(lines)


@pytest.fixture
def explore(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Explorer:
    """Explore scenarios and programs; a race fails the test. See `Explorer`."""
    marker = request.node.get_closest_marker("mmref")
    return Explorer(dict(marker.kwargs) if marker else {}, record_property)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add what a test has explored to the totals; under xdist, in the process that prints them."""
    if report.when == "call" and _SESSION:
        totals = _SESSION[-1].stash[_TOTALS]
        for name, value in report.user_properties:
            if name == _PROPERTY and isinstance(value, (list, tuple)):
                totals["explorations"] += 1
                totals["executions"] += value[0]
                totals["races"] += value[1]


_SESSION: list[pytest.Config] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember whose totals they are: a report does not say."""
    _SESSION.append(session.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Forget it."""
    if session.config in _SESSION:
        _SESSION.remove(session.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was explored in all."""
    totals = config.stash.get(_TOTALS, {})
    if totals.get("explorations"):
        terminalreporter.write_sep("-", "mmref")
        terminalreporter.write_line(
            f"{totals['explorations']} explorations, {totals['executions']} executions, {totals['races']} with a race"
        )
