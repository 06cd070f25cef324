# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel a program ran on, and what of the model stands for it."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from mmref.errors import UsageError
from mmref.khugepaged import strategies

__all__ = ["Kernel", "running_kernel"]

_PREFERENCE = (
    ((6, 6), ("upstream-6.12", "lock-and-insert-late")),
    ((6, 4), ("lock-and-insert-late",)),
    ((0, 0), ("freeze-and-replace",)),
)
"""From which version on which strategies come nearest, the best first."""


@dataclass(frozen=True)
class Kernel:
    """The version of a kernel.

    Args:
        version: major and minor number.
        release: the whole of `uname -r`, for people.

    >>> Kernel.parse("6.1.0-56-amd64").version
    (6, 1)
    """

    version: tuple[int, int]
    release: str

    @classmethod
    def parse(cls, release: str) -> Kernel:
        """Read a version from what `uname -r` prints.

        Raises:
            UsageError: it does not begin with two numbers.
        """
        found = re.match(r"(\d+)\.(\d+)", release)
        if found is None:
            raise UsageError(f"{release!r} is not the release of a Linux kernel; give something like '6.12.117'.")
        return cls((int(found[1]), int(found[2])), release)

    def __str__(self) -> str:
        return self.release

    @property
    def strategy(self) -> str:
        """The strategy that is nearest to this kernel's collapse_file()."""
        known = strategies()
        for since, names in _PREFERENCE:
            if self.version >= since:
                return next(name for name in names if name in known)
        raise UsageError(f"No strategy stands for Linux {self.release}.")


def running_kernel() -> Kernel:
    """Return the version of the kernel that runs here.

    Raises:
        UsageError: this is not Linux.
    """
    if platform.system() != "Linux":
        raise UsageError(f"This is {platform.system() or 'an unknown system'}, not Linux.")
    return Kernel.parse(platform.release())
