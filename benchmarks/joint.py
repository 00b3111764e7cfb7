"""Bit widths and residency together against one after the other, on operator graphs with atomic operators.

``python benchmarks/joint.py GRAPH.json ...``. Every activation takes 8 or 4 bits. No data is looked at: the loss of
four bits is the tensor's elements times a sensitivity drawn from a log-normal distribution (seeded), and the limit
allows a share of the sum over all tensors. The budget is what the largest operator needs at 8 bits (``M_R``) times a
factor. Seconds are processor time on a busy machine.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.schedulers.joint.problem import Choice, JointAnswer, JointProblem, joint_problem
from instar.schedulers.joint.solver import solve_alternately, solve_joint, solve_sequential
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.problem_json import load_problem

RESULTS = Path(__file__).parent / "results"
SHARES = (0.01, 0.03, 0.1)
FACTORS = (0.75, 1.0)
Row = dict[str, str | int | float]

HEAD = """# Bit widths and residency together

`benchmarks/joint.py`: operators atomic, order of the file, activations of 8 or 4 bits, weights not counted. The loss of
four bits is elements x a log-normal sensitivity (seeded, no data looked at); the limit is that share of the sum. One
thread, processor time on a busy machine. KB (10^3) moved. *First widths*: they minimise bytes (or bytes x uses) under
the loss limit, then residency is optimal for them; *-*: with those widths an operator does not fit, or nothing was
found in time. *Saved*: against the better of the two.

| graph | budget / M_R | share | first widths (bytes) | (x uses) | alternating | together | bound | saved | s |
|---|---|---|---|---|---|---|---|---|---|"""


def instance(network: Problem, factor: float, share: float) -> JointProblem:
    """The network with 8 and 4 bits for every activation."""
    sizes = [tensor.size_bytes for tensor in network.tensors]
    most = max(sum(sizes[tensor] for tensor in {*operator.inputs, operator.output}) for operator in network.operators)
    generator = random.Random(0)
    losses = [size * generator.lognormvariate(0.0, 1.0) for size in sizes]
    choices = [
        [Choice(size, 0.0), Choice(-(-size // 2), loss / sum(losses))] for size, loss in zip(sizes, losses, strict=True)
    ]
    return joint_problem(network, choices, [()] * len(network.operators), int(most * factor), share)


def cell(answer: JointAnswer) -> str:
    """KB moved."""
    return f"{answer.traffic_bytes / 1e3:.1f}" if answer.picks else "-"


def main() -> None:
    """Runs and writes results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graphs", type=Path, nargs="+")
    parser.add_argument("--time-limit", type=float, default=10.0)
    arguments = parser.parse_args()
    rows: list[Row] = []
    lines = [HEAD]
    for path in arguments.graphs:
        network = load_problem(path.read_text(encoding="utf-8"))
        for factor in FACTORS:
            for share in SHARES:
                problem = instance(network, factor, share)
                start = time.process_time()
                by_bytes = solve_sequential(problem, time_limit_s=arguments.time_limit)
                by_uses = solve_sequential(problem, proxy="uses", time_limit_s=arguments.time_limit)
                alternating = solve_alternately(problem, time_limit_s=4 * arguments.time_limit)
                hint = min((a for a in (by_uses, alternating) if a.picks), key=lambda a: a.traffic_bytes, default=None)
                together = solve_joint(problem, time_limit_s=arguments.time_limit, hint=hint)
                best = min((a.traffic_bytes for a in (by_bytes, by_uses) if a.picks), default=0)
                saved = f"{1 - together.traffic_bytes / best:.1%}" if best and together.picks else "-"
                bound = max(together.bound_bytes, by_bytes.bound_bytes)
                cells = [network.model, f"{factor}", f"{share}", *map(cell, (by_bytes, by_uses, alternating, together))]
                cells += [f"{bound / 1e3:.1f}", saved, f"{time.process_time() - start:.0f}"]
                lines.append(f"| {' | '.join(cells)} |")
                answers = {"bytes": by_bytes, "uses": by_uses, "alternating": alternating, "together": together}
                traffic = {f"{name}_bytes": answer.traffic_bytes for name, answer in answers.items() if answer.picks}
                rows.append({"graph": path.stem, "factor": factor, "share": share, "bound_bytes": bound, **traffic})
                print(lines[-1], together.status, flush=True)
    atomic_write_json(RESULTS / "joint.json", {"rows": rows})
    atomic_write_text(RESULTS / "joint.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
