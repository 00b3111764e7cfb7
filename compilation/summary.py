"""The captured model in numbers."""

from __future__ import annotations

from ..ir.analysis import flops
from ..ir.evaluate import bind_dims
from ..ir.graph import Graph
from ..ir.text import type_text, used_symbols
from ..ir.types import UNBOUNDED
from ..report.data import ModelSummary
from .entry import Request


def summary(request: Request, graph: Graph) -> ModelSummary:
    """Counts, bytes and FLOPs of the captured model and of ``graph``, the model after the exact passes."""
    sizes = bind_dims(graph, request.example)
    used = used_symbols(graph)
    dims = (d for d in graph.dims.values() if d.name in used)
    constants = request.captured.constants()
    return ModelSummary(
        name=request.model_name,
        nodes_captured=len(request.captured.nodes()),
        nodes_optimized=len(graph.nodes()),
        ops=dict(graph.ops()),
        parameters=sum(n.tensor_type.numel() for n in constants),
        nbytes=sum(n.handle.nbytes for n in constants),
        flops=sum(flops(graph, sizes).values()),
        dims=tuple(f"{d.name} in [{d.minimum}, {d.maximum if d.maximum < UNBOUNDED else 'unbounded'}]" for d in dims),
        inputs=tuple(f"{n.argument('name')}: {n.type}" for n in graph.inputs),
        outputs=tuple(type_text(n.type) for n in graph.output_nodes),
    )
