"""One resource as small as it gets within the other bounds: its least value is proven, then the best plan there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.resources import RESOURCES, ResourceName
from .allocation_stage import Allocation
from .prepared import Prepared


@dataclass(frozen=True)
class Minimising:
    """The plans of a model at given values of one resource, within bounds on others.

    Attributes:
        prepared: the priced model.
        resource: what is made small.
        others: bounds on the other resources, None for none.
    """

    prepared: Prepared
    resource: ResourceName
    others: Budget | None = None

    @property
    def asked(self) -> dict[str, float]:
        """The absolute bounds on the other resources."""
        return self.prepared.totals.limits(self.others) if self.others is not None else {}

    def at(self, value: float, limits: Mapping[str, float] | None = None) -> Allocation:
        """The decisions that lose least with at most ``value`` of the resource, within ``limits`` on the others.

        Raises:
            InfeasibleError: there are none.
        """
        given = self.others.to_mapping() if self.others is not None else {}
        budget = Budget.from_mapping({**given, "minimise": None, self.resource: RESOURCES[self.resource].impossible})
        bounds = {**(self.asked if limits is None else limits), self.resource: value}
        found = self.prepared.allocate(budget, bounds)
        uses = [replace(u, asked="least", limit=value) if u.key == self.resource else u for u in found.budgets]
        return replace(found, budgets=tuple(uses))

    def least(self, limits: Mapping[str, float] | None = None) -> float:
        """The smallest value that any plan within ``limits`` has, with a margin for rounding.

        Raises:
            InfeasibleError: no plan is within ``limits``.
        """
        try:
            self.at(0.0, limits)
        except InfeasibleError as error:
            if self.resource not in error.smallest:
                raise
            return max(error.smallest[self.resource], 1e-12) * (1.0 + RESOURCES[self.resource].margin)
        return 1e-12

    def best(self, limits: Mapping[str, float] | None = None) -> Allocation:
        """The plan that loses least among those with the smallest value."""
        return self.at(self.least(limits), limits)


def minimising(prepared: Prepared) -> Minimising | None:
    """What the settings ask to make small, None where they ask for nothing."""
    request = prepared.request
    if request.minimise is None:
        return None
    return Minimising(prepared, request.minimise, request.budget.without(request.minimise) if request.budget else None)
