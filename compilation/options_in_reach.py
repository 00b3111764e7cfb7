"""The options near the ones that a plan takes, and what layers compute with under them."""

from __future__ import annotations

from torch import Tensor

from ..ir.layers import Layer
from ..ir.options import Arithmetic, PricedOption
from ..ir.plan import Decision
from ..passes.formats import Encoded
from ..passes.formats import format as parse_format
from ..passes.pricing import as_int8
from .prepared import Prepared
from .pricing_stage import LayerPrices

NEIGHBOURS = 3
"""Options on each side of the present one, by bytes, that a step may take: the expansion is about small steps."""


def matrix_of(prepared: Prepared, layer: Layer, priced: PricedOption) -> Tensor:
    """What a layer computes with under an option: ``[rows, columns]`` float32."""
    option = priced.option
    if option.keeps_weight:
        return layer.matrix()
    stored = prepared.encoded(layer, option.format, option.encoder)
    encoded = Encoded(option.format, layer.stored_shape, stored)
    integers = option.arithmetic is Arithmetic.INT8_ROWS
    decoded = as_int8(encoded) if integers else parse_format(option.format).decode(encoded)
    return decoded.reshape(layer.rows, layer.columns).float()


def near_options(prices: LayerPrices, decision: Decision) -> list[PricedOption]:
    """The present option and its neighbours, by bytes, among those that nothing beats."""
    front = sorted((decision.chosen, *decision.alternatives), key=lambda o: (o.nbytes, o.loss))
    place = front.index(decision.chosen)
    return front[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1] if not prices.forced else [decision.chosen]
