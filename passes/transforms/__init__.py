"""Transforms: rewrites around the weights that a plan keeps. They move numbers between parameters and add no layer."""

from .base import Transform
from .bias_correction import CorrectBias

__all__ = ["CorrectBias", "Transform"]
