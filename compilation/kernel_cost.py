"""What ``kernels`` costs: the options that it leaves out are priced too, and the budgets are met once more with them.

That takes time (their latencies, their losses), so ``search.kernel_cost`` asks for it. The number is about predictions,
like the optimum that it is compared with: both solutions are bounded alike, by what was asked, and where the plan's own
prediction is above that although its artifact is not, by the plan's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.errors import InfeasibleError
from ..ir.options import Option
from ..ir.plan import Plan
from ..ir.plan_findings import KernelCost
from ..ir.resources import RESOURCES
from .allocation_stage import Allocation
from .minimising import minimising
from .offer import Offer, list_options
from .prepared import Prepared


def what_is_left_out(offer: Offer) -> Offer | None:
    """Of every layer the options that ``kernels`` alone leaves out, perhaps none; None where nobody asks for them.

    Raises:
        ConfigError: the profile of a device lacks some of them.
    """
    request, pipeline = offer.request, offer.request.pipeline
    if not pipeline.search.kernel_cost or pipeline.kernels is None:
        return None
    free = replace(request, pipeline=pipeline.model_copy(update={"kernels": None}))
    every = list_options(replace(offer.cleaned, request=free), calibrated=request.calibrated)

    def others(name: str) -> tuple[Option, ...]:
        return tuple(o for o in every.options[name] if o not in offer.options[name])

    return replace(
        offer, candidates={name: (others(name), (), entry[2]) for name, entry in every.candidates.items()},
        static=every.static,
    )  # fmt: skip


def unrestricted(offer: Offer) -> Offer:
    """The offer with what ``kernels`` leaves out, where its cost is asked for: what is to be learnt and timed."""
    others = what_is_left_out(offer)
    if others is None:
        return offer
    candidates = {
        name: ((*options, *others.options[name]), refused, forced)
        for name, (options, refused, forced) in offer.candidates.items()
    }
    return replace(offer, candidates=candidates, static=others.static)


def cost_of_kernels(prepared: Prepared, plan: Plan) -> KernelCost | None:
    """The best plans with and without the restriction at the budgets of ``plan``; None where nobody asks for it.

    Where the solver finds nothing in its time, the number is that of ``plan`` itself, and it is not proven.
    """
    kernels = prepared.pipeline.kernels
    if prepared.free is None or kernels is None or not plan.budgets:
        return None
    free = replace(prepared, ladder=prepared.free)
    limits = {u.key: max(u.limit, u.used * (1.0 + RESOURCES[u.resource].margin)) for u in plan.budgets}
    restricted, best = _best(prepared, limits), _best(free, limits)
    loss = restricted.outcome.objective if restricted is not None else plan.predicted_loss
    found = KernelCost(
        kernels,
        loss,
        min(loss, best.outcome.objective) if best is not None else loss,  # every plan with these kernels is one of all
        _left_out(best, kernels) if best is not None else 0,
        all(a is not None and a.outcome.status == "optimal" for a in (restricted, best)),
    )
    aim, free_aim = minimising(prepared), minimising(free)
    if aim is None or free_aim is None:
        return found
    others = _others(limits, aim.resource)
    return replace(found, resource=aim.resource, least=aim.least(others), free_least=free_aim.least(others))


def _best(prepared: Prepared, limits: Mapping[str, float]) -> Allocation | None:
    """The decisions that lose least within limits; None where the solver finds none in its time."""
    aim, budget = minimising(prepared), prepared.request.budget
    try:
        if aim is not None:
            return aim.at(limits[aim.resource], _others(limits, aim.resource))
        return prepared.allocate(budget, limits) if budget is not None else None
    except InfeasibleError:
        return None


def _others(limits: Mapping[str, float], resource: str) -> dict[str, float]:
    return {key: value for key, value in limits.items() if key != resource}


def _left_out(best: Allocation, kernels: Sequence[str]) -> int:
    chosen = [d.chosen.option for d in best.decisions]
    return sum(not o.unchanged and o.kernel not in kernels for o in chosen)
