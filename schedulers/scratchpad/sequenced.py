"""A problem with an order, as searches see it: everything by position in the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .problem import Problem
from .rows import RowMap, operand_maps, overwritable, parts


@dataclass(frozen=True)
class Sequenced:
    """A problem with an order: what the search asks again and again, by position in the order.

    Attributes:
        problem: the network.
        order: positions in ``problem.operators``.
        maps: per position the row map of every tensor it reads.
        overwritable: per position the operands that its result may overwrite.
        parts: per position the operands that a concatenation may leave in place.
        made_at: per tensor the position that makes it, -1 for inputs of the network.
        read_at: per tensor the positions that read it, ascending.
        rows: per tensor its rows.
        row_bytes: per tensor the bytes of a row.
    """

    problem: Problem
    order: tuple[int, ...]
    maps: tuple[dict[int, RowMap], ...]
    overwritable: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[int, ...], ...]
    made_at: tuple[int, ...]
    read_at: tuple[tuple[int, ...], ...]

    rows: tuple[int, ...]
    row_bytes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Operators."""
        return len(self.order)

    def output(self, position: int) -> int:
        """The tensor that the operator at this position makes."""
        return self.problem.operators[self.order[position]].output

    def last_read(self, tensor: int) -> int:
        """Position of the last reader, or of the producer if there is none."""
        readers = self.read_at[tensor]
        return readers[-1] if readers else self.made_at[tensor]


def sequenced(problem: Problem, order: Sequence[int], *, atomic: bool = False) -> Sequenced:
    """The problem in this order; ``atomic`` leaves out rows and shared memory."""
    problem = problem.without_shapes() if atomic else problem
    operators = [problem.operators[index] for index in order]
    position = {index: place for place, index in enumerate(order)}
    return Sequenced(
        problem,
        tuple(order),
        tuple(operand_maps(problem, operator) for operator in operators),
        tuple(() if atomic else overwritable(problem, operator) for operator in operators),
        tuple(() if atomic else parts(problem, operator) for operator in operators),
        tuple(-1 if made is None else position[made] for made in problem.producer),
        tuple(tuple(sorted(position[reader] for reader in readers)) for readers in problem.consumers),
        tuple(tensor.rows for tensor in problem.tensors),
        tuple(tensor.row_bytes for tensor in problem.tensors),
    )
