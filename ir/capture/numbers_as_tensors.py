"""Sizes that a model carries through tensors: ``torch.tensor(x.shape[1])`` that bounds a slice later is still a size.

Torch makes a new size without a name of every number that it takes from a tensor, because it could be anything. Of a
tensor that a size was put into, the number is known.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "__add__": operator.add,
    "__radd__": operator.add,
    "mul": operator.mul,
    "__mul__": operator.mul,
    "__rmul__": operator.mul,
    "sub": operator.sub,
    "__sub__": operator.sub,
    "__rsub__": lambda one, other: other - one,
    "rsub": lambda one, other: other - one,
    "floor_divide": operator.floordiv,
    "__floordiv__": operator.floordiv,
    "minimum": torch.sym_min,
    "maximum": torch.sym_max,
}
_SAME = ("to", "long", "int", "clone", "detach", "detach_", "contiguous", "cpu")
_NEGATIVE = ("neg", "__neg__", "negative")
_TAKEN = "item"
_FACTORIES = ("arange", "full", "ones", "zeros")
_TAKE_NUMBERS = (*_FACTORIES, "clamp", "clamp_max", "clamp_min", "clip", "expand", "narrow", "new_full", "new_zeros",
                 "new_ones", "reshape", "repeat", "view")  # fmt: skip
"""Functions whose arguments torch would make numbers of in C++, where nobody sees it."""

_WRITING = frozenset(
    f"__{name}__"
    for name in ("set", "setitem", "iadd", "isub", "imul", "ifloordiv", "imod", "iand", "ior", "ixor", "ilshift",
                 "irshift", "ipow", "itruediv", "idiv")
)  # fmt: skip

_INTEGERS = (torch.int64, torch.int32, torch.int16)


def _writes(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call may write to a tensor of whole numbers."""
    base = name.partition(".")[0]
    in_place = base.endswith("_") and not base.endswith("__") and base != "detach_"
    target = args[0] if args and (in_place or base in _WRITING) else kwargs.get("out")
    return isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex())


class NumbersAsTensors:
    """The numbers of tensors that were made of sizes, while a model is traced.

    Only whole numbers without dimensions are followed, through the few operators that indices are computed with; torch
    asks for the ``item`` of a tensor that indexes or bounds a slice.
    A write to any tensor of whole numbers ends what is known, because it could be a view of one that is followed.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Any]] = {}

    def taken(self, name: str, args: Sequence[Any]) -> Any:
        """The number that a call takes out of a tensor; None where none is known."""
        return self.number(args[0]) if name == _TAKEN and args else None

    def number(self, value: Any) -> Any:
        """Of a tensor that is followed, or the number itself; None of everything else."""
        if isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
            return value
        return self._known[id(value)][1] if id(value) in self._known else None

    def plain(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """The arguments of a call, with numbers in place of tensors where numbers are what it takes."""
        if name not in _TAKE_NUMBERS or not self._known:
            return args, dict(kwargs)
        own = 0 if name in _FACTORIES else 1
        return [*args[:own], *map(self._plain, args[own:])], {key: self._plain(v) for key, v in kwargs.items()}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._plain(v) for v in cast("Sequence[Any]", value)]
        number = self.number(value) if isinstance(value, Tensor) else None
        return value if number is None else number

    def follow(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Remember the number of a call's result, and forget what the call could have changed."""
        if self._known and _writes(name, args, kwargs):
            self._known.clear()
        if isinstance(result, Tensor) and result.dim() == 0 and result.dtype in _INTEGERS:
            number = self._result(name, args, kwargs)
            if number is not None:
                self._known[id(result)] = result, number

    def _result(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if name in ("tensor", "scalar_tensor") and args:
            return self.number(args[0])
        numbers = [self.number(a) for a in args]
        if name in _ARITHMETIC and len(args) == 2 and not kwargs and all(n is not None for n in numbers):
            return _ARITHMETIC[name](*numbers)
        first = numbers[0] if numbers else None
        if first is None:
            return None
        return -first if name in _NEGATIVE else first if name in _SAME else None
