"""A graph as the program that torch's exporter writes, made from the types that its nodes have.

``torch.export`` runs every operator on tensors without data to learn what it gives, and the exporter does so again to
see where dtypes mix: most of the time of an export. A graph knows all of it. Programs with an operator that has to be
taken apart are traced by torch nevertheless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from ...ir.fx_conversion import to_numbered_graph
from ...ir.graph import Graph, NodeType
from ...ir.text import used_symbols
from ...ir.types import TensorType, evaluate_dim


@dataclass(frozen=True)
class Program:
    """Calls of operators, each with what it gives under ``meta["val"]``.

    Attributes:
        graph: placeholders are the inputs in order and then the constants.
        mode: of the tensors without data.
        inputs: how many of the placeholders are inputs.
        constants: name of a placeholder -> its name in a numbered module, and the tensor.
    """

    graph: fx.Graph
    mode: FakeTensorMode
    inputs: int
    constants: Mapping[str, tuple[str, Tensor]]


def program_of(graph: Graph, sizes: Mapping[str, int]) -> Program:
    """The program of a graph whose outputs are tensors; inputs and constants are numbered.

    Args:
        graph: legal.
        sizes: a size for every dimension, at which comparisons between sizes are decided.
    """
    numbered = to_numbered_graph(graph)
    types = _Types(graph, sizes)
    constants: dict[str, tuple[str, Tensor]] = {}
    with types.mode:
        for call in list(numbered.graph.nodes):
            node = numbered.nodes.get(call)
            if call.op == "output":
                continue
            if isinstance(call.target, OpOverload):
                call._rename(call.target.overloadpacket.__name__)  # results are named after it
            call.meta["nn_module_stack"] = {}
            call.meta["val"] = types.value(node.type) if node is not None else _number(call)
            if call.op == "get_attr":
                assert node is not None, "only constants are attributes"
                constants[_lift(numbered.graph, call).name] = str(call.target), node.handle.tensor
    return Program(numbered.graph, types.mode, len(graph.inputs), constants)


def _lift(graph: fx.Graph, call: fx.Node) -> fx.Node:
    """A constant as a placeholder."""
    with graph.inserting_before(call):
        lifted = graph.placeholder(str(call.target))
    lifted.meta.update(call.meta)
    call.replace_all_uses_with(lifted)
    graph.erase_node(call)
    return lifted


def _number(call: fx.Node) -> Any:
    """What a computation with sizes gives."""
    given: list[Any] = [a.meta["val"] if isinstance(a, fx.Node) else a for a in call.args]
    target: Any = call.target
    return target(*given)


class _Types:
    """Tensors without data, one for each type."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self.environment = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        self.sizes = sizes
        self.symbols = {graph.dims[name].symbol: self._symbol(graph, name) for name in sorted(used_symbols(graph))}
        self.made: dict[TensorType, Tensor] = {}

    def value(self, type: NodeType) -> Any:
        """A tensor of a type; several for several results."""
        if isinstance(type, tuple):
            return tuple(map(self._tensor, type))
        return self._tensor(type)

    def _tensor(self, type: TensorType) -> Tensor:
        if type not in self.made:
            self.made[type] = torch.empty([self._size(d) for d in type.shape], dtype=type.dtype)
        return self.made[type]

    def _symbol(self, graph: Graph, name: str) -> sympy.Expr:
        dim = graph.dims[name]
        made = self.environment.create_symbol(
            self.sizes[name], ConstantSource(name), DimDynamic.DYNAMIC, None, do_not_specialize_zero_one=True
        )
        if isinstance(made, sympy.Symbol):
            self.environment.constrain_symbol_range(made, max(2, dim.minimum), dim.maximum)
        return made

    def _size(self, size: Any) -> Any:
        if not isinstance(size, sympy.Expr):
            return size
        expression = cast(sympy.Expr, size.xreplace(self.symbols))
        return self.environment.create_symintnode(expression, hint=evaluate_dim(size, self.sizes))
