"""Stage: where ``search.ranks`` asks for a published rule, one threshold decides every rank in place of the solver."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..config import LayerRule
from ..ir.layers import Layer
from ..ir.options import Option
from ..passes.formats import format as parse_format
from ..passes.formats.families import family_of, is_family
from ..schedulers.allocation.thresholds import RULES, Ranks, Shares, ranks_within
from .offer import Offer, list_options
from .rough_build import build_rough

ROUNDS = 4
"""How often a file is weighed, so that what it holds around its weights is left out of what the ranks may take."""


@dataclass(frozen=True)
class _Subject:
    """A layer that a threshold decides about: it has so many components, or stays what it is."""

    layer: Layer
    family: str
    shares: Shares
    whole: int

    def spelling(self, rank: int) -> str | None:
        """The format of a rank; None where it would save nothing and the layer is kept."""
        text = f"{self.family}:r{rank}"
        known = parse_format(text)
        if known.refuses(self.layer.stored_shape) is not None:
            return None
        return text if known.nbytes(self.layer.stored_shape) < self.whole else None

    def nbytes(self, rank: int) -> int:
        """Bytes at a rank, or as they are."""
        text = self.spelling(rank)
        return parse_format(text).nbytes(self.layer.stored_shape) if text is not None else self.whole


def with_ruled_ranks(offer: Offer) -> Offer:
    """The offer in which every layer has the rank of a rule alone, or its other format where that is smaller.

    Ranks are those of the least threshold with which the file itself, weighed with weights that are only rounded, fits
    the budget. Layers with a rule of their own keep what it offers, at the fewest bytes.

    Raises:
        ConfigError: a layer is left without any option.
    """
    request = offer.request
    budget, rule = request.budget, request.pipeline.search.ranks
    if rule == "solved" or budget is None:
        return offer
    subjects = _subjects(offer, rule)
    limit = offer.totals(None).limits(budget)["size"]
    room = limit - offer.totals(None).fixed_nbytes - sum(_fewest(offer, {s.layer.name for s in subjects}).values())
    ruled = offer
    for _ in range(ROUNDS):
        found = ranks_within([s.shares for s in subjects], [s.nbytes for s in subjects], int(room))
        ruled = _ruled(offer, subjects, found or Ranks(1.0, (1,) * len(subjects)))
        over = _weigh(ruled) - limit
        if found is None or over <= 0:
            break
        room = sum(s.nbytes(rank) for s, rank in zip(subjects, found.ranks, strict=True)) - over
    return ruled


def _subjects(offer: Offer, rule: str) -> list[_Subject]:
    pipeline = offer.request.pipeline
    family = next(f for f in pipeline.formats if is_family(f))
    found: list[_Subject] = []
    for prices in offer.costs(None):
        ranked = [o for o in prices.options if family_of(o.option.format) == family_of(family)]
        others = [o.nbytes for o in prices.options if o not in ranked]
        if ranked and others and pipeline.rule_for(prices.layer.name).pattern == "*":
            spectrum = torch.linalg.svdvals(prices.layer.matrix()).tolist()
            found.append(_Subject(prices.layer, family_of(family), RULES[rule](spectrum), min(others)))
    return found


def _fewest(offer: Offer, without: set[str]) -> dict[str, int]:
    """Bytes of the layers that no threshold decides about."""
    return {p.layer.name: min(o.nbytes for o in p.options) for p in offer.costs(None) if p.layer.name not in without}


def _ruled(offer: Offer, subjects: Sequence[_Subject], found: Ranks) -> Offer:
    request, pipeline = offer.request, offer.request.pipeline
    kept = next(f for f in pipeline.formats if not is_family(f))
    rules: list[LayerRule] = []
    for subject, rank in zip(subjects, found.ranks, strict=True):
        text = subject.spelling(rank) or kept
        rules.append(LayerRule(pattern="re:" + re.escape(subject.layer.name), formats=(text,)))
    decided = pipeline.model_copy(update={"layers": (*rules, *pipeline.layers)})
    cleaned = replace(offer.cleaned, request=replace(request, pipeline=decided))
    again = list_options(cleaned, calibrated=request.calibrated)
    return replace(again, notes=(_note(pipeline.search.ranks, subjects, found),))


def _note(rule: str, subjects: Sequence[_Subject], found: Ranks) -> str:
    ranks = [r for s, r in zip(subjects, found.ranks, strict=True) if s.spelling(r) is not None]
    some = f", ranks {min(ranks)} to {max(ranks)}" if ranks else ""
    return (
        f"search.ranks = {rule}: threshold {found.threshold:.4g} for all layers, {len(ranks)} of {len(subjects)} in "
        f"factors{some}"
    )


def _weigh(offer: Offer) -> int:
    """Bytes of the file with every layer at its fewest."""
    cleaned, request = offer.cleaned, offer.request
    chosen: Mapping[str, Option] = {
        p.layer.name: min(p.options, key=lambda o: o.nbytes).option for p in offer.costs(None)
    }
    parts = (cleaned.graph, cleaned.layers, chosen, {}, request.target, request.example, request.versions)
    return build_rough(*parts).nbytes
