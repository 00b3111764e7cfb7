"""Legal graph -> ONNX model: export at sizes that fix nothing dynamic, name, stamp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir
import sympy
import torch
from torch import Tensor

from ...ir.evaluate import bind_dims
from ...ir.fx_conversion import to_flat_module
from ...ir.graph import Graph
from ...ir.plan import Plan
from ...ir.text import used_symbols
from .dtypes import as_fed, for_file
from .export import export_graph, export_module, is_written, to_proto
from .kernels import planned_runs
from .kernels.softmax import PLAIN
from .naming import interface_of, name_model
from .options import OnnxOptions
from .resize import resized_inputs


@dataclass(frozen=True)
class Lowered:
    """An ONNX model and what is expected of it.

    Attributes:
        model: the model in onnx_ir form; weights are shared with the graph.
        input_names: in order.
        output_names: in order.
        expected: operator type of the runtime (alternatives joined by ``|``) -> how often it must run.
        graph: what was written.
    """

    model: onnx_ir.Model
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    expected: Mapping[str, int]
    graph: Graph

    def proto(self) -> onnx.ModelProto:
        """As protobuf, checked."""
        return to_proto(self.model)


def lower(
    legal: Graph, plan: Plan, examples: Sequence[Sequence[Tensor]], options: OnnxOptions, *, plain: bool = False
) -> Lowered:
    """Write a legal graph; ``plain`` as torch.onnx does it by itself.

    Raises:
        LoweringError: an op has no translation, or the checker refuses the model.
    """
    opset, ir_version = options.versions
    filed = for_file(legal)
    inputs = export_inputs(filed, [as_fed(value) for value in examples[0]])
    tensors_only = filed.with_outputs(filed.output_nodes)
    clamps = options.masked_softmax != PLAIN
    with torch.no_grad():
        if is_written(tensors_only, opset=opset, plain=plain):
            sizes = bind_dims(filed, inputs)
            model = export_graph(tensors_only, sizes, opset=opset, plain=plain, clamp_softmax=clamps)
        else:
            module, shapes = to_flat_module(tensors_only, numbered=True), dynamic_shapes(filed)
            model = export_module(module, inputs, dynamic_shapes=shapes, opset=opset, plain=plain, clamp_softmax=clamps)
    interface = interface_of(filed)
    name_model(model, interface)
    model.ir_version = ir_version
    stamp(model, plan)
    return Lowered(model, interface.inputs, interface.outputs, planned_runs(legal.ops()), legal)


def export_inputs(graph: Graph, example: Sequence[Tensor]) -> list[Tensor]:
    """The example at sizes of at least 2 on every dynamic axis: torch.export takes 0 and 1 for constants."""
    sizes = bind_dims(graph, example)
    wanted = {
        name: min(max(size, 2, graph.dims[name].minimum), graph.dims[name].maximum) for name, size in sizes.items()
    }
    return resized_inputs(graph, example, wanted)


def dynamic_shapes(graph: Graph) -> list[dict[int, Any] | None]:
    """Per input: axis -> ``Dim`` with the name and range of the captured model."""
    dims = {
        name: torch.export.Dim(name, min=graph.dims[name].minimum, max=graph.dims[name].maximum)
        for name in used_symbols(graph)
    }
    shapes: list[dict[int, Any] | None] = []
    for node in graph.inputs:
        axes: dict[int, Any] = {}
        for axis, dim in enumerate(node.tensor_type.shape):
            if isinstance(dim, sympy.Symbol):
                axes[axis] = dims[str(dim)]
            elif isinstance(dim, sympy.Expr):
                axes[axis] = torch.export.Dim.DYNAMIC
        shapes.append(axes or None)
    return shapes


def stamp(model: onnx_ir.Model, plan: Plan) -> None:
    """Who made the model, from what, and by which plan."""
    model.producer_name = "instar"
    model.producer_version = plan.versions.get("instar", "")
    model.doc_string = None
    properties = {"instar.fingerprint": plan.fingerprint, "instar.plan": plan.digest()}
    properties |= {f"instar.version.{name}": version for name, version in sorted(plan.versions.items())}
    model.metadata_props.update(properties)
