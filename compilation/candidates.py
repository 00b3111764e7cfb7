"""Plans beside the optimum of the predicted losses that refinement measures, too.

What predictions say about two plans a few percent apart is less than what a run says. So these are measured: the plan
by best saved loss per cost; the optimum among integers alone and that of every other kind of format alone, because a
plan that may take all of them must not be worse than one that may not; and, where ``search.pairs`` asks for it, the
optimum with interactions.

Interactions are those of CLADO (arXiv 2307.05657): what two layers lose together beyond what each loses alone,
``L(a and b) - L(a) - L(b)``, measured with both weights replaced. A pair of layers cannot interact by more than
``2 sqrt(L(a) L(b))`` to second order, so the pairs with the largest product of losses are taken. Of their layers the
options in reach of the plan are measured, every combination, and only these may be chosen: an option whose interactions
nobody knows would look as if it had none. CLADO projects its matrix to a semidefinite one for its solver; ours takes
it as it was measured (:mod:`instar.schedulers.allocation.pairwise`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..ir.budget import Budget
from ..ir.errors import FormatError, InfeasibleError
from ..ir.layers import Layer
from ..ir.options import PricedOption
from ..ir.plan import Decision
from ..passes.formats import format as parse_format
from ..schedulers.allocation import Pair
from .allocation_stage import Allocation, decide
from .holding_out import RUN_MACS, few_of
from .measured_loss import MeasuredLoss
from .options_in_reach import matrix_of, near_options
from .prepared import Prepared
from .pricing_stage import LayerPrices

WORK = 10.0
"""Deterministic seconds in which the problem with interactions is solved; it need not be proven to be measured."""


def candidates(
    prepared: Prepared,
    budget: Budget,
    decisions: Sequence[Decision],
    limits: Mapping[str, float],
) -> Iterator[Allocation]:
    """Plans that may measure better than ``decisions``.

    Args:
        prepared: the prices.
        budget: the names of what is limited.
        decisions: the optimum of the predicted losses.
        limits: what plans may use by prediction.
    """
    greedy = prepared.greedy(budget, limits)
    if greedy is not None:
        yield greedy
    yield from of_one_kind(prepared, budget, limits)
    count = prepared.pipeline.search.pairs
    if count:
        yield with_interactions(prepared, budget, decisions, on_few(prepared), limits, count)


def of_one_kind(prepared: Prepared, budget: Budget, limits: Mapping[str, float]) -> Iterator[Allocation]:
    """The optimum among formats of one family, for every family; nothing where there is only one."""
    options = [o for p in prepared.ladder.hopeful for o in p.options]
    kinds = {families for o in options if (families := _families(o))}
    for kind in sorted(kinds, key=sorted) if len(kinds) > 1 else ():
        try:
            ladder = prepared.ladder.only(lambda o, kind=kind: _families(o) <= kind)
            found = replace(prepared, ladder=ladder).allocate(budget, limits)
        except (InfeasibleError, FormatError):  # too large without the others, or a layer has nothing else
            continue
        yield replace(found, decisions=_with_all_prices(prepared, found.decisions))


def _families(option: PricedOption) -> frozenset[str]:
    return frozenset() if option.option.keeps_weight else parse_format(option.option.format).families


def _with_all_prices(prepared: Prepared, decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The decisions with the alternatives that every plan has."""
    return tuple(decide(p, d.chosen.option.name) for p, d in zip(prepared.prices, decisions, strict=True))


# ---------------------------------------------------------------------------------------------------- interactions
def on_few(prepared: Prepared) -> MeasuredLoss:
    """Runs the model on rows of the samples that plans are measured on: one pair of layers takes dozens of runs."""
    means = {} if prepared.statistics is None else prepared.statistics.mean_inputs
    samples = few_of(prepared.graph, prepared.fitting, RUN_MACS, prepared.layers)
    return MeasuredLoss(prepared.graph, samples, means)


def with_interactions(
    prepared: Prepared,
    budget: Budget,
    decisions: Sequence[Decision],
    measure: MeasuredLoss,
    limits: Mapping[str, float],
    count: int,
) -> Allocation:
    """The best decisions in reach of ``decisions`` with the interactions of the ``count`` most sensitive pairs."""
    by_name = {d.layer: (p, d) for p, d in zip(prepared.prices, decisions, strict=True)}
    chosen = sensitive_pairs(decisions, count)
    reach = {name: near_options(*by_name[name]) for name in dict.fromkeys(itertools.chain(*chosen))}
    pairs = interactions(prepared, chosen, reach, measure)
    prices = [_within(p, reach.get(p.layer.name)) for p in prepared.prices]
    found = prepared.allocate(budget, limits, prices, pairs=pairs, work_limit=WORK)
    return replace(found, decisions=_with_all_prices(prepared, found.decisions))


def _within(prices: LayerPrices, reach: Sequence[PricedOption] | None) -> LayerPrices:
    return prices if reach is None else replace(prices, options=tuple(reach))


def sensitive_pairs(decisions: Sequence[Decision], count: int) -> list[tuple[str, str]]:
    """The ``count`` pairs of layers with the largest product of losses, in the order of the layers."""
    losing = [d for d in decisions if d.chosen.weight_loss > 0.0]
    pairs = itertools.combinations(losing, 2)
    ordered = sorted(pairs, key=lambda p: -p[0].chosen.weight_loss * p[1].chosen.weight_loss)
    return [(a.layer, b.layer) for a, b in ordered[:count]]


def interactions(
    prepared: Prepared,
    chosen: Sequence[tuple[str, str]],
    reach: Mapping[str, Sequence[PricedOption]],
    measure: MeasuredLoss,
) -> tuple[Pair, ...]:
    """What every combination of options of two layers loses beyond what both lose alone.

    Args:
        prepared: encodes weights.
        chosen: pairs of layers.
        reach: layer -> its options that are measured.
        measure: runs the model.
    """
    layers = {layer.name: layer for layer in prepared.layers}
    alone = {n: [_alone(prepared, layers[n], o, measure) for o in options] for n, options in reach.items()}
    found: list[Pair] = []
    for first, second in chosen:
        for (a, weight, loss), (b, other, more) in itertools.product(alone[first], alone[second]):
            if loss == 0.0 or more == 0.0:  # nothing is changed in one of them
                continue
            both = measure.of_weights([(layers[first], weight), (layers[second], other)])
            found.append(Pair((first, a.option.name), (second, b.option.name), both - loss - more))
    return tuple(found)


def _alone(
    prepared: Prepared, layer: Layer, option: PricedOption, measure: MeasuredLoss
) -> tuple[PricedOption, Tensor, float]:
    """An option, the weight that it computes with, and the loss of that weight alone."""
    matrix = matrix_of(prepared, layer, option)
    return option, matrix, 0.0 if option.option.keeps_weight else measure.of_weight(layer, matrix)
