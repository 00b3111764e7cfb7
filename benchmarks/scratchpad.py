# ruff: noqa: E501
"""Scratchpad schedules beside Vela 5.2.0: the same graphs, the same SRAM, the same 16-channel padding, avoidable bytes.

``python benchmarks/scratchpad.py --data FOLDER --rows 2,3`` where the folder holds ``op_graphs/`` (operator graphs) and
``measured/vela_5.2.0_dedicated.csv`` (Vela's decisions, recounted per tensor). The graphs of rows 5 and 6 are not in such
a folder and are built here (``common/keras_networks.py``), with the operators, bytes and MACs that were measured. Rows that are not asked for keep their
last result, so that a busy machine can do one at a time. Vela's cycles are not compared with anything of ours.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from common.keras_networks import NETWORKS

from instar.ir.files import atomic_write_json, atomic_write_text, read_json
from instar.schedulers.scratchpad.bricks import in_bricks
from instar.schedulers.scratchpad.checker import check
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.problem_json import load_problem
from instar.schedulers.scratchpad.schedule import Schedule
from instar.schedulers.scratchpad.solver import solve

RESULTS = Path(__file__).parent / "results"
KIB = 1024
LIMIT_S = 60.0
"""Seconds of processor time that a search is meant to get; a shared machine needs a larger limit for that."""

Reference = Mapping[int, tuple[int, int]]
"""KiB -> bytes of the reference model at stripes of at least one and at least four rows."""

SPILLING: tuple[tuple[int, str, str, Reference], ...] = (
    (2, "mbv2_100_224", "u65", {512: (0, 0), 256: (0, 200_000), 128: (740_000, 3_820_000)}),
    (3, "unet16_128", "u65", {1024: (0, 0), 512: (390_000, 520_000), 256: (920_000, 1_050_000)}),
    (3, "unet16_128", "u65", {128: (1_540_000, 1_930_000)}),
    (4, "resnet50_224", "u65", {2048: (0, 0), 1024: (2_010_000, 2_810_000), 512: (6_080_000, 8_490_000)}),
    (5, "densenet121_224", "u65", {1024: (1_200_000, 1_200_000)}),
    (6, "inceptionv3_299", "u65", {1024: (0, 0)}),
    (7, "nasnet_mobile_224", "u65", {1024: (100_000, 100_000), 512: (4_050_000, 4_050_000)}),
    (7, "nasnet_mobile_224", "u65", {384: (6_030_000, 6_030_000)}),
    (8, "transformer_128x384_2l", "u85", {512: (0, 0), 384: (0, 0)}),
    (8, "vit_tiny_197x192_2l", "u85", {512: (0, 0), 384: (0, 0)}),
)
"""Rows of the comparison with the reference model's figures; NASNet's reference is unfused and in the file's order."""

FLASH: Mapping[str, tuple[float, int, float]] = {
    "mbv2_100_224": (353.5, 1_790_000, 325),
    "unet16_128": (928, 1_190_000, 660),
    "resnet50_224": (1764, 5_800_000, 1400),
    "mbv2_035_96": (60.8, 250_000, 54),
    "vww_mbv1_025_96": (48, 80_000, 46),
    "resnet8_32": (35, 210_000, 35),
}
"""Row 9: Vela's smallest SRAM in KiB with its flash bytes beyond one read, and the reference's KiB."""

Row = dict[str, float | int | str]


def network(data: Path, name: str) -> Problem:
    """The graph with channels in bricks of 16, as Ethos-U stores them."""
    if name in NETWORKS:
        return in_bricks(NETWORKS[name](), 16)
    text = (data / "op_graphs" / f"{name}.json").read_text(encoding="utf-8")
    return in_bricks(load_problem(text), 16)


def vela(data: Path) -> dict[tuple[str, str, int], tuple[int, int]]:
    """(network, device, KiB) -> recounted feature-map bytes, weight bytes read again."""
    with (data / "measured" / "vela_5.2.0_dedicated.csv").open(encoding="utf-8") as file:
        return {
            (row["net"], row["acc"].split("-")[1], int(float(row["sram_limit_kib"]))): (
                int(row["fm_bytes_recounted"]),
                int(row["weight_reread"]),
            )
            for row in csv.DictReader(file)
        }


def timed(problem: Problem, options: Options) -> tuple[Schedule, float]:
    """A schedule that the checker accepts, and the processor time it took."""
    start = time.process_time()
    schedule = solve(problem, options)
    spent = time.process_time() - start
    wrong = check(problem, schedule)
    if wrong:
        raise SystemExit(f"{problem.model}: {wrong}")
    return schedule, spent


def spilling(data: Path, rows: Iterable[int], limit_s: float) -> list[Row]:
    """Rows 2 to 8: avoidable bytes at given SRAM, for stripes of at least one and at least four rows."""
    peers = vela(data)
    found: list[Row] = []
    for row, name, device, references in SPILLING:
        if row not in rows:
            continue
        problem = network(data, name)
        for kib, reference in references.items():
            maps, again = peers[name, device, kib]
            for least, known in zip((1, 4), reference, strict=True):
                schedule, spent = timed(problem, Options(kib * KIB, time_limit_s=limit_s, min_rows=least))
                traffic = schedule.traffic
                found.append(
                    {
                        "row": row, "network": name, "device": device, "kib": kib, "min_rows": least,
                        "vela_maps": maps, "vela_weights": again if row not in (7, 8) else 0, "reference": known,
                        "maps": traffic.spill_read_bytes + traffic.spill_write_bytes,
                        "weights": traffic.weight_reread_bytes, "bound": schedule.bound_bytes,
                        "status": schedule.status, "peak": schedule.peak_bytes,
                        "limit_s": limit_s, "wall_s": round(schedule.wall_s, 1), "cpu_s": round(spent, 1),
                    }
                )  # fmt: skip
                print(found[-1], flush=True)
    return found


def flash(data: Path, names: Iterable[str], limit_s: float) -> list[Row]:
    """Row 9: smallest SRAM without spills, weights in flash, and the smallest with which each is read once."""
    found: list[Row] = []
    for name in names:
        sram, again, reference = FLASH[name]
        problem, start = network(data, name), time.process_time()
        options = Options(0, no_spill=True, stream_buffer_bytes=0, time_limit_s=limit_s)
        least = solve(problem, options).infeasible
        if least is None:
            raise SystemExit(f"{name}: the least budget was not found in {limit_s} s; raise --time-limit")
        low = -(-least.smallest_budget_bytes // KIB)
        at_least, _ = timed(problem, replace(options, budget_bytes=low * KIB))
        known, high = low - 1, int(2 * sram)
        while high - known > 1:
            middle = (known + high) // 2
            enough = _read_once(problem, replace(options, budget_bytes=middle * KIB))
            known, high = (known, middle) if enough else (middle, high)
        found.append(
            {
                "row": 9, "network": name, "vela_kib": sram, "vela_weights": again, "reference_kib": reference,
                "once_kib": high, "least_kib": low, "least_operator": least.operator,
                "least_weights": at_least.traffic.weight_reread_bytes, "least_status": at_least.status,
                "cpu_s": round(time.process_time() - start, 1),
            }
        )  # fmt: skip
        print(found[-1], flush=True)
    return found


def _read_once(problem: Problem, options: Options) -> bool:
    """Whether nothing is spilled and no weight read again; only what is proven counts.

    Raises:
        SystemExit: the time limit ended the search before that was known.
    """
    schedule, spent = timed(problem, options)
    print(f"  {problem.model} {options.budget_bytes // KIB} KiB: {schedule.status} {schedule.traffic.total_bytes} "
          f"(at least {schedule.bound_bytes}), {spent:.1f} s", flush=True)  # fmt: skip
    if schedule.order and not schedule.traffic.total_bytes:
        return True
    if schedule.status == "infeasible" or schedule.bound_bytes:
        return False
    raise SystemExit(f"{problem.model}: {options.budget_bytes} bytes: nothing is proven; raise --time-limit")


def geomean(rows: Iterable[Row]) -> float:
    """Vela's bytes over ours at 256 KiB to 1 MiB and stripes of at least 4 rows; a ratio counts as 100 at most."""
    logs = [
        math.log(min(100.0, vela_bytes / max(ours, 1)))
        for row in rows
        if row["row"] != 9 and row["min_rows"] == 4 and 256 <= int(row["kib"]) <= 1024
        for vela_bytes in [int(row["vela_maps"]) + int(row["vela_weights"])]
        for ours in [int(row["maps"]) + int(row["weights"])]
        if vela_bytes
    ]
    return math.exp(sum(logs) / len(logs)) if logs else 0.0


HEAD = """# Scratchpad schedules beside Vela 5.2.0

`benchmarks/scratchpad.py`, one thread. Avoidable bytes per inference: feature maps written and read back plus weights read again; first
reads of weights and the network's own input and output are not counted. Same graph, same SRAM, channels in bricks of 16. *Vela* is a recount of its decision
(each feature map in its DRAM table times one write and one read per consumer; network input and output excluded); *reference* is a fixed-order model that is
solved to optimality except for NASNet, where it is unfused; its figures are rounded to 10 KB: 740,096 and 200,704 bytes (MobileNetV2) are proven least for the order
and are what the reference calls 0.74 and 0.20 MB. Real hardware limits (height-only stripes, block sizes) are modelled, not measured. *Rows* is the
least height of a stripe. Seconds are wall time, and processor time in brackets. Row 7 with a limit of 60 s of wall time each on a core of its own; rows 2 to 4 and 8 on a machine
that gave a tenth of a core, where a limit of 600 s never ended a search (none took more than 14 s of processor time); rows 5 and 6 on a busy machine; row 9 with a limit that never ended a
search: *least* is the smallest budget of the orders that are tried, and *weights read once* is proven to the KiB for them. Every schedule was replayed row by row by the checker."""

COLUMNS = (
    "| # | network | SRAM KiB | rows | Vela maps + weights | reference | instar maps + weights | bound | status | s |"
)


def table(rows: Iterable[Row]) -> str:
    """The results as markdown."""
    known = sorted(rows, key=lambda row: (int(row["row"]), str(row["network"]), -int(row.get("kib", 0))))
    lines = [HEAD, "", COLUMNS, "|---|---|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r['row']} | {r['network']} ({r['device']}) | {r['kib']} | {r['min_rows']} | {r['vela_maps']:,} + {r['vela_weights']:,} "
        f"| {r['reference']:,} | **{r['maps']:,} + {r['weights']:,}** | {r['bound']:,} | {r['status']} | {r['wall_s']} ({r['cpu_s']}) |"
        for r in known
        if r["row"] != 9
    ]
    lines += [
        "",
        f"Geometric mean of Vela's bytes over instar's, rows 2 to 8 at 256 KiB to 1 MiB, stripes of at least 4 rows: {geomean(known):.1f}",
    ]
    lines += [
        "(a ratio counts as 100 at most, which is where instar moves nothing).",
        "",
        "## Smallest SRAM without spills, weights in flash",
        "",
    ]
    lines += [
        "| # | network | Vela KiB (+ flash bytes) | reference KiB (+0) | instar KiB, weights read once | instar KiB, least (+ flash bytes) | CPU s |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [
        f"| 9 | {r['network']} | {r['vela_kib']} (+{r['vela_weights']:,}) | {r['reference_kib']} | **{r['once_kib']}** | {r['least_kib']} (+{r['least_weights']:,}) | {r['cpu_s']} |"
        for r in known
        if r["row"] == 9
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures the rows that are asked for and writes all that are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with op_graphs/ and measured/")
    parser.add_argument("--rows", default="2,3,4,5,6,7,8,9", help="rows of the comparison to measure now")
    parser.add_argument("--time-limit", type=float, default=LIMIT_S, help="seconds of wall time for each schedule")
    parser.add_argument("--flash", default=",".join(FLASH), help="networks of row 9")
    arguments = parser.parse_args()
    rows = [int(row) for row in arguments.rows.split(",")]
    fresh = spilling(arguments.data, rows, arguments.time_limit)
    names = arguments.flash.split(",") if 9 in rows else []
    fresh += flash(arguments.data, names, arguments.time_limit)
    store = RESULTS / "scratchpad.json"
    old = cast("list[Row]", read_json(store)) if store.exists() else []
    results = [
        row for row in old if row["row"] not in rows or (row["row"] == 9 and row["network"] not in names)
    ] + fresh
    atomic_write_json(store, results)
    atomic_write_text(RESULTS / "scratchpad.md", table(results))


if __name__ == "__main__":
    main()
