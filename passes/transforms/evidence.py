"""What transforms before encoding are fitted to, and what one of their choices costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...ir.calibration.channels import ChannelStatistics
from ...ir.layers import EMBEDDING, Layer
from ...ir.options import Option
from ...ir.statistics import WeightStatistics
from ..encoders import encoder as parse_encoder
from ..formats import format as parse_format
from ..formats.base import GRID
from ..objective import Problem, weighted_error


@dataclass(frozen=True)
class Evidence:
    """What is known before weights are encoded.

    Attributes:
        weights: layer -> statistics of its weight; none of them without data.
        channels: layer -> what it reads, channel by channel.
        options: layer -> what it may become.
    """

    weights: Mapping[str, WeightStatistics] = field(default_factory=dict[str, WeightStatistics])
    channels: Mapping[str, ChannelStatistics] = field(default_factory=dict[str, ChannelStatistics])
    options: Mapping[str, Sequence[Option]] = field(default_factory=dict[str, Sequence[Option]])

    def coarsest(self, layer: Layer) -> Option | None:
        """The option of fewest bytes that rounds the weight to a grid; None where there is none."""
        shape = (layer.rows, layer.columns)
        found = [o for o in self.options.get(layer.name, ()) if not o.keeps_weight and _on_grid(o, shape)]
        return min(found, key=lambda o: parse_format(o.format).nbytes(shape), default=None)


def _on_grid(option: Option, shape: tuple[int, int]) -> bool:
    chosen = parse_format(option.format)
    return GRID in chosen.families and chosen.refuses(shape) is None


@dataclass(frozen=True, eq=False)
class Subject:
    """One weight whose columns may be scaled or moved, and how it would be stored.

    Attributes:
        matrix: float32 ``[rows, columns]``.
        statistics: None without data.
        option: format and encoder.
    """

    matrix: Tensor
    statistics: WeightStatistics | None
    option: Option

    @classmethod
    def of(cls, layer: Layer, evidence: Evidence) -> Subject | None:
        """The layer under its coarsest option; None where it has none, or looks up rows."""
        option = evidence.coarsest(layer)
        if option is None or EMBEDDING in layer.kinds:
            return None
        return cls(layer.matrix(), evidence.weights.get(layer.name), option)

    def thinned(self, rows: int) -> Subject:
        """At most so many of its rows, evenly spaced, which count for all: rows are rounded apart from each other."""
        if self.matrix.shape[0] <= rows:
            return self
        kept = torch.linspace(0, self.matrix.shape[0] - 1, rows).round().long()
        known = self.statistics
        if known is not None:
            counted = None if known.row_frequency is None else _standing_in(known.row_frequency, kept)
            known = replace(known, row_weight=_standing_in(known.row_weight, kept), row_frequency=counted)
        return Subject(self.matrix[kept], known, self.option)

    def rounding_error(self, scale: Tensor) -> float:
        """The loss of rounding ``W diag(scale)`` to nearest and dividing by the scale again."""
        stored = parse_format(self.option.format)
        decoded = stored.decode(stored.encode(self.matrix * scale)) / scale
        return weighted_error(self.matrix, decoded, self.statistics)

    def encoding_error(self, scale: Tensor) -> float:
        """The same with the encoder that will be used, which sees the scaled weight and the moments that go with it."""
        return Subject(self.matrix * scale, _divided(self.statistics, scale), self.option).error()

    def error(self) -> float:
        """The loss of storing the weight; with an encoder that refuses its statistics it is rounded to nearest."""
        problem = Problem(self.matrix, self.statistics)
        return problem.error(self.stored(problem))

    def stored(self, problem: Problem) -> Tensor:
        """The weight ``[rows, columns]`` as it is decoded."""
        chosen, stored = parse_encoder(self.option.encoder), parse_format(self.option.format)
        if chosen.refuses(self.statistics) is not None:
            chosen = parse_encoder("rtn")
        return stored.decode(chosen.encode(stored, problem))


def _standing_in(weights: Tensor, kept: Tensor) -> Tensor:
    """Weights of the kept rows, with the sum that those of all rows have."""
    own = weights[kept]
    return own * (weights.sum() / own.sum().clamp(min=1e-30))


def _divided(statistics: WeightStatistics | None, scale: Tensor) -> WeightStatistics | None:
    """Statistics of inputs that were divided by a scale."""
    if statistics is None or statistics.second_moment is None:
        return statistics
    return replace(statistics, second_moment=statistics.second_moment / torch.outer(scale, scale))
