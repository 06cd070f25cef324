#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make the table and the plot of docs/xarray.md from one run of benchmarks/test_xarray.py.

    python benchmarks/plot_xarray.py FILE.json docs/xarray-speed.svg [--page docs/xarray.md]

FILE.json is what `pytest benchmarks/test_xarray.py --benchmark-json=FILE.json` has written. The table goes to
stdout, or into the page, between its two `speed` comments. All figures are medians for one operation.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Test, what it does, and by rival the ratio that the array is to stay below.
ROWS: list[tuple[str, str, dict[str, float]]] = [
    ("test_load_small", "load, 4,096 keys in random order", {"SortedDict": 3.5}),
    ("test_load_large", "load, of 1,000,000 keys", {}),
    ("test_load_in_order", "load in order, by cursor", {"SortedDict": 2.0}),
    ("test_insert", "insert 1,000,000 in order", {"SortedDict": 0.5}),
    ("test_delete", "delete 1,000,000 in order", {"SortedDict": 0.6}),
    ("test_iterate", "go through 4,096 items", {"SortedDict": 1.0}),
    ("test_successor", "the next key, of 4,096", {"SortedDict irange": 0.15, "SortedDict bisect": 0.15}),
    ("test_store_range", "one entry over 512 aligned indices", {"SortedDict": 1 / 300, "LOBTree": 1 / 30}),
    ("test_load_in_range", "load inside such a range", {"SortedDict irange": 0.3, "SortedDict bisect": 0.3}),
    ("test_next_marked", "next marked, 1 in 1,000 of 1,000,000", {"SortedSet": 2.0}),
    ("test_alloc", "lowest free id of 1,000,000", {}),
    ("test_erase_and_alloc", "an id given back, the lowest free one taken", {}),
]
TIMES = {"test_alloc": "5 us"}  # asked for where there is no rival
OURS = "XArray"
LOOKS = {
    "dict": ("#7f7f7f", "o"),
    "SortedDict": ("#1f77b4", "o"),
    "SortedSet": ("#1f77b4", "D"),
    "LOBTree": ("#d62728", "s"),
    "pyroaring": ("#2ca02c", "^"),
    "intervaltree": ("#9467bd", "v"),
    "portion": ("#8c564b", "P"),
}

Medians = dict[str, dict[str, float]]  # test -> contender -> seconds an operation


def medians(run: dict[str, Any]) -> Medians:
    """Pick the medians out of a run."""
    found: Medians = {}
    for one in run["benchmarks"]:
        test = one["name"].partition("[")[0]
        contender = (one["params"] or {}).get("name", OURS)
        found.setdefault(test, {})[contender] = one["stats"]["median"] / one["extra_info"]["operations"]
    return found


def in_words(seconds: float) -> str:
    """Write a time with two or three digits."""
    ns = seconds * 1e9
    for limit, unit, scale in ((1e3, "ns", 1.0), (1e6, "us", 1e3)):
        if ns < limit:
            return f"{ns / scale:.0f} {unit}" if ns / scale >= 99.5 else f"{ns / scale:.2g} {unit}"
    return f"{ns / 1e6:.3g} ms"


def as_ratio(ratio: float) -> str:
    """Write a ratio as a number, or as a fraction if it is very small."""
    return f"1/{1 / ratio:,.0f}" if ratio < 0.04 else f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}"


def table(found: Medians, run: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| operation | XArray | beside it, and the XArray's time as a multiple of that | asked for |"
    yield "|---|---|---|---|"
    for test, what, limits in ROWS:
        times = found[test]
        ours = times[OURS]
        beside = "; ".join(
            f"{name} {in_words(time)}: **{as_ratio(ours / time)}**" for name, time in times.items() if name != OURS
        )
        asked = "; ".join(f"{name} {as_ratio(limit)}" for name, limit in limits.items()) or TIMES.get(test, "")
        yield f"| {what} | {in_words(ours)} | {beside} | {asked} |"
    sizes = {
        (one["params"] or {})["name"]: one["extra_info"]["bytes an entry"]
        for one in run["benchmarks"]
        if one["name"].startswith("test_memory")
    }
    beside = "; ".join(f"{name} {size}" for name, size in sizes.items() if name != OURS)
    yield f"| memory, 1,000,000 dense entries | {sizes[OURS]} bytes an entry beyond the entry | {beside} | 15 bytes |"


def plot(found: Medians, path: Path) -> None:
    """Draw the ratios: a row an operation, a dot a rival, the array's own time being the line at 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "mmref"  # the same run makes the same file
    import matplotlib.pyplot as plt

    rows = [row for row in ROWS if len(found[row[0]]) > 1]
    figure, axes = plt.subplots(figsize=(9, 0.52 * len(rows) + 1.6), layout="constrained")
    axes.axvline(1, color="black", linewidth=1)
    labels: dict[str, Any] = {}
    for place, (test, _, limits) in enumerate(rows):
        times = found[test]
        for name, time in times.items():
            if name == OURS:
                continue
            kind, _, manner = name.partition(" ")
            color, marker = LOOKS[kind]
            ratio = times[OURS] / time
            face = "white" if manner == "irange" else color
            dot = axes.plot(ratio, place, marker, color=color, markerfacecolor=face, markersize=7, linestyle="none")
            labels.setdefault(f"{kind} (irange)" if manner == "irange" else kind, dot[0])
            if name in limits:
                axes.plot([limits[name]] * 2, [place - 0.3, place + 0.3], color=color, linewidth=2.5, alpha=0.45)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 0.1 else f"1/{1 / value:,.0f}")
    axes.set_yticks(range(len(rows)), [what for _, what, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="both", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("time of the XArray / time of the other: left of 1 the XArray is faster (bars: asked for)")
    figure.legend(labels.values(), labels.keys(), loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: list[str]) -> int:
    """Read the run, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("picture", type=Path, help="the plot to write: .svg, .png, .pdf")
    parser.add_argument("--page", type=Path, help="put the table into this page instead of stdout")
    given = parser.parse_args(arguments)
    run = json.loads(given.run.read_text())
    found = medians(run)
    missing = [test for test, _, _ in ROWS if test not in found]
    if missing:
        print(f"{given.run} lacks {', '.join(missing)}: run all of benchmarks/test_xarray.py", file=sys.stderr)
        return 1
    text = "\n".join(table(found, run))
    if given.page is None:
        print(text)
    else:
        page = given.page.read_text()
        place = re.compile(r"(<!-- speed -->\n).*?(<!-- end of speed -->)", re.DOTALL)
        if not place.search(page):
            print(f"{given.page} has no `<!-- speed -->` and `<!-- end of speed -->` lines", file=sys.stderr)
            return 1
        given.page.write_text(place.sub(lambda at: f"{at[1]}{text}\n{at[2]}", page))
    plot(found, given.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
