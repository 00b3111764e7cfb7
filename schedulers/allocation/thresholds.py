"""Ranks by one threshold for all layers: the published baselines that an allocation of ranks is held against.

Numbers only. A rule gives every component of a layer a share between 0 and 1 that does not depend on the layer's own
scale; a component is kept where its share reaches the threshold, and the threshold is the least whose ranks fit.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Shares = tuple[float, ...]
"""Of one layer's components, falling."""


@dataclass(frozen=True)
class Ranks:
    """What a threshold keeps.

    Attributes:
        threshold: components with at least this share are kept.
        ranks: components of every layer, 1 or more.
    """

    threshold: float
    ranks: tuple[int, ...]


def welore(spectrum: Sequence[float]) -> Shares:
    """Singular values between the least (0) and the largest (1) of their matrix (WeLore, arXiv 2407.11239, 3.2)."""
    least, largest = min(spectrum), max(spectrum)
    width = largest - least
    return tuple((s - least) / width if width > 0.0 else 1.0 for s in spectrum)


def explained_variance(spectrum: Sequence[float]) -> Shares:
    """The part of a matrix's energy that each component explains (the rule of EVA, arXiv 2410.07170, 3.2)."""
    energy = math.fsum(s * s for s in spectrum)
    return tuple(s * s / energy if energy > 0.0 else 1.0 for s in spectrum)


RULES: dict[str, Callable[[Sequence[float]], Shares]] = {"welore": welore, "explained-variance": explained_variance}
"""The rules by the names that ``search.ranks`` gives them."""


def kept(shares: Shares, threshold: float) -> int:
    """Components that reach a threshold; one at least.

    >>> kept((1.0, 0.5, 0.0), 0.5), kept((0.6, 0.4), 0.9)
    (2, 1)
    """
    return max(1, sum(share >= threshold for share in shares))


def ranks_within(layers: Sequence[Shares], nbytes: Sequence[Callable[[int], int]], limit: int) -> Ranks | None:
    """The ranks of the least threshold that fit; None where not even one component a layer does.

    Args:
        layers: shares of every layer's components.
        nbytes: bytes of every layer at a rank, which never fall with it.
        limit: bytes of all of them together.
    """
    steps = sorted({share for shares in layers for share in shares})

    def at(threshold: float) -> tuple[int, ...]:
        return tuple(kept(shares, threshold) for shares in layers)

    def fits(threshold: float) -> bool:
        return sum(cost(rank) for cost, rank in zip(nbytes, at(threshold), strict=True)) <= limit

    first = bisect_left(steps, True, key=fits)
    return Ranks(steps[first], at(steps[first])) if first < len(steps) else None
