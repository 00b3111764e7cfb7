"""Functions of torch that fix sizes while they are traced, spelled so that every size stays open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..dialect.recurrent import KINDS, recurrent
from .numbers_as_tensors import NumbersAsTensors


class AnySize(TorchFunctionMode):
    """Recurrent networks become ``instar.recurrent``, and what fixes sizes is taken apart; the rest is torch's own.

    Sizes that go through tensors stay sizes (:mod:`.numbers_as_tensors`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers = NumbersAsTensors()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See :class:`TorchFunctionMode`."""
        name = getattr(func, "__name__", "")
        if name in KINDS and func == getattr(torch, name) and not kwargs:
            if _is_plain(name, args):
                return _call(name, args)
            if name == "lstm" and _is_projected(args):
                return _projected(args)
        number = self._numbers.taken(name, args)
        if number is not None:
            return number
        args, named = self._numbers.plain(name, args, kwargs or {})
        result = RESPELLED.get(func, func)(*args, **named)
        self._numbers.follow(name, args, named, result)
        return result


def _is_plain(kind: str, args: Sequence[Any]) -> bool:
    """Whether a call is one over padded sequences, in evaluation and without projections."""
    if len(args) != 9 or not isinstance(args[0], Tensor) or isinstance(args[1], Tensor) is (kind == "lstm"):
        return False
    _, states, weights, biases, layers, _, training, bidirectional, _ = args
    count = layers * (2 if bidirectional else 1) * (4 if biases else 2)
    return not training and len(weights) == count and len(states) > 0


def _is_projected(args: Sequence[Any]) -> bool:
    """Whether a call is one of cells whose outputs are projected, which runtimes have no operator for."""
    if len(args) != 9 or not isinstance(args[0], Tensor) or isinstance(args[1], Tensor):
        return False
    _, _, weights, biases, layers, _, training, bidirectional, _ = args
    return not training and len(weights) == layers * (2 if bidirectional else 1) * (5 if biases else 3)


def _projected(args: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """``aten.lstm`` with projections, step by step (arXiv 1402.1128)."""
    x, (hidden, cells), weights, biases, layers, _, _, bidirectional, batch_first = args
    directions, each = (2 if bidirectional else 1), (5 if biases else 3)
    steps = list(x.unbind(1 if batch_first else 0))
    last: list[tuple[Tensor, Tensor]] = []
    for layer in range(layers):
        sides: list[list[Tensor]] = []
        for number in range(layer * directions, (layer + 1) * directions):
            own = weights[number * each : (number + 1) * each]
            backwards = number % directions == 1
            made, ends = _run(steps[::-1] if backwards else steps, hidden[number], cells[number], own)
            sides.append(made[::-1] if backwards else made)
            last.append(ends)
        steps = [torch.cat(parts, -1) if directions == 2 else parts[0] for parts in zip(*sides, strict=True)]
    h, c = (torch.stack(parts) for parts in zip(*last, strict=True))
    return torch.stack(steps, 1 if batch_first else 0), h, c


def _run(
    steps: Sequence[Tensor], hidden: Tensor, cell: Tensor, weights: Sequence[Tensor]
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The outputs of one direction of one layer, and its last states."""
    own, shared, *biases, projection = weights
    bias = biases or [None, None]
    linear = torch.nn.functional.linear
    made: list[Tensor] = []
    for x in steps:
        gates = linear(x, own, bias[0]) + linear(hidden, shared, bias[1])
        taken, kept, new, shown = gates.chunk(4, -1)
        cell = kept.sigmoid() * cell + taken.sigmoid() * new.tanh()
        hidden = linear(shown.sigmoid() * cell.tanh(), projection)
        made.append(hidden)
    return made, (hidden, cell)


def _call(kind: str, args: Sequence[Any]) -> tuple[Tensor, ...]:
    """One operator a layer, over steps that come first."""
    x, given, weights, biases, layers, _, _, bidirectional, batch_first = args
    directions, each = (2 if bidirectional else 1), (4 if biases else 2)
    states = list(given) if kind == "lstm" else [given]
    value, last = x.transpose(0, 1) if batch_first else x, list[Tensor]()
    for layer in range(layers):
        first, end = layer * directions, (layer + 1) * directions
        begin = states if layers == 1 else [state[first:end] for state in states]
        own = list(weights[first * each : end * each])
        value, ends = cast("tuple[Tensor, Tensor]", recurrent(value, begin, own, kind, biases, bidirectional, False))
        last.append(ends)
    joined = last[0] if layers == 1 else torch.cat(last, 1)
    return (value.transpose(0, 1) if batch_first else value, *joined.unbind(0))


def _take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:  # noqa: A002 - torch's name
    """``torch.take_along_dim``, whose broadcasting in C++ makes numbers of sizes."""
    if dim is None:
        return input.reshape(-1).gather(0, indices.reshape(-1))
    if input.dim() != indices.dim():
        return torch.take_along_dim(input, indices, dim)  # torch's own message
    axis = dim % input.dim() if input.dim() else 0
    wanted = list(torch.broadcast_shapes(_with(input.shape, axis, 1), _with(indices.shape, axis, 1)))
    along = [_with(wanted, axis, t.shape[axis]) for t in (input, indices)]
    return input.expand(along[0]).gather(axis, indices.expand(along[1]))


def _with(shape: Sequence[Any], axis: int, size: Any) -> list[Any]:
    return [size if n == axis else old for n, old in enumerate(shape)]


RESPELLED: Mapping[Any, Callable[..., Any]] = {
    torch.take_along_dim: _take_along_dim,
    Tensor.take_along_dim: _take_along_dim,
}
