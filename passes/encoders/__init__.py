"""Encoders: how the codes of a format are chosen."""

from .base import Encoder
from .factor import FactoredHessian
from .grid import Choice, Grid, Parameters
from .round_to_nearest import RoundToNearest

__all__ = ["Choice", "Encoder", "FactoredHessian", "Grid", "Parameters", "RoundToNearest"]
