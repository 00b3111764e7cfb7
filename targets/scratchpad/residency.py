"""What widths of weights do to a schedule: bytes that cross the chip's border for other sizes of the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...schedulers.joint.problem import Choice, JointProblem, Value, joint_problem
from ...schedulers.joint.solver import solve_joint
from ...schedulers.scratchpad.bands import extent_of
from ...schedulers.scratchpad.planning import solver_options
from ...schedulers.scratchpad.problem import Problem
from ...schedulers.scratchpad.schedule import Range, Schedule
from ...schedulers.scratchpad.solver import solve
from .describe import Described
from .settings import Settings

SHARE = 8
"""Of the time for one schedule: each of those that widths are compared with gets this part of it."""


@dataclass(frozen=True)
class Moved:
    """What sizes of layers move.

    Attributes:
        total_bytes: avoidable bytes and the first read of all weights; ``None`` where there is no schedule.
        bound_bytes: no schedule in its order moves less with these sizes.
        reads: layer -> how often its weights are read, about.
    """

    total_bytes: int | None
    bound_bytes: int
    reads: Mapping[str, int]


class Residency:
    """Schedules of a described network with other sizes of its layers."""

    def __init__(self, described: Described, settings: Settings, chosen: Mapping[str, int]) -> None:
        """``chosen`` are the bytes of every layer in the network as it is described."""
        self._problem = described.problem
        self._options = solver_options(settings.machine, settings.options)
        self._options = replace(self._options, time_limit_s=self._options.time_limit_s / SHARE)
        places = {operator.name: place for place, operator in enumerate(described.problem.operators)}
        self._places = {layer: places[layer] for layer in chosen if layer in places}
        self._rest = {
            layer: described.problem.operators[place].weight_bytes - chosen[layer]
            for layer, place in self._places.items()
        }

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that are operators' weights."""
        return tuple(layer for layer, rest in self._rest.items() if rest >= 0)

    def moved(self, sizes: Mapping[str, int]) -> Moved:
        """With these bytes per layer."""
        problem = self._sized(sizes)
        schedule = solve(problem, self._options)
        if not schedule.order:
            return Moved(None, 0, {})
        weights = sum(operator.weight_bytes for operator in problem.operators)
        total = schedule.traffic.total_bytes + weights
        return Moved(total, schedule.bound_bytes + weights, self._reads(problem, schedule))

    def cheapest(
        self, options: Mapping[str, Sequence[tuple[int, float]]], reads: Mapping[str, int], loss_limit: float
    ) -> dict[str, int]:
        """Positions of (bytes, loss) per layer: least sum of bytes times reads within the loss; empty without one."""
        values = tuple(
            Value(
                layer, (place,), False, False, tuple(Choice(reads.get(layer, 1) * size, loss) for size, loss in choices)
            )
            for place, (layer, choices) in enumerate(options.items())
        )
        plenty = sum(max(choice.size_bytes for choice in value.choices) for value in values)
        answer = solve_joint(JointProblem(values, len(values), plenty, loss_limit), time_limit_s=10)
        return dict(zip(options, answer.picks, strict=True)) if answer.picks else {}

    def whole(self, options: Mapping[str, Sequence[tuple[int, float]]], loss_limit: float) -> dict[str, int]:
        """Positions per layer that move least if operators run whole, widths and residency as one program."""
        weights: list[list[Choice]] = [
            [Choice(operator.weight_bytes, 0.0)] if operator.weight_bytes else []
            for operator in self._problem.operators
        ]
        for layer, choices in options.items():
            weights[self._places[layer]] = [Choice(self._rest[layer] + size, loss) for size, loss in choices]
        sizes = [[Choice(tensor.size_bytes, 0.0)] for tensor in self._problem.tensors]
        problem = joint_problem(self._problem, sizes, weights, self._options.budget_bytes, loss_limit)
        answer = solve_joint(problem, time_limit_s=self._options.time_limit_s)
        picks = {value.name: pick for value, pick in zip(problem.values, answer.picks, strict=False)}
        return {layer: picks[f"{layer} weights"] for layer in options} if answer.picks else {}

    def _sized(self, sizes: Mapping[str, int]) -> Problem:
        operators = list(self._problem.operators)
        for layer in self.layers:
            place = self._places[layer]
            operators[place] = replace(operators[place], weight_bytes=self._rest[layer] + sizes[layer])
        return replace(self._problem, operators=tuple(operators))

    def _reads(self, problem: Problem, schedule: Schedule) -> dict[str, int]:
        layer_of = {place: layer for layer, place in self._places.items()}
        return {
            layer_of[operator]: 1 if operator in piece.resident_weights else _visits(problem, schedule, piece)
            for piece in schedule.ranges
            for operator in schedule.order[piece.start : piece.stop]
            if operator in layer_of
        }


def _visits(problem: Problem, schedule: Schedule, piece: Range) -> int:
    """Stripes of a range, in all of its bands."""
    last = problem.tensors[problem.operators[schedule.order[piece.stop - 1]].output]
    bands = 1 if piece.band is None else -(-extent_of(last, piece.band.axis) // piece.band.extent)
    return bands * -(-last.rows // piece.stripe_rows)
