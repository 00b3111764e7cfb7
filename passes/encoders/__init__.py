"""Encoders: how the codes of a format are chosen. :func:`encoder` parses their spelling."""

from .base import Encoder
from .clip_search import ClipSearch
from .error_feedback import ColumnQuantizer, error_feedback
from .factors import Plain, RowWeighted, Whitened
from .gptq import GPTQ
from .registry import ENCODERS, encoder, encoders_for, needs_data
from .round_to_nearest import RoundToNearest

__all__ = [
    "ENCODERS",
    "GPTQ",
    "ClipSearch",
    "ColumnQuantizer",
    "Encoder",
    "Plain",
    "RoundToNearest",
    "RowWeighted",
    "Whitened",
    "encoder",
    "encoders_for",
    "error_feedback",
    "needs_data",
]
