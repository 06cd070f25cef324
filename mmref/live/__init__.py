# SPDX-License-Identifier: GPL-2.0-only
"""This machine's own kernel: what real files look like, and whether the model behaves as it does.

supported()         whether the kernel that runs here can be asked, and if not, why not
run(program)        what it answers to a program; run(program, "6.12") what the model of that kernel answers
compare(program)    both, and the first difference
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmref.live.layout import data_extents, layout_like, sparse_file

if TYPE_CHECKING:
    from mmref.live.comparing import Comparison, compare
    from mmref.live.generate import random_program
    from mmref.live.generation import Kernel
    from mmref.live.model import NotExpressed
    from mmref.live.observation import StepResult
    from mmref.live.program import Op, Program
    from mmref.live.support import Support, supported

__all__ = [
    "Comparison",
    "Kernel",
    "NotExpressed",
    "Op",
    "Program",
    "StepResult",
    "Support",
    "compare",
    "data_extents",
    "layout_like",
    "random_program",
    "run",
    "sparse_file",
    "supported",
]

_WHERE = {
    "Comparison": "comparing", "Kernel": "generation", "NotExpressed": "model", "Op": "program", "Program": "program",
    "StepResult": "observation", "Support": "support", "compare": "comparing", "random_program": "generate",
    "supported": "support",
}  # fmt: skip
"""In which module each name is; ctypes and the model are loaded when one is first asked for."""


def run(program: Program, kernel: Kernel | str | None = None) -> list[StepResult]:
    """Run a program, and return what each of its operations came to.

    Args:
        program: what to run.
        kernel: None for this machine's own kernel; a release such as "6.12" for the model of that kernel.

    Raises:
        UsageError: the program cannot run, or this kernel cannot be asked.
        NotExpressed: the model does not have something of it.
    """
    from mmref.errors import UsageError
    from mmref.live.generation import Kernel
    from mmref.live.kernel import run_on_kernel
    from mmref.live.model import run_on_model
    from mmref.live.support import supported

    if kernel is not None:
        return run_on_model(program, Kernel.parse(kernel) if isinstance(kernel, str) else kernel)
    program.check()
    if not (support := supported()):
        raise UsageError(support.reason)
    return run_on_kernel(program)


def __getattr__(name: str) -> object:
    if name in _WHERE:
        from importlib import import_module

        value: object = getattr(import_module(f"mmref.live.{_WHERE[name]}"), name)
        globals()[name] = value  # not asked for a second time; and the submodule of that name is not in the way
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
