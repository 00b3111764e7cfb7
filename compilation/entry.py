"""The start of a compilation: settings are resolved and checked before any work, then the model is captured."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from ..config import Pipeline, Surroundings, build_passes, build_transforms, check, check_layers, resolve
from ..ir.budget import Budget
from ..ir.capture import capture
from ..ir.errors import CaptureError, ConfigError, PassError
from ..ir.evaluate import evaluate, flatten_call
from ..ir.graph import Graph
from ..ir.names import renamed
from ..ir.resources import ResourceName
from ..passes.base import Pass
from ..passes.encoders import ENCODERS, encoder, needs_data
from ..passes.formats import FORMATS
from ..passes.formats.families import check_spelling, is_family
from ..passes.promote_floats import PromoteFloats
from ..passes.registry import PASSES, exact_pipeline
from ..passes.transforms import TRANSFORMS, BeforeEncoding
from ..targets.base import LacksDtypes, Target, Times, layers_for
from ..targets.registry import make_target
from .quality import Quality
from .stages import Progress, Stages, silent
from .workloads import Workload, workloads_of

VERSIONED = ("instar", "torch", "onnx", "onnxscript", "onnxruntime", "ortools", "numpy")


@dataclass(frozen=True)
class Request:
    """A checked call of ``compile``.

    Attributes:
        model_name: class of the model.
        captured: the graph as captured.
        example: its flat inputs.
        pipeline: settings.
        target: where the model will run.
        exact: the passes before any decision.
        transforms: rewrites that are fitted to data before weights are encoded.
        quality: the user's metric.
        max_drop: how much of it may be lost.
        stages: the clock.
        original: the model, where it can be called.
        workloads: inputs that latency is measured on.
        several_shapes: whether these were given.
        times: whether decisions are about times, and whether another device will measure them.
        calibrated: whether data was given.
        resumable: whether a file was named that calibration continues from.
        versions: of the packages that decide the artifact.
    """

    model_name: str
    captured: Graph
    example: list[Tensor]
    pipeline: Pipeline
    target: Target
    exact: tuple[Pass, ...]
    quality: Quality | None
    max_drop: float | None
    stages: Stages
    original: Callable[..., Any] | None = None
    workloads: tuple[Workload, ...] = ()
    several_shapes: bool = False
    times: Times = "none"
    calibrated: bool = False
    resumable: bool = False
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    transforms: tuple[BeforeEncoding, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Of the captured graph, weights included."""
        return self.captured.fingerprint()

    @property
    def minimise(self) -> ResourceName | None:
        """What is to be made as small as it gets."""
        return self.pipeline.minimise

    @property
    def decides(self) -> bool:
        """Whether anything asks for decisions: a budget, or a measurement of what they would lose."""
        return self.pipeline.budget is not None or self.pipeline.report.random_plans > 0

    @property
    def budget(self) -> Budget | None:
        """The bounds, None where there are none."""
        return self.pipeline.budget if isinstance(self.pipeline.budget, Budget) else None


def start(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    pipeline: Any,
    overrides: Mapping[str, Any],
    *,
    calibration: Iterable[Any] | None = None,
    quality: Callable[[Callable[..., Any]], float] | None = None,
    max_drop: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    latency_inputs: Sequence[Any] | None = None,
    latency_weights: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Request:
    """Resolve and check the settings, then capture, and run the example once.

    Raises:
        ConfigError: invalid settings.
        CaptureError: the model cannot be captured, or cannot compute with the example inputs.
    """
    resolved = resolve(pipeline, **overrides)
    around = Surroundings(
        PASSES, check_spelling, encoder, calibration is not None, quality is not None, max_drop, needs_data,
        transforms=TRANSFORMS, is_family=is_family,
    )  # fmt: skip
    check(resolved, around)
    _refuse_taken_names(resolved)
    exact = cast("tuple[Pass, ...]", build_passes(resolved, PASSES, exact_pipeline()))
    target = make_target(resolved.target, resolved.target_options)
    stages = Stages(progress=progress or silent)
    positional = as_arguments(args)
    with stages.time("capture"):
        captured = capture(model, positional, kwargs, dynamic_shapes=dynamic_shapes)
        captured = _named(captured, resolved)
    example = [t.detach() for t in flatten_call(captured, positional, kwargs or {})]
    _try(captured, example)
    check_layers(resolved, [layer.name for layer in layers_for(target, captured)[0]])
    return Request(
        model_name=type(model).__name__,
        captured=captured,
        example=example,
        pipeline=resolved,
        target=target,
        exact=(*_promotion(target, captured), *exact),
        quality=Quality(quality) if quality is not None else None,
        max_drop=max_drop,
        stages=stages,
        workloads=workloads_of(captured, example, latency_inputs, latency_weights),
        several_shapes=latency_inputs is not None,
        calibrated=calibration is not None,
        resumable=checkpoint is not None,
        original=model if isinstance(model, torch.nn.Module) else None,
        versions=versions(),
        transforms=cast("tuple[BeforeEncoding, ...]", build_transforms(resolved, TRANSFORMS)),
    )


def _promotion(target: Target, captured: Graph) -> tuple[Pass, ...]:
    """The pass that gives a network the dtypes that its target computes in."""
    lacking = target.without_kernels(captured) if isinstance(target, LacksDtypes) else ()
    return (PromoteFloats(lacking),) if lacking else ()


def _refuse_taken_names(pipeline: Pipeline) -> None:
    """Refuse objects under names of instar's own, which plans could not tell apart.

    Raises:
        ConfigError: with the object and the name.
    """
    given = pipeline.given()
    for registry in (FORMATS, ENCODERS):
        for name, found in given[registry.kind].items():
            own = registry.own.get(name.partition(":")[0])
            if isinstance(own, type) and not isinstance(found, own) and not set("@+ ") & set(name):
                raise ConfigError(
                    f"{pipeline.source}: {registry.kind} {name!r}: expected a name that instar has no {registry.kind} "
                    f"of its own under, found an object of {type(found).__name__}; give it another spelling"
                )


def _named(captured: Graph, pipeline: Pipeline) -> Graph:
    """The graph with the names that the user chose.

    Raises:
        ConfigError: they do not fit its inputs and outputs.
    """
    if pipeline.input_names is None and pipeline.output_names is None:
        return captured
    try:
        return renamed(captured, pipeline.input_names, pipeline.output_names)
    except ConfigError as problem:
        raise ConfigError(f"{pipeline.source}: {problem}") from None


def _try(captured: Graph, example: list[Tensor]) -> None:
    """Run the example once: capture follows shapes only, and every later stage would meet the same error.

    Raises:
        CaptureError: the model returns no tensor, or cannot compute with these inputs.
    """
    if not captured.output_nodes:
        raise CaptureError("model: expected an output that is a tensor; found none; return what it computes")
    try:
        with torch.no_grad():
            evaluate(captured, example)
    except PassError as problem:
        raise CaptureError(
            f"args: expected example inputs that the model can run; found: {problem}; call the model with them first"
        ) from problem


def as_arguments(args: Any) -> tuple[Any, ...]:
    """A tuple of positional arguments; a bare tensor is the only one.

    Raises:
        ConfigError: something that is neither.
    """
    if isinstance(args, Tensor):
        return (args,)
    if isinstance(args, list | tuple):
        return tuple(cast("Sequence[Any]", args))
    raise ConfigError(f"args: expected a tuple of example inputs or one tensor; found {type(args).__name__}")


def versions() -> dict[str, str]:
    """Versions of what decides the artifact."""
    found: dict[str, str] = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
