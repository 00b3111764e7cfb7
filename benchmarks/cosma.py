"""COSMA's setting: operators run whole, and what is written out and read back is counted.

Run ``python benchmarks/cosma.py FOLDER [FOLDER ...] [--time-limit 60] [--fusion-limit 20]``; the folders hold operator
graphs. Written: ``benchmarks/results/cosma.json`` and ``.md``. Budgets: M_R, below which the largest operator does not
run; M_P, the lowest peak of all orders; M_H between them. Every schedule has addresses and was replayed by the
checker. One that was not found in time has no bytes, it is called ``timeout``.

The effects apart, in bytes: what others do (file order, fewest bytes evicted now), with TensorFlow Lite's linear
allocator and with a memory that only counts bytes (fragmentation); the best replacement of the same order
(replacement); the best order found (order); with ``--fusion-limit``, where the file has shapes, operators that run
stripe by stripe (fusion), in the order of the file, with memory shared in place and re-read weights counted. ``fails``
says that the linear allocator finds no room although the bytes would be enough.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.schedulers.scratchpad.atomic.baselines import Rule, replay_rule
from instar.schedulers.scratchpad.atomic.flow import Flow, make_flow, peak_bytes
from instar.schedulers.scratchpad.atomic.peak import PeakOrder, lowest_peak
from instar.schedulers.scratchpad.atomic.solver import AtomicOptions, solve_atomic
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.problem_json import load_problem
from instar.schedulers.scratchpad.solver import solve

RESULTS = Path(__file__).parent / "results"
RULES: tuple[Rule, ...] = ("belady", "fewest")


def network(path: Path, time_limit_s: float, *, fusion_s: float) -> list[dict[str, Any]]:
    """The rows of one graph, one per budget."""
    problem = load_problem(path.read_text(encoding="utf-8"))
    flow = make_flow(problem)
    cpu = time.process_time()
    lowest = lowest_peak(flow)
    cpu = time.process_time() - cpu
    required, peak = flow.required_bytes, lowest.peak_bytes
    common = {
        "name": path.stem,
        "operators": flow.steps,
        "file_peak_bytes": peak_bytes(flow, range(flow.steps)),
        "lowest_peak_bytes": peak,
        "peak_proven": lowest.optimal,
        "peak_cpu_s": round(cpu, 2),
    }
    budgets = {"M_R": required, "M_H": (required + peak) // 2, "M_P": peak}
    if required == peak:
        budgets = {"M_R = M_P": peak}
    rows: list[dict[str, Any]] = []
    for name, budget in budgets.items():
        found = schedules(problem, budget, time_limit_s, fusion_s=fusion_s)
        counted = rules(flow, lowest, budget)
        rows.append({**common, "budget": name, "budget_bytes": budget, **found, "rules": counted})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def schedules(problem: Problem, budget: int, time_limit_s: float, *, fusion_s: float) -> dict[str, Any]:
    """Fixed and free order, and depth-first ranges."""
    row: dict[str, Any] = {}
    for name, fixed in (("fixed", True), ("free", False)):
        cpu = time.process_time()
        found = solve_atomic(problem, AtomicOptions(budget, time_limit_s, fixed_order=fixed))
        row[name] = {
            "status": found.status,
            "traffic_bytes": found.traffic_bytes if found.order else None,
            "bound_bytes": found.bound_bytes,
            "height_bytes": found.height_bytes,
            "refused_residencies": found.refused,
            "solver": found.solver,
            "wall_s": round(found.wall_s, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
        }
    if fusion_s and problem.has_shapes:
        options = Options(budget, time_limit_s=fusion_s, stream_buffer_bytes=0)
        fused = solve(problem, options)
        row["fused"] = {"status": fused.status, "traffic_bytes": fused.traffic.total_bytes if fused.order else None}
    return row


def rules(flow: Flow, lowest: PeakOrder, budget: int) -> dict[str, int | None]:
    """Bytes of the paper's comparators; ``None`` where the linear allocator fails."""
    orders = {"file": tuple(range(flow.steps)), "lowest_peak": lowest.order}
    return {
        f"{order_name}, {rule}, {'linear allocator' if addresses else 'bytes only'}": replay_rule(
            flow, order, budget, rule, addresses=addresses
        ).traffic_bytes
        for order_name, order in orders.items()
        for rule in RULES
        for addresses in (True, False)
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line per graph and budget."""
    head = ("network", "budget KiB", "fixed order", "s", "free order", "bound", "s", "Belady", "fewest", "linear")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        fixed, free, others = row["fixed"], row["free"], row["rules"]
        linear = others["file, fewest, linear allocator"]
        cells = [row["name"], f"{row['budget']} {row['budget_bytes'] / 1024:.2f}", _bytes(fixed), fixed["cpu_s"]]
        cells += [_bytes(free), f"{free['bound_bytes']:,}", free["cpu_s"]]
        cells += [f"{others[f'file, {rule}, bytes only']:,}" for rule in RULES]
        cells.append("fails" if linear is None else f"{linear:,}")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _bytes(found: dict[str, Any]) -> str:
    if found["traffic_bytes"] is None:
        return str(found["status"])
    return f"{found['traffic_bytes']:,}{' (proven)' if found['status'] == 'optimal' else ''}"


def effects(rows: list[dict[str, Any]]) -> str:
    """Where anything is spilled: what each freedom saves, one after the other."""
    head = ("network", "budget", "linear allocator", "bytes only", "best replacement", "best order", "stripes")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if row["fixed"]["traffic_bytes"] == 0:
            continue
        steps = [row["rules"][f"file, fewest, {memory}"] for memory in ("linear allocator", "bytes only")]
        cells = ["fails" if step is None else f"{step:,}" for step in steps]
        cells += [_bytes(row[kind]) if kind in row else "-" for kind in ("fixed", "free", "fused")]
        lines.append("| " + " | ".join([row["name"], row["budget"], *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs everything and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--fusion-limit", type=float, default=0.0)
    options = parser.parse_args()
    paths = [path for folder in options.folders for path in sorted(folder.glob("*.json"))]
    rows = [row for path in paths for row in network(path, options.time_limit, fusion_s=options.fusion_limit)]
    command = f"python benchmarks/cosma.py FOLDERS --time-limit {options.time_limit:g}"
    command += f" --fusion-limit {options.fusion_limit:g}" if options.fusion_limit else ""
    atomic_write_json(RESULTS / "cosma.json", {"command": command, "machine": platform.processor(), "schedules": rows})
    text = [
        f"`{command}`, on a machine with other work on it; `s` is processor time of all threads.",
        "Bytes written out and read back beyond what is compulsory.",
        table(rows),
        "The effects apart: each column has the freedom of those before it. Evicting the fewest bytes in the order of "
        "the file with the linear allocator; the same with a memory that only counts bytes; the best replacement of "
        "that order; the best order found. Apart from these: operators that run stripe by stripe in the file's order.",
        effects(rows),
    ]
    atomic_write_text(RESULTS / "cosma.md", "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
