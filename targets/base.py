"""The target contract: which options a layer may take, what they cost, and how a graph becomes an artifact."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from annotated_types import Interval
from torch import Tensor

from ..ir.graph import Graph, Node
from ..ir.layers import MIN_ELEMENTS, Layer, Skipped, find_layers
from ..ir.machine_picture import MachinePicture
from ..ir.options import Activation, Option
from ..ir.plan import Plan
from ..passes.base import Pass
from .integer_runs import NO_RUNS, IntegerRuns


@dataclass(frozen=True)
class Candidates:
    """Options that a layer may take on a target, and those it may not, with the reason in a user's words."""

    options: tuple[Option, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerLatency:
    """Milliseconds per run of one layer, as it was and per option name."""

    original_ms: float
    options_ms: Mapping[str, float]


@dataclass(frozen=True)
class NetworkTime:
    """The whole network with one kernel wherever that is possible, as a device ran it.

    Attributes:
        kernel: of the layers in ``options``; all others are in float.
        options: layer -> option.
        milliseconds: of a run.
        float_ms: of a run of the network in float, spelled the same way.
    """

    kernel: str
    options: Mapping[str, Option]
    milliseconds: float
    float_ms: float


@dataclass(frozen=True)
class Latencies:
    """Measured time of the original model, of the model as lowered in float, and of every option of every layer.

    The predicted time of a plan is ``model_ms + sum(option - original)`` over the layers, and what it costs to enter
    and to leave runs of layers between integers.

    Attributes:
        original_ms: the original model as it would be exported without instar; what percentages refer to.
        model_ms: the model with every layer in float as this target lowers it.
        layers: per layer.
        source: how it was measured, for the report.
        networks: where the times are a device's that is not at hand: the networks that it ran. None: measured here, so
            that artifacts can be timed too.
        runs: what two layers that follow each other add.
    """

    original_ms: float
    model_ms: float
    layers: Mapping[str, LayerLatency]
    source: str
    networks: tuple[NetworkTime, ...] | None = None
    runs: IntegerRuns = NO_RUNS

    def predicted_ms(self, chosen: Mapping[str, str]) -> float:
        """Milliseconds of the network with these options; layer -> name of an option, other layers as they were."""
        changes = (self.change_ms(layer, name) for layer, name in chosen.items())
        return self.model_ms + math.fsum(changes) + self.runs.milliseconds(chosen)

    def change_ms(self, layer: str, option: str) -> float:
        """What an option of a layer changes in the network's milliseconds; a layer as it was changes nothing."""
        known = self.layers[layer]
        return known.options_ms.get(option, known.original_ms) - known.original_ms


@dataclass(frozen=True)
class CheckResult:
    """One check of an artifact: what was compared, the largest relative error, and whether it is within the bound."""

    name: str
    error: float
    bound: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the bound."""
        return self.error <= self.bound


class Artifact(Protocol):
    """What a target produces."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything that :meth:`save` writes."""
        ...

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """What was compared after lowering."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: layers that run in float, slow kernels, storage expanded at load."""
        ...

    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Flat outputs for flat inputs."""
        ...

    def latency_ms(self, inputs: Sequence[Tensor]) -> float:
        """Median milliseconds per run."""
        ...

    def check(self, graph: Graph, examples: Sequence[Sequence[Tensor]]) -> None:
        """Compare on the examples with the graph that the target was given to make legal; see :attr:`checks`.

        Raises:
            LoweringError: an output differs, or the target did not run it as planned.
        """
        ...

    def save(self, path: str | os.PathLike[str]) -> list[str]:
        """Write the artifact atomically; returns the paths written."""
        ...


class Opened(Protocol):
    """An artifact read back from its files."""

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        ...

    @property
    def runtime(self) -> str:
        """What runs it, with its version."""
        ...

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], list[Any]]:
        """A call that runs it on these inputs and returns its tensors in order; what happens once is not part of it.

        Args:
            inputs: the captured model's inputs by name, in order.

        Raises:
            ConfigError: the artifact takes other inputs.
        """
        ...


class Target(Protocol):
    """A place where a compiled model runs."""

    @property
    def name(self) -> str:
        """Name in plans and configs."""
        ...

    @property
    def plan_options(self) -> Mapping[str, Any]:
        """Options that change the artifact's bytes, as they were decided: a plan keeps them."""
        ...

    def candidates(
        self, layer: Layer, formats: Sequence[str], activations: Sequence[Activation], encoder: str
    ) -> Candidates:
        """Options for a layer among allowed formats and activations."""
        ...

    def stored_nbytes(self, layer: Layer, option: Option, format_nbytes: int) -> int:
        """Bytes in the artifact of a layer's weight, where the target stores more than the format does."""
        ...

    def tuned(self, graph: Graph, inputs: Sequence[Tensor]) -> Target:
        """This target with every option that the user left open decided by measuring on the example inputs."""
        ...

    def latencies(
        self, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Sequence[Tensor]
    ) -> Latencies:
        """Measure the model and every distinct (shape, option)."""
        ...

    def unsupported(self, graph: Graph, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """Nodes that the target cannot run, found without lowering the graph, for given sizes of its dimensions."""
        ...

    def latency_ms(self, artifact: Artifact, inputs: Sequence[Tensor]) -> float:
        """Milliseconds of an artifact, comparable with what :meth:`latencies` measured before."""
        ...

    def build_plain(self, graph: Graph, inputs: Sequence[Tensor]) -> Artifact:
        """The original model on this target as it would be without instar: what percentages of latency refer to."""
        ...

    def passes(self, plan: Plan) -> tuple[Pass, ...]:
        """What brings a graph with this plan applied into terms that :meth:`build` can write, in order."""
        ...

    def build(self, legal: Graph, plan: Plan, examples: Sequence[Sequence[Tensor]]) -> Artifact:
        """Write a graph that went through :meth:`passes`; its size and time are known then.

        Raises:
            LoweringError: the target cannot run it.
        """
        ...


@runtime_checkable
class LacksDtypes(Protocol):
    """A target that does not compute in every floating dtype."""

    def without_kernels(self, graph: Graph) -> tuple[str, ...]:
        """Short names of the floating dtypes, such as ``bf16``, that the target cannot compute this graph in."""
        ...


@runtime_checkable
class DecidesSmallWeights(Protocol):
    """A target on which weights are worth a decision that others leave as they are."""

    @property
    def least_layer_elements(self) -> int:
        """Weights of fewer elements are no layers."""
        ...


def layers_for(target: object, graph: Graph) -> tuple[tuple[Layer, ...], tuple[Skipped, ...]]:
    """The layers of a graph that a target decides about, and the weights that were left out with the reason."""
    least = target.least_layer_elements if isinstance(target, DecidesSmallWeights) else MIN_ELEMENTS
    return find_layers(graph, least)


@runtime_checkable
class Pictured(Protocol):
    """An artifact that can be drawn on its machine."""

    def picture(self) -> MachinePicture:
        """Memory over time, what moves, what is computed."""
        ...


Times = Literal["none", "here", "elsewhere"]
"""Whether decisions are about times: not at all, as they are measured or known here, or to be measured by a device."""


@runtime_checkable
class SubstitutesFormats(Protocol):
    """A target on some of whose processors other formats than the usual ones are fast."""

    def stand_ins(self, formats: Sequence[str], *, elsewhere: bool) -> tuple[str, ...]:
        """Formats that do on the processor of this target what some of ``formats`` do on others.

        Args:
            formats: what layers may become.
            elsewhere: whether the processor is that of a device that will be asked.
        """
        ...


@dataclass(frozen=True)
class BundleSummary:
    """What a bundle for a device holds: single layers and whole networks that the device times, and its bytes."""

    layers: int
    networks: int
    nbytes: int


@runtime_checkable
class MeasuredElsewhere(Protocol):
    """A target whose times may come from a device that is not at hand."""

    def write_bundle(
        self,
        folder: str | os.PathLike[str],
        graph: Graph,
        layers: Sequence[Layer],
        options: Mapping[str, Sequence[Option]],
        shapes: Sequence[Sequence[Tensor]],
        build: Callable[[Target, Mapping[str, Option]], Artifact],
    ) -> BundleSummary:
        """Write all that a device has to measure for decisions among these options.

        Args:
            folder: of the bundle.
            graph: after the exact passes.
            layers: of the graph.
            options: layer -> what it may become.
            shapes: flat inputs that times are needed for, the example first.
            build: the network with options for some layers; only its time counts.
        """
        ...

    def refused_elsewhere(
        self, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Sequence[Tensor]
    ) -> Mapping[str, Mapping[Option, str]]:
        """Layer -> option -> why the device does not run it; empty where the device is this machine.

        Raises:
            ConfigError: the device was not asked about some of them; names these.
        """
        ...


FOR_LATENCY = MappingProxyType({"for": "latency"})
"""Metadata of an option that has no effect where no budget is about latency."""


@dataclass(frozen=True)
class TargetOptions:
    """Options that every target has; a target's own are a frozen dataclass that adds to them.

    The fields are the keys of ``target_options``, and their types are checked. Bounds are written with
    :mod:`annotated_types`; ``__post_init__`` raises a :class:`~instar.ir.errors.ConfigError` for values that do not go
    together.

    Attributes:
        threads: for measuring and running.
    """

    threads: Annotated[int, Interval(ge=1, le=1024)] = 1

    def chosen(self) -> dict[str, Any]:
        """What differs from the defaults."""
        defaults = type(self)()
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in values if value != getattr(defaults, name)}
