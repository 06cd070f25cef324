# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin, in other people's tests."""

import pytest

pytest_plugins = ["pytester"]

SUITE = """
def test_data(explore, strategy):
    report = explore("seek-data", strategy)
    assert report.exhaustive
"""


@pytest.fixture
def run(pytester):
    def run(suite, *arguments):
        pytester.makepyfile(suite)
        # Not the options of this project, but a run as anybody has it.
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


def test_the_default_strategy_passes(run):
    result = run(SUITE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*- mmref -*", "1 explorations, 10 executions, 0 with a race"])


def test_a_failing_test_shows_ladder_schedule_and_replay_line(run):
    result = run(SUITE, "--mmref-strategy", "freeze-and-replace")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "seek-data: RACE in execution 4",
        "collapse_file() against shmem_file_llseek(): violation: A1: data at pages 0, 1, 2, 3 reported as a hole*",
        "CPU 0 (khugepaged)*CPU 1 (lseek SEEK_DATA)",
        "*folio_test_uptodate(new_folio) ==",
        "schedule: seek-data/freeze-and-replace/layout=DDDD,chunk_shift=6:v1:*",
        "replay:   mmref replay 'seek-data/freeze-and-replace/*'",
        "1 explorations, 4 executions, 1 with a race",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_several_strategies_and_all(run):
    result = run(SUITE, "-v", "--mmref-strategy", "lock-and-insert-late", "--mmref-strategy", "uptodate-after-insert")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*test_data?lock-and-insert-late? PASSED*", "*test_data?uptodate-after-insert? FAILED*"]
    )


def test_all_are_all_but_the_museum(run):
    result = run(SUITE, "--collect-only", "-q", "--mmref-strategy", "all")
    result.stdout.fnmatch_lines(["*test_data?freeze-and-replace?", "*test_data?lock-and-insert-late?"])
    result.stdout.no_fnmatch_line("*uptodate-after-insert*")


def test_a_strategy_of_ones_own(run, pytester):
    pytester.makepyfile(
        mine="""
        from mmref.khugepaged import LockAndInsertLate

        class Mine(LockAndInsertLate):
            name = "mine"
        """
    )
    result = run(SUITE, "--mmref-strategy", "mine:Mine", "-p", "mine")
    result.assert_outcomes(passed=1)


def test_an_unknown_strategy_is_a_usage_error(run):
    result = run(SUITE, "--mmref-strategy", "freeze")
    assert result.ret != 0
    text = result.stdout.str() + result.stderr.str()
    assert "There is no strategy 'freeze'; did you mean freeze-and-replace?" in text


def test_the_marker_gives_scenario_shape_engine_and_bound(run):
    result = run(
        """
        import pytest

        @pytest.mark.mmref(scenario="mincore", layout="DD.D", max_executions=7)
        def test_bounded(explore, strategy):
            report = explore(strategy=strategy)
            assert not report.exhaustive and report.executions + report.blocked == 7
            assert explore(strategy=strategy, layout="DD", max_executions=None).exhaustive
            assert explore("seek-data", strategy, engine="source").engine == "source"

        @pytest.mark.mmref(scenario="seek-data", layout="DD|D.", extent=1, engine="bounded", bound=1)
        def test_shape(explore, strategy):
            assert "bounded by 1 preemption" in explore(strategy=strategy).reason
        """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["4 explorations, *"])


def test_a_report_is_not_judged(run):
    result = run(
        """
        def test_race(explore):
            report = explore.report("seek-data", "freeze-and-replace")
            assert report.counterexample.verdict.id == "A1"
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 explorations, 4 executions, 1 with a race"])


def test_bare_programs(run):
    result = run(
        """
        from mmref.explore import Cell

        def program():
            x = Cell(0)

            def increment():
                x.store(x.load() + 1)

            def check():
                assert x.load() != 2, "both are through"

            return [increment, increment, check]

        def test_program(explore):
            explore(program)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*both are through*", "schedule: v1:*"])
    result.stdout.no_fnmatch_line("replay:*")


def test_a_bare_program_has_no_shape(run):
    result = run(
        """
        def program():
            return [lambda: None]

        def test_program(explore):
            explore(program, layout="DD")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*UsageError: layout: only a scenario has a shape; leave it out for *"])


def test_nothing_to_explore(run):
    result = run("def test_it(explore):\n    explore()\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*explore() was not told what to explore*"])


def test_somebody_elses_strategy_is_left_alone(run):
    result = run(
        """
        import pytest

        @pytest.fixture
        def strategy():
            return "theirs"

        def test_fixture(strategy):
            assert strategy == "theirs"

        @pytest.mark.parametrize("strategy", ["a", "b"])
        def test_parameter(strategy):
            assert strategy in "ab"

        @pytest.mark.parametrize(("x", "strategy"), [(1, "a")])
        def test_parameters(x, strategy):
            assert strategy == "a"
        """,
        "--mmref-strategy", "all",
    )  # fmt: skip
    result.assert_outcomes(passed=4)


def test_totals_under_xdist(run):
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("layout", ["DD", "DDDD", "D.", ".D"])
        def test_data(explore, layout):
            explore("seek-data", "lock-and-insert-late", layout=layout)
        """,
        "-n", "2",
    )  # fmt: skip
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["4 explorations, *executions, 0 with a race"])


def test_a_run_that_explores_nothing_imports_nothing(run):
    result = run(
        """
        import sys

        def test_it():
            assert not [name for name in sys.modules if name.startswith("mmref.") and name != "mmref.pytest_plugin"]
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*- mmref -*")
