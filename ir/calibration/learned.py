"""What calibration is asked to gather, and what it learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..graph import Node
from ..options import Activation
from ..statistics import ActivationStatistics, WeightStatistics
from .shrinkage import AS_SEEN, Shrinkage


@dataclass(frozen=True)
class CalibrationSettings:
    """What to gather.

    Attributes:
        gradients: weight every token and channel by the squared gradient of the output (diagonal Fisher of a Gaussian
            output model; needs a differentiable graph). Without it every token and channel counts alike.
        activations: dynamic activation quantizations whose noise is measured.
        sensitivity_of_inputs: gather how the loss reacts to noise in layer inputs, for static quantization.
        max_batches: stop after so many batches; None takes all.
        max_columns: layers with more input columns keep only the diagonal of the second moment, to bound memory.
        seed: seeds the random output directions.
        centred: names of layers whose bias will take back the mean of their error, so that only the rest counts.
        shrink: trust second moments as far as the number of samples allows; without it they are what was seen.
    """

    gradients: bool = True
    activations: tuple[Activation, ...] = ()
    sensitivity_of_inputs: bool = False
    max_batches: int | None = None
    max_columns: int = 8192
    seed: int = 0
    centred: tuple[str, ...] = ()
    shrink: bool = True


@dataclass(frozen=True)
class LayerStatistics:
    """What calibration learned about one layer.

    Attributes:
        gives: what :attr:`weight` is made by, from sums; second moments are most of the memory of a compilation.
        activation_loss: spelling of a dynamic activation -> predicted loss of quantizing the input so.
        input_gradient: predicted loss per unit variance of noise added to every element of the input.
        mean_input: float32 ``[rows, columns]``, what a centred layer's inputs were centred around.
        shrinkage: how far the second moment was shrunk, because few samples were seen.
    """

    gives: Callable[[], WeightStatistics]
    activation_loss: Mapping[str, float] = field(default_factory=dict[str, float])
    input_gradient: float = 0.0
    mean_input: Tensor | None = None
    shrinkage: Shrinkage = AS_SEEN

    @property
    def weight(self) -> WeightStatistics:
        """The statistics that encoders and the loss use, made anew and kept by whoever asks.

        The weighted error of a replacement is the predicted increase of the relative squared output error of the whole
        model (with gradients), or the relative squared error of the layer's own output (without).
        """
        return self.gives()


@dataclass(frozen=True)
class Statistics:
    """The result of calibration: what it learned per layer and observed value, from how many batches and samples.

    ``reactions`` are, per observed value that gradients reach, the predicted loss per unit variance of noise added to
    every element of it, over all its readers.
    """

    layers: Mapping[str, LayerStatistics]
    ranges: Mapping[Node, ActivationStatistics]
    batches: int
    gradients: bool
    notes: tuple[str, ...] = ()
    samples: int = 0
    reactions: Mapping[Node, float] = field(default_factory=dict["Node", float])

    @property
    def mean_inputs(self) -> dict[str, Tensor]:
        """Layer -> what its inputs were centred around, where they were."""
        return {n: known.mean_input for n, known in self.layers.items() if known.mean_input is not None}
