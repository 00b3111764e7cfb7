"""A whole ``instar compile`` of MiniLM in a process of its own: wall time and peak memory, nothing cached.

    python benchmarks/compile_cost.py [--runs 3] [--only size]

Writes ``compile_cost.json`` and ``compile_cost.md``. Two cores, threads as a user gets them by default, an empty
latency cache for every run. ``--latency 95%`` is for processors on which no plan meets the 60 % of the second case. The
bound is 180 s and three times the model's fp32 bytes plus 1 GB. Peaks are those of the largest process; "all" are of
the processes that a compilation starts together, shared pages counted once (Linux: PSS, looked at four times a second).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.store import RESULTS, Row, Store, scratch, table

ROOT = Path(__file__).parents[1]
MODEL = "examples/minilm.py:build"
FP32_MB = 90.6
MAX_SECONDS, MAX_MB = 180.0, 3 * FP32_MB + 1000.0
SIZE, BOTH = "size", "size and latency"
CASES = (SIZE, BOTH)


@dataclass(frozen=True)
class Cost:
    """One run."""

    seconds: float
    peak_mb: float
    all_mb: float
    report: Mapping[str, Any]


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--runs", type=int, default=3, help="of each case; the slowest and the largest are judged")
    parser.add_argument("--only", choices=list(CASES), help="one case")
    parser.add_argument("--latency", default="60%", help="bound of the second case; some processors cannot meet 60 %%")
    parser.add_argument("--remark", default="", help="about the machine; stands under the table")
    parser.add_argument("--quick", action="store_true", help="one run of the first case")
    given = parser.parse_args()
    two_cores()
    folder = scratch() if given.quick else given.results
    store = Store("compile_cost", folder, render, fresh=True, threads=None)
    names = [given.only] if given.only else list(CASES)
    for name in names[: 1 if given.quick else None]:
        options = options_of(name, given.latency)
        runs = [measure(options) for _ in range(1 if given.quick else given.runs)]
        store.put(name, {**row(options, runs), "remark": given.remark})
        print(name, store.rows[name], flush=True)
    print(render(store.rows))


def options_of(case: str, latency: str) -> tuple[str, ...]:
    """Budgets of a case on the command line."""
    return ("--budget", "size=15%") if case == SIZE else ("--budget", "size=20%", "--budget", f"latency={latency}")


def two_cores() -> None:
    """Keeps this process and its children on two cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def measure(options: tuple[str, ...]) -> Cost:
    """One process, with an empty cache.

    Raises:
        RuntimeError: the compiler failed; the message is its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environment["XDG_CACHE_HOME"] = f"{folder}/cache"
        instar = str(Path(sys.executable).with_name("instar"))
        command = [instar, "compile", MODEL, "--target", "onnx", *options, "--out", f"{folder}/out"]
        errors = Path(folder, "errors")
        with errors.open("wb") as sink:
            start = time.perf_counter()
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=sink)
            try:
                status, usage, all_mb = watched(process.pid)
            except BaseException:
                process.kill()
                raise
            seconds = time.perf_counter() - start
        if status != 0:
            raise RuntimeError(f"{' '.join(command[1:])}: {errors.read_text(encoding='utf-8')[-2000:]}")
        report = json.loads(Path(folder, "out", "report.json").read_text(encoding="utf-8"))
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * unit / 1e6, all_mb, report)


def watched(process: int) -> tuple[int, resource.struct_rusage, float]:
    """Status and usage of a process once it has ended, and the most MB that it and its children took together."""
    most = 0.0
    while True:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            return status, usage, most
        most = max(most, sum(map(proportional_mb, [process, *children(process)])))
        time.sleep(0.25)


def children(process: int) -> list[int]:
    """Processes that a process started, as far as the system says."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # another system, or it has just ended
        return []


def proportional_mb(process: int) -> float:
    """Its memory in MB, pages that are shared divided among those that share them."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024 / 1e6


def row(options: tuple[str, ...], runs: list[Cost]) -> Row:
    """Medians and extremes of the runs of a case, and its stages."""
    seconds, peaks = [r.seconds for r in runs], [r.peak_mb for r in runs]
    middle = sorted(runs, key=lambda r: r.seconds)[len(runs) // 2]
    return {
        "options": " ".join(options),
        "runs": len(runs),
        "seconds": statistics.median(seconds),
        "max_seconds": max(seconds),
        "max_peak_mb": max(peaks),
        "max_all_mb": max(r.all_mb for r in runs),
        "passed": max(seconds) <= MAX_SECONDS and max(peaks) <= MAX_MB,
        "stages": stages(middle.report),
    }


def stages(report: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per stage from a report."""
    return {entry["name"]: round(entry["seconds"], 2) for entry in report["stages"]}


def render(rows: Mapping[str, Row]) -> str:
    """The table of cases and the table of stages."""
    columns = ["budget", "runs", "median s", "max s", "peak MB", "all MB", f"<= {MAX_SECONDS:g} s and {MAX_MB:.0f} MB"]
    keys = ("options", "runs", "seconds", "max_seconds", "max_peak_mb", "max_all_mb", "passed")
    first = table(columns, [[r[k] for k in keys] for r in rows.values()])
    names = list(dict.fromkeys(stage for r in rows.values() for stage in r["stages"]))
    second = table(["seconds in", *rows], [[n, *(r["stages"].get(n) for r in rows.values())] for n in names])
    remarks = "".join(f"{text}\n\n" for text in dict.fromkeys(r.get("remark") for r in rows.values()) if text)
    rest = "Stages of the middle run; the rest is Python's start, imports and writing files."
    return f"{first}\n\n{remarks}{rest}\n\n{second}"


if __name__ == "__main__":
    main()
