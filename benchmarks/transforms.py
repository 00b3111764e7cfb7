"""Encoders and transforms on whole networks: every linear and convolutional weight at 4, 3 and 2 bits.

    OMP_NUM_THREADS=1 python benchmarks/transforms.py --assets FOLDER [--only vit]

Writes ``transforms.json`` and ``transforms.md``. Weights are stored in groups of 64 with float16 scales, or as a low
rank beside them; embeddings and whatever is no layer stay in float. No allocation is involved: each row is one recipe
for all layers. Metrics are on data that nothing was fitted to; the output error (relative, against the float network)
tells recipes apart where a metric is too coarse.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common.networks import METRICS, QUICK, TASKS, Batch, Effort, Networks
from common.store import Row, Store, arguments, scratch, selected, table
from torch import Tensor

from instar import optimize
from instar.ir.calibration.batches import flatten_batch
from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.channels import channel_statistics
from instar.ir.calibration.learned import CalibrationSettings
from instar.ir.constants import ConstantHandle
from instar.ir.evaluate import call
from instar.ir.graph import Graph, Node
from instar.ir.layers import EMBEDDING, MATMUL, Layer, find_layers
from instar.ir.options import Option
from instar.passes.encoders import encoder
from instar.passes.formats import format as parse_format
from instar.passes.objective import Problem
from instar.passes.rewrite import substitute
from instar.passes.transforms import TRANSFORMS, BeforeEncoding, Evidence, Rewriting

NAMES = ("vit", "chargpt", "resnet20", "minilm")
BITS = (4, 3, 2)
EFFORT = Effort(batches=8, batch=4, limit=512, fidelity=128)


@dataclass(frozen=True)
class Recipe:
    """One way to store all weights: a transform before it, what is stored, and the encoder."""

    name: str
    encoder: str
    transform: str = ""
    format: str = "int{}:g64"


RECIPES = (
    Recipe("round to nearest", "rtn"),
    Recipe("clip search", "mse"),
    Recipe("GPTQ", "gptq"),
    Recipe("GPTQ, act-order", "gptq:act_order"),
    Recipe("AWQ", "mse", "awq"),
    Recipe("AWQ, GPTQ", "gptq", "awq"),
    Recipe("rotated", "rtn", "rotate-residual"),
    Recipe("rotated, GPTQ", "gptq", "rotate-residual"),
    Recipe("permuted", "mse", "permute-channels"),
    Recipe("permuted, GPTQ", "gptq", "permute-channels"),
    Recipe("LoRC, rank 8", "svd+mse+sequential", format="int{}:g64 + lowrank:r8"),
    Recipe("LQ-LoRA, rank 8", "whitened+gptq+alternate:sweeps=5", format="lowrank:r8 + int{}:g64"),
)


def main() -> None:
    """Measure every selected network."""
    parser = arguments(__doc__)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK if given.quick else EFFORT)
    store = Store(
        "transforms", scratch() if given.quick else given.results, render, fresh=given.fresh, threads=given.threads
    )
    for name in NAMES:
        if selected(name, given.only):
            measure(networks, name, store)
    print(render(store.rows))


def measure(networks: Networks, name: str, store: Store) -> None:
    """All recipes on one network; a transform is fitted once for each width, the network calibrated behind it."""
    graph = optimize(networks.model(name), networks.captured_with(name), dynamic_shapes=networks.dynamic_shapes(name))
    batches = networks.calibration(name)
    if f"{name} float" not in store.rows:
        store.put(f"{name} float", {"network": name, "metric": networks.metric(name, runner(graph))})
    plain = learn(graph, batches)
    for bits in BITS:
        behind: dict[tuple[str, str], tuple[Graph, Evidence]] = {}
        for recipe in RECIPES:
            key = f"{name} {bits} {recipe.name}"
            if key in store.rows:
                continue
            fitted = recipe.transform, recipe.encoder if TRANSFORMS_NEED.get(recipe.transform) else ""
            if fitted not in behind:
                behind[fitted] = prepared(graph, plain, batches, recipe, bits)
            found = one(networks, name, *behind[fitted], recipe, bits)
            store.put(key, {"network": name, "bits": bits, "recipe": recipe.name} | found)
            print(key, found["metric"], found["output_error"], flush=True)


TRANSFORMS_NEED = {name: cls.needs_data for name, cls in TRANSFORMS.items()}
"""Transforms that are fitted to data are fitted for the encoder behind them."""


def prepared(
    graph: Graph, plain: Evidence, batches: Sequence[Batch], recipe: Recipe, bits: int
) -> tuple[Graph, Evidence]:
    """The graph behind the transform of a recipe, and its statistics."""
    if not recipe.transform:
        return graph, plain
    after = transformed(graph, plain, TRANSFORMS[recipe.transform](), f"int{bits}:g64", recipe.encoder)
    return after, plain if after is graph else learn(after, batches)


def learn(graph: Graph, batches: Sequence[Batch]) -> Evidence:
    """Statistics of a graph."""
    layers = find_layers(graph)[0]
    calibrator, flat = Calibrator(graph, layers, CalibrationSettings()), [flatten_batch(graph, b, 0) for b in batches]
    for inputs in flat:
        calibrator.add(inputs)
    weights = {name: entry.weight for name, entry in calibrator.statistics().layers.items()}
    return Evidence(weights, channel_statistics(graph, layers, flat))


def transformed(graph: Graph, known: Evidence, chosen: BeforeEncoding, format: str, encoder: str) -> Graph:
    """The graph behind a transform that is fitted for a format and an encoder."""
    layers = find_layers(graph)[0]
    options = {layer.name: [Option(format, encoder)] for layer in layers}
    found = chosen.fit(graph, layers, Evidence(known.weights, known.channels, options))
    return Rewriting(chosen, {name: entry.tensor for name, entry in found.items()})(graph).graph


def one(networks: Networks, name: str, graph: Graph, known: Evidence, recipe: Recipe, bits: int) -> Row:
    """Encode all layers, put the decoded weights into the graph, and measure it."""
    start = time.process_time()
    replaced: dict[Node, Node] = {}
    nbytes, loss = 0, 0.0
    for layer in find_layers(graph)[0]:
        if EMBEDDING not in layer.kinds:
            decoded, size, error = stored(layer, known, recipe, bits)
            handle = layer.weight.handle
            constant = ConstantHandle.of(handle.name, decoded.to(handle.type.dtype), handle.kind, handle.aliases)
            replaced[layer.weight] = graph.context.constant_of(constant)
            nbytes, loss = nbytes + size, loss + error
    seconds = time.process_time() - start
    model = runner(substitute(graph, replaced))
    return {
        "nbytes": nbytes,
        "predicted_loss": loss,
        "encode_s": round(seconds, 2),
        "metric": networks.metric(name, model),
        "output_error": networks.fidelity(name, model),
    }


def stored(layer: Layer, known: Evidence, recipe: Recipe, bits: int) -> tuple[Tensor, int, float]:
    """A layer's weight as it is decoded, its bytes, and the predicted loss."""
    shape, chosen = layer.stored_shape, parse_format(recipe.format.format(bits))
    method = recipe.encoder
    if chosen.refuses(shape) is not None:  # too small for a low rank beside the codes
        chosen, method = parse_format(f"int{bits}:g64"), "gptq"
    problem = Problem(layer.matrix().reshape(shape), known.weights[layer.name])
    encoded = encoder(method).encode(chosen, problem)
    decoded = chosen.decode(encoded)
    matrix = decoded.reshape(layer.rows, -1)
    return (matrix.T if layer.kind == MATMUL else decoded).contiguous(), encoded.nbytes, problem.error(decoded)


def runner(graph: Graph) -> Any:
    """A graph that is called like the network."""

    def model(*args: Tensor) -> Any:
        with torch.no_grad():
            return call(graph, args)

    return model


def render(rows: Mapping[str, Row]) -> str:
    """A table for each network: recipes down, widths across."""
    parts: list[str] = []
    for name in NAMES:
        own = [row for row in rows.values() if row["network"] == name]
        reference = next((row["metric"] for row in own if "recipe" not in row), None)
        if reference is None:
            continue
        by_key = {(row["recipe"], row["bits"]): row for row in own if "recipe" in row}
        columns = ["", *(f"{bits} bits: {what}" for bits in BITS for what in (METRICS[TASKS[name]], "output error"))]
        lines = [
            [recipe.name, *(value for bits in BITS for value in cells(by_key.get((recipe.name, bits))))]
            for recipe in RECIPES
        ]
        parts.append(f"## {name}\n\nFloat: {reference:.4g}.\n\n{table(columns, lines)}")
    return "\n\n".join(parts)


def cells(row: Row | None) -> tuple[str, str]:
    """Metric and output error of one cell."""
    return ("", "") if row is None else (f"{row['metric']:.4g}", f"{row['output_error']:.4f}")


if __name__ == "__main__":
    main()
