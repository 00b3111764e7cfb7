"""Tiles inside operators, and together with residency, on networks at 64 to 1024 KiB of fast memory.

``python benchmarks/tiling.py --graphs FOLDER`` with operator graphs ``{model, input, ops}``. Bytes are exact, seconds
are processor time on a busy machine.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.ir.machine_file import machine
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.problem_json import load_problem
from instar.schedulers.tiling.nests import nest
from instar.schedulers.tiling.network import offer, solve_network
from instar.schedulers.tiling.operators import ELEMENTS, attention, attention_by_products
from instar.schedulers.tiling.problem import Limits, TilingProblem
from instar.schedulers.tiling.program import program
from instar.schedulers.tiling.search import solve
from instar.schedulers.timing.timeline import cycles

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("vit_tiny_197x192_2l", "transformer_128x384_2l", "mbv2_100_224", "resnet50_224")
SIZES_KIB = (64, 128, 256, 512, 1024)
MOST_STEPS = 20_000
Row = dict[str, str | int | float | None]

HEAD = """# Tiles inside operators

`benchmarks/tiling.py`, int8, batch 1, one thread, processor time on a busy machine. Bytes in MB (10^6), everything that
is moved: inputs, outputs, weights, activations.

*Alone*: every operator streams its tensors with its best tiles (proven in the two-level mapspace); beside it the sums
of compulsory bytes and of closed-form bounds of the operators. *Together*: tiles and residency at the given order as
one program; *bound* is proven for the offered options; *compulsory* is inputs, outputs and weights once.

| network | KiB | compulsory per op | closed form | alone | s | compulsory | together | bound | status | kept | s |
|---|---|---|---|---|---|---|---|---|---|---|---|"""

CYCLES = """
Cycles of *alone* with two buffers on `ethos-u65-mid`, in millions (our model: DMA and core as two resources, rates
limited by bursts in flight; not to be mixed with Vela's):

| network | KiB | cycles | core busy | bus busy | sum of max(core, bus) per operator |
|---|---|---|---|---|---|"""

ATTENTION = """
Attention, elements of one byte; *order* is N^2 d^2 / M (or N^2 d / sqrt(M) below d^2), at least compulsory, without the
constant that theory leaves open:

| attention | KiB | one pass | two products | compulsory | order | one pass / order |
|---|---|---|---|---|---|---|"""

SHAPES = (
    ("MiniLM-L6, 12 heads", (12, 128, 128, 32)),
    ("ViT-B, 12 heads", (12, 197, 197, 64)),
    ("4096 tokens", (1, 4096, 4096, 64)),
)


def alone(problem: Problem, kib: int) -> Row:
    """Every operator streams everything, each with its best tiles; bounds are sums over operators."""
    start = time.process_time()
    least = closed = moved = total = slowest = core = bus = 0
    cycles_known = True
    nests: Counter[TilingProblem] = Counter(nest(problem, operator)[0] for operator in problem.operators)
    on = machine("ethos-u65-mid")
    for loops, count in nests.items():
        best = solve(loops, Limits(kib * 1024, 16))
        double = solve(loops, Limits(kib * 1024, 16, 2))
        if best.cost is None or double.cost is None or double.tiling is None:
            return {"alone": None}
        least += count * best.bounds.compulsory_bytes
        closed += count * best.bounds.closed_form_bytes
        moved += count * best.cost.traffic_bytes
        cycles_known &= double.cost.steps <= MOST_STEPS
        if cycles_known:
            timing = cycles(on, program(loops, double.tiling, 2))
            total += count * timing.total_cycles
            slowest += count * timing.bound_cycles
            core, bus = core + count * timing.compute_cycles, bus + count * timing.bus_cycles
    return {
        "compulsory_per_op": least,
        "closed_form": closed,
        "alone": moved,
        "alone_s": time.process_time() - start,
        "cycles": total if cycles_known else None,
        "bound_cycles": slowest if cycles_known else None,
        "compute_cycles": core if cycles_known else None,
        "bus_cycles": bus if cycles_known else None,
    }


def together(problem: Problem, kib: int, time_limit_s: float) -> Row:
    """Tiles and residency as one problem, and what no schedule avoids."""
    start = time.process_time()
    found = solve_network(offer(problem, Limits(kib * 1024, 16)), time_limit_s=time_limit_s)
    ends = sum(tensor.size_bytes for tensor in problem.tensors if tensor.role != "activation")
    return {
        "status": found.status,
        "compulsory": ends + sum(operator.weight_bytes for operator in problem.operators),
        "together": found.traffic_bytes or None,
        "bound": found.bound_bytes,
        "kept": len(found.kept),
        "together_s": time.process_time() - start,
    }


def attention_rows() -> list[Row]:
    """One pass against two products with scores in slow memory, per memory size; elements of one byte."""
    rows: list[Row] = []
    for name, shape in SHAPES:
        for kib in (8, 16, 64, 256):
            flash = solve(attention(*shape, bits=ELEMENTS), Limits(kib * 1024))
            parts = [solve(part, Limits(kib * 1024)).cost for part in attention_by_products(*shape, bits=ELEMENTS)]
            rows.append(
                {
                    "attention": name,
                    "kib": kib,
                    "one_pass": flash.cost.traffic_bytes if flash.cost else None,
                    "products": sum(part.traffic_bytes for part in parts if part),
                    "compulsory": flash.bounds.compulsory_bytes,
                    "order": flash.bounds.attention_order_bytes,
                }
            )
    return rows


def mb(value: str | float | None) -> str:
    """Bytes in MB."""
    return "-" if value is None else f"{float(value) / 1e6:.3f}"


def table(rows: list[Row], attentions: list[Row]) -> str:
    """Rows as Markdown."""
    lines = [HEAD]
    for row in rows:
        cells = [str(row["network"]), str(row["kib"])]
        cells += [mb(row.get(key)) for key in ("compulsory_per_op", "closed_form", "alone")]
        cells += [f"{float(row.get('alone_s') or 0):.0f}"]
        cells += [mb(row.get(key)) for key in ("compulsory", "together", "bound")]
        cells += [str(row["status"]), str(row["kept"]), f"{float(row['together_s'] or 0):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(CYCLES)
    for row in rows:
        if row.get("cycles"):
            shown = [mb(row.get(key)) for key in ("cycles", "compute_cycles", "bus_cycles", "bound_cycles")]
            lines.append(f"| {row['network']} | {row['kib']} | {' | '.join(shown)} |")
    lines.append(ATTENTION)
    for row in attentions:
        ratio = float(row["one_pass"] or 0) / float(row["order"] or 1)
        shown = [mb(row[key]) for key in ("one_pass", "products", "compulsory", "order")]
        lines.append(f"| {row['attention']} | {row['kib']} | {' | '.join(shown)} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs and writes results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    arguments = parser.parse_args()
    rows: list[Row] = []
    attentions = attention_rows()
    for name in arguments.networks:
        problem = load_problem((arguments.graphs / f"{name}.json").read_text(encoding="utf-8"))
        for kib in SIZES_KIB:
            row: Row = {"network": name, "kib": kib}
            row |= alone(problem, kib)
            row |= together(problem, kib, arguments.time_limit)
            rows.append(row)
            print(row, flush=True)
        atomic_write_json(RESULTS / "tiling.json", {"rows": rows, "attention": attentions})
        atomic_write_text(RESULTS / "tiling.md", table(rows, attentions))


if __name__ == "__main__":
    main()
