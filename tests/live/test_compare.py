# SPDX-License-Identifier: GPL-2.0-only
"""A difference is seen wherever it is, is asked for again, is made small, and is counted."""

import json

import pytest

from mmref.errors import InvariantViolation, UsageError
from mmref.live import Comparison, Kernel, Program, command, compare
from mmref.live.campaign import run_campaign
from mmref.live.comparing import Difference, first_difference
from mmref.live.kernel import CannotRun, run_on_kernel
from mmref.live.model import ModelFile, NotExpressed, run_on_model
from mmref.live.program import HUGE, Op

PROGRAM = Program(
    [
        ("memfd", {"size": HUGE}),
        ("mmap", {"len": HUGE}),
        ("pwrite_pages", {"lo": 0, "hi": 9, "gen": 1}),
        ("madvise_collapse", {"off": 0, "len": HUGE}),
    ]
)
KERNEL = Kernel.parse("6.12.117")
OP = Op("observe", {})
RESULT = {"ret": 0, "errno": "0", "observe": {"size": 1, "blocks": 8, "content": [[0, 1, 1]]}}


def changed(**changes):
    observe = RESULT["observe"] | {key: value for key, value in changes.items() if key in RESULT["observe"]}
    return RESULT | {key: value for key, value in changes.items() if key not in observe} | {"observe": observe}


def test_equal_results_agree_in_every_field():
    assert first_difference(0, OP, RESULT, changed()) == (None, 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("ret", 1), ("errno", "EAGAIN"), ("sigbus", 1), ("died", "was killed"), ("size", 2), ("blocks", 0),
     ("content", [])],
)  # fmt: skip
def test_each_field_counts_and_on_both_sides(field, value):
    found, _ = first_difference(4, OP, changed(**{field: value}), RESULT)
    assert (found.step, found.op, found.field, found.kernel) == (5, OP, field, value)
    found, _ = first_difference(4, OP, RESULT, changed(**{field: value}))
    assert (found.field, found.model) == (field, value)


def test_a_field_that_one_side_lacks_is_a_difference():
    found, _ = first_difference(0, OP, RESULT, RESULT | {"observe": {"size": 1, "blocks": 8}})
    assert (found.field, found.model) == ("content", None)


def test_kernel_and_model_agree(kernel):
    found = compare(PROGRAM)
    assert found
    assert found.verdict == "agrees"
    assert found.observations == 8 + 3 * 11  # three fields more once it is mapped
    assert str(found) == f"agrees: 41 observations of Linux {kernel} agree"


@pytest.fixture
def kernel_says(monkeypatch):
    """Let the running kernel give these answers, one list after the other."""

    def say(*answers):
        left = list(answers)
        monkeypatch.setattr("mmref.live.comparing.run_on_kernel", lambda _: left.pop(0) if left[1:] else left[0])

    return say


def wrong():
    results = run_on_model(PROGRAM, KERNEL)
    results[3] = results[3] | {"ret": -1, "errno": "EAGAIN"}
    return results


def test_a_difference_says_where_it_is(kernel_says):
    kernel_says(wrong())
    found = compare(PROGRAM, KERNEL)
    assert not found
    assert found.verdict == "differs"
    assert found.difference == Difference(4, PROGRAM.steps[3], "ret", -1, 0)
    assert found.observations == 8 + 2 * 11
    assert "step 4, madvise_collapse(off=0, len=2097152): ret is\n    -1 on the kernel,\n    0 in the model" in str(
        found
    )


def test_a_kernel_that_contradicts_itself_is_unstable(kernel_says):
    kernel_says(wrong(), wrong(), run_on_model(PROGRAM, KERNEL))
    found = compare(PROGRAM, KERNEL)
    assert (found.verdict, found.difference.field) == ("unstable", "ret")
    assert not found


def test_a_dead_child_differs(kernel_says):
    kernel_says([*run_on_model(PROGRAM, KERNEL)[:2], {"died": "was killed by SIGBUS"}])
    found = compare(PROGRAM, KERNEL)
    assert (found.verdict, found.difference) == (
        "differs", Difference(3, PROGRAM.steps[2], "died", "was killed by SIGBUS", None)
    )  # fmt: skip


def test_a_broken_invariant_of_the_model_differs(kernel_says, monkeypatch):
    kernel_says(run_on_model(PROGRAM, KERNEL))

    def broken(*_):
        raise InvariantViolation("Q1", "nrpages is 3")

    monkeypatch.setattr("mmref.machine.Machine.check", broken)
    found = compare(PROGRAM, KERNEL)
    assert (found.verdict, found.difference.field, found.difference.model) == (
        "differs",
        "invariants",
        "Q1: nrpages is 3",
    )


def test_what_the_model_lacks_is_no_difference(kernel_says, monkeypatch):
    kernel_says(wrong())

    def missing(*_, **__):
        raise NotExpressed("the moon")

    monkeypatch.setattr(ModelFile, "_do_pwrite_pages", missing)
    found = compare(PROGRAM, KERNEL)
    assert (found.verdict, found.reason, found.observations) == ("not expressed", "the moon", 19)
    with pytest.raises(NotExpressed, match="the operation wish"):
        ModelFile(KERNEL).step(Op("wish", {}))


def test_what_the_user_may_not_do_is_no_difference(monkeypatch):
    def refuse(_):
        raise CannotRun("ulimit")

    monkeypatch.setattr("mmref.live.comparing.run_on_kernel", refuse)
    assert compare(PROGRAM, KERNEL).verdict == "cannot run"


def test_the_model_alone_refuses_what_cannot_run():
    with pytest.raises(UsageError, match="Nothing is mapped yet"):
        run_on_model(Program([("memfd", {"size": HUGE}), ("map_read_pages", {"lo": 0, "hi": 1})]), KERNEL)
    with pytest.raises(UsageError, match="no file yet"):
        ModelFile(KERNEL).step(Op("pread", {"off": 0, "len": 1}))


# Many programs ---------------------------------------------------------------------------------------------------


def judge(differs):
    """Compare without a kernel: what `differs` says of the program."""

    def comparing(program, kernel):
        if differs(program):
            return Comparison(program, kernel, "differs", 1, Difference(1, program.steps[0], "ret", 0, 1))
        return Comparison(program, kernel, "agrees", 10)

    return comparing


def test_all_programs_run_and_the_first_difference_is_made_small():
    campaign = run_campaign(50, 1, KERNEL, comparing=judge(lambda p: any(op.name == "mlock" for op in p)))
    assert campaign.done == 50
    assert campaign.verdicts["agrees"] + campaign.verdicts["differs"] == 50
    assert campaign.verdicts["differs"] > 1
    assert campaign.observations == 10 * campaign.verdicts["agrees"] + campaign.verdicts["differs"]
    assert not campaign.holds
    assert [op.name for op in campaign.first.program] == ["memfd", "mlock"]
    assert campaign.operations["mlock"] == 0 < campaign.operations["madvise_collapse"]


def test_the_seed_and_the_number_find_a_program_again():
    seen = []
    run_campaign(3, 7, KERNEL, comparing=judge(seen.append))
    again = []
    run_campaign(5, 7, KERNEL, comparing=judge(again.append))
    assert again[:3] == seen
    other = []
    run_campaign(3, 8, KERNEL, comparing=judge(other.append))
    assert other != seen


def interrupting(after, inner):
    calls = []

    def comparing(program, kernel):
        calls.append(program)
        if len(calls) > after:
            raise KeyboardInterrupt
        return inner(program, kernel)

    return comparing


def test_ctrl_c_keeps_what_was_done():
    campaign = run_campaign(50, 1, KERNEL, comparing=interrupting(7, judge(lambda _: False)))
    assert (campaign.done, campaign.interrupted, campaign.holds) == (7, True, True)
    text = command.report(campaign)
    assert "7 of 7 programs agree, 70 observations do" in text
    assert "interrupted after 7 of 50 programs" in text


def test_ctrl_c_while_shrinking_keeps_the_difference():
    campaign = run_campaign(50, 1, KERNEL, comparing=interrupting(3, judge(lambda _: True)))
    assert (campaign.done, campaign.interrupted, campaign.holds) == (1, True, False)
    assert campaign.first.difference is not None


# The command -------------------------------------------------------------------------------------------------


@pytest.fixture
def judged(monkeypatch, kernel):
    """Let the command compare in another way."""

    def use(comparing):
        monkeypatch.setattr(command, "run_campaign", lambda *args: run_campaign(*args, comparing=comparing))

    return use


def test_without_a_difference_it_returns_0(judged, capsys, kernel):
    judged(judge(lambda _: False))
    assert command.live(5, 3) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Linux {kernel}, held against the model with the strategy {kernel.strategy}\n")
    assert "5 of 5 programs agree, 50 observations do (seed 3, " in out
    assert out.endswith("no difference\n")


def test_a_difference_is_printed_as_a_program_and_returns_1(judged, capsys):
    judged(judge(lambda p: len(p) > 6))
    assert command.live(5) == 1
    out = capsys.readouterr().out
    assert "from mmref.live import Program, compare" in out
    assert "the first is program" in out
    assert "ret is\n    0 on the kernel,\n    1 in the model" in out


def test_what_was_not_compared_is_said(judged, capsys):
    judged(lambda program, kernel: Comparison(program, kernel, "not expressed", 2, reason="the moon"))
    assert command.live(4) == 0
    out = capsys.readouterr().out
    assert "0 of 4 programs agree, 8 observations do" in out
    assert "4 not expressed:\n    4 times: the moon" in out


def test_an_unstable_answer_is_said(judged, capsys):
    difference = Difference(2, OP, "ret", 0, 1)
    judged(lambda program, kernel: Comparison(program, kernel, "unstable", 2, difference, "asked again"))
    assert command.live(1) == 0
    assert "unstable, the kernel answered differently when asked again: step 2" in capsys.readouterr().out


def test_interrupted_without_a_difference_it_returns_130(judged, capsys):
    judged(interrupting(2, judge(lambda _: False)))
    assert command.live(5) == 130
    judged(interrupting(2, judge(lambda _: True)))
    assert command.live(5) == 1


def test_json_has_everything(judged, capsys):
    judged(judge(lambda p: len(p) > 6))
    assert command.live(5, 2, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["programs"], found["seed"], found["wanted"]) == (5, 2, 5)
    assert found["verdicts"]["agrees"] + found["verdicts"]["differs"] == 5
    first = found["first_difference"]
    assert Program(first["steps"]).as_python() == first["python"]
    assert (first["field"], first["kernel"], first["model"]) == ("ret", 0, 1)


def test_progress_is_a_line_that_goes_away(capsys):
    now = [0.0]
    progress = command._Progress(4, lambda: now[0])
    campaign = run_campaign(2, 1, KERNEL, comparing=judge(lambda _: False))
    progress(campaign)
    assert capsys.readouterr().err == ""
    now[0] = 3.0
    progress(campaign)
    assert "2 of 4 programs, 3 s left" in capsys.readouterr().err
    progress.end()
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize("programs", [0, -3])
def test_no_programs_are_refused(programs):
    with pytest.raises(UsageError, match=f"--programs {programs}: give 1 or more"):
        command.live(programs)


def test_the_names_of_the_room():
    from mmref import live

    assert live.compare is compare
    for name in live.__all__:
        assert getattr(live, name) is not None
    with pytest.raises(AttributeError, match="wish"):
        _ = live.wish
    assert run_on_kernel is not None
