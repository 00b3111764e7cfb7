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
    last = (Kernels(chosen), Spellings(spelled), *((OlderRuntime(older),) if older else ()))
    if options.attention != attention.FUSED:
        return FuseAttention(causal_only=True), *last
    turned, fused = RotaryPositions(rotary.KERNEL.rules), AttentionKernel(attention.KERNEL.rules)
    return (FuseAttention(), turned, fused, CancelLayout(), *last)


def rules_of(*records: Kernel) -> tuple[Rule, ...]:
    """The rules of kernels, in order."""
    return tuple(rule for kernel in records for rule in kernel.rules)


@dataclass(frozen=True)
class InRuntimeTerms:
    """A pass that brings a graph nearer to the runtime by rules. Lossy only in the last place.

    Attributes:
        rules: tried in order.
    """

    name: ClassVar[str] = "onnx"
    exact: ClassVar[bool] = False

    rules: tuple[Rule, ...] = field(repr=False)

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rules."""
        return rewrite(graph, self.rules)


class Kernels(InRuntimeTerms):
    """Quantized patterns -> the integer ops that kernels compute; stored embeddings -> gathers of packed rows.

    * ``linear(fake_quantize_dynamic(x, tensor), dequantize(w))`` -> one shared ``DynamicQuantizeLinear`` and
      ``MatMulIntegerToFloat`` over weights that are expanded to int8 at load; per token likewise.
    * ``linear(fake_quantize_dynamic(x, group:n), dequantize(w, group n))`` -> ``MatMulNBits``.
    * ``embedding(dequantize(table))`` -> a gather of packed rows.
    * convolutions and additions between statically quantized values -> ``QLinearConv``, ``QLinearAdd``.

    Kernels round like the quantization ops of the IR.
    """

    name: ClassVar[str] = "onnx-kernels"


class Spellings(InRuntimeTerms):
    """What the runtime would compute slowly, in words that it computes fast.

    * ``layer_norm(a + b)`` -> a sum that is not fused into the slow ``SkipLayerNormalization``.
    * ``softmax`` of masked scores -> scores are first clamped so that no exponential is denormal.
    * reshapes whose sizes are copied, repeats along an axis, rotary positions, masks that are added.
    """

    name: ClassVar[str] = "onnx-spellings"


class OlderRuntime(InRuntimeTerms):
    """What the runtime to keep to does not have, in ops that it has; see ``Written.otherwise``."""

    name: ClassVar[str] = "onnx-older-runtime"


class RotaryPositions(InRuntimeTerms):
    """``x * cos + turned(x) * sin`` -> ``RotaryEmbedding``, on its own before attention is matched behind it."""

    name: ClassVar[str] = "onnx-rotary-positions"


class AttentionKernel(InRuntimeTerms):
    """``scaled_dot_product_attention`` -> one ``Attention`` over ``[batch, tokens, heads * width]``."""

    name: ClassVar[str] = "onnx-attention-kernel"
