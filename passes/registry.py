"""Every pass by name, and the order of the exact ones."""

from __future__ import annotations

from .base import Pass
from .cancel_layout import CancelLayout
from .canonicalize import Canonicalize
from .fold_batch_norm import FoldBatchNorm
from .fold_constants import FoldConstants
from .fuse_attention import FuseAttention

PASSES: dict[str, type[Pass]] = {
    "canonicalize": Canonicalize,
    "fold-constants": FoldConstants,
    "fold-batch-norm": FoldBatchNorm,
    "cancel-layout": CancelLayout,
    "fuse-attention": FuseAttention,
}
"""Kebab-case name -> pass."""


def exact_pipeline() -> tuple[Pass, ...]:
    """The passes that change nothing but the shape of the graph, in order.

    Folding constants uncovers weights and numbers, and cancelling layout moves permutes onto constants, so that the
    cleaning passes come again behind them.
    """
    return (
        Canonicalize(),
        FoldConstants(),
        Canonicalize(),
        FoldBatchNorm(),
        CancelLayout(),
        FoldConstants(),
        Canonicalize(),
    )
