"""Are time limits kept: ten instances that take longer than their limit, at three limits each.

``python benchmarks/time_limits.py --data FOLDER`` where the folder holds ``op_graphs/``, ``minimalloc/`` and
``vela/op_graphs/``. Asked: at most a tenth above the limit. Wall time is what a limit is about, so the machine's load
counts; processor time beside it says how much of it the search had.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from common.keras_networks import NETWORKS
from scratchpad_scale import network as generated

from instar.ir.files import atomic_write_json, atomic_write_text, read_text
from instar.schedulers.placement import load_csv
from instar.schedulers.placement import solve as place
from instar.schedulers.scratchpad.atomic.solver import AtomicOptions, solve_atomic
from instar.schedulers.scratchpad.bricks import in_bricks
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.problem_json import load_problem
from instar.schedulers.scratchpad.solver import solve

RESULTS = Path(__file__).parent / "results"
KIB = 1024
Solve = Callable[[float], str]
"""Seconds -> status."""


def instances(data: Path) -> Mapping[str, Solve]:
    """Name -> what is solved."""
    nasnet, resnet = (
        _graph(data / "vela" / "op_graphs" / f"{name}_224.json") for name in ("nasnet_mobile", "resnet50")
    )
    mobilenet = _graph(data / "vela" / "op_graphs" / "mbv2_100_224.json")
    pnasnet = _graph(data / "op_graphs" / "pnasnet5large.json")
    crowd = (data / "minimalloc" / "I.1048576.csv", 1 << 20)
    return {
        "NASNet-Mobile, 384 KiB": partial(_ranges, in_bricks(nasnet, 16), 384, "auto"),
        "NASNet-Mobile, 512 KiB": partial(_ranges, in_bricks(nasnet, 16), 512, "auto"),
        "ResNet-50, 512 KiB": partial(_ranges, in_bricks(resnet, 16), 512, "auto"),
        "ResNet-50, 128 KiB, bands": partial(_ranges, in_bricks(resnet, 16), 128, "always"),
        "MobileNetV2, 64 KiB, bands": partial(_ranges, in_bricks(mobilenet, 16), 64, "always"),
        "DenseNet-121, 512 KiB": partial(_ranges, in_bricks(NETWORKS["densenet121_224"](), 16), 512, "auto"),
        "Inception-v3, 512 KiB": partial(_ranges, in_bricks(NETWORKS["inceptionv3_299"](), 16), 512, "auto"),
        "generated, 5,000 operators, 12 KiB": partial(_ranges, generated(5000, 1), 12, "auto"),
        "PNASNet-5, whole operators, M_R": partial(_whole, pnasnet, 5_227_200),
        "placement I": partial(_placed, *crowd),
    }


def _graph(path: Path) -> Problem:
    return load_problem(read_text(path))


def _ranges(problem: Problem, kib: int, tiles: str, limit_s: float) -> str:
    assert tiles in ("auto", "always")
    return solve(problem, Options(kib * KIB, limit_s, tiles="auto" if tiles == "auto" else "always")).status


def _whole(problem: Problem, budget_bytes: int, limit_s: float) -> str:
    return solve_atomic(problem, AtomicOptions(budget_bytes, limit_s)).status


def _placed(path: Path, capacity_bytes: int, limit_s: float) -> str:
    return place(load_csv(read_text(path), capacity_bytes), time_limit_s=limit_s).status


def main() -> None:
    """Solves each instance at each limit and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limits", default="3,10,30", help="seconds of wall time")
    parser.add_argument("--only", default="", help="instances whose name contains this")
    arguments = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    for name, solved in instances(arguments.data).items():
        for limit in map(float, arguments.limits.split(",") if arguments.only in name else ()):
            wall, spent = time.perf_counter(), time.process_time()
            status = solved(limit)
            wall, spent = time.perf_counter() - wall, time.process_time() - spent
            rows.append({"instance": name, "limit_s": limit, "wall_s": round(wall, 2), "cpu_s": round(spent, 2),
                         "over": round(max(wall / limit - 1, 0.0), 3), "status": status})  # fmt: skip
            print(rows[-1], flush=True)
    if arguments.only:
        return
    atomic_write_json(RESULTS / "time_limits.json", rows)
    kept = sum(float(row["over"]) <= 0.1 for row in rows)
    lines = [
        "# Time limits",
        "",
        "`python benchmarks/time_limits.py --data FOLDER` on a busy machine: wall time, processor time",
        f"in brackets, and the status. Asked: at most 10 % over the limit. Kept in {kept} of {len(rows)}.",
        "",
        "| instance | limit s | wall s | over | status |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['instance']} | {row['limit_s']} | {row['wall_s']} ({row['cpu_s']}) "
        f"| {row['over']:.1%} | {row['status']} |"
        for row in rows
    ]
    atomic_write_text(RESULTS / "time_limits.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
