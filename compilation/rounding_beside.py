"""What rounding values to calibrated codes loses beside what layers lose by their inputs.

A layer's price of static rounding is what noise in its input does through its own product. A rounded value may have
other readers (the sum behind a residual block, a norm), and a layer's output may be rounded although no layer reads it
(queries and keys of attention, what a table of an activation function looks up, the last sum of a block). The gradient
of the output at the value counts all of that at once; what is left of it is shared by the layers that read the value
or, where there are none, by those that make it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.calibration.learned import Statistics
from ..ir.graph import Node
from ..ir.layers import EMBEDDING, Layer
from ..ir.plan import StaticQuantization
from ..passes.static_values import ABSORBED, ADD


def rounding_beside(
    layers: Sequence[Layer], static: Mapping[Node, StaticQuantization], statistics: Statistics | None
) -> dict[str, float]:
    """Layer -> predicted loss of rounding values that its input does not account for.

    Args:
        layers: that may compute on codes.
        static: rounded value -> its codes.
        statistics: of calibration; without gradients nothing is known, and nothing is added.
    """
    found: dict[str, float] = {}
    if statistics is None or not statistics.reactions:
        return found
    for value, codes in static.items():
        reaction = statistics.reactions.get(value, 0.0)
        readers = _readers(layers, value)
        known = sum(statistics.layers[name].input_gradient for name in readers)
        payers = readers or _makers(layers, value)
        for name in payers:
            share = max(reaction - known, 0.0) / len(payers)
            found[name] = found.get(name, 0.0) + share * codes.scale**2 / 12.0
    return found


def _readers(layers: Sequence[Layer], value: Node) -> list[str]:
    return [layer.name for layer in layers if any(u.input is value and u.kind != EMBEDDING for u in layer.uses)]


def _makers(layers: Sequence[Layer], value: Node) -> list[str]:
    """Layers whose products it is, behind activations and sums."""
    made = {use.node: layer.name for layer in layers for use in layer.uses}
    waiting, seen, found = [value], {value}, dict[str, None]()
    while waiting:
        node = waiting.pop()
        if node in made:
            found[made[node]] = None
        elif node.op.name in (*ABSORBED, ADD):
            fresh = [source for source in node.inputs if source not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return list(found)
