"""Tiny problems: a named one, random ones, and brute force as the oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from hypothesis import strategies as st

from instar.schedulers.allocation import AllocationBudget, AllocationProblem, Choice, LayerChoices, Pair, Trait


def layer(name: str, *choices: tuple[str, float, tuple[int, ...]]) -> LayerChoices:
    return LayerChoices(name, tuple(Choice(*choice) for choice in choices))


def small(limit: int = 10) -> AllocationProblem:
    """Two layers, int4 or int8, one budget. Both at int4 use 6, both at int8 use 12."""
    a = layer("a", ("int4", 1.0, (2,)), ("int8", 0.25, (4,)))
    b = layer("b", ("int4", 3.0, (4,)), ("int8", 0.5, (8,)))
    return AllocationProblem((a, b), (AllocationBudget("size", limit, "bytes"),))


def conflict(first: int = 5, second: int = 5) -> AllocationProblem:
    """One layer, two budgets: each can be met, only not together when both are below 9."""
    only = layer("a", ("small", 1.0, (1, 9)), ("fast", 1.0, (9, 1)))
    return AllocationProblem(
        (only,), (AllocationBudget("size", first, "bytes"), AllocationBudget("time", second, "us"))
    )


def assignments(problem: AllocationProblem) -> Iterator[dict[str, str]]:
    """All assignments that respect ties, forced and forbidden choices, whatever they cost."""
    names = [each.name for each in problem.layers]
    for picks in product(*([choice.name for choice in each.choices] for each in problem.layers)):
        chosen = dict(zip(names, picks, strict=True))
        tied = all(len({chosen[name] for name in tie}) == 1 for tie in problem.ties)
        traits = all(_agree(problem, trait, chosen) for trait in problem.traits)
        forced = all(chosen[name] == choice for name, choice in problem.forced)
        if tied and traits and forced and not any(chosen[name] == choice for name, choice in problem.forbidden):
            yield chosen


def _agree(problem: AllocationProblem, trait: Trait, chosen: dict[str, str]) -> bool:
    places = {each.name: [choice.name for choice in each.choices] for each in problem.layers}
    return len({row[places[name].index(chosen[name])] for name, row in trait.classes.items()}) == 1


def totals(problem: AllocationProblem, chosen: dict[str, str]) -> tuple[float, list[int]]:
    """Loss and the cost per budget."""
    picked = [each.choice(chosen[each.name]) for each in problem.layers]
    taken = [p for p in problem.pairs if chosen[p.first[0]] == p.first[1] and chosen[p.second[0]] == p.second[1]]
    parts = [each.costs for each in (*picked, *taken) if each.costs]
    costs = [sum(part[b] for part in parts) for b in range(len(problem.budgets))]
    return math.fsum(each.loss for each in (*picked, *taken)), costs


def fits(problem: AllocationProblem, costs: list[int]) -> bool:
    return all(cost <= budget.limit for cost, budget in zip(costs, problem.budgets, strict=True))


def preferred(problem: AllocationProblem) -> tuple[float, int] | None:
    """The least loss, and the least preference among the assignments that have it."""
    scored = ((totals(problem, chosen), chosen) for chosen in assignments(problem))
    return min(
        (((loss, _preference(problem, chosen)) for (loss, costs), chosen in scored if fits(problem, costs))),
        default=None,
    )


def _preference(problem: AllocationProblem, chosen: dict[str, str]) -> int:
    return sum(each.choice(chosen[each.name]).preference for each in problem.layers)


def brute_force(problem: AllocationProblem) -> float | None:
    """The least loss, or ``None`` if the budgets cannot be met."""
    scored = (totals(problem, chosen) for chosen in assignments(problem))
    return min((loss for loss, costs in scored if fits(problem, costs)), default=None)


def smallest(problem: AllocationProblem, budget: str, given: tuple[str, ...]) -> int:
    """The least cost of one budget while the given ones are met."""
    position = [each.name for each in problem.budgets].index(budget)
    held = replace(problem, budgets=tuple(b if b.name in given else replace(b, limit=10**6) for b in problem.budgets))
    scored = (totals(problem, chosen)[1] for chosen in assignments(problem))
    return min(costs[position] for costs in scored if fits(held, costs))


LOSSES = st.one_of(
    st.integers(0, 8).map(float), st.floats(0, 10, allow_subnormal=False), st.sampled_from([1e-9, 0.1, 0.3])
)


@st.composite
def traits(draw: st.DrawFn, layers: tuple[LayerChoices, ...]) -> tuple[Trait, ...]:
    """None, or one or two traits over some layers; class "0" of the second choice keeps every problem solvable."""
    made: list[Trait] = []
    for number in range(draw(st.integers(0, 2)) if len(layers) > 1 else 0):
        inside = [each for each in layers if draw(st.booleans())] or list(layers[:1])
        classes = {
            each.name: tuple("0" if place == 1 else draw(st.sampled_from("012")) for place in range(len(each.choices)))
            for each in inside
        }
        made.append(Trait(f"t{number}", classes))
    return tuple(made)


@st.composite
def preferring(draw: st.DrawFn) -> AllocationProblem:
    """Losses of few values, so that many assignments are equal, and preferences that decide between them."""
    problem = draw(problems())
    layers = tuple(
        replace(
            each,
            choices=tuple(
                replace(c, loss=float(int(c.loss) % 3), preference=draw(st.integers(0, 5))) for c in each.choices
            ),
        )
        for each in problem.layers
    )
    return replace(problem, layers=layers)


@st.composite
def problems(draw: st.DrawFn) -> AllocationProblem:
    """Up to five layers with up to four choices, up to three budgets; all mixtures of ties, forced and forbidden."""
    budgets = draw(st.integers(0, 3))
    costs = st.tuples(*(st.integers(0, 12) for _ in range(budgets)))
    size = draw(st.integers(0, 5))
    layers = tuple(
        LayerChoices(f"l{i}", tuple(Choice(f"c{j}", draw(LOSSES), draw(costs)) for j in range(draw(st.integers(2, 4)))))
        for i in range(size)
    )
    limits = tuple(AllocationBudget(f"b{i}", draw(st.integers(0, 10 * max(size, 1)))) for i in range(budgets))
    ties = (tuple(each.name for each in layers[:2]),) if size >= 3 and draw(st.booleans()) else ()
    forced = (("l2", "c1"),) if size >= 3 and draw(st.booleans()) else ()
    forbidden = ((f"l{size - 1}", "c0"),) if size and draw(st.booleans()) else ()
    return AllocationProblem(layers, limits, ties, forced, forbidden, draw(traits(layers)))


@st.composite
def pairing(draw: st.DrawFn) -> AllocationProblem:
    """Problems with pairs of any sign between any layers.

    No pair's loss is nearer to zero than a millionth: the solver's integers end 55 bits below the largest loss, and
    below that a solution is "feasible" with a bound that says how far.
    """
    problem = draw(problems())
    if len(problem.layers) < 2:
        return problem
    losses = st.one_of(st.integers(-4, 4).map(float), st.floats(-3, 3).map(lambda loss: round(loss, 6)))
    made: dict[tuple[tuple[str, str], tuple[str, str]], Pair] = {}
    for _ in range(draw(st.integers(1, 8))):
        a, b = sorted(draw(st.permutations(range(len(problem.layers))))[:2])
        ends = [(problem.layers[i].name, draw(st.sampled_from(problem.layers[i].choices)).name) for i in (a, b)]
        costs = tuple(draw(st.integers(-3, 4)) for _ in problem.budgets) if draw(st.booleans()) else ()
        made[ends[0], ends[1]] = Pair(ends[0], ends[1], draw(losses), costs)
    return replace(problem, pairs=tuple(made.values()))
