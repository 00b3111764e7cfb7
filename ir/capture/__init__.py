"""Capture: a PyTorch model becomes a :class:`~instar.ir.graph.Graph`, through torch.export without decompositions."""

from .program import capture, read_program

__all__ = ["capture", "read_program"]
