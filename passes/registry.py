"""Every pass by name, and the order of the exact ones."""

from __future__ import annotations

from ..ir.plugins import Registry
from .base import Pass, is_pass_class
from .cancel_layout import CancelLayout
from .canonicalize import Canonicalize
from .fold_batch_norm import FoldBatchNorm
from .fold_constants import FoldConstants
from .fuse_attention import FuseAttention
from .promote_floats import PromoteFloats

PASSES: Registry[type[Pass]] = Registry(
    "pass",
    {
        "canonicalize": Canonicalize,
        "fold-constants": FoldConstants,
        "fold-batch-norm": FoldBatchNorm,
        "cancel-layout": CancelLayout,
        "fuse-attention": FuseAttention,
        "promote-floats": PromoteFloats,
    },
    "a class of passes: a frozen dataclass with name, exact and __call__(graph) -> PassResult",
    is_pass_class,
)
"""Kebab-case name -> class of passes; more come from installed packages (group ``instar.passes``)."""


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
