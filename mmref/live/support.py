# SPDX-License-Identifier: GPL-2.0-only
"""Whether this machine's kernel can be asked at all, and if not, why not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mmref.errors import UsageError
from mmref.live.generation import Kernel, running_kernel
from mmref.live.kernel import ChildDied, run_on_kernel
from mmref.live.program import HUGE, PAGE, Program

__all__ = ["Support", "supported"]

SYSFS = Path("/sys/kernel/mm/transparent_hugepage")


@dataclass(frozen=True)
class Support:
    """An answer that is true or false, and why.

    Attributes:
        ok: whether programs can run here.
        reason: why not, in a sentence; empty if they can.
        kernel: the kernel that runs here, None if it is not Linux.
    """

    ok: bool
    reason: str
    kernel: Kernel | None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return f"Linux {self.kernel} can be asked" if self.ok else self.reason


def supported(sysfs: Path = SYSFS) -> Support:
    """Say whether programs can run on this machine's kernel.

    It looks at the settings, and collapses one huge page of a memfd of its own.

    Args:
        sysfs: where the kernel shows the settings of transparent huge pages.
    """
    try:
        kernel = running_kernel()
    except UsageError as error:
        return Support(False, str(error), None)
    reason = _missing(kernel, sysfs) or _probe(kernel)
    return Support(not reason, reason, kernel)


def _missing(kernel: Kernel, sysfs: Path) -> str:
    """Return what the kernel lacks or how it is set, if that keeps programs from running."""
    if not hasattr(os, "memfd_create"):
        return "This Python has no os.memfd_create(); it was built for a system without memfd."
    if not sysfs.is_dir():
        return f"Linux {kernel} was built without transparent huge pages (there is no {sysfs})."
    if os.sysconf("SC_PAGE_SIZE") != PAGE:
        return f"Pages have {os.sysconf('SC_PAGE_SIZE')} bytes here; programs are written for {PAGE}."
    if (size := _read(sysfs / "hpage_pmd_size")) != str(HUGE):
        return f"A huge page has {size or 'an unknown number of'} bytes here; programs are written for {HUGE}."
    if kernel.version < (6, 1):
        return f"Linux {kernel} has no MADV_COLLAPSE for files (it came with 6.1)."
    for path in (sysfs / "shmem_enabled", *sorted(sysfs.glob("hugepages-*/shmem_enabled"))):
        setting = _chosen(_read(path))
        if setting in ("always", "within_size", "force"):
            return f"{path} is {setting}: writes would allocate huge pages by themselves; set it to never or advise."
        if setting == "deny":
            return f"{path} is deny, which forbids huge pages in shmem; set it to never or advise."
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _chosen(text: str) -> str:
    """Return the word in brackets: "a [b] c" is b."""
    return text.partition("[")[2].partition("]")[0] or text


def _probe(kernel: Kernel) -> str:
    """Collapse one huge page; return what went wrong."""
    program = Program(
        [
            ("memfd", {"size": HUGE}),
            ("mmap", {"len": HUGE}),
            ("map_write_pages", {"lo": 0, "hi": 1, "gen": 1}),
            ("madvise_collapse", {"off": 0, "len": HUGE}),
        ]
    )
    try:
        last = run_on_kernel(program)[-1]
    except (OSError, ChildDied) as error:
        return f"Linux {kernel} cannot be asked from here: {error}."
    if "died" in last:
        return f"Linux {kernel} cannot be asked from here: the process that tried {last['died']}."
    if last["errno"] == "EINVAL":
        return f"Linux {kernel} refuses MADV_COLLAPSE on a memfd (EINVAL): it is disabled, or huge pages in shmem are."
    if last["errno"] != "0":
        return f"MADV_COLLAPSE on a memfd fails with {last['errno']} on Linux {kernel}."
    return ""
