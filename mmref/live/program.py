# SPDX-License-Identifier: GPL-2.0-only
"""A program: a list of operations on one file, as plain data.

The same operations run on the model (`mmref.live.model`) and on this machine's kernel (`mmref.live.kernel`), and
the recordings of other kernels are written in them too (tests/data/kernel/FORMAT.md). `off`, `len` and `size` are
in bytes; `lo`, `hi` and `page` count pages of the file; `gen` is the generation of the content written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmref.errors import UsageError

__all__ = ["HUGE", "HUGE_PAGES", "OPERATIONS", "PAGE", "Op", "Program"]

PAGE = 4096
"""Size of a page (bytes)."""

HUGE_PAGES = 512
"""Pages of a huge page."""

HUGE = HUGE_PAGES * PAGE
"""Size of a huge page (bytes)."""

OPERATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "memfd": (("size",), ()),
    "mmap": (("len",), ("off", "prot", "flags", "skew")),
    "mmap2": (("len",), ("off", "prot", "flags")),
    "munmap2": ((), ()),
    "pwrite_pages": (("lo", "hi", "gen"), ("step",)),
    "pread": (("off", "len"), ()),
    "map_read_pages": (("lo", "hi"), ()),
    "map_write_pages": (("lo", "hi", "gen"), ("step",)),
    "map2_read_pages": (("lo", "hi"), ()),
    "touch_first_data": (("page",), ()),
    "madvise_collapse": (("off", "len"), ()),
    "madvise_collapse_map2": (("off", "len"), ()),
    "madvise": (("advice", "off", "len"), ()),
    "fallocate": (("mode", "off", "len"), ()),
    "ftruncate": (("size",), ()),
    "uffd_register": (("mode", "vma"), ()),
    "uffd_touch": (("page", "write"), ()),
    "vmsplice_pin": (("page",), ()),
    "splice_file_to_pipe": (("page",), ()),
    "pipe_close": ((), ()),
    "mlock": (("off", "len"), ()),
    "munlock": (("off", "len"), ()),
    "mprotect": (("off", "len", "prot"), ()),
    "observe": ((), ()),
}
"""What can run on this machine's kernel: operation -> its arguments, and those that may be left out."""


class Op(NamedTuple):
    """One operation.

    Attributes:
        name: one of `OPERATIONS`, or any that a recording has.
        args: its arguments.
    """

    name: str
    args: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.args.items())})"


@dataclass(frozen=True)
class Program:
    """A list of operations.

    Args:
        steps: the operations, each as (name, arguments).

    Raises:
        UsageError: a step has another shape.

    >>> program = Program([("memfd", {"size": 4096}), ("ftruncate", {"size": 0})])
    >>> print(program)
    memfd(size=4096); ftruncate(size=0)
    >>> program == Program.from_json(program.to_json())
    True
    """

    steps: tuple[Op, ...]

    def __init__(self, steps: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        object.__setattr__(self, "steps", tuple(_step(step) for step in steps))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Op]:
        return iter(self.steps)

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps))

    def check(self) -> Program:
        """Return the program if every operation is known, has its arguments, and none comes before the file is there.

        Raises:
            UsageError: naming the step.
        """
        for at, op in enumerate(self.steps, start=1):
            if op.name not in OPERATIONS:
                raise UsageError(f"Step {at}, {op.name!r}, is not an operation; known are {', '.join(OPERATIONS)}.")
            needed, optional = OPERATIONS[op.name]
            if missing := [key for key in needed if key not in op.args]:
                raise UsageError(f"Step {at}, {op}, lacks {', '.join(missing)}.")
            if unknown := [key for key in op.args if key not in needed + optional]:
                takes = ", ".join(needed + optional) or "none"
                raise UsageError(f"Step {at}, {op}, has an argument {unknown[0]!r}; it takes {takes}.")
            if at == 1 and op.name != "memfd":
                raise UsageError(f"Step 1 is {op}; a program starts with memfd(size=...), which creates its file.")
            if at > 1 and op.name == "memfd":
                raise UsageError(f"Step {at} is {op}; a program has one file, created by its first step.")
        if not self.steps:
            raise UsageError("The program is empty; start it with memfd(size=...).")
        return self

    def as_python(self, call: str = "compare") -> str:
        """Return a Python program that runs this one, to paste.

        Args:
            call: what of `mmref.live` to call with it.
        """
        body = "".join(f"    ({op.name!r}, {op.args!r}),\n" for op in self.steps)
        return f"from mmref.live import Program, {call}\n\nprogram = Program([\n{body}])\nprint({call}(program))\n"

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps([[op.name, op.args] for op in self.steps])

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Read what `to_json()` wrote.

        Raises:
            UsageError: it is something else.
        """
        try:
            steps = json.loads(text)
        except ValueError as error:
            raise UsageError(f"This is not a program in JSON ({error}); give what Program.to_json() wrote.") from None
        if not isinstance(steps, list):
            raise UsageError(f"A program in JSON is a list of [name, arguments], not {type(steps).__name__}.")
        return cls(steps)


def _step(step: object) -> Op:
    if isinstance(step, (tuple, list)) and len(step) == 2:
        name, args = step
        if isinstance(name, str) and isinstance(args, Mapping) and all(isinstance(key, str) for key in args):
            return Op(name, dict(args))
    raise UsageError(f"{step!r} is not a step; give (name, arguments), for example ('ftruncate', {{'size': 0}}).")
