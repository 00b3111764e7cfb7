"""Networks for the scratchpad target: quantized by what a few inputs show, without a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import instar
from instar.compilation.rough_build import build_rough
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph, Node
from instar.ir.layers import find_layers
from instar.ir.options import STATIC_INT8, Arithmetic, Option
from instar.ir.plan import StaticQuantization
from instar.passes.activations import parameters_of_range
from instar.passes.static_values import static_values
from instar.targets.scratchpad.artifact import ScratchpadArtifact
from instar.targets.scratchpad.options import ScratchpadOptions
from instar.targets.scratchpad.target import KERNEL, ScratchpadTarget


def ranges(graph: Graph, values: Sequence[Node], inputs: Sequence[Tensor]) -> dict[Node, StaticQuantization]:
    """Parameters that cover what one run shows."""
    found: dict[Node, StaticQuantization] = {}

    def observe(node: Node, value: Tensor) -> None:
        if node in values:
            known = parameters_of_range(float(value.min()), float(value.max()))
            found[node] = StaticQuantization(known.scale, known.zero_point)

    with torch.no_grad():
        evaluate(graph, inputs, observe)
    return found


def compiled(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    options: ScratchpadOptions,
    spelling: Callable[[str], str] = lambda layer: "int8:channel",
) -> ScratchpadArtifact:
    """A network with every layer in integers, scheduled."""
    graph = instar.optimize(model.eval(), inputs)
    layers, _ = find_layers(graph, min_elements=0)
    target = ScratchpadTarget(options)
    chosen = {
        layer.name: Option(spelling(layer.name), "rtn", STATIC_INT8, KERNEL, _arithmetic(spelling(layer.name)))
        for layer in layers
    }
    static = ranges(graph, static_values(graph, layers), inputs)
    found = build_rough(graph, layers, chosen, static, target, inputs)
    assert isinstance(found, ScratchpadArtifact)
    return found


def _arithmetic(spelling: str) -> Arithmetic:
    return Arithmetic.CODES if spelling.endswith(":channel") else Arithmetic.INT8_ROWS
