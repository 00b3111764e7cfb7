"""Which line of the user's asks for a condition on sizes: torch notes its own line for most of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .places import running_line

_HERE = str(Path(__file__).parent)


class GuardLines(TorchFunctionMode):
    """While a model is traced, notes for every new condition the user's line that called torch.

    Attributes:
        lines: position of a condition in the shape environment's list -> the line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, str] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See :class:`TorchFunctionMode`."""
        environment = _environment((args, kwargs))
        before = len(environment.guards) if environment is not None else 0
        try:
            return func(*args, **(kwargs or {}))
        finally:
            after = len(environment.guards) if environment is not None else 0
            if after > before:
                line = running_line(_HERE)
                self.lines |= {n: line for n in range(before, after) if line and n not in self.lines}


def _environment(arguments: Any) -> Any:
    """The shape environment of the first traced tensor among the arguments of a call."""
    found = (leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, FakeTensor))
    return next((leaf.fake_mode.shape_env for leaf in found), None)
