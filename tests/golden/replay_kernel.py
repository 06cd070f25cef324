# SPDX-License-Identifier: GPL-2.0-only
"""Replay recordings of real kernels on the model, and compare what can be observed.

Each recorded scenario is a list of operations with what the kernel answered (tests/data/kernel/FORMAT.md). The model
of that kernel does the same on a file of its own; after each operation its answer, size, st_blocks, the SEEK_DATA
map, page cache residency and content must be the kernel's, and the SCAN codes where they were traced.

Runs alone over a folder of recordings:  python tests/golden/replay_kernel.py [--list | --table] DIR
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmref.errors import Finding
from mmref.khugepaged import ScanResult
from mmref.live.generation import Kernel
from mmref.live.model import NotExpressed
from mmref.live.observation import MIXED
from mmref.live.program import HUGE, Op
from mmref.live.recorded import RecordedFile

SUFFIX = ".jsonl.gz"
SUCCESS = {status.value for status in ScanResult if status.succeeded}


class Difference(AssertionError):
    """The model gave another answer than the kernel."""


class Verdict(NamedTuple):
    """What replaying one scenario came to: "agrees", "differs" or "not expressed", and why."""

    scenario: str
    kind: str
    why: str = ""


def scenarios(path: Path) -> dict[str, dict[str, Any]]:
    """Read one recording: scenario name -> scenario; "_meta" says which kernel it is of."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found = {(one := json.loads(line))["name"]: one for line in lines}
        Kernel.parse(found["_meta"]["release"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise SystemExit(f"{path} is not a complete recording: {error!r}") from None
    return found


def replay(scenario: dict[str, Any], meta: dict[str, Any]) -> None:
    """Replay one scenario on the model of the kernel that `meta` names.

    Raises:
        Difference: the model gave another answer.
        NotExpressed: the model does not have something of it.
    """
    if "steps" not in scenario:
        raise NotExpressed(_not_recorded(scenario))
    file = RecordedFile(Kernel.parse(meta["release"]), meta)
    file.ranges = max([1, *(_ranges(step["args"]) for step in scenario["steps"])])
    for step in scenario["steps"]:
        op = Op(step["op"], step["args"])
        kernel = step.get("observe") or {}
        file.reads = "content" in kernel
        if kernel and "core_vma" not in kernel:
            file.unmap()
        result = file.step(op, observe=bool(kernel))
        for field in ("ret", "errno", "sigbus"):
            if op.name != "khugepaged_run" or field != "ret":  # that counts how often the daemon came by
                _same(op, field, step.get(field), result.get(field))
        if step.get("trace") is not None:
            by = "other" if op.name.startswith("peer_") else "self"
            codes = [_code(status.value) for status in file.statuses]
            _same(op, "SCAN codes", _scan_codes(step["trace"], by), codes)
        if "peer" in step:
            _same(op, "peer", step["peer"], file.peer_smaps())
        if "file_content" in step:
            _same(op, "file_content", step["file_content"], file.read_all)
        if kernel:
            _compare(op, kernel, dict(result["observe"]), file)


def _not_recorded(scenario: dict[str, Any]) -> str:
    if "crash" in scenario:
        return "the recorded process died"
    return f"not recorded: {scenario.get('skipped')}"


def _ranges(args: dict[str, Any]) -> int:
    """Count the huge pages that an operation reaches."""
    return -(-max(args.get("size", 0), args.get("off", 0) + args.get("len", 0) if "prot" in args else 0) // HUGE)


def _same(op: Op, field: str, kernel: object, model: object) -> None:
    if kernel != model:
        raise Difference(f"after {op}: {field}: kernel {kernel}, model {model}")


def _code(text: str) -> str:
    """Take codes for one that kernels use for the same.

    Success has three names. Whether a process without a page table has PMD_NULL or PMD_NONE depends on what else it
    has mapped in the same GiB.
    """
    if text == ScanResult.PMD_NULL.value:
        return ScanResult.PMD_NONE.value
    return ScanResult.SUCCEED.value if text in SUCCESS else text


def _scan_codes(trace: list[dict[str, Any]], by: str) -> list[str]:
    """Return what hpage_collapse_scan_file() came to for each range that somebody tried."""
    return [_code(one["result"]) for one in trace if one.get("tp") == "scan_file" and one["by"] == by]


def _compare(op: Op, kernel: dict[str, Any], model: dict[str, Any], file: RecordedFile) -> None:
    """Hold the file against what was observed on the kernel."""
    on_disk = "cache_thp" in kernel
    for field in ("size", "blocks", "data"):
        _same(op, field, kernel[field], model[field])
    pages = kernel["content"][-1][1] if on_disk and kernel["content"] else None  # how far the recording looked
    for field in ("core_cache", "content", "cache_thp", "cache_dirty", "core_vma", "pte_present", "vma2_pte_present"):
        if field in kernel and field in model:
            _same(op, field, kernel[field], _up_to(model[field], pages))
    if "ck" in kernel and not on_disk and min((tag for _, _, tag in kernel.get("content", ())), default=0) == MIXED:
        _same(op, "checksum", kernel["ck"], file.checksum())
    for key in (
        set(kernel.get("smaps", ())) & set(model.get("smaps", ())) if file.one_area() and not file.on_disk else ()
    ):
        _same(op, f"smaps {key}", kernel["smaps"][key], model["smaps"][key])
    counters = kernel.get("cum") or kernel.get("vm") or {}
    for key in set(counters) & set(file.counters):
        _same(op, key, counters[key], file.counters[key])


def _up_to(found: list[list[int]], pages: int | None) -> list[list[int]]:
    """Cut runs at a page."""
    if pages is None:
        return found
    return [[run[0], min(run[1], pages), *run[2:]] for run in found if run[0] < pages]


def replay_all(path: Path) -> Iterator[Verdict]:
    """Replay a recording, scenario by scenario."""
    found = scenarios(path)
    meta = found.pop("_meta")
    for name, scenario in found.items():
        try:
            replay(scenario, meta)
        except NotExpressed as why:
            yield Verdict(name, "not expressed", str(why))
        except (Difference, Finding) as why:
            yield Verdict(name, "differs", str(why))
        else:
            yield Verdict(name, "agrees")


def table(verdicts: dict[str, list[Verdict]]) -> str:
    """Return what is not expressed as a table: scenario, in which recordings, and why, separated by tabs.

    Args:
        verdicts: by the name of the recording.
    """
    where: dict[tuple[str, str], list[str]] = {}
    for recording, found in sorted(verdicts.items()):
        for one in found:
            if one.kind == "not expressed":
                where.setdefault((one.scenario, one.why), []).append(recording)
    rows = [(scenario, " ".join(recordings), why) for (scenario, why), recordings in where.items()]
    return "".join("\t".join(row) + "\n" for row in [("scenario", "recordings", "reason"), *sorted(rows)])


def summary(verdicts: list[Verdict]) -> str:
    """Count the verdicts."""
    kinds = {"agrees": "agree", "differs": "differ", "not expressed": "not expressed"}
    return ", ".join(f"{sum(one.kind == kind for one in verdicts)} {text}" for kind, text in kinds.items())


def main(arguments: list[str]) -> int:
    """Replay every recording of a folder; 1 if the model differs from a kernel anywhere, 2 for bad usage."""
    flags = {argument for argument in arguments if argument.startswith("-")}
    folders = [argument for argument in arguments if argument not in flags]
    if len(folders) != 1 or not flags <= {"--list", "--table"}:
        print(
            "usage: replay_kernel.py [--list | --table] DIR\n"
            "    --list   also name what is not expressed\n"
            "    --table  print only that, as a table",
            file=sys.stderr,
        )
        return 2
    paths = sorted(Path(folders[0]).glob(f"*{SUFFIX}"))
    if not paths:
        print(f"{folders[0]} holds no recording (a file like 6.1{SUFFIX}).", file=sys.stderr)
        return 2
    verdicts: dict[str, list[Verdict]] = {}
    for path in paths:
        found = verdicts[path.name.removesuffix(SUFFIX)] = list(replay_all(path))
        if "--table" in flags:
            continue
        for one in found:
            if one.kind == "differs" or ("--list" in flags and one.kind == "not expressed"):
                print(f"{path.name} {one.scenario} {one.kind}: {one.why}")
        print(f"{path.name}: {summary(found)}", flush=True)
    if "--table" in flags:
        print(table(verdicts), end="")
    return 1 if any(one.kind == "differs" for found in verdicts.values() for one in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
