"""What was decided and why. Rich, Jinja and Plotly are loaded when a report is shown, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .curve import Curve
from .data import (
    LossPair,
    ModelSummary,
    ParetoPoint,
    QualityPoint,
    ReportData,
    StageTime,
)
from .report import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..ir.plan import Plan

__all__ = [
    "Curve",
    "LossPair",
    "ModelSummary",
    "ParetoPoint",
    "QualityPoint",
    "Report",
    "ReportData",
    "StageTime",
    "explain_plan",
]


def explain_plan(plan: Plan) -> RenderableType:
    """Why each layer became what it is, what the budgets cost, which one binds, and what the solver proved.

    Args:
        plan: nothing else is needed, so that a saved plan explains itself.

    Returns:
        Something that a rich console prints.
    """
    from .explanation import explain

    return explain(plan)
