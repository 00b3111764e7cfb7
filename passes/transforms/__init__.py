"""Transforms: rewrites around the weights that a plan keeps. They move numbers between parameters and add no layer."""

from .auto import Auto
from .awq import AWQ
from .base import BeforeEncoding, Found, Rewriting, Transform
from .bias_correction import CorrectBias
from .evidence import Evidence
from .permute_channels import PermuteChannels
from .registry import TRANSFORMS
from .rotation import RotateResidual
from .smooth_quant import SmoothQuant

__all__ = [
    "AWQ",
    "TRANSFORMS",
    "Auto",
    "BeforeEncoding",
    "CorrectBias",
    "Evidence",
    "Found",
    "PermuteChannels",
    "Rewriting",
    "RotateResidual",
    "SmoothQuant",
    "Transform",
]
