"""Formats: how a weight is stored and what computes it. :func:`format` parses the grammar."""

from .base import DialectCall, Encoded, Expression, Format, TensorRef, TensorSpec
from .composed import SumFormat
from .floating import FloatFormat
from .integer import IntFormat
from .registry import FORMATS, format  # public as instar.format

__all__ = [
    "FORMATS",
    "DialectCall",
    "Encoded",
    "Expression",
    "FloatFormat",
    "Format",
    "IntFormat",
    "SumFormat",
    "TensorRef",
    "TensorSpec",
    "format",
]
