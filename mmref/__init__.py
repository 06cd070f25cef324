# SPDX-License-Identifier: GPL-2.0-only
"""An executable reference for how Linux turns many page-cache pages into one huge page.

`mmref.Machine` is a simulated machine with files on it; `mmref.khugepaged` holds the strategies that collapse
pages; `mmref.explore.explore()` runs every interleaving that matters of a program or a scenario.

>>> import mmref
>>> file = mmref.Machine(order=2).shmem_file("f", 4 * 4096)
>>> file.mapping.nrpages
0
"""

__version__ = "0.1.0"

__all__ = ["CollapseResult", "File", "Machine", "ScanResult", "__version__"]

TYPE_CHECKING = False  # what type checkers take for true, without the import of typing
if TYPE_CHECKING:
    from mmref.khugepaged import CollapseResult, ScanResult
    from mmref.machine import File, Machine

_HOME = {"File": "mmref.machine", "Machine": "mmref.machine",
         "CollapseResult": "mmref.khugepaged", "ScanResult": "mmref.khugepaged"}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: `import mmref` alone costs next to nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'mmref' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
