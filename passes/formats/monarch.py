"""``monarch:b<blocks>``: two block-diagonal factors with a shuffle between them in place of a weight."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.layers import CONV, EMBEDDING
from ...ir.ops import Ops, V
from ...ir.statistics import WeightStatistics
from ..objective import Metric, Problem
from .base import GRID, Chooser, Shape
from .factors import Factored, balanced, both
from .grammar import Term
from .monarch_blocks import Blocks, fit, interact, project, spectrum_tails
from .use import Use

LADDER_BLOCKS = (2, 4, 8, 16, 32)
"""Numbers of blocks of the ladder; the two sides differ by a factor of two at most."""

LADDER_RANKS = (1, 2, 4, 8, 16, 32)

_BLOCKS = re.compile(r"b([1-9]\d*)|k([1-9]\d*)xj([1-9]\d*)")
_RANK = re.compile(r"r([1-9]\d*)")


@dataclass(frozen=True)
class Monarch(Factored):
    """Every block of :class:`Blocks` has rank ``rank`` (Monarch, arXiv 2204.00595; rectangular and any rank).

    A layer computes a batched product with ``right [inputs, outputs * rank, width]``, exchanges the indices of blocks,
    and a second one with ``left [outputs, height, inputs * rank]``. A 1x1 convolution becomes two in groups with
    channels shuffled after each. Uses without such products (an embedding, a convolution that is in groups already)
    form the weight. Under dynamic activations the layer's input is rounded, what is between the products is not.

    The factors are the truncated singular value decompositions of the blocks, which is the optimum under weights of
    rows and columns; under a full second moment blocks of a row interact, and each is set to its optimum given the
    others in turn (:func:`project`). Where factors are rounded, the left one is fitted to the rounded right one.

    Refused where it would hold as many numbers as the weight, and for windows of more than one position.

    Attributes:
        inputs: blocks on the side of the columns, 1 or more.
        outputs: blocks on the side of the rows, 1 or more.
        rank: of each block, 1 or more.

    Raises:
        FormatError: if a number is below 1.
    """

    inputs: int
    outputs: int
    rank: int = 1

    options: ClassVar[str] = ":b<blocks> or :k<inputs>xj<outputs>, :r<rank>"
    example_options: ClassVar[str] = ":b4"

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs, self.rank) < 1:
            raise FormatError(
                f"monarch: expected blocks and a rank of 1 or more, got k{self.inputs}xj{self.outputs}:r{self.rank}; "
                "write 'monarch:b4' or 'monarch:k8xj4:r2'"
            )

    @classmethod
    def of_term(cls, term: Term) -> Monarch:
        """Parse ``monarch:b4``, ``monarch:b4:r2``, ``monarch:k8xj4``.

        Raises:
            ParseError: at an option that is missing, unknown or out of range.
        """
        expected = "'b<blocks>' or 'k<blocks>xj<blocks>' with numbers of 1 or more"
        word = term.option(0, expected)
        blocks = _BLOCKS.fullmatch(word.text)
        if blocks is None:
            raise word.error(expected, (), ("b4", "k8xj4"))
        rank = _RANK.fullmatch(term.options[1].text) if len(term.options) > 1 else None
        if len(term.options) > 1 and rank is None:
            raise term.options[1].error("'r<rank>' with a rank of 1 or more", (), ("r2",))
        for option in term.options[2:]:
            raise option.error("the end of the format", ())
        inputs, outputs = blocks[1] or blocks[2], blocks[1] or blocks[3]
        return cls(int(inputs), int(outputs), int(rank[1]) if rank else 1)

    @classmethod
    def ladder(cls, shape: Shape) -> tuple[str, ...]:
        """Powers of two on both sides and in each block, as far as blocks have that rank and save something."""
        rows, columns = shape[0], math.prod(shape[1:])
        found: list[str] = []
        for k, j, rank in itertools.product(LADDER_BLOCKS, LADDER_BLOCKS, LADDER_RANKS):
            blocks = Blocks(rows, columns, k, j)
            fits = rank <= min(blocks.height, blocks.width) and blocks.numbers(rank) < rows * columns
            if fits and max(k, j) <= 2 * min(k, j):
                found.append((f"b{k}" if k == j else f"k{k}xj{j}") + (f":r{rank}" if rank > 1 else ""))
        return tuple(found)

    def least_cost(self, problem: Problem, metric: Metric) -> float | None:
        """Exact but for rounding where blocks do not interact: singular values of each block beyond its rank.

        Under a full second moment they do; then the rows of one set, together, have no more than ``inputs * rank``
        independent directions, and what is beyond those is lost whatever the blocks are.
        """
        key = ("monarch spectrum", metric.name, self.inputs, self.outputs)
        blocks = self._blocks(problem.shape)
        tails = problem.of_weight(key, lambda: spectrum_tails(problem.matrix, blocks, metric))
        rank = self.rank * (self.inputs if interact(metric) else 1)
        return float(tails[min(rank, len(tails) - 1)])

    @property
    def structure(self) -> str:
        """``monarch:b4``, ``monarch:k8xj4:r2``."""
        blocks = f"b{self.inputs}" if self.inputs == self.outputs else f"k{self.inputs}xj{self.outputs}"
        return f"monarch:{blocks}" + (f":r{self.rank}" if self.rank > 1 else "")

    def unfit(self, shape: Shape) -> str | None:
        """Windows, and shapes in which these blocks save nothing."""
        if any(size != 1 for size in shape[2:]):
            return f"{self.spelling}: expected a linear layer or a 1x1 convolution, got the weight {list(shape)}"
        blocks, dense = self._blocks(shape), shape[0] * shape[1]
        if blocks.numbers(self.rank) < dense:
            return None
        most = (dense - 1) // blocks.numbers(1)
        wanted = f"a rank that saves something, at most {most}" if most else "blocks that save something"
        return (
            f"{self.spelling}: expected {wanted} for a weight of {shape[0]} x {shape[1]}, got {self.rank} in "
            f"{self.inputs} x {self.outputs} blocks of {blocks.height} x {blocks.width}, whose factors hold "
            f"{blocks.numbers(self.rank)} numbers against {dense}"
        )

    def _blocks(self, shape: Shape) -> Blocks:
        return Blocks(shape[0], shape[1], self.inputs, self.outputs)

    def shapes(self, shape: Shape) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows ``(j, l)``, columns ``(k, rank)``; rows ``(k, j, rank)``, columns ``i``."""
        blocks = self._blocks(shape)
        left = blocks.outputs * blocks.height, blocks.inputs * self.rank
        return left, (blocks.inputs * blocks.outputs * self.rank, blocks.width)

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """The products of all blocks, in their places."""
        blocks = self._blocks(shape)
        k, j, r = self.inputs, self.outputs, self.rank
        left, right = self.factors(ops, stored, shape)
        left = ops("aten.permute", ops("aten.reshape", left, (j, blocks.height, k, r)), (2, 0, 1, 3))
        left = ops("aten.reshape", left, (k * j, blocks.height, r))
        each = ops("aten.bmm", left, ops("aten.reshape", right, (k * j, r, blocks.width)))
        placed = ops("aten.permute", ops("aten.reshape", each, (k, j, blocks.height, blocks.width)), (2, 1, 0, 3))
        whole = ops("aten.reshape", placed, (blocks.height * j, k * blocks.width))
        whole = _first(ops, _first(ops, whole, 0, blocks.rows), 1, blocks.columns)
        return whole if len(shape) == 2 else ops("aten.reshape", whole, tuple(shape))

    def apply(self, ops: Ops[V], x: V, stored: Mapping[str, V], use: Use) -> V:
        """Two products of blocks."""
        if use.kind == EMBEDDING or use.groups != 1:
            return super().apply(ops, x, stored, use)
        left, right = (use.cast(ops, f) for f in self.factors(ops, stored, use.shape))
        if use.kind == CONV:
            return self._convolve(ops, x, left, right, use)
        rounded = use.rounded(ops, x) if GRID in self.element.families else x
        return self._multiply(ops, rounded, left, right, use)

    def _multiply(self, ops: Ops[V], x: V, left: V, right: V, use: Use) -> V:
        """Of vectors in the last dimension."""
        blocks, leading = self._blocks(use.shape), ops.shape(x)[:-1]
        k, j, r = self.inputs, self.outputs, self.rank
        x = ops("aten.reshape", _padded(ops, x, (0, blocks.more_columns)), (-1, k, blocks.width))
        first = ops("aten.permute", ops("aten.reshape", right, (k, j * r, blocks.width)), (0, 2, 1))
        hidden = ops("aten.bmm", ops("aten.permute", x, (1, 0, 2)), first)  # [k, tokens, j * r]
        hidden = ops("aten.permute", ops("aten.reshape", hidden, (k, -1, j, r)), (2, 1, 0, 3))
        second = ops("aten.permute", ops("aten.reshape", left, (j, blocks.height, k * r)), (0, 2, 1))
        y = ops("aten.bmm", ops("aten.reshape", hidden, (j, -1, k * r)), second)  # [j, tokens, l]
        y = ops("aten.reshape", ops("aten.permute", y, (1, 2, 0)), (*leading, blocks.height * j))
        y = _first(ops, y, len(leading), blocks.rows)
        return y if use.bias is None else ops("aten.add.Tensor", y, use.bias)

    def _convolve(self, ops: Ops[V], x: V, left: V, right: V, use: Use) -> V:
        """Of channels, which stand before the positions; the first convolution keeps stride and padding."""
        blocks, positions = self._blocks(use.shape), len(use.shape) - 2
        k, j, r, ones = self.inputs, self.outputs, self.rank, (1,) * positions
        bare = use.without_bias().in_float()
        shape_left, shape_right = self.shapes(use.shape)
        first = replace(bare, shape=(*shape_right, *ones), others={**bare.others, "groups": k})
        outer = bare.outer(k * r)
        second = replace(outer, shape=(*shape_left, *ones), others={"groups": j})
        x = _padded(ops, x, (*(0, 0) * positions, 0, blocks.more_columns))
        hidden = first.plain(ops, x, ops("aten.reshape", right, first.shape))
        hidden = _shuffled(ops, hidden, (k, j, r), (1, 0, 2), positions)
        y = second.plain(ops, hidden, ops("aten.reshape", left, second.shape))
        y = _shuffled(ops, y, (j, blocks.height), (1, 0), positions)
        y = _first(ops, y, len(ops.shape(y)) - positions - 1, blocks.rows)
        return y if use.bias is None else ops("aten.add.Tensor", y, ops("aten.reshape", use.bias, (-1, *ones)))

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`."""
        metric, blocks = encoder.metric(problem), self._blocks(problem.shape)
        shape_left, shape_right = self.shapes(problem.shape)
        left, right = balanced(*project(problem.matrix, blocks, self.rank, metric))
        known = _right_statistics(problem.statistics, left, blocks)
        second = self.element.encode(right.reshape(shape_right), known, encoder)
        right = self.element.decode(second).reshape(right.shape)
        left = fit(problem.matrix, right, blocks, metric)
        known = _left_statistics(problem.statistics, right, blocks)
        stacked = left.permute(1, 2, 0, 3).reshape(shape_left)
        return both(self.element.encode(stacked, known, encoder), second)


def _first(ops: Ops[V], value: V, dim: int, count: int) -> V:
    return value if ops.shape(value)[dim] == count else ops("aten.slice.Tensor", value, dim, 0, count)


def _padded(ops: Ops[V], value: V, sizes: tuple[int, ...]) -> V:
    return ops("aten.constant_pad_nd", value, sizes) if any(sizes) else value


def _shuffled(ops: Ops[V], value: V, parts: tuple[int, ...], order: tuple[int, ...], positions: int) -> V:
    """Channels seen as ``parts``, in another order."""
    shape = ops.shape(value)
    leading, after = shape[: len(shape) - positions - 1], shape[len(shape) - positions :]
    start, end = len(leading), len(leading) + len(parts)
    moved = (*range(start), *(start + o for o in order), *range(end, end + positions))
    split = ops("aten.reshape", value, (*leading, *parts, *after))
    return ops("aten.reshape", ops("aten.permute", split, moved), shape)


# ------------------------------------------------------------------------------------------------ statistics of factors
def _right_statistics(known: WeightStatistics | None, left: Tensor, blocks: Blocks) -> WeightStatistics | None:
    """What a change of the right factor costs: the mean block of the second moment, and rows by the power of theirs."""
    if known is None or known.second_moment is None:
        return None
    moments = blocks.diagonal(blocks.padded_moment(known.second_moment.to(left), 0.0))
    weights = _row_weights(known, blocks).to(left)  # [j, l]
    rows = (weights.unsqueeze(-1) * left.square()).sum(dim=2)  # [k, j, rank]
    return _averaged(known.count, moments, rows)


def _left_statistics(known: WeightStatistics | None, right: Tensor, blocks: Blocks) -> WeightStatistics | None:
    """What a change of the left factor costs: its inputs are those of the layer after ``right``, for the mean set."""
    if known is None or known.second_moment is None:
        return None
    padded = blocks.padded_moment(known.second_moment.to(right), 0.0)
    bases = [torch.block_diag(*right[:, j]) for j in range(blocks.outputs)]
    return _averaged(known.count, torch.stack([v @ padded @ v.T for v in bases]), _row_weights(known, blocks))


def _row_weights(known: WeightStatistics, blocks: Blocks) -> Tensor:
    """``[j, l]``; rows of zeros weigh nothing."""
    more = blocks.height * blocks.outputs - blocks.rows
    return torch.nn.functional.pad(known.row_weight, (0, more)).reshape(blocks.height, blocks.outputs).T


def _averaged(count: int, moments: Tensor, rows: Tensor) -> WeightStatistics:
    """One moment for all rows: the mean; the size of each set's own goes to the weights of its rows ``[set, ...]``."""
    mean = moments.mean(dim=0)
    share = moments.diagonal(dim1=1, dim2=2).sum(dim=1) / mean.diagonal().sum().clamp(min=1e-30)
    weights = rows.reshape(len(rows), -1) * share.to(rows).unsqueeze(1)
    return WeightStatistics(count, ((mean + mean.T) / 2).float(), weights.reshape(-1).float())
