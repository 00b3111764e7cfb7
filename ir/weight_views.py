"""How a weight of an op's own layout is seen as formats see every weight: rows of output channels, columns contracted.

A rule looks at the weight's shape and the op's other arguments; it says None where the op does not use the parameter as
a weight, such as a vector or a matrix of another rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """The weight reshaped to ``split``, permuted by ``order``, reshaped to ``stored``: ``[rows, ...]``.

    Attributes:
        shape: of the weight as the model has it.
        split: of as many numbers.
        order: a permutation of the axes of ``split``.
        stored: of as many numbers; its first axis are the rows, the others together the columns.
    """

    shape: Shape
    split: Shape
    order: Shape
    stored: Shape

    def seen(self, weight: Tensor) -> Tensor:
        """The weight in ``stored`` shape."""
        return weight.reshape(self.split).permute(self.order).reshape(self.stored)

    def own(self, stored: Tensor) -> Tensor:
        """What :meth:`seen` was made of, from ``stored`` shape or a matrix."""
        return stored.reshape(self.permuted).permute(self.inverse).reshape(self.shape)

    @property
    def permuted(self) -> Shape:
        """The shape between the permutation and the last reshape."""
        return tuple(self.split[axis] for axis in self.order)

    @property
    def inverse(self) -> Shape:
        """The permutation that takes ``order`` back."""
        return tuple(self.order.index(axis) for axis in range(len(self.order)))


ViewRule = Callable[[Shape, Mapping[str, Any], int], View | None]
"""From the weight's shape, the arguments of the op (nodes among them), and the weight's place in a list parameter."""


def _rearranged(shape: Shape, rows: Shape, columns: Shape) -> View:
    """Some axes become the rows, the others the columns, both in the given order."""
    height = math.prod(shape[axis] for axis in rows)
    return View(shape, shape, rows + columns, (height, math.prod(shape) // max(height, 1)))


def rows_first(shape: Shape, arguments: Mapping[str, Any], place: int) -> View | None:
    """``[rows, ...]``, as it is: linear, convolution, embedding, the gates of a recurrent cell."""
    del arguments, place
    return View(shape, shape, tuple(range(len(shape))), shape) if len(shape) > 1 else None


def columns_first(shape: Shape, arguments: Mapping[str, Any], place: int) -> View | None:
    """``[columns, rows]``: the right operand of a product of two matrices."""
    del arguments, place
    return _rearranged(shape, (1,), (0,)) if len(shape) == 2 else None


def batched_right(shape: Shape, arguments: Mapping[str, Any], place: int) -> View | None:
    """``[..., columns, rows]``: every matrix of a batch has rows of its own, such as experts."""
    del arguments, place
    last = len(shape) - 1
    return _rearranged(shape, (*range(last - 1), last), (last - 1,)) if last > 1 else None


def left(shape: Shape, arguments: Mapping[str, Any], place: int) -> View | None:
    """``[..., rows, columns]``: the left operand of a product."""
    del arguments, place
    last = len(shape) - 1
    return _rearranged(shape, tuple(range(last)), (last,)) if last > 0 else None


def transposed_convolution(shape: Shape, arguments: Mapping[str, Any], place: int) -> View | None:
    """``[groups * in, out, *kernel]``: an output channel contracts over its group's inputs and the kernel."""
    del place
    groups = int(arguments.get("groups", 1))
    if len(shape) < 3 or shape[0] % groups:
        return None
    split = (groups, shape[0] // groups, *shape[1:])
    order = (0, 2, 1, *range(3, len(split)))
    return View(shape, split, order, (groups * shape[1], split[1], *shape[2:]))


def contraction(shape: Shape, arguments: Mapping[str, Any], place: int) -> View | None:
    """An operand of ``einsum``: letters of the result are rows, the others are summed over.

    None where a letter stands twice, or everything is summed over.
    """
    given, _, result = str(arguments["equation"]).replace(" ", "").partition("->")
    terms = given.split(",")
    if place >= len(terms):
        return None
    letters = _letters(terms[place], len(shape))
    if len(letters) < 2 or len(set(letters)) < len(letters):
        return None
    kept = result if "->" in str(arguments["equation"]) else _implied(terms)
    hidden = {letter for letter in letters if letter.isdigit()}
    rows = tuple(axis for axis, letter in enumerate(letters) if letter in kept or letter in hidden)
    columns = tuple(axis for axis in range(len(letters)) if axis not in rows)
    if not columns:  # an outer product: nothing is summed over
        rows, columns = rows[:-1], rows[-1:]
    return _rearranged(shape, rows, columns) if rows else None


def _letters(term: str, rank: int) -> str:
    """The letters of a term; axes behind an ellipsis are digits, the last one 0."""
    hidden = rank - len(term.replace("...", ""))
    return term.replace("...", "".join(str(number) for number in reversed(range(hidden))))


def _implied(terms: list[str]) -> str:
    """The result where an equation names none: letters that stand once."""
    joined = "".join(terms)
    return "".join(letter for letter in joined if letter.isalpha() and joined.count(letter) == 1)


@dataclass(frozen=True)
class WeightRole:
    """A parameter of an op that layers are made of.

    Attributes:
        kind: what a user calls the layer: linear, conv, matmul, embedding, conv_transpose, recurrent, ...
        weight: the parameter that takes the weight, or a list with weights in it.
        input: the parameter that takes the activation, or the indices, where formats may take the product over. Empty
            where they cannot: the weight is then stored in another way, and the op is given it whole.
        view: how the weight is seen as rows and columns.
    """

    kind: str
    weight: str
    input: str = ""
    view: ViewRule = rows_first

    def place(self, arguments: Mapping[str, Any], weight: Any) -> tuple[int, View] | None:
        """Where the parameter holds this weight (a constant node), 0 where it takes one only, and how it is seen."""
        given = arguments.get(self.weight)
        parts = cast("tuple[Any, ...]", given) if isinstance(given, tuple) else (given,)
        for place, part in enumerate(parts):
            if part is weight:
                view = self.view(weight.tensor_type.sizes(), arguments, place)
                return None if view is None else (place, view)
        return None
