# SPDX-License-Identifier: GPL-2.0-only
"""Replay recordings of real kernels on the model, and compare what can be observed.

Each recorded scenario is a list of system calls with what the kernel answered (tests/data/kernel/FORMAT.md).
The model runs the same calls on a file of its own; after each, size, st_blocks, the SEEK_DATA map, page cache
residency and content must be the kernel's.

Runs alone over a folder of recordings:  python tests/golden/replay_kernel.py DIR
"""

from __future__ import annotations

import errno
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmref import File, Machine
from mmref.errors import Finding

PAGE = 4096
STRATEGY = {"6.1": "freeze-and-replace", "6.12": "lock-and-insert-late"}
"""Which strategy stands for which kernel. 6.12's own generation comes later; on the plain layouts it agrees."""


class NotExpressed(Exception):
    """The scenario does something that the model does not have yet."""


class Difference(AssertionError):
    """The model gave another answer than the kernel."""


def scenarios(path: Path) -> dict[str, dict[str, Any]]:
    """Read one recording: scenario name -> scenario."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return {(one := json.loads(line))["name"]: one for line in lines}
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise SystemExit(f"{path} is not a complete recording: {error}") from None


@lru_cache(maxsize=4096)
def page_content(page: int, generation: int) -> bytes:
    """Return what the recording programs wrote into a page."""
    head = 0x5A << 56 | generation << 40 | page << 12
    return b"".join((head | word).to_bytes(8, "little") for word in range(PAGE // 8))


def runs(values: list[Any], skip: Any = None) -> list[list[Any]]:
    """Compress a list to [first, behind, value] runs, leaving out those of the value `skip`."""
    found: list[list[Any]] = []
    for index, value in enumerate(values):
        if found and found[-1][2] == value and found[-1][1] == index:
            found[-1][1] = index + 1
        elif value != skip:
            found.append([index, index + 1, value])
    return found


class Replay:
    """One scenario on a machine of its own."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.machine = Machine(order=9)
        self.strategy = STRATEGY[kernel]
        self.pins: list[Callable[[], None]] = []
        self.page_tables: set[int] = set()  # the 2 MiB ranges in which the caller has touched a page

    @property
    def file(self) -> File:
        """The file under test."""
        return self.machine.files["file"]

    def step(self, step: dict[str, Any]) -> None:
        """Do one step and compare."""
        operation = getattr(self, "op_" + step["op"], None)
        if operation is None:
            raise NotExpressed(step["op"])
        answer = operation(**step["args"])
        if answer is not None and answer != (step["ret"], step["errno"]):
            raise Difference(f"{step['op']} {step['args']}: kernel {step['ret'], step['errno']}, model {answer}")
        self.machine.check()
        if step.get("observe"):
            self.compare(step["op"], step["observe"])

    def compare(self, after: str, kernel: dict[str, Any]) -> None:
        """Hold the file against what was observed on the kernel."""
        file = self.file
        model: dict[str, Any] = {
            "size": file.size,
            "blocks": file.st_blocks,
            "data": [list(extent) for extent in file.data_extents()],
        }
        ranges = -(-file.size // (512 * PAGE)) or 1
        model["core_cache"] = [run[:2] for run in runs(file.mincore(0, ranges * 512), False)]
        if "content" in kernel:
            content = file.read(0, file.size)
            pages = -(-file.size // PAGE)
            model["content"] = runs([self.tag(content[p * PAGE : (p + 1) * PAGE], p) for p in range(pages)])
        for field, value in model.items():
            if field in kernel and kernel[field] != value:
                raise Difference(f"after {after}: {field}: kernel {kernel[field]}, model {value}")

    def tag(self, content: bytes, page: int) -> int:
        """Name a page's content as the recordings do: its generation, 0 for zeros, -1 for anything else."""
        if not content.strip(b"\0"):
            return 0
        generation = int.from_bytes(content[5:7], "little")
        return generation if page_content(page, generation).startswith(content) else -1

    # The calls -------------------------------------------------------------------------------------------

    def op_memfd(self, size: int) -> None:
        self.machine.shmem_file("file", size)

    def op_mmap(self, len: int, off: int, flags: str, skew: int, **_: Any) -> None:
        whole = -(-self.file.size // (512 * PAGE)) * 512 * PAGE
        if flags != "shared" or off or skew or not self.file.size <= len <= whole:
            raise NotExpressed("a mapping that is not the whole file, shared")
        self.mapped = len

    def op_observe(self) -> None:
        pass

    def op_note(self, **_: Any) -> None:
        pass

    def op_pwrite_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> tuple[int, str]:
        written = [self.file.write(p * PAGE, page_content(p, gen)) for p in range(lo, hi, step)]
        return len(written), "0"

    def op_map_write_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> None:
        """A store through a mapping; to the page cache it is what write(2) is, within the file size."""
        if hi * PAGE > self.file.size:
            raise NotExpressed("a store behind the end of the file")
        self.page_tables.update(page // 512 for page in range(lo, hi, step))
        self.op_pwrite_pages(lo, hi, gen, step)

    def op_map_read_pages(self, lo: int, hi: int) -> None:
        """A load through a mapping; it changes the page cache only where a hole is."""
        if hi * PAGE > self.file.size or not all(self.file.mincore(lo, hi - lo)):
            raise NotExpressed("a read fault on a hole")
        self.page_tables.update(page // 512 for page in range(lo, hi))

    def op_touch_first_data(self, page: int) -> None:
        if page >= 0:
            self.page_tables.add(page // 512)

    def op_fallocate(self, mode: str, off: int, len: int) -> None:
        if mode == "PUNCH_HOLE":
            self.file.punch_hole(off, len)
        else:
            self.file.fallocate(off, len, keep_size=mode == "KEEP_SIZE")

    def op_ftruncate(self, size: int) -> None:
        self.file.truncate(size)

    def op_vmsplice_pin(self, page: int) -> None:
        if not self.file.mincore(page, 1)[0]:
            raise NotExpressed("a fault on a hole")
        self.pins.append(self.file.pin(page))

    def op_pipe_close(self, **_: Any) -> None:
        while self.pins:
            self.pins.pop()()

    def op_madvise_collapse(self, off: int, len: int) -> tuple[int, str] | None:
        if off % (512 * PAGE) or len % (512 * PAGE) or off + len > self.mapped:
            raise NotExpressed("madvise over a part of a huge page, or of the mapping")
        starts = range(off // PAGE, (off + len) // PAGE, 512)
        # 6.1 collapses where the caller has no page table, but then reports EINVAL and stops.
        exact = self.kernel != "6.1" or all(start // 512 in self.page_tables for start in starts)
        if not exact and starts[1:]:
            raise NotExpressed("madvise over several ranges without page tables, on 6.1")
        for start in starts:
            result = self.machine.collapse(self.file, start, self.strategy)
            if result.errno:
                return -1, errno.errorcode[result.errno]
        return (0, "0") if exact else None


def replay(scenario: dict[str, Any], kernel: str) -> None:
    """Replay one scenario; raises Difference or NotExpressed."""
    if "steps" not in scenario:
        raise NotExpressed(scenario.get("skipped") or "the recorded process died")
    run = Replay(kernel)
    for step in scenario["steps"]:
        run.step(step)


def replay_all(path: Path, kernel: str) -> Iterator[tuple[str, str, str]]:
    """Replay a recording; yield (scenario, "agrees" | "differs" | "not expressed", why)."""
    for name, scenario in scenarios(path).items():
        if name == "_meta":
            continue
        try:
            replay(scenario, kernel)
        except NotExpressed as why:
            yield name, "not expressed", str(why)
        except (Difference, Finding) as why:
            yield name, "differs", str(why)
        else:
            yield name, "agrees", ""


def main(folder: str) -> int:
    """Replay every recording of a folder; 1 if the model differs from a kernel anywhere."""
    paths = [
        path for path in sorted(Path(folder).glob("*.jsonl.gz")) if path.name.removesuffix(".jsonl.gz") in STRATEGY
    ]
    if not paths:
        print(f"{folder} holds no recording of {' or '.join(STRATEGY)} (a file like 6.1.jsonl.gz).")
        return 2
    different = 0
    for path in paths:
        verdicts = list(replay_all(path, path.name.removesuffix(".jsonl.gz")))
        for name, verdict, why in verdicts:
            if verdict == "differs":
                print(f"{path.name} {name}: {why}")
        counts = {
            kind: sum(verdict == kind for _, verdict, _ in verdicts) for kind in ("agrees", "differs", "not expressed")
        }
        different += counts["differs"]
        print(
            f"{path.name}: {counts['agrees']} agree, {counts['differs']} differ,"
            f" {counts['not expressed']} not expressed"
        )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else "usage: replay_kernel.py DIR")
