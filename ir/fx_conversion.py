"""Graph -> FX GraphModule that runs, trains and exports again. Sizes are read off the inputs with sym_size."""

from __future__ import annotations

import keyword
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch import fx, nn
from torch.fx import graph as fx_graph
from torch.utils import _pytree as pytree

from .constants import ConstantHandle
from .errors import PassError
from .expressions import fold_expression
from .graph import Graph, Node, Signature
from .infer import call_arguments
from .op import CONSTANT, GETITEM
from .types import free_symbols


def to_module(graph: Graph) -> fx.GraphModule:
    """A module with the user's call signature and argument names (flat tensors where the graph has none).

    Parameters and buffers keep their names, ``state_dict`` and ties included: a parameter shared by two layers is one
    parameter with two names. Floating point parameters do not require gradients.
    """
    return _Writer(graph, graph.signature if graph.signature and graph.signature.in_spec is not None else None).module()


def to_flat_module(graph: Graph, *, numbered: bool = False) -> fx.GraphModule:
    """A module that takes the flat input tensors and returns a tuple of the flat outputs.

    Args:
        graph: the graph.
        numbered: inputs and constants are called ``input_0`` and :func:`numbered_constant`, each constant once,
            whatever their own names are: for those who name them afterwards.
    """
    return _Writer(graph, None, numbered=numbered).module()


@dataclass(frozen=True)
class Numbered:
    """The calls of a numbered module, and which node of the graph each stands for; those about sizes for none."""

    graph: fx.Graph
    nodes: Mapping[fx.Node, Node]


def to_numbered_graph(graph: Graph) -> Numbered:
    """The calls of a numbered :func:`to_flat_module` without a module around them; attributes are the constants."""
    writer = _Writer(graph, None, numbered=True)
    writer.write()
    return Numbered(writer.fx, {call: node for node, call in writer.values.items()})


def numbered_constant(position: int) -> str:
    """The name in a numbered module of the constant at a position of ``graph.constants()``."""
    return f"constant_{position}"


def check_fixed(found: Any, expected: Any, name: str) -> None:
    """Refuse another value for an argument that was fixed at capture. Called by the modules that are made here.

    Raises:
        PassError: the value differs.
    """
    if type(found) is not type(expected) or found != expected:
        raise PassError(f"argument {name}: expected {expected!r}, fixed at capture; found {found!r}; capture again")


class _Writer:
    def __init__(self, graph: Graph, signature: Signature | None, *, numbered: bool = False) -> None:
        self.graph = graph
        self.signature = signature
        self.numbers = {n.handle: i for i, n in enumerate(graph.constants())} if numbered else None
        self.root = nn.Module()
        self.fx = fx.Graph()
        self.values: dict[Node, fx.Node] = {}
        self.sizes: dict[Any, Any] = {}
        self.targets: dict[ConstantHandle, str] = {}
        self.sources: dict[str, tuple[Node, int]] | None = None

    def module(self) -> fx.GraphModule:
        self.write()
        if self.signature is not None:
            self._use_signature(self.signature)
        module = fx.GraphModule(self.root, self.fx)
        self._finish_constants(module)
        module.eval()
        return module

    def write(self) -> None:
        """All calls, in order."""
        self._placeholders()
        for node in self.graph.constants():
            if node.handle.aliases:  # before the modules of its other names exist, so that its own name stays the first
                self.values[node] = self._constant(node)
        for node in self.graph.nodes():
            if node not in self.values:
                self.values[node] = self._emit(node)
        self.fx.output(tuple(self._value(o) for o in self.graph.outputs))

    # -------------------------------------------------------------------------------------------- the call
    def _placeholders(self) -> None:
        tensors = iter(self.graph.inputs)
        fixed: list[tuple[fx.Node, Any]] = []
        leaves = self.signature.leaves if self.signature else (None,) * len(self.graph.inputs)
        for position, leaf in enumerate(leaves):
            if leaf is None:
                node = next(tensors)
                name = _identifier(node.argument("name")) if self.numbers is None else f"input_{position}"
                self.values[node] = self.fx.placeholder(name)
            else:
                fixed.append((self.fx.placeholder(f"fixed_{position}"), leaf[0]))
        for placeholder, value in fixed:
            if value is None or isinstance(value, bool | int | float | str):
                self.fx.call_function(check_fixed, (placeholder, value, placeholder.name))

    def _use_signature(self, signature: Signature) -> None:
        names = call_names(signature)
        taken: dict[str, None] = {}
        for name in names:
            taken[_unused(_identifier(name), taken)] = None
        classes = cast(Any, fx_graph)
        info = classes._PyTreeInfo(list(taken), signature.in_spec, signature.out_spec)
        self.fx.set_codegen(classes._PyTreeCodeGen(info))

    # -------------------------------------------------------------------------------------------- nodes
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
        handle = node.handle
        tensor = handle.tensor
        trains = handle.kind == "parameter" and (tensor.is_floating_point() or tensor.is_complex())
        value = nn.Parameter(tensor, requires_grad=False) if trains else tensor
        name = handle.name if self.numbers is None else numbered_constant(self.numbers[handle])
        owner, path = _owner(self.root, name)
        _register(owner, path[-1], value)
        self.targets[handle] = ".".join(path)
        return self.fx.get_attr(self.targets[handle])

    def _finish_constants(self, module: fx.GraphModule) -> None:
        """What FX loses when it copies tensors: their other names, and which of them a state_dict leaves out."""
        for handle, target in self.targets.items():
            owner = module.get_submodule(target.rpartition(".")[0])
            value = cast(torch.Tensor, getattr(owner, target.rpartition(".")[2]))
            if handle.kind == "constant":
                delattr(owner, target.rpartition(".")[2])
                _register(owner, target.rpartition(".")[2], value, persistent=False)
            for alias in handle.aliases if self.numbers is None else ():
                other, path = _owner(module, alias)
                _register(other, path[-1], value, persistent=handle.kind != "constant")

    # -------------------------------------------------------------------------------------------- arguments
    def _value(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self.values[value]
        if isinstance(value, tuple):
            return [self._value(v) for v in cast("tuple[Any, ...]", value)]
        if isinstance(value, sympy.Basic):
            return self._size(value)
        return value

    def _size(self, expression: sympy.Basic) -> Any:
        """An FX value that computes an expression from the sizes of the inputs."""
        if expression not in self.sizes:
            self.sizes[expression] = fold_expression(expression, self._symbol, self._call)
        return self.sizes[expression]

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        key = (function, *((type(a), a) for a in arguments))
        if key not in self.sizes:
            self.sizes[key] = self.fx.call_function(function, arguments)
        return self.sizes[key]

    def _symbol(self, name: str) -> Any:
        if self.sources is None:
            self.sources = dict(_bare_sizes(self.graph))
        if name not in self.sources:
            return self._solve(self.graph.dims[name].symbol)
        node, axis = self.sources[name]
        return self._call(cast(Any, torch.ops.aten.sym_size.int), (self.values[node], axis))

    def _solve(self, name: sympy.Symbol) -> Any:
        """A symbol that no input has bare: solve the first input dimension that holds it alone."""
        for node in self.graph.inputs:
            for axis, dim in enumerate(node.tensor_type.shape):
                if free_symbols(dim) == {str(name)}:
                    size = sympy.Symbol("size", integer=True, positive=True)
                    solved = cast("list[sympy.Expr]", sympy.solve(cast(sympy.Expr, dim) - size, name))
                    native = self._call(cast(Any, torch.ops.aten.sym_size.int), (self.values[node], axis))
                    return self._linear(solved[0], size, native)
        raise PassError(f"dimension {name}: no input has it among its sizes")

    def _linear(self, solution: sympy.Expr, size: sympy.Symbol, native: fx.Node) -> Any:
        """``(a*size + b) / c`` in integers."""
        top, bottom = solution.as_numer_denom()
        slope = top.coeff(size)
        scaled = native if slope == 1 else self._call(operator.mul, (native, int(cast(Any, slope))))
        offset = int(cast(Any, sympy.expand(top - slope * size)))
        moved = scaled if offset == 0 else self._call(operator.add, (scaled, offset))
        return moved if bottom == 1 else self._call(operator.floordiv, (moved, int(cast(Any, bottom))))


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, list[str]]:
    """The module that is to hold a tensor of that dotted name, made where it is missing, and the path to the tensor.

    Where modules and tensors get in each other's way, a part of the path gets underscores.
    """
    owner, path = root, list[str]()
    *parts, leaf = [_attribute(part) for part in name.split(".")]
    for part in parts:
        while not isinstance(getattr(owner, part, None), nn.Module) and _is_taken(root, owner, part):
            part += "_"
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = cast(nn.Module, getattr(owner, part))
        path.append(part)
    while _is_taken(root, owner, leaf):
        leaf += "_"
    return owner, [*path, leaf]


def _is_taken(root: nn.Module, owner: nn.Module, name: str) -> bool:
    return hasattr(owner, name) or (owner is root and hasattr(fx.GraphModule, name))


def _register(owner: nn.Module, name: str, value: torch.Tensor, *, persistent: bool = True) -> None:
    if isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    else:
        owner.register_buffer(name, value, persistent=persistent)


def call_names(signature: Signature) -> list[str]:
    """One name per argument of the user's call: positional ones, then keywords."""
    positional, keywords = signature.in_spec.children()
    names = list(signature.names[: positional.num_children])
    names += [f"argument_{i}" for i in range(len(names), positional.num_children)]
    return [*names, *(keywords.context or [])]


def _bare_sizes(graph: Graph) -> Iterator[tuple[str, tuple[Node, int]]]:
    """Symbol -> where to read it; the first input that has it wins, being yielded last."""
    for node in reversed(graph.inputs):
        for axis, dim in reversed(list(enumerate(node.tensor_type.shape))):
            if isinstance(dim, sympy.Symbol):
                yield str(dim), (node, axis)


def _identifier(name: str) -> str:
    """A name for a Python argument."""
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    clean = clean if clean.isidentifier() else f"_{clean}"
    return f"{clean}_" if keyword.iskeyword(clean) else clean


def _attribute(name: str) -> str:
    """A name for a sub-module or tensor that FX can write into its code: anything but keywords and quotes."""
    clean = "".join(c if c.isprintable() and c not in '"\\' else "_" for c in name) or "_"
    return f"{clean}_" if keyword.iskeyword(clean) else clean


def _unused(name: str, taken: dict[str, None]) -> str:
    while name in taken or name == "self":
        name += "_"
    return name


def unflatten_outputs(graph: Graph, outputs: list[Any]) -> Any:
    """Flat outputs in the user's own structure."""
    spec = graph.signature.out_spec if graph.signature else None
    return pytree.tree_unflatten(outputs, spec) if spec is not None else tuple(outputs)
