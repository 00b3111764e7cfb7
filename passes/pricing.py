"""Pricing weights: the predicted loss of storing a layer's weight in each of several formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..ir.dialect import dequantize_int8
from ..ir.errors import FormatError
from ..ir.layers import EMBEDDING, MATMUL, Layer
from ..ir.statistics import WeightStatistics
from .encoders import encoder as parse_encoder
from .encoders import weighted_error
from .encoders.base import Encoder
from .encoders.factor import FactoredHessian
from .formats import DialectCall, Encoded, IntFormat, TensorRef
from .formats import format as parse_format

FLOAT_FORMATS = ("fp32", "fp16")


@dataclass(frozen=True)
class WeightPrice:
    """The price of one (format, encoder) for one layer.

    Attributes:
        nbytes: stored bytes.
        loss: predicted loss of computing with the decoded weight.
        loss_int8: predicted loss where the kernel needs the decoded weight as int8 with one scale a row; equal to
            ``loss`` where the format already is that, and for embeddings, which have no such kernel.
    """

    nbytes: int
    loss: float
    loss_int8: float


class LayerPricer:
    """Prices formats for one layer; the factored Hessian is computed once and shared by all of them.

    Without statistics the loss is the relative squared error of the weight.
    """

    def __init__(self, layer: Layer, statistics: WeightStatistics | None) -> None:
        self.layer = layer
        self.statistics = statistics
        self.weight = layer.matrix()
        self._scale = 1.0 if statistics is not None else 1.0 / max(float(self.weight.double().square().sum()), 1e-30)
        self._factored: dict[str, tuple[Encoder, FactoredHessian | None]] = {}

    def price(self, encoded: Encoded) -> WeightPrice:
        """The price of a stored weight."""
        format_text = encoded.format
        decoded = parse_format(format_text).decode(encoded).reshape(self.weight.shape)
        loss = self._scale * weighted_error(self.weight, decoded, self.statistics)
        loss_int8 = loss
        if needs_requantizing(format_text) and self.layer.kinds != {EMBEDDING}:
            rounded = as_int8(encoded).reshape(self.weight.shape)
            loss_int8 = self._scale * weighted_error(self.weight, rounded, self.statistics)
        return WeightPrice(encoded.nbytes, loss, loss_int8)

    def encode(self, format_text: str, encoder_text: str) -> Encoded:
        """The stored weight, in the layer's matrix shape (a convolution's own shape).

        Raises:
            FormatError: the format or the encoder refuses this weight.
        """
        chosen, factored = self._encoder(encoder_text)
        reason = chosen.refuses(self.statistics)
        if reason is not None and format_text not in FLOAT_FORMATS:
            raise FormatError(f"layer {self.layer.name}: {encoder_text}: {reason}")
        weight = self.weight.reshape(stored_shape(self.layer))
        return parse_format(format_text).encode(weight, self.statistics, chosen, factored)

    def _encoder(self, text: str) -> tuple[Encoder, FactoredHessian | None]:
        if text not in self._factored:
            chosen = parse_encoder(text)
            self._factored[text] = (chosen, chosen.factor(self.statistics))
        return self._factored[text]


def price_layer(
    layer: Layer,
    statistics: WeightStatistics | None,
    choices: Iterable[tuple[str, str]],
    keep: Callable[[str, str, Mapping[str, Tensor]], None] | None = None,
) -> tuple[dict[tuple[str, str], WeightPrice], dict[tuple[str, str], str]]:
    """Prices of (format, encoder) pairs, and the reasons of those that the layer refuses.

    Args:
        layer: whose weight is stored.
        statistics: of the weight.
        choices: pairs of format and encoder.
        keep: given the format, the encoder and the stored tensors of every pair that has a price.
    """
    pricer = LayerPricer(layer, statistics)
    prices: dict[tuple[str, str], WeightPrice] = {}
    refused: dict[tuple[str, str], str] = {}
    for choice in choices:
        try:
            encoded = pricer.encode(*choice)
            prices[choice] = pricer.price(encoded)
            if keep is not None:
                keep(*choice, encoded.tensors)
        except FormatError as error:
            refused[choice] = str(error)
    return prices, refused


def stored_shape(layer: Layer) -> tuple[int, ...]:
    """The shape that formats see: the weight's own, transposed for a matmul's ``[K, N]``."""
    return (layer.rows, layer.columns) if layer.kind == MATMUL else layer.shape


def needs_requantizing(format_text: str) -> bool:
    """Whether an int8 kernel cannot take the codes as they are: scales per group."""
    chosen = parse_format(format_text)
    return isinstance(chosen, IntFormat) and chosen.group is not None


def as_int8(encoded: Encoded) -> Tensor:
    """The weight that an int8 kernel computes with, see :func:`instar.ir.dialect.dequantize_int8`."""
    expression = parse_format(encoded.format).expression(encoded.shape)
    if not isinstance(expression, DialectCall) or expression.op != "instar.dequantize.default":
        return parse_format(encoded.format).decode(encoded)
    arguments = {
        name: encoded.tensors[value.name] if isinstance(value, TensorRef) else value
        for name, value in expression.arguments.items()
    }
    return dequantize_int8(*(arguments[n] for n in ("codes", "scale", "zero", "bits", "group", "shape")))
