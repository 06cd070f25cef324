# SPDX-License-Identifier: GPL-2.0-only
"""What a CPU's code can still depend on, as a value that can be compared and hashed.

Two executions are in the same state if their shared locations have the same values and each CPU will go on in the
same way. How a CPU goes on is determined by its call stack: code, position and local variables of each frame. What
Python does not show is the evaluation stack: the first operand of ``a.load() + b.load()`` while the second is
loaded, the iterator of a `for` loop, the exit function of a `with` block. `Positions` finds out from the bytecode
where nothing is hidden (or only iterators over `range`, which the loop variable gives away). Elsewhere a CPU's
state is taken to be its state at the last such place and everything that it has seen since.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import TypeAlias

from mmref.errors import UsageError
from mmref.explore.locations import Location
from mmref.sync import Cpu

__all__ = ["Key", "NoKeyError", "Positions", "key_of"]

Key: TypeAlias = object
"""Anything hashable; equal keys stand for values that code cannot tell apart."""

_SCALARS = frozenset({int, str, float, bytes, type(None), range})


class NoKeyError(UsageError):
    """A value has no key: it is of a kind whose state cannot be seen."""


def key_of(value: object, seen: dict[int, int] | None = None) -> Key:
    """Return the key of a value.

    Args:
        value: scalars, containers, functions with what they close over, locations, and plain objects of these.
        seen: id of each object met on the way -> its number, so that cycles end and sharing shows.

    Raises:
        NoKeyError: an iterator, a generator, or another object that does not show its state.

    >>> key_of([1, (2, "x")]) == key_of([1, (2, "x")])
    True
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, Location):
        return ("at", value.id)
    if kind is bool:
        return ("bool", value)
    if isinstance(value, Cpu):
        return ("cpu", value.id)
    if isinstance(value, type | ModuleType | BuiltinFunctionType | CodeType | Enum):
        return value
    if seen is None:
        seen = {}
    number = seen.get(id(value))
    if number is not None:
        return ("seen", number)
    seen[id(value)] = len(seen)
    if isinstance(value, list) and all(isinstance(item, Location) for item in value):
        return ("places", *[item.id for item in value])
    if kind in {list, tuple}:
        return (kind, *[key_of(item, seen) for item in value])  # type: ignore[attr-defined]
    if kind is dict:
        return (dict, *[(key_of(key, seen), key_of(item, seen)) for key, item in value.items()])  # type: ignore[attr-defined]
    if kind in {set, frozenset}:
        return (kind, frozenset(key_of(item, seen) for item in value))  # type: ignore[attr-defined]
    if isinstance(value, FunctionType):
        return _key_of_function(value, seen)
    if isinstance(value, MethodType):
        return ("method", value.__func__.__code__, key_of(value.__self__, seen))
    if hasattr(value, "__dict__") and not hasattr(value, "__next__"):
        return (kind, *[(name, key_of(item, seen)) for name, item in sorted(vars(value).items())])
    raise NoKeyError(f"a {kind.__name__} does not show its state")


def _key_of_function(function: FunctionType, seen: dict[int, int]) -> Key:
    """Return the key of a function: its code, and the values of what it closes over."""
    code = function.__code__
    rebound = _rebound(code)
    if rebound:
        raise NoKeyError(f"{code.co_qualname}() rebinds {rebound}, which is not its own")
    closed = []
    for cell in function.__closure__ or ():
        try:
            contents = cell.cell_contents
        except ValueError:
            contents = "not bound yet"
        closed.append(key_of(contents, seen))
    defaults = key_of(function.__defaults__, seen)
    return ("function", code, tuple(closed), defaults)


_REBOUND: dict[CodeType, str] = {}


def _rebound(code: CodeType) -> str:
    """Return the name of a variable of an enclosing function that the code assigns to; "" if there is none."""
    name = _REBOUND.get(code)
    if name is None:
        name = ""
        for instruction in dis.get_instructions(code):
            if instruction.opname in {"STORE_DEREF", "DELETE_DEREF"} and instruction.argval in code.co_freevars:
                name = str(instruction.argval)
        _REBOUND[code] = name
    return name


class Positions:
    """Tell where the evaluation stack of a frame hides nothing, from the bytecode alone."""

    def __init__(self) -> None:
        self._clean: dict[CodeType, frozenset[int]] = {}

    def clean(self, frame: FrameType) -> bool:
        """Tell whether a frame that is in a call has nothing else on its evaluation stack."""
        code = frame.f_code
        clean = self._clean.get(code)
        if clean is None:
            clean = self._clean[code] = frozenset(_clean_offsets(code))
        return frame.f_lasti in clean


def _clean_offsets(code: CodeType) -> Iterator[int]:
    """Yield the offsets of the calls at which the stack holds nothing but known iterators."""
    instructions = list(dis.get_instructions(code))
    depths = _depths(instructions)
    loops = _loops(instructions)
    for instruction, following in pairwise(instructions):
        depth = depths.get(instruction.offset)
        if depth is None or instruction.opname != "CALL":
            continue
        hidden = depth + dis.stack_effect(instruction.opcode, instruction.arg) - 1  # all but the result
        around = [known for start, end, known in loops if start < instruction.offset < end]
        if all(around) and hidden == len(around):
            # While a call is under way, the frame's position is the call itself or one of its cache entries.
            yield from range(instruction.offset, following.offset, 2)


def _depths(instructions: list[dis.Instruction]) -> dict[int, int]:
    """Return the depth of the stack before each instruction that is reached without an exception."""
    place = {instruction.offset: index for index, instruction in enumerate(instructions)}
    depths: dict[int, int] = {}
    todo = [(0, 0)]
    while todo:
        index, depth = todo.pop()
        while index < len(instructions):
            instruction = instructions[index]
            if instruction.offset in depths:
                break
            depths[instruction.offset] = depth
            argument = instruction.arg if instruction.opcode >= dis.HAVE_ARGUMENT else None
            if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
                jumped = depth + dis.stack_effect(instruction.opcode, argument, jump=True)
                todo.append((place[instruction.argval], jumped))
                if instruction.opname in {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}:
                    break
            if instruction.opname in {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}:
                break
            depth += dis.stack_effect(instruction.opcode, argument, jump=False)
            index += 1
    return depths


def _loops(instructions: list[dis.Instruction]) -> list[tuple[int, int, bool]]:
    """Return the `for` loops: start, end, and whether the loop variable determines the iterator."""
    loops = []
    code = [instruction for instruction in instructions if instruction.opname not in {"CACHE", "PRECALL"}]
    for index, instruction in enumerate(code):
        if instruction.opname == "FOR_ITER":
            loops.append((instruction.offset, int(instruction.argval), _over_range(code, index)))
    return loops


def _over_range(code: list[dis.Instruction], index: int) -> bool:
    """Tell whether a loop goes over `range()` of names that nothing assigns to, and alone sets its variable."""
    stored = [one.argval for one in code if one.opname.startswith(("STORE_FAST", "STORE_DEREF", "DELETE_"))]
    if index + 1 >= len(code) or index < 3:
        return False
    variable = code[index + 1]
    if variable.opname != "STORE_FAST" or stored.count(variable.argval) != 1:
        return False
    if [one.opname for one in code[index - 2 : index]] != ["CALL", "GET_ITER"]:
        return False
    count = code[index - 2].arg or 0
    arguments = code[index - 2 - count : index - 2]
    simple = {"LOAD_CONST", "LOAD_FAST", "LOAD_DEREF", "LOAD_GLOBAL"}
    if any(one.opname not in simple or one.argval in stored for one in arguments):
        return False
    function = code[index - 3 - count]
    return function.opname == "LOAD_GLOBAL" and function.argval == "range"
