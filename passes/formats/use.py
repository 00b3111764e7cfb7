"""How a layer uses its weight: the node without the weight, so that a format can compute it in another way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...ir.graph import Node
from ...ir.layers import CONV, EMBEDDING, LINEAR, MATMUL
from ...ir.layers import Use as NodeUse
from ...ir.ops import Ops, V
from ...ir.options import NONE, Activation

POINTWISE: Mapping[str, Any] = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1}
"""Arguments of a convolution that mixes channels only."""


@dataclass(frozen=True, eq=False)
class Use:
    """One node that computes with a weight.

    Attributes:
        kind: ``linear``, ``conv``, ``matmul`` or ``embedding``.
        op: name of the op.
        weight_parameter: the parameter that takes the weight.
        input_parameter: the parameter that takes the activation, or the indices of an embedding.
        others: the other arguments by parameter, the bias among them.
        shape: of the weight as formats see it, ``[rows, ...]``.
        dtype: of the layer's own weight.
        activation: how the value that is multiplied is rounded.
    """

    kind: str
    op: str
    weight_parameter: str
    input_parameter: str
    shape: tuple[int, ...]
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dtype: torch.dtype = torch.float32
    activation: Activation = NONE

    @classmethod
    def of(cls, use: NodeUse, shape: tuple[int, ...], activation: Activation, others: Mapping[str, Any]) -> Use:
        """The use of a layer's weight in a graph; ``others`` are the arguments as the new graph has them."""
        weight: Node = use.node.argument(use.weight_parameter)
        return cls(
            use.kind,
            use.node.op.name,
            use.weight_parameter,
            use.input_parameter,
            shape,
            others,
            weight.tensor_type.dtype,
            activation,
        )

    @classmethod
    def linear(cls, shape: tuple[int, ...]) -> Use:
        """``linear(x, weight)``, without a bias."""
        return cls(LINEAR, "aten.linear.default", "weight", "input", shape)

    @property
    def bias(self) -> Any:
        """The value that is added to every output, or ``None``."""
        return self.others.get("bias")

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 otherwise."""
        return int(self.others.get("groups", 1))

    def without_bias(self) -> Use:
        """The same, and nothing is added."""
        return replace(self, others={name: value for name, value in self.others.items() if name != "bias"})

    def in_float(self) -> Use:
        """The same on values as they are."""
        return replace(self, activation=NONE)

    def inner(self, rank: int) -> Use:
        """The first of two products: to ``rank`` channels, where this one goes to all; a convolution keeps its window.

        Raises:
            ValueError: for an embedding, which has no product.
        """
        if self.kind == EMBEDDING:
            raise ValueError("an embedding looks rows up; it has no first product")
        shape = (rank, *self.shape[1:])
        if self.kind == CONV:
            return replace(self.without_bias(), shape=shape)
        return replace(Use.linear(shape), dtype=self.dtype, activation=self.activation)

    def outer(self, rank: int) -> Use:
        """The second of two products: from ``rank`` channels to all, with the bias."""
        if self.kind == CONV:
            spatial = (1,) * (len(self.shape) - 2)
            others = {"bias": self.bias} if self.bias is not None else {}
            name = f"aten.conv{len(spatial)}d.default"
            return replace(self, op=name, others=others, shape=(self.shape[0], rank, *spatial))
        if self.kind == EMBEDDING:
            return replace(self, shape=(self.shape[0], rank))
        others = {} if self.bias is None else {"bias": self.bias}
        shape = (self.shape[0], rank)
        return replace(Use.linear(shape), others=others, dtype=self.dtype, activation=self.activation)

    # ------------------------------------------------------------------------------------------ computing
    def rounded(self, ops: Ops[V], x: V) -> V:
        """The value as it is multiplied. Static quantization is part of the graph already."""
        how = self.activation
        if not how.is_dynamic or self.kind == EMBEDDING:
            return x
        return ops("instar.fake_quantize_dynamic", x, how.bits, how.granularity, how.symmetric)

    def dense(self, ops: Ops[V], x: V, weight: V) -> V:
        """The node with a float32 weight of :attr:`shape`, which is given the layer's dtype."""
        if self.kind == MATMUL:
            weight = ops("aten.permute", weight, (1, 0))
        return self.plain(ops, x, self.cast(ops, weight))

    def plain(self, ops: Ops[V], x: V, weight: V) -> V:
        """The node with a weight that is as the model would have it."""
        values = {self.input_parameter: self.rounded(ops, x), self.weight_parameter: weight}
        return ops(self.op, **values, **self.others)

    def cast(self, ops: Ops[V], value: V) -> V:
        """The value in the layer's dtype."""
        return value if ops.dtype(value) == self.dtype else ops("aten._to_copy", value, dtype=self.dtype)
