"""From a problem to the smallest equivalent one: tied layers become one, hopeless choices go.

Everything here is exact. Floating-point losses are binary fractions, so on a common denominator they are integers, and
sums and comparisons of them have no rounding error.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

from .problem import AllocationProblem, Choice
from .ties import allowed_names

GUARD_BITS = 128
"""Bits below the finest loss, so that multipliers (loss per unit of a budget) are accurate on the same scale."""


@dataclass(frozen=True)
class Option:
    """A choice of a whole tie group: ``loss`` in units of ``2**-precision``, costs summed over the members."""

    name: str
    loss: int
    costs: tuple[int, ...]


@dataclass(frozen=True)
class SuperLayer:
    """Tied layers (or a single one) with the options that are worth considering, by increasing loss."""

    members: tuple[str, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True)
class ReducedProblem:
    """The equivalent smaller problem; ``pruned`` counts the dominated options of all super-layers."""

    layers: tuple[SuperLayer, ...]
    limits: tuple[int, ...]
    precision: int
    pruned: int


def reduce_problem(problem: AllocationProblem) -> ReducedProblem:
    """Merge tie groups, apply forced and forbidden choices, prune dominated options. Keeps at least one optimum."""
    precision = loss_precision(problem)
    merged = merge_ties(problem, precision)
    layers = tuple(SuperLayer(layer.members, prune_dominated(layer.options)) for layer in merged)
    pruned = sum(len(before.options) - len(after.options) for before, after in zip(merged, layers, strict=True))
    return ReducedProblem(layers, tuple(budget.limit for budget in problem.budgets), precision, pruned)


def loss_precision(problem: AllocationProblem) -> int:
    """Bits after the binary point that hold every loss exactly, plus the guard bits."""
    finest = (choice.loss.as_integer_ratio()[1] for layer in problem.layers for choice in layer.choices)
    return max(finest, default=1).bit_length() - 1 + GUARD_BITS


def scaled_loss(loss: float, precision: int) -> int:
    """The loss in units of ``2**-precision``, exactly."""
    numerator, denominator = loss.as_integer_ratio()
    return (numerator << precision) // denominator


def merge_ties(problem: AllocationProblem, precision: int) -> tuple[SuperLayer, ...]:
    """One super-layer per tie group; losses and costs of equally named choices are summed over the members."""
    choices = {layer.name: {choice.name: choice for choice in layer.choices} for layer in problem.layers}
    return tuple(
        SuperLayer(group, tuple(_merge(name, [choices[member][name] for member in group], precision) for name in names))
        for group, names in allowed_names(problem).items()
    )


def _merge(name: str, members: Sequence[Choice], precision: int) -> Option:
    loss = sum(scaled_loss(choice.loss, precision) for choice in members)
    return Option(name, loss, tuple(map(sum, zip(*(choice.costs for choice in members), strict=True))))


def prune_dominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Drop every option for which another has no higher loss and no higher cost.

    Of equal options the first by name stays, so the result does not depend on the order of the input.
    """
    ordered = sorted(options, key=lambda option: (option.loss, option.costs, option.name))
    costs = len(ordered[0].costs)
    if costs <= 1:
        return _prune_single(ordered)
    return _prune_double(ordered) if costs == 2 else _prune_general(ordered)


def _prune_single(ordered: Sequence[Option]) -> tuple[Option, ...]:
    kept = [ordered[0]]
    for option in ordered[1:]:
        if option.costs < kept[-1].costs:
            kept.append(option)
    return tuple(kept)


def _prune_double(ordered: Sequence[Option]) -> tuple[Option, ...]:
    """Keep the staircase of (first, second) costs seen so far; an option survives if it lies below it."""
    stairs: list[tuple[int, int]] = []
    kept: list[Option] = []
    for option in ordered:
        first, second = option.costs
        place = bisect_right(stairs, first, key=lambda stair: stair[0])
        if place and stairs[place - 1][1] <= second:
            continue
        kept.append(option)
        stairs = [stair for stair in stairs if not (stair[0] >= first and stair[1] >= second)]
        insort(stairs, (first, second))
    return tuple(kept)


def _prune_general(ordered: Sequence[Option]) -> tuple[Option, ...]:
    kept: list[Option] = []
    for option in ordered:
        if not any(all(a <= b for a, b in zip(other.costs, option.costs, strict=True)) for other in kept):
            kept.append(option)
    return tuple(kept)
