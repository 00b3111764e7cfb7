"""A small model through capture, exact passes and the ONNX lowering, and compared with itself in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn
from torch.utils import _pytree as pytree

from instar.ir.capture import capture
from instar.ir.evaluate import flatten_call
from instar.ir.graph import Graph
from instar.passes.registry import exact_pipeline
from instar.passes.run import run_passes
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.target import OnnxTarget


def artifact_of(graph: Graph, inputs: Sequence[torch.Tensor]) -> OnnxArtifact:
    """The ONNX artifact of a graph after the exact passes, compared with the graph at several sizes."""
    return OnnxTarget(OnnxOptions()).build_float(run_passes(graph, exact_pipeline())[0], inputs)


def compiled_and_compared(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    others: Sequence[tuple[Any, ...]] = (),
    tolerance: float = 1e-5,
) -> OnnxArtifact:
    """The artifact of a model; its outputs on the example and on other inputs are the model's own."""
    graph = capture(model.eval(), args, kwargs, dynamic_shapes=dynamic_shapes)
    artifact = artifact_of(graph, flatten_call(graph, args, kwargs or {}))
    for inputs in (args, *others):
        with torch.no_grad():
            expected = pytree.tree_leaves(model(*inputs, **(kwargs or {})))
        found = artifact.run(flatten_call(graph, inputs, kwargs or {}))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)
    return artifact


def session_of(artifact: OnnxArtifact, **free_dims: int) -> onnxruntime.InferenceSession:
    """A session of the file, its free dimensions overridden by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, size in free_dims.items():
        options.add_free_dimension_override_by_name(name, size)
    return onnxruntime.InferenceSession(artifact.lowered.proto().SerializeToString(), options)


def shapes_of(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Name -> shape of a session's inputs or outputs."""
    return {value.name: list(value.shape) for value in values}


def value_names(model: onnx.ModelProto) -> list[str]:
    """Every name that defines a value: inputs, initializers, results of nodes."""
    graph = model.graph
    results = [name for node in graph.node for name in node.output if name]
    return [*(i.name for i in graph.input), *(i.name for i in graph.initializer), *results]
