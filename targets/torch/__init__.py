"""The torch target: the compiled graph as a module."""

from __future__ import annotations

from ...ir.plugins import Lazy
from ..declaration import Declaration

DECLARATION = Declaration(
    name="torch",
    summary="The compiled graph as a module of torch.",
    target=Lazy(f"{__name__}.target", "TorchTarget"),
    suffix=".safetensors",
    opener=Lazy(f"{__name__}.opened", "OpenedGraph"),
    packages=("ortools",),
    kernels={"torch": "torch's float kernel on weights that are decoded at every call: small, not faster"},
)
