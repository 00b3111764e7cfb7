"""Stages: a plan is applied, the graph lowered, the artifact checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..ir.graph import Graph
from ..ir.plan import Plan
from ..passes.apply_plan import ApplyPlan
from ..passes.base import PassRecord
from ..passes.run import NumericCheck, run_passes
from ..targets.base import Artifact
from ..targets.legalize import legalize
from .cleaning import Cleaned
from .workloads import Timing

CHECKED = 3
"""Samples on which an artifact is compared with its graph."""


@dataclass(frozen=True)
class Built:
    """A plan and what became of it.

    Attributes:
        cleaned: the model that the plan was applied to.
        plan: the decisions.
        graph: with the plan in it.
        artifact: of the target.
        records: of the passes that applied the plan and brought the graph into the target's terms.
        measured: resource -> what the artifact takes of it.
        timings: milliseconds at every shape, where latency was measured.
    """

    cleaned: Cleaned
    plan: Plan
    graph: Graph
    artifact: Artifact
    records: tuple[PassRecord, ...]
    measured: Mapping[str, float] = field(default_factory=dict[str, float])
    timings: tuple[Timing, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether latencies in ``measured`` are of this artifact, and not predicted from another device's times."""
        return all(timing.timed for timing in self.timings)


def apply(cleaned: Cleaned, plan: Plan, *, check: bool = True) -> tuple[Graph, list[PassRecord]]:
    """The graph with a plan in it, verified and compared with the graph before."""
    request = cleaned.request
    with request.stages.time("apply plan"):
        checking = NumericCheck([request.example]) if check and request.pipeline.check_passes else None
        passes = (ApplyPlan(plan.decisions, plan.encodings, plan.static, plan.biases),)
        return run_passes(cleaned.graph, passes, checking)


def build(cleaned: Cleaned, plan: Plan, samples: Sequence[Sequence[Tensor]]) -> Built:
    """Apply a plan and lower the graph; the artifact is not compared with it yet.

    Raises:
        PassError: a pass broke the graph.
        LoweringError: the target cannot run it.
    """
    request = cleaned.request
    graph, applied = apply(cleaned, plan)
    with request.stages.time("lower"):
        legal, lowered = legalize(request.target, graph, plan, samples[:1] if request.pipeline.check_passes else ())
        artifact = request.target.build(legal, plan, samples)
    return Built(cleaned, plan, graph, artifact, (*applied, *lowered), {"size": float(artifact.nbytes)})


def check(built: Built, samples: Sequence[Sequence[Tensor]]) -> Built:
    """Compare the artifact with the graph on the samples.

    Raises:
        LoweringError: an output differs, or the target did not run it as planned.
    """
    with built.cleaned.request.stages.time("check"):
        built.artifact.check(built.graph, samples[:CHECKED])
    return built
