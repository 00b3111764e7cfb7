"""Time and memory of every encoder on one large layer, each in a process of its own.

    OMP_NUM_THREADS=2 python benchmarks/encoders_large.py [--size 4096x4096] [--only lowrank,monarch] [--limit 600]

Weights are normal, which is the hardest case for decompositions (the spectrum falls slowest); inputs have a falling
spectrum. Processor time of all threads; memory is the largest resident set while the weight is stored, above what the
process held before with weight and statistics loaded, as a multiple of the weight's bytes in float32. Losses are shares
of the plainest way to store the format. The larger size is for factors alone. A case that takes more than ``--limit``
seconds of processor time is ended and says so. Rows are written once measured, and kept unless ``--fresh``.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from common.store import RESULTS, Row, Store, table

from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format as parse_format
from instar.passes.objective import Problem

SIZES = ("4096x4096", "4096x11008")

CASES = (
    *(("int4:g64", e) for e in ("rtn", "mse", "gptq:sweeps=0", "gptq", "gptq:act_order")),
    *(("nf4:g64:dq", e) for e in ("rtn", "gptq")),
    *(("codebook:4:g64", e) for e in ("rtn", "gptq")),
    *(("lowrank:r64", e) for e in ("svd", "whitened")),
    *(("lowrank:r512", e) for e in ("svd", "whitened")),
    *(("lowrank:r1024", e) for e in ("svd",)),
    *(("monarch:b4:r64", e) for e in ("svd", "whitened")),
    *(("monarch:b16:r4", e) for e in ("svd",)),
    *(("monarch:b32", e) for e in ("svd",)),
    *(("kron:16x16:t8", e) for e in ("svd",)),
    *(("sparse:2x4", e) for e in ("magnitude", "wanda", "obs")),
    ("int4:g64 @ sparse:2x4", "obs+gptq"),
    ("int4:g64 + lowrank:r64", "svd+mse+sequential"),
    ("lowrank:r64 + int4:g64", "whitened+mse+alternate:sweeps=3"),
)
"""Format and encoder."""

LARGER = ("lowrank", "monarch")
"""Formats of the larger size, in their plain projection: which was asked for."""


def main() -> None:
    """Measure what is missing."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, help="one size instead of both")
    parser.add_argument("--only", default="", help="formats that begin so, separated by commas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--limit", type=int, default=600, help="seconds of processor time for a case")
    parser.add_argument("--one", nargs=3, metavar=("SIZE", "FORMAT", "ENCODER"), help="measure one case and print it")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(*cast("tuple[str, str, str]", tuple(given.one)))))
        return
    store = Store("encoders_large", given.results, render, fresh=given.fresh, threads=torch.get_num_threads())
    wanted = tuple(given.only.split(","))
    for size in SIZES if given.size is None else (given.size,):
        for format, method in CASES:
            key = f"{size} {format} {method}"
            fits = (format.startswith(LARGER) and method == "svd") or size == SIZES[0]
            if key not in store.rows and format.startswith(wanted) and fits:
                store.put(key, in_a_process(size, format, method, given.limit))
                print(key, store.rows[key], flush=True)


def in_a_process(size: str, format: str, method: str, limit: int) -> Row:
    """One case, in a process of its own that ends at so many seconds of processor time.

    Raises:
        CalledProcessError: the case failed otherwise.
    """
    found = subprocess.run(
        [sys.executable, __file__, "--one", size, format, method],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit)),
    )
    if found.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"size": size, "format": format, "encoder": method, "over_s": limit}
    found.check_returncode()
    return json.loads(found.stdout.splitlines()[-1])


def measured(size: str, format: str, method: str) -> Row:
    """One case, in this process."""
    rows, columns = (int(n) for n in size.split("x"))
    generator = torch.Generator().manual_seed(rows + columns)
    weight = 0.05 * torch.randn(rows, columns, generator=generator)
    statistics = second_moment(rows, columns, generator) if encoder(method).needs_data or "mse" in method else None
    chosen, problem = parse_format(format), Problem(weight, statistics)
    encoder("rtn").encode(parse_format("int8:channel"), Problem(weight[:64, :64]))
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest set so far is forgotten
    start = time.process_time()
    encoded = encoder(method).encode(chosen, problem)
    seconds, peak = time.process_time() - start, resident_bytes("VmHWM")
    plain = problem.error(chosen.decode(encoder("rtn").encode(chosen, Problem(weight, None))))
    return {
        "size": size, "format": format, "encoder": method, "cpu_s": round(seconds, 2),
        "memory": round((peak - before) / (4 * rows * columns), 2),
        "loss": problem.error(chosen.decode(encoded)) / plain,
        "bits_per_weight": chosen.bits_per_weight((rows, columns)),
    }  # fmt: skip


def second_moment(rows: int, columns: int, generator: torch.Generator) -> WeightStatistics:
    """Of inputs whose directions fall over three decades in power."""
    x = torch.randn(2048, columns, generator=generator) * torch.logspace(0, -1.5, columns)
    x += x.roll(1, dims=1)  # neighbours are correlated
    return WeightStatistics(2048, x.T @ x / 2048, torch.ones(rows))


def resident_bytes(kind: str) -> int:
    """``VmRSS``, the resident set of this process, or ``VmHWM``, the largest since it was forgotten; Linux only."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(kind))


def render(rows: Mapping[str, Row]) -> str:
    """A row per case."""
    lines = [
        [r["size"], r["format"], r["encoder"], f"over {r['over_s']} s", None, None, None]
        if "over_s" in r
        else [r["size"], r["format"], r["encoder"], f"{r['cpu_s']:.1f}", f"{r['memory']:.1f}", f"{r['loss']:.3f}",
              f"{r['bits_per_weight']:.3f}"]
        for r in rows.values()
    ]  # fmt: skip
    return table(["weight", "format", "encoder", "CPU s", "memory / weight", "loss / plainest", "bits"], lines)


if __name__ == "__main__":
    main()
