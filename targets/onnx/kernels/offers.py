"""What several kernels ask of a layer before they offer anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ....ir.layers import CONV, EMBEDDING, LINEAR, OTHER, Layer
from ....ir.options import Activation, Arithmetic, Option
from ....passes.formats import Format, IntFormat
from ...base import Candidates
from ..runtimes.needs import Requirement
from ..runtimes.table import CONTRIB
from ..session import products_saturate
from .base import Offers

RECURRENT = "recurrent"
"""The kind of the matrices of recurrent layers."""

EIGHT_BITS, EXACT_ROWS = "int8:channel", "int7:channel"
"""What integer kernels take on most processors, and what they take on those whose 8-bit products saturate."""

SATURATING = (
    "8-bit products saturate on this processor (no VNNI), weights of up to 7 bits with one scale a row are exact "
    f"({EXACT_ROWS})"
)
"""Why integer kernels refuse a format."""


PRODUCT = Requirement("MatMulIntegerToFloat", CONTRIB, types=(("T1", "uint8"), ("T2", "int8")), inputs=7)
"""What integer kernels of linear layers ask of a runtime."""


def saturates(chosen: IntFormat) -> str:
    """Why integer products with a weight of this format would be wrong on this processor; empty where they are not."""
    return "" if fits_saturating(chosen) or not products_saturate() else SATURATING


def fits_saturating(chosen: Format) -> bool:
    """Whether integer products with a weight of this format are exact on every processor."""
    return not isinstance(chosen, IntFormat) or (chosen.bits < 8 and not chosen.group)


def in_float32(layer: Layer, found: Candidates) -> Candidates:
    """The same without options that round the layer's inputs where these are not float32, the only dtype they take."""
    others = sorted({str(d).removeprefix("torch.") for d in _input_dtypes(layer)} - {"float32"})
    rounding = [option for option in found.options if not option.activation.is_none]
    if not others or not rounding:
        return found
    reasons = [
        f"{o.format}: kernel {o.kernel} rounds inputs of float32, this layer's are {' and '.join(others)}"
        for o in rounding
    ]
    return Candidates(tuple(o for o in found.options if o.activation.is_none), (*found.refused, *reasons))


def _input_dtypes(layer: Layer) -> set[torch.dtype]:
    return {use.input.tensor_type.dtype for use in layer.uses if use.input_parameter and use.kind != EMBEDDING}


def also_used(layer: Layer) -> str:
    """What besides linear layers computes with the weight, in words."""
    others = sorted(layer.kinds - {LINEAR, OTHER})
    named = [*others, *(["other operators"] if OTHER in layer.kinds else [])]
    return f"{'also ' if LINEAR in layer.kinds else ''}used by {', '.join(named)}"


def linear_offers(kernel: str, granularity: str) -> Offers:
    """What a kernel offers that multiplies integers of 8 bits, weights with one scale a row and dynamic activations."""
    activation = Activation.dynamic(granularity)

    def offers(layer: Layer, chosen: Format, encoder: str, allowed: Sequence[Activation]) -> Candidates:
        option = Option(chosen.spelling, encoder, activation, kernel, Arithmetic.INT8_ROWS)
        return _refused(layer, chosen, kernel) or Candidates((option,) if activation in allowed else ())

    return offers


def _refused(layer: Layer, chosen: Format, kernel: str) -> Candidates | None:
    """What to answer where integer kernels for linear layers have nothing to offer; None where they may have."""
    if not isinstance(chosen, IntFormat) or layer.kind == CONV or layer.kinds in ({EMBEDDING}, {RECURRENT}):
        return Candidates(())  # they have kernels of their own
    if layer.kinds != {LINEAR}:
        return Candidates((), (
            f"{chosen.spelling}: integer kernels run linear layers; this weight is {also_used(layer)}",
        ))  # fmt: skip
    reason = saturates(chosen)
    return Candidates((), (f"{chosen.spelling}: kernel {kernel}: {reason}",)) if reason else None
