"""Floating dtypes: which of them ONNX Runtime computes with on a CPU, and how values cross the border of a file."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...ir.context import Context
from ...ir.graph import Graph, Node
from ...ir.op import CONSTANT, GETITEM, INPUT
from ...ir.types import TensorType

DOUBLE_OPS = frozenset(
    f"aten.{name}"
    for name in (
        "linear", "addmm", "mm", "bmm", "matmul", "add", "sub", "mul", "div", "neg", "abs", "relu", "sigmoid", "tanh",
        "softmax", "_softmax", "exp", "log", "sqrt", "layer_norm", "native_layer_norm", "mean", "sum", "amax", "amin",
        "view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "select", "slice", "cat",
        "stack", "clone", "_to_copy", "to", "contiguous", "detach", "alias", "flatten", "unflatten", "where", "gather",
        "embedding", "index_select", "split", "chunk", "unbind", "dropout", "full", "zeros", "ones", "eq", "gt", "lt",
    )
)  # fmt: skip
"""Operators with float64 kernels in ONNX Runtime on a CPU; a network with any other computes in float32."""

_ADDS_UP = frozenset(f"aten.{name}" for name in ("index_put", "index_add", "scatter_add", "scatter_reduce"))
"""Operators that sum or multiply what falls on one place, which ONNX Runtime does not do in float16."""

_PAIR = 2
"""Numbers that stand for a complex one."""

FILE_DTYPES = {torch.bfloat16: torch.float32}
"""Dtypes that numpy, and so what feeds a runtime, does not have -> what a file takes and gives instead."""


def without_kernels(graph: Graph) -> tuple[str, ...]:
    """Short names of the floating dtypes of a graph for which the runtime lacks kernels."""
    found: set[str] = set()
    for node in graph.nodes():
        for kind in node.type if isinstance(node.type, tuple) else (node.type,):
            if kind.dtype == torch.bfloat16:
                found.add("bf16")
            if kind.dtype == torch.float64 and node.op not in (INPUT, CONSTANT, GETITEM) and not _runs_double(node):
                found.add("f64")
            if kind.dtype == torch.float16 and _adds_up(node):
                found.add("f16")
    return tuple(sorted(found))


def _runs_double(node: Node) -> bool:
    return _operator(node) in DOUBLE_OPS


def _adds_up(node: Node) -> bool:
    """Whether several values may become one; an ``index_put`` without ``accumulate`` overwrites."""
    name = _operator(node)
    return name in _ADDS_UP and (name != "aten.index_put" or bool(node.argument("accumulate")))


def _operator(node: Node) -> str:
    """``aten.name``, whatever the overload."""
    return ".".join(node.op.name.split(".")[:2])


def for_file(graph: Graph) -> Graph:
    """The graph with the inputs and outputs of a file; the conversions from and to other dtypes are left to the caller.

    Args:
        graph: legal; its bfloat16 values are inputs, outputs, and what conversions give.
    """
    if not any(n.tensor_type.dtype in FILE_DTYPES for n in (*graph.inputs, *graph.output_nodes)):
        return graph
    context = Context(graph.dims.values())
    done: dict[Node, Node] = {}
    for node in graph.nodes():
        if node.op is INPUT:
            kind = node.tensor_type
            done[node] = context.input(
                str(node.argument("name")), TensorType(FILE_DTYPES.get(kind.dtype, kind.dtype), kind.shape)
            )
        elif _is_border(node):
            done[node] = done[node.inputs[0]]
        else:
            done[node] = context.moved(node, done)
    outputs = tuple(done[o] if isinstance(o, Node) else o for o in graph.outputs)
    signature = graph.signature
    return context.graph((done[n] for n in graph.inputs), outputs, signature and dataclasses.replace(signature))


def _is_border(node: Node) -> bool:
    """Whether a node converts between a dtype that files lack and what they have instead."""
    if node.op.name != "aten._to_copy.default" or isinstance(node.type, tuple):
        return False
    pair = {node.type.dtype, node.inputs[0].tensor_type.dtype}
    return any(pair == {own, file} for own, file in FILE_DTYPES.items())


def as_fed(value: Tensor) -> Tensor:
    """A tensor in the dtype that a file takes."""
    return value.to(FILE_DTYPES.get(value.dtype, value.dtype))


def array_of(value: Tensor) -> NDArray[Any]:
    """What a session is fed with; a complex number is a last axis of its real and its imaginary part."""
    value = as_fed(value.detach())
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    return np.ascontiguousarray(value.resolve_neg().numpy())


def tensor_of(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """What a session gave, in the dtype of the model's output."""
    value = torch.from_numpy(array if array.flags.writeable else array.copy())
    if dtype.is_complex and not value.is_complex() and value.dim() and value.shape[-1] == _PAIR:
        return torch.view_as_complex(value.contiguous()).to(dtype)
    return value.to(dtype)


def in_complex(node: Node) -> bool:
    """Whether a node computes with complex numbers or gives some."""
    kinds = [t for n in (node, *node.inputs) for t in (n.type if isinstance(n.type, tuple) else (n.type,))]
    return any(kind.dtype.is_complex for kind in kinds)
