"""Compiles all-MiniLM-L6-v2 to ONNX under a size and a latency budget and compares it with the original.

    make demo

The sentences that quality is measured on take no part in compiling. Everything is written to ``build/``: the model, its
plan, a report to read (``report.html``) and the numbers of the table (``demo.json``).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from minilm import Calibration, build, encode, load_tokenizer, sentences
from rich.console import Console
from rich.table import Table
from torch import Tensor

import instar

BUDGET = instar.Budget(size="15%", latency="65%")
HELD_OUT_EVERY = 4
"""Every fourth sentence is held out."""
REPEATS = 15

Encoder = Callable[..., Tensor]
console = Console()


def split() -> tuple[list[str], list[str]]:
    """Sentences to compile with, and sentences to judge by."""
    lines = sentences()
    held_out = lines[::HELD_OUT_EVERY]
    return [line for line in lines if line not in set(held_out)], held_out


def compile_model(seen: list[str], source: dict[str, Any]) -> instar.Compiled:
    """The example compiled under both budgets, or under the size budget where this machine has no fast int8 kernels."""
    texts = [*seen, *(" ".join(seen[start : start + 6]) for start in range(0, len(seen), 6))]
    with console.status("compiling") as status:

        def report(stage: str, what: str) -> None:
            status.update(f"{stage}: {what}")

        def compiled(budget: instar.Budget) -> instar.Compiled:
            arguments = {name: source[name] for name in ("model", "args", "dynamic_shapes")}
            calibration = Calibration(texts)
            return instar.compile(**arguments, budget=budget, pipeline="cpu", calibration=calibration, progress=report)

        try:
            return compiled(BUDGET)
        except instar.InfeasibleError as problem:
            console.print(f"[yellow]not on this machine:[/] {problem}\ncompiling again for size alone", highlight=False)
            return compiled(instar.Budget(size=BUDGET.size))


def embeddings(model: Encoder, texts: list[str]) -> Tensor:
    """One unit vector per text, ``[texts, 384]``."""
    tokenizer = load_tokenizer()
    with torch.no_grad():
        return torch.cat([model(*encode(tokenizer, texts[start : start + 10])) for start in range(0, len(texts), 10)])


def quality(original: Tensor, found: Tensor) -> dict[str, float]:
    """Relative error of the vectors, and how often the nearest other sentence is the same one."""
    return {
        "output_error": float((found - original).norm() / original.norm()),
        "same_neighbour": float((nearest(original) == nearest(found)).float().mean()),
    }


def nearest(vectors: Tensor) -> Tensor:
    """Per vector, the index of the most similar other one."""
    return (vectors @ vectors.T).fill_diagonal_(-1.0).argmax(dim=1)


def save(compiled: instar.Compiled, folder: Path) -> Path:
    """Writes model, plan and report; returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    compiled.save(folder / "model.onnx")
    compiled.plan.save(folder / "plan.json")
    compiled.report.save(folder / "report.html")
    compiled.report.save(folder / "report.json")
    return folder / "model.onnx"


def measure(compiled: instar.Compiled, path: Path, source: dict[str, Any], held_out: list[str]) -> dict[str, Any]:
    """Size and latency of the original in PyTorch, of its float export and of the artifact; quality of the artifact."""
    console.print("measuring", highlight=False)
    found = instar.bench(
        path, source["model"], source["args"], dynamic_shapes=source["dynamic_shapes"], repeats=REPEATS
    )
    judged = quality(embeddings(source["model"], held_out), embeddings(compiled, held_out))
    rows = [{"name": row.name, "nbytes": row.nbytes, "latency_ms": row.latency_ms} for row in found.rows]
    return {"rows": rows, "held_out": len(held_out), **judged}


def table(result: dict[str, Any]) -> Table:
    """The one table."""
    original, exported, compiled = result["rows"]
    names = ("original, PyTorch", "original, ONNX float32", "compiled by instar")
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, title in enumerate(("all-MiniLM-L6-v2", "size", "", "latency", "", "output error", "same neighbour")):
        grid.add_column(title, justify="right" if number else "left")
    qualities = (("0 %", "100 %"), ("", ""), (f"{result['output_error']:.1%}", f"{result['same_neighbour']:.0%}"))
    for name, row, judged in zip(names, (original, exported, compiled), qualities, strict=True):
        size, latency = row["nbytes"] / exported["nbytes"], row["latency_ms"] / exported["latency_ms"]
        numbers = f"{row['nbytes'] / 1e6:.1f} MB", f"{size:.0%}", f"{row['latency_ms']:.1f} ms", f"{latency:.0%}"
        grid.add_row(name, *numbers, *judged)
    return grid


def main() -> None:
    """Compile, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for the results")
    folder: Path = parser.parse_args().out
    torch.set_num_threads(1)
    start = time.perf_counter()
    source = build()
    seen, held_out = split()
    compiled = compile_model(seen, source)
    seconds = time.perf_counter() - start
    path = save(compiled, folder)
    result = measure(compiled, path, source, held_out) | {"compile_seconds": seconds}
    (folder / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(table(result))
    batch, length = source["args"][0].shape
    how = f"inputs {batch} x {length}, one thread, medians of runs that take turns"
    judged = f"quality on {len(held_out)} sentences that compiling did not see; compiled in {seconds:.0f} s"
    wrote = f"wrote {folder}/: model.onnx, plan.json, report.html (what was decided, and why), demo.json"
    console.print(f"\n{how}; {judged}\n{wrote}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
