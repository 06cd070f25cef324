# SPDX-License-Identifier: GPL-2.0-only
"""Random programs on the kernel that runs here and on the model of it: a small number of what `mmref live` runs."""

import pytest
from hypothesis import HealthCheck, Phase, reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from mmref.live import random_program
from mmref.live.comparing import compare, first_difference
from mmref.live.kernel import KernelProcess
from mmref.live.model import ModelFile
from mmref.live.program import HUGE, HUGE_PAGES, PAGE, Op, Program
from mmref.machine import File

PAGES = 2 * HUGE_PAGES

pages = st.one_of(st.sampled_from((0, 1, 511, 512, 513, 1023)), st.integers(0, PAGES - 1))
spans = st.tuples(pages, st.one_of(st.sampled_from((1, 2, 16, 512)), st.integers(1, PAGES))).map(
    lambda span: (span[0], min(span[0] + span[1], PAGES))
)
odd = st.sampled_from((0, 0, 0, 1, 100, 2048, 4095))


def test_random_programs_agree(kernel):
    for at in range(60):
        program = random_program(f"20/{at}")
        found = compare(program, kernel)
        assert found.verdict in ("agrees", "unstable"), f"program 20/{at}: {found.difference}\n\n{program.as_python()}"


class Lockstep(RuleBasedStateMachine):
    """One file on the kernel and one on the model, one operation after the other."""

    kernel = None

    @initialize(size=st.one_of(st.sampled_from((HUGE, 2 * HUGE, PAGE, HUGE + PAGE)), st.integers(1, 2 * HUGE)))
    def start(self, size):
        self.process = KernelProcess()
        self.model = ModelFile(self.kernel)
        self.steps = []
        self.pinned = self.second = False
        self.do("memfd", size=size)
        self.do("mmap", len=2 * HUGE)

    def teardown(self):
        if hasattr(self, "process"):
            self.process.close()

    def do(self, name, **args):
        op = Op(name, args)
        self.steps.append(op)
        theirs, ours = self.process.step(op), self.model.step(op)
        different, _ = first_difference(len(self.steps) - 1, op, theirs, ours)
        if different is None:
            return
        if compare(Program(self.steps), self.kernel).verdict == "unstable":
            reject()
        else:
            raise AssertionError(f"{different}\n\n{Program(self.steps).as_python()}")

    @rule(span=spans, gen=st.integers(1, 9))
    def write(self, span, gen):
        self.do("pwrite_pages", lo=span[0], hi=span[1], gen=gen)

    @rule(span=spans, gen=st.integers(1, 9))
    def store(self, span, gen):
        self.do("map_write_pages", lo=span[0], hi=span[1], gen=gen)

    @rule(span=spans)
    def load(self, span):
        self.do("map_read_pages", lo=span[0], hi=span[1])

    @rule(span=st.sampled_from(((0, 2), (0, 1), (1, 2))))
    def collapse(self, span):
        self.do("madvise_collapse", off=span[0] * HUGE, len=(span[1] - span[0]) * HUGE)

    @rule(span=spans, before=odd, behind=odd)
    def punch(self, span, before, behind):
        off, end = span[0] * PAGE + before, span[1] * PAGE - behind
        self.do("fallocate", mode="PUNCH_HOLE", off=off, len=max(end - off, 1))

    @rule(span=spans, keep=st.booleans())
    def allocate(self, span, keep):
        self.do("fallocate", mode="KEEP_SIZE" if keep else "0", off=span[0] * PAGE, len=(span[1] - span[0]) * PAGE)

    @rule(page=pages, rest=odd)
    def truncate(self, page, rest):
        self.do("ftruncate", size=page * PAGE + rest)

    @rule(page=pages)
    def pin(self, page):
        self.do("vmsplice_pin", page=page)
        self.pinned = True

    @precondition(lambda self: self.pinned)
    @rule()
    def unpin(self):
        self.do("pipe_close")
        self.pinned = False

    @rule(span=spans, lock=st.booleans())
    def lock(self, span, lock):
        self.do("mlock" if lock else "munlock", off=span[0] * PAGE, len=(span[1] - span[0]) * PAGE)

    @precondition(lambda self: not self.second)
    @rule(first=st.integers(0, 1), skew=st.sampled_from((0, 0, PAGE)))
    def map_again(self, first, skew):
        self.do("mmap2", len=2 * HUGE - first * HUGE - skew, off=first * HUGE + skew)
        self.second = True

    @precondition(lambda self: self.second)
    @rule(which=st.integers(0, 1))
    def collapse_there(self, which):
        self.do("madvise_collapse_map2", off=which * HUGE, len=HUGE)

    @precondition(lambda self: self.second)
    @rule(span=spans)
    def load_there(self, span):
        self.do("map2_read_pages", lo=span[0], hi=span[1])


def test_kernel_and_model_stay_in_lockstep(kernel):
    Lockstep.kernel = kernel
    run_state_machine_as_test(
        Lockstep,
        settings=settings(
            max_examples=25, stateful_step_count=10, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck), print_blob=False,
        ),
    )  # fmt: skip


def test_the_machine_notices_a_model_that_is_wrong(kernel, monkeypatch):
    """Let the model take every punch for an allocation: lockstep must find a short program that shows it."""
    monkeypatch.setattr(File, "punch_hole", lambda self, offset, length: self.fallocate(offset, length, True))
    Lockstep.kernel = kernel
    with pytest.raises(AssertionError, match="PUNCH_HOLE"):
        run_state_machine_as_test(
            Lockstep,
            settings=settings(
                max_examples=60, phases=(Phase.generate,), stateful_step_count=6, deadline=None, derandomize=True,
                database=None, suppress_health_check=list(HealthCheck), print_blob=False,
            ),
        )  # fmt: skip
