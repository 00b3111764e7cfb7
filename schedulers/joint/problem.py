"""Bit widths and residency at a fixed order, operators atomic: problem, answer, and a checker that imports no solver.

Every value (activation or weight) takes one of its choices, each with bytes and a loss. While an operator runs, all
that it reads and makes is in fast memory. Between two uses a value stays there or is read again; an activation that is
read again, or is a result, is written once; inputs and weights are read before their first use. The bytes moved are
minimised under a budget of fast memory and a limit of the summed loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.errors import ScheduleError
from ..scratchpad.problem import Problem
from ..status import Status


@dataclass(frozen=True)
class Choice:
    """What a value may become: its bytes, and what that adds to the loss."""

    size_bytes: int
    loss: float


@dataclass(frozen=True)
class Value:
    """A tensor or a weight.

    Attributes:
        name: for reports.
        uses: steps at which it is made or read, ascending.
        made: whether the first use makes it; otherwise it is in slow memory from the start.
        result: whether it must be in slow memory at the end.
        choices: at least one.
    """

    name: str
    uses: tuple[int, ...]
    made: bool
    result: bool
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices or any(choice.size_bytes < 0 or choice.loss < 0 for choice in self.choices):
            raise ScheduleError(
                f"value {self.name!r}: expected choices with bytes and losses of at least 0; correct it"
            )
        if list(self.uses) != sorted(set(self.uses)):
            raise ScheduleError(f"value {self.name!r}: expected ascending uses, found {self.uses}; correct it")


@dataclass(frozen=True)
class JointProblem:
    """Values, steps, and the two limits."""

    values: tuple[Value, ...]
    steps: int
    budget_bytes: int
    loss_limit: float


@dataclass(frozen=True)
class JointAnswer:
    """What is decided.

    Attributes:
        status: how the search ended.
        picks: position of each value's choice.
        kept: (value, position of a use): it stays in fast memory from that use to the next.
        traffic_bytes: everything that is moved.
        bound_bytes: no answer moves less.
    """

    status: Status
    picks: tuple[int, ...] = ()
    kept: frozenset[tuple[int, int]] = frozenset()
    traffic_bytes: int = 0
    bound_bytes: int = 0


def joint_problem(
    network: Problem,
    activations: Sequence[Sequence[Choice]],
    weights: Sequence[Sequence[Choice]],
    budget_bytes: int,
    loss_limit: float,
) -> JointProblem:
    """A network with the choices of every tensor and of every operator's weights, in the order of the network.

    Args:
        network: tensors and operators; its own sizes are not read.
        activations: choices per tensor.
        weights: choices per operator; empty for one without weights.
        budget_bytes: of fast memory.
        loss_limit: of the sum of losses.
    """
    values: list[Value] = []
    for place, tensor in enumerate(network.tensors):
        made = network.producer[place]
        uses = (*(() if made is None else (made,)), *network.consumers[place])
        values.append(Value(tensor.name, uses, made is not None, tensor.role == "output", tuple(activations[place])))
    for place, operator in enumerate(network.operators):
        if weights[place]:
            values.append(Value(f"{operator.name} weights", (place,), False, False, tuple(weights[place])))
    return JointProblem(tuple(values), len(network.operators), budget_bytes, loss_limit)


def check_answer(problem: JointProblem, answer: JointAnswer) -> None:
    """Walks the steps, counts bytes and memory; ``ScheduleError`` if a limit is broken or the bytes are not as said."""
    chosen = [value.choices[pick] for value, pick in zip(problem.values, answer.picks, strict=True)]
    loss = sum(choice.loss for choice in chosen)
    if loss > problem.loss_limit * (1 + 1e-9):
        raise ScheduleError(f"joint answer: expected a loss of at most {problem.loss_limit}, found {loss}")
    moved = 0
    for step in range(problem.steps):
        used = sum(
            choice.size_bytes
            for place, (value, choice) in enumerate(zip(problem.values, chosen, strict=True))
            if step in value.uses or _stays_over(value, place, step, answer)
        )
        if used > problem.budget_bytes:
            raise ScheduleError(f"joint answer: step {step}: expected {problem.budget_bytes} bytes, found {used}")
    for place, (value, choice) in enumerate(zip(problem.values, chosen, strict=True)):
        gone = sum((place, use) not in answer.kept for use in range(len(value.uses) - 1))
        reads = gone + (not value.made and bool(value.uses))
        writes = value.made and (gone > 0 or value.result)
        moved += choice.size_bytes * (reads + writes)
    if moved != answer.traffic_bytes:
        raise ScheduleError(f"joint answer: expected {answer.traffic_bytes} bytes to move, found {moved}")


def _stays_over(value: Value, place: int, step: int, answer: JointAnswer) -> bool:
    """Whether the value is kept across a step that does not use it."""
    pairs = enumerate(zip(value.uses, value.uses[1:], strict=False))
    return any(before < step < after and (place, use) in answer.kept for use, (before, after) in pairs)
