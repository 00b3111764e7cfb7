"""Attention as latency is measured of it: one site of a network, lowered like the network itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.context import Context
from ...ir.graph import Graph, Node
from ...ir.types import TensorType
from ...passes.fuse_attention import ATTENTION
from ...passes.run import run_passes
from .cases import Case
from .kernels.attention import FUSED, HEADS_FIRST, UNFUSED
from .kernels.softmax import CLAMPED, HIDES, PLAIN
from .legalize import passes
from .options import OnnxOptions


@dataclass(frozen=True, order=True)
class AttentionShape:
    """One attention.

    Attributes:
        batch: sequences.
        heads: of queries.
        key_heads: of keys and values.
        queries: per sequence.
        keys: per sequence.
        width: of a query and a key.
        value_width: of a value.
        split: queries, keys and values come as ``[batch, tokens, heads * width]``, else with heads first.
        causal: ``static`` or ``dynamic`` length where queries see nothing later, else empty.
        hidden: sixteenths of the scores that the mask hides; -1 without a mask.
    """

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    split: bool = True
    causal: str = ""
    hidden: int = -1

    @property
    def key(self) -> str:
        """A stable name of the shape."""
        form = "tokens" if self.split else "heads"
        mask = f" causal {self.causal}" if self.causal else f" hidden {self.hidden}/16" if self.hidden >= 0 else ""
        sizes = f"{self.queries}x{self.width} {self.keys}x{self.value_width}"
        return f"attention {self.batch}x{self.heads}/{self.key_heads} {sizes} {form}{mask}"

    def case(self, kernel: str) -> Case:
        """The site as one of :data:`KERNELS` writes it."""
        options = KERNELS[kernel]
        legal, _ = run_passes(self.graph(), passes(options))
        return Case(f"{self.key} @{kernel}", legal, self.feeds(), options)

    def feeds(self) -> list[Tensor]:
        """Queries, keys and values, and the mask where there is one: the last keys are hidden."""
        generator = torch.Generator().manual_seed(0)
        found = [torch.randn(t.sizes(), generator=generator) for t in self._types()[:3]]
        if self.hidden >= 0:
            mask = torch.ones(self.batch, 1, 1, self.keys, dtype=torch.int64)
            seen = self.keys - round(self.hidden / 16 * self.keys)
            mask[..., seen:] = 0
            found.append(mask)
        return found

    def graph(self) -> Graph:
        """The site as a model spells it."""
        context = Context()
        inputs = [context.input(name, kind) for name, kind in zip("qkvm", self._types(), strict=False)]
        query, key, value = (
            self._apart(context, x, count)
            for x, count in zip(inputs, (self.heads, self.key_heads, self.key_heads), strict=False)
        )
        result = self._mixed(context, query, key, value, inputs[3:])
        if self.split:
            shape = (self.batch, self.queries, self.heads * self.value_width)
            result = context.node("aten.reshape", context.node("aten.permute", result, HEADS_FIRST), shape)
        return context.graph(inputs, [result])

    def _types(self) -> list[TensorType]:
        sides = ((self.heads, self.queries, self.width), (self.key_heads, self.keys, self.width))
        sides = (*sides, (self.key_heads, self.keys, self.value_width))
        shapes = [(self.batch, t, h * w) if self.split else (self.batch, h, t, w) for h, t, w in sides]
        found = [TensorType(torch.float32, shape) for shape in shapes]
        return found + ([TensorType(torch.int64, (self.batch, 1, 1, self.keys))] if self.hidden >= 0 else [])

    def _apart(self, context: Context, x: Node, heads: int) -> Node:
        if not self.split:
            return x
        batch, tokens, width = x.tensor_type.sizes()
        return context.node(
            "aten.permute", context.node("aten.reshape", x, (batch, tokens, heads, width // heads)), HEADS_FIRST
        )

    def _mixed(self, context: Context, query: Node, key: Node, value: Node, mask: list[Node]) -> Node:
        scale, times = self.width**-0.5, self.heads // self.key_heads
        if self.causal:
            return context.node(ATTENTION, query, key, value, None, 0.0, True, scale=scale, enable_gqa=times > 1)
        if times > 1:
            key, value = (context.node("aten.repeat_interleave.self_int", x, times, 1) for x in (key, value))
        scores = context.node("aten.matmul", query, context.node("aten.permute", key, (0, 1, 3, 2)))
        scores = context.node("aten.mul.Tensor", scores, scale)
        if mask:
            scores = context.node("aten.add.Tensor", scores, _additive(context, mask[0]))
        return context.node("aten.matmul", context.node("aten.softmax.int", scores, -1), value)


def _additive(context: Context, mask: Node) -> Node:
    """``(mask - 1) * 1e9``, as models make it of ones and zeros."""
    ones = context.node("aten._to_copy", mask, dtype=torch.float32)
    return context.node("aten.mul.Tensor", context.node("aten.sub.Tensor", ones, 1.0), -(HIDES**3))


def unfused(softmax: str) -> str:
    """The kernel's name for products around a softmax that is clamped or plain."""
    return f"{UNFUSED}:{softmax}"


KERNELS = {
    FUSED: OnnxOptions(attention=FUSED),
    **{unfused(way): OnnxOptions(attention=UNFUSED, masked_softmax=way) for way in (CLAMPED, PLAIN)},
}
"""Kernel -> options of the target that write it."""
