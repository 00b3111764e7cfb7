"""Every pass by name, and the order of the exact ones."""

from __future__ import annotations

from .base import Pass
from .canonicalize import Canonicalize
from .fold_batch_norm import FoldBatchNorm
from .fold_constants import FoldConstants

PASSES: dict[str, type[Pass]] = {
    "canonicalize": Canonicalize,
    "fold-constants": FoldConstants,
    "fold-batch-norm": FoldBatchNorm,
}
"""Kebab-case name -> pass."""


def exact_pipeline() -> tuple[Pass, ...]:
    """The passes that change nothing but the shape of the graph, in order.

    Folding constants uncovers weights and numbers, so the graph is canonicalized before and after.
    """
    return (
        Canonicalize(),
        FoldConstants(),
        Canonicalize(),
        FoldBatchNorm(),
    )
