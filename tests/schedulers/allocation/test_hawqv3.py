"""The 18 published HAWQ-V3 assignments (arXiv 2011.10680): 17 are reproduced layer by layer, one is beaten."""

from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from instar.schedulers.allocation import AllocationBudget, AllocationProblem, Choice, LayerChoices, check, solve, sweep

DATA = Path(__file__).parents[2] / "data" / "hawqv3"
PUBLISHED: dict[str, str] = json.loads((DATA / "published.json").read_text())
OMEGA = {
    "resnet18 size": (0.11830, 0.07451, 0.03344),
    "resnet18 bops": (0.46042, 0.21569, 0.07996),
    "resnet18 latency": (0.46042, 0.20267, 0.07996),
    "resnet50 size": (0.07495, 0.03102, 0.01222),
    "resnet50 bops": (0.14895, 0.05644, 0.02411),
    "resnet50 latency": (0.13751, 0.05486, 0.02266),
}
BEATEN = "resnet50 size 0.25"


def cost(row: dict[str, str], kind: str, bits: int) -> int:
    if kind == "size":
        return int(row["parameters"]) * bits
    if kind == "bops":
        return int(row["macs"]) * bits * bits
    return int(row[f"latency_int{bits}_10ps"])


def limit(rows: list[dict[str, str]], kind: str, fraction: float) -> int:
    low, high = (sum(cost(row, kind, bits) for row in rows) for bits in (4, 8))
    return math.floor(low + fraction * (high - low))


def problem(net: str, kind: str, fraction: float) -> AllocationProblem:
    with (DATA / f"{net}.csv").open() as file:
        rows = list(csv.DictReader(file))
    layers = tuple(
        LayerChoices(
            row["layer"],
            tuple(
                Choice(
                    str(bits),
                    float(row["hessian_trace_normalized"]) * float(row[f"dw2_int{bits}"]),
                    (cost(row, kind, bits),),
                )
                for bits in (4, 8)
            ),
        )
        for row in rows
    )
    groups = sorted({row["tie_group"] for row in rows} - {""})
    ties = tuple(tuple(row["layer"] for row in rows if row["tie_group"] == group) for group in groups)
    return AllocationProblem(layers, (AllocationBudget(kind, limit(rows, kind, fraction)),), ties)


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_assignment(case: str):
    net, kind, fraction = case.split()
    instance = problem(net, kind, float(fraction))
    solution = solve(instance)
    assert (solution.status, solution.gap) == ("optimal", 0.0)
    assert check(instance, solution) == []
    expected = OMEGA[f"{net} {kind}"][("0.25", "0.5", "0.75").index(fraction)]
    assert solution.objective == pytest.approx(expected, abs=5e-6)
    ours = "".join(solution.assignment[layer.name] for layer in instance.layers)
    differing = sum(a != b for a, b in zip(ours, PUBLISHED[case], strict=True))
    assert differing == (1 if case == BEATEN else 0)


def test_the_beaten_assignment_is_feasible_and_worse():
    instance = problem("resnet50", "size", 0.25)
    published = [layer.choice(bits) for layer, bits in zip(instance.layers, PUBLISHED[BEATEN], strict=True)]
    assert sum(choice.costs[0] for choice in published) <= instance.budgets[0].limit
    assert sum(choice.loss for choice in published) == pytest.approx(0.08311, abs=5e-6)
    objective = solve(instance).objective
    assert objective == pytest.approx(0.07495, abs=5e-6)


def test_larger_budgets_never_lose():
    instance = problem("resnet18", "latency", 0.5)
    limits = [problem("resnet18", "latency", step / 10).budgets[0].limit for step in range(11)]
    solutions = sweep(instance, "latency", limits)
    losses = [solution.objective or 0.0 for solution in solutions]
    assert all(before >= after for before, after in pairwise(losses))
    assert {solution.status for solution in solutions} == {"optimal"}
