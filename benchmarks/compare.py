"""Compares instar with the float export and with ONNX Runtime's own quantizers: size, quality, latency, compile time.

    OMP_NUM_THREADS=1 python benchmarks/compare.py --assets FOLDER [--only 'minilm/*'] [--fresh]

Writes ``compare.json`` and ``compare.md``. All files of a network are timed in the same run, their sessions taking
turns; latencies are medians. Rows of earlier runs and their files (``--work``) are kept unless ``--fresh``; they are
timed again together with the new ones. ``--peer-python`` names an interpreter with NNCF and Olive, to measure what they
make.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.compare_table import render
from common.foreign import OUTCOMES, foreign_rows, run_foreign
from common.goals import Goal, Reference, goals, values
from common.networks import FULL, NAMES, QUICK, Networks, drop
from common.peers import PEERS, NothingToQuantizeError
from common.store import Row, Store, arguments, selected

import instar
from instar.ir.errors import InstarError
from instar.targets.onnx.session import interleaved_ms, make_session

FP32, DYNAMIC = "fp32 export", "ort quantize_dynamic"


@dataclass
class Bench:
    """Everything that one run shares."""

    networks: Networks
    store: Store
    work: Path
    only: str
    threads: int
    peer_python: str | None

    def file(self, name: str, candidate: str) -> Path:
        """Where a candidate's model lies."""
        readable = "".join(c if c.isalnum() else "_" for c in candidate)
        return self.work / name / f"{readable}.onnx"

    def wanted(self, name: str, candidate: str) -> bool:
        """Whether a row is asked for and not there yet, or failed before."""
        if not selected(f"{name}/{candidate}", self.only):
            return False
        row = self.store.rows.get(f"{name}/{candidate}")
        return row is None or "error" in row or not self.file(name, candidate).exists()

    def needed(self, name: str, candidate: str) -> bool:
        """Whether a file that others refer to must be made."""
        return self.wanted(name, candidate) or f"{name}/{candidate}" not in self.store.rows


def main() -> None:
    """Measure every selected network."""
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="folder for the models")
    parser.add_argument("--peer-python", help="an interpreter with NNCF; without it its recorded outcome is printed")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    work: Path = given.work / ("quick" if given.quick else "full")
    results: Path = work if given.quick else given.results
    networks = Networks(given.assets, QUICK if given.quick else FULL)
    store = Store("compare", results, render, fresh=given.fresh, threads=given.threads)
    bench = Bench(networks, store, work, given.only, given.threads, given.peer_python)
    for name in NAMES:
        candidates = (FP32, *PEERS, *(goal.name for goal in goals(name)), *OUTCOMES)
        if any(selected(f"{name}/{candidate}", given.only) for candidate in candidates):
            compare(bench, name)
    print(render(store.rows))


def compare(bench: Bench, name: str) -> None:
    """All rows of one network."""
    (bench.work / name).mkdir(parents=True, exist_ok=True)
    if bench.needed(name, FP32):
        seconds = timed(lambda: bench.networks.export(name, bench.file(name, FP32)))
        finish_row(bench, name, FP32, seconds, {})
    for peer in PEERS:
        if bench.needed(name, peer) if peer == DYNAMIC else bench.wanted(name, peer):
            peer_row(bench, name, peer)
    if name == "minilm":
        other_peers(bench, name)
    reference: Reference | None = None
    for goal in goals(name):
        if bench.wanted(name, goal.name):
            reference = reference_of(bench, name, reference)
            instar_row(bench, name, goal, reference)
    time_all(bench, name)


def timed(call: Any) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# ---------------------------------------------------------------------------------------------- rows
def finish_row(bench: Bench, name: str, candidate: str, seconds: float, details: Row) -> None:
    """Measure the quality of a file and write its row."""
    path, networks = bench.file(name, candidate), bench.networks
    run = networks.runner(path, bench.threads)
    nbytes = path.stat().st_size
    row: Row = {"nbytes": nbytes, "metric": networks.metric(name, run), "output_error": networks.fidelity(name, run)}
    original = row if candidate == FP32 else bench.store.rows[f"{name}/{FP32}"]
    row["drop"] = drop(name, original["metric"], row["metric"])
    row["bits_per_parameter"] = 8 * nbytes / networks.parameters(name)
    row["share"] = nbytes / networks.weights_nbytes(name)
    bench.store.put(f"{name}/{candidate}", {**row, "compile_s": seconds, **details})
    print(
        f"{name}/{candidate}: {nbytes / 1e6:.2f} MB, drop {row['drop']:.4g}, error {row['output_error']:.4g}",
        flush=True,
    )


def peer_row(bench: Bench, name: str, peer: str) -> None:
    """A file made by one of ONNX Runtime's quantizers."""
    source, target = bench.file(name, FP32), bench.file(name, peer)
    calibration = bench.networks.calibration(name)
    try:
        seconds = timed(lambda: PEERS[peer](source, target, calibration))
    except NothingToQuantizeError as problem:
        bench.store.put(f"{name}/{peer}", {"error": f"nothing to quantize: {problem}"})
        return
    finish_row(bench, name, peer, seconds, {})


def other_peers(bench: Bench, name: str) -> None:
    """Peers from environments of their own, or what became of them."""
    for candidate, row in foreign_rows(bench.peer_python).items():
        if not bench.wanted(name, candidate):
            continue
        if bench.peer_python is not None and "error" not in row:
            target = bench.file(name, candidate)
            calibration = bench.networks.calibration(name)
            seconds, error = run_foreign(bench.peer_python, candidate, bench.file(name, FP32), target, calibration)
            if error is None:
                finish_row(bench, name, candidate, seconds, row)
                continue
            row = {"error": error}
        bench.store.put(f"{name}/{candidate}", row)


def instar_row(bench: Bench, name: str, goal: Goal, reference: Reference) -> None:
    """A file compiled by instar under the first of a goal's budgets that can be met."""
    problems: list[str] = []
    start = time.perf_counter()
    for budget in goal.budgets(reference):
        try:
            compiled = compile_for(bench, name, goal, budget)
        except InstarError as problem:
            problems.append(f"{budget}: {problem}")
            continue
        seconds = time.perf_counter() - start
        compiled.save(bench.file(name, goal.name))
        details = {"budget": budget, "infeasible": problems, **plan_details(compiled)}
        finish_row(bench, name, goal.name, seconds, details)
        return
    bench.store.put(f"{name}/{goal.name}", {"error": "; ".join(problems)})


def compile_for(bench: Bench, name: str, goal: Goal, budget: Mapping[str, str | int]) -> instar.Compiled:
    """One compilation as a user would run it: capture with two rows, latency at the timed shape."""
    networks = bench.networks
    exported = torch.export.export(
        networks.model(name), networks.captured_with(name), dynamic_shapes=networks.dynamic_shapes(name)
    )
    return instar.compile(
        exported,
        networks.timed_inputs(name, *networks.shapes(name)[goal.shape]),
        target="onnx",
        budget=dict(budget),
        calibration=networks.calibration(name),
        formats=goal.formats,
        activations=goal.activations,
        target_options={"threads": bench.threads, "cache": str(bench.work / "latency")},
    )


def plan_details(compiled: instar.Compiled) -> Row:
    """What was decided."""
    plan = compiled.plan
    chosen = Counter(f"{d.chosen.option.format} {d.chosen.option.kernel}" for d in plan.decisions)
    weights = sum(int(np.prod(d.shape)) for d in plan.decisions)
    return {
        "chosen": ", ".join(f"{count} {what}" for what, count in chosen.most_common()),
        "layer_bits": 8 * sum(d.chosen.nbytes for d in plan.decisions) / weights,
        "solver": plan.solver.status if plan.solver else "none",
        "stages_s": {stage.name: round(stage.seconds, 2) for stage in compiled.report.data.stages},
    }


# ---------------------------------------------------------------------------------------------- latency
def reference_of(bench: Bench, name: str, known: Reference | None) -> Reference:
    """Latencies of ``quantize_dynamic``, measured once per run beside the float export, and the sizes so far."""
    rows = rows_of(bench, name)
    nbytes = {candidate: row["nbytes"] for candidate, row in rows.items() if "nbytes" in row}
    if known is not None:
        return Reference(known.dynamic_ms, nbytes)
    times = latencies(bench, name, (FP32, DYNAMIC))
    return Reference(times[DYNAMIC], nbytes)


def rows_of(bench: Bench, name: str) -> dict[str, Row]:
    """Rows of a network by candidate."""
    return {k.partition("/")[2]: row for k, row in bench.store.rows.items() if k.startswith(f"{name}/")}


def latencies(bench: Bench, name: str, candidates: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Candidate -> shape -> median milliseconds, all candidates taking turns."""
    found: dict[str, dict[str, float]] = {candidate: {} for candidate in candidates}
    sessions = [make_session(bench.file(name, c), threads=bench.threads) for c in candidates]
    for batch, length in bench.networks.shapes(name):
        inputs = [np.ascontiguousarray(t.numpy()) for t in bench.networks.timed_inputs(name, batch, length)]
        feeds = [{i.name: x for i, x in zip(s.get_inputs(), inputs, strict=True)} for s in sessions]
        calls = [lambda s=s, f=f: s.run(None, f) for s, f in zip(sessions, feeds, strict=True)]
        times = interleaved_ms(calls, seconds=bench.networks.effort.seconds, least=15, estimate=statistics.median)
        for candidate, milliseconds in zip(candidates, times, strict=True):
            found[candidate][f"{batch}x{length}" if length else f"batch {batch}"] = milliseconds
    return found


def time_all(bench: Bench, name: str) -> None:
    """Time all files of a network together, add the ratios, and say which requirements hold."""
    rows = rows_of(bench, name)
    present = tuple(c for c, row in rows.items() if "nbytes" in row and bench.file(name, c).exists())
    times = latencies(bench, name, present)
    weights = bench.networks.weights_nbytes(name)
    nbytes = {c: rows[c]["nbytes"] for c in present}
    for candidate in present:
        row = rows[candidate] | {"ms": times[candidate]}
        for label, base in (("vs_fp32", FP32), ("vs_dynamic", DYNAMIC)):
            row[label] = {shape: ms / times[base][shape] for shape, ms in times[candidate].items()}
        bench.store.put(f"{name}/{candidate}", row)
    for goal in goals(name):
        row = bench.store.rows.get(f"{name}/{goal.name}")
        if row is not None:
            bounds = goal.requirement.bounds(nbytes)
            found = values(row, weights) if "nbytes" in row else {}
            failed = [
                f"{k} {found[k]:.4g} > {bound:g}" for k, bound in bounds.items() if k in found and found[k] > bound
            ]
            passed = bool(found) and not failed
            asked = ", ".join(f"{k} <= {v:.4g}" for k, v in bounds.items())
            bench.store.put(f"{name}/{goal.name}", {**row, "requirement": asked, "failed": failed, "passed": passed})


if __name__ == "__main__":
    main()
