"""Canonicalize: every computation in one spelling, so that later passes and targets match one pattern, not many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..ir.graph import Graph
from .base import PassResult
from .canonical.arithmetic import ARITHMETIC_RULES
from .canonical.bags import BAG_RULES
from .canonical.diagonals import DIAGONAL_RULES
from .canonical.layout import LAYOUT_RULES
from .canonical.masks import MASK_RULES
from .canonical.norms import NORM_RULES
from .canonical.products import PRODUCT_RULES
from .rewrite import rewrite
from .rules import Rule

CANONICAL_RULES: tuple[Rule, ...] = (
    *LAYOUT_RULES,
    *ARITHMETIC_RULES,
    *NORM_RULES,
    *PRODUCT_RULES,
    *BAG_RULES,
    *DIAGONAL_RULES,
    *MASK_RULES,
)


@dataclass(frozen=True)
class Canonicalize:
    """One spelling for each computation. Exact.

    Rewrites (before -> after):

    * ``addmm``, ``mm``, ``matmul`` with a constant on the right -> ``linear``; ``linear + b`` -> ``linear`` with bias
    * ``t``, ``transpose``, ``swapaxes``, ``movedim``, ``mT`` -> ``permute``; permutes of permutes composed
    * ``view``, ``_unsafe_view``, ``flatten``, ``unflatten`` -> ``reshape`` with the full shape; reshapes composed
    * ``clone``, ``contiguous``, ``detach``, ``expand`` and ``to`` without effect, ``dropout`` in evaluation,
      full slices, ``cat`` of one -> nothing
    * ``add.Scalar``, ``sub``, ``rsub``, ``x / 8``, ``x * 1``, constants of rank 0 -> ``add.Tensor`` and
      ``mul.Tensor`` with numbers
    * ``_native_batch_norm_*``, ``native_layer_norm``, ``_softmax``, ``convolution`` -> ``batch_norm``, ``layer_norm``,
      ``softmax``, ``conv2d``; ``padding="same"`` -> numbers, behind a ``constant_pad_nd`` where it is not symmetric
    * ``x * rsqrt(mean(x ** 2, -1) + eps) * w`` -> ``rms_norm``
    * ``ones``, ``zeros_like``, ``new_full``, ... -> ``full``; ``a & b`` of booleans -> ``logical_and``; ``x & True`` ->
      ``x``; ``x[arange(a)[:, None], arange(b)]`` -> ``reshape(x)``
    * ``embedding_bag`` over bags of one length -> ``embedding`` and a sum, mean or maximum
    * ``diagonal_scatter`` -> ``where`` of rows and columns
    * axes count from the front; options that only matter to gradients go away

    Refuses: a matrix that other ops use as it is (transposing would store it twice), and ``addmm`` with factors.
    """

    name: ClassVar[str] = "canonicalize"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        """Rewrite to the fixed point."""
        return rewrite(graph, CANONICAL_RULES)
