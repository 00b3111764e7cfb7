"""Graph -> FX GraphModule that runs, trains and exports again. Sizes are read off the inputs with sym_size."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, cast

import sympy
import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

from .errors import PassError
from .graph import Graph, Node
from .infer import call_arguments
from .op import CONSTANT, GETITEM, INPUT


def to_module(graph: Graph) -> fx.GraphModule:
    """A module with the user's call signature (flat tensors where the graph has none).

    Parameters keep their names with dots turned into sub-modules, so ``state_dict`` looks like the user's.
    """
    return _Writer(graph, flat=False).module()


def to_flat_module(graph: Graph) -> fx.GraphModule:
    """A module that takes the flat input tensors and returns a tuple of the flat outputs."""
    return _Writer(graph, flat=True).module()


class _Writer:
    def __init__(self, graph: Graph, *, flat: bool) -> None:
        self.graph = graph
        self.flat = flat or graph.signature is None or graph.signature.in_spec is None
        self.root = nn.Module()
        self.fx = fx.Graph()
        self.values: dict[Node, fx.Node] = {}
        self.sizes: dict[Any, Any] = {}

    def module(self) -> fx.GraphModule:
        self._placeholders()
        for node in self.graph.nodes():
            if node.op is not INPUT:
                self.values[node] = self._emit(node)
        outputs = [self._value(o) for o in self.graph.outputs]
        self.fx.output(tuple(outputs))
        if not self.flat:
            self._use_signature()
        module = fx.GraphModule(self.root, self.fx)
        module.eval()
        return module

    def _placeholders(self) -> None:
        if self.flat or self.graph.signature is None:
            for node in self.graph.inputs:
                self.values[node] = self.fx.placeholder(_identifier(node.argument("name")))
            return
        tensors = iter(self.graph.inputs)
        for position, fixed in enumerate(self.graph.signature.leaves):
            if fixed is None:
                node = next(tensors)
                self.values[node] = self.fx.placeholder(_identifier(node.argument("name")))
            else:
                self.fx.placeholder(f"fixed_{position}")

    def _use_signature(self) -> None:
        signature = cast(Any, self.graph.signature)
        names = [n.name for n in self.fx.nodes if n.op == "placeholder"]
        positional = signature.in_spec.children()[0].num_children
        keywords = signature.in_spec.children()[1].context or []
        arguments = [f"argument_{i}" for i in range(positional)]
        code = _PyTreeCodeGen(_PyTreeInfo([*arguments, *keywords], signature.in_spec, signature.out_spec))
        del names
        self.fx.set_codegen(code)

    def _emit(self, node: Node) -> fx.Node:
        if node.op is CONSTANT:
            return self._constant(node)
        if node.op is GETITEM:
            source = self.values[node.argument("value")]
            return self.fx.call_function(operator.getitem, (source, node.argument("index")))
        resolved = {name: self._value(value) for name, value in node.arguments}
        args, kwargs = call_arguments(node.op, resolved)
        return self.fx.call_function(cast(Any, node.op.overload), tuple(args), kwargs)

    def _constant(self, node: Node) -> fx.Node:
        owner = self.root
        *path, leaf = [_identifier(part) for part in node.handle.name.split(".")]
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = cast(nn.Module, getattr(owner, part))
        tensor = node.handle.tensor
        if node.handle.kind == "parameter" and tensor.is_floating_point():
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(leaf, tensor)
        return self.fx.get_attr(".".join([*path, leaf]))

    def _value(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self.values[value]
        if isinstance(value, tuple):
            return [self._value(v) for v in cast("tuple[Any, ...]", value)]
        if isinstance(value, sympy.Expr):
            return self._size(value)
        return value

    def _size(self, expression: sympy.Expr) -> Any:
        """An FX value that computes an expression from the sizes of the inputs."""
        if expression not in self.sizes:
            self.sizes[expression] = self._compute(expression)
        return self.sizes[expression]

    def _compute(self, expression: sympy.Expr) -> Any:
        if expression.is_Integer:
            return int(cast(Any, expression))
        if expression.is_Float or expression.is_Rational:
            return float(cast(Any, expression))
        if isinstance(expression, sympy.Symbol):
            return self._symbol(expression)
        arguments = [self._size(cast(sympy.Expr, a)) for a in expression.args]
        return self._operate(expression, arguments)

    def _operate(self, expression: sympy.Expr, arguments: list[Any]) -> Any:
        call = self.fx.call_function
        if isinstance(expression, sympy.Add | sympy.Mul):
            function = operator.add if isinstance(expression, sympy.Add) else operator.mul
            result = arguments[0]
            for other in arguments[1:]:
                result = call(function, (result, other))
            return result
        if isinstance(expression, FloorDiv):
            return call(operator.floordiv, tuple(arguments))
        if isinstance(expression, Mod | PythonMod):
            return call(operator.mod, tuple(arguments))
        name = type(expression).__name__
        if name in ("Max", "Min"):
            return call(torch.sym_max if name == "Max" else torch.sym_min, tuple(arguments))
        if isinstance(expression, sympy.Pow):
            return call(operator.pow, tuple(arguments))
        raise PassError(f"size {expression}: expected sums, products, quotients, remainders, min or max; found {name}")

    def _symbol(self, name: sympy.Symbol) -> Any:
        for node in self.graph.inputs:
            for axis, dim in enumerate(node.tensor_type.shape):
                if dim == name:
                    return self.fx.call_function(torch.ops.aten.sym_size.int, (self.values[node], axis))
        return self._solve(name)

    def _solve(self, name: sympy.Symbol) -> Any:
        """A symbol that no input has bare: solve the first input dimension that holds it alone."""
        for node in self.graph.inputs:
            for axis, dim in enumerate(node.tensor_type.shape):
                if isinstance(dim, sympy.Expr) and dim.free_symbols == {name}:
                    size = sympy.Symbol("size", integer=True, positive=True)
                    solved = cast("list[sympy.Expr]", sympy.solve(dim - size, name))
                    native = self.fx.call_function(torch.ops.aten.sym_size.int, (self.values[node], axis))
                    return self._linear(solved[0], size, native)
        raise PassError(f"dimension {name}: no input has it among its sizes")

    def _linear(self, solution: sympy.Expr, size: sympy.Symbol, native: fx.Node) -> Any:
        slope = solution.coeff(size)
        offset = solution - slope * size
        scaled = self.fx.call_function(operator.floordiv, (native, int(1 / slope))) if slope < 1 else native
        return self.fx.call_function(operator.add, (scaled, int(cast(Any, offset)))) if offset != 0 else scaled


def _identifier(name: str) -> str:
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return f"_{clean}" if clean[:1].isdigit() and not clean.isdigit() else clean


def unflatten_outputs(graph: Graph, outputs: list[Any]) -> Any:
    """Flat outputs in the user's own structure."""
    spec = graph.signature.out_spec if graph.signature else None
    return pytree.tree_unflatten(outputs, spec) if spec is not None else tuple(outputs)


def rename(mapping: Mapping[str, str], name: str) -> str:
    """``mapping[name]`` or the name itself."""
    return mapping.get(name, name)
