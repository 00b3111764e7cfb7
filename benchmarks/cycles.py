# ruff: noqa: E501
"""Cycles of scratchpad schedules, and Vela 5.2.0's own estimate of its own schedules beside them.

``python benchmarks/cycles.py --data FOLDER NETWORK:KIB ...`` where the folder holds ``op_graphs/`` and
``measured/vela_5.2.0_dedicated.csv``. Rows that are not asked for keep their last result.

The two time models are not the same: Vela's knows block sizes, utilisation of the array and elementwise speed; ours is
peak rate, bytes through the SRAM's ports and a DRAM whose rate follows from its latency. So columns are read downwards,
each tool against itself: what more memory or another objective changes. Cycles are deterministic; seconds are processor
time on a busy machine.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import cast

from common.keras_networks import NETWORKS

from instar.ir.files import atomic_write_json, atomic_write_text, read_json
from instar.ir.machine_file import machine
from instar.schedulers.scratchpad.bricks import in_bricks
from instar.schedulers.scratchpad.planning import Planned, PlanOptions, plan
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.problem_json import load_problem
from instar.schedulers.timing.replay import replay

RESULTS = Path(__file__).parent / "results"
DEVICE = "ethos-u65-mid"
Row = dict[str, float | int | str]

HEAD = """# Cycles of scratchpad schedules

`benchmarks/cycles.py`: `ethos-u65-mid` (256 MACs, DRAM behind SRAM), channels in bricks of 16, M cycles. *Bytes first*: the schedule that moves the fewest avoidable bytes.
*Cycles first*: the fastest among schedules with stripes of at least 1, 2, 4, ... rows. *No prefetch*: cycles first, with loads in program order only. *Floor*: the longer of what the core
computes and what the bus moves in that schedule; nothing that executes the same commands is faster. *Counted*: cycles by the independent stepping of the machine, equal to the prediction in
every row. Beside it Vela 5.2.0's estimate of its own schedule for the same network and SRAM, in its own model: **not comparable across**, only downwards.

| network | SRAM KiB | bytes first | its avoidable MB | cycles first | its avoidable MB | least rows | no prefetch | floor | counted | s | Vela's own estimate |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def vela(data: Path) -> dict[tuple[str, int], int]:
    """(network, KiB) -> cycles by Vela's estimate on U65."""
    with (data / "measured" / "vela_5.2.0_dedicated.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "u65" in row["acc"]]
    return {(row["net"], int(float(row["sram_limit_kib"]))): int(row["cycles_total"]) for row in rows}


def network(data: Path, name: str) -> Problem:
    """The graph in bricks of 16: a file, or one of the two that are built here."""
    built = NETWORKS.get(name)
    text = "" if built else (data / "op_graphs" / f"{name}.json").read_text(encoding="utf-8")
    return in_bricks(built() if built else load_problem(text), 16)


def measured(data: Path, name: str, kib: int, limit_s: float) -> Row:
    """One row."""
    device = machine(DEVICE).with_budget(1024 * kib)
    problem = network(data, name)
    dtypes = tuple("int8" if operator.macs else "" for operator in problem.operators)
    start = time.process_time()
    found = plan(problem, device, PlanOptions("cycles", time_limit_s=limit_s), dtypes)
    seconds = time.process_time() - start
    assert found.prediction is not None
    assert found.listing is not None
    counted = replay(device, found.prediction.events)
    assert counted == found.prediction.timing.total_cycles
    first, best = found.tried[0], min(found.tried, key=lambda tried: tried.cycles or 0)
    return {
        "network": name,
        "kib": kib,
        "bytes_first_cycles": first.cycles or 0,
        "bytes_first_bytes": first.traffic_bytes,
        "cycles_first_cycles": best.cycles or 0,
        "cycles_first_bytes": best.traffic_bytes,
        "min_rows": best.min_rows,
        "no_prefetch_cycles": without_prefetch(found),
        "floor_cycles": found.prediction.timing.bound_cycles,
        "counted_cycles": counted,
        "seconds": seconds,
    }


def draw(data: Path, name: str, kib: int, folder: Path) -> None:
    """The picture of one schedule."""
    from instar.report.machine_picture import svg
    from instar.schedulers.scratchpad.picture import picture_of

    device = machine(DEVICE).with_budget(1024 * kib)
    problem = network(data, name)
    dtypes = tuple("int8" if operator.macs else "" for operator in problem.operators)
    found = plan(problem, device, PlanOptions(), dtypes)
    assert found.listing is not None
    title = f"{name} in {kib} KiB of {DEVICE}"
    picture = picture_of(found.listing, found.prediction, title, clock_hz=device.clock_hz)
    atomic_write_text(folder / f"schedule_{name}_{kib}.svg", svg(picture) + "\n")


def without_prefetch(found: Planned) -> int:
    """Cycles of the same program with loads where they are first needed."""
    from instar.schedulers.scratchpad.cycles import predict
    from instar.schedulers.scratchpad.lowering import lower

    assert found.program is not None
    device = machine(DEVICE)
    plain = lower(found.program, cell_bytes=device.fast[0].alignment_bytes, prefetch=False)
    dtypes = tuple("int8" if operator.macs else "" for operator in found.program.problem.operators)
    return predict(device, plain, dtypes).timing.total_cycles


def line(row: Row, estimates: dict[tuple[str, int], int]) -> str:
    """One row of the table."""
    known = estimates.get((str(row["network"]), int(row["kib"])))
    cycles = [
        float(row[key]) / 1e6
        for key in ("bytes_first_cycles", "cycles_first_cycles", "no_prefetch_cycles", "floor_cycles", "counted_cycles")
    ]
    moved = [float(row[key]) / 1e6 for key in ("bytes_first_bytes", "cycles_first_bytes")]
    return (
        f"| {row['network']} | {row['kib']} | {cycles[0]:.2f} | {moved[0]:.2f} | {cycles[1]:.2f} | {moved[1]:.2f} | {row['min_rows']} | "
        f"{cycles[2]:.2f} | {cycles[3]:.2f} | {cycles[4]:.2f} | {float(row['seconds']):.0f} | {'-' if known is None else f'{known / 1e6:.2f}'} |"
    )


def main() -> None:
    """Runs and writes results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="NETWORK:KIB")
    parser.add_argument("--data", type=Path, required=True, help="folder with op_graphs/ and measured/")
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument(
        "--pictures",
        type=Path,
        help="folder for one SVG per row of the schedule with the fewest bytes, instead of measuring",
    )
    given = parser.parse_args()
    if given.pictures is not None:
        for text in given.rows:
            name, _, kib = text.partition(":")
            draw(given.data, name, int(kib), given.pictures)
        return
    path = RESULTS / "cycles.json"
    known = cast("dict[str, dict[str, Row]]", read_json(path))["rows"] if path.exists() else {}
    for text in given.rows:
        name, _, kib = text.partition(":")
        known[text] = measured(given.data, name, int(kib), given.time_limit)
        atomic_write_json(path, {"device": DEVICE, "rows": known})
        lines = [
            line(known[key], vela(given.data))
            for key in sorted(known, key=lambda k: (k.partition(":")[0], -int(k.partition(":")[2])))
        ]
        atomic_write_text(RESULTS / "cycles.md", "\n".join([HEAD, *lines, ""]))
        print(line(known[text], vela(given.data)), flush=True)


if __name__ == "__main__":
    main()
