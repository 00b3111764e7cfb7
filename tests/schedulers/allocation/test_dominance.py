"""Merging and pruning are exact: the optimum stays, and what goes is dominated."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.schedulers.allocation import AllocationProblem, Choice, LayerChoices, pruning, solve
from instar.schedulers.allocation.dominance import (
    Option,
    loss_scale,
    merge_ties,
    option,
    prune_dominated,
    reduce_problem,
    scaled_loss,
)

from .instances import brute_force, layer, problems, small

OPTIONS = st.integers(0, 4).flatmap(
    lambda budgets: st.lists(
        st.builds(
            Option,
            st.tuples(st.sampled_from("abcdefgh")),
            st.integers(0, 5),
            st.tuples(*(st.integers(0, 5) for _ in range(budgets))),
        ),
        min_size=1,
        max_size=12,
    )
)


def dominates(first: Option, second: Option) -> bool:
    return first.loss <= second.loss and all(a <= b for a, b in zip(first.costs, second.costs, strict=True))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(OPTIONS)
def test_exactly_the_undominated_options_stay(options: list[Option]):
    kept = prune_dominated(options)
    assert all(any(dominates(keeper, option) for keeper in kept) for option in options)
    assert not any(dominates(a, b) for a in kept for b in kept if a is not b)
    assert set(kept) <= set(options)
    assert [option.loss for option in kept] == sorted(option.loss for option in kept)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(OPTIONS)
def test_the_order_of_the_input_does_not_matter(options: list[Option]):
    assert prune_dominated(options) == prune_dominated(options[::-1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_pruning_never_changes_the_optimum(problem: AllocationProblem):
    reduced = reduce_problem(problem)
    left = {
        member: {option.names[place] for option in row.options}
        for row in reduced.layers
        for place, member in enumerate(row.members)
    }
    gone = [(each.name, c.name) for each in problem.layers for c in each.choices if c.name not in left[each.name]]
    pruned = replace(problem, forced=(), forbidden=tuple(gone))
    assert brute_force(pruned) == brute_force(problem)


def test_the_number_of_pruned_options_is_reported():
    worse = layer("c", ("good", 1.0, (2,)), ("bad", 1.0, (3,)), ("equal", 1.0, (2,)), ("small", 2.0, (1,)))
    problem = replace(small(20), layers=(*small().layers, worse))
    assert solve(problem).pruned == 2
    assert solve(problem).assignment["c"] == "equal"  # of equal choices the first by name


def test_ties_sum_losses_exactly_and_keep_common_names():
    a = layer("a", ("x", 0.1, (1, 2)), ("y", 1.0, (0, 0)))
    b = layer("b", ("z", 0.0, (9, 9)), ("x", 0.2, (3, 4)))
    (merged,) = merge_ties(_tied(a, b), (200, 0))
    (option,) = merged.options
    assert (merged.members, option.names, option.costs) == (("a", "b"), ("x", "x"), (4, 6))
    assert Fraction(option.loss, 2**200) == Fraction(0.1) + Fraction(0.2)


def _tied(*layers: LayerChoices) -> AllocationProblem:
    budgets = tuple(replace(small().budgets[0], name=name) for name in ("size", "time"))
    return AllocationProblem(layers, budgets, ties=(tuple(each.name for each in layers),))


def test_losses_are_integers_on_a_common_scale():
    problem = AllocationProblem((LayerChoices("a", (Choice("x", 0.375), Choice("y", 5.0))),))
    assert loss_scale(problem) == (3, 0)
    assert [option.loss for option in merge_ties(problem, (3, 0))[0].options] == [3, 40]
    assert Fraction(scaled_loss(0.1, 100), 2**100) == Fraction(0.1)


def test_preferences_lie_below_the_losses():
    choices = (Choice("x", 0.375, (), 2), Choice("y", 0.375, (), 5), Choice("z", 0.25, (), 7))
    problem = AllocationProblem((LayerChoices("a", choices), LayerChoices("b", choices[:1])))
    assert loss_scale(problem) == (3, 4)  # preferences sum to at most 7 + 2
    assert [option.loss for option in merge_ties(problem, (3, 4))[0].options] == [
        (3 << 4) + 2,
        (3 << 4) + 5,
        (2 << 4) + 7,
    ]


LAYERS = st.integers(0, 3).flatmap(
    lambda budgets: st.lists(
        st.lists(
            st.builds(
                Choice,
                st.just(""),
                st.sampled_from((0.0, 0.1, 0.3, 5e-324, 1e-300, 2.5, 1e308)),
                st.tuples(*(st.integers(0, 5) for _ in range(budgets))),
                st.integers(0, 2),
            ),
            min_size=1,
            max_size=14,
        ),
        max_size=5,
    )
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(LAYERS, st.sampled_from((0, 4, pruning.CROWDED)))
def test_choices_of_all_layers_are_pruned_like_options(layers: list[list[Choice]], crowded: int):
    """Decided on floats side by side, or layer by layer on integers: the same choices stay, in the same order."""
    rows = [[replace(choice, name=f"{place * 5 % 14:x}") for place, choice in enumerate(row)] for row in layers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "CROWDED", crowded)
        found = pruning.undominated(rows)
    scale = _scale([choice for row in rows for choice in row])
    for row, kept in zip(rows, found, strict=True):
        made = [option((choice,), scale) for choice in row]
        assert tuple(option((choice,), scale) for choice in kept) == prune_dominated(made)


def _scale(choices: list[Choice]) -> tuple[int, int]:
    return max((choice.loss.as_integer_ratio()[1].bit_length() - 1 for choice in choices), default=0), 4
