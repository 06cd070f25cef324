# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of collapse_file()'s history, each as the smallest override that brings it back.

A room per kernel concept: `publishing`, `holes`, `userfaultfd`, `accounting`, `references`, `cursor`, `large_folios`,
`files`, `opening`, `barriers`. Which scenario catches which is in `mmref.explore.exhibits`, and on the page
docs/museum.md.
"""

from mmref.khugepaged.museum import (
    accounting,
    barriers,
    cursor,
    files,
    holes,
    large_folios,
    opening,
    publishing,
    references,
    userfaultfd,
)
from mmref.khugepaged.museum.exhibit import Exhibit
from mmref.khugepaged.museum.publishing import FrozenInCache, UptodateAfterInsert
from mmref.khugepaged.strategy import CollapseStrategy

__all__ = ["MUSEUM", "Exhibit", "FrozenInCache", "UptodateAfterInsert"]

_ROOMS = (publishing, holes, userfaultfd, accounting, references, cursor, large_folios, files, opening, barriers)

_EXHIBITS: list[type[Exhibit]] = [getattr(room, name) for room in _ROOMS for name in room.__all__]

MUSEUM: dict[str, type[CollapseStrategy]] = {one.name: one for one in sorted(_EXHIBITS, key=lambda one: one.mutation)}
"""The exhibits by name, in the order of their ids; each of them is an `Exhibit`."""
