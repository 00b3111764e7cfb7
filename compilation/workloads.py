"""The shapes that a model will run at: times are measured at each, and their weighted sum is the latency."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..ir.calibration.batches import flatten_batch
from ..ir.errors import CalibrationError, ConfigError
from ..ir.graph import Graph
from ..ir.plan import Decision
from ..ir.resources import LATENCY
from ..targets.base import Artifact, Latencies, LayerLatency, Target
from ..targets.integer_runs import IntegerRuns
from .costs import key_of


@dataclass(frozen=True)
class Workload:
    """Inputs that the model will run on.

    Attributes:
        inputs: flat.
        weight: share of the latency; the weights of all add up to 1.
        copy: among those of the same sizes.
    """

    inputs: Sequence[Tensor]
    weight: float
    copy: int = 1

    @property
    def label(self) -> str:
        """The sizes of the inputs, which no other workload has: ``1x16, 1x16``."""
        sizes = sizes_of(self.inputs)
        return sizes if self.copy == 1 else f"{sizes} ({self.copy})"


def sizes_of(inputs: Sequence[Tensor]) -> str:
    """The sizes of inputs: ``1x16, 1x16``."""
    return ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in inputs)


@dataclass(frozen=True)
class Timing:
    """Milliseconds at one workload: of the original, and of the artifact, as measured and as predicted.

    ``timed`` is false where a device that is not here has the times: the artifact's are then the predicted ones.
    """

    workload: Workload
    original_ms: float
    artifact_ms: float
    predicted_ms: float
    timed: bool = True


@dataclass(frozen=True)
class Measured:
    """A workload with its latencies and the target that measured them; artifacts are timed on the same scale."""

    workload: Workload
    latencies: Latencies
    target: Target


def workloads_of(
    captured: Graph, example: Sequence[Tensor], given: Sequence[Any] | None, weights: Sequence[float] | None
) -> tuple[Workload, ...]:
    """What ``latency_inputs`` and ``latency_weights`` ask for; the example call where they ask for nothing.

    Raises:
        ConfigError: inputs that do not fit the model, or weights that do not fit the inputs.
    """
    if given is None:
        if weights is not None:
            raise ConfigError("latency_weights: expected latency_inputs= beside it, found none; pass the inputs too")
        return (Workload(example, 1.0),)
    if isinstance(given, Tensor | Mapping) or not given:
        raise ConfigError("latency_inputs: expected a list with the inputs of one call each, found another value")
    shares = _shares(len(given), weights)
    found: list[Workload] = []
    for index, (call, share) in enumerate(zip(given, shares, strict=True)):
        flat = _flat(captured, call, index)
        before = sum(sizes_of(w.inputs) == sizes_of(flat) for w in found)
        found.append(Workload(flat, share, before + 1))
    return tuple(found)


def _flat(captured: Graph, call: Any, index: int) -> list[Tensor]:
    try:
        return [tensor.detach() for tensor in flatten_batch(captured, call, index)]
    except CalibrationError as problem:
        reason = str(problem).partition(": does not fit the model's inputs: ")[2] or str(problem)
        raise ConfigError(f"latency_inputs[{index}]: expected inputs of the model; found: {reason}") from problem


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        return [1.0 / count] * count
    if len(weights) != count:
        raise ConfigError(f"latency_weights: expected {count} numbers, one for each input, found {len(weights)}")
    for index, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"latency_weights[{index}]: expected a number above 0, found {weight!r}")
    return [weight / math.fsum(weights) for weight in weights]


def probe(target: Target) -> Target:
    """A copy that measures on its own: a target remembers what it measured last, to time artifacts against it."""
    return copy.copy(target)


def summed(measured: Sequence[Measured]) -> Latencies:
    """The weighted sum of the latencies of all workloads."""
    if len(measured) == 1:
        return measured[0].latencies
    first = measured[0].latencies
    shares = [(m.workload.weight, m.latencies) for m in measured]
    layers: dict[str, LayerLatency] = {}
    for name, known in first.layers.items():
        options = {o: math.fsum(w * found.layers[name].options_ms[o] for w, found in shares) for o in known.options_ms}
        layers[name] = LayerLatency(math.fsum(w * found.layers[name].original_ms for w, found in shares), options)
    words = "; ".join(f"{m.workload.weight:.3g} of {m.workload.label}" for m in measured)
    return replace(
        first,
        original_ms=math.fsum(w * found.original_ms for w, found in shares),
        model_ms=math.fsum(w * found.model_ms for w, found in shares),
        layers=layers,
        runs=functools.reduce(IntegerRuns.plus, (found.runs.times(w) for w, found in shares)),
        source=f"{first.source}; weighted sum over {words}",
    )


def by_shape(measured: Sequence[Measured]) -> dict[str, Latencies]:
    """Label -> latencies at that shape; empty where there are not several."""
    return {m.workload.label: m.latencies for m in measured} if len(measured) > 1 else {}


def at_shapes(timings: Sequence[Timing]) -> dict[str, float]:
    """What an artifact takes at each shape, by the row of a budget; empty where there are not several."""
    several = timings if len(timings) > 1 else ()
    return {key_of(LATENCY.name, t.workload.label): t.artifact_ms for t in several}


def time_artifact(
    measured: Sequence[Measured], artifact: Artifact, decisions: Sequence[Decision]
) -> tuple[float, tuple[Timing, ...]]:
    """The weighted sum of an artifact's milliseconds, and those at every workload; predicted where a device has it."""
    chosen = {d.layer: d.chosen.option.name for d in decisions}

    def timing(m: Measured) -> Timing:
        predicted = m.latencies.predicted_ms(chosen)
        known = m.latencies.networks is not None
        found = predicted if known else m.target.latency_ms(artifact, m.workload.inputs)
        return Timing(m.workload, m.latencies.original_ms, found, predicted, timed=not known)

    times = tuple(map(timing, measured))
    return math.fsum(t.workload.weight * t.artifact_ms for t in times), times
