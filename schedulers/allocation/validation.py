"""Every condition that an allocation problem must fulfil, each with its own message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ...ir.errors import ScheduleError, nearest
from .ties import agrees, connected, groups

if TYPE_CHECKING:
    from .problem import AllocationProblem, Choice, LayerChoices, Pair

MAXIMUM_TOTAL = 2**60
"""Largest sum of one cost over all layers: the solver computes in 64-bit integers."""


def check_choice(choice: Choice) -> None:
    """Raise ``ScheduleError`` unless the loss is finite, the costs are integers, and none is negative."""
    if not math.isfinite(choice.loss) or choice.loss < 0:
        raise ScheduleError(
            f"choice {choice.name!r}: expected a finite loss that is not negative, found {choice.loss}; "
            f"leave out choices that must not be taken"
        )
    for cost in choice.costs:
        if type(cost) is not int or cost < 0:
            raise ScheduleError(
                f"choice {choice.name!r}: expected integer costs that are not negative, found {cost!r}; "
                f"use a finer unit instead of fractions"
            )
    if type(choice.preference) is not int or choice.preference < 0:
        raise ScheduleError(
            f"choice {choice.name!r}: expected an integer preference that is not negative, found "
            f"{choice.preference!r}; 0 is preferred most"
        )


def check_layer(layer: LayerChoices) -> None:
    """Raise ``ScheduleError`` unless there is at least one choice and all have their own names."""
    if not layer.choices:
        raise ScheduleError(
            f"layer {layer.name!r}: expected at least one choice, found none; keep it as it is, or drop it"
        )
    _unique(f"layer {layer.name!r}", "choice", (choice.name for choice in layer.choices))


def validate_problem(problem: AllocationProblem) -> None:
    """Raise ``ScheduleError`` naming the first thing that makes the problem meaningless."""
    _unique("allocation", "layer", (layer.name for layer in problem.layers))
    _unique("allocation", "budget", (budget.name for budget in problem.budgets))
    _check_costs(problem)
    _check_names(problem)
    _check_forced(problem)
    _check_traits(problem)
    _check_pairs(problem)
    _check_choices_left(problem)


def _unique(where: str, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ScheduleError(f"{where}: expected every {what} once, found {name!r} twice; rename or drop one")
        seen.add(name)


def _check_costs(problem: AllocationProblem) -> None:
    for budget in problem.budgets:
        if type(budget.limit) is not int:
            raise ScheduleError(
                f"budget {budget.name!r}: expected an integer limit, found {budget.limit!r}; round it down"
            )
    wanted = len(problem.budgets)
    for layer in problem.layers:
        for choice in layer.choices:
            if len(choice.costs) != wanted:
                raise ScheduleError(
                    f"layer {layer.name!r}, choice {choice.name!r}: expected {wanted} costs, one per budget, "
                    f"found {len(choice.costs)}; follow the order of the budgets"
                )
    for position, budget in enumerate(problem.budgets):
        total = sum(max(choice.costs[position] for choice in layer.choices) for layer in problem.layers)
        if total > MAXIMUM_TOTAL:
            raise ScheduleError(
                f"budget {budget.name!r}: expected costs that sum to at most 2**60, found {total}; use a coarser unit"
            )
    preferences = sum(max(choice.preference for choice in layer.choices) for layer in problem.layers)
    if preferences > MAXIMUM_TOTAL:
        raise ScheduleError(
            f"allocation: expected preferences that sum to at most 2**60, found {preferences}; use smaller ones"
        )
    if problem.layers and not math.isfinite(sum(max(c.loss for c in layer.choices) for layer in problem.layers)):
        raise ScheduleError("allocation: expected losses with a finite sum, found an overflow; scale the losses down")


def _check_names(problem: AllocationProblem) -> None:
    choices = {layer.name: [choice.name for choice in layer.choices] for layer in problem.layers}
    for tie in problem.ties:
        _unique(f"tie {', '.join(tie)}", "layer", tie)
        for name in tie:
            _known("ties", "layer", name, list(choices))
    for what, pairs in (("forced", problem.forced), ("forbidden", problem.forbidden)):
        for layer, choice in pairs:
            _known(what, "layer", layer, list(choices))
            _known(f"{what} choice of layer {layer!r}", "choice", choice, choices[layer])


def _known(where: str, what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ScheduleError(f"{where}: expected the name of a {what}, found {name!r}{nearest(name, known)}")


def _check_forced(problem: AllocationProblem) -> None:
    forced: dict[str, str] = {}
    for layer, choice in problem.forced:
        if forced.setdefault(layer, choice) != choice:
            raise ScheduleError(
                f"forced: expected one choice for layer {layer!r}, found {forced[layer]!r} and {choice!r}; keep one"
            )
        if (layer, choice) in problem.forbidden:
            raise ScheduleError(
                f"layer {layer!r}: expected a choice to be forced or forbidden, found {choice!r} in both; keep one"
            )
    for group in connected([layer.name for layer in problem.layers], problem.ties):
        wanted = {forced[member]: member for member in group if member in forced}
        if len(wanted) > 1:
            found = " and ".join(f"{choice!r} for {member!r}" for choice, member in wanted.items())
            raise ScheduleError(
                f"tie {', '.join(group)}: expected the same forced choice, found {found}; force one, or untie them"
            )


def _check_traits(problem: AllocationProblem) -> None:
    choices = {layer.name: len(layer.choices) for layer in problem.layers}
    for trait in problem.traits:
        where = f"trait {trait.name!r}"
        if not trait.classes:
            raise ScheduleError(f"{where}: expected the layers that share it, found none; name them, or drop it")
        for layer, classes in trait.classes.items():
            _known(where, "layer", layer, list(choices))
            if len(classes) != choices[layer]:
                raise ScheduleError(
                    f"{where}, layer {layer!r}: expected {choices[layer]} classes, one per choice, "
                    f"found {len(classes)}; follow the order of the choices"
                )


def _check_pairs(problem: AllocationProblem) -> None:
    choices = {layer.name: {choice.name: choice for choice in layer.choices} for layer in problem.layers}
    seen: set[frozenset[tuple[str, str]]] = set()
    for pair in problem.pairs:
        for layer, choice in (pair.first, pair.second):
            _known("pairs", "layer", layer, list(choices))
            _known(f"pair with layer {layer!r}", "choice", choice, list(choices[layer]))
        where = f"pair {pair.first[0]!r} as {pair.first[1]!r}, {pair.second[0]!r} as {pair.second[1]!r}"
        if pair.first[0] == pair.second[0]:
            raise ScheduleError(f"{where}: expected two layers, found one; add to its own loss and costs")
        if frozenset((pair.first, pair.second)) in seen:
            raise ScheduleError(f"{where}: expected every combination once, found it twice; add them up")
        seen.add(frozenset((pair.first, pair.second)))
        _check_pair(pair, where, len(problem.budgets))
    for position, budget in enumerate(problem.budgets):
        total = sum(abs(pair.costs[position]) for pair in problem.pairs if pair.costs)
        if total > MAXIMUM_TOTAL:
            raise ScheduleError(
                f"budget {budget.name!r}: expected costs of pairs that sum to at most 2**60, found {total}; "
                f"use a coarser unit"
            )


def _check_pair(pair: Pair, where: str, budgets: int) -> None:
    if not math.isfinite(pair.loss):
        raise ScheduleError(f"{where}: expected a finite loss, found {pair.loss}; leave out what does not interact")
    if len(pair.costs) not in (0, budgets):
        raise ScheduleError(
            f"{where}: expected {budgets} costs, one per budget, or none, found {len(pair.costs)}; "
            f"follow the order of the budgets"
        )
    for cost in pair.costs:
        if type(cost) is not int:
            raise ScheduleError(f"{where}: expected integer costs, found {cost!r}; use a finer unit")


def _check_choices_left(problem: AllocationProblem) -> None:
    for group in groups(problem):
        if agrees(group):
            continue
        names = [member.name for member in group]
        where = f"layer {names[0]!r}" if len(group) == 1 else f"tie {', '.join(names)}"
        if not all(member.choices for member in group):
            raise ScheduleError(
                f"{where}: expected at least one choice that is not forbidden, found none; forbid fewer choices"
            )
        raise ScheduleError(f"{where}: {_disagreement(problem, names)}")


def _disagreement(problem: AllocationProblem, names: Sequence[str]) -> str:
    """Why tied layers that all have choices have none together."""
    inside = set(names)
    if any(layer in inside for layer, _ in (*problem.forced, *problem.forbidden)):
        return "expected at least one choice that is not forbidden, found none; forbid fewer choices"
    if any(inside & set(trait.classes) for trait in problem.traits):
        return "expected choices of the same class in all of them, found none; untie them"
    return "expected a choice name that all members have, found none; untie them"
