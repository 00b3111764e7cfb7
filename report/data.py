"""What a report shows: plain values that the compiler fills in and that JSON, HTML and the terminal table read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ir.machine_picture import MachinePicture
from ..ir.plan import Plan
from ..passes.base import PassRecord
from ..targets.base import CheckResult
from .words import size


@dataclass(frozen=True)
class ModelSummary:
    """The captured model.

    Attributes:
        name: class of the user's module.
        nodes_captured: nodes of the graph as captured.
        nodes_optimized: after the exact passes.
        ops: op name -> count after the exact passes.
        parameters: numbers in all constants.
        nbytes: bytes of all constants.
        flops: of one run on the example inputs.
        dims: dynamic dimensions as text, such as ``batch in [1, 4096]``.
        inputs: input types as text.
        outputs: output types as text.
    """

    name: str
    nodes_captured: int
    nodes_optimized: int
    ops: Mapping[str, int]
    parameters: int
    nbytes: int
    flops: int
    dims: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossPair:
    """Predicted and measured loss of one plan on calibration data: relative squared output error."""

    label: str
    predicted: float
    measured: float
    nbytes: int = 0


@dataclass(frozen=True)
class QualityPoint:
    """One model that the search for the smallest or fastest tried, by the user's own metric.

    Attributes:
        nbytes: predicted bytes.
        quality: by the user's metric, on the graph.
        accepted: whether it loses no more than allowed.
        latency_ms: predicted milliseconds, None where none were measured.
    """

    nbytes: int
    quality: float
    accepted: bool
    latency_ms: float | None = None


@dataclass(frozen=True)
class ParetoPoint:
    """The best plan for one size budget."""

    nbytes: int
    predicted_loss: float
    latency_ms: float | None = None
    chosen: bool = False
    bops: int | None = None


@dataclass(frozen=True)
class ShapeTime:
    """Latency at one of several shapes, in milliseconds.

    Attributes:
        shape: sizes of the inputs.
        weight: share of this shape in the latency of all; the weights add up to 1.
        original_ms: the original's.
        predicted_ms: of the artifact, before it was built.
        artifact_ms: of the artifact, as measured; None where it was not, because the device is not here.
    """

    shape: str
    weight: float
    original_ms: float
    predicted_ms: float
    artifact_ms: float | None


@dataclass(frozen=True)
class StageTime:
    """Wall seconds of one stage of the compilation."""

    name: str
    seconds: float


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        model: the captured model.
        plan: decisions, budgets, solver outcome.
        settings: the pipeline as plain data.
        passes: one record per pass, the plan's application last.
        stages: wall time per stage.
        artifact_nbytes: bytes of the saved artifact.
        original_ms: the original's latency, None where not measured.
        predicted_ms: predicted latency of the artifact, None where not measured.
        artifact_ms: measured latency of the artifact, None where not measured.
        shapes: latency at each shape, where there are several.
        latency_source: how latency was measured.
        chosen_loss: predicted against measured loss of the chosen plan; None without calibration data.
        held_out: whether it was measured on calibration data that the codes were not fitted to.
        estimates: options that were never stored and whose loss no bound is known for; None where a plan was given.
        random_plans: the same for random plans, where asked for.
        layer_sqnr_db: layer -> signal-to-noise ratio of its output in the compiled graph, in decibels.
        sqnr_on: the data that it was measured on, in words.
        quality_original: the user's metric of the original model.
        quality_final: the user's metric of the artifact.
        quality_search: models tried on the way to the smallest one.
        pareto: best plans over a range of sizes.
        checks: comparisons of the artifact with the graph.
        notes: what a user should know.
        skipped: weights that are no layers, with the reason.
        calibration_batches: how many batches calibration saw.
        peak_memory_nbytes: largest resident memory of the process so far.
        machine: what the artifact does on its machine, where the target says it.
    """

    model: ModelSummary
    plan: Plan
    settings: Mapping[str, Any]
    passes: tuple[PassRecord, ...]
    stages: tuple[StageTime, ...]
    artifact_nbytes: int
    original_ms: float | None = None
    predicted_ms: float | None = None
    artifact_ms: float | None = None
    shapes: tuple[ShapeTime, ...] = ()
    latency_source: str = ""
    chosen_loss: LossPair | None = None
    held_out: bool = False
    estimates: int | None = None
    random_plans: tuple[LossPair, ...] = ()
    layer_sqnr_db: Mapping[str, float] = field(default_factory=dict[str, float])
    sqnr_on: str = ""
    quality_original: float | None = None
    quality_final: float | None = None
    quality_search: tuple[QualityPoint, ...] = ()
    pareto: tuple[ParetoPoint, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    calibration_batches: int = 0
    peak_memory_nbytes: int = 0
    machine: MachinePicture | None = None

    def __repr__(self) -> str:
        """One line."""
        return f"<ReportData of {self.headline()}>"

    def headline(self) -> str:
        """One line: model, target, bytes, and how many layers became what."""
        formats = Counter(d.chosen.option.format for d in self.plan.decisions)
        layers = ", ".join(f"{count} {name}" for name, count in formats.most_common()) or "no layer to decide about"
        return f"{self.model.name} for {self.plan.target}: {size(self.artifact_nbytes)} ({layers})"
