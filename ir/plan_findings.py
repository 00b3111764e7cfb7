"""What the stages of a compilation found out, as a plan keeps it: proofs, improvements, corrections, costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from .json_values import NOT_JSON


@dataclass(frozen=True)
class SolverOutcome:
    """What the solver proved about the predicted loss (not about accuracy).

    Attributes:
        status: optimal, or feasible with a gap.
        objective: summed predicted loss of what it chose, correctly rounded.
        bound: no choice of options that meets the budgets has a smaller one.
        gap: ``(objective - bound) / objective``.
        solver: its name and version.
        seed: its seed.
        wall_s: seconds that it took. Reports show them; they are no part of the plan, which is the same in every run.
    """

    status: str
    objective: float
    bound: float
    gap: float
    solver: str
    seed: int
    wall_s: float = field(default=0.0, compare=False, metadata=NOT_JSON)


@dataclass(frozen=True)
class BiasCorrection:
    """That the bias of a layer was moved against the mean shift of its output.

    Attributes:
        shift: size of the move relative to the layer's output (root mean square).
        made_for: digest of the options that it was found under; with others it does not apply.
    """

    shift: float
    made_for: str


@dataclass(frozen=True)
class Refinement:
    """That a proven optimum of predicted losses was improved by measuring whole plans.

    Attributes:
        changed: layers that take another option than in that optimum.
        before: measured loss of the optimum, relative squared output error on calibration samples.
        after: that of this plan.
    """

    changed: int
    before: float
    after: float


@dataclass(frozen=True)
class InOrder:
    """That codes were chosen anew in the order of the network, each layer behind the encoded ones before it.

    Attributes:
        kept: whether these codes were taken: they are where they measure better.
        before: measured loss with the codes as priced, relative squared output error on calibration samples.
        after: that with the codes in order.
    """

    kept: bool
    before: float
    after: float


@dataclass(frozen=True)
class KernelCost:
    """What a restriction to some kernels costs by prediction: the best plans with it and without it, at equal budgets.

    Attributes:
        kernels: that layers may be computed with.
        loss: the least predicted loss with these alone.
        free_loss: the least predicted loss with all kernels of the target.
        layers: layers that would be computed with a kernel that was left out.
        proven: whether both are proven optima.
        resource: what was made small, empty where the budgets are bounds.
        least: the least predicted value of that resource with these kernels, in its own unit.
        free_least: the same with all kernels.
    """

    kernels: tuple[str, ...]
    loss: float
    free_loss: float
    layers: int
    proven: bool
    resource: str = ""
    least: float = 0.0
    free_least: float = 0.0
