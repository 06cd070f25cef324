# SPDX-License-Identifier: GPL-2.0-only
"""The catalogue of scenarios as a Markdown table: docs/scenarios.md shows it, and a test holds the page to it.

``python -m mmref.view.scenarios`` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmref.explore.catalogue import scenarios, variants
from mmref.explore.scenario import CollapseScenario

__all__ = ["scenario_table"]


def scenario_table() -> str:
    """Return a row for each scenario: name, the CPUs besides khugepaged, its shape, and the other shapes of --all."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    yield "| scenario | who else is there | what it is about | shape | also with `--all` |"
    yield "|---|---|---|---|---|"
    shapes = variants()
    for name, one in scenarios().items():
        also = ", ".join(_shape(shape) for shape in shapes[name][1:])
        others = ", ".join(one.cpus[1:]) or "nobody"
        yield f"| `{name}` | {others} | {one.summary} | {_shape(one)} | {also} |"


def _shape(scenario: CollapseScenario) -> str:
    """Return layout and parameters as a schedule string has them, but for the usual size of nodes."""
    parameters = scenario.spec().split("/", 2)[2].removeprefix("layout=").replace(",chunk_shift=6", "")
    return f"`{parameters}`".replace("|", "\\|")


if __name__ == "__main__":
    print(scenario_table())
