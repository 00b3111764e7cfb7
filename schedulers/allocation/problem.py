"""Mixed-precision allocation as a multiple-choice knapsack in plain integers.

Every layer takes exactly one of its choices. The sum of the losses is minimised; for every budget the sum of the costs
must not exceed its limit. Layers may be tied (all take the choice of the same name, or of the same class), and single
choices may be forced or forbidden. The problem is the one of HAWQ-V3 (arXiv 2011.10680, section 3.4) with any number of
choices per layer and of budgets; the literature calls it the multi-dimensional multiple-choice knapsack (Kellerer,
Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..status import Status
from .validation import check_choice, check_layer, validate_problem


@dataclass(frozen=True)
class Choice:
    """One thing a layer can become.

    Attributes:
        name: what the choice is called, unique within its layer.
        loss: expected loss of the whole model if this layer alone takes the choice; finite, not negative.
        costs: what it uses of every budget, in the order and the units of the problem's budgets; not negative.
        preference: decides between assignments of exactly equal loss: the smallest sum wins. An integer, not negative.
            It is never weighed against losses, nor part of the objective.

    Raises:
        ScheduleError: the loss, a cost or the preference is not such a number.
    """

    name: str
    loss: float
    costs: tuple[int, ...] = ()
    preference: int = 0

    def __post_init__(self) -> None:
        check_choice(self)


@dataclass(frozen=True)
class LayerChoices:
    """A layer and everything it can become.

    Raises:
        ScheduleError: there are no choices, or two have the same name.
    """

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        check_layer(self)

    def choice(self, name: str) -> Choice:
        """The choice of this name (``KeyError`` if there is none)."""
        for choice in self.choices:
            if choice.name == name:
                return choice
        raise KeyError(name)


@dataclass(frozen=True)
class AllocationBudget:
    """An upper limit on a summed cost, e.g. ``AllocationBudget("size", 12_000_000, "bytes")``."""

    name: str
    limit: int
    unit: str = ""


@dataclass(frozen=True)
class Trait:
    """Layers whose choices must agree in one respect, whatever else they are.

    ``Trait("input of q, k, v", {"q": ("float", "int8", "int8"), "k": (...), "v": (...)})`` lets every layer choose its
    own format as long as all of them quantize their common input alike.

    Attributes:
        name: what is shared, for messages.
        classes: layer -> the class of each of its choices, in their order. All layers take choices of one class.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Pair:
    """What two layers' choices add together, beyond what each of them loses and costs alone.

    Only combinations that add something are listed; all others add nothing. Examples:

    * Leaving a run of integer layers: ``Pair(("a", "int8"), ("b", "fp32"), costs=(0, 12_000))`` adds 12,000 ns where
      ``a`` is computed in int8 and its reader ``b`` in float. Entering one is a pair with the sides exchanged.
    * CLADO's interaction (arXiv 2307.05657): ``loss = L(a and b) - L(a) - L(b) + L(neither)``, which is negative where
      two errors cancel each other. Losses go in as they were measured; do not project them to a semidefinite matrix.
    * A buffer that two layers share: a negative cost where both use it.

    Attributes:
        first: a layer and its choice.
        second: another layer and its choice.
        loss: what is added to the loss; finite, of any sign.
        costs: what is added to the costs, like ``Choice.costs`` but of any sign; empty if nothing is.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    loss: float = 0.0
    costs: tuple[int, ...] = ()


@dataclass(frozen=True)
class AllocationProblem:
    """Layers, budgets and side conditions.

    Attributes:
        layers: all layers, with unique names.
        budgets: all budgets, with unique names; ``Choice.costs`` follows their order. There may be none.
        ties: groups of layer names that take the same choice name; only names that all members have are allowed.
            Groups that share a layer are one group.
        forced: pairs ``(layer, choice)`` that must be taken.
        forbidden: pairs ``(layer, choice)`` that must not be taken.
        traits: what choices of different layers must have in common; a tie is the trait of having the same name.
        pairs: what choices of two layers add together; each combination once. The objective, the costs used and
            all limits count them. With pairs, losses may sum to less than zero.

    Raises:
        ScheduleError: a name is unknown or duplicated, the number of costs is wrong, or the side conditions leave a
            layer without any choice.
    """

    layers: tuple[LayerChoices, ...]
    budgets: tuple[AllocationBudget, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    forced: tuple[tuple[str, str], ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()
    traits: tuple[Trait, ...] = ()
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        validate_problem(self)


@dataclass(frozen=True)
class BindingBudget:
    """A budget that costs loss.

    Attributes:
        name: the budget.
        slack: limit minus what is used, in units of the budget.
        shadow_price: dual of the budget's row in the linear relaxation: the loss that one more unit of the budget
            would save if choices could be mixed. Always positive. With pairs, every layer sees the others as they were
            chosen.
    """

    name: str
    slack: int
    shadow_price: float


@dataclass(frozen=True)
class Infeasibility:
    """A budget that cannot be met.

    Attributes:
        budget: its name.
        limit: the limit that was asked for.
        smallest_feasible: the smallest limit for which there is an assignment that also meets the budgets in ``given``.
        given: names of the other budgets that were held when that value was computed.
        proven: false if time ran out, so that ``smallest_feasible`` is reachable but a smaller one may be as well.
    """

    budget: str
    limit: int
    smallest_feasible: int
    given: tuple[str, ...] = ()
    proven: bool = True

    def message(self, unit: str = "") -> str:
        """One line for a person: the budget, its limit and the smallest feasible value."""
        suffix = f" {unit}" if unit else ""
        others = f" while {', '.join(self.given)} is met" if self.given else ""
        kind = "smallest feasible value is" if self.proven else "smallest value found in time is"
        return (
            f"budget {self.budget!r}: limit {self.limit}{suffix} cannot be met{others}; "
            f"the {kind} {self.smallest_feasible}{suffix}"
        )


@dataclass(frozen=True)
class AllocationSolution:
    """What the solver found, and what it proved.

    Attributes:
        status: ``optimal`` (proven to within ``relative_gap``), ``feasible`` (time ran out, see ``gap``),
            ``infeasible`` (proven, see ``infeasible``) or ``timeout`` (nothing found in time).
        assignment: layer name to choice name; empty without a solution.
        objective: summed loss of the assignment, correctly rounded; ``None`` without a solution.
        bound: no assignment whatsoever has a smaller loss; ``None`` if infeasible.
        gap: ``(objective - bound) / objective``; ``None`` without a solution. With pairs an objective may be negative,
            and the larger of the two sizes divides.
        wall_s: seconds spent (not compared).
        used: budget name to summed cost.
        binding: the budgets with a positive shadow price, in the problem's order.
        seed: seed of the solver.
        workers: worker threads of the solver.
        solver: name and version of what solved it.
        relative_gap: the gap that was asked for.
        pruned: choices removed because another one is at least as good in every respect.
        infeasible: the budgets that cannot be met.
    """

    status: Status
    assignment: Mapping[str, str]
    objective: float | None
    bound: float | None
    gap: float | None
    wall_s: float = field(compare=False)
    used: Mapping[str, int]
    binding: tuple[BindingBudget, ...]
    seed: int
    workers: int
    solver: str
    relative_gap: float = 0.0
    pruned: int = 0
    infeasible: tuple[Infeasibility, ...] = ()
