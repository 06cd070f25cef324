# SPDX-License-Identifier: GPL-2.0-only
"""Random system calls on the model against a plain list of pages; invariants after each."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmref import Machine

PAGE = 512


class FileMachine(RuleBasedStateMachine):
    """One file; the truth is a list: None for a hole, "unwritten", or a page's bytes."""

    @initialize(shape=st.sampled_from([(2, 6), (3, 2), (2, 1), (3, 1), (1, 1), (0, 3)]))
    def setup(self, shape):
        order, chunk_shift = shape
        self.pages = 2 << order
        self.nr = 1 << order
        self.machine = Machine(order, chunk_shift, page_size=PAGE)
        self.file = self.machine.shmem_file("f", self.pages * PAGE)
        self.truth = [None] * self.pages

    @rule(data=st.data(), byte=st.integers(1, 255))
    def write(self, data, byte):
        page = data.draw(st.integers(0, self.pages - 1))
        self.file.write(page * PAGE, bytes([byte]) * PAGE)
        self.truth[page] = bytes([byte]) * PAGE

    @rule(data=st.data())
    def write_part(self, data):
        page = data.draw(st.integers(0, self.pages - 1))
        self.file.write(page * PAGE + 7, b"part")
        old = self.truth[page] if isinstance(self.truth[page], bytes) else bytes(PAGE)
        self.truth[page] = old[:7] + b"part" + old[11:]

    @rule(data=st.data())
    def fallocate(self, data):
        page = data.draw(st.integers(0, self.pages - 1))
        self.file.fallocate(page * PAGE, PAGE)
        if self.truth[page] == "unwritten":
            self.truth[page] = bytes(PAGE)
        self.truth[page] = self.truth[page] or "unwritten"

    @rule(data=st.data())
    def punch(self, data):
        first = data.draw(st.integers(0, self.pages - 1))
        behind = data.draw(st.integers(first + 1, self.pages))
        whole = self.file.mapping.nrpages
        self.file.punch_hole(first * PAGE, (behind - first) * PAGE)
        for page in range(first, behind):
            kept = self.file.mincore(page, 1)[0]  # a huge page that could not be split stays, zeroed
            self.truth[page] = bytes(PAGE) if kept else None
        assert self.file.mapping.nrpages <= whole

    @rule(
        data=st.data(),
        strategy=st.sampled_from(["freeze-and-replace", "lock-and-insert-late", "upstream-6.12"]),
        pinned=st.booleans(),
    )
    def collapse(self, data, strategy, pinned):
        start = data.draw(st.integers(0, self.pages // self.nr - 1)) * self.nr
        here = self.truth[start : start + self.nr]
        there = [page for page in range(start, start + self.nr) if self.truth[page] is not None]
        unpin = self.file.pin(there[-1]) if pinned and there else None
        before = list(self.truth), self.file.st_blocks
        result = self.machine.collapse(self.file, start, strategy)
        if unpin:
            unpin()
        if result.status.name == "SUCCEED":
            assert there
            self.truth[start : start + self.nr] = [p if isinstance(p, bytes) else bytes(PAGE) for p in here]
        else:
            # What was unwritten may have been made data on the way; nothing else may change.
            self.truth = [
                bytes(PAGE) if page == "unwritten" and self.file.mincore(at, 1)[0] else page
                for at, page in enumerate(self.truth)
            ]
            assert self.file.st_blocks == before[1]

    @invariant()
    def agrees(self):
        if not hasattr(self, "file"):
            return
        content = b"".join(page if isinstance(page, bytes) else bytes(PAGE) for page in self.truth)
        assert self.file.read(0, self.pages * PAGE) == content
        assert self.file.mincore() == [isinstance(page, bytes) for page in self.truth]
        assert self.file.st_blocks == sum(page is not None for page in self.truth)
        seen = [False] * self.pages
        for start, end in self.file.data_extents():
            seen[start // PAGE : end // PAGE] = [True] * ((end - start) // PAGE)
        assert seen == [isinstance(page, bytes) for page in self.truth]
        self.machine.check()


TestFileMachine = FileMachine.TestCase
TestFileMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
