"""How long schedules of large networks take: generated graphs of up to 5,000 operators, with a limit on wall time.

``python benchmarks/scratchpad_scale.py --operators 5000 --time-limit 300``. The graphs are convolutions, sums,
concatenations and poolings over eight channels of small images, with sums that reach back up to twelve operators.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.schedulers.scratchpad.checker import check
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor, Window
from instar.schedulers.scratchpad.solver import solve

RESULTS = Path(__file__).parent / "results"
SHAPE = (1, 16, 16, 8)
SIZE = 2048


def network(operators: int, seed: int) -> Problem:
    """Convolutions and sums on images of 2,048 bytes; one in four sums reads what was made up to twelve before."""
    choose = random.Random(seed)
    tensors = [Tensor("input", SIZE, SHAPE, "input")]
    made: list[Operator] = []
    window = Window((3, 3), pad="same")
    for place in range(operators):
        last = len(tensors) - 1
        if place > 1 and choose.random() < 0.25:
            other = max(last - choose.randint(2, 12), 1)
            made.append(Operator(f"sum{place}", "add", (last, other), place + 1))
        else:
            made.append(Operator(f"conv{place}", "conv_2d", (last,), place + 1, weight_bytes=576, window=window))
        role = "output" if place + 1 == operators else "activation"
        tensors.append(Tensor(f"t{place}", SIZE, SHAPE, role))
    readers = {tensor for operator in made for tensor in operator.inputs}
    for place, tensor in enumerate(tensors):
        if place not in readers and tensor.role == "activation":
            tensors[place] = Tensor(tensor.name, SIZE, SHAPE, "output")
    return Problem(f"generated-{operators}", tuple(tensors), tuple(made))


def main() -> None:
    """Solves each size and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", default="500,5000", help="sizes of the graphs")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds of wall time per graph")
    parser.add_argument("--budget", type=int, default=12288, help="bytes of scratchpad")
    arguments = parser.parse_args()
    rows: list[dict[str, float | int | str]] = []
    for count in (int(text) for text in arguments.operators.split(",")):
        problem = network(count, seed=1)
        start, wall = time.process_time(), time.perf_counter()
        found = solve(problem, Options(arguments.budget, time_limit_s=arguments.time_limit))
        spent = {"cpu_s": round(time.process_time() - start, 1), "wall_s": round(time.perf_counter() - wall, 1)}
        wrong = check(problem, found)
        if wrong:
            raise SystemExit(f"{problem.model}: {wrong}")
        traffic, bound = found.traffic.total_bytes, found.bound_bytes
        rows.append({"operators": count, "limit_s": arguments.time_limit, "status": found.status, "bytes": traffic,
                     "bound": bound, **spent})  # fmt: skip
        print(rows[-1], flush=True)
    atomic_write_json(RESULTS / "scratchpad_scale.json", rows)
    lines = [
        "# Schedules of large generated networks",
        "",
        "`benchmarks/scratchpad_scale.py` with little else running: wall time with its limit, and processor time.",
        "",
        "| operators | limit s | wall s | processor s | status | avoidable bytes | bound |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['operators']} | {r['limit_s']} | {r['wall_s']} | {r['cpu_s']} | {r['status']} | {r['bytes']:,} "
        f"| {r['bound']:,} |"
        for r in rows
    ]
    atomic_write_text(RESULTS / "scratchpad_scale.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
