"""Allocation where entering and leaving runs of integer layers costs time: seconds to a proven optimum.

    python benchmarks/crossings.py [--time-limit 20]

Writes ``crossings.json`` and ``crossings.md``. Chains of layers as in ``allocation.py`` (``quant``: 6 widths, some
ranks), budgets of bytes and latency a third of the way from least to largest sum. Every second option is computed in
integers; where the next layer differs in that, every pair of such options has a latency of its own. So two
neighbours with ``n`` options have ``n^2 / 2`` products.
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

SIZES = ((10, 4), (20, 4), (40, 4), (10, 12), (20, 12), (40, 12), (10, 24), (20, 24), (60, 24))
"""Layers and options of each."""

TIGHT = 1 / 3
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
    for layers, options in SIZES:
        for seed in (0, 1, 2):
            key = f"{layers} x {options}, seed {seed}"
            if key not in store.rows:
                store.put(key, solved(chain(layers, options, seed), given.time_limit))
                print(key, store.rows[key], flush=True)


def chain(count: int, options: int, seed: int) -> AllocationProblem:
    """Layers that read each other one after another."""
    rng = random.Random(seed)
    rows = [rng.sample(quant_layer(rng), options) for _ in range(count)]
    plain = problem(rows, (("size", "bytes"), ("latency", "ns")), TIGHT)
    pairs = [
        pair
        for number, (first, second) in enumerate(pairwise(rows))
        for pair in crossings(number, first, second, rng.uniform(0.0, SHARE))
    ]
    return replace(plain, pairs=tuple(pairs))


def crossings(number: int, first: Sequence[Choice], second: Sequence[Choice], share: float) -> list[Pair]:
    """Latencies of entering and leaving between two neighbours."""
    usual = sorted(choice.costs[1] for choice in second)[len(second) // 2]
    return [
        Pair((f"layer{number}", a.name), (f"layer{number + 1}", b.name), costs=(0, int(share * usual)))
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if i % 2 != j % 2
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
    for size in dict.fromkeys((r["layers"], r["options"]) for r in rows.values()):
        own = [r for r in rows.values() if (r["layers"], r["options"]) == size]
        times = sorted(r["cpu_s"] for r in own)
        gaps = [r["gap"] for r in own if r["gap"] is not None]
        proven = sum(r["status"] in ("optimal", "infeasible") for r in own)
        lines.append([*size, own[0]["products"], f"{proven} of {len(own)}", times[len(times) // 2], times[-1],
                      f"{max(gaps):.1e}" if gaps else "-"])  # fmt: skip
    return table(["layers", "options", "products", "proven", "median CPU s", "largest CPU s", "worst gap"], lines)


if __name__ == "__main__":
    main()
