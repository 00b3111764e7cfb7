"""How a search can end: the four outcomes that every problem of this folder shares."""

from __future__ import annotations

from typing import Literal

Status = Literal["optimal", "feasible", "infeasible", "timeout"]
"""Proven within the gap that was asked for; found, with a gap; proven impossible; nothing found in time."""

STATUSES: tuple[Status, ...] = ("optimal", "feasible", "infeasible", "timeout")
