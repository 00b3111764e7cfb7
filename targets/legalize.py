"""A graph with a plan in it becomes one that a target can write: by passes like any other, run like any other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..ir.graph import Graph
from ..ir.plan import Plan
from ..passes.base import Pass, PassRecord
from ..passes.run import NumericCheck, run_passes
from .compare import rounding_bound_on


class Legalizes(Protocol):
    """What has passes for a plan."""

    def passes(self, plan: Plan) -> tuple[Pass, ...]:
        """See :meth:`instar.targets.base.Target.passes`."""
        ...


def legalize(
    target: Legalizes, graph: Graph, plan: Plan, examples: Sequence[Sequence[Tensor]] = ()
) -> tuple[Graph, list[PassRecord]]:
    """The graph in the target's own terms.

    Every pass is verified and, where there are examples, compared on them: it may change the outputs by no more than
    rounding at code boundaries does, see :func:`~instar.targets.compare.rounding_bound_on`.

    Args:
        target: whose passes run.
        graph: with the plan applied.
        plan: what is in it.
        examples: flat inputs; none leaves the comparison out.

    Raises:
        PassError: a pass broke the graph; names the pass and the first node that deviates.
    """
    check = NumericCheck(examples, min_sqnr_db=_least_sqnr_db(plan, graph, examples)) if examples else None
    return run_passes(graph, target.passes(plan), check)


def _least_sqnr_db(plan: Plan, graph: Graph, examples: Sequence[Sequence[Tensor]]) -> float | None:
    bound = rounding_bound_on(plan, graph, examples)
    return -20.0 * math.log10(bound) if math.isfinite(bound) else None
