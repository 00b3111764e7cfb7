"""What a simulation computes with, and who is told of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .cells import BandView
from .kernels import Array
from .program import Placed


class Kernels(Protocol):
    """Values of a network and how its operators compute them, row by row."""

    def inputs(self) -> Mapping[int, Array]:
        """Tensor -> values of the network's inputs."""
        ...

    def weights(self, operator: int) -> NDArray[np.uint8]:
        """Constants of an operator as they lie off-chip, ``weight_bytes`` of them."""
        ...

    def row(self, operator: int, row: int, operands: Sequence[tuple[int, Array]], weights: NDArray[np.uint8]) -> Array:
        """One row of an operator's result.

        Args:
            operator: position in the problem.
            row: of the result.
            operands: per operand the index of the first row that is given, and those rows.
            weights: its constants as they are on chip.
        """
        ...


class Observer:
    """Sees every step of a run in program order; this one ignores them all."""

    def range_starts(self, number: int) -> None:
        """A range begins."""

    def band_starts(self, number: int, band: BandView) -> None:
        """A band of the range begins."""

    def visits(self, operator: int, first: int, stop: int, placed: Placed) -> None:
        """An operator makes rows ``[first, stop)`` in this stripe; what follows belongs to it."""

    def loads(self, tensor: int, row: int, placed: Placed) -> None:
        """A row comes from off-chip into the pieces of its tensor."""

    def loads_weights(self, operator: int, placed: Placed, share: tuple[int, int], *, again: bool) -> None:
        """Bytes ``[first, stop)`` of the constants of an operator come from off-chip."""

    def computes(self, operator: int, row: int, read: Mapping[int, tuple[int, int]], placed: Placed) -> None:
        """A row of an operator's result is made of rows ``[first, stop)`` of tensors that are on chip."""

    def stores(self, tensor: int, row: int, there: Sequence[int], placed: Placed) -> None:
        """A row goes off-chip, but for the parts of a concatenation that are there."""
