"""What latency is measured of: one layer's shape under one kernel, as a small ONNX model.

The models hold random numbers; only sizes decide the time. Kernels

* of linear layers: ``float``, ``int8`` (dynamic, per tensor), ``int8_token``, ``nbits:<bits>:<block>:<level>``;
* of convolutions: ``float``, ``int8`` (inside a run of quantized layers);
* of the softmax of masked scores: ``clamped``, ``plain``;
* of attention: ``fused``, ``unfused:clamped``, ``unfused:plain``;
* of embeddings: ``float``, ``half``, ``packed:<bits>:<group>``, ``block:<bits>:<block>``.

A weight that is expanded while the model loads costs what its kernel costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from numpy.typing import NDArray

from ...ir.errors import LoweringError
from ...ir.packing import row_bytes
from ...ir.plan import Plan
from ...passes.run import run_passes
from .cases_attention import KERNELS as ATTENTION_KERNELS
from .cases_attention import AttentionShape
from .contrib import DOMAIN
from .export import export_module, to_proto
from .kernels.softmax import SOFTMAX_FLOOR
from .legalize import passes
from .lower import lower

Array = NDArray[Any]
FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True, order=True)
class Linear:
    """``tokens`` rows times ``[columns, rows]``, with or without a bias."""

    tokens: int
    columns: int
    rows: int
    bias: bool = True

    @property
    def key(self) -> str:
        """A stable name of the shape."""
        return f"linear {self.tokens}x{self.columns}x{self.rows}{' bias' if self.bias else ''}"


@dataclass(frozen=True, order=True)
class Conv:
    """A convolution over ``[batch, channels, *size]``."""

    batch: int
    channels: int
    size: tuple[int, ...]
    rows: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def key(self) -> str:
        """A stable name of the shape."""
        parts = [(self.batch, self.channels, *self.size), (self.rows, *self.kernel)]
        parts += [self.stride, self.padding, self.dilation]
        return f"conv {' '.join('x'.join(map(str, p)) for p in parts)} g{self.groups}"


@dataclass(frozen=True, order=True)
class Embedding:
    """``tokens`` rows out of a table ``[vocabulary, columns]``."""

    tokens: int
    vocabulary: int
    columns: int

    @property
    def key(self) -> str:
        """A stable name of the shape."""
        return f"embedding {self.tokens} of {self.vocabulary}x{self.columns}"


@dataclass(frozen=True, order=True)
class MaskedSoftmax:
    """``rows`` of scores, ``columns`` each, half of them minus infinity."""

    rows: int
    columns: int

    @property
    def key(self) -> str:
        """A stable name of the shape."""
        return f"masked softmax {self.rows}x{self.columns}"


Shape = Linear | Conv | Embedding | MaskedSoftmax | AttentionShape


@dataclass(frozen=True, order=True)
class Case:
    """A shape and the kernel that computes it."""

    shape: Shape
    kernel: str

    @property
    def key(self) -> str:
        """The name under which the time is kept."""
        return f"{self.shape.key} @{self.kernel}"


@dataclass(frozen=True)
class CaseModel:
    """A model to time.

    Attributes:
        model: the model.
        feeds: its input.
        counted: operator types whose kernels make up the time; empty counts the whole run.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]
    counted: frozenset[str] = frozenset()


def case_model(case: Case) -> CaseModel:
    """Builds the model of ``case``.

    Raises:
        LoweringError: the kernel is unknown or cannot compute this shape.
    """
    if isinstance(case.shape, Linear):
        return _linear_model(case.shape, case.kernel)
    if isinstance(case.shape, Conv):
        return _conv_model(case.shape, case.kernel)
    if isinstance(case.shape, MaskedSoftmax):
        return _softmax_model(case.shape, case.kernel)
    if isinstance(case.shape, AttentionShape):
        return _attention_model(case.shape, case.kernel)
    return _embedding_model(case.shape, case.kernel)


class _Builder:
    """Nodes and initializers of a model under construction; values are names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, array: Array | np.generic) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names

    def floats(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape, dtype=np.float32) * np.float32(0.05))

    def codes(self, *shape: int) -> str:
        return self.constant(self.random.integers(-127, 128, shape, dtype=np.int8))

    def bytes(self, *shape: int) -> str:
        return self.constant(self.random.integers(0, 256, shape, dtype=np.uint8))

    def steps(self, *shape: int, half: bool = False) -> str:
        return self.constant(np.full(shape, 0.01, np.float16 if half else np.float32))

    def model(self, output: str, feed: Array, counted: Sequence[str] = ()) -> CaseModel:
        kind = onnx.helper.np_dtype_to_tensor_dtype(feed.dtype)
        graph = onnx.helper.make_graph(
            self.nodes,
            "case",
            [onnx.helper.make_tensor_value_info("x", kind, feed.shape)],
            [onnx.helper.make_tensor_value_info(output, FLOAT, None)],
            self.initializers,
        )
        opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(DOMAIN, 1)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return CaseModel(model, {"x": feed}, frozenset(counted))


def _unknown(shape: Shape, kernel: str) -> LoweringError:
    return LoweringError(f"latency of {shape.key}: expected a kernel of such layers, found {kernel!r}")


def _numbers(kernel: str, head: str, count: int) -> list[int] | None:
    """The numbers in ``head:1:2``, or None if ``kernel`` is something else."""
    name, *fields = kernel.split(":")
    return [int(f) for f in fields] if name == head and len(fields) == count and all(map(str.isdigit, fields)) else None


def _linear_model(shape: Linear, kernel: str) -> CaseModel:
    build = _Builder()
    feed = build.random.standard_normal((shape.tokens, shape.columns), dtype=np.float32)
    bias = build.floats(shape.rows) if shape.bias else ""
    nbits = _numbers(kernel, "nbits", 3)
    if kernel == "float":
        (result,) = build.add("MatMul", "x", build.floats(shape.columns, shape.rows))
        if bias:
            (result,) = build.add("Add", result, bias)
    elif kernel == "int8":
        codes, scale, zero = build.add("DynamicQuantizeLinear", "x", outputs=3)
        result = _integer_product(build, shape, (codes, scale, zero), bias)
    elif kernel == "int8_token":
        result = _token_linear(build, shape, bias)
    elif nbits is not None:
        result = _nbits_linear(build, shape, bias, *nbits)
    else:
        raise _unknown(shape, kernel)
    return build.model(result, feed)


def _integer_product(build: _Builder, shape: Linear, quantized: tuple[str, str, str], bias: str) -> str:
    codes, scale, zero = quantized
    weight = build.codes(shape.columns, shape.rows)
    inputs = (codes, weight, scale, build.steps(shape.rows), zero, "", bias)
    return build.add("MatMulIntegerToFloat", *inputs, domain=DOMAIN)[0]


def _token_linear(build: _Builder, shape: Linear, bias: str) -> str:
    axes = build.constant(np.asarray([-1], np.int64))
    (largest,) = build.add("ReduceMax", build.add("Abs", "x")[0], axes, keepdims=1)
    (scale,) = build.add("Div", build.add("Max", largest, build.steps())[0], build.constant(np.float32(127)))
    one, middle = build.constant(np.float32(1)), build.constant(np.uint8(128))
    (scaled,) = build.add("Mul", "x", build.add("Reciprocal", scale)[0])
    (codes,) = build.add("QuantizeLinear", scaled, one, middle)
    result = _integer_product(build, shape, (codes, one, middle), "")
    (result,) = build.add("Mul", result, scale)
    return build.add("Add", result, bias)[0] if bias else result


def _nbits_linear(build: _Builder, shape: Linear, bias: str, bits: int, block: int, level: int) -> str:
    blocks = -(-shape.columns // block)
    packed = build.bytes(shape.rows, blocks, block * bits // 8)
    inputs = ("x", packed, build.steps(shape.rows, blocks), "", "", bias)
    attributes = {"K": shape.columns, "N": shape.rows, "bits": bits, "block_size": block, "accuracy_level": level}
    return build.add("MatMulNBits", *inputs, domain=DOMAIN, **attributes)[0]


def _conv_model(shape: Conv, kernel: str) -> CaseModel:
    build = _Builder()
    feed = build.random.standard_normal((shape.batch, shape.channels, *shape.size), dtype=np.float32)
    weight = (shape.rows, shape.channels // shape.groups, *shape.kernel)
    attributes: dict[str, Any] = {
        "strides": shape.stride,
        "pads": [*shape.padding, *shape.padding],
        "dilations": shape.dilation,
        "group": shape.groups,
    }
    if kernel == "float":
        (result,) = build.add("Conv", "x", build.floats(*weight), build.floats(shape.rows), **attributes)
        return build.model(result, feed, ["Conv", "FusedConv"])
    if kernel != "int8":
        raise _unknown(shape, kernel)
    step, zero = build.steps(), build.constant(np.uint8(128))
    (codes,) = build.add("QuantizeLinear", "x", step, zero)
    zeros = build.constant(np.zeros(shape.rows, np.int8))
    bias = build.constant(np.zeros(shape.rows, np.int32))
    inputs = (codes, step, zero, build.codes(*weight), build.steps(shape.rows), zeros, step, zero, bias)
    (codes,) = build.add("QLinearConv", *inputs, **attributes)
    (result,) = build.add("DequantizeLinear", codes, step, zero)
    return build.model(result, feed, ["QLinearConv"])


def _softmax_model(shape: MaskedSoftmax, kernel: str) -> CaseModel:
    build = _Builder()
    feed = build.random.standard_normal((shape.rows, shape.columns), dtype=np.float32)
    feed[build.random.random(feed.shape) < 0.5] = -np.inf
    scores = "x"
    if kernel == "clamped":
        (largest,) = build.add("ReduceMax", "x", build.constant(np.asarray([-1], np.int64)), keepdims=1)
        (floor,) = build.add("Sub", largest, build.constant(np.float32(SOFTMAX_FLOOR)))
        (scores,) = build.add("Max", "x", floor)
    elif kernel != "plain":
        raise _unknown(shape, kernel)
    (result,) = build.add("Softmax", scores, axis=-1)
    return build.model(result, feed)


def _attention_model(shape: AttentionShape, kernel: str) -> CaseModel:
    """Lowered like any network, so that what is timed is what is emitted."""
    if kernel not in ATTENTION_KERNELS:
        raise _unknown(shape, kernel)
    graph, feeds = shape.graph(), shape.feeds()
    options = ATTENTION_KERNELS[kernel]
    legal, _ = run_passes(graph, passes(options))
    lowered = lower(legal, Plan((), graph.fingerprint(), "onnx"), [feeds], options)
    return CaseModel(lowered.proto(), {name: x.numpy() for name, x in zip(lowered.input_names, feeds, strict=True)})


def _embedding_model(shape: Embedding, kernel: str) -> CaseModel:
    packed, block = _numbers(kernel, "packed", 2), _numbers(kernel, "block", 2)
    if packed is not None:
        return _packed_embedding(shape, *packed)
    build = _Builder()
    table = (shape.vocabulary, shape.columns)
    if kernel == "float":
        (result,) = build.add("Gather", build.floats(*table), "x")
    elif kernel == "half":
        (rows,) = build.add("Gather", build.steps(*table, half=True), "x")
        (result,) = build.add("Cast", rows, to=FLOAT)
    elif block is not None:
        bits, size = block
        codes = build.bytes(shape.vocabulary, shape.columns * bits // 8)
        scale = build.steps(shape.vocabulary, -(-shape.columns // size))
        options = {"bits": bits, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
        (result,) = build.add("GatherBlockQuantized", codes, "x", scale, domain=DOMAIN, **options)
    else:
        raise _unknown(shape, kernel)
    return build.model(result, _random_tokens(shape))


def _packed_embedding(shape: Embedding, bits: int, group: int) -> CaseModel:
    """Exported like any model: the chain of look-ups is longer than one kernel, and this is the one that is emitted."""
    module = _PackedEmbedding(shape, bits, group)
    indices = torch.zeros(1, shape.tokens, dtype=torch.int64)
    model = to_proto(export_module(module, [indices], input_names=["x"]))
    return CaseModel(model, {"x": _random_tokens(shape)})


class _PackedEmbedding(torch.nn.Module):
    def __init__(self, shape: Embedding, bits: int, group: int) -> None:
        super().__init__()
        groups = -(-shape.columns // group) if group else 1
        codes = torch.randint(0, 256, (shape.vocabulary, row_bytes(shape.columns, bits)), dtype=torch.uint8)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", torch.full((shape.vocabulary, groups), 0.01, dtype=torch.float16))
        self.options = (bits, group, shape.columns)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        """Rows of the table."""
        return torch.ops.instar_ort.gather_packed(self.codes, indices, self.scale, None, *self.options)


def _random_tokens(shape: Embedding) -> Array:
    return np.random.default_rng(0).integers(0, shape.vocabulary, (1, shape.tokens), dtype=np.int64)
