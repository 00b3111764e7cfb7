"""Reads the call_function nodes of an exported FX graph into a context."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

import sympy
import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from ..constants import ConstantHandle
from ..context import Context, bind_arguments
from ..errors import CaptureError, InstarError
from ..graph import Node, NodeType, Origin
from ..op import Op, is_random, op_of
from ..types import DTYPE_NAMES, TensorType, normalize_dim
from .dims import DimNames
from .errors import listed
from .functional import SIZE_MODULES
from .memory import Memory
from .places import user_line
from .views import SCATTERS, scatter_part
from .writes import Writes, functional_variant, is_spelled, is_writing, keeps_value

_NO_VALUE = (
    "aten._assert",
    "aten.sym_constrain",
    "aten._assert_scalar",
    "aten._assert_async",
    "aten._functional_assert",
)
_FLAGS = ("train", "training")
_MAYBE_SELF = (
    "aten.flatten.using_ints",
    "aten.positive.default",
    "aten.resolve_conj.default",
    "aten.resolve_neg.default",
    "aten.to.device",
    "aten.to.dtype",
    "aten.to.dtype_layout",
    "aten.to.other",
)
"""Operators that return their input itself where there is nothing to do. Torch then takes the result for the input in
what follows, so that such a program would read differently every time it is captured from its own module.
``contiguous`` is not one of them: it may copy, and a ``view`` behind it then needs the copy."""


class FxReader:
    """Translates FX nodes one by one. Sizes become expressions; asserts have no value and are left behind.

    Args:
        context: where the nodes are made.
        names: the names of the program's dimensions.
        writes: the program's writes; each becomes a new value, and so do the values that it changes.
    """

    def __init__(self, context: Context, names: DimNames, writes: Writes | None = None) -> None:
        self.context = context
        self.names = names
        self.memory = Memory(writes or Writes(), self._read_again, self._put_back)

    def bind(self, node: fx.Node, value: Any) -> None:
        """Let an FX placeholder stand for a value."""
        self.memory.set(node, value)

    def run(self, nodes: Iterable[fx.Node]) -> None:
        """Translate nodes in order.

        Raises:
            CaptureError: an operator is not functional or random, or a size depends on tensor values; lists all of them
                and where they are.
        """
        problems: list[str] = []
        broken: set[fx.Node] = set()
        for node in nodes:
            depends = not broken.isdisjoint(node.all_input_nodes)
            if depends:
                broken.add(node)
            try:
                self._take(node, _refuse_op(node) if depends else self._translate(node))
            except InstarError as error:
                broken.update(self.memory.relatives(node) if is_writing(node) else [node])
                problems.append(f"{_origin(node)}: {error}")
        if problems:
            raise CaptureError(f"model: these lines cannot be captured:\n{listed(problems)}")

    def _take(self, node: fx.Node, value: Any) -> None:
        if is_writing(node) and value is not None:
            self.memory.write(node, value)
        else:
            self.memory.set(node, value)

    def _read_again(self, node: fx.Node) -> Any:
        """A view of what its tensor holds now."""
        return self._translate(node)

    def _put_back(self, view: fx.Node, base: Any, value: Any) -> Any:
        """What is left in a tensor by a write to a view of it."""
        with self.context.origin(_origin(view)):
            if getattr(view.target, "__name__", "") == "getitem":
                parts = cast(fx.Node, view.args[0])
                index = cast(int, view.args[1])
                return scatter_part(self.context, base, value, str(parts.target), self._arguments(parts), index)
            return SCATTERS[str(view.target)](self.context, base, value, self._arguments(view))

    def _arguments(self, call: fx.Node) -> dict[str, Any]:
        return dict(self._bound(op_of(cast(OpOverload, call.target)), call))

    def _bound(self, operation: Op, call: fx.Node) -> tuple[tuple[str, Any], ...]:
        return bind_arguments(operation, self.value(call.args), {k: self.value(v) for k, v in call.kwargs.items()})

    def value(self, argument: Any) -> Any:
        """An FX argument as an argument of the IR."""
        if isinstance(argument, fx.Node):
            return self.memory.read(argument)
        if isinstance(argument, list | tuple):
            return tuple(self.value(a) for a in cast("list[Any]", argument))
        if isinstance(argument, torch.SymInt | torch.SymFloat):
            return self.names.rename(argument)
        if isinstance(argument, sympy.Basic):
            return normalize_dim(argument)
        return argument

    def type_of(self, value: torch.Tensor) -> TensorType:
        """The type of a fake tensor of the program.

        Raises:
            CaptureError: an unknown dtype, or a size that depends on tensor values.
        """
        if value.dtype not in DTYPE_NAMES:
            raise CaptureError(f"{value.dtype}: expected one of {', '.join(DTYPE_NAMES.values())}; convert it before")
        return TensorType(value.dtype, tuple(cast(int, self.names.rename(d)) for d in value.shape))

    def _translate(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op != "call_function":
            raise CaptureError(f"expected an operator call; found {node.op} {node.target}")
        if isinstance(value, bool | int | float | torch.SymInt | torch.SymFloat | torch.SymBool):
            return self.names.rename(value)
        if value is None or str(node.target).startswith(_NO_VALUE):
            return self._without_value(node)
        if getattr(node.target, "__name__", "") == "getitem":
            return self.context.item(self.value(node.args[0]), cast(int, node.args[1]))
        return self._call(node, value)

    def _without_value(self, node: fx.Node) -> None:
        if not str(node.target).startswith(_NO_VALUE) and node.users:
            raise CaptureError(f"{node.target} gives no tensor; compute it outside the model")

    def _attribute(self, node: fx.Node) -> Any:
        owner = cast(Any, node.graph.owning_module)
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        if not isinstance(owner, torch.Tensor):
            return owner  # a branch of a control flow operator, which is then refused by its own name
        return self.context.constant_of(ConstantHandle.of(str(node.target), owner, "constant"))

    def _call(self, node: fx.Node, value: Any) -> Node:
        if keeps_value(node):
            return self.value(node.args[0])
        if is_spelled(node):
            return self._filled_diagonal(node)
        _refuse_op(node)
        operation = op_of(_operator(node))
        arguments = self._bound(operation, node)
        _refuse_random(cast(OpOverload, node.target), dict(arguments))
        try:
            wanted = self._node_type(value)
        except CaptureError as error:
            raise CaptureError(f"{operation.short_name}: {error}") from error
        if str(node.target) in _MAYBE_SELF and self._is_self(node, dict(arguments), wanted):
            return self.value(node.args[0])
        if is_writing(node):
            return self._written(operation, arguments, cast(TensorType, wanted), _origin(node))
        return self.context.node_of(operation, arguments, wanted, _origin(node))

    def _is_self(self, node: fx.Node, arguments: dict[str, Any], wanted: NodeType) -> bool:
        source = cast(fx.Node, node.args[0])
        same_place = source.meta["val"].device == node.meta["val"].device
        return same_place and self.value(source).type == wanted and arguments.get("memory_format") is None

    def _written(
        self, operation: Op, arguments: tuple[tuple[str, Any], ...], wanted: TensorType, origin: Origin
    ) -> Node:
        """The value that a write leaves: the result of the operator in the dtype of the memory."""
        with self.context.origin(origin):
            if operation.name == "aten.copy.default":
                value = cast(Node, dict(arguments)["src"])
            else:
                value = self.context.node_of(operation, arguments)
            if value.tensor_type.dtype != wanted.dtype:
                value = self.context.node("aten._to_copy", value, dtype=wanted.dtype)
            if value.tensor_type.shape != wanted.shape:
                value = self.context.node("aten.expand", value, wanted.shape)
            return value

    def _filled_diagonal(self, call: fx.Node) -> Node:
        """``fill_diagonal_``: the diagonal of a matrix, or the elements of a cube whose indices are all equal."""
        tensor, number = cast(Node, self.value(call.args[0])), self.value(call.args[1])
        with self.context.origin(_origin(call)):
            if tensor.tensor_type.rank == 2:
                filled = self.context.node("aten.fill.Scalar", self.context.node("aten.diagonal", tensor), number)
                return self.context.node("aten.diagonal_scatter", tensor, filled)
            kind = tensor.tensor_type
            places = self.context.node("aten.arange", kind.shape[0], device=torch.device("cpu"), pin_memory=False)
            value = self.context.node("aten.full", (), number, dtype=kind.dtype, pin_memory=False)
            return self.context.node("aten.index_put", tensor, (places,) * kind.rank, value)

    def _node_type(self, value: Any) -> NodeType:
        if isinstance(value, torch.Tensor):
            return self.type_of(value)
        parts = cast("list[Any]", value if isinstance(value, list | tuple) else [value])
        if not all(isinstance(v, torch.Tensor) for v in parts):
            raise CaptureError("expected tensors as results; found another value; compute it outside the model")
        return tuple(self.type_of(v) for v in parts)


def _refuse_op(node: fx.Node) -> None:
    """Refuse what cannot be an op of the IR whatever its arguments are."""
    if node.op != "call_function" or getattr(node.target, "__module__", "") in SIZE_MODULES:
        return
    if isinstance(node.target, HigherOrderOperator):
        raise CaptureError(
            f"{node.target.name()}: control flow inside the model is not supported; use torch.where, or fix the branch"
        )
    if not isinstance(node.target, OpOverload):
        raise CaptureError(f"{node.target}: expected a torch operator; call it outside the model")
    if not str(node.target).startswith(_NO_VALUE) and not keeps_value(node) and not is_spelled(node):
        op_of(_operator(node))


def _operator(call: fx.Node) -> OpOverload:
    """The operator of a call; of a write, the one that returns what is written."""
    overload = cast(OpOverload, call.target)
    return (functional_variant(overload) if is_writing(call) else None) or overload


def _refuse_random(overload: OpOverload, arguments: dict[str, Any]) -> None:
    """Dropout and its like are refused where they act; what is off by a flag is not random."""
    name = str(overload.overloadpacket)
    names = {str(a.name) for a in cast(Any, overload)._schema.arguments}
    flags = names.intersection(_FLAGS)
    if any(arguments.get(flag) for flag in flags) or arguments.get("dropout_p", 0.0):
        raise CaptureError(f"{name} acts as in training; call model.eval() before compiling")
    if is_random(overload) and not flags and "dropout_p" not in names:
        raise CaptureError(f"{name} draws random numbers, which no check could compare; pass them as an input")


def _origin(node: fx.Node) -> Origin:
    stack = node.meta.get("nn_module_stack") or {}
    module = [path for path, _ in stack.values()][-1] if stack else ""
    return Origin(_plain(module), user_line(node.meta.get("stack_trace") or ""))


def _plain(module: str) -> str:
    return re.sub(r"@\d+", "", module).removeprefix("L__self__").lstrip(".")
