"""The torch target: the compiled graph as a module."""

from __future__ import annotations

from ...ir.plugins import Lazy
from ..declaration import Declaration

DECLARATION = Declaration(
    "torch",
    Lazy(f"{__name__}.target", "TorchTarget"),
    ".safetensors",
    Lazy(f"{__name__}.opened", "OpenedGraph"),
    ("ortools",),
)
