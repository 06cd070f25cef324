# SPDX-License-Identifier: GPL-2.0-only
"""Lost updates: a value is loaded, changed elsewhere, and stored over.

Reported is a store to a location by a CPU that has loaded it before, if another CPU has stored there in between, and
the first has not looked again. That the new value was made from the old one cannot be seen from outside: a program that
stores something else on purpose gives the same picture. So this is looked for only if `detect` says so, and not in the
slots of an XArray, which hold pointers: whoever empties one has made nothing of what was there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.errors import LostUpdate
from mmref.explore.locations import LOCKED, READ, WRITE, Location, Mode
from mmref.explore.places import places_text
from mmref.explore.races import overwrites

if TYPE_CHECKING:
    from mmref.explore.places import Place
    from mmref.explore.scheduler import ExploredCpu

__all__ = ["LostUpdates"]


class _Looked:
    """What a CPU knows of a location: where it has loaded it, and who has changed it since, and where."""

    __slots__ = ("by", "overwritten", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.by = ""
        self.overwritten: Place = ()


class LostUpdates:
    """What each CPU believes to be in each location."""

    def __init__(self) -> None:
        self._looked: dict[Location, dict[int, _Looked]] = {}

    def performed(self, cpu: ExploredCpu, mode: Mode) -> LostUpdate | None:
        """Take note of an access that is about to be performed; return the update that it loses, if any."""
        location = cpu.location
        if location.access == LOCKED or mode not in (READ, WRITE):
            return None
        looked = self._looked.setdefault(location, {})
        if mode == READ:
            looked[cpu.id] = _Looked(cpu.place())
            return None
        found = None
        mine = looked.pop(cpu.id, None)
        if mine is not None and mine.by and overwrites(cpu, location) and cpu.label != "slot store":
            found = LostUpdate(
                location.name, f"{cpu.name} loads it at {places_text(mine.place)}",
                f"{mine.by} changes it at {places_text(mine.overwritten)}",
                f"{cpu.name} stores over that at {places_text(cpu.place())}",
            )  # fmt: skip
        place = cpu.place() if looked else ()
        for other in looked.values():
            if not other.by:
                other.by, other.overwritten = cpu.name, place
        return found
