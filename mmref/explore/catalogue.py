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
_TWICE = "Two collapses of one range spoil what each of them has done."


def _scenario(actor: str, summary: str, consequence: str, **shape: object) -> CollapseScenario:
    name = str(shape.pop("name", actor))
    others = tuple(ACTORS[one] for one in actor.split("+"))
    return CollapseScenario(name, f"collapse against {summary}", consequence, others, **shape)  # type: ignore[arg-type]


_LOOKS = (
    _scenario("seek-data", "lseek(SEEK_DATA) at a page that holds data", _SEEK_DATA),
    _scenario("seek-hole", "lseek(SEEK_HOLE) at a page that holds data", _SEEK_HOLE),
    _scenario("mincore", "mincore() over the whole range", _MINCORE),
)

_OTHERS = (
    _scenario("seek-data", "lseek(SEEK_DATA) in a hole with data behind it", _SEEK_DATA,
              name="seek-data-in-hole", layout=".DDD", in_hole=True),
    _scenario("read", "read(2) of a data page", _STALE, layout="DD"),
    _scenario("mapped-read", "a load from a mapped page", _STALE, layout="DD"),
    _scenario("fault", "a page fault on a data page", _STALE, layout="DD"),
    _scenario("fault", "a page fault on a hole", _STALE, name="fault-on-hole", layout="D.", ask=1),
    _scenario("write", "write(2) to a data page", _LOST, layout="DD"),
    _scenario("write", "write(2) into a hole", _LOST, name="write-hole", layout="D.", ask=1),
    _scenario("write-fault", "a store to a mapped page", _LOST, layout="DD"),
    _scenario("fallocate", "fallocate(2) of a hole", _LOST, layout="D.", ask=1),
    _scenario("fallocate", "fallocate(2) of an unwritten page", _LOST, name="fallocate-again", layout="Df", ask=1),
    _scenario("punch", "a punch of one page", _BACK, layout="DD"),
    _scenario("punch-all", "a punch of everything", _BACK, layout="DD"),
    _scenario("truncate", "truncate(2) to nothing", _BACK, layout="DD"),
    _scenario("swap-out", "reclaim of a page", _LOST, layout="DD"),
    _scenario("swap-in", "read(2) of a page that is swapped out", _STALE, layout="Ds", ask=1),
    _scenario("pin", "a pin of a page", _LOST, layout="DD"),
    _scenario("uffd", "userfaultfd: register, see a page missing, touch it", _UFFD, layout="D.", ask=1),
    _scenario("collapse", "a second collapse", _TWICE, layout="DD"),
    _scenario("scan", "khugepaged's scan of the same range", _TWICE, layout="DD"),
    _scenario("read", "read(2) of a file on a disk", _STALE, name="file-read", layout="DD", on_disk=True),
    _scenario("read", "read(2) that reads a file ahead", _STALE, name="file-readahead", layout="D.", ask=1,
              on_disk=True),
    _scenario("open-for-write", "open(2) for writing of a file on a disk", _OPEN, name="file-open", layout="DD",
              on_disk=True),
    _scenario("open-and-write", "opening a file on a disk and writing to it", _LOST, name="file-write", layout="DD",
              on_disk=True),
    _scenario("truncate", "truncate(2) of a file on a disk", _BACK, name="file-truncate", layout="DD", on_disk=True),
)  # fmt: skip

_ALONE = CollapseScenario(
    "alone", "a collapse with nobody looking: is data ever hidden (A5)?",
    "Whoever looks at that moment without taking the folio lock does not see the data.", (), hidden_data=True,
)  # fmt: skip

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
    found.update((one.name, one) for one in (_ALONE, *_QUIET, *_MORE))
    found.update((one.name, one) for one in _OTHERS)
    return found


def variants() -> dict[str, list[CollapseScenario]]:
    """Return the shapes in which `mmref race --all` explores each scenario, by its name."""
    return {name: [one] for name, one in scenarios().items()}


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
    changes: dict[str, str | int | tuple[int, ...]] = {}
    for parameter in filter(None, parts[2].split(",")):
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
            raise UsageError(f"{parameter!r} in {spec!r} is not a parameter; known are {known}")
    return replace(scenario, **changes), strategy  # type: ignore[arg-type]


_NUMBERS = ("chunk_shift", "extent", "fail", "max_pages", "nodes")
