"""Formats: how a weight is stored and what computes it. :func:`format` parses the grammar."""

from .base import FACTOR, GRID, Chooser, Encoded, Format, Shape, TensorSpec
from .floating import FloatFormat
from .grids import Choice, Grid, Parameters
from .integer import IntFormat
from .registry import FORMATS, format  # public as instar.format
from .rows import ForKernel, IntegerRows
from .sums import SumFormat
from .use import Use

__all__ = [
    "FACTOR",
    "FORMATS",
    "GRID",
    "Choice",
    "Chooser",
    "Encoded",
    "FloatFormat",
    "ForKernel",
    "Format",
    "Grid",
    "IntFormat",
    "IntegerRows",
    "Parameters",
    "Shape",
    "SumFormat",
    "TensorSpec",
    "Use",
    "format",
]
