# SPDX-License-Identifier: GPL-2.0-only
"""The conformance suite passes what is right, and fails what is not."""

import pytest

import mmref.khugepaged.conformance as door
from mmref.khugepaged.conformance import Conformance

pytest_plugins = ["pytester"]


class TestLockAndInsertLate(Conformance):
    strategy = "lock-and-insert-late"


class TestUpstream(Conformance):
    strategy = "upstream-6.12"


@pytest.mark.parametrize(
    ("strategy", "failures"),
    [("uptodate-after-insert", ["seek-data", "mincore", "alone"]), ("frozen-in-cache", ["mincore", "alone"]),
     ("freeze-and-replace", ["seek-data", "mincore", "alone"])],
)  # fmt: skip
def test_what_is_wrong_fails_with_a_ladder(pytester, strategy, failures):
    pytester.makepyfile(f"""
        from mmref.khugepaged.conformance import Conformance

        class TestIt(Conformance):
            strategy = {strategy!r}
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-k", "interleaving")
    assert result.parseoutcomes()["failed"] >= len(failures)
    for name in failures:
        result.stdout.fnmatch_lines([f"FAILED *test_no_interleaving_goes_wrong?{name}-*"])
    result.stdout.fnmatch_lines(["CPU 0 (khugepaged)*", "replay: mmref replay '*"])


def test_a_copy_that_forgets_the_holes_fails(pytester):
    pytester.makepyfile("""
        from mmref.khugepaged import LockAndInsertLate
        from mmref.khugepaged.conformance import Conformance

        class Forgetful(LockAndInsertLate):
            name = "forgetful"

            def copy(self, run):
                for folio in run.old:
                    run.new.copy_page(folio.index - run.start, folio, 0)

        class TestForgetful(Conformance):
            strategy = Forgetful
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-k", "same_content")
    assert result.parseoutcomes()["failed"] >= 5
    result.stdout.fnmatch_lines(["*InvariantViolation: A4: *"])


def test_a_suite_that_judges_nothing_says_so(pytester):
    pytester.makepyfile("""
        from mmref.khugepaged.conformance import Conformance

        class TestNothing(Conformance):
            pass
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-k", "no_trace")
    result.stdout.fnmatch_lines(["*TestNothing does not say what to judge: set `strategy = ...` in it.*"])


def test_the_door_has_nothing_else():
    with pytest.raises(AttributeError, match="has no attribute 'Something'"):
        door.Something  # noqa: B018
