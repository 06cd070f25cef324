# SPDX-License-Identifier: GPL-2.0-only
"""From a Python function to the kernel function that it ports.

Every ported function says in its docstring which kernel function it is ("Kernel: xas_store(), lib/xarray.c."),
so that line is the one place where the name is written down.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib import import_module
from pathlib import PurePath

__all__ = ["kernel_name"]

_REFERENCE = re.compile(r"Kernel: (\w+)\(\)")


@cache
def kernel_name(function: str, file: str) -> str | None:
    """Return the kernel function that a function of a trace's call stack ports, or None.

    Args:
        function: its qualified name, for example ``"ShmemInode.llseek"``.
        file: where it is defined.

    >>> from mmref.pagecache import filemap
    >>> kernel_name("find_get_entry", filemap.__file__)
    'find_get_entry'
    """
    owner: object = _module(file)
    for name in function.split("."):
        owner = getattr(owner, name, None)
    found = _REFERENCE.search(getattr(owner, "__doc__", None) or "")
    return found[1] if found else None


@cache
def _module(file: str) -> object:
    parts = PurePath(file).with_suffix("").parts
    if "mmref" in parts:
        start = len(parts) - 1 - parts[::-1].index("mmref")
        name = ".".join(part for part in parts[start:] if part != "__init__")
        try:
            return import_module(name)
        except ImportError:  # a trace from another version
            return None
    return next((one for one in list(sys.modules.values()) if getattr(one, "__file__", None) == file), None)
