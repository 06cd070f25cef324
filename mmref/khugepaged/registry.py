# SPDX-License-Identifier: GPL-2.0-only
"""Finding a strategy by its name: built in, from the museum, or from another package."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points

from mmref.errors import UsageError
from mmref.khugepaged.freeze_and_replace import FreezeAndReplace
from mmref.khugepaged.lock_and_insert_late import LockAndInsertLate
from mmref.khugepaged.museum import MUSEUM
from mmref.khugepaged.strategy import CollapseStrategy
from mmref.khugepaged.upstream_6_12 import Upstream612

__all__ = ["ENTRY_POINT_GROUP", "get_strategy", "strategies"]

ENTRY_POINT_GROUP = "mmref.strategies"
"""Where other packages announce strategies of their own."""

_BUILT_IN: dict[str, type[CollapseStrategy]] = {
    one.name: one for one in (FreezeAndReplace, LockAndInsertLate, Upstream612)
}


def strategies() -> dict[str, type[CollapseStrategy]]:
    """Return the strategies by name: the built-in ones, then those of other packages.

    >>> list(strategies())[:2]
    ['freeze-and-replace', 'lock-and-insert-late']
    """
    found = dict(_BUILT_IN)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(point.name, _checked(point.load(), f"entry point {point.name}"))
    return found


def get_strategy(name: str | CollapseStrategy | type[CollapseStrategy]) -> CollapseStrategy:
    """Return a strategy by its name, by ``module:Class``, or as it was given.

    Raises:
        UsageError: there is none of that name; the message suggests the nearest.

    >>> get_strategy("freeze-and-replace")
    <strategy freeze-and-replace>
    """
    if isinstance(name, CollapseStrategy):
        return name
    if not isinstance(name, str):
        return _checked(name, repr(name))()
    if ":" in name:
        return _imported(name)()
    ours = _BUILT_IN.get(name) or MUSEUM.get(name)
    if ours is not None:  # without a search through the installed packages
        return ours()
    known = strategies() | MUSEUM
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise UsageError(f"There is no strategy {name!r}; {hint}")
    return known[name]()


def _imported(name: str) -> type[CollapseStrategy]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"Strategy {name!r} cannot be imported: {error}.") from error
    return _checked(found, name)


def _checked(found: object, origin: str) -> type[CollapseStrategy]:
    if isinstance(found, type) and issubclass(found, CollapseStrategy):
        return found
    raise UsageError(f"{origin} is {found!r}, not a subclass of mmref.khugepaged.CollapseStrategy.")
