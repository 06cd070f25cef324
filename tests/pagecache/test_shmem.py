# SPDX-License-Identifier: GPL-2.0-only
"""shmem files alone on a machine: what system calls answer, and that the accounting follows."""

import errno

import pytest

from mmref import Machine
from mmref.errors import InvariantViolation, UsageError
from mmref.pagecache import Sgp
from mmref.sync import SpinLock

PAGE = 4096


@pytest.fixture
def machine():
    return Machine(order=2)


@pytest.fixture
def file(machine):
    return machine.shmem_file("f", 4 * PAGE)


def test_a_new_file_is_one_hole(machine, file):
    assert file.read(0, 5) == bytes(5)
    assert file.mapping.nrpages == 0, "reading a hole allocates nothing"
    assert (file.st_blocks, file.data_extents(), file.mincore()) == (0, [], [False] * 4)
    with pytest.raises(OSError) as error:
        file.seek_data(0)
    assert error.value.errno == errno.ENXIO
    assert file.seek_hole(0) == 0
    machine.check()


def test_write_makes_data_of_whole_pages(machine, file):
    assert file.write(PAGE + 100, b"hello") == 5
    assert file.read(PAGE, 106) == bytes(100) + b"hello\0"
    assert file.data_extents() == [(PAGE, 2 * PAGE)]
    assert file.mincore() == [False, True, False, False]
    assert file.st_blocks == 8
    assert machine.stats["NR_SHMEM"] == machine.stats["NR_FILE_PAGES"] == machine.stats["allocated"] == 1
    machine.check()


def test_a_write_over_the_end_grows_the_file(machine, file):
    content = bytes(range(256)) * 33
    assert file.write(3 * PAGE + 1, content) == len(content)
    assert file.size == 3 * PAGE + 1 + len(content)
    assert file.read(3 * PAGE, 2 + len(content)) == b"\0" + content, "and a read ends with the file"
    machine.check()


@pytest.mark.parametrize(
    ("at", "data", "hole"),
    [(0, PAGE, 0), (PAGE, PAGE, 2 * PAGE), (PAGE + 1, PAGE + 1, 2 * PAGE), (2 * PAGE, 3 * PAGE, 2 * PAGE),
     (3 * PAGE, 3 * PAGE, 4 * PAGE), (4 * PAGE - 1, 4 * PAGE - 1, 4 * PAGE)],
)  # fmt: skip
def test_seek(file, at, data, hole):
    file.write(PAGE, b"x")
    file.write(3 * PAGE, b"x")
    assert (file.seek_data(at), file.seek_hole(at)) == (data, hole)


@pytest.mark.parametrize("at", [-1, 4 * PAGE, 4 * PAGE + 1])
def test_seek_outside_the_file(file, at):
    for seek in (file.seek_data, file.seek_hole):
        with pytest.raises(OSError) as error:
            seek(at)
        assert error.value.errno == errno.ENXIO


def test_fallocated_pages_are_charged_but_read_as_holes(machine, file):
    file.fallocate(PAGE, 2 * PAGE)
    assert (file.st_blocks, file.mapping.nrpages) == (16, 2)
    assert file.data_extents() == []
    assert file.mincore() == [False] * 4
    assert file.read(0, 4 * PAGE) == bytes(4 * PAGE)
    assert file.data_extents() == [], "reading does not make data of them"
    file.write(PAGE, b"x")
    assert file.data_extents() == [(PAGE, 2 * PAGE)]
    file.fallocate(PAGE, 2 * PAGE)
    assert file.data_extents() == [(PAGE, 3 * PAGE)], "a second fallocate initialises what the first left"
    machine.check()


def test_fallocate_keep_size(file):
    file.fallocate(0, 6 * PAGE, keep_size=True)
    assert (file.size, file.st_blocks) == (4 * PAGE, 48)
    file.fallocate(0, 6 * PAGE)
    assert file.size == 6 * PAGE


def test_a_failing_fallocate_takes_back_what_it_added(machine):
    file = machine.shmem_file("small", 0, max_pages=5)
    file.write(PAGE, b"x" * PAGE)
    file.write(6 * PAGE, b"x" * PAGE)
    with pytest.raises(OSError) as error:
        file.fallocate(0, 5 * PAGE)
    assert error.value.errno == errno.ENOSPC
    machine.check()
    assert file.st_blocks == 16
    assert file.data_extents() == [(PAGE, 2 * PAGE), (6 * PAGE, 7 * PAGE)]
    with pytest.raises(OSError, match="6 pages are more than the limit of 5"):
        file.fallocate(0, 6 * PAGE)
    machine.check()


def test_a_full_filesystem_stops_a_write_part_way(machine):
    file = machine.shmem_file("small", 0, max_pages=2)
    assert file.write(0, bytes(3 * PAGE)) == 2 * PAGE
    with pytest.raises(OSError) as error:
        file.write(2 * PAGE, b"x")
    assert error.value.errno == errno.ENOSPC
    assert file.size == 2 * PAGE
    machine.check()


def test_out_of_memory_leaves_nothing_behind(machine, file):
    machine.memory.allocator.fail_next()
    with pytest.raises(OSError) as error:
        file.write(0, b"x")
    assert error.value.errno == errno.ENOMEM
    assert (file.st_blocks, machine.stats["allocated"]) == (0, 0)
    machine.check()


def test_node_allocation_failure_is_survived(machine, file):
    file.mapping.i_pages.allocator.budget(nowait=0)
    file.write(3 * PAGE, b"x")
    machine.check()
    assert file.data_extents() == [(3 * PAGE, 4 * PAGE)]


@pytest.mark.parametrize(
    ("offset", "length", "zeroed", "freed"),
    [(0, 4 * PAGE, [0, 1, 2, 3], 4), (PAGE, PAGE, [1], 1), (1, 4 * PAGE - 2, [1, 2], 2), (PAGE, 10, [], 0),
     (PAGE - 1, PAGE + 2, [1], 1), (2 * PAGE, 10 * PAGE, [2, 3], 2)],
)  # fmt: skip
def test_punch(machine, file, offset, length, zeroed, freed):
    before = b"".join(bytes([page + 1]) * PAGE for page in range(4))
    file.write(0, before)
    file.punch_hole(offset, length)
    end = min(offset + length, 4 * PAGE)
    assert file.read(0, 4 * PAGE) == before[:offset] + bytes(end - offset) + before[end:]
    assert [page for page in range(4) if not file.mincore(page, 1)[0]] == zeroed
    assert file.st_blocks == 8 * (4 - freed)
    machine.check()


@pytest.mark.parametrize("size", [0, 1, PAGE, PAGE + 7, 4 * PAGE, 9 * PAGE])
def test_truncate(machine, file, size):
    file.write(0, b"x" * 4 * PAGE)
    file.truncate(size)
    assert file.size == size
    assert file.mapping.nrpages == min(-(-size // PAGE), 4)
    file.truncate(4 * PAGE)
    assert file.read(0, 4 * PAGE) == (b"x" * min(size, 4 * PAGE)).ljust(4 * PAGE, b"\0"), "the cut part is zero"
    machine.check()


@pytest.mark.parametrize("kind", ["whole", "middle page", "behind the end"])
@pytest.mark.parametrize(("order", "chunk_shift"), [(2, 6), (3, 2), (1, 1)])
def test_a_huge_page_is_split_where_it_is_punched(order, chunk_shift, kind):
    machine = Machine(order, chunk_shift)
    pages = 1 << order
    file = machine.shmem_file("f", pages * PAGE)
    content = b"".join(bytes([page + 1]) * PAGE for page in range(pages))
    file.write(0, content)
    assert machine.collapse(file, 0).errno == 0
    if kind == "whole":
        file.punch_hole(0, pages * PAGE)
        assert (file.mapping.nrpages, file.read(0, pages * PAGE)) == (0, bytes(pages * PAGE))
    elif kind == "middle page":
        file.punch_hole(PAGE, PAGE)
        assert file.data_extents() == [
            extent for extent in [(0, PAGE), (2 * PAGE, pages * PAGE)] if extent[0] < extent[1]
        ]
        assert file.read(0, pages * PAGE) == content[:PAGE] + bytes(PAGE) + content[2 * PAGE :]
    else:
        file.truncate(PAGE + 5)
        assert (file.mapping.nrpages, file.read(0, 2 * PAGE)) == (2, content[: PAGE + 5])
    machine.check()
    assert machine.stats["NR_SHMEM_THPS"] == 0
    file.truncate(0)
    machine.check()
    assert machine.stats["allocated"] == 0, "nothing is leaked"


def test_a_tree_that_cannot_split_an_entry_leaves_the_huge_page_whole():
    machine = Machine(order=2, chunk_shift=1)
    file = machine.shmem_file("f", 4 * PAGE)
    file.write(0, b"x" * 4 * PAGE)
    machine.collapse(file, 0)
    file.punch_hole(PAGE, PAGE)
    assert (file.st_blocks, file.read(PAGE, PAGE)) == (32, bytes(PAGE))
    machine.check()


def test_a_pinned_huge_page_is_zeroed_but_not_split(machine, file):
    file.write(0, b"x" * 4 * PAGE)
    machine.collapse(file, 0)
    unpin = file.pin(0)
    file.punch_hole(PAGE, PAGE)
    assert file.read(0, 3 * PAGE) == b"x" * PAGE + bytes(PAGE) + b"x" * PAGE
    assert (file.data_extents(), file.st_blocks) == ([(0, 4 * PAGE)], 32), "it stays data"
    machine.check()
    unpin()
    machine.check()


def test_noalloc_fails_on_a_hole_and_clears_an_unwritten_page(file):
    with pytest.raises(OSError) as error:
        file.inode.get_folio(0, Sgp.NOALLOC)
    assert error.value.errno == errno.ENOENT
    file.fallocate(0, PAGE)
    folio = file.inode.get_folio(0, Sgp.NOALLOC)
    assert folio.test_uptodate()
    assert folio.test_locked()
    assert folio.read(0, PAGE) == bytes(PAGE)


def test_charge_and_uncharge_balance(machine, file):
    inode = file.inode
    file.write(0, b"x")
    with file.mapping.i_pages.xa_lock:
        assert inode.charge(2, xa_locked=True)
    assert (file.mapping.nrpages, inode.alloced, file.st_blocks, inode.used_pages.peek()) == (3, 3, 24, 3)
    with pytest.raises(InvariantViolation, match="Q1: nrpages is 3, but folios cover 1 indices"):
        machine.check()
    with file.mapping.i_pages.xa_lock:
        file.mapping.nrpages -= 2
        inode.uncharge(2)
    assert (inode.alloced, file.st_blocks, inode.used_pages.peek()) == (1, 8, 1)
    machine.check()


def test_recalc_frees_what_is_alloced_without_pages(machine, file):
    file.write(0, b"x" * 2 * PAGE)
    inode = file.inode
    inode.alloced += 3
    inode.i_blocks += 24
    inode.used_pages.add(3)
    inode.recalc_inode()
    assert (inode.alloced, inode.i_blocks, inode.used_pages.peek()) == (2, 16, 2)
    machine.check()


@pytest.mark.parametrize(
    ("spoil", "invariant"),
    [
        (lambda file: setattr(file.mapping, "nrpages", 7), "Q1: nrpages is 7, but folios cover 2 indices"),
        (lambda file: setattr(file.inode, "alloced", 3), "Q2: alloced is 3"),
        (lambda file: setattr(file.inode, "i_blocks", 1), "Q2: i_blocks is 1, but 2 pages are 16 blocks"),
        (lambda file: file.mapping.i_pages.load(0).trylock(), "Q5: .* is locked"),
        (lambda file: file.machine.memory.lru.isolate(file.mapping.i_pages.load(0)), "Q6: .* in 0 batches"),
        (lambda file: file.mapping.i_pages.load(0).get(), "Q7: .* has 2 references, but .* account for 1"),
        (lambda file: setattr(file.mapping.i_pages.load(0), "initialised", 0), "A4: .* is uptodate, but"),
        (lambda file: setattr(file.mapping.i_pages.load(0), "mapping", None), "A6: .* belongs to None"),
    ],
)
def test_check_catches(machine, file, spoil, invariant):
    file.write(0, b"x" * 2 * PAGE)
    machine.memory.lru.drain_all()
    machine.check()
    spoil(file)
    with pytest.raises(InvariantViolation, match=invariant) as found:
        machine.check()
    assert found.value.invariant == invariant[:2]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda file: file.read(-1, 1), "offset -1 is negative"),
        (lambda file: file.read(0, -5), "length -5 is negative"),
        (lambda file: file.write(-4096, b""), "offset -4096 is negative"),
        (lambda file: file.mincore(-1), "page -1 is negative"),
        (lambda file: file.pin(-2), "page -2 is negative"),
        (lambda file: file.machine.shmem_file("f"), "There is a file 'f' already"),
        (lambda file: file.machine.shmem_file("g", -1), "A file cannot have -1 bytes"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(machine, file, call, text):
    file.write(0, b"x")
    with pytest.raises(UsageError, match=text):
        call(file)
    assert list(machine.files) == ["f"]
    machine.check()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda file: file.fallocate(-1, 5), errno.EINVAL),
        (lambda file: file.fallocate(0, 0), errno.EINVAL),
        (lambda file: file.punch_hole(0, -1), errno.EINVAL),
        (lambda file: file.truncate(-1), errno.EINVAL),
        (lambda file: file.write(2**63, b"x"), errno.EFBIG),
        (lambda file: file.pin(3), errno.EAGAIN),
    ],
)
def test_what_the_kernel_refuses_gets_the_kernels_errno(machine, file, call, code):
    file.write(0, b"x")
    with pytest.raises(OSError) as error:
        call(file)
    assert error.value.errno == code
    assert file.data_extents() == [(0, PAGE)]
    machine.check()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"order": -1}, "order -1"), ({"order": 19}, "order 19"), ({"order": "9"}, "order '9'"),
     ({"chunk_shift": 0}, "chunk_shift 0"), ({"chunk_shift": 7}, "chunk_shift 7"),
     ({"page_size": 1000}, "page_size 1000"), ({"page_size": 256}, "page_size 256")],
)  # fmt: skip
def test_a_machine_of_an_impossible_shape_is_refused(arguments, text):
    with pytest.raises(UsageError, match=text):
        Machine(**arguments)


def test_locks_are_free_at_rest(file):
    file.write(0, b"x")
    file.punch_hole(0, 10)
    assert not any(
        isinstance(lock, SpinLock) and lock.locked for lock in (file.inode.lock, file.mapping.i_pages.xa_lock)
    )
    assert file.inode.i_rwsem.writer is None


def test_a_partly_truncated_page_in_swap_keeps_no_stale_bytes():
    machine = Machine(order=2, swap_pages=16)
    file = machine.shmem_file("f", 4 * PAGE)
    file.write(0, b"x" * 2 * PAGE)
    assert file.swap_out(0, 2) == 2
    file.truncate(100)
    file.truncate(2 * PAGE)
    assert file.read(0, 2 * PAGE) == b"x" * 100 + bytes(2 * PAGE - 100)
    machine.check()


def test_punching_less_than_a_page_at_the_start_unmaps_the_whole_file():
    """The kernel's round_down() gives 0 there, and minus 1 is large: the content stays, the page tables do not."""
    machine = Machine(order=2)
    file = machine.shmem_file("f", 4 * PAGE)
    file.write(0, b"x" * 4 * PAGE)
    address, process = file.mmap(), machine.process()
    process.read(address, 4 * PAGE)
    file.punch_hole(0, 10)
    assert process.mm.rss(address, 4 * PAGE) == 0
    assert process.read(address, 12) == bytes(10) + b"xx"
    machine.check()
