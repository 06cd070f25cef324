# SPDX-License-Identifier: GPL-2.0-only
"""What an exhibit has on its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mmref.khugepaged.strategy import CollapseStrategy

__all__ = ["Exhibit"]


class Exhibit(CollapseStrategy):
    """A bug of collapse_file()'s history: a strategy, with the fewest steps changed that bring the bug back.

    Name it first among the bases, and the strategy that it changes after it.

    Attributes:
        mutation: its id in the table of docs/museum.md.
        fixed_by: the commit that mended it, and when; or that it was never merged, and why.
        races_in: the scenarios in which it is known to go wrong, besides those of the strategy that it changes.
        kernel: which kernel it follows but for the bug; made up from the other attributes if it is not given.
    """

    mutation: ClassVar[str]
    fixed_by: ClassVar[str]
    races_in: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Fill in the label from that of the strategy which is changed."""
        super().__init_subclass__()
        known: Mapping[str, str] = cls.known_races
        cls.known_races = {**known, **dict.fromkeys(cls.races_in, cls.mutation)}
        if "kernel" not in vars(cls):
            cls.kernel = f"{cls.kernel}, mutation {cls.mutation} ({cls.fixed_by})"
