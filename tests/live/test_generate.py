# SPDX-License-Identifier: GPL-2.0-only
import itertools
import random
from zlib import crc32

from mmref.errors import UsageError
from mmref.live import Op, Program, random_program
from mmref.live.generate import WEIGHTS, Writer
from mmref.live.program import HUGE, OPERATIONS, PAGE
from mmref.live.shrink import shrink

MANY = [random_program(f"test/{seed}") for seed in range(300)]


def test_the_seed_decides():
    assert random_program(5) == random_program(5) != random_program(6)
    assert len(random_program(5, length=3)) == 5


def test_the_programs_of_a_seed_never_change():
    """A difference that somebody reports by its seed has to be found again: change this only with a good reason."""
    text = "".join(random_program(f"0/{at}").to_json() for at in range(50))
    assert crc32(text.encode()) == 0xB6834303


def test_all_programs_can_run():
    for program in MANY:
        program.check()
        assert [op.name for op in program][:2] == ["memfd", "mmap"]


def test_every_kind_of_operation_is_drawn():
    drawn = {op.name for program in MANY for op in program}
    assert drawn == set(OPERATIONS) - {"touch_first_data", "observe"}


def test_the_edges_are_drawn():
    steps = [op for program in MANY for op in program]
    sizes = [op.args["size"] for op in steps if op.name == "memfd"]
    assert {-(-size // HUGE) for size in sizes} == {1, 2, 3}
    assert any(size % HUGE and not size % PAGE for size in sizes)
    assert any(size % PAGE for size in sizes)
    modes = {op.args["mode"] for op in steps if op.name == "fallocate"}
    assert modes == {"0", "KEEP_SIZE", "PUNCH_HOLE"}
    punched = [op.args for op in steps if op.args.get("mode") == "PUNCH_HOLE"]
    assert any(args["off"] % PAGE for args in punched)
    assert any((args["off"] + args["len"]) % PAGE for args in punched)
    assert any(not args["off"] % PAGE and args["len"] == PAGE for args in punched)
    collapses = [op.args for op in steps if op.name == "madvise_collapse"]
    assert any(args["len"] > HUGE for args in collapses)
    assert any(args["off"] % HUGE for args in collapses)
    assert {op.args["advice"] for op in steps if op.name == "madvise"} == {"MADV_DONTNEED", "MADV_REMOVE"}


def test_arguments_stay_in_the_file():
    for program in MANY:
        most = 3 * HUGE
        for op in program:
            assert op.args.get("off", 0) >= 0
            assert op.args.get("len", 1) > 0
            assert op.args.get("off", 0) + op.args.get("len", 0) <= most + HUGE
            assert 0 <= op.args.get("lo", 0) < op.args.get("hi", 1)


def test_the_second_mapping_is_there_when_it_is_used():
    for program in MANY:
        there = False
        for op in program:
            if op.name == "mmap2":
                assert not there
                there = True
            elif op.name == "munmap2":
                assert there
                there = False
            elif op.name in ("map2_read_pages", "madvise_collapse_map2"):
                assert there


def test_what_is_watched_is_touched_by_uffd_touch_alone():
    watching = 0
    for program in MANY:
        watched = 0
        for op in program:
            if op.name == "uffd_register":
                assert not watched
                watched = op.args["vma"]
            elif watched == 1:
                assert op.name not in ("map_read_pages", "map_write_pages", "vmsplice_pin", "mlock", "mprotect")
            elif watched == 2:
                assert op.name not in ("map2_read_pages", "munmap2")
            assert watched or op.name != "uffd_touch"
        watching += bool(watched)
    assert watching > 10


def test_each_weight_has_a_way_to_be_drawn():
    writer = Writer(random.Random(1))
    for kind in WEIGHTS:
        assert isinstance(getattr(writer, f"_{kind}")(), Op)


# Shrinking -------------------------------------------------------------------------------------------------------


def test_operations_that_do_not_matter_are_dropped():
    program = max(MANY, key=len)
    small = shrink(program, lambda p: any(op.name == "madvise_collapse" for op in p))
    assert [op.name for op in small] == ["memfd", "madvise_collapse"]
    assert small.steps[1].args == {"off": 0, "len": HUGE} or small.steps[1].args["len"] <= HUGE


def test_ranges_are_shortened_and_rounded():
    program = Program(
        [
            ("memfd", {"size": 3 * HUGE - 100}),
            ("pwrite_pages", {"lo": 3, "hi": 1000, "gen": 9, "step": 3}),
            ("fallocate", {"mode": "PUNCH_HOLE", "off": 5 * PAGE + 100, "len": 90 * PAGE}),
        ]
    )

    def covers(p):
        punches = [op.args for op in p if op.name == "fallocate"]
        return any(args["off"] <= 50 * PAGE < args["off"] + args["len"] for args in punches)

    small = shrink(program, covers)
    assert [op.name for op in small] == ["memfd", "fallocate"]
    assert small.steps[1].args == {"mode": "PUNCH_HOLE", "off": 50 * PAGE, "len": PAGE}


def test_shrinking_ends_and_keeps_within_its_budget():
    calls = itertools.count()

    def always(_):
        next(calls)
        return True

    for program in MANY[:20]:
        small = shrink(program, always, most=200)
        assert len(small) == 1
    before = next(calls)
    assert shrink(MANY[0], lambda _: False) == MANY[0]
    shrink(MANY[1], always, most=3)
    assert next(calls) - before <= 4


def test_programs_that_cannot_run_are_not_smaller():
    def fussy(program):
        if not any(op.name == "mmap" for op in program):
            raise UsageError("nothing is mapped")
        return True

    assert [op.name for op in shrink(MANY[0], fussy)] == ["memfd", "mmap"]
