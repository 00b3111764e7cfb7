"""A whole ``compile`` of small networks in a process of its own: processor time, wall time and peak memory.

    python benchmarks/compile_time.py [--runs 1] [NAME ...]

Writes ``compile_time.json`` and ``compile_time.md``; a label keeps rows of several versions beside each other. Nothing
is cached, Python's start and ``import torch`` are not counted, ``import instar`` is. On a busy machine read the
processor time: wall time of two quiet cores lies below it.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from common.compile_models import NETWORKS
from common.store import RESULTS, Row, Store, scratch, table

BUDGETS: Mapping[str, Mapping[str, str]] = {"size": {"size": "40%"}, "latency": {"size": "50%", "latency": "150%"}}
"""The budget on latency binds nowhere: what is timed is measuring and deciding, which a busy machine must not end."""

LIMITS: Mapping[tuple[str, str], float] = {("mlp", "size"): 5.0, ("mlp", "latency"): 25.0}
"""Seconds of two quiet cores that were asked for; 15 and 25 for every other small network."""


def main() -> None:
    """Measure every network under every budget, or one of them where this process was started for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help="networks")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--runs", type=int, default=1, help="of each; medians are kept")
    parser.add_argument("--label", default="now", help="of the version that is measured")
    parser.add_argument("--quick", action="store_true", help="one network, results are thrown away")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "BUDGET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(compiled(*given.one)))
        return
    names = given.names[:1] if given.quick else given.names
    store = Store("compile_time", scratch() if given.quick else given.results, render, fresh=False, threads=None)
    for name in names:
        for budget in BUDGETS:
            runs = [alone(name, budget) for _ in range(given.runs)]
            store.put(f"{name}, {budget}, {given.label}", row(name, budget, given.label, runs))
            print(store.rows[f"{name}, {budget}, {given.label}"], flush=True)


def alone(name: str, budget: str) -> dict[str, Any]:
    """What :func:`compiled` finds in a process of its own, with an empty cache.

    Raises:
        RuntimeError: the compiler failed; the message is its own.
    """
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--one", name, budget]
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name}, {budget}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compiled(name: str, budget: str) -> dict[str, Any]:
    """Compile once and say what it took."""
    torch.manual_seed(0)
    make: Callable[[], tuple[torch.nn.Module, tuple[torch.Tensor, ...]]] = NETWORKS[name]
    model, inputs = make()
    batches = [tuple(torch.randn(x.shape) for x in inputs) for _ in range(4)]
    wall, cpu = time.perf_counter(), time.process_time()
    import instar

    result = instar.compile(model, inputs, target="onnx", budget=BUDGETS[budget], calibration=batches)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        "size_bytes": result.artifact.nbytes,
        "loss": result.plan.predicted_loss,
        "stages": {stage.name: round(stage.seconds, 2) for stage in result.report.data.stages},
    }


def row(name: str, budget: str, label: str, runs: list[dict[str, Any]]) -> Row:
    """Medians of the runs, and the limit on quiet cores."""
    middle = {key: statistics.median(run[key] for run in runs) for key in ("cpu_s", "wall_s", "peak_mb")}
    asked = LIMITS.get((name, budget), 15.0 if budget == "size" else 25.0)
    last = runs[-1]
    kept = {key: last[key] for key in ("size_bytes", "loss", "stages")}
    return {"network": name, "budget": budget, "version": label, "runs": len(runs), **middle, "asked_s": asked, **kept}


def render(rows: Mapping[str, Row]) -> str:
    """The table."""
    columns = ("network", "budget", "version", "cpu_s", "wall_s", "asked_s", "peak_mb", "load", "size_bytes", "loss")
    words = ["network", "budget", "version", "cpu s", "wall s", "asked s", "peak MB", "load", "bytes", "loss"]
    ordered = sorted(rows.values(), key=lambda r: (r["network"], r["budget"], r["version"]))
    text = table(words, [[r[c] for c in columns] for r in ordered])
    said = "Asked are seconds of wall time on two quiet cores; load counts processes that want a core."
    return f"{text}\n\nBudgets: {json.dumps(BUDGETS)}. {said}"


if __name__ == "__main__":
    main()
