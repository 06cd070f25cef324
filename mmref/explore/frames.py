# SPDX-License-Identifier: GPL-2.0-only
"""Where a CPU's code stands: the frames of its call stack, with what Python keeps on their evaluation stacks.

How a CPU goes on is determined by the code, the position and the local variables of each frame, and by what else is on
the frame's evaluation stack: the first operand of ``a.load() + b.load()`` while the second is loaded, the iterator
of a `for` loop, the exit function of a `with` block, the list that a comprehension has made so far. Python shows the
former; the latter is read from memory, as CPython lays it out. How deep the stack is at an instruction follows
from the bytecode.

Where a function written in C stands between two frames (`sorted()` that calls a key function), nobody can tell what
it remembers. Such a stack is not *clear*.
"""

from __future__ import annotations

import ctypes
import dis
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType, GeneratorType, MethodType

from mmref.errors import MmrefInternalError

__all__ = ["READABLE", "EvaluationStacks", "read_suspended"]

READABLE = sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 11)
"""Whether this Python's evaluation stacks can be read. Layouts differ from one version to the next."""

# Offsets (bytes) in CPython 3.11: Include/internal/pycore_frame.h.
_FRAME_IN_OBJECT = 24
_TOP_IN_FRAME = 64
_LOCALS_IN_FRAME = 72

_OPERANDS = {
    "LOAD_ATTR": 1, "LOAD_METHOD": 1, "STORE_ATTR": 2, "DELETE_ATTR": 1, "BINARY_SUBSCR": 2, "STORE_SUBSCR": 3,
    "DELETE_SUBSCR": 2, "BEFORE_WITH": 1, "WITH_EXCEPT_START": 0, "GET_ITER": 1, "FOR_ITER": 0,
}  # fmt: skip
"""Instructions besides calls that may run Python code and remember nothing meanwhile -> operands they have taken up."""

_STATELESS = (getattr, setattr, delattr, hasattr, len, bool, next, iter)
"""Functions written in C that remember nothing while they call Python code."""

_EXCEPTIONS = frozenset({BaseException, Exception, OSError, RuntimeError, ValueError, TypeError, LookupError, object})


class EvaluationStacks:
    """Reads what frames keep on their evaluation stacks."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[CodeType, dict[int, tuple[int, str]]]] = {}  # by address: a code's hash is slow

    def read(self, frame: FrameType, called: FrameType | None) -> list[object] | None:
        """Return what is on the stack of a frame that is calling something, below the call's own operands.

        Args:
            frame: the frame.
            called: the frame of what it calls.

        Returns:
            None if that cannot be told.
        """
        code = frame.f_code
        known = self._known.get(id(code))
        if known is None:
            known = self._known[id(code)] = (code, dict(_hidden(code)) if READABLE else {})
        hidden = known[1].get(frame.f_lasti)
        if hidden is None:
            return None
        depth, check = hidden
        if not depth and not check:
            return _NOTHING
        bottom, height = _evaluation_stack(frame)
        if height >= 0:  # it calls a Python function without a C function between
            if height != depth:
                raise MmrefInternalError(f"{code.co_qualname}: {height} values on the stack, not {depth}")
        elif check == "call":
            if not _remembers_nothing(_objects(bottom + 8 * depth, 2), called):
                return None
        elif check == "next" and not isinstance(_objects(bottom + 8 * (depth - 1), 1)[0], GeneratorType):
            return None
        return _objects(bottom, depth) if depth else _NOTHING


_NOTHING: list[object] = []


def read_suspended(frame: FrameType) -> list[object]:
    """Return what is on the stack of a generator that waits to be asked for the next value."""
    bottom, height = _evaluation_stack(frame)
    return _objects(bottom, height) if READABLE and height > 0 else []


def _evaluation_stack(frame: FrameType) -> tuple[int, int]:
    """Return the address of the bottom of a frame's evaluation stack, and its height; < 0 if it is not written down."""
    code = frame.f_code
    known = _VARIABLES.get(id(code))
    if known is None:
        variables = code.co_nlocals + len(code.co_freevars) + len(set(code.co_cellvars) - set(code.co_varnames))
        known = _VARIABLES[id(code)] = (variables, code)
    variables = known[0]
    address: int = _pointer(id(frame) + _FRAME_IN_OBJECT).value
    return address + _LOCALS_IN_FRAME + 8 * variables, _int(address + _TOP_IN_FRAME).value - variables


_VARIABLES: dict[int, tuple[int, CodeType]] = {}
_pointer, _int = ctypes.c_ssize_t.from_address, ctypes.c_int.from_address


def _objects(address: int, count: int) -> list[object]:
    """Return the objects that so many pointers in memory point to; NULL is an `Ellipsis`, which no code keeps there."""
    pointers = (ctypes.c_void_p * count).from_address(address)
    return [... if one is None else ctypes.cast(one, ctypes.py_object).value for one in pointers]


def _remembers_nothing(callee: list[object], called: FrameType | None) -> bool:
    """Tell whether nothing written in C stands between a call and the frame of what it calls.

    Args:
        callee: what the call has on the stack: (NULL, function) or (method, self). While a bound method is called, its
            object stands in the place of the method.
        called: the frame of what runs.
    """
    function = callee[1] if callee[0] is ... else callee[0]
    if called is not None and called.f_code.co_argcount:
        first = called.f_locals.get(called.f_code.co_varnames[0], ...)
        if first is function:
            return True
    if isinstance(function, MethodType):
        function = function.__func__
    if isinstance(function, type):  # its __init__() may be Python code; that of a list goes through an iterator
        return not any(base.__module__ == "builtins" for base in function.__mro__[:-1] if base not in _EXCEPTIONS)
    return isinstance(function, FunctionType) or any(function is one for one in _STATELESS)


def _hidden(code: CodeType) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield the positions at which code may be called, each with the depth of the stack then and what to check."""
    instructions = list(dis.get_instructions(code))
    depths = _depths(code, instructions)
    ends = [instruction.offset for instruction in instructions[1:]] + [len(code.co_code)]
    for instruction, end in zip(instructions, ends, strict=True):
        depth = depths.get(instruction.offset)
        argument = instruction.arg or 0
        if depth is None:
            continue
        check = "call"
        match instruction.opname:
            case "PRECALL":
                depth -= argument + 2
            case "CALL":
                depth -= 2  # its arguments have been counted at PRECALL
            case "CALL_FUNCTION_EX":
                depth -= 3 + (argument & 1)
            case name if name in _OPERANDS:
                depth -= _OPERANDS[name]
                check = "next" if name == "FOR_ITER" else ""
            case _:
                continue
        # While a call is under way, the frame's position is the instruction itself or one of its cache entries.
        for offset in range(instruction.offset, end, 2):
            yield offset, (depth, check)


def _depths(code: CodeType, instructions: list[dis.Instruction]) -> dict[int, int]:
    """Return the depth of the stack before each instruction."""
    place = {instruction.offset: index for index, instruction in enumerate(instructions)}
    depths: dict[int, int] = {}
    todo = [(0, 0)]
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]
        todo.append((place[entry.target], entry.depth + int(entry.lasti) + 1))
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
            if instruction.opname in {"RETURN_VALUE", "RAISE_VARARGS", "RERAISE"}:
                break
            depth += dis.stack_effect(instruction.opcode, argument, jump=False)
            if instruction.opname == "RETURN_GENERATOR":
                depth += 1  # from here on it is the generator that runs, and it begins with what it was sent
            index += 1
    return depths
