# SPDX-License-Identifier: GPL-2.0-only
"""Everything that a program can see, as bytes: equal bytes stand for states that cannot be told apart.

The walk starts from given roots and follows every reference. Objects are numbered in the order of the first visit,
so that it matters which places hold the same object, and not where in memory it lies. What exists for the explorer
alone is left out: the locations of the twins, versions, names. What hides its state is refused.

Conventions in this file: the *walk* appends *tokens* to one flat list. A scalar is its own token; anything else starts
with a string that says what follows and how much of it, so that no two values have the same tokens.
"""

from __future__ import annotations

import enum
import itertools
import marshal
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, TypeAlias

from mmref.errors import UsageError
from mmref.explore.frames import read_suspended
from mmref.explore.locations import Location
from mmref.sync import Cpu

__all__ = ["Canon", "NoKeyError", "Section"]

_Walk: TypeAlias = Callable[[Any], None]

_SCALARS = (int, bool, type(None), float, complex)
_CONSTANTS = (
    type, ModuleType, CodeType, MethodDescriptorType, WrapperDescriptorType, GetSetDescriptorType, MemberDescriptorType,
    property, type(Ellipsis), type(NotImplemented),
)  # fmt: skip
_ITERATORS: tuple[type, ...] = (
    type(iter([])), type(iter(())), type(iter(range(0))), type(iter("")), type(iter(b"")), type(iter({})),
    type(iter({}.values())), type(iter({}.items())), type(iter(set())), type(reversed([])), reversed, enumerate, zip,
    map, filter, itertools.chain, itertools.count, itertools.islice, itertools.repeat,
)  # fmt: skip
"""Iterators that show by ``__reduce__()`` where they are."""

_TWINS = f"{__package__}.twins"
_WITHOUT_STATE = sys.stdlib_module_names | {__name__.partition(".")[0]}
"""Packages whose modules keep no state that matters."""

_SECTION = 1_000_000
"""More than the objects of a section."""

Section: TypeAlias = tuple[list[object], list[object]]
"""The tokens of a section, and the objects that were walked there first."""


class _References(dict[int, str]):
    """The tokens that refer to objects by number."""

    def __missing__(self, number: int) -> str:
        token = self[number] = f"@{number}"
        return token


_REFERENCES = _References()


class NoKeyError(UsageError):
    """A value has no key: it is of a kind whose state cannot be seen."""


class Canon:
    """The canonical walk. One object serves a whole search: it remembers what it has learnt about classes.

    A walk may be divided into sections. Objects are numbered in each section anew, so that one can be repeated if what
    it has walked has not changed.

    Attributes:
        crossed: whether a section refers to an object that an earlier one has found first (not the part before all
            sections).

    >>> canon = Canon()
    >>> canon.add([1, [2]])
    >>> first = canon.digest()
    >>> canon.add([1, [2]])
    >>> canon.digest() == first
    True
    """

    def __init__(self) -> None:
        self._out: list[object] = []  # emptied, but never another list
        self._walks: dict[type, _Walk] = dict.fromkeys(_SCALARS, self._out.append)
        self._walks |= {
            str: self._str, tuple: self._tuple, list: self._list, dict: self._dict, OrderedDict: self._dict,
            defaultdict: self._defaultdict, set: self._set, frozenset: self._set, deque: self._deque,
            bytearray: self._bytearray, range: self._range, slice: self._slice, FunctionType: self._function,
            MethodType: self._method, BuiltinFunctionType: self._builtin, CellType: self._cell, partial: self._partial,
            GeneratorType: self._generator, Location: self._location, bytes: self._bytes,
        }  # fmt: skip
        self._constants: dict[int, tuple[str, object]] = {}
        self._module_state: dict[int, tuple[tuple[dict[str, Any], str], ...]] = {}
        self._contents: dict[bytes, str] = {}
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []  # the numbered objects, so that no other takes the address of one
        self._sets: list[set[Any] | frozenset[Any]] = []
        self._own = 0  # the first number of the section
        self._shift = 0  # what to add to the count of objects for a number
        self.crossed = False

    def digest(self) -> bytes:
        """End the walk; return 16 bytes that stand for all that was walked."""
        self.settle()
        found = blake2b(marshal.dumps(self._out, 0), digest_size=16).digest()
        self.restart()
        return found

    def restart(self) -> None:
        """Forget what was walked."""
        self._out.clear()
        self._numbers.clear()
        self._kept.clear()
        self._sets.clear()
        self._shift = self._own = 0
        self.crossed = False

    def objects(self) -> list[int]:
        """Return the addresses of the objects that were walked. While they live, equal lists mean the same objects."""
        return list(self._numbers)

    def begin_section(self, section: int) -> tuple[int, int]:
        """Number objects from here on without regard to how many have been; return what `section()` needs."""
        self._own = section * _SECTION
        self._shift = self._own - len(self._numbers)
        return len(self._out), len(self._kept)

    def section(self, start: tuple[int, int]) -> Section:
        """Return what has been walked since `begin_section()`."""
        self.settle()
        out, kept = start
        return self._out[out:], self._kept[kept:]

    def repeat(self, section: Section) -> bool:
        """Walk a section once more that has not changed; tell whether that can be done: not if it crosses another."""
        tokens, objects = section
        numbers = self._numbers
        addresses = [id(value) for value in objects]
        if not numbers.keys().isdisjoint(addresses):
            return False
        self._out += tokens
        self._kept += objects
        numbers.update(zip(addresses, itertools.count(self._own)))
        return True

    def __contains__(self, value: object) -> bool:
        return id(value) in self._numbers

    def add(self, value: object) -> None:
        """Walk a value.

        Raises:
            NoKeyError: something in it does not show its state.
        """
        kind = type(value)
        (self._walks.get(kind) or self._learn(kind))(value)

    def constant(self, value: object) -> None:
        """Walk a thing that never changes and is the same object in every execution."""
        known = self._constants.get(id(value))
        if known is None:
            known = self._constants[id(value)] = (f"c{len(self._constants)}", value)
        self._out.append(known[0])

    def _seen(self, value: object) -> bool:
        """Refer to an object if it has been walked already, and tell whether it has; if not, number it."""
        numbers = self._numbers
        number = numbers.get(id(value))
        if number is not None:
            self._out.append(_REFERENCES[number])
            if self._own > number >= _SECTION:
                self.crossed = True
            return True
        numbers[id(value)] = self._shift + len(numbers)
        self._kept.append(value)
        return False

    # Values that are what they contain ---------------------------------------------------------------------

    def _str(self, value: str) -> None:
        self._out.append(f"'{value}")

    def _bytes(self, value: bytes) -> None:
        """Walk bytes. What is long, such as the content of a page, gets a number: there are few that differ."""
        if len(value) < 64:
            self._out.append(value)
        else:
            self._out.append(self._contents.setdefault(value, f"b{len(self._contents)}"))

    def _tuple(self, value: tuple[object, ...]) -> None:
        self._out.append(f"({len(value)}")
        self._items(value)

    def _range(self, value: range) -> None:
        self._out += ("range", value.start, value.stop, value.step)

    def _slice(self, value: slice) -> None:
        self._out.append("slice")
        self.add(value.start)
        self.add(value.stop)
        self.add(value.step)

    def _method(self, value: MethodType) -> None:
        self._out.append("method")
        self.add(value.__func__)
        self.add(value.__self__)

    def _builtin(self, value: BuiltinFunctionType) -> None:
        owner = value.__self__
        if owner is None or isinstance(owner, ModuleType):
            self.constant(value)
        else:
            self._out.append(f"method {value.__name__}")
            self.add(owner)

    def _partial(self, value: partial[object]) -> None:
        self._out.append("partial")
        for part in (value.func, value.args, value.keywords):
            self.add(part)

    def _iterator(self, value: Any) -> None:
        if not self._seen(value):
            self._out.append(f"iterator {type(value).__name__}")
            for part in value.__reduce__()[1:]:
                self.add(part)

    def _generator(self, value: GeneratorType[object, object, object]) -> None:
        if self._seen(value):
            return
        frame = value.gi_frame
        if value.gi_running or frame is None:  # if it runs, its frame is walked with those of its CPU
            self._out.append("generator that runs" if value.gi_running else "generator that has ended")
            return
        self._out.append("generator")
        self.frame(frame, read_suspended(frame))

    def frame(self, frame: FrameType, stack: list[object]) -> dict[str, object]:
        """Walk a frame: its code, where it stands, its variables, and what is on its evaluation stack.

        Returns:
            its variables.
        """
        self.constant(frame.f_code)
        self._out.append(frame.f_lasti)
        variables = frame.f_locals
        self._out += (len(variables), len(stack))
        walks = self._walks
        for name, value in variables.items():
            self._out.append(name)
            kind = type(value)
            (walks.get(kind) or self._learn(kind))(value)
        if stack:
            self._items(stack)
        return variables

    def _location(self, value: Location) -> None:
        """Walk a location that has no value itself: it is only whichever it is."""
        if not self._seen(value):
            self._out += ("location", value.id)

    # Objects -----------------------------------------------------------------------------------------------

    def _list(self, value: list[object]) -> None:
        if not self._seen(value):
            self._out.append(f"[{len(value)}")
            walks = self._walks
            for item in value:
                kind = type(item)
                (walks.get(kind) or self._learn(kind))(item)

    def _items(self, items: Any) -> None:
        walks = self._walks
        for item in items:
            kind = type(item)
            (walks.get(kind) or self._learn(kind))(item)

    def _deque(self, value: deque[object]) -> None:
        if not self._seen(value):
            self._out += (f"deque {len(value)}", value.maxlen)
            self._items(value)

    def _bytearray(self, value: bytearray) -> None:
        if not self._seen(value):
            self._out.append("bytearray")
            self._bytes(bytes(value))

    def _dict(self, value: dict[Any, Any]) -> None:
        if not self._seen(value):
            self._out.append(f"{type(value).__name__}{len(value)}")
            self._pairs(value)

    def _pairs(self, value: dict[Any, object]) -> None:
        walks = self._walks
        for pair in value.items():
            for one in pair:
                kind = type(one)
                (walks.get(kind) or self._learn(kind))(one)

    def _defaultdict(self, value: defaultdict[object, object]) -> None:
        if not self._seen(value):
            self._out.append(f"defaultdict{len(value)}")
            self.add(value.default_factory)
            self._pairs(value)

    def _set(self, value: set[Any] | frozenset[Any]) -> None:
        if self._seen(value):
            return
        self._out.append(f"{type(value).__name__}{len(value)}")
        if len(value) <= 1:
            self._items(value)
        elif all(type(item) in {int, str, bytes} for item in value):
            self._items(sorted(value, key=lambda item: (type(item).__name__, item)))
        elif all(isinstance(item, enum.Enum | type) for item in value):
            self._items(sorted(value, key=str))
        else:
            self._sets.append(value)

    def settle(self) -> None:
        """Walk the sets of objects that have been put off until their members are known from elsewhere."""
        sets, numbers = self._sets, self._numbers
        for members in sets:
            try:
                self._out += sorted(numbers[id(member)] for member in members)
            except KeyError:
                raise NoKeyError("a set of objects that are nowhere else has no order") from None
        sets.clear()

    def _cell(self, value: CellType) -> None:
        if self._seen(value):
            return
        self._out.append("cell")
        try:
            contents = value.cell_contents
        except ValueError:
            self._out.append("not bound yet")
            return
        self.add(contents)

    def _function(self, value: FunctionType) -> None:
        """Walk a function: its code, what it closes over, and the variables of its module that it names."""
        if self._seen(value):
            return
        self._out.append("function")
        self.constant(value.__code__)
        for cell in value.__closure__ or ():
            self._cell(cell)
        self.add(value.__defaults__)
        self.add(value.__kwdefaults__)
        named = self._module_state.get(id(value.__code__))
        if named is None:
            named = self._module_state[id(value.__code__)] = _module_state([value])
        for scope, name in named:
            self.add(scope.get(name))

    # Classes -----------------------------------------------------------------------------------------------

    def _learn(self, kind: type) -> _Walk:
        """Find out how objects of a class are walked."""
        self._walks[kind] = walk = self._way(kind)
        return walk

    def _way(self, kind: type) -> _Walk:
        if issubclass(kind, (*_CONSTANTS, enum.Enum)):
            return self.constant
        if kind in _ITERATORS:
            return self._iterator
        if issubclass(kind, Cpu):
            return lambda value: self._out.append(f"cpu {value.id}")
        if _hides_something(kind):
            raise NoKeyError(f"a {kind.__name__} does not show its state")
        return self._instances(kind, _content_of(kind))

    def _instances(self, kind: type, content: Callable[[Any], object] | None) -> _Walk:
        """Return the walk of the objects of a class: their attributes, and what a built-in base class holds."""
        walks, learn, numbers, kept, out = self._walks, self._learn, self._numbers, self._kept, self._out
        append = out.append
        marker = f"object {len(walks)}"
        slots = _slots(kind)
        with_dict = kind.__dictoffset__ != 0
        instruments = kind.__module__.startswith(_TWINS)
        history = getattr(kind, "history", None) if instruments else None
        named = _module_state([one for base in kind.__mro__ for one in vars(base).values()])

        def walk(value: Any) -> None:
            number = numbers.get(id(value))
            if number is not None:
                append(_REFERENCES[number])
                if self._own > number >= _SECTION:
                    self.crossed = True
                return
            numbers[id(value)] = self._shift + len(numbers)
            kept.append(value)
            append(marker)
            if history is not None:
                self.add(history(value))
            for get in slots:
                try:
                    item = get(value)
                except AttributeError:
                    append("not set")
                    continue
                item_kind = type(item)
                (walks.get(item_kind) or learn(item_kind))(item)
            if with_dict:
                for name, item in value.__dict__.items():
                    append(name)
                    if instruments and _is_instrument(name):
                        append(_identity(item))
                    else:
                        item_kind = type(item)
                        (walks.get(item_kind) or learn(item_kind))(item)
                append("}")
            if content is not None:
                self.add(content(value))
            for scope, name in named:
                self.add(scope.get(name))

        return walk


def _is_instrument(name: str) -> bool:
    """Tell whether an attribute of a twin is there for the explorer alone."""
    return name.startswith("at_") or name.endswith("_ids") or name in _INSTRUMENTS


_INSTRUMENTS = frozenset({"_name", "at", "freed", "freed_in", "ids", "nodes_made", "run", "section", "version"})
"""Locations; and when something happened, in steps: what matters of that is told by `history()`."""


def _slots(kind: type) -> list[Callable[[Any], object]]:
    """Return the getters of a class's slots: the plain ones, also where a twin has put a scheduling point before."""
    getters: list[Callable[[Any], object]] = []
    for base in reversed(kind.__mro__):
        instruments = base is Location or base.__module__.startswith(_TWINS)
        for name, member in sorted(vars(base).items()):
            if isinstance(member, MemberDescriptorType):
                if not (instruments and _is_instrument(name)):
                    getters.append(member.__get__)
                elif name.startswith("at_") or name.endswith("ids"):
                    getters.append(partial(_identity_in, member.__get__))
    return getters


def _identity_in(get: Callable[[Any], object], value: object) -> int | None:
    return _identity(get(value))


def _identity(found: object) -> int | None:
    """Return what tells which locations an object has: the id of the one, or of the first of a row."""
    if isinstance(found, Location):
        return found.id
    return found[0] if isinstance(found, range) and found else None


_WITH_CONTENT: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (BaseException, lambda value: value.args),
    (defaultdict, lambda value: (value.default_factory, *itertools.chain.from_iterable(dict.items(value)))),
    (dict, lambda value: tuple(itertools.chain.from_iterable(dict.items(value)))),
    (list, lambda value: tuple(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (set, frozenset),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (int, int.__int__),
    (str, str.__str__),
    (bytes, bytes.__bytes__),
    (bytearray, bytes),
)
"""Built-in classes that others may be derived from -> what they hold, as something that can be walked."""


def _content_of(kind: type) -> Callable[[Any], object] | None:
    return next((content for base, content in _WITH_CONTENT if issubclass(kind, base)), None)


def _hides_something(kind: type) -> bool:
    """Tell whether objects of a class have room for more than attributes: something that is written in C."""
    open_bases = {object, Location, *(base for base, _ in _WITH_CONTENT)}
    for one in kind.__mro__:
        if one in open_bases or issubclass(one, BaseException):
            continue
        base: type = one.__base__ or object
        words = sum(isinstance(member, MemberDescriptorType) for member in vars(one).values())
        words += (one.__dictoffset__ > 0) > (base.__dictoffset__ > 0)
        words += (one.__weakrefoffset__ > 0) > (base.__weakrefoffset__ > 0)
        if one.__basicsize__ > base.__basicsize__ + 8 * words:
            return True
        if not one.__flags__ & _HEAP_TYPE:
            return True
    return False


_HEAP_TYPE = 1 << 9
"""Set for classes that a `class` statement has made (and for some others). CPython: Py_TPFLAGS_HEAPTYPE."""

_PLAIN = (int, bool, float, str, bytes, bytearray, list, dict, set, deque, defaultdict, Location)


def _module_state(functions: Iterable[object]) -> tuple[tuple[dict[str, Any], str], ...]:
    """Return the variables of their modules that functions name and that may change, as (scope, name) pairs.

    What the functions that they name name is included.
    """
    found: dict[tuple[int, str], tuple[dict[str, Any], str]] = {}
    todo = [one for one in functions if isinstance(one, FunctionType)]
    known = set(todo)
    while todo:
        one = todo.pop()
        scope = one.__globals__
        if str(scope.get("__name__", "")).partition(".")[0] in _WITHOUT_STATE:
            continue
        for name in _names(one.__code__):
            value = scope.get(name)
            if isinstance(value, FunctionType):
                if value not in known:
                    known.add(value)
                    todo.append(value)
            elif isinstance(value, _PLAIN) or type(value).__module__ == scope.get("__name__"):
                found[id(scope), name] = (scope, name)
    return tuple(found.values())


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names
