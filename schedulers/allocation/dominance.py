"""From a problem to the smallest equivalent one: tied layers become one, hopeless choices go.

Everything here is exact. Floating-point losses are binary fractions, so on a common denominator they are integers, and
sums and comparisons of them have no rounding error.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

from .problem import AllocationProblem, Choice
from .pruning import undominated
from .ties import Key, Member, alone, groups, start, tied_groups


@dataclass(frozen=True)
class Option:
    """One choice for every member of a group of tied layers, costs summed over them.

    ``loss`` is in units of ``2**-precision``, followed by ``guard`` bits that hold the preference: losses decide, and
    preferences only between equal losses.
    """

    names: tuple[str, ...]
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
    """Merge tied layers, apply forced and forbidden choices, prune dominated options. Keeps at least one optimum.

    Layers that are not tied are pruned before their losses become long integers: most choices never do.
    """
    single, tied = alone(problem), tied_groups(problem)
    rows = dict(zip(single, undominated([*single.values()]), strict=True))
    scale = _scale([*rows.values(), *([c for c, _ in member.choices] for group in tied for member in group)])
    made = {
        name: SuperLayer((name,), tuple(single_option(choice, scale) for choice in row)) for name, row in rows.items()
    }
    pruned = sum(len(row) - len(rows[name]) for name, row in single.items())
    for group in tied:
        joined, more = join(group, scale)
        kept = prune_dominated(joined)
        made[group[0].name] = SuperLayer(tuple(member.name for member in group), kept)
        pruned += more + len(joined) - len(kept)
    layers = tuple(made[layer.name] for layer in problem.layers if layer.name in made)
    return ReducedProblem(layers, tuple(budget.limit for budget in problem.budgets), *scale, pruned)


def loss_scale(problem: AllocationProblem) -> tuple[int, int]:
    """Bits after the binary point that hold every loss exactly, and guard bits that hold the preferences."""
    return _scale([layer.choices for layer in problem.layers])


def _scale(rows: Sequence[Sequence[Choice]]) -> tuple[int, int]:
    finest = max((choice.loss.as_integer_ratio()[1] for row in rows for choice in row), default=1)
    preferences = sum(max(choice.preference for choice in row) for row in rows)
    return finest.bit_length() - 1, preferences.bit_length()


def scaled_loss(loss: float, precision: int) -> int:
    """The loss in units of ``2**-precision``, exactly."""
    numerator, denominator = loss.as_integer_ratio()
    bits = precision - denominator.bit_length() + 1
    return numerator << bits if bits >= 0 else numerator >> -bits


def merge_ties(problem: AllocationProblem, scale: tuple[int, int]) -> tuple[SuperLayer, ...]:
    """One super-layer per group of tied layers, with every combination of choices that is not dominated."""
    return tuple(
        SuperLayer(tuple(member.name for member in group), tuple(join(group, scale)[0])) for group in groups(problem)
    )


def single_option(choice: Choice, scale: tuple[int, int]) -> Option:
    """The choice of a layer by itself."""
    precision, guard = scale
    return Option((choice.name,), (scaled_loss(choice.loss, precision) << guard) + choice.preference, choice.costs)


def option(choices: Sequence[Choice], scale: tuple[int, int]) -> Option:
    """The choices of several members side by side."""
    if len(choices) == 1:
        return single_option(choices[0], scale)
    precision, guard = scale
    loss = sum(scaled_loss(choice.loss, precision) for choice in choices) << guard
    costs = tuple(map(sum, zip(*(choice.costs for choice in choices), strict=True)))
    return Option(tuple(choice.name for choice in choices), loss + sum(c.preference for c in choices), costs)


def join(group: Sequence[Member], scale: tuple[int, int]) -> tuple[list[Option], int]:
    """Combinations of the members' choices that agree, member by member; and how many were dominated on the way.

    Of partial combinations with the same open classes, those that another one beats are dropped at once, so that the
    number stays that of a front instead of growing with every member.
    """
    partial: dict[Key, list[Option]] = {start(group): [Option((), 0, (0,) * len(group[0].choices[0][0].costs))]}
    pruned = 0
    for place, member in enumerate(group):
        made: dict[Key, list[Option]] = {}
        for key, before in partial.items():
            for choice, own in member.choices:
                joined = member.join(key, own)
                if joined is not None:
                    added = option((choice,), scale)
                    made.setdefault(joined, []).extend(_both(first, added) for first in before)
        last = place == len(group) - 1
        partial = made if last else {key: list(prune_dominated(options)) for key, options in made.items()}
        pruned += sum(map(len, made.values())) - sum(map(len, partial.values()))
    return [each for options in partial.values() for each in options], pruned


def _both(first: Option, second: Option) -> Option:
    costs = tuple(a + b for a, b in zip(first.costs, second.costs, strict=True))
    return Option(first.names + second.names, first.loss + second.loss, costs)


def prune_dominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Drop every option for which another has no higher loss and no higher cost.

    Of equal options the first by name stays, so the result does not depend on the order of the input.
    """
    ordered = sorted(options, key=lambda option: (option.loss, option.costs, option.names))
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
