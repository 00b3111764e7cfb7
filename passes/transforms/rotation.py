"""Rotations of the residual stream: outliers of single channels are spread over all of them, in weights and inputs.

Method: Ashkboos et al., "SliceGPT" (arXiv 2401.15024) and "QuaRot" (arXiv 2404.00456): ``x R`` in place of the stream
``x``, with ``R`` orthogonal. What writes the stream is multiplied with ``R``, what reads it with ``R^T`` from the other
side, and ``norm(x R) = norm(x) R`` once the parameters of the norm have moved into the layers behind it. The matrix is
the randomized Hadamard matrix of :mod:`instar.passes.transforms.hadamard`, in closed form; nothing is learnt.

A layer norm also subtracts the mean, which a rotation does not commute with in general. Published methods centre what
writes the stream and turn layer norms into RMS norms; here the rotation is one that keeps the mean of every vector, so
that layer norms stay as they are, and with them the kernels that compute them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.constants import ConstantHandle
from ...ir.errors import PassError
from ...ir.graph import Graph, Node
from ...ir.layers import EMBEDDING, MATMUL, Layer, layer_name
from ..base import PassResult
from ..rewrite import settle_names, with_replaced_outputs
from .base import Found
from .evidence import Evidence
from .hadamard import rotation
from .scales import refusals, replacement
from .streams import Stream, streams


@dataclass(frozen=True)
class RotateResidual:
    """``x R`` in place of a residual stream ``x``: a transform before encoding that needs no data, see the module.

    Attributes:
        seed: of the random signs.

    Raises:
        PassError: ``seed`` is negative.
    """

    name: ClassVar[str] = "rotate-residual"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the option."""
        if self.seed < 0:
            raise PassError(f"rotate-residual: expected a seed of 0 or more, found {self.seed}")

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, Stream], Mapping[str, str]]:
        """First layer of a stream -> the stream, and layer -> why the stream at it stays as it is."""
        found: dict[str, Stream] = {}
        reasons: dict[str, str] = {}
        for stream in streams(graph):
            if stream.reasons:
                reasons |= dict.fromkeys(stream.layers, stream.reasons[0])
            elif stream.layers:
                found[stream.layers[0]] = stream
        covered = {name for stream in found.values() for name in stream.layers}
        return found, {x.name: reasons.get(x.name, _NO_STREAM) for x in layers if x.name not in covered}

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Stream -> its signs."""
        del evidence
        found: dict[str, Found] = {}
        for number, (name, stream) in enumerate(self.sites(graph, layers)[0].items()):
            generator = torch.Generator().manual_seed(self.seed + number)
            found[name] = Found(torch.randint(0, 2, (stream.size,), generator=generator).mul(2).sub(1).to(torch.int8))
        return found

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """Rotate streams by signs ``[channels]``.

        Raises:
            PassError: signs for what is no stream, or of another length.
        """
        sites, reasons = self.sites(graph, layers)
        for name, signs in fitted.items():
            if name not in sites or signs.numel() != sites[name].size:
                found = f"{signs.numel()} for {name!r}"
                raise PassError(f"{self.name}: expected signs of a residual stream of this graph; found {found}")
        matrices = {n: rotation(signs, keeps_mean=sites[n].subtracts_means) for n, signs in fitted.items()}
        turned = _Turned(graph)
        for name, matrix in matrices.items():
            turned.read(sites[name], matrix)
        for name, matrix in matrices.items():
            turned.write(sites[name], matrix)
        refused = refusals(self.name, layers, reasons)
        if not fitted:
            return PassResult(graph, refused=refused)
        return PassResult(turned.graph(), Counter({self.name: len(fitted)}), refused)


_NO_STREAM = "it neither writes nor reads a residual stream"


class _Turned:
    """New values of constants, gathered over all streams in float64: a layer may read one stream and write another.

    A norm's bias becomes part of what a layer writes, so that layers are changed as readers before they are as writers.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._changes: dict[Node, list[Callable[[Tensor], Tensor]]] = {}
        self._biases: dict[Node, Tensor] = {}

    def write(self, stream: Stream, matrix: Tensor) -> None:
        """What computes the stream."""
        for node in stream.writers:
            self._write(node, matrix)
        for constant, axis in stream.constants.items():
            self._change(constant, lambda c, a=axis: (c.movedim(a, -1) @ matrix).movedim(-1, a))

    def read(self, stream: Stream, matrix: Tensor) -> None:
        """What reads the stream, and the norms in between."""
        for node in stream.readers:
            self._read(node, lambda w: w @ matrix)
        for node, norm in stream.behind.items():
            self._behind(node, norm, matrix)
        for norm in stream.norms:
            for name, value in (("weight", 1.0), ("bias", 0.0)):
                if norm.argument(name) is not None:
                    self._change(norm.argument(name), lambda p, v=value: torch.full_like(p, v))

    def _write(self, node: Node, matrix: Tensor) -> None:
        role = node.op.facts.weight
        assert role is not None  # writers have one
        if role.kind in (EMBEDDING, MATMUL):
            self._change(node.argument(role.weight), lambda w: w @ matrix)
            return
        self._change(node.argument(role.weight), lambda w: (matrix.T @ w.flatten(1)).reshape(w.shape))
        if node.argument("bias") is not None:
            self._change(node.argument("bias"), lambda b: b @ matrix)
        elif node in self._biases:
            self._biases[node] = self._biases[node] @ matrix

    def _read(self, node: Node, change: Callable[[Tensor], Tensor]) -> None:
        """Change the matrix ``[rows, columns]`` of a layer."""
        role = node.op.facts.weight
        assert role is not None  # readers have one
        transposed = role.kind == MATMUL
        self._change(node.argument(role.weight), lambda w: change(w.T).T if transposed else change(w))

    def _behind(self, node: Node, norm: Node, matrix: Tensor) -> None:
        """``W (n * g + b) = (W diag(g)) n + W b``, and ``n R`` in place of ``n``."""
        gain, shift = (_value(norm.argument(name)) for name in ("weight", "bias"))
        role = node.op.facts.weight
        assert role is not None  # layers have one
        if shift is not None:
            moved = node.argument(role.weight).handle.tensor.double() @ shift
            if node.argument("bias") is None:
                self._biases[node] = moved
            else:
                self._change(node.argument("bias"), lambda b: b + moved)
        self._read(node, lambda w: (w if gain is None else w * gain) @ matrix)

    def _change(self, constant: Node, change: Callable[[Tensor], Tensor]) -> None:
        self._changes.setdefault(constant, []).append(change)

    def graph(self) -> Graph:
        """The graph with the new constants; layers that had no bias and need one get it."""
        graph, done = self._graph, dict[Node, Node]()
        for node in graph.nodes():
            if node in self._changes:
                done[node] = replacement(graph, node, self._value(node))
            elif node in self._biases:
                done[node] = _with_bias(graph, node, self._biases[node], done)
            else:
                done[node] = graph.context.rebuild(node, done)
        return settle_names(with_replaced_outputs(graph, done))

    def _value(self, constant: Node) -> Tensor:
        value = constant.handle.tensor.double()
        for change in self._changes[constant]:
            value = change(value)
        return value


def _value(constant: Node | None) -> Tensor | None:
    return None if constant is None else constant.handle.tensor.double()


def _with_bias(graph: Graph, node: Node, bias: Tensor, done: Mapping[Node, Node]) -> Node:
    """``linear(x, w)`` -> ``linear(x, w, @bias)``."""
    weight: Node = node.argument("weight")
    name = f"{layer_name(weight.handle.name)}.bias"
    constant = graph.context.constant_of(ConstantHandle.of(name, bias.to(weight.tensor_type.dtype), "derived"))
    with graph.context.origin(node.origin):
        return graph.context.node("aten.linear", done[node.argument("input")], done[weight], constant)
