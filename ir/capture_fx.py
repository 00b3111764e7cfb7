"""Reads the call_function nodes of an exported FX graph into a context."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

import sympy
import torch
from torch import fx
from torch._ops import OpOverload

from .capture_dims import DimNames
from .constants import ConstantHandle
from .context import Context, bind_arguments
from .errors import CaptureError, InstarError
from .graph import Node, NodeType, Origin
from .op import is_random, op_of
from .types import TensorType, normalize_dim

_NO_VALUE = ("aten._assert", "aten.sym_constrain", "aten._assert_scalar", "aten._assert_async", "aten._functional_assert")
_TRAINING_FLAGS = {"aten.dropout": "train", "aten.batch_norm": "training", "aten.native_dropout": "train"}


class FxReader:
    """Translates FX nodes one by one. Sizes become expressions; asserts have no value and are left behind."""

    def __init__(self, context: Context, names: DimNames) -> None:
        self.context = context
        self.names = names
        self.values: dict[fx.Node, Any] = {}

    def bind(self, node: fx.Node, value: Any) -> None:
        """Let an FX placeholder stand for a value."""
        self.values[node] = value

    def run(self, nodes: Iterable[fx.Node]) -> None:
        """Translate nodes in order.

        Raises:
            CaptureError: an operator is not functional or random, or a size depends on tensor values; says where.
        """
        problems: list[str] = []
        for node in nodes:
            try:
                self.values[node] = self._translate(node)
            except InstarError as error:
                problems.append(f"  {_origin(node)}: {error}")
                if len(problems) == 1 and not isinstance(node.meta.get("val"), torch.Tensor):
                    break
                self._stand_in(node)
        if problems:
            raise CaptureError("model: cannot be captured:\n" + "\n".join(dict.fromkeys(problems)))

    def _stand_in(self, node: fx.Node) -> None:
        """A typed stand-in for a node that could not be translated, so that later problems are found too."""
        value = node.meta.get("val")
        kind = TensorType(torch.float32, ()) if not isinstance(value, torch.Tensor) else TensorType(value.dtype, ())
        self.values[node] = self.context.input(f"unsupported_{node.name}", kind)

    def value(self, argument: Any) -> Any:
        """An FX argument as an argument of the IR."""
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, list | tuple):
            return tuple(self.value(a) for a in cast("list[Any]", argument))
        if isinstance(argument, torch.SymInt | torch.SymFloat):
            return self.names.rename(argument)
        if isinstance(argument, sympy.Basic):
            return normalize_dim(argument)
        return argument

    def type_of(self, value: torch.Tensor) -> TensorType:
        """The type of a fake tensor of the program."""
        return TensorType(value.dtype, tuple(cast(int, self.names.rename(d)) for d in value.shape))

    def _translate(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op != "call_function":
            raise CaptureError(f"expected an operator call; found {node.op} {node.target}")
        if isinstance(value, bool | int | float | torch.SymInt | torch.SymFloat):
            return self.names.rename(value)
        if value is None or isinstance(value, torch.SymBool) or str(node.target).startswith(_NO_VALUE):
            return self._without_value(node)
        if getattr(node.target, "__name__", "") == "getitem":
            return self.context.item(self.values[cast(fx.Node, node.args[0])], cast(int, node.args[1]))
        return self._call(node, value)

    def _without_value(self, node: fx.Node) -> None:
        if not str(node.target).startswith(_NO_VALUE) and node.users:
            raise CaptureError(f"{node.target} gives no tensor; compute it outside the model")

    def _attribute(self, node: fx.Node) -> Node:
        owner = cast(Any, node.graph.owning_module)
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        if not isinstance(owner, torch.Tensor):
            raise CaptureError(f"{node.target}: control flow with sub-graphs is not supported; use torch.where or a fixed branch")
        return self.context.constant_of(ConstantHandle.of(str(node.target), owner, "buffer"))

    def _call(self, node: fx.Node, value: Any) -> Node:
        if not isinstance(node.target, OpOverload):
            raise CaptureError(f"{node.target}: higher-order operators are not supported; use torch.where or a fixed branch")
        operation = op_of(node.target)
        arguments = bind_arguments(
            operation, self.value(node.args), {k: self.value(v) for k, v in node.kwargs.items()}
        )
        _refuse_random(node.target, dict(arguments))
        return self.context.node_of(operation, arguments, self._node_type(value), _origin(node))

    def _node_type(self, value: Any) -> NodeType:
        if isinstance(value, torch.Tensor):
            return self.type_of(value)
        return tuple(self.type_of(v) for v in cast("list[torch.Tensor]", value))


def _refuse_random(overload: OpOverload, arguments: dict[str, Any]) -> None:
    packet = str(overload.overloadpacket)
    if packet in _TRAINING_FLAGS:
        if arguments.get(_TRAINING_FLAGS[packet]):
            raise CaptureError(f"{packet} in training mode; call model.eval() before compiling")
        return
    if is_random(overload) and arguments.get("dropout_p", 0.0) == 0.0 and "dropout_p" not in [
        a.name for a in overload._schema.arguments
    ]:
        raise CaptureError(f"{packet} draws random numbers, so the compiled model could not be checked; pass them as an input")
    if arguments.get("dropout_p", 0.0):
        raise CaptureError(f"{packet} with dropout_p={arguments['dropout_p']}; call model.eval() before compiling")


def _origin(node: fx.Node) -> Origin:
    stack = node.meta.get("nn_module_stack") or {}
    module = [path for path, _ in stack.values()][-1] if stack else ""
    return Origin(_plain(module), _user_line(node.meta.get("stack_trace") or ""))


def _plain(module: str) -> str:
    return re.sub(r"@\d+", "", module).removeprefix("L__self__").lstrip(".")


def _user_line(trace: str) -> str:
    """``file:line`` of the innermost frame that is not torch's own."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")] or frames
    if not own:
        return ""
    path, line = own[-1]
    return f"{path.replace(chr(92), '/').rsplit('/', 1)[-1]}:{line}"
