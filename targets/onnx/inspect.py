"""Which ops of a graph the exporter cannot write, found without exporting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx

from ...ir.errors import PassError
from ...ir.evaluate import evaluate_node
from ...ir.graph import Graph, Node
from ...ir.op import CONSTANT, GETITEM, INPUT
from ...ir.types import SMALL_INTEGERS, TensorType
from .dtypes import in_complex
from .emit_aten import aten_translations
from .export import OPSET, quiet
from .kernels import translations
from .torchlib import exporter, has_translation, known_operator


def untranslatable(graph: Graph, sizes: Mapping[str, int], opset: int = OPSET) -> tuple[Node, ...]:
    """Nodes whose op has no translation, nor do the ops that it decomposes into; in order.

    Those with complex numbers count as well where the translation is not one for them, and those on small integers,
    for which the runtime may lack kernels.

    Args:
        graph: the graph.
        sizes: a value for every named dimension.
        opset: of the default domain.
    """
    ours = frozenset(translations()) | frozenset(aten_translations())

    def written(overload: Any) -> bool:
        return overload in ours or has_translation(overload, opset)

    judged: dict[Any, bool] = {}
    found: list[Node] = []
    for node in graph.nodes():
        if node.op in (INPUT, CONSTANT, GETITEM):
            continue
        overload = node.op.overload
        if in_complex(node):
            if not any(known.is_complex for known in known_operator(overload, opset)):
                found.append(node)
            continue
        if any(kind.dtype in SMALL_INTEGERS for kind in _kinds(node)):
            found.append(node)
            continue
        if overload not in judged:
            judged[overload] = written(overload) or all(map(written, _parts(node, sizes, opset)))
        if not judged[overload]:
            found.append(node)
    return tuple(found)


def _kinds(node: Node) -> list[TensorType]:
    return [t for n in (*node.inputs, node) for t in (n.type if isinstance(n.type, tuple) else (n.type,))]


def _parts(node: Node, sizes: Mapping[str, int], opset: int) -> frozenset[Any]:
    """The overloads that a node decomposes into; none where it cannot be traced alone."""
    sources = tuple(dict.fromkeys(node.inputs))
    examples = [torch.empty(n.tensor_type.sizes(sizes), dtype=n.tensor_type.dtype) for n in sources]

    def compute(*values: Tensor) -> Any:
        return evaluate_node(node, dict(zip(sources, values, strict=True)), sizes)

    with quiet():
        table = dict(exporter(opset).decompositions)
    try:
        traced = make_fx(compute, table, tracing_mode="fake")(*examples)
    except PassError:
        return frozenset()
    calls = (n.target for n in traced.graph.nodes if n.op == "call_function")
    return frozenset(target for target in calls if isinstance(target, OpOverload))
