# SPDX-License-Identifier: GPL-2.0-only
"""Make a program that shows a difference smaller, as long as it still shows one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mmref.errors import UsageError
from mmref.live.program import HUGE, HUGE_PAGES, PAGE, Op, Program

__all__ = ["shrink"]


def shrink(program: Program, differs: Callable[[Program], bool], most: int = 500) -> Program:
    """Return a smaller program for which `differs` still holds: fewer operations first, then simpler ones.

    Args:
        program: one for which it holds.
        differs: called with smaller programs. It may raise UsageError for one that cannot run.
        most: how often to call it, at most.
    """
    left = most
    while left > 0:
        for candidate in _smaller(program):
            if _cost(candidate) >= _cost(program):
                continue
            left -= 1
            try:
                if differs(candidate):
                    program = candidate
                    break
            except UsageError:
                pass
            if left <= 0:
                return program
        else:
            return program
    return program


def _cost(program: Program) -> tuple[int, int, int, int]:
    """Rank programs: fewer operations, then fewer odd numbers, then shorter ranges, then smaller numbers."""
    odd = spanned = total = 0
    for op in program:
        for key, value in op.args.items():
            if isinstance(value, int):
                total += value
                odd += key in ("off", "len", "size") and bool(value % PAGE)
        spanned += op.args.get("len", 0) + (op.args.get("hi", 0) - op.args.get("lo", 0)) * PAGE
        spanned += op.args.get("size", 0) if op.name == "memfd" else 0
        odd += "step" in op.args
    return len(program), odd, spanned, total


def _smaller(program: Program) -> Iterator[Program]:
    """Yield programs that differ from this one by one idea, the boldest first."""
    steps = list(program)
    size = len(steps) // 2
    while size:
        for at in range(len(steps) - size, 0, -1):
            yield Program(steps[:at] + steps[at + size :])
        size //= 2
    if fewer := _one_huge_page_less(steps):
        yield fewer
    for at in range(len(steps) - 1, -1, -1):
        for args in _simpler(steps[at]):
            yield Program([*steps[:at], Op(steps[at].name, args), *steps[at + 1 :]])


def _one_huge_page_less(steps: list[Op]) -> Program | None:
    """Take one huge page off every length and size at once, if all of them have more than that."""
    smaller = []
    for op in steps:
        args = dict(op.args)
        for key in ("size", "len"):
            if op.name in ("memfd", "mmap") and key in args:
                args[key] -= HUGE
                if args[key] <= 0:
                    return None
        smaller.append(Op(op.name, args))
    return Program(smaller)


def _simpler(op: Op) -> Iterator[dict[str, Any]]:
    """Yield other arguments: shorter ranges, rounder numbers, the defaults."""
    args = op.args
    if "step" in args:
        yield {key: value for key, value in args.items() if key != "step"}
    if args.get("gen", 1) > 1:
        yield args | {"gen": 1}
    if "lo" in args:
        lo, hi = args["lo"], args["hi"]
        middle = (lo + hi) // 2
        for new_lo, new_hi in ((lo, lo + 1), (hi - 1, hi), (lo, middle), (middle, hi), (lo, hi - 1), (lo + 1, hi)):
            if new_lo < new_hi:
                yield args | {"lo": new_lo, "hi": new_hi}
    if "off" in args and "len" in args:
        unit = HUGE if op.name.startswith("madvise_collapse") else PAGE
        off, end = args["off"], args["off"] + args["len"]
        down, up = off // unit * unit, -(-end // unit) * unit
        middle = (off + end) // 2 // unit * unit
        for new_off, new_end in ((off, off + unit), (end - unit, end), (down, up), (off, middle), (middle, end),
                                 (off, end - unit), (off + unit, end), (down, end), (off, up)):  # fmt: skip
            if 0 <= new_off < new_end:
                yield args | {"off": new_off, "len": new_end - new_off}
    for key in ("size", "len") if op.name in ("memfd", "mmap", "ftruncate") else ():
        value = args.get(key, 0)
        for rounder in (value - HUGE, value // HUGE * HUGE, -(-value // HUGE) * HUGE, value // PAGE * PAGE):
            if rounder > 0:
                yield args | {key: rounder}
    if "page" in args:
        page = args["page"]
        yield args | {"page": page // HUGE_PAGES * HUGE_PAGES}
        yield args | {"page": page % HUGE_PAGES}
