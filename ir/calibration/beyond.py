"""Layers that no gradient reaches: behind them is an operator without a derivative, or integers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from ..evaluate import bind_dims, evaluate_node
from ..graph import Graph, Node
from ..layers import Layer

SHOWN = 3
"""Layers that a note names before it counts the others."""


def is_differentiable(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is floating and depends on what requires a gradient."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad


class BeyondGradients:
    """Keeps gradients out of operators that have none, and says which layers that cuts off.

    Attributes:
        layers: names of the layers that are cut off.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._carrying: set[Node] = set()
        self._cuts: dict[Node, None] = {}
        self._causes: tuple[Node, ...] = ()
        self._known: dict[str, bool] = {}
        self._sizes: Mapping[str, int] = {}
        self.layers: frozenset[str] = frozenset()

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """A forward pass on these inputs begins."""
        self._sizes = bind_dims(self._graph, inputs)

    def passed(self, node: Node, value: Any, values: Mapping[Node, Any]) -> Any:
        """A value as the nodes behind it may see it: detached where torch has no derivative for its operator."""
        depends = any(_carries(values.get(source)) for source in node.inputs)
        if depends and _carries(value) and not self._has_derivative(node, values):
            value = tuple(_detached(v) for v in value) if isinstance(value, tuple | list) else _detached(value)
        if _carries(value):
            self._carrying.add(node)
        elif depends:
            self._cuts[node] = None
        return value

    def _has_derivative(self, node: Node, values: Mapping[Node, Any]) -> bool:
        """Whether torch differentiates the operator, which is tried once, on the node at hand alone."""
        if node.op.name not in self._known:
            alone = {source: _leaf(values[source]) for source in node.inputs}
            leaves = [part for leaf in alone.values() for part in _parts(leaf) if _carries(part)]
            try:
                made = evaluate_node(node, alone, self._sizes)
                parts = [part for part in _parts(made) if is_differentiable(part)]
                torch.autograd.grad([part.sum() for part in parts], leaves, allow_unused=True)
                self._known[node.op.name] = True
            except RuntimeError:  # what torch raises where a derivative is missing has no class of its own
                self._known[node.op.name] = False
        return self._known[node.op.name]

    def decide(self, layers: Sequence[Layer]) -> None:
        """After a forward pass: which layers are cut off from every output."""
        pending = [node for node in self._graph.output_nodes if node in self._carrying or self._is_use(node, layers)]
        reached: set[Node] = set()
        while pending:
            node = pending.pop()
            if node not in reached:
                reached.add(node)
                pending.extend(i for i in node.inputs if i not in self._cuts)
        uses = {layer.name: {use.node for use in layer.uses} for layer in layers}
        self.layers = frozenset(name for name, nodes in uses.items() if reached.isdisjoint(nodes))
        read = {*self._graph.output_nodes, *(i for node in reached for i in node.inputs)}
        self._causes = tuple(node for node in self._cuts if node in read)

    def notes(self, others: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """What is cut off and by what, for the report; ``others`` are layers that have a note of their own."""
        names = sorted(self.layers - others)
        if not names:
            return ()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        causes = list(dict.fromkeys(f"{node.op.short_name} ({node.origin})" for node in self._causes))[:SHOWN]
        behind = f" through {', '.join(causes)}" if causes else ""
        return (
            f"no gradient reaches {', '.join(names[:SHOWN])}{more}{behind}; their losses are relative errors of "
            f"their own "
            "outputs, not of the model's",
        )

    def _is_use(self, node: Node, layers: Sequence[Layer]) -> bool:
        return any(use.node is node for layer in layers for use in layer.uses)


def _parts(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, tuple | list) else (value,)


def _carries(value: Any) -> bool:
    return any(isinstance(part, Tensor) and part.requires_grad for part in _parts(value))


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _leaf(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_leaf(v) for v in cast("Sequence[Any]", value))
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
