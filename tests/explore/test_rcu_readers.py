# SPDX-License-Identifier: GPL-2.0-only
"""Readers that take no lock, while a writer that holds it changes the tree under them.

Each program is one thing that lib/xarray.c has to get right for readers inside an RCU section. Nodes that leave the
tree stay readable, with RETRY entries in them; a reader that meets one starts over. All are explored exhaustively.
"""

import pytest

from mmref.explore import explore
from mmref.explore.twins import TracedXArray
from mmref.sync import cpu_relax, rcu_read_lock, rcu_read_unlock
from mmref.xarray import XaState


def load(xa, index):
    """Load one index as filemap_get_entry() does."""
    xas = XaState(xa, index)
    while True:
        entry = xas.load()
        if not xas.retry(entry):
            return entry
        cpu_relax()


def gang_lookup(xa, first, last):
    """Collect (index, entry) as find_get_entries() does."""
    xas = XaState(xa, first)
    found = []
    while (entry := xas.find(last)) is not None:
        if xas.retry(entry):
            cpu_relax()
        else:
            found.append((xas.index, entry))
    return found


def outcomes(build, write, read):
    """Explore a writer against a reader; return what the reader can see, and check that the tree is sound after."""
    seen = set()
    arrays = []

    def program():
        xa = TracedXArray(chunk_shift=2)
        for index, entry in build.items():
            xa.store(index, entry)
        arrays.append(xa)

        def writer():
            with xa.xa_lock:
                write(xa)

        def reader():
            rcu_read_lock()
            seen = read(xa)
            rcu_read_unlock()
            return seen

        return [writer, reader]

    def completed(done):
        assert done.verdict.holds, done.verdict
        arrays[-1].check()
        seen.add(done.results[1] if not isinstance(done.results[1], list) else tuple(done.results[1]))

    report = explore(program, on_execution=completed)
    assert report.exhaustive, str(report)
    assert report.holds, str(report)
    assert report.executions > 1, "nothing was interleaved"
    return seen


def erase(*indices):
    def write(xa):
        for index in indices:
            XaState(xa, index).store(None)

    return write


def store(index, entry, order=0):
    return lambda xa: XaState(xa, index, order).store(entry)


def test_a_walk_while_its_nodes_are_freed():
    build = {0: "a", 5: "b", 63: "c"}
    assert outcomes(build, erase(5), lambda xa: load(xa, 5)) == {"b", None}
    assert outcomes(build, erase(5, 63), lambda xa: load(xa, 0)) == {"a"}, "what nobody touches is always found"
    assert outcomes(build, erase(0, 5, 63), lambda xa: load(xa, 63)) == {"c", None}


def test_a_walk_while_the_tree_shrinks_to_its_head():
    assert outcomes({0: "a", 1: "b"}, erase(1), lambda xa: load(xa, 0)) == {"a"}
    assert outcomes({0: "a", 9: "b"}, erase(9), lambda xa: load(xa, 0)) == {"a"}
    assert outcomes({0: "a", 9: "b"}, erase(9), lambda xa: load(xa, 9)) == {"b", None}
    assert outcomes({0: "a", 9: "b"}, erase(9), lambda xa: gang_lookup(xa, 0, 15)) == {
        ((0, "a"), (9, "b")), ((0, "a"),),
    }  # fmt: skip


def test_a_walk_while_the_tree_grows():
    assert outcomes({0: "a"}, store(5, "b"), lambda xa: load(xa, 0)) == {"a"}
    assert outcomes({0: "a"}, store(5, "b"), lambda xa: load(xa, 5)) == {"b", None}
    assert outcomes({1: "a"}, store(60, "b"), lambda xa: gang_lookup(xa, 0, 63)) == {
        ((1, "a"),), ((1, "a"), (60, "b")),
    }  # fmt: skip


@pytest.mark.parametrize("index", range(8))
def test_a_load_while_one_entry_replaces_a_subtree(index):
    build = {at: f"old {at}" for at in range(8)}
    assert outcomes(build, store(0, "new", order=3), lambda xa: load(xa, index)) == {f"old {index}", "new"}


def test_a_gang_lookup_while_one_entry_replaces_a_subtree_misses_what_it_has_not_reached():
    """Finding F1, without a page cache: the entry is stored from the front, and its siblings are skipped."""
    build = {at: at for at in range(8)}
    seen = outcomes(build, store(0, "new", order=3), lambda xa: gang_lookup(xa, 0, 7))
    whole = tuple(build.items())
    assert {whole, ((0, "new"),)} <= seen
    short = {found for found in seen if found[-1][0] < 7 and found[-1][1] != "new"}
    assert short == {whole[:4]}, "only at the end of a leaf: elsewhere RETRY entries make it start over"
    for found in seen - short:
        last = [entry for _, entry in found][-1]
        assert last in (7, "new"), found


def test_a_gang_lookup_while_slots_are_reused():
    def write(xa):
        XaState(xa, 1).store(None)
        XaState(xa, 1).store("again")
        XaState(xa, 2).store(None)

    seen = outcomes({0: "a", 1: "b", 2: "c", 3: "d"}, write, lambda xa: gang_lookup(xa, 0, 3))
    for found in seen:
        entries = dict(found)
        assert (entries[0], entries[3]) == ("a", "d"), "what nobody touches is always found"
        assert entries.get(1) in ("b", "again", None)
    assert ((0, "a"), (1, "again"), (2, "c"), (3, "d")) in seen
    assert ((0, "a"), (3, "d")) in seen


def test_a_gang_lookup_while_its_leaf_is_freed_and_the_range_is_filled_anew():
    def write(xa):
        for index in range(4, 8):
            XaState(xa, index).store(None)
        for index in range(4, 8):
            XaState(xa, index).store(f"new {index}")

    build = {0: "a"} | {index: f"old {index}" for index in range(4, 8)} | {9: "z"}
    for found in outcomes(build, write, lambda xa: gang_lookup(xa, 0, 15)):
        assert found[0] == (0, "a")
        assert found[-1] == (9, "z")
        assert [index for index, _ in found] == sorted({index for index, _ in found}), "in order, none twice"
        assert all(entry in (build[index], f"new {index}") for index, entry in found)
