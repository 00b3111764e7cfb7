"""From a problem to the smallest equivalent one: tied layers become one, hopeless choices go.

Everything here is exact. Floating-point losses are binary fractions, so on a common denominator they are integers, and
sums and comparisons of them have no rounding error.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .problem import AllocationProblem, Choice
from .ties import allowed_names

FEW = 8
"""Choices of a layer that are not worth an array."""

MANY = 2000
"""Choices of a layer that are too many to compare all with all."""


@dataclass(frozen=True)
class Option:
    """A choice of a whole tie group, costs summed over the members.

    ``loss`` is in units of ``2**-precision``, followed by ``guard`` bits that hold the preference: losses decide, and
    preferences only between equal losses.
    """

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
    guard: int
    pruned: int


def reduce_problem(problem: AllocationProblem) -> ReducedProblem:
    """Merge tie groups, apply forced and forbidden choices, prune dominated options. Keeps at least one optimum.

    A layer that is not tied is pruned before its losses become long integers: most choices never do.
    """
    choices = {layer.name: {choice.name: choice for choice in layer.choices} for layer in problem.layers}
    groups = allowed_names(problem)
    kept = {
        group: {group[0]: undominated_choices([choices[group[0]][name] for name in names])}
        if len(group) == 1
        else {member: [choices[member][name] for name in names] for member in group}
        for group, names in groups.items()
    }
    scale = _scale([choice for members in kept.values() for row in members.values() for choice in row], problem)
    layers = tuple(
        SuperLayer(group, prune_dominated(_options(list(rows.values()), scale))) for group, rows in kept.items()
    )
    pruned = sum(len(names) for names in groups.values()) - sum(len(layer.options) for layer in layers)
    return ReducedProblem(layers, tuple(budget.limit for budget in problem.budgets), *scale, pruned)


def loss_scale(problem: AllocationProblem) -> tuple[int, int]:
    """Bits after the binary point that hold every loss exactly, and guard bits that hold the preferences."""
    return _scale([choice for layer in problem.layers for choice in layer.choices], problem)


def _scale(choices: Sequence[Choice], problem: AllocationProblem) -> tuple[int, int]:
    finest = max((choice.loss.as_integer_ratio()[1] for choice in choices), default=1)
    preferences = sum(max(choice.preference for choice in layer.choices) for layer in problem.layers)
    return finest.bit_length() - 1, preferences.bit_length()


def scaled_loss(loss: float, precision: int) -> int:
    """The loss in units of ``2**-precision``, exactly."""
    numerator, denominator = loss.as_integer_ratio()
    return (numerator << precision) // denominator


def merge_ties(problem: AllocationProblem, scale: tuple[int, int]) -> tuple[SuperLayer, ...]:
    """One super-layer per tie group; losses and costs of equally named choices are summed over the members."""
    choices = {layer.name: {choice.name: choice for choice in layer.choices} for layer in problem.layers}
    return tuple(
        SuperLayer(group, _options([[choices[member][name] for name in names] for member in group], scale))
        for group, names in allowed_names(problem).items()
    )


def _options(rows: Sequence[Sequence[Choice]], scale: tuple[int, int]) -> tuple[Option, ...]:
    """The choices of several members, one row each, side by side."""
    return tuple(_merge(members, *scale) for members in zip(*rows, strict=True))


def _merge(members: Sequence[Choice], precision: int, guard: int) -> Option:
    first = members[0]
    if len(members) == 1:
        return Option(first.name, (scaled_loss(first.loss, precision) << guard) + first.preference, first.costs)
    loss = sum(scaled_loss(choice.loss, precision) for choice in members) << guard
    costs = tuple(map(sum, zip(*(choice.costs for choice in members), strict=True)))
    return Option(first.name, loss + sum(choice.preference for choice in members), costs)


def undominated_choices(choices: Sequence[Choice]) -> list[Choice]:
    """What ``prune_dominated`` keeps of the choices of one layer, and copies; decided on their floats, exactly."""
    if not FEW < len(choices) < MANY:
        return list(choices)
    cost = np.array([choice.costs for choice in choices], dtype=np.int64).reshape(len(choices), -1)
    loss = np.array([choice.loss for choice in choices])
    preference = np.array([choice.preference for choice in choices])
    order = np.lexsort((*cost.T, preference, loss))
    keys = (loss[order], preference[order], *cost[order].T)
    rank = np.concatenate(([0], np.cumsum(np.any([key[1:] != key[:-1] for key in keys], axis=0))))
    beats = rank[:, None] < rank[None, :]
    for row in cost[order].T:
        beats &= row[:, None] <= row[None, :]
    return [choices[int(place)] for place in order[~beats.any(axis=0)]]


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
