"""Pricing weights: the predicted loss of storing a layer's weight in each of several formats."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from ..ir.errors import ContractError, FormatError, InstarError, said_by
from ..ir.layers import EMBEDDING, Layer
from ..ir.ops import EAGER
from ..ir.statistics import WeightStatistics
from .encoders import Encoder, Plain, RowWeighted, Whitened
from .encoders import encoder as parse_encoder
from .formats import FACTOR, Encoded, Format, IntegerRows
from .formats import format as parse_format
from .formats.contract import check_applied
from .objective import Problem, weighted_error

SLACK = 1e-3
"""Share of a bound that is given up to float32, and to the damping of second moments."""


RISE = 0.75
"""How much counts of the rise of a loss from the samples that codes were fitted to, one half of all, to the others.

With ``n`` samples a fit loses ``L (1 - c / n)`` on them and ``L (1 + c / n)`` on others; with half as many ``c`` counts
twice. So three quarters of the rise is what a fit to all of them loses on others.
"""


@dataclass(frozen=True)
class WeightPrice:
    """The price of one (format, encoder) for one layer.

    Attributes:
        nbytes: stored bytes.
        loss: predicted loss of computing with the decoded weight.
        loss_int8: predicted loss where the kernel needs the decoded weight as int8 with one scale a row; equal to
            ``loss`` where the format already is that, for embeddings, which have no such kernel, and where nobody asks.
    """

    nbytes: int
    loss: float
    loss_int8: float


class LayerPricer:
    """Prices formats for one layer; what several of them need is computed once.

    Without statistics the loss is the relative squared error of the weight.

    Codes and factors that are fitted to data lose less on it than on any other: with few samples a factor of low rank
    has room for all directions that were seen, and none for the others. An ``honest`` pricer fits to every second
    sample and judges by the others. It prices, with drafts (:attr:`~instar.passes.encoders.Encoder.draft`); what a plan
    stores is fitted to all of them, and not worse.

    Args:
        layer: whose weight is stored.
        statistics: of the weight.
        honest: whether samples that weights are fitted to, and those that they are judged by, are kept apart.
        measure: the loss of a weight ``[rows, columns]`` found by running the model, for what predictions are too low
            about (:meth:`runs`): the larger of the two is the price.
    """

    def __init__(
        self,
        layer: Layer,
        statistics: WeightStatistics | None,
        measure: Callable[[Tensor], float] | None = None,
        *,
        honest: bool = False,
    ) -> None:
        divided = statistics.divided() if honest and statistics is not None else None
        self.layer = layer
        self.statistics, self._judge = (statistics, None) if divided is None else divided
        self._measure = measure
        self.weight = layer.matrix()
        self.problem = Problem(self.weight.reshape(layer.stored_shape), self.statistics)
        self._scale = 1.0 if statistics is not None else 1.0 / max(float(self.weight.double().square().sum()), 1e-30)
        self._encoders: dict[str, Encoder] = {}

    def price(self, encoded: Encoded, *, integers: bool = True) -> WeightPrice:
        """The price of a stored weight; ``integers`` asks for the one in an int8 kernel."""
        chosen = parse_format(encoded.format)
        with self._contract(encoded.format):
            decoded = chosen.decode(encoded)
        loss = self._loss(decoded)
        if self._measure is not None and self.runs(chosen):
            loss = max(loss, self._measure(decoded.reshape(self.weight.shape)))
        loss_int8 = loss
        if integers and chosen.has_groups and self.layer.kinds != {EMBEDDING}:
            of_kernel = self._loss(as_int8(encoded))
            loss_int8 = max(loss, of_kernel) if self.runs(chosen) else of_kernel
        return WeightPrice(encoded.nbytes, loss, loss_int8)

    def runs(self, chosen: Format) -> bool:
        """Whether the price of a format is found by running the model, where there is something to run.

        Predictions take the errors of rows as independent. Rounding errors are; those of an embedding's rows, which are
        rounded alike, are not, and what factors leave out is the same few directions in all rows.
        """
        return self._measure is not None and (self.layer.kinds == {EMBEDDING} or FACTOR in chosen.families)

    @property
    def is_final(self) -> bool:
        """Whether what it encodes was fitted to all samples."""
        return self._judge is None

    def _loss(self, decoded: Tensor) -> float:
        fitted = self.problem.error(decoded)
        if self._judge is None:
            return self._scale * fitted
        judged = weighted_error(self.weight, decoded.reshape(self.weight.shape), self._judge)
        return self._scale * (fitted + RISE * max(0.0, judged - fitted))

    def bound(self, format_text: str) -> float | None:
        """What no storing of the weight in a format can predict less than; None where nothing is known.

        The objective is that of ``whitened``, whose damping the bound leaves room for.
        """
        chosen = parse_format(format_text)
        known = self.statistics
        rows_only = Plain() if known is None else RowWeighted()
        method = rows_only if known is None or known.second_moment is None else Whitened()
        least = chosen.least_cost(self.problem, method.metric(self.problem))
        return None if least is None else self._scale * least * (1.0 - SLACK)

    def encode(self, format_text: str, encoder_text: str) -> Encoded:
        """The stored weight, in the layer's matrix shape (a convolution's own shape).

        Raises:
            FormatError: the format or the encoder refuses this weight.
        """
        if encoder_text not in self._encoders:
            parsed = parse_encoder(encoder_text)
            self._encoders[encoder_text] = parsed if self.is_final else parsed.draft
        chosen, format = self._encoders[encoder_text], parse_format(format_text)
        reason = chosen.refuses(self.statistics) if chosen.families & format.families else None
        if reason is not None:
            raise FormatError(f"layer {self.layer.name}: {said_by(encoder_text, reason)}")
        with self._contract(f"{format_text} by {encoder_text}"):
            encoded = chosen.encode(format, self.problem)
            if not format.is_dense and len(encoded.shape) == 2:
                check_applied(format, encoded.tensors, format.decode(encoded))
            return encoded

    @contextmanager
    def _contract(self, what: str) -> Generator[None]:
        """Say which format and encoder of which layer broke off, and how."""
        try:
            yield
        except FormatError:
            raise
        except ContractError as error:
            raise ContractError(f"layer {self.layer.name}: {error}") from error
        except InstarError as error:
            raise ContractError(f"layer {self.layer.name}: {what}: {error}; mend the format or the encoder") from error
        except Exception as error:
            raise ContractError(
                f"layer {self.layer.name}: {what}: expected a stored weight, found {type(error).__name__}: {error}; "
                "mend the format or the encoder (the error itself is the cause of this one)"
            ) from error


def price_layer(
    pricer: LayerPricer,
    choices: Iterable[tuple[str, str]],
    keep: Callable[[str, str, Mapping[str, Tensor]], None] | None = None,
    integers: Collection[tuple[str, str]] | None = None,
) -> tuple[dict[tuple[str, str], WeightPrice], dict[tuple[str, str], str]]:
    """Prices of (format, encoder) pairs, and the reasons of those that the layer refuses.

    Args:
        pricer: of the layer.
        choices: pairs of format and encoder.
        keep: given the format, the encoder and the stored tensors of every pair that has a price.
        integers: pairs whose price in an int8 kernel is asked for; all where it is ``None``.
    """
    prices: dict[tuple[str, str], WeightPrice] = {}
    refused: dict[tuple[str, str], str] = {}
    for choice in choices:
        try:
            encoded = pricer.encode(*choice)
            prices[choice] = pricer.price(encoded, integers=integers is None or choice in integers)
            if keep is not None:
                keep(*choice, encoded.tensors)
        except FormatError as error:
            refused[choice] = str(error)
    return prices, refused


def as_int8(encoded: Encoded) -> Tensor:
    """The weight that an int8 kernel computes with, see :func:`instar.ir.dialect.dequantize_int8`."""
    return parse_format(encoded.format).weight(IntegerRows(EAGER), encoded.tensors, encoded.shape)
