"""Allocation where entering and leaving runs of integer layers costs time: seconds to a proven optimum.

    python benchmarks/crossings.py [--time-limit 20]

Writes ``crossings.json`` and ``crossings.md``. Chains of layers as in ``allocation.py`` (``quant``: 6 widths, some
ranks), budgets of bytes and latency a third of the way from least to largest sum. Every second option is computed in
integers; where the next layer differs in that, every pair of such options has a latency of its own. So two
neighbours with ``n`` options have ``n^2 / 2`` products. In residual networks every second layer is read by the one
three behind it as well, in trees a layer's readers are two.
"""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from allocation import problem, quant_layer
from common.store import RESULTS, Row, Store, table

from instar.schedulers.allocation import AllocationProblem, Choice, Pair, solve

SIZES = (
    *(("chain", *size) for size in ((10, 4), (20, 4), (40, 4), (10, 12), (20, 12), (40, 12))),
    *(("chain", *size) for size in ((10, 24), (20, 24), (60, 24), (200, 24))),
    *((shape, *size) for shape in ("residual", "tree") for size in ((20, 12), (60, 24))),
)
"""Shape, layers and options of each."""

TIGHT = 1 / 3
Layer = tuple[int, Sequence[Choice]]
"""Its place in the network, and its options."""

SHARE = 0.2
"""What entering costs at most, as a share of the layer's median latency."""


def main() -> None:
    """Solve what is missing."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args()
    store = Store("crossings", given.results, render, fresh=given.fresh, threads=1)
    for shape, layers, options in SIZES:
        for seed in (0, 1, 2):
            key = f"{shape} {layers} x {options}, seed {seed}"
            if key not in store.rows:
                made = network(shape, layers, options, seed)
                store.put(key, {"shape": shape, **solved(made, given.time_limit)})
                print(key, store.rows[key], flush=True)


def network(shape: str, count: int, options: int, seed: int) -> AllocationProblem:
    """Layers that read each other."""
    rng = random.Random(seed)
    rows = [rng.sample(quant_layer(rng), options) for _ in range(count)]
    plain = problem(rows, (("size", "bytes"), ("latency", "ns")), TIGHT)
    pairs = [pair for a, b in edges(shape, count) for pair in crossings((a, rows[a]), (b, rows[b]), rng)]
    return replace(plain, pairs=tuple(pairs))


def edges(shape: str, count: int) -> list[tuple[int, int]]:
    """Which layers read which."""
    if shape == "tree":
        return [((reader - 1) // 2, reader) for reader in range(1, count)]
    return [*pairwise(range(count)), *((a, a + 3) for a in range(0, count - 3, 2) if shape == "residual")]


def crossings(source: Layer, reader: Layer, rng: random.Random) -> list[Pair]:
    """Latencies of entering and leaving between two layers."""
    (i, first), (j, second) = source, reader
    cost = int(rng.uniform(0.0, SHARE) * sorted(choice.costs[1] for choice in second)[len(second) // 2])
    return [
        Pair((f"layer{i}", a.name), (f"layer{j}", b.name), costs=(0, cost))
        for m, a in enumerate(first)
        for n, b in enumerate(second)
        if m % 2 != n % 2
    ]


def solved(given: AllocationProblem, time_limit_s: float) -> Row:
    """Processor time, and what was found."""
    start = time.process_time()
    found = solve(given, time_limit_s, workers=1)
    return {
        "layers": len(given.layers), "options": len(given.layers[0].choices), "products": len(given.pairs),
        "cpu_s": round(time.process_time() - start, 2), "status": found.status, "gap": found.gap,
    }  # fmt: skip


def render(rows: Mapping[str, Row]) -> str:
    """A line for each size."""
    lines: list[list[object]] = []
    for size in dict.fromkeys((r["shape"], r["layers"], r["options"]) for r in rows.values()):
        own = [r for r in rows.values() if (r["shape"], r["layers"], r["options"]) == size]
        times = sorted(r["cpu_s"] for r in own)
        gaps = [r["gap"] for r in own if r["gap"] is not None]
        proven = sum(r["status"] in ("optimal", "infeasible") for r in own)
        lines.append([*size, own[0]["products"], f"{proven} of {len(own)}", times[len(times) // 2], times[-1],
                      f"{max(gaps):.1e}" if gaps else "-"])  # fmt: skip
    return table(
        ["shape", "layers", "options", "products", "proven", "median CPU s", "largest CPU s", "worst gap"], lines
    )


if __name__ == "__main__":
    main()
