# SPDX-License-Identifier: GPL-2.0-only
"""The scenarios by name: who meets a collapse, and what it means if that goes wrong."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from mmref.errors import UsageError
from mmref.explore.actors import ACTORS, RegisterLook, RegisterTail
from mmref.explore.disk_actors import CompleteBareIo, OpenCopied, OpenLater, ReadError, Refault, Shrink
from mmref.explore.scenario import CollapseScenario
from mmref.khugepaged import CollapseStrategy, get_strategy

__all__ = ["get_scenario", "scenario_from_spec", "scenarios", "variants"]

_SEEK_DATA = (
    "A program that copies only what SEEK_DATA finds (cp, tar, rsync) silently leaves these pages out of the copy."
)
_SEEK_HOLE = (
    "A program that takes the first hole for the end of an extent (cp, tar, rsync) stops copying there;"
    " what follows is lost unless it happens to ask again."
)
_MINCORE = "A program that trusts mincore() (a database choosing what to prefetch) takes resident memory for absent."
_STALE = "A program reads something that nobody wrote there."
_LOST = "What a program has written is not what it reads afterwards."
_BACK = "Memory that was given back is taken up again, and charged for."
_UFFD = "A monitor (live migration, a sandbox) is never asked for a page that it knows is missing."
_OPEN = "A filesystem that knows only small folios writes into a huge one."
_BLOCKS = "The filesystem counts memory as used that nobody has, or the other way round."
_TWICE = "Two collapses of one range spoil what each of them has done."


# Each scenario has its usual shape, and under `also` those in which `mmref race --all` explores it besides: the layout,
# and further parameters as in a schedule string.

_ALSO: dict[str, tuple[str, ...]] = {}


def _scenario(name: str, actors: str, summary: str, consequence: str, *also: str, **shape: object) -> CollapseScenario:
    others = tuple(ACTORS[one] for one in actors.split("+") if one)
    _ALSO[name] = also
    return CollapseScenario(name, f"collapse against {summary}", consequence, others, **shape)  # type: ignore[arg-type]


_LOOKS = (
    _scenario("seek-data", "seek-data", "lseek(SEEK_DATA) at a page that holds data", _SEEK_DATA,
              "DD.D", "DDDDDDDD,chunk_shift=2", "fD", "Ds", "DD|D.,extent=1", "[DD]D."),
    _scenario("seek-hole", "seek-hole", "lseek(SEEK_HOLE) at a page that holds data", _SEEK_HOLE,
              "DD.D", "DDDD,chunk_shift=2", "DDDDDDDD,chunk_shift=2", "[DD]DD"),
    _scenario("mincore", "mincore", "mincore() over the whole range", _MINCORE,
              "DD.D", "DDDDDDDD,chunk_shift=2", "[DD]D."),
)  # fmt: skip

_TWO = (
    _scenario("seek-data-in-hole", "seek-data", "lseek(SEEK_DATA) in a hole with data behind it", _SEEK_DATA,
              "....DDDD,chunk_shift=2", layout=".DDD", in_hole=True),
    _scenario("mincore-mapped", "mincore-mapped", "mincore() over a mapping", _MINCORE, "DDDD,chunk_shift=1",
              layout="DD"),
    _scenario("read", "read", "read(2) of a data page", _STALE, "fD,ask=0", "[DD]D.", layout="DD"),
    _scenario("mapped-read", "mapped-read", "a load from a mapped page", _STALE, "[DD]D.", layout="DD"),
    _scenario("fault", "fault", "a page fault on a data page", _STALE, "Ds,ask=1", "[DD]D.", layout="DD"),
    _scenario("fault-on-hole", "fault", "a page fault on a hole", _STALE, ".D,ask=0", layout="D.", ask=1),
    _scenario("write", "write", "write(2) to a data page", _LOST, "Df,ask=1", "[DD]D.", "DDDD,chunk_shift=1",
              layout="DD"),
    _scenario("write-hole", "write", "write(2) into a hole", _LOST, "D..D,chunk_shift=1,ask=2", layout="D.", ask=1),
    _scenario("write-fault", "write-fault", "a store to a mapped page", _LOST, "[DD]D.", layout="DD"),
    _scenario("fallocate", "fallocate", "fallocate(2) of a hole", _LOST, ".D,ask=0", layout="D.", ask=1),
    _scenario("fallocate-again", "fallocate", "fallocate(2) of an unwritten page", _LOST, layout="Df", ask=1),
    _scenario("fallocate-undo", "fallocate-rest", "fallocate(2) that runs out of space and takes back what it got",
              _LOST, layout="D.|..", ask=1, max_pages=3),
    _scenario("punch", "punch", "a punch of one page", _BACK, "D.D.", "[DD]DD,ask=1", layout="DD"),
    _scenario("punch-all", "punch-all", "a punch of everything", _BACK, "D.D.", "Ds", "DDDDDDDD,chunk_shift=2",
              layout="DD"),
    _scenario("truncate", "truncate", "truncate(2) to nothing", _BACK, "D.", "DD|D.", layout="DD"),
    _scenario("truncate-grow", "truncate-grow", "truncate(2) to one page and back", _BACK, "[DD]DD,ask=1",
              layout="DD", ask=1),
    _scenario("swap-out", "swap-out", "reclaim of a page", _LOST, "D.", "[DD]DD", layout="DD"),
    _scenario("swap-in", "swap-in", "read(2) of a page that is swapped out", _STALE, "ss,ask=1", layout="Ds", ask=1),
    _scenario("pin", "pin", "a reference to a page, as of splice(2)", _LOST, "[DD]D.", layout="DD"),
    _scenario("gup", "gup", "a pin of a mapped page (GUP)", _LOST, "D.", "[DD]D.", layout="DD"),
    _scenario("uffd", "uffd", "userfaultfd: register, see a page missing, touch it", _UFFD, ".D,ask=0", layout="D.",
              ask=1),
    _scenario("uffd-copy", "uffd-copy", "a userfaultfd monitor that fills a hole", _UFFD, layout="D.", ask=1),
    _scenario("collapse", "collapse", "a second collapse", _TWICE, "D.", "Ds", "[DD]D.", layout="DD"),
    _scenario("collapse-next", "collapse", "a collapse of the next huge page", _TWICE, "D.|D.,chunk_shift=1,ask=2",
              layout="DD|DD", ask=2),
    _scenario("scan", "scan", "khugepaged's scan of the same range", _TWICE, "DDDD,chunk_shift=1", layout="DD"),
    _scenario("madvise", "madvise", "MADV_COLLAPSE of the same range by who has mapped it", _TWICE, layout="DD"),
    _scenario("munmap", "munmap", "munmap(2) of the file", _LOST, layout="DD"),
    _scenario("broken", "seek-data", "SEEK_DATA, and the memory of a page is broken", _SEEK_DATA, layout="D.x."),
    _scenario("no-memory", "fault", "a page fault on a hole, and memory runs out", _LOST, "D.,fail=2,ask=1",
              layout="D.", ask=1, fail=1),
    _scenario("no-space", "write", "write(2) into a hole, and the filesystem is full", _BLOCKS,
              "D..D,ask=1,max_pages=3", layout="D.", ask=1, max_pages=2),
)  # fmt: skip

_FILES = (
    _scenario("file-read", "read", "read(2) of a file on a disk", _STALE, "DD|dD", layout="DD", on_disk=True),
    _scenario("file-readahead", "read", "read(2) that reads a file ahead", _STALE, "D...,ask=1", layout="D.", ask=1,
              on_disk=True),
    _scenario("file-mapped-read", "mapped-read", "a load from a mapped file on a disk", _STALE, layout="DD",
              on_disk=True),
    _scenario("file-fault", "fault", "a page fault on a file on a disk", _STALE, "D.,ask=1", layout="DD",
              on_disk=True),
    _scenario("file-reclaim", "swap-out", "reclaim of a page of a file on a disk", _LOST, layout="DD", on_disk=True),
    _scenario("file-pin", "gup", "a pin of a mapped page of a file on a disk", _LOST, layout="DD", on_disk=True),
    _scenario("file-dirty", "read", "read(2) of a file with dirty pages", _LOST, "dD", layout="Dd", on_disk=True),
    _scenario("file-writeback", "complete-io", "the end of a write to the disk", _LOST, "wD", layout="Dw",
              on_disk=True),
    _scenario("file-broken", "read", "read(2), and the memory of a page is broken", _LOST, layout="Dx", on_disk=True),
    _scenario("file-open", "open-for-write", "open(2) for writing of a file on a disk", _OPEN, "D.", "DD|dD",
              layout="DD", on_disk=True),
    _scenario("file-write", "open-and-write", "opening a file on a disk and writing to it", _LOST, "D.,ask=1",
              layout="DD", on_disk=True),
    _scenario("file-punch", "open-and-punch", "opening a file on a disk and punching a page out", _BACK, layout="DD",
              on_disk=True),
    _scenario("file-truncate", "file-truncate", "truncate(2) of a file on a disk", _BACK, "D.", layout="DD",
              on_disk=True),
    _scenario("file-collapse", "collapse", "a second collapse of a file on a disk", _TWICE, "D.", layout="DD",
              on_disk=True),
)  # fmt: skip

_THREE = (
    _scenario("write+seek-data", "write+seek-data", "write(2) into a hole and lseek(SEEK_DATA) behind it", _SEEK_DATA,
              "DD,ask=0+1", layout=".D", ask=(0, 1)),
    _scenario("fallocate+mincore", "fallocate+mincore", "fallocate(2) of a hole and mincore()", _MINCORE,
              layout="D.", ask=1),
    _scenario("punch+fault", "punch+fault", "a punch of one page and a page fault on the other", _STALE,
              "D.,ask=0+1", layout="DD", ask=(0, 1)),
    _scenario("punch+read", "punch+read", "a punch of one page and read(2) of the next", _STALE, "DDDD,chunk_shift=1",
              "[DD]DD", layout="DD", ask=(0, 1)),
    _scenario("punch-all+write", "punch-all+write", "a punch of everything and write(2)", _LOST, layout="DD"),
    _scenario("punch+swap-in", "punch+swap-in", "a punch of a page and its coming back from swap", _BACK, layout="Ds",
              ask=1),
    _scenario("truncate+read", "truncate+read", "truncate(2) to nothing and read(2)", _STALE, layout="DD"),
    _scenario("fault+fault", "fault+fault", "two page faults on one hole", _STALE, layout="D.", ask=1),
    _scenario("collapse+seek-data", "collapse+seek-data", "a second collapse and lseek(SEEK_DATA)", _SEEK_DATA, "D.",
              layout="DD"),
    _scenario("swap-out+mincore", "swap-out+mincore", "reclaim of one page and mincore()", _MINCORE, layout="DD"),
    _scenario("gup+write", "gup+write", "a pin and write(2)", _LOST, layout="DD"),
    _scenario("file-write+read", "open-and-write+read", "opening and writing to a file on a disk and read(2)", _STALE,
              layout="DD", ask=(0, 1), on_disk=True),
    _scenario("file-open+open", "open-for-write+open-for-write", "two who open a file on a disk for writing", _OPEN,
              layout="DD", on_disk=True),
    _scenario("file-truncate+read", "file-truncate+read", "truncate(2) of a file on a disk and read(2)", _STALE,
              layout="DD", on_disk=True),
)  # fmt: skip

_ALONE = CollapseScenario(
    "alone", "a collapse with nobody looking: is data ever hidden (A5)?",
    "Whoever looks at that moment without taking the folio lock does not see the data.", (), hidden_data=True,
)  # fmt: skip
_ALSO["alone"] = ("DD.D", "[DD]D.")
_ALSO["quiet"] = (".DDD", "D...", "Df", "Ds", "[DD]DD")

_OPENED = "Opening a file takes from a program what it has stored."

_MORE = (
    CollapseScenario("uffd-look", "collapse against userfaultfd: register, see a page missing", _UFFD, (RegisterLook,),
                     layout="D.", ask=1),
    CollapseScenario("uffd-tail", "collapse against userfaultfd on the last page alone", _UFFD, (RegisterTail,),
                     layout="D.", ask=1),
    CollapseScenario("file-open-later", "a collapse, and open(2) for writing afterwards", _LOST, (OpenLater,),
                     layout="DD|dD", on_disk=True),
    CollapseScenario("file-open-copied", "collapse against open(2) for writing of a file with private copies", _OPENED,
                     (OpenCopied,), layout="DD", on_disk=True),
    CollapseScenario("file-shrink", "collapse against truncate(2) that splits the next huge page", _OPENED,
                     (Shrink,), layout="DD|[DD]", ask=3, on_disk=True),
    CollapseScenario("file-refault", "collapse against read(2) where the next huge page was reclaimed", _STALE,
                     (Refault,), layout="DD|[DD]", ask=3, on_disk=True),
    CollapseScenario("file-writeback-bare", "collapse against the end of a write, without private data",
                     _LOST, (CompleteBareIo,), layout="Dw", on_disk=True),
    CollapseScenario("file-read-error", "collapse against read(2) of a page that the disk cannot read", _STALE,
                     (ReadError,), layout="D.", ask=1, on_disk=True),
)  # fmt: skip

_QUIET = (
    CollapseScenario(
        "quiet", "a collapse with nobody else there: it succeeds (L2)",
        "Memory stays in small pages, though nobody is in the way.", (), layout="DD", tries=1,
    ),
    CollapseScenario(
        "quiet-swap", "a collapse with nobody else there, and pages come back from zram: it succeeds (L2)",
        "Memory stays in small pages, though nobody is in the way.", (), layout="Ds", tries=1, page_cluster=0,
    ),
    CollapseScenario(
        "file-quiet", "a collapse of a file on a disk with nobody else there: it succeeds at the second try (L2)",
        "Memory stays in small pages, though nobody is in the way.", (), layout="dD", tries=2, on_disk=True,
    ),
    CollapseScenario(
        "pinned", "a collapse that fails because a page is in use",
        "A program is told that trying again is of no use, or what had been changed is not put back.", (),
        layout=".D", pinned=True,
    ),
    CollapseScenario(
        "no-nodes", "a collapse that fails because there is no memory for the tree",
        "Memory is lost for good.", (), layout="D...", chunk_shift=1, nodes=0,
    ),
)  # fmt: skip


def scenarios() -> dict[str, CollapseScenario]:
    """Return the scenarios by name, each with its usual layout and geometry.

    >>> list(scenarios())[:3]
    ['seek-data', 'seek-hole', 'mincore']
    """
    found = {one.name: one for one in _LOOKS}
    for one in _LOOKS:
        late = replace(
            one, name=f"{one.name}-rollback", summary=f"{one.summary}, and the collapse fails late", pinned=True
        )
        found[late.name] = late
    found.update((one.name, one) for one in (_ALONE, *_QUIET, *_TWO, *_FILES, *_MORE, *_THREE))
    return found


def variants(strategy: str | CollapseStrategy | None = None) -> dict[str, list[CollapseScenario]]:
    """Return the shapes in which `mmref race --all` explores each scenario, by its name.

    Not every scenario in every shape: each in its usual one, and in those others in which a collapse does something
    else there. Where a shape is explored for 3,000 executions at most, all of it takes some minutes per strategy.

    Args:
        strategy: leave out what its kernel does not have, such as folios of two pages on tmpfs; None for all.
    """
    judge = None if strategy is None else get_strategy(strategy)
    found: dict[str, list[CollapseScenario]] = {}
    for name, one in scenarios().items():
        shapes = [one, *[replace(one, **_changes(f"layout={also}", name)) for also in _ALSO.get(name, ())]]  # type: ignore[arg-type]
        found[name] = [shape for shape in shapes if judge is None or shape.exists_under(judge)]
    return found


def get_scenario(name: str) -> CollapseScenario:
    """Return a scenario by its name.

    Raises:
        UsageError: there is none of that name; the message suggests the nearest.
    """
    known = scenarios()
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise UsageError(f"There is no scenario {name!r}; {hint}")
    return known[name]


def scenario_from_spec(spec: str) -> tuple[CollapseScenario, CollapseStrategy]:
    """Build scenario and strategy again from what `CollapseScenario.spec()` gave.

    Raises:
        UsageError: the text is not of that form, or names something unknown.
    """
    parts = spec.split("/")
    if len(parts) != 3:
        raise UsageError(
            f"{spec!r} does not say what to run; it should look like seek-data/freeze-and-replace/layout=DDDD"
        )
    scenario = get_scenario(parts[0])
    strategy = get_strategy(parts[1])
    return replace(scenario, **_changes(parts[2], spec)), strategy  # type: ignore[arg-type]


_NUMBERS = ("chunk_shift", "extent", "fail", "max_pages", "nodes")


def _changes(parameters: str, where: str) -> dict[str, str | int | tuple[int, ...]]:
    """Read the parameters of a scenario: ``layout=DD.D,chunk_shift=2,ask=1+0``."""
    changes: dict[str, str | int | tuple[int, ...]] = {}
    for parameter in filter(None, parameters.split(",")):
        key, _, value = parameter.partition("=")
        numbers = value.split("+")
        if key == "layout":
            changes[key] = value
        elif key in _NUMBERS and value.isdecimal():
            changes[key] = int(value)
        elif key == "ask" and all(number.isdecimal() for number in numbers):
            changes[key] = int(value) if len(numbers) == 1 else tuple(map(int, numbers))
        else:
            known = ", ".join(["layout=...", "ask=N or N+N", *[f"{name}=N" for name in _NUMBERS]])
            raise UsageError(f"{parameter!r} in {where!r} is not a parameter; known are {known}")
    return changes
