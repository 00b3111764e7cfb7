"""Ladders are coarse: around what decisions take, they get rungs halfway to the neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.evaluate import bind_dims
from ..ir.plan import Decision
from ..passes.formats.families import family_of, finer
from .ladder import kin
from .prepared import Prepared
from .pricing_stage import LayerPrices, cost, list_members

ROUNDS = 4
"""Halvings: from the third of a ladder's step to less than a fiftieth of the rank."""


def refine_ladder(prepared: Prepared, budget: Budget, limits: Mapping[str, float]) -> None:
    """Give the ladder of a model the members of families that lie close to the ones that the optimum takes.

    Every new member has its exact bytes and a bound or an estimate, and is stored where a decision takes it, like the
    others. Where decisions are about times nothing is added: those of new members were not measured.
    """
    if prepared.latencies is not None:
        return
    for _ in range(ROUNDS):
        if not prepared.ladder.waits:
            return
        try:
            found = prepared.allocate(budget, limits)
        except InfeasibleError:  # said by whoever decides
            return
        more = [_between(prepared, decision, place) for place, decision in enumerate(found.decisions)]
        if not any(costed.options for costed in more):
            return
        prepared.ladder.widen(more)


def _between(prepared: Prepared, decision: Decision, place: int) -> LayerPrices:
    """The members of the family of a layer's format halfway to its neighbours, with what they cost."""
    request, known = prepared.request, prepared.ladder.hopeful[place]
    chosen = decision.chosen
    relatives = [o for o in known.options if kin(o) == kin(chosen)]
    none = replace(known, options=(), refused=())
    if len(relatives) < 2 or family_of(chosen.option.format) == chosen.option.format:
        return none
    members = finer(chosen.option.format, [o.option.format for o in relatives])
    options = list_members(known.layer, members, request.pipeline, request.target, calibrated=request.calibrated)
    costed = cost(known.layer, (options, (), ""), None, request.target, bind_dims(prepared.graph, request.example))
    return replace(none, options=tuple(o for o in costed.options if kin(o) == kin(chosen)))
