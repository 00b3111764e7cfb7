"""The one schema behind Python, the command line and pipeline files."""

from __future__ import annotations

from ..ir.budget import Budget
from .checks import Surroundings, build_passes, build_transforms, check, check_layers
from .schema import (
    CalibrationOptions,
    LayerRule,
    PassConfig,
    Pipeline,
    ReportOptions,
    SearchOptions,
    presets,
    resolve,
)

__all__ = [
    "Budget",
    "CalibrationOptions",
    "LayerRule",
    "PassConfig",
    "Pipeline",
    "ReportOptions",
    "SearchOptions",
    "Surroundings",
    "build_passes",
    "build_transforms",
    "check",
    "check_layers",
    "presets",
    "resolve",
]
