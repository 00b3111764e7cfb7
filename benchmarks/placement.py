"""Buffers with fixed lifetimes: MiniMalloc's challenging instances, and the one that Vela refuses.

Run ``python benchmarks/placement.py FOLDER [--networks FOLDER] [--time-limit 60] [--seed 0]``. The first folder holds
CSV files named ``NAME.CAPACITY.csv``. Written: ``benchmarks/results/placement.json`` and ``.md``. An instance is solved
if its buffers lie within the capacity and the checker, which knows no solver, accepts it. Heuristics are given as
height over capacity. With ``--networks`` also the smallest static arenas of operator graphs, as TensorFlow Lite Micro
would have them.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.schedulers.placement import (
    PlacementProblem,
    check,
    greedy_by_conflicts,
    greedy_by_size,
    hill_climb,
    load_csv,
    lower_bound,
    solve,
)
from instar.schedulers.placement.baselines import height
from instar.schedulers.scratchpad.arena import arena_buffers, smallest_arena
from instar.schedulers.scratchpad.problem_json import load_problem

RESULTS = Path(__file__).parent / "results"


def instance(path: Path, time_limit_s: float, seed: int) -> dict[str, Any]:
    """One row of the first table."""
    name, capacity = path.name.removesuffix(".csv").rsplit(".", 1)
    problem = load_csv(path.read_text(encoding="utf-8"), int(capacity), path.name)
    cpu = time.process_time()
    solution = solve(problem, time_limit_s=time_limit_s, seed=seed)
    cpu = time.process_time() - cpu
    row = {
        "name": name,
        "buffers": len(problem.buffers),
        "capacity_bytes": int(capacity),
        "bound_bytes": lower_bound(problem.buffers),
        "status": solution.status,
        "height_bytes": solution.height_bytes,
        "solver": solution.solver,
        "wall_s": round(solution.wall_s, 2),
        "cpu_s": round(cpu, 2),
        "wrong": check(problem, solution),
        **heuristics(problem, int(capacity)),
    }
    print(json.dumps(row), flush=True)
    return row


def heuristics(problem: PlacementProblem, capacity: int) -> dict[str, float]:
    """Height over capacity of what others do."""
    buffers = problem.buffers
    found = {
        "greedy_by_size": greedy_by_size(buffers),
        "greedy_by_conflicts": greedy_by_conflicts(buffers),
        "hill_climb": hill_climb(buffers, steps=500, goal_bytes=lower_bound(buffers)),
    }
    return {name: round(height(buffers, offsets) / capacity, 3) for name, offsets in found.items()}


def arena(path: Path, time_limit_s: float) -> dict[str, Any]:
    """One row of the second table."""
    problem = load_problem(path.read_text(encoding="utf-8"))
    buffers = arena_buffers(problem)
    solution = smallest_arena(problem, time_limit_s=time_limit_s)
    row = {
        "name": path.stem,
        "buffers": len(buffers),
        "bound_bytes": solution.bound_bytes,
        "height_bytes": solution.height_bytes,
        "status": solution.status,
        "greedy_bytes": height(buffers, greedy_by_size(buffers)),
        "wall_s": round(solution.wall_s, 2),
    }
    print(json.dumps(row), flush=True)
    return row


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


INSTANCE_COLUMNS = (
    "name", "buffers", "status", "height_bytes", "bound_bytes", "solver", "wall_s", "cpu_s", "greedy_by_size",
    "greedy_by_conflicts", "hill_climb",
)  # fmt: skip
ARENA_COLUMNS = ("name", "buffers", "bound_bytes", "height_bytes", "status", "greedy_bytes", "wall_s")


def main() -> None:
    """Runs everything and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", type=Path, nargs="*", default=[])
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paths = [path for path in sorted(options.folder.glob("*.csv")) if not path.name.startswith("example")]
    rows = [instance(path, options.time_limit, options.seed) for path in paths]
    networks = [path for folder in options.networks for path in sorted(folder.glob("*.json"))]
    arenas = [arena(path, options.time_limit) for path in networks]
    solved = sum(row["height_bytes"] is not None and not row["wrong"] for row in rows)
    command = f"python benchmarks/placement.py FOLDER --time-limit {options.time_limit:g} --seed {options.seed}"
    document = {"command": command, "machine": platform.processor(), "solved": solved}
    atomic_write_json(RESULTS / "placement.json", {**document, "instances": rows, "arenas": arenas})
    text = [f"`{command}`, on a machine with other work on it: `cpu_s` (both threads) says more than `wall_s`."]
    text += [f"{solved} of {len(rows)} within their capacity.", table(rows, INSTANCE_COLUMNS)]
    if arenas:
        text += ["Static arenas, 16 bytes alignment, no memory shared in place:", table(arenas, ARENA_COLUMNS)]
    atomic_write_text(RESULTS / "placement.md", "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
