"""A network whose operators run whole: while one runs, all its inputs and its output are on chip.

This is the setting of COSMA (Li, Gupta, Malik, arXiv 2311.18246). Time is counted in steps, one operator each. The
first time that a tensor comes on chip is compulsory; what is counted is what is written out and read back beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..problem import Problem


@dataclass(frozen=True)
class Flow:
    """Operators and tensors by position, in plain numbers.

    Attributes:
        names: of the tensors.
        sizes: of the tensors, in bytes.
        producer: operator that makes the tensor, -1 for inputs of the network.
        uses: operators that read the tensor, in the problem's order.
        reads: tensors that the operator reads, each once.
        makes: tensor that the operator makes.
        pinned: bytes that must be on chip while the operator runs.
        write_bytes: what the first eviction of the tensor writes: nothing where a copy is off-chip anyway, as for
            inputs and outputs of the network.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    producer: tuple[int, ...]
    uses: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[int, ...], ...]
    makes: tuple[int, ...]
    pinned: tuple[int, ...]
    write_bytes: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Operators, and so steps of a schedule."""
        return len(self.reads)

    @property
    def required_bytes(self) -> int:
        """Budget below which the largest operator does not run, M_R in the paper."""
        return max(self.pinned, default=0)

    def predecessors(self, operator: int) -> list[int]:
        """Operators whose results the operator reads."""
        return [self.producer[tensor] for tensor in self.reads[operator] if self.producer[tensor] >= 0]

    def successors(self, operator: int) -> tuple[int, ...]:
        """Operators that read what the operator makes."""
        return self.uses[self.makes[operator]]


def make_flow(problem: Problem, *, weights: bool = False) -> Flow:
    """The flow of a problem; with ``weights`` an operator's constants are on chip while it runs."""
    sizes = tuple(tensor.size_bytes for tensor in problem.tensors)
    reads = tuple(tuple(dict.fromkeys(operator.inputs)) for operator in problem.operators)
    makes = tuple(operator.output for operator in problem.operators)
    pinned = tuple(
        sum(sizes[tensor] for tensor in {*inputs, output}) + (operator.weight_bytes if weights else 0)
        for operator, inputs, output in zip(problem.operators, reads, makes, strict=True)
    )
    return Flow(
        names=tuple(tensor.name for tensor in problem.tensors),
        sizes=sizes,
        producer=tuple(-1 if made is None else made for made in problem.producer),
        uses=problem.consumers,
        reads=reads,
        makes=makes,
        pinned=pinned,
        write_bytes=tuple(
            size if tensor.role == "activation" else 0 for size, tensor in zip(sizes, problem.tensors, strict=True)
        ),
    )


@dataclass(frozen=True)
class Gap:
    """Steps between two uses of a tensor in which others run: it stays on chip through all of them, or leaves.

    Attributes:
        tensor: its position.
        start: step of the use (or the making) before; the gap is open there.
        stop: step of the use after it.
    """

    tensor: int
    start: int
    stop: int


def gaps(flow: Flow, order: Sequence[int]) -> list[Gap]:
    """All gaps of an order with at least one step inside; between uses in successive steps a tensor stays for free."""
    at = positions(order)
    found: list[Gap] = []
    for tensor in range(len(flow.sizes)):
        points = touched(flow, at, tensor)
        found += [Gap(tensor, s, e) for s, e in pairwise(points) if e > s + 1]
    return found


def touched(flow: Flow, at: Sequence[int], tensor: int) -> list[int]:
    """Steps in which the tensor is made or read, ascending."""
    made = [at[flow.producer[tensor]]] if flow.producer[tensor] >= 0 else []
    return made + sorted(at[use] for use in flow.uses[tensor])


def positions(order: Sequence[int]) -> list[int]:
    """Step of every operator."""
    at = [0] * len(order)
    for step, operator in enumerate(order):
        at[operator] = step
    return at


def peak_bytes(flow: Flow, order: Sequence[int]) -> int:
    """Bytes on chip if nothing is evicted: no tensor leaves before its last use."""
    change = [0] * (flow.steps + 1)
    at = positions(order)
    for tensor in range(len(flow.sizes)):
        points = touched(flow, at, tensor)
        if points:
            change[points[0]] += flow.sizes[tensor]
            change[points[-1] + 1] -= flow.sizes[tensor]
    total = peak = 0
    for step, operator in enumerate(order):
        total += change[step]
        extra = flow.pinned[operator] - sum(flow.sizes[t] for t in {*flow.reads[operator], flow.makes[operator]})
        peak = max(peak, total + extra)
    return peak
