# SPDX-License-Identifier: GPL-2.0-only
"""Time whole processes of mmref and of its peers on the same programs, side by side, and print a Markdown table.

    python benchmarks/peers.py [--runs 5] [--limit 60]

The peers are used if they are installed, and left out in plain words if not: frontrun (`pip install 'mmref[peers]'`)
and Spin (`apt-get install spin gcc`; a run is spin, gcc and the verifier). The programs are in `benchmarks/peers/`. The
tools take turns, so that a machine that slows down slows all of them down. The table has the medians of wall-clock
times, and of the CPU time that they needed: less on a busy machine, more where a tool uses several CPUs.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent / "peers"

# program -> (what it is, Spin's model and its arguments; "" where there is none)
PROGRAMS: dict[str, tuple[str, str]] = {
    "readers-8": ("readers(8): 256 traces", "-DN=8 readers.pml"),
    "lastzero-2": ("lastzero(2): 5 traces", "-DN=2 lastzero.pml"),
    "lastzero-10": ("lastzero(10): 3328 traces", "-DN=10 lastzero.pml"),
    "indexer-12": ("indexer(12): 8 traces", "-DN=12 indexer.pml"),
    "indexer-15": ("indexer(15): 4096 traces", "-DN=15 indexer.pml"),
    "pc-4-1-bug": (
        "pc(4,1) without the uptodate test: first counterexample",
        "-DPAGES=4 -DREADERS=1 -DBUG pagecache.pml",
    ),
    "pc-4-1": ("pc(4,1): 81 traces", "-DPAGES=4 -DREADERS=1 pagecache.pml"),
    "pc-8-2": ("pc(8,2): 100,000,000 traces", "-DPAGES=8 -DREADERS=2 pagecache.pml"),
}
FRONTRUN = {"readers-8", "lastzero-2", "lastzero-10", "pc-4-1-bug", "pc-4-1"}
"""The programs that are written for frontrun as well."""

Timed = tuple[float, str]
"""Seconds, and what the tool says that it did."""


class TooLong(Exception):
    """A tool was stopped at the time limit."""


def cpu_seconds() -> float:
    """Return the CPU time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command: list[str], limit: float, folder: Path | None = None) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        TooLong: it took more CPU time than the limit, and was stopped.
        SystemExit: it failed.
    """
    seconds = max(1, round(limit))
    before = cpu_seconds()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),  # noqa: PLW1509 (no threads)
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=10 * limit)  # a busy machine, or a tool that hangs
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # frontrun and spin have children
        process.communicate()
        raise TooLong from None
    if process.returncode and cpu_seconds() - before > 0.9 * seconds:
        raise TooLong
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({process.returncode}):\n{output}")
    return output


def mmref(program: str, limit: float) -> str:
    return run([sys.executable, str(HERE / "with_mmref.py"), program], limit).splitlines()[-1]


def find_frontrun() -> str | None:
    beside = Path(sys.executable).with_name("frontrun")
    return str(beside) if beside.exists() else shutil.which("frontrun")


def frontrun(program: str, limit: float) -> str:
    tool = find_frontrun()
    assert tool is not None
    python = str(Path(tool).with_name("python"))
    return run([tool, python, str(HERE / "with_frontrun.py"), program], limit).splitlines()[-1]


def spin(program: str, limit: float) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        *defines, model = PROGRAMS[program][1].split()
        run(["spin", "-a", *defines, str(HERE / model)], limit, folder)
        run(["gcc", "-O2", "-DSAFETY", "-o", "pan", "pan.c"], limit, folder)
        output = run(["./pan", "-m1000000"], limit, folder)
    states = re.search(r"(\d+) states, stored", output)
    errors = re.search(r"errors: (\d+)", output)
    if states is None or errors is None or "error: max search depth too small" in output:
        raise SystemExit(f"spin's verifier did not finish {program}:\n{output}")
    return f"{states[1]} states, {'holds' if errors[1] == '0' else 'counterexample'}"


def check(program: str, said: str) -> None:
    """Refuse to compare times of wrong answers; one that gives none says so in the table."""
    right = "counterexample" if program.endswith("bug") else "holds"
    if not said.endswith(right) and "inconclusive" not in said:
        raise SystemExit(f"{program}: a tool says {said!r}, and it should say {right!r}")


def measure(tools: dict[str, Callable[[str, float], str]], program: str, runs: int, limit: float) -> dict[str, str]:
    """Return a cell of the table for each tool."""
    wall: dict[str, list[float]] = {tool: [] for tool in tools}
    cpu: dict[str, list[float]] = {tool: [] for tool in tools}
    cells: dict[str, str] = {}
    said: dict[str, str] = {}
    for _ in range(runs):
        for tool, start in tools.items():
            if tool in cells:
                continue
            if tool == "frontrun" and program not in FRONTRUN:
                cells[tool] = "-"
                continue
            begun, used = time.perf_counter(), cpu_seconds()
            try:
                said[tool] = start(program, limit)
            except TooLong:
                cells[tool] = f"> {limit:.0f} s CPU"
                continue
            wall[tool].append(time.perf_counter() - begun)
            cpu[tool].append(cpu_seconds() - used)
            check(program, said[tool])
    for tool in tools:
        if tool not in cells:
            times = f"{statistics.median(wall[tool]):.2f} s, {statistics.median(cpu[tool]):.2f} s CPU"
            cells[tool] = f"{times} ({said[tool].split(',')[0]})"
    return cells


def start_up(runs: int) -> str:
    """Return how long this interpreter takes to do nothing."""
    wall, cpu = [], []
    for _ in range(runs):
        begun, used = time.perf_counter(), cpu_seconds()
        run([sys.executable, "-c", "pass"], 60)
        wall.append(time.perf_counter() - begun)
        cpu.append(cpu_seconds() - used)
    return f"{statistics.median(wall):.3f} s, {statistics.median(cpu):.3f} s CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each tool and program (5)")
    parser.add_argument("--limit", type=float, default=60, help="CPU seconds after which a tool is stopped (60)")
    parser.add_argument("program", nargs="*", help=f"one of {', '.join(PROGRAMS)}; all if left out")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.program if name not in PROGRAMS]
    if unknown:
        parser.error(f"there is no program {unknown[0]!r}: choose of {', '.join(PROGRAMS)}")
    tools: dict[str, Callable[[str, float], str]] = {"mmref": mmref}
    names = {"mmref": f"mmref (Python {platform.python_version()})"}
    if find_frontrun() is None:
        print("frontrun is not installed, so it is not in the table: pip install 'mmref[peers]'\n")
    else:
        tools["frontrun"] = frontrun
        names["frontrun"] = "frontrun"
    if shutil.which("spin") is None or shutil.which("gcc") is None:
        print("spin or gcc is not installed, so Spin is not in the table: apt-get install spin gcc\n")
    else:
        tools["spin"] = spin
        names["spin"] = run(["spin", "-V"], 60).split(" --")[0].replace("Version ", "") + " and gcc"
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"{date.today()}, {machine}; median of {arguments.runs} whole processes.")
    print(f"This interpreter takes {start_up(arguments.runs)} to start and do nothing.\n")
    print("| program | " + " | ".join(names[tool] for tool in tools) + " |")
    print("|---" * (len(tools) + 1) + "|")
    for program in arguments.program or PROGRAMS:
        cells = measure(tools, program, arguments.runs, arguments.limit)
        print(f"| {PROGRAMS[program][0]} | " + " | ".join(cells[tool] for tool in tools) + " |", flush=True)


if __name__ == "__main__":
    main()
