"""Encoders: time per layer and format, and the objective against round to nearest.

Run ``OMP_NUM_THREADS=1 python benchmarks/encoders.py [--size 4096]``; writes ``benchmarks/results/encoders.json`` and
``encoders.md``. Weights are normal, inputs have a falling spectrum (three decades in power), everything is seeded.
Losses are ``tr((W - Q) H (W - Q)^T)`` as a share of round to nearest's. A layer is factored once for all formats.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from instar.ir.files import atomic_write_json, atomic_write_text
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format as parse_format
from instar.passes.objective import Problem, weighted_error

RESULTS = Path(__file__).parent / "results"
SHAPES = ((384, 384), (1536, 384), (384, 1536))
FORMATS = ("int8:channel", "int6:g64", "int4:g32", "int4:g128:asym", "int3:g64", "int2:g64")
ENCODERS = ("rtn", "mse", "gptq", "gptq:act_order")


@dataclass(frozen=True)
class Measurement:
    """One cell: CPU times in milliseconds, loss as a share of round to nearest's."""

    rows: int
    columns: int
    format: str
    encoder: str
    factor_ms: float
    encode_ms: float
    loss: float


def inputs(rows: int, columns: int) -> tuple[torch.Tensor, WeightStatistics]:
    """A weight and the statistics of its inputs."""
    generator = torch.Generator().manual_seed(rows + columns)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -1.5, columns)
    x = torch.randn(2048, columns, generator=generator) @ mixing.T
    weight = 0.05 * torch.randn(rows, columns, generator=generator)
    return weight, WeightStatistics(2048, x.T @ x / 2048, torch.ones(rows))


def measure(rows: int, columns: int) -> list[Measurement]:
    """Every format with every encoder on one weight."""
    weight, statistics = inputs(rows, columns)
    found: list[Measurement] = []
    for name in ENCODERS:
        chosen = encoder(name)
        problem = Problem(weight, statistics)
        start = time.thread_time()
        chosen.prepare(problem)
        factor_ms = 1e3 * (time.thread_time() - start)
        for text in FORMATS:
            f = parse_format(text)
            start = time.thread_time()
            encoded = chosen.encode(f, problem)
            encode_ms = 1e3 * (time.thread_time() - start)
            loss = weighted_error(weight, f.decode(encoded), statistics)
            found.append(Measurement(rows, columns, text, name, factor_ms, encode_ms, loss))
    plain = {m.format: m.loss for m in found if m.encoder == "rtn"}
    return [replace(m, loss=m.loss / plain[m.format]) for m in found]


def table(measurements: list[Measurement]) -> str:
    """Markdown: a row per shape and format, a column per encoder with milliseconds and the share of the loss."""
    cells = {(m.rows, m.columns, m.format, m.encoder): m for m in measurements}
    lines = ["| weight | format | " + " | ".join(f"{e}, ms / loss" for e in ENCODERS) + " |", "|---" * 6 + "|"]
    for rows, columns, text in dict.fromkeys(key[:3] for key in cells):
        row = [cells[rows, columns, text, e] for e in ENCODERS]
        lines.append(
            f"| {rows}x{columns} | {text} | " + " | ".join(f"{m.encode_ms:.0f} / {m.loss:.3f}" for m in row) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, help="one square weight of this size instead of the shapes of MiniLM")
    size: int | None = parser.parse_args().size
    torch.set_num_threads(1)
    inputs(64, 64)
    measurements = [m for shape in (SHAPES if size is None else ((size, size),)) for m in measure(*shape)]
    text = table(measurements)
    print(text)
    name = "encoders" if size is None else f"encoders_{size}"
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": 1, "torch": torch.__version__}
    atomic_write_json(RESULTS / f"{name}.json", {"machine": machine, "measurements": [asdict(m) for m in measurements]})
    header = "CPU times in ms of one thread, losses as a share of round to nearest's; see `benchmarks/encoders.py`.\n\n"
    atomic_write_text(RESULTS / f"{name}.md", header + text)


if __name__ == "__main__":
    main()
