"""Predicted against measured latency of plans under a latency budget that binds, on six networks.

    OMP_NUM_THREADS=1 python benchmarks/predicted_latency.py [--only 'ResNet-18*'] [--fresh] [--quick]

Writes ``predicted_latency.json`` and ``predicted_latency.md``. Weights are random, formats integers of 8 and 7 bits (a
processor whose products saturate is offered the latter) and floats. Built is the first plan that the allocation gives:
a compile goes on where a prediction was short, and its last plan flatters the prediction. Asked: within 10 %.
Measured times want a quiet machine; times of layers and borders are measured anew (``--cache`` keeps them in a folder).
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from common.latency_models import LATENCY_NETWORKS
from common.store import RESULTS, Row, Store, scratch, selected, table

from instar.compilation.allocation_stage import Allocation, predicted
from instar.compilation.building import Built, build
from instar.compilation.entry import start
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.compilation.workloads import time_artifact
from instar.ir.budget import Budget
from instar.ir.errors import InfeasibleError

SHARES = ("85%", "70%")
ROUNDS = 5
"""Every plan is timed as often, in turns, each time against the original; the median counts."""

FORMATS = ("fp32", "int8:channel", "int7:channel")
ACTIVATIONS = ("none", "dynamic_int8", "static_int8")


def main() -> None:
    """Measure every selected row."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--only", default="*", help="comma-separated patterns of networks")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--quick", action="store_true", help="results elsewhere: checks that the script runs")
    parser.add_argument("--cache", type=Path, help="folder of the times of layers; a new one without it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(
        "predicted_latency", scratch() if given.quick else given.results, render, fresh=given.fresh, threads=1
    )
    for name in LATENCY_NETWORKS:
        if selected(name, given.only):
            with tempfile.TemporaryDirectory() as folder:
                measure(store, name, str(given.cache or folder))
    print(render(store.rows))


def measure(store: Store, name: str, cache: str) -> None:
    """Price a network once; build and time a plan for every share."""
    torch.manual_seed(0)
    model, inputs = LATENCY_NETWORKS[name]()
    settings = {
        "target": "onnx", "target_options": {"cache": cache}, "budget": {"latency": SHARES[0]}, "formats": FORMATS,
        "activations": ACTIVATIONS, "encoders": ("rtn",),
    }  # fmt: skip
    request = start(settled(model, inputs), inputs, None, None, None, settings, calibration=[inputs])
    prepared = prepare(request, calibration=[inputs, inputs], budget=request.budget)
    if prepared.latencies is not None:
        print(prepared.latencies.source, flush=True)
    built: dict[str, tuple[Allocation, Built]] = {}
    for share in SHARES:
        try:
            allocation = prepared.allocate(Budget(latency=share))
        except InfeasibleError as error:
            store.put(f"{name} {share}", {"least_ms": error.smallest["latency"]})
            continue
        built[share] = allocation, build(prepared.offer.cleaned, prepared.plan(allocation), prepared.samples)
    times: dict[str, list[float]] = {share: [] for share in built}
    for _ in range(ROUNDS):
        for share, (allocation, made) in built.items():
            times[share].append(time_artifact(prepared.timed, made.artifact, allocation.decisions)[0])
    for share, (allocation, _) in built.items():
        store.put(f"{name} {share}", row(prepared, allocation, times[share]))
        print(name, share, store.rows[f"{name} {share}"], flush=True)


def row(prepared: Prepared, allocation: Allocation, times: Sequence[float]) -> Row:
    """What was predicted of a plan, and measured."""
    decisions, totals = allocation.decisions, prepared.totals
    chosen = {d.layer: d.chosen.option.name for d in decisions}
    return {
        "original_ms": totals.original_ms,
        "predicted_ms": predicted(decisions, totals)["latency"],
        "measured_ms": median(times),
        "measured_from_ms": min(times),
        "measured_to_ms": max(times),
        "kernels": dict(sorted(Counter(d.chosen.option.kernel for d in decisions).items())),
        "crossings_ms": totals.rows["latency"].runs.milliseconds(chosen),
    }


def settled(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """The network after its batch norms saw values."""
    with torch.no_grad():
        for _ in range(2):
            model(*inputs)
    return model.eval()


def render(rows: Mapping[str, Row]) -> str:
    """A row per network and budget."""
    columns = ["network, budget", "original ms", "predicted ms", "measured ms", "from", "to", "difference",
               "within 10 %", "of which runs", "layers by kernel"]  # fmt: skip
    lines: list[list[object]] = []
    for key, row in rows.items():
        if "least_ms" in row:
            lines.append([key, *[None] * 5, f"no plan: the fastest takes {row['least_ms']:.4g} ms", *[None] * 3])
            continue
        difference = row["predicted_ms"] / row["measured_ms"] - 1.0
        kernels = ", ".join(f"{kernel} x {count}" for kernel, count in row["kernels"].items())
        kinds = ("original_ms", "predicted_ms", "measured_ms", "measured_from_ms", "measured_to_ms")
        numbers = [row[kind] for kind in kinds]
        lines.append([key, *numbers, f"{difference:+.1%}", abs(difference) <= 0.1, row["crossings_ms"], kernels])
    return table(columns, lines)


if __name__ == "__main__":
    main()
