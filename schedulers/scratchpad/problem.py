"""What is to be scheduled on an accelerator with a software-managed memory: operators over tensors, in plain integers.

A tensor is cut into *rows* (image rows, tokens, attention heads): the unit in which operators that run depth first hand
their results on. Sizes are bytes and have no upper limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ...ir.errors import ScheduleError

Role = Literal["input", "activation", "output"]
"""Inputs of the network start off-chip, outputs must end there; what neither is may stay on chip for its whole life."""

ROLES = ("input", "activation", "output")


@dataclass(frozen=True)
class Tensor:
    """One value of the network.

    Attributes:
        name: unique within the problem.
        size_bytes: what it occupies in memory, padding included.
        shape: its dimensions, or ``()`` if unknown. Dimensions of one in front are ignored; the next one counts rows.
        role: input of the network, output of it, or neither. An output may have readers too.
        item_bytes: of one element, 0 where it is not known; then ``size_bytes`` must be without padding to be executed.
    """

    name: str
    size_bytes: int
    shape: tuple[int, ...] = ()
    role: Role = "activation"
    item_bytes: int = 0

    def __post_init__(self) -> None:
        where = f"tensor {self.name!r}"
        if self.size_bytes < 0:
            raise ScheduleError(f"{where}: expected a size of at least 0 bytes, found {self.size_bytes}; correct it")
        if any(extent < 1 for extent in self.shape) and self.size_bytes:
            raise ScheduleError(f"{where}: expected dimensions of at least 1, found {list(self.shape)}; correct it")
        if self.role not in ROLES:
            raise ScheduleError(f"{where}: expected a role of {', '.join(ROLES)}, found {self.role!r}; correct it")

    @property
    def row_axis(self) -> int | None:
        """The axis along which the tensor is cut; ``None`` for vectors and unknown shapes."""
        first = 1 if len(self.shape) == 4 else 0
        axes = range(first, max(len(self.shape) - 1, first))
        return next((axis for axis in axes if self.shape[axis] > 1), None)

    @property
    def rows(self) -> int:
        """Extent of the axis along which the tensor is cut; 1 for vectors and unknown shapes."""
        return 1 if self.row_axis is None else self.shape[self.row_axis]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, rounded up."""
        return -(-self.size_bytes // self.rows)


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pooling along height and width; padding is top, bottom, left, right.

    ``pad`` may be ``"same"`` (output = ceil(input / stride), surplus at the end), ``"valid"`` or four numbers.
    """

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: Literal["same", "valid"] | tuple[int, int, int, int] = "valid"

    def __post_init__(self) -> None:
        if min(*self.kernel, *self.stride, *self.dilation) < 1:
            raise ScheduleError(f"window: expected kernel, stride and dilation of at least 1, found {self}; correct it")
        if not isinstance(self.pad, str) and min(self.pad) < 0:
            raise ScheduleError(f"window: expected padding of at least 0, found {self.pad}; correct it")


@dataclass(frozen=True)
class Operator:
    """One operator: reads tensors and constants of its own, makes one tensor.

    Attributes:
        name: unique within the problem.
        kind: what it computes, in the spelling of its source (``conv_2d``, ``add``, ``softmax``, ...).
        inputs: positions in ``Problem.tensors``; a tensor may appear twice.
        output: position in ``Problem.tensors``.
        weight_bytes: constants that it reads (weights, bias), off-chip before the network starts.
        macs: multiply-accumulates, 0 if unknown or none.
        window: kernel geometry, if it has one.
        groups: channel groups of a convolution.
        axis: of a concatenation or a reduction, if known; counted from the back if negative.
        activation: activation function applied to the result, or ``""``.
        blocked_weights: whether the constants of each channel of the result lie together, one channel after the other.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    output: int
    weight_bytes: int = 0
    macs: int = 0
    window: Window | None = None
    groups: int = 1
    axis: int | None = None
    activation: str = ""
    blocked_weights: bool = True

    def __post_init__(self) -> None:
        for what, value in (("weights", self.weight_bytes), ("MACs", self.macs)):
            if value < 0:
                raise ScheduleError(f"operator {self.name!r}: expected {what} of at least 0, found {value}; correct it")
        if self.groups < 1:
            raise ScheduleError(f"operator {self.name!r}: expected at least 1 group, found {self.groups}; correct it")


@dataclass(frozen=True)
class Problem:
    """A network as a scheduler sees it. ``operators`` are in an order that can be executed.

    Attributes:
        model: name for reports.
        tensors: all tensors; operators refer to them by position.
        operators: in an executable order, which is also the order that ``--fixed-order`` keeps.

    Raises:
        ScheduleError: names repeat, a position does not exist, an operator reads what is made later or never, or a
            tensor has two producers or is a network input with one.
    """

    model: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    producer: tuple[int | None, ...] = field(init=False, repr=False, compare=False)
    consumers: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_names("tensor", [tensor.name for tensor in self.tensors])
        _check_names("operator", [operator.name for operator in self.operators])
        producer: list[int | None] = [None] * len(self.tensors)
        consumers: list[list[int]] = [[] for _ in self.tensors]
        for position, operator in enumerate(self.operators):
            for tensor in dict.fromkeys(operator.inputs):
                self._check_readable(operator, tensor, producer)
                consumers[tensor].append(position)
            self._check_writable(operator, producer)
            producer[operator.output] = position
        for tensor, made in zip(self.tensors, producer, strict=True):
            if made is None and tensor.role != "input":
                raise ScheduleError(
                    f"tensor {tensor.name!r}: expected an operator that makes it, found none; "
                    f"give it the role 'input' or remove it"
                )
        object.__setattr__(self, "producer", tuple(producer))
        object.__setattr__(self, "consumers", tuple(tuple(readers) for readers in consumers))

    @property
    def has_shapes(self) -> bool:
        """Whether every tensor has a shape; without them operators can only run whole."""
        return all(tensor.shape for tensor in self.tensors)

    def without_shapes(self) -> Problem:
        """The same network with tensors that are one row each, so that every operator runs whole."""
        return replace(self, tensors=tuple(replace(tensor, shape=()) for tensor in self.tensors))

    def _positions(self) -> str:
        return f"from 0 to {len(self.tensors) - 1}" if self.tensors else "among the tensors, of which there are none"

    def _check_readable(self, operator: Operator, tensor: int, producer: list[int | None]) -> None:
        where = f"operator {operator.name!r}"
        if not 0 <= tensor < len(self.tensors):
            raise ScheduleError(f"{where}: expected inputs {self._positions()}, found {tensor}; correct it")
        if producer[tensor] is None and self.tensors[tensor].role != "input":
            raise ScheduleError(
                f"{where}: expected inputs that are made before it, found {self.tensors[tensor].name!r}; "
                f"put the operators in an executable order"
            )

    def _check_writable(self, operator: Operator, producer: list[int | None]) -> None:
        where = f"operator {operator.name!r}"
        if not 0 <= operator.output < len(self.tensors):
            raise ScheduleError(f"{where}: expected an output {self._positions()}, found {operator.output}; correct it")
        tensor = self.tensors[operator.output]
        if tensor.role == "input":
            raise ScheduleError(f"{where}: expected an output that it may make, found the input {tensor.name!r}")
        if producer[operator.output] is not None:
            raise ScheduleError(f"{where}: expected a tensor that nobody else makes, found {tensor.name!r}; correct it")


def _check_names(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ScheduleError(f"{what}s: expected unique names, found two {what}s {name!r}; rename one")
        seen.add(name)
