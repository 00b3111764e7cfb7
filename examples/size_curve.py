"""Size against output error of MiniLM: one format for all layers, and plans of the allocation. Takes ten minutes.

    python examples/size_curve.py && python docs/img/make_picture.py

All plans share calibration and encoder, and are judged on sentences that calibration did not see. Sizes are those of
the constants; a file's graph adds some hundred kilobytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import demo
import minilm
import torch

import instar
from instar.compilation.allocation_stage import Allocation, decide, predicted
from instar.compilation.compiled import AsModel
from instar.compilation.entry import start
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.ir.evaluate import evaluate
from instar.ir.plan_findings import SolverOutcome

OUTPUT = Path(__file__).parents[1] / "docs" / "img" / "minilm.json"
UNIFORM = (
    "int8:channel",
    "int6:g128",
    "int5:g128",
    "int4:g32",
    "int4:g128",
    "int3:g32",
    "int3:g128",
    "int2:g16",
    "int2:g32",
)
SIZES_MB = (7.5, 8.0, 9.0, 10.0, 12.0, 14.0, 17.0, 20.0, 23.0)


def main() -> None:
    """Measure uniform plans and the allocation's own."""
    torch.set_num_threads(1)
    source = minilm.build()
    seen, held_out = demo.split()
    texts = [*seen, *(" ".join(seen[i : i + 6]) for i in range(0, len(seen), 6))]
    prepared = priced(source, minilm.Calibration(texts))
    original = demo.embeddings(source["model"], held_out)
    points: list[dict[str, Any]] = []

    def measure(series: str, label: str, allocation: Allocation) -> None:
        graph = prepared.unchecked(prepared.plan(allocation))
        model: Callable[..., Any] = AsModel(lambda inputs: evaluate(graph, inputs), prepared.captured)
        error = demo.quality(original, demo.embeddings(model, held_out))["output_error"]
        size = predicted(allocation.decisions, prepared.totals)["size"] / 1e6
        points.append({"series": series, "label": label, "mb": round(size, 3), "error": round(error, 4)})
        print(points[-1], flush=True)

    for text in UNIFORM:
        measure("one format for all layers", text, uniform(prepared, text))
    for size in SIZES_MB:
        measure("instar", "", prepared.allocate(instar.Budget(size=int(size * 1e6))))
    about = f"all-MiniLM-L6-v2; error of {len(held_out)} held-out sentence vectors"
    OUTPUT.write_text(json.dumps({"about": about, "points": points}, indent=1) + "\n", encoding="utf-8")


def priced(source: dict[str, Any], calibration: minilm.Calibration) -> Prepared:
    """The model with the price of every format."""
    settings = {"formats": ["fp32", *UNIFORM], "activations": ["none"], "target": "onnx"}
    request = start(
        source["model"], source["args"], None, source["dynamic_shapes"], None, settings, calibration=calibration
    )
    return prepare(request, calibration=calibration)


def uniform(prepared: Prepared, text: str) -> Allocation:
    """Every layer in one format; layers that refuse it stay float."""
    decisions = tuple(
        decide(
            prices,
            next((o.option.name for o in prices.options if o.option.format == text), prices.options[0].option.name),
        )
        for prices in prepared.prices
    )
    return Allocation(decisions, SolverOutcome("uniform", 0.0, 0.0, 0.0, "none", 0), ())


if __name__ == "__main__":
    main()
