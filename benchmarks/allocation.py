"""Allocation: time to proven optimality, and what greedy schemes lose.

Run ``python benchmarks/allocation.py [--time-limit 20] [--workers 1]``; writes ``allocation.json`` and
``allocation.md`` in ``benchmarks/results``. Instances are random but seeded:

* ``quant``: 200 layers x 24 choices (6 widths x 4 ranks), loss ``sensitivity * 4^-bits`` shrunk by the rank; size in
  bytes and a latency with a random efficiency per width; limits 0.1 or 0.5 of the way from least to largest sum.
* ``uncorrelated``: 200 x 24, uniformly random loss and two costs, limits at 0.1.
* ``strongly correlated``: 200 x 24, loss a constant minus both costs, limits at 0.5: the classic hard case, in which an
  optimum fills both budgets to the last unit.
* ``lq-lora``: 224 matrices x 432 configurations, one budget of 2.75 bits per weight: the shapes, the grid and the
  storage formula of LQ-LoRA (arXiv 2311.12023) for a 7B model, with modelled instead of measured errors.
* ``grid``: 10 to 1,000 layers, 2 to 400 choices, 1 to 3 budgets, losses over 2 to 9 decades, ties, forced and forbidden
  choices (``common/allocation_grid.py``). Wanted: proven in 0.5 s of processor time for one budget, 2 s for two.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from common.allocation_grid import Grid, grid

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.schedulers.allocation import (
    AllocationBudget,
    AllocationProblem,
    AllocationSolution,
    Choice,
    LayerChoices,
    greedy_promote,
    greedy_ratio,
    solve,
    uniform,
)

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)
BASELINES = {"greedy_ratio": greedy_ratio, "greedy_promote": greedy_promote, "uniform": uniform}


@dataclass(frozen=True)
class Case:
    """One row of the table: an instance for every seed and the gap to reach."""

    family: str
    gap: float
    build: Callable[[int], AllocationProblem]
    seeds: tuple[int, ...] = SEEDS


def problem(rows: Sequence[Sequence[Choice]], budgets: Iterable[tuple[str, str]], tight: float) -> AllocationProblem:
    """Limits are ``tight`` of the way from the least to the largest sum of costs."""
    limits: list[AllocationBudget] = []
    for position, (name, unit) in enumerate(budgets):
        costs = [[choice.costs[position] for choice in row] for row in rows]
        low, high = sum(map(min, costs)), sum(map(max, costs))
        limits.append(AllocationBudget(name, int(low + tight * (high - low)), unit))
    layers = tuple(LayerChoices(f"layer{i}", tuple(row)) for i, row in enumerate(rows))
    return AllocationProblem(layers, tuple(limits))


def quant(seed: int, tight: float) -> AllocationProblem:
    """200 layers, 6 widths x 4 ranks, size and latency."""
    rng = random.Random(seed)
    rows = [quant_layer(rng) for _ in range(200)]
    return problem(rows, (("size", "bytes"), ("latency", "ns")), tight)


def quant_layer(rng: random.Random) -> list[Choice]:
    """The 24 choices of one layer."""
    height, width = 2 ** rng.randint(7, 12), 2 ** rng.randint(7, 12)
    sensitivity, decay = rng.lognormvariate(0, 1.5), rng.uniform(1, 4)
    efficiency = {bits: rng.uniform(0.8, 1.25) for bits in (2, 3, 4, 5, 6, 8)}
    choices: list[Choice] = []
    for bits, rank in product(efficiency, (0, 16, 32, 64)):
        loss = sensitivity * 4.0**-bits * (0.3 + 0.7 * math.exp(-rank / (16 * decay)))
        size = height * width * bits // 8 + 2 * rank * (height + width)
        latency = int(height * width * efficiency[bits] * (0.4 + bits / 12) + 2 * rank * (height + width))
        choices.append(Choice(f"int{bits}+r{rank}", loss, (size, latency)))
    return choices


def uncorrelated(seed: int) -> AllocationProblem:
    """200 x 24, everything uniformly random."""
    rng = random.Random(seed)
    rows = [
        [Choice(f"c{j}", rng.random(), (rng.randint(1, 10**7), rng.randint(1, 10**7))) for j in range(24)]
        for _ in range(200)
    ]
    return problem(rows, (("first", ""), ("second", "")), 0.1)


def strongly_correlated(seed: int) -> AllocationProblem:
    """200 x 24, loss = 3 - (first + second) / 10^7."""
    rng = random.Random(seed)
    rows: list[list[Choice]] = []
    for _ in range(200):
        costs = [(rng.randint(1, 10**7), rng.randint(1, 10**7)) for _ in range(24)]
        rows.append([Choice(f"c{j}", (3 * 10**7 - a - b) / 1e7, (a, b)) for j, (a, b) in enumerate(costs)])
    return problem(rows, (("first", ""), ("second", "")), 0.5)


def strongly_correlated_line(seed: int) -> AllocationProblem:
    """200 x 24 with one budget, loss = 1 - cost / 10^7."""
    rng = random.Random(seed)
    rows: list[list[Choice]] = []
    for _ in range(200):
        costs = [rng.randint(1, 10**7) for _ in range(24)]
        rows.append([Choice(f"c{j}", (10**7 - cost) / 1e7, (cost,)) for j, cost in enumerate(costs)])
    return problem(rows, (("only", ""),), 0.5)


def lq_lora(seed: int) -> AllocationProblem:
    """32 blocks of 7 matrices; 432 configurations (b, b0, b1, B0, B1) of b + b0/B0 + b1/(B0 B1) bits per weight."""
    rng = random.Random(seed)
    shapes = [(4096, 4096)] * 4 + [(4096, 11008)] * 3
    layers = tuple(lq_lora_layer(f"{i // 7}.{i % 7}", *shapes[i % 7], rng) for i in range(224))
    weights = sum(math.prod(shapes[i % 7]) for i in range(224))
    return AllocationProblem(layers, (AllocationBudget("storage", int(weights * 2.75), "bits"),))


def lq_lora_layer(name: str, height: int, width: int, rng: random.Random) -> LayerChoices:
    """Error model: 4^-b, slightly worse with larger blocks and coarser block scales."""
    weights, sensitivity = height * width, rng.lognormvariate(0, 0.7)
    choices: list[Choice] = []
    for b, b0, b1, B0, B1 in product((2, 3, 4, 8), (2, 3, 4, 8), (16, 16.5, 32), (16, 32, 64), (16, 64, 256)):
        scale_bits = math.floor(b1)  # 16 twice: bf16 and fp16
        storage = weights * b + weights * b0 // B0 + weights * scale_bits // (B0 * B1)
        coarse = 4.0**-b0 * (1 + math.log2(B1) / 16) + (2.0**-16 if b1 == 16 else 2.0**-20)
        loss = sensitivity * weights / 1e6 * (4.0**-b * (1 + math.log2(B0) / 8) + 0.05 * coarse)
        choices.append(Choice(f"{b},{b0},{b1},{B0},{B1}", loss, (storage,)))
    return LayerChoices(name, tuple(choices))


CASES = (
    Case("quant, tight 0.1", 0.0, lambda seed: quant(seed, 0.1)),
    Case("quant, tight 0.5", 0.0, lambda seed: quant(seed, 0.5)),
    Case("uncorrelated", 0.0, uncorrelated),
    Case("strongly correlated, one budget", 0.0, strongly_correlated_line),
    Case("strongly correlated", 1e-4, strongly_correlated),
    Case("strongly correlated", 0.0, strongly_correlated),
    Case("lq-lora 224 x 432", 0.0, lq_lora),
)


def excess(instance: AllocationProblem, optimum: float, chosen: dict[str, str] | None) -> float | None:
    """Loss of a baseline divided by the loss found by ``solve``; ``None`` if the baseline found nothing."""
    if chosen is None or not optimum:
        return None
    return math.fsum(layer.choice(chosen[layer.name]).loss for layer in instance.layers) / optimum


def measure(case: Case, seed: int, time_limit_s: float, workers: int) -> dict[str, object]:
    """Solve one instance, and compare the baselines with it."""
    instance = case.build(seed)
    started = time.process_time()
    solution = solve(instance, time_limit_s, case.gap, workers=workers)
    cpu = {"cpu_s": round(time.process_time() - started, 3)}
    record = {"family": case.family, "requested_gap": case.gap, "seed": seed, **cpu, **numbers(solution)}
    if case.gap == 0 and solution.objective is not None:
        for name, baseline in BASELINES.items():
            record[name] = excess(instance, solution.objective, baseline(instance))
    print(record, flush=True)
    return record


def numbers(solution: AllocationSolution) -> dict[str, object]:
    """What is kept of a solution."""
    return {
        "status": solution.status,
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "wall_s": round(solution.wall_s, 3),
        "pruned": solution.pruned,
        "binding": [entry.name for entry in solution.binding],
    }


def table(records: Sequence[dict[str, object]]) -> list[str]:
    """One line per family and requested gap."""
    lines = [
        "| family | asked gap | status | median s | max s | median CPU s | worst gap "
        "| greedy ratio | greedy promote | uniform |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((record["family"], record["requested_gap"]) for record in records):
        rows = [record for record in records if (record["family"], record["requested_gap"]) == key]
        times = [float(str(row["wall_s"])) for row in rows]
        cpu = statistics.median(float(str(row["cpu_s"])) for row in rows)
        gaps = [float(str(row["gap"])) for row in rows if row["gap"] is not None]
        statuses = ", ".join(sorted({str(row["status"]) for row in rows}))
        ratios = [ratio(rows, name) for name in BASELINES]
        figures = f"{statistics.median(times):.2f} | {max(times):.2f} | {cpu:.2f} | {max(gaps, default=math.inf):.1e}"
        lines.append(f"| {key[0]} | {key[1]} | {statuses} | {figures} | {' | '.join(ratios)} |")
    return lines


def ratio(rows: Sequence[dict[str, object]], name: str) -> str:
    """Mean loss of a baseline relative to ``solve``."""
    values = [float(str(row[name])) for row in rows if row.get(name) is not None]
    return f"{statistics.fmean(values):.3f}x" if values else "-"


WANTED_CPU_S = {1: 0.5, 2: 2.0}
"""Budgets -> seconds of processor time in which the optimum is to be proven."""


def measure_grid(case: Grid, time_limit_s: float) -> dict[str, object]:
    """Solve one instance of the grid."""
    instance = case.build()
    started = time.process_time()
    solution = solve(instance, time_limit_s)
    record = {**asdict(case), "cpu_s": round(time.process_time() - started, 3), **numbers(solution)}
    print(record, flush=True)
    return record


def grid_table(records: Sequence[dict[str, object]]) -> list[str]:
    """One line per number of budgets, layers and choices."""
    lines = [
        "| budgets | layers | choices | instances | proven at gap 0 | median CPU s | max CPU s | in the time wanted "
        "| worst gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((r["budgets"], r["layers"], r["options"], r["sides"]) for r in records)
    for budgets, layers, options, sides in keys:
        key = (budgets, layers, options, sides)
        rows = [r for r in records if (r["budgets"], r["layers"], r["options"], r["sides"]) == key]
        cpu = [float(str(row["cpu_s"])) for row in rows]
        proven = sum(row["gap"] == 0 or row["status"] == "infeasible" for row in rows)
        wanted = WANTED_CPU_S.get(int(str(budgets)))
        fast = "-" if wanted is None else str(sum(second <= wanted for second in cpu))
        worst = max((float(str(row["gap"])) for row in rows if row["gap"] is not None), default=0.0)
        what = (
            f"{budgets} | {layers} | {options}{', tied, forced, forbidden' if sides else ''} | {len(rows)} | {proven}"
        )
        lines.append(f"| {what} | {statistics.median(cpu):.2f} | {max(cpu):.2f} | {fast} | {worst:.1e} |")
    return lines


def main() -> None:
    """Measure everything and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    records = [measure(case, seed, arguments.time_limit, arguments.workers) for case in CASES for seed in case.seeds]
    points = [measure_grid(case, arguments.time_limit) for case in grid()]
    load = f"load average {before:.1f} before and {os.getloadavg()[0]:.1f} after"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {arguments.workers} worker(s), {load}"
    document = {"machine": machine, "time_limit_s": arguments.time_limit, "records": records, "grid": points}
    head = ["# Allocation", "", f"{machine}; time limit {arguments.time_limit:g} s; {len(SEEDS)} seeds per row.", ""]
    note = "Baselines: mean loss divided by the loss that `solve` found; `-` where a scheme finds nothing that fits."
    RESULTS.mkdir(exist_ok=True)
    atomic_write_json(RESULTS / "allocation.json", document)
    atomic_write_text(
        RESULTS / "allocation.md",
        "\n".join([*head, *table(records), "", note, "", "## Grid", "", *grid_table(points), ""]),
    )


if __name__ == "__main__":
    main()
