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
from mmref.live.model import ModelFile, NotExpressed
from mmref.live.program import HUGE, Op

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
    file = ModelFile(Kernel.parse(meta["release"]), meta)
    file.ranges = max([1, *(_ranges(step["args"]) for step in scenario["steps"])])
    for step in scenario["steps"]:
        op = Op(step["op"], step["args"])
        result = file.step(op, observe=bool(step.get("observe")))
        for field in ("ret", "errno", "sigbus"):
            if field in result or field == "sigbus":
                _same(op, field, step.get(field), result.get(field))
        if step.get("trace") is not None:
            _same(op, "SCAN codes", _scan_codes(step["trace"]), [_code(status.value) for status in file.statuses])
        if step.get("observe"):
            _compare(op, step["observe"], dict(result.get("observe", {})), file)


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
    """Take the three codes of success for one: kernels name the same success differently."""
    return ScanResult.SUCCEED.value if text in SUCCESS else text


def _scan_codes(trace: list[dict[str, Any]]) -> list[str]:
    """Return what hpage_collapse_scan_file() came to for each range that the caller itself tried."""
    return [_code(one["result"]) for one in trace if one.get("tp") == "scan_file" and one["by"] == "self"]


def _compare(op: Op, kernel: dict[str, Any], model: dict[str, Any], file: ModelFile) -> None:
    """Hold the file against what was observed on the kernel."""
    for field in ("size", "blocks", "data", "core_cache"):
        _same(op, field, kernel[field], model[field])
    for field in set(model) & set(kernel) - {"size", "blocks", "data", "core_cache"}:
        _same(op, field, kernel[field], model[field])
    if "ck" in kernel and any(tag < 0 for _, _, tag in kernel.get("content", ())):
        _same(op, "checksum", kernel["ck"], file.checksum())


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
