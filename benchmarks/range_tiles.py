"""Depth-first ranges with rows alone against ranges in bands of columns and channels, beside tiles without ranges.

    python benchmarks/range_tiles.py --graphs FOLDER --time-limit 60

Same graphs, elements without padding, everything that is moved: inputs, outputs, weights, activations. Beside them the
rows of ``benchmarks/results/tiling.json`` (tiles inside single operators, residency of whole tensors, no ranges).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.schedulers.scratchpad.options import Options, Tiles
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.problem_json import load_problem
from instar.schedulers.scratchpad.schedule import Schedule
from instar.schedulers.scratchpad.solver import solve

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("vit_tiny_197x192_2l", "transformer_128x384_2l", "mbv2_100_224", "resnet50_224")
SIZES_KIB = (64, 128, 256, 512, 1024)

Row = dict[str, str | int | float | None]

HEAD = """# Tiles and ranges together

`benchmarks/range_tiles.py`, int8, batch 1, one thread, processor time on a busy machine. Bytes in MB (10^6), everything
that is moved. *Tiles*: every operator with its best tiles and residency of whole tensors as one program
([numbers](tiling.md)). *Ranges*: depth-first ranges, rows alone. *In bands*: the same search with ranges in bands of
columns and channels, so that tiles, ranges and residency are one decision; *bands* counts those ranges in the schedule.
*Bound*: no schedule in its order moves less. *Never less than*: inputs, outputs and weights once.

| network | KiB | never less than | tiles | ranges | status | s | in bands | bound | status | bands | s |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def moved(schedule: Schedule) -> int | None:
    """Everything that crosses the border."""
    traffic = schedule.traffic
    all_bytes = traffic.total_bytes + traffic.input_bytes + traffic.output_bytes + traffic.weight_bytes
    return all_bytes if schedule.order else None


def row(name: str, problem: Problem, kib: int, time_limit_s: float) -> Row:
    """One network in one budget."""
    ends = sum(tensor.size_bytes for tensor in problem.tensors if tensor.role != "activation")
    found: Row = {"network": name, "kib": kib, "least": ends + sum(o.weight_bytes for o in problem.operators)}
    hint: Schedule | None = None
    ways: tuple[tuple[str, Tiles], ...] = (("ranges", "never"), ("bands", "always"))
    for key, tiles in ways:
        start = time.process_time()
        schedule = solve(problem, Options(kib * 1024, time_limit_s, tiles=tiles), hint=hint)
        hint = schedule if schedule.order else None
        fixed = (moved(schedule) or 0) - schedule.traffic.total_bytes
        found |= {
            key: moved(schedule),
            f"{key}_bound": schedule.bound_bytes + fixed,
            f"{key}_status": schedule.status,
            f"{key}_s": time.process_time() - start,
            f"{key}_cut": sum(piece.band is not None for piece in schedule.ranges),
        }
    return found


def mb(value: str | float | None) -> str:
    """Bytes in MB."""
    return "-" if value is None else f"{float(value) / 1e6:.3f}"


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    tiles = {
        (known["network"], known["kib"]): known["together"]
        for known in json.loads((RESULTS / "tiling.json").read_text(encoding="utf-8"))["rows"]
    }
    lines = [HEAD]
    for found in rows:
        cells = [found["network"], found["kib"], mb(found["least"]), mb(tiles.get((found["network"], found["kib"])))]
        cells += [mb(found["ranges"]), found["ranges_status"], f"{float(found['ranges_s'] or 0):.0f}"]
        cells += [mb(found["bands"]), mb(found["bands_bound"]), found["bands_status"], found["bands_cut"]]
        lines.append(f"| {' | '.join(map(str, cells))} | {float(found['bands_s'] or 0):.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs and writes results after every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES_KIB))
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.networks:
        problem = load_problem((arguments.graphs / f"{name}.json").read_text(encoding="utf-8"))
        for kib in arguments.sizes:
            rows.append(row(name, problem, kib, arguments.time_limit))
            print(rows[-1], flush=True)
            atomic_write_json(RESULTS / "range_tiles.json", {"rows": rows})
            atomic_write_text(RESULTS / "range_tiles.md", table(rows))


if __name__ == "__main__":
    main()
