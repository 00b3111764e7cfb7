"""Type inference: an op's type rule is its fake-tensor kernel, run once per distinct combination of argument types."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import sympy
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from .errors import VerifyError
from .op import GETITEM, Op
from .types import Dim, DimRange, TensorType, evaluate_expression, normalize_dim, symbol

if TYPE_CHECKING:
    from .graph import NodeType


class TypeInference:
    """Infers result types in one private fake-tensor mode whose symbols stand for the named dimensions."""

    def __init__(self, dims: Mapping[str, DimRange]) -> None:
        self._dims = dims
        self._cache: dict[Any, NodeType] = {}
        self._mode: FakeTensorMode | None = None
        self._to_torch: dict[sympy.Symbol, sympy.Symbol] = {}
        self._from_torch: dict[sympy.Symbol, sympy.Symbol] = {}
        self._hints: dict[str, int] = {}
        self._fakes: dict[TensorType, torch.Tensor] = {}

    def __call__(self, operation: Op, arguments: tuple[tuple[str, Any], ...]) -> NodeType:
        """The result type.

        Raises:
            VerifyError: torch's own rule refuses the arguments; the message is torch's.
        """
        key = (operation.name, tuple((k, type_key(v)) for k, v in arguments))
        if key not in self._cache:
            self._cache[key] = self._infer(operation, arguments)
        return self._cache[key]

    def _infer(self, operation: Op, arguments: tuple[tuple[str, Any], ...]) -> NodeType:
        values = dict(arguments)
        if operation is GETITEM:
            return cast("tuple[TensorType, ...]", values["value"].type)[values["index"]]
        if operation.overload is None:
            raise VerifyError(f"op {operation.name}: expected an operator with a type rule; found a leaf")
        fakes = {name: self._fake(value) for name, value in values.items()}
        try:
            with self._fake_mode(), enable_python_dispatcher(), torch.no_grad(), _without_log():
                result = operation.overload(*_positional(operation, fakes), **_keywords(operation, fakes))
            problem = self._specialized()
        except Exception as error:
            problem = self._specialized() or self._reason(error)
            raise VerifyError(_refusal(operation, values, problem)) from error
        if problem:
            raise VerifyError(_refusal(operation, values, problem))
        return self._type_of(operation, result)

    def _reason(self, error: Exception) -> str:
        """The first line of torch's message, with our names for its symbols."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        for native, named in self._from_torch.items():
            lines[0] = re.sub(rf"\b{native}\b", str(named), lines[0])
        return lines[0]

    def _specialized(self) -> str:
        """What an op demands of a dimension, or nothing. Torch replaces the symbol for good then: start afresh."""
        environment = cast(Any, self._fake_mode().shape_env)
        fixed = {self._from_torch[s]: v for s, v in environment.replacements.items() if s in self._from_torch}
        if not fixed:
            return ""
        shown = ", ".join(f"{name} is {self._from_torch.get(value, value)}" for name, value in fixed.items())
        self._mode = None
        self._to_torch, self._from_torch, self._fakes = {}, {}, {}
        return f"it fits only where {shown}"

    def _type_of(self, operation: Op, result: Any) -> NodeType:
        if isinstance(result, torch.Tensor):
            return TensorType(result.dtype, tuple(self._dim(d) for d in result.shape))
        if isinstance(result, list | tuple):
            return tuple(cast(TensorType, self._type_of(operation, r)) for r in cast("list[Any]", result))
        raise VerifyError(f"op {operation.name}: expected a tensor result; found {type(result).__name__}")

    # ------------------------------------------------------------------------------------ fake values
    def _fake_mode(self) -> FakeTensorMode:
        if self._mode is None:
            environment = ShapeEnv()
            self._mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
            self._mode.cache_enabled = (
                False  # results are cached here, by type; torch's entries cost more than they save
            )
            for offset, dim in enumerate(self._dims.values()):
                self._declare(environment, dim, offset)
        return self._mode

    def _declare(self, environment: ShapeEnv, dim: DimRange, offset: int) -> None:
        hint = min(max(dim.minimum, 5 + 2 * offset), dim.maximum)
        created = environment.create_symbol(
            hint, source=ConstantSource(f"dim_{dim.name}"), dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None
        )
        if not isinstance(created, sympy.Symbol):
            raise VerifyError(f"dimension {dim.name}: expected a range of at least two values; found {hint} only")
        environment.constrain_symbol_range(created, compiler_min=max(dim.minimum, 2), compiler_max=dim.maximum)
        self._to_torch[dim.symbol] = created
        self._from_torch[created] = dim.symbol
        self._hints[dim.name] = hint

    def _fake(self, value: Any) -> Any:
        from .graph import Node

        if isinstance(value, Node):
            return self._fake_tensor(value.tensor_type)
        if isinstance(value, tuple):
            return [self._fake(v) for v in cast("tuple[Any, ...]", value)]
        if isinstance(value, sympy.Expr):
            return self._symint(value)
        return value

    def _fake_tensor(self, type: TensorType) -> torch.Tensor:
        if type not in self._fakes:
            with self._fake_mode():
                shape = [d if isinstance(d, int) else self._symint(d) for d in type.shape]
                self._fakes[type] = torch.empty(cast("list[int]", shape), dtype=type.dtype)
        return self._fakes[type]

    def _symint(self, expression: sympy.Expr) -> Any:
        environment = self._fake_mode().shape_env
        missing = [str(s) for s in expression.free_symbols if s not in self._to_torch]
        if environment is None or missing:
            raise VerifyError(f"dimension {missing}: expected one of {sorted(self._dims)}")
        hint = evaluate_expression(expression, self._hints)
        native = cast(sympy.Expr, expression.xreplace(cast("dict[Any, Any]", self._to_torch)))
        if expression.is_integer:
            return environment.create_symintnode(native, hint=int(hint))
        return environment.create_symfloatnode(native, hint=float(hint))

    def _dim(self, size: Any) -> Dim:
        if isinstance(size, int):
            return size
        expression = cast(sympy.Expr, size.node.expr)
        return normalize_dim(expression.xreplace(cast("dict[Any, Any]", self._from_torch)))


class MetaInference(TypeInference):
    """The same without symbols, by kernels on the meta device: a hundredth of the time, for formulas that are counted.

    Only for ops whose results are on the device of their arguments, as those of formats are.
    """

    def __init__(self) -> None:
        super().__init__({})

    def _infer(self, operation: Op, arguments: tuple[tuple[str, Any], ...]) -> NodeType:
        values = {name: self._fake(value) for name, value in arguments}
        assert operation.overload is not None  # formulas apply no structural op
        try:
            with torch.no_grad():
                result = operation.overload(*_positional(operation, values), **_keywords(operation, values))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise VerifyError(_refusal(operation, dict(arguments), self._reason(error))) from error
        return self._type_of(operation, result)

    def _fake_tensor(self, type: TensorType) -> torch.Tensor:
        if type not in self._fakes:
            self._fakes[type] = torch.empty(cast("list[int]", list(type.shape)), dtype=type.dtype, device="meta")
        return self._fakes[type]


def _refusal(operation: Op, values: Mapping[str, Any], problem: str) -> str:
    shown = ", ".join(f"{k}={_shown(v)}" for k, v in values.items())
    return f"op {operation.name}({shown}): torch refuses these arguments: {problem}"


@contextmanager
def _without_log() -> Generator[None]:
    """Fake tensors log a traceback for every refusal; here it becomes an exception anyway.

    Disabled rather than set to another level, which would make every logger of the process forget its own.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def type_key(value: Any) -> Any:
    """The part of an argument that decides types: node types, and every other value as it is."""
    from .graph import Node

    if isinstance(value, Node):
        return ("type", value.type)
    if isinstance(value, tuple):
        return tuple(type_key(v) for v in cast("tuple[Any, ...]", value))
    return (type(value).__name__, value)


def _positional(operation: Op, values: Mapping[str, Any]) -> list[Any]:
    """Leading arguments in order, up to the first that is absent or keyword-only."""
    leading: list[Any] = []
    for name in operation.parameters:
        if name not in values or name in operation.keyword_only:
            break
        leading.append(values[name])
    return leading


def _keywords(operation: Op, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that :func:`_positional` leaves."""
    leading = len(_positional(operation, values))
    return {name: values[name] for name in operation.parameters[leading:] if name in values}


def inference_for(dims: Mapping[str, DimRange]) -> TypeInference:
    """Type inference for these dimensions; what needs none is answered once per thread, for all graphs alike.

    A type without symbols follows from the op and the types of its arguments alone. Where there are symbols, torch
    keeps what ops demand of them, which must not go from one graph into another.
    """
    return TypeInference(dims) if dims else _of_fixed_sizes(threading.get_ident())


@cache
def _of_fixed_sizes(thread: int) -> TypeInference:
    del thread  # a fake-tensor mode belongs to one
    return TypeInference({})


def call_arguments(operation: Op, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments for the op's overload."""
    return _positional(operation, values), _keywords(operation, values)


def _shown(value: Any) -> str:
    from .graph import Node, type_text

    if isinstance(value, Node):
        return type_text(value.type)
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(v) for v in cast('tuple[Any, ...]', value))}]"
    return str(value)


__all__ = ["TypeInference", "call_arguments", "inference_for", "symbol", "type_key"]
