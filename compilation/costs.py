"""What a model takes of every resource, and what decisions change in it: the rows of an allocation problem.

A resource has one row, or one for every shape that the model runs at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..ir.budget import Budget
from ..ir.options import PricedOption
from ..ir.plan import Decision
from ..ir.resources import LATENCY, OPS, SIZE, Resource
from ..targets.base import Latencies
from ..targets.integer_runs import NO_RUNS, Choice, IntegerRuns
from .pricing_stage import LayerPrices
from .weights_that_stay import Weight


def key_of(resource: str, shape: str = "") -> str:
    """The name of a row: the resource's, with the shape where it is about one of several."""
    return f"{resource} at {shape}" if shape else resource


@dataclass(frozen=True)
class Row:
    """What a model takes of a resource.

    Attributes:
        resource: what is counted.
        original: what the original takes.
        fixed: what no decision changes; where layers are known by differences, what all take with every layer in float.
        taken: layer, option -> what the option takes.
        shape: inputs that it is about, empty where it is about all.
        runs: what options of two layers take together.
    """

    resource: Resource
    original: float
    fixed: float
    taken: Callable[[str, PricedOption], float]
    shape: str = ""
    runs: IntegerRuns = NO_RUNS

    @property
    def key(self) -> str:
        """Its name among all rows."""
        return key_of(self.resource.name, self.shape)

    def steps(self, layer: str, option: PricedOption) -> int:
        """What an option takes in the solver's integers."""
        return self.resource.steps_up(self.taken(layer, option))

    def states(self) -> dict[str, dict[str, int]]:
        """Values between layers and sums: what each of their states takes, in the solver's integers."""
        return {
            name: {state: self.resource.steps_up(amount) for state, amount in own.items()}
            for name, own in self.runs.states().items()
        }

    def pairs(self, prices: Sequence[LayerPrices]) -> dict[frozenset[Choice], int | None]:
        """What two choices take together, in the solver's integers; ``None`` where they cannot be together."""
        options = {p.layer.name: [o.option.name for o in p.options] for p in prices}
        found: dict[frozenset[Choice], int | None] = {}
        for first, second, amount in self.runs.pairs(options):
            found[frozenset((first, second))] = None if amount is None else self.resource.steps_up(amount)
        return found

    def room(self, limit: float, prices: Sequence[LayerPrices]) -> int:
        """What a limit leaves for the layers, in the solver's integers."""
        return self.resource.steps_down(limit - self.fixed) + self._before(prices)

    def total(self, steps: int, prices: Sequence[LayerPrices]) -> float:
        """What the whole model takes where the layers take so many of the solver's integers."""
        return self.fixed + self.resource.amount(steps - self._before(prices))

    def _before(self, prices: Sequence[LayerPrices]) -> int:
        """The layers as they are, rounded like the choices: leaving all alone costs exactly 100 %."""
        if not self.resource.by_difference:
            return 0
        return sum(self.steps(p.layer.name, p.original) for p in prices)

    def predicted(self, decisions: Sequence[Decision]) -> float:
        """What a plan takes."""
        after = sum(self.taken(d.layer, d.chosen) for d in decisions)
        if not self.resource.by_difference:
            return float(self.fixed + after)
        together = self.runs.milliseconds({d.layer: d.chosen.option.name for d in decisions})
        changes = sum(self.taken(d.layer, d.chosen) - self.taken(d.layer, d.original) for d in decisions)
        return self.fixed + changes + together

    def words(self, amount: float) -> str:
        """An amount as a budget takes it, rounded up, with its share of the original."""
        share = f" ({math.ceil(1000.0 * amount / self.original - 1e-9) / 10:g}%)" if self.original > 0 else ""
        return f"{self.resource.words(amount)}{share}"


@dataclass(frozen=True)
class Totals:
    """What the model costs besides its layers' weights, and what all of it costs originally.

    Attributes:
        fixed_nbytes: everything in the artifact that is not a layer's weight.
        original_nbytes: the original model's constants.
        original_ms: the original model's latency, None where not measured.
        float_ms: the same with every layer in float as the target lowers it; differences per layer add to it.
        original_bops: bit operations of the original.
        fixed: the weights among what is fixed, for refusals.
        shapes: label of a shape -> its latencies, where there are several.
        runs: what options of two layers add to the latency.
    """

    fixed_nbytes: int
    original_nbytes: int
    original_ms: float | None
    original_bops: int
    float_ms: float | None = None
    fixed: tuple[Weight, ...] = ()
    shapes: Mapping[str, Latencies] | None = None
    runs: IntegerRuns = NO_RUNS

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Every row by its name."""
        return {row.key: row for row in self._rows()}

    def _rows(self) -> Iterator[Row]:
        yield Row(SIZE, float(self.original_nbytes), self.fixed_nbytes, _plainly(SIZE))
        yield Row(LATENCY, self.original_ms or 0.0, self.float_ms or 0.0, _plainly(LATENCY), runs=self.runs)
        yield Row(OPS, float(self.original_bops), 0, _plainly(OPS))
        for label, known in (self.shapes or {}).items():
            yield Row(LATENCY, known.original_ms, known.model_ms, _at(known), label, known.runs)

    def limits(self, budget: Budget) -> dict[str, float]:
        """The rows that a budget limits, with the limits in bytes, milliseconds, bit operations."""
        found: dict[str, float] = {}
        for name, limit in budget.limits.items():
            each = [row for row in self.rows.values() if row.resource.name == name and row.shape]
            for row in each if budget.each_shape and each else [self.rows[name]]:
                found[row.key] = limit.absolute(row.original)
        return found


def _plainly(resource: Resource) -> Callable[[str, PricedOption], float]:
    return lambda _, option: resource.of(option) or 0


def _at(known: Latencies) -> Callable[[str, PricedOption], float]:
    return lambda layer, option: known.layers[layer].original_ms + known.change_ms(layer, option.option.name)
