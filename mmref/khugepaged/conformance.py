# SPDX-License-Identifier: GPL-2.0-only
"""Judge a strategy of your own, in three lines of a test module.

    from mmref.khugepaged.conformance import Conformance

    class TestMine(Conformance):
        strategy = "my_package:Mine"

The suite needs the explorer, which stands above this room, so it lives there (`mmref.explore.conformance`) and is
only looked up here, by name, when it is asked for. It needs pytest.
"""

from __future__ import annotations

from importlib import import_module

__all__ = ["Conformance"]  # noqa: F822 (__getattr__ finds it, on a floor above)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mmref.explore.conformance"), name)
