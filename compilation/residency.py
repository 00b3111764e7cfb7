"""Stage: widths of weights decided again, knowing what stays in a scratchpad, where the target asks for it.

The plan that meets the budgets is the first candidate. Others keep to a limit of the loss: fewest bytes, the widths of
the joint program of whole operators (exact where it closes), and alternately the schedule for the widths and the
cheapest widths for the reads of that schedule. Every candidate is judged by its real schedule. No widths on offer move
less than the schedule with every layer at its narrowest, which is the bound that is stated; what is built is compared
by what it really moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..ir.plan import Plan
from .allocation_stage import Allocation, SolverOutcome, budget_use, decide
from .building import Built
from .prepared import Prepared
from .pricing_stage import LayerPrices

ROUNDS = 4
"""Of schedule and widths in turn."""

BUILT = 2
"""Candidates that are built, the best ones by schedules that had little time."""


class Moves(Protocol):
    """See :class:`instar.targets.scratchpad.residency.Moved`."""

    @property
    def total_bytes(self) -> int | None:
        """Bytes moved."""
        ...

    @property
    def bound_bytes(self) -> int:
        """At least."""
        ...

    @property
    def reads(self) -> Mapping[str, int]:
        """Layer -> reads."""
        ...


Offered = Mapping[str, Sequence[tuple[int, float]]]
"""Layer -> (bytes, loss) of its options."""


class Scheduled(Protocol):
    """See :class:`instar.targets.scratchpad.residency.Residency`."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers whose bytes are scheduled."""
        ...

    def moved(self, sizes: Mapping[str, int]) -> Moves:
        """With these bytes per layer."""
        ...

    def cheapest(self, options: Offered, reads: Mapping[str, int], loss_limit: float) -> dict[str, int]:
        """Positions of options."""
        ...

    def whole(self, options: Offered, loss_limit: float) -> dict[str, int]:
        """Positions of options."""
        ...


@runtime_checkable
class KnowsResidency(Protocol):
    """A target that can say what widths move."""

    @property
    def widths_loss(self) -> float | None:
        """Factor of the first plan's loss that widths may have; ``None``: they are not decided again."""
        ...

    def residency(self, artifact: Any, sizes: Mapping[str, int]) -> Scheduled:
        """Of an artifact whose layers have these bytes."""
        ...

    def moved_bytes(self, artifact: Any) -> int:
        """Weights and spills that cross the border in one run of an artifact."""
        ...

    def remark(self, artifact: Any, text: str) -> None:
        """A sentence for the artifact's notes."""
        ...


@dataclass(frozen=True)
class _Candidate:
    picks: Mapping[str, int]
    moves: Moves


def with_residency(prepared: Prepared, built: Built, build: Callable[[Plan], Built | None]) -> Built:
    """The artifact with the widths that move least within the loss that may be given up.

    Args:
        prepared: prices.
        built: of the plan that was decided first.
        build: an artifact of a plan; ``None`` where it misses a budget.
    """
    target = prepared.request.target
    if not isinstance(target, KnowsResidency) or target.widths_loss is None or not built.plan.decisions:
        return built
    search = _Search(prepared, built, target, target.widths_loss)
    before = target.moved_bytes(built.artifact)
    for candidate in search.better()[:BUILT]:
        again = build(search.plan(candidate))
        if again is not None and target.moved_bytes(again.artifact) < before:
            moved = target.moved_bytes(again.artifact)
            target.remark(again.artifact, search.sentence(moved, f"{before} with those decided first"))
            return again
    target.remark(built.artifact, search.sentence(before, "as decided first"))
    return built


class _Search:
    def __init__(self, prepared: Prepared, built: Built, target: KnowsResidency, factor: float) -> None:
        self.prepared, self.built, self.factor = prepared, built, factor
        chosen = {d.layer: d.chosen for d in built.plan.decisions}
        self.residency = target.residency(built.artifact, {layer: o.nbytes for layer, o in chosen.items()})
        known = {p.layer.name: p for p in prepared.prices}
        self.prices: dict[str, LayerPrices] = {layer: known[layer] for layer in self.residency.layers}
        self.options = {
            layer: [
                (o.nbytes, o.loss) for o in prices.options if o.option.activation == chosen[layer].option.activation
            ]
            for layer, prices in self.prices.items()
        }
        self.names = {
            layer: [o.option.name for o in prices.options if o.option.activation == chosen[layer].option.activation]
            for layer, prices in self.prices.items()
        }
        start = {layer: self.names[layer].index(chosen[layer].option.name) for layer in self.prices}
        self.limit = factor * sum(self.options[layer][pick][1] for layer, pick in start.items())
        self.first = _Candidate(start, self.residency.moved(self._sizes(start)))
        narrowest = {layer: min(range(len(o)), key=lambda i: o[i][0]) for layer, o in self.options.items()}
        self.bound = self.residency.moved(self._sizes(narrowest)).bound_bytes

    def better(self) -> list[_Candidate]:
        """Candidates that move less than the first plan, those that move least first."""
        found: dict[tuple[int, ...], _Candidate] = {}

        def judged(picks: Mapping[str, int]) -> _Candidate | None:
            key = tuple(picks[layer] for layer in self.options) if picks else ()
            if picks and key not in found:
                found[key] = _Candidate(picks, self.residency.moved(self._sizes(picks)))
            return found.get(key)

        judged(self.residency.whole(self.options, self.limit))
        reads: Mapping[str, int] = {}
        for _ in range(ROUNDS):
            before = len(found)
            tried = judged(self.residency.cheapest(self.options, reads, self.limit))
            if tried is None or len(found) == before:
                break
            reads = tried.moves.reads
        judged(self.residency.cheapest(self.options, self.first.moves.reads, self.limit))
        fitting = [c for c in found.values() if c.moves.total_bytes is not None and _bytes(c) < _bytes(self.first)]
        return sorted(fitting, key=_bytes)

    def _sizes(self, picks: Mapping[str, int]) -> dict[str, int]:
        return {layer: self.options[layer][pick][0] for layer, pick in picks.items()}

    def plan(self, candidate: _Candidate) -> Plan:
        """The decisions of a candidate; layers that are not scheduled stay as they were."""
        decisions = tuple(
            decide(self.prices[d.layer], self.names[d.layer][candidate.picks[d.layer]]) if d.layer in self.prices else d
            for d in self.built.plan.decisions
        )
        loss = sum(d.chosen.loss for d in decisions)
        outcome = SolverOutcome("feasible", loss, 0.0, 1.0 if loss else 0.0, "widths with residency", 0)
        budget, totals = self.prepared.request.budget, self.prepared.totals
        uses = ()
        if budget is not None:
            asked = totals.limits(budget)
            uses = budget_use(decisions, budget, asked, totals, dict.fromkeys(asked, 0.0))
        return self.prepared.plan(Allocation(decisions, outcome, uses))

    def sentence(self, moved: int, how: str) -> str:
        """What was gained, and what cannot be."""
        return (
            f"widths with residency: {moved} bytes of weights and spills cross the border per run ({how}) for at most "
            f"{self.factor:g} times the loss; no widths on offer move fewer than {min(self.bound, moved)} in that order"
        )


def _bytes(candidate: _Candidate) -> int:
    return (1 << 60) if candidate.moves.total_bytes is None else candidate.moves.total_bytes
