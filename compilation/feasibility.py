"""A budget that no assignment meets is refused as soon as costs tell, before data is read or a weight is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..ir.budget import Budget
from ..ir.errors import FormatError, InfeasibleError
from ..targets.base import Latencies
from .allocation_stage import Allocation, allocate, predicted
from .calibration_stage import Known
from .costs import Totals
from .offer import Offer
from .rough_build import build_rough

SHORT = 4
"""Reasons that are listed; more of them are in what ``instar.inspect`` says."""

ANY = 0.99
"""Relative gap of a solution that is only asked for to know that there is one."""


def refuse_infeasible(
    offer: Offer,
    budget: Budget | None,
    data: Known | None = None,
    latencies: Latencies | None = None,
    shapes: Mapping[str, Latencies] | None = None,
) -> None:
    """Solve the allocation without losses: what is infeasible then is infeasible with them.

    Bytes and bit operations follow from formats and shapes; a bound on latency counts once latencies are known.
    Weights that refuse a format later only take choices away.

    Args:
        offer: the choices.
        budget: what the decisions will have to meet.
        data: what calibration says; None while no data was seen. Where the smallest plan needs the ranges of static
            quantization, its file cannot be weighed before.
        latencies: None while they are unknown, or of no interest.
        shapes: label -> latencies at that shape, where there are several.

    Raises:
        InfeasibleError: the one that the allocation would raise, with the smallest feasible value.
    """
    known = _known(budget, with_latency=latencies is not None)
    if known is None or not offer.cleaned.layers:
        return
    with offer.request.stages.time("budgets"):
        question = _Question(offer, known, data, latencies)
        totals = offer.totals(latencies, shapes)
        try:
            question.solve(totals)
        except InfeasibleError as error:
            try:
                question.refuse(totals, error)
            except InfeasibleError as refusal:
                raise _with_kernels(refusal, offer) from None


def _with_kernels(error: InfeasibleError, offer: Offer) -> InfeasibleError:
    """The same error; where ``kernels`` is given it says what the restriction leaves out, and what these refuse."""
    kernels, layers = offer.request.pipeline.kernels, offer.candidates
    if kernels is None:
        return error
    bare = [name for name, (options, _, forced) in layers.items() if not forced and all(o.unchanged for o in options)]
    text = f"{error}\n  kernels = {', '.join(kernels)} restricts what layers may become"
    if bare:
        text += f": {len(bare)} of {len(layers)} may only stay as they are ({bare[0]}{', ...' if bare[1:] else ''})"
    reasons = dict.fromkeys(reason for name in bare for reason in layers[name][1])
    if 0 < len(reasons) <= SHORT:
        text += f", because {'; '.join(reasons)}"
    return InfeasibleError(f"{text}; allow more kernels, or leave kernels out", error.smallest)


def _known(budget: Budget | None, *, with_latency: bool) -> Budget | None:
    """The bounds that can be judged."""
    given = budget.to_mapping() if budget is not None else {}
    unknown = {"minimise"} if with_latency else {"minimise", "latency", "each_shape"}
    known = {name: value for name, value in given.items() if name not in unknown}
    return Budget.from_mapping(known) if known else None


@dataclass(frozen=True)
class _Question:
    """Whether any assignment meets a budget."""

    offer: Offer
    budget: Budget
    data: Known | None
    latencies: Latencies | None

    def solve(self, totals: Totals, size: float | None = None) -> Allocation:
        """Some assignment that meets the budget; ``size`` replaces its bound on bytes.

        Raises:
            InfeasibleError: there is none.
        """
        return allocate(
            self.offer.costs(self.latencies),
            self.budget,
            totals,
            limits=totals.limits(self.budget) | ({} if size is None else {"size": size}),
            tie_shared_inputs="latency" in self.budget.limits,
            time_limit_s=self.offer.request.pipeline.search.time_limit_s,
            gap=ANY,
            seed=self.offer.request.pipeline.seed,
        )

    def refuse(self, totals: Totals, error: InfeasibleError) -> None:
        """Ask again with the bytes that the smallest artifact really takes around its weights.

        Raises:
            InfeasibleError: with the exact smallest size; the given error where size is not in question, or no plan is
                small enough for its bounds.
        """
        if "size" not in error.smallest:
            raise error
        try:
            smallest = self.solve(totals, error.smallest["size"])
            if self._lacks_ranges(smallest):
                return
            more = self._weigh(smallest) - int(predicted(smallest.decisions, totals)["size"])
        except (InfeasibleError, FormatError):
            raise error from None
        self.solve(replace(totals, fixed_nbytes=totals.fixed_nbytes + more))

    def _lacks_ranges(self, allocation: Allocation) -> bool:
        return self.data is None and any(d.chosen.option.activation.is_static for d in allocation.decisions)

    def _weigh(self, allocation: Allocation) -> int:
        cleaned, request = self.offer.cleaned, self.offer.request
        chosen = {d.layer: d.chosen.option for d in allocation.decisions}
        static = self.data.static if self.data is not None else {}
        parts = (cleaned.graph, cleaned.layers, chosen, static, request.target, request.example, request.versions)
        return build_rough(*parts).nbytes
