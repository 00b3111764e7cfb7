"""Encoders: how the codes of a format are chosen. :func:`encoder` parses their spelling."""

from .base import Encoder
from .clip_search import ClipSearch
from .error_feedback import ColumnQuantizer, error_feedback
from .factor import FactoredHessian
from .gptq import GPTQ
from .grid import Choice, Grid, Parameters
from .loss import row_errors, weighted_error
from .registry import ENCODERS, encoder, needs_data
from .round_to_nearest import RoundToNearest

__all__ = [
    "ENCODERS",
    "GPTQ",
    "Choice",
    "ClipSearch",
    "ColumnQuantizer",
    "Encoder",
    "FactoredHessian",
    "Grid",
    "Parameters",
    "RoundToNearest",
    "encoder",
    "error_feedback",
    "needs_data",
    "row_errors",
    "weighted_error",
]
