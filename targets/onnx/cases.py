"""What latency is measured of: one layer, softmax or attention as it is emitted, an ONNX model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx.helper
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...ir.context import Context
from ...ir.graph import Graph, Node
from ...ir.layers import Layer, Use, share_of
from ...ir.options import Option
from ...ir.plan import Plan
from ...ir.types import TensorType
from ...passes.run import run_passes
from ..one_layer import one_layer, under_option, what_runs
from .kernels import alone
from .legalize import passes
from .lower import lower
from .options import OnnxOptions

TOGETHER_NBYTES = 64_000_000
"""Weights that are exported at once: the export, its parts and their sessions each hold them."""


@dataclass(frozen=True, eq=False)
class Case:
    """A legal graph with one output and the name under which its time is kept.

    Attributes:
        key: what decides the time, in words; equal for whatever takes the same time.
        graph: legal, all sizes fixed.
        feeds: values of its inputs.
        options: of the target, with which the graph is written.
        counted: operator types whose kernels make up the time, joined by ``|``; empty counts the whole run.
        share: of the time that is a layer's own, where an operator computes with several.
        between: instead, the time from the end of the first kernel of one type to the next of another, each joined so.
    """

    key: str
    graph: Graph
    feeds: Sequence[Tensor]
    options: OnnxOptions
    counted: str = ""
    share: float = 1.0
    between: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class CaseModel:
    """A model to time.

    Attributes:
        model: the model.
        feeds: its input.
        counted: operator types whose kernels make up the time; empty counts the whole run.
        between: types of the kernels that what makes up the time lies between; empty where nothing does.
    """

    model: onnx.ModelProto
    feeds: dict[str, NDArray[Any]]
    counted: frozenset[str] = frozenset()
    between: tuple[frozenset[str], ...] = ()


class LayerCases:
    """Cases of layers under options; layers that are alike are one case.

    Args:
        sizes: of the network's dimensions.
        options: of the target.
    """

    def __init__(self, sizes: Mapping[str, int], options: OnnxOptions) -> None:
        self.sizes, self.passes, self.options = sizes, passes(options), options
        self._made: dict[tuple[str, ...], Case] = {}
        self._alone: dict[tuple[str, Node], tuple[Graph, str]] = {}

    def case(self, layer: Layer, use: Use, option: Option) -> Case:
        """The case of one use of a layer under an option."""
        graph, runs = self._unchanged(layer, use)
        alike = (runs, option.format, option.activation.spelling, option.kernel, option.arithmetic)
        if alike not in self._made:
            legal, _ = run_passes(under_option(graph, option), self.passes)
            feeds = [_feed(node, graph) for node in legal.inputs]
            self._made[alike] = Case(what_runs(legal), legal, feeds, self.options, alone(legal.ops()))
        made = self._made[alike]
        return made if use.input_parameter else replace(made, share=share_of(layer, use))

    def _unchanged(self, layer: Layer, use: Use) -> tuple[Graph, str]:
        """The use under no option, and its computation in words."""
        key = (layer.name, use.node)
        if key not in self._alone:
            graph = one_layer(layer, use, self.sizes)
            self._alone[key] = graph, what_runs(graph)
        return self._alone[key]


def _feed(node: Node, graph: Graph) -> Tensor:
    """Random numbers, or indices into the constant that is looked up."""
    kind, generator = node.tensor_type, torch.Generator().manual_seed(0)
    if kind.dtype.is_floating_point:
        return torch.randn(kind.sizes(), generator=generator, dtype=kind.dtype)
    least = min(n.tensor_type.sizes()[0] for n in graph.constants())
    return torch.randint(0, least, kind.sizes(), generator=generator, dtype=kind.dtype)


# ------------------------------------------------------------------------------------------------ models
def case_models(cases: Iterable[Case]) -> Iterator[tuple[Case, CaseModel]]:
    """The model of every case. Exporting takes far longer than splitting: cases with equal options go together."""
    for options, group in _together(cases):
        merged, feeds = _merged(group)
        lowered = lower(merged, Plan((), "", "onnx"), [feeds], options)
        whole, names = lowered.proto(), iter(lowered.input_names)
        for case, output in zip(group, lowered.output_names, strict=True):
            arrays = {next(names): x.numpy() for x in case.feeds}
            between = tuple(types for types in map(_types, case.between) if types)
            model = _part(whole, output, arrays) if len(group) > 1 else whole  # large ones are alone: no second copy
            yield case, CaseModel(model, arrays, _types(case.counted), between)


def _types(words: str) -> frozenset[str]:
    return frozenset(filter(None, words.split("|")))


def _together(cases: Iterable[Case]) -> Iterator[tuple[OnnxOptions, list[Case]]]:
    groups: dict[OnnxOptions, list[list[Case]]] = {}
    for case in cases:
        found = groups.setdefault(case.options, [[]])
        if found[-1] and sum(map(_nbytes, found[-1])) + _nbytes(case) > TOGETHER_NBYTES:
            found.append([])
        found[-1].append(case)
    for options, found in groups.items():
        yield from ((options, group) for group in found)


def _nbytes(case: Case) -> int:
    return sum(node.handle.nbytes for node in case.graph.constants())


def _merged(cases: Sequence[Case]) -> tuple[Graph, list[Tensor]]:
    """All cases side by side in one graph."""
    context = Context()
    inputs: list[Node] = []
    outputs: list[Node] = []
    for number, case in enumerate(cases):
        made: dict[Node, Node] = {}
        for i, node in enumerate(case.graph.inputs):
            made[node] = context.input(f"x{number}_{i}", TensorType(node.tensor_type.dtype, node.tensor_type.shape))
            inputs.append(made[node])
        for node in case.graph.nodes():
            if node not in made:
                made[node] = context.rebuild(node, made)
        outputs += [made[node] for node in case.graph.output_nodes]
    return context.graph(inputs, outputs), [x for case in cases for x in case.feeds]


def _part(whole: onnx.ModelProto, output: str, inputs: Mapping[str, Any]) -> onnx.ModelProto:
    """What one output is computed of."""
    makers = {name: node for node in whole.graph.node for name in node.output}
    wanted: dict[str, None] = {output: None}
    pending = [output]
    while pending:
        node = makers.get(pending.pop())
        fresh = [name for name in node.input if name and name not in wanted] if node is not None else []
        wanted |= dict.fromkeys(fresh)
        pending += fresh
    graph = onnx.helper.make_graph(
        [node for node in whole.graph.node if any(name in wanted for name in node.output)],
        "case",
        [value for value in whole.graph.input if value.name in inputs],
        [value for value in whole.graph.output if value.name == output],
        [tensor for tensor in whole.graph.initializer if tensor.name in wanted],
    )
    return onnx.helper.make_model(
        graph, opset_imports=whole.opset_import, functions=whole.functions, ir_version=whole.ir_version
    )


# ------------------------------------------------------------------------------------------------ softmax
@dataclass(frozen=True, order=True)
class MaskedSoftmax:
    """``rows`` of scores, ``columns`` each, half of them minus infinity."""

    rows: int
    columns: int

    def case(self, way: str) -> Case:
        """The softmax with its scores ``clamped`` or ``plain``."""
        context = Context()
        scores = context.input("x", TensorType(torch.float32, (self.rows, self.columns)))
        name = "instar_ort.softmax_clamped" if way == "clamped" else "aten.softmax.int"
        graph = context.graph([scores], [context.node(name, scores, -1)])
        generator = np.random.default_rng(0)
        feed = generator.standard_normal((self.rows, self.columns), dtype=np.float32)
        feed[generator.random(feed.shape) < 0.5] = -np.inf
        key = f"masked softmax {self.rows}x{self.columns} @{way}"
        return Case(key, graph, [torch.from_numpy(feed)], OnnxOptions())
