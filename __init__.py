"""instar: a compiler that shrinks and speeds up neural networks, with a proof for every choice.

Names are loaded when first used, so that ``import instar`` costs nothing beyond what is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .ir.loading import loading

if TYPE_CHECKING:
    from .compilation.compiled import Compiled
    from .compiler import bench, compile, confirm, explain, inspect, optimize, pareto, profile, write_check  # noqa: A004
    from .config import Pipeline
    from .ir.budget import Budget
    from .ir.capture import capture
    from .ir.errors import (
        CalibrationError,
        CaptureError,
        ConfigError,
        FormatError,
        InfeasibleError,
        InstarError,
        LoweringError,
        ParseError,
        PassError,
        ScheduleError,
        VerifyError,
    )
    from .ir.evaluate import evaluate
    from .ir.graph import Graph
    from .ir.parse import parse_graph
    from .ir.plan import Plan
    from .ir.storage import load, save
    from .ir.verify import verify
    from .passes.formats import format

_HOME = {
    "Budget": "ir.budget",
    "Compiled": "compilation.compiled",
    "Graph": "ir.graph",
    "Pipeline": "config",
    "Plan": "ir.plan",
    "bench": "compiler",
    "capture": "ir.capture",
    "compile": "compiler",
    "confirm": "compiler",
    "evaluate": "ir.evaluate",
    "explain": "compiler",
    "format": "passes.formats",
    "inspect": "compiler",
    "load": "ir.storage",
    "optimize": "compiler",
    "pareto": "compiler",
    "parse_graph": "ir.parse",
    "profile": "compiler",
    "save": "ir.storage",
    "verify": "ir.verify",
    "write_check": "compiler",
    **dict.fromkeys(
        (
            "CalibrationError", "CaptureError", "ConfigError", "FormatError", "InfeasibleError", "InstarError",
            "LoweringError", "ParseError", "PassError", "ScheduleError", "VerifyError",
        ),
        "ir.errors",
    ),
}  # fmt: skip

__all__ = [
    "Budget",
    "CalibrationError",
    "CaptureError",
    "Compiled",
    "ConfigError",
    "FormatError",
    "Graph",
    "InfeasibleError",
    "InstarError",
    "LoweringError",
    "ParseError",
    "PassError",
    "Pipeline",
    "Plan",
    "ScheduleError",
    "VerifyError",
    "bench",
    "capture",
    "compile",
    "confirm",
    "evaluate",
    "explain",
    "format",
    "inspect",
    "load",
    "optimize",
    "pareto",
    "parse_graph",
    "profile",
    "save",
    "verify",
    "write_check",
]


def __getattr__(name: str) -> object:
    """Loads a public name."""
    if name not in _HOME:
        raise AttributeError(f"module 'instar' has no attribute {name!r}")
    with loading():
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
