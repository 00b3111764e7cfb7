"""Transforms before encoding by name."""

from __future__ import annotations

from dataclasses import is_dataclass

from ...ir.plugins import Registry
from .auto import Auto
from .awq import AWQ
from .base import BeforeEncoding
from .permute_channels import PermuteChannels
from .rotation import RotateResidual
from .smooth_quant import SmoothQuant


def _is_transform(found: object) -> bool:
    parts = ("name", "exact", "needs_data", "sites", "fit", "apply")
    return isinstance(found, type) and is_dataclass(found) and all(hasattr(found, part) for part in parts)


TRANSFORMS: Registry[type[BeforeEncoding]] = Registry(
    "transform",
    {
        "auto": Auto,
        "awq": AWQ,
        "permute-channels": PermuteChannels,
        "rotate-residual": RotateResidual,
        "smooth-quant": SmoothQuant,
    },
    "a class of transforms: a frozen dataclass with name, exact, needs_data, sites, fit and apply",
    _is_transform,
)
"""Kebab-case name -> class; more come from installed packages (group ``instar.transforms``)."""
