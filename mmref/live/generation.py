# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel a program ran on, and what of the model stands for it."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from mmref.errors import UsageError
from mmref.pagecache import KERNELS

__all__ = ["Kernel", "running_kernel"]


@dataclass(frozen=True)
class Kernel:
    """The version of a kernel.

    Args:
        version: major and minor number.
        release: the whole of `uname -r`, for people.

    >>> Kernel.parse("6.1.0-56-amd64").version
    (6, 1)
    >>> Kernel.parse("6.9.3").rules
    '6.4'
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
    def rules(self) -> str:
        """The version among those that the model has rules for that is nearest to this kernel, and not newer."""
        known = sorted((tuple(map(int, name.split("."))), name) for name in KERNELS)
        return next((name for version, name in reversed(known) if version <= self.version), known[0][1])

    @property
    def strategy(self) -> str:
        """The strategy that is nearest to this kernel's collapse_file()."""
        return KERNELS[self.rules].strategy


def running_kernel() -> Kernel:
    """Return the version of the kernel that runs here.

    Raises:
        UsageError: this is not Linux.
    """
    if platform.system() != "Linux":
        raise UsageError(f"This is {platform.system() or 'an unknown system'}, not Linux.")
    return Kernel.parse(platform.release())
