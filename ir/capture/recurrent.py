"""Recurrent layers for any number of steps: torch's operators fix it while they are traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..dialect.recurrent import KINDS, recurrent


class AnyNumberOfSteps(TorchFunctionMode):
    """Lets calls of recurrent networks be ``instar.recurrent``; all other functions are torch's own."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See :class:`TorchFunctionMode`."""
        name = getattr(func, "__name__", "")
        if name in KINDS and func == getattr(torch, name) and not kwargs and _is_plain(name, args):
            return _call(name, args)
        return func(*args, **(kwargs or {}))


def _is_plain(kind: str, args: Sequence[Any]) -> bool:
    """Whether a call is one over padded sequences, in evaluation and without projections."""
    if len(args) != 9 or not isinstance(args[0], Tensor) or isinstance(args[1], Tensor) is (kind == "lstm"):
        return False
    _, states, weights, biases, layers, _, training, bidirectional, _ = args
    count = layers * (2 if bidirectional else 1) * (4 if biases else 2)
    return not training and len(weights) == count and len(states) > 0


def _call(kind: str, args: Sequence[Any]) -> tuple[Tensor, ...]:
    x, states, weights, biases, layers, _, _, bidirectional, batch_first = args
    given = list(states) if kind == "lstm" else [states]
    settings = (kind, biases, layers, bidirectional, batch_first)
    output, last = cast("tuple[Tensor, Tensor]", recurrent(x, given, list(weights), *settings))
    return (output, *last.unbind(0))
