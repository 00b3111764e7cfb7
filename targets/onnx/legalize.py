"""Planned graph -> legal ops: quantized patterns become kernels, slow spellings fast ones.

What is not matched stays as it is and is written in its own way: a weight that only floats compute with is expanded
while the model loads, a quantization that no kernel absorbs becomes QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ...ir.graph import Graph
from ...passes.base import Pass, PassResult
from ...passes.cancel_layout import CancelLayout
from ...passes.fuse_attention import FuseAttention
from ...passes.rewrite import rewrite
from ...passes.rules import Rule
from .kernels import Kernel, attention, embeddings, kernels, layout, rotary, softmax, substitutes
from .options import OnnxOptions


def passes(options: OnnxOptions) -> tuple[Pass, ...]:
    """What brings a planned graph into ops that stand for the runtime's kernels, in order."""
    chosen = rules_of(embeddings.KERNEL, *kernels())
    clamping = () if options.masked_softmax == softmax.PLAIN else (softmax.CLAMPED_SOFTMAX,)
    spelled = rules_of(layout.KERNEL, rotary.KERNEL, softmax.MASKS, *clamping)
    older = substitutes(options.runtime)
    last = (OnnxKernels(chosen), OnnxSpellings(spelled), *((OlderRuntime(older),) if older else ()))
    if options.attention != attention.FUSED:
        return FuseAttention(causal_only=True), *last
    first = (FuseAttention(), RotaryPositions(), AttentionKernel(), CancelLayout())
    return (*first, *last)


def rules_of(*records: Kernel) -> tuple[Rule, ...]:
    """The rules of kernels, in order."""
    return tuple(rule for kernel in records for rule in kernel.rules)


@dataclass(frozen=True)
class OnnxKernels:
    """Quantized patterns -> the integer ops that kernels compute; stored embeddings -> gathers of packed rows.

    * ``linear(fake_quantize_dynamic(x, tensor), dequantize(w))`` -> one shared ``DynamicQuantizeLinear`` and
      ``MatMulIntegerToFloat`` over weights that are expanded to int8 at load; per token likewise.
    * ``linear(fake_quantize_dynamic(x, group:n), dequantize(w, group n))`` -> ``MatMulNBits``.
    * ``embedding(dequantize(table))`` -> a gather of packed rows.
    * convolutions and additions between statically quantized values -> ``QLinearConv``, ``QLinearAdd``.

    Lossy only in the last place: kernels round like the quantization ops of the IR.

    Attributes:
        rules: of the kernels, tried in order.
    """

    name: ClassVar[str] = "onnx-kernels"
    exact: ClassVar[bool] = False

    rules: tuple[Rule, ...] = field(repr=False)

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rules."""
        return rewrite(graph, self.rules)


@dataclass(frozen=True)
class OnnxSpellings:
    """What the runtime would compute slowly, in words that it computes fast.

    * ``layer_norm(a + b)`` -> a sum that is not fused into the slow ``SkipLayerNormalization``.
    * ``softmax`` of masked scores -> scores are first clamped so that no exponential is denormal.
    * reshapes whose sizes are copied, repeats along an axis, rotary positions, masks that are added.

    Lossy only in the last place.

    Attributes:
        rules: tried in order.
    """

    name: ClassVar[str] = "onnx-spellings"
    exact: ClassVar[bool] = False

    rules: tuple[Rule, ...] = field(repr=False)

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rules."""
        return rewrite(graph, self.rules)


@dataclass(frozen=True)
class OlderRuntime:
    """What the runtime to keep to does not have, in ops that it has; see ``Written.otherwise``.

    Lossy only in the last place.

    Attributes:
        rules: tried in order.
    """

    name: ClassVar[str] = "onnx-older-runtime"
    exact: ClassVar[bool] = False

    rules: tuple[Rule, ...] = field(repr=False)

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rules."""
        return rewrite(graph, self.rules)


@dataclass(frozen=True)
class RotaryPositions:
    """``x * cos + turned(x) * sin`` -> ``RotaryEmbedding``, on its own before attention is matched behind it."""

    name: ClassVar[str] = "onnx-rotary-positions"
    exact: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rule."""
        return rewrite(graph, rotary.KERNEL.rules)


@dataclass(frozen=True)
class AttentionKernel:
    """``scaled_dot_product_attention`` -> one ``Attention`` over ``[batch, tokens, heads * width]``."""

    name: ClassVar[str] = "onnx-attention-kernel"
    exact: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rule."""
        return rewrite(graph, attention.KERNEL.rules)
