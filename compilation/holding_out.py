"""What of the calibration data is held out: the report's error is measured on it, so that no code was fitted to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..ir.calibration.learned import Statistics
from ..ir.errors import InstarError, PassError
from ..ir.evaluate import bind_dims, evaluate
from ..ir.graph import Graph
from ..ir.layers import Layer
from ..ir.statistics import WeightStatistics

SHARE = 8
"""One in so many batches, or rows of the last batch, is held out; with fewer there is none to spare."""

SHRUNK = 0.5
"""A layer with fewer inputs than columns whose second moment is shrunk further than this has seen too little."""

RUN_MACS = 2**30
"""Multiplications in a run that measures one change of many, about: a quarter of a second."""

SHOWN = 3


def hold_out(
    graph: Graph, last: list[Tensor], number: int, most: int | None
) -> tuple[list[Tensor] | None, list[Tensor] | None]:
    """Divide the last batch into what is calibrated on and what is held out; either may be None.

    Args:
        graph: the model.
        last: flat inputs of the last batch.
        number: batches before it.
        most: batches to calibrate on at most; the one after is free to be held out.
    """
    if number == most or number + 1 >= SHARE:
        return None, last
    return _divided(graph, last) or (last, None)


def _divided(graph: Graph, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]] | None:
    """Rows, where every input has the same many along its first axis and the model takes any number of them."""
    counts = {value.shape[0] if value.dim() else 0 for value in inputs}
    rows = counts.pop() if len(counts) == 1 else 0
    if rows < SHARE:
        return None
    kept = rows - rows // SHARE
    parts = [value[:kept] for value in inputs], [value[kept:] for value in inputs]
    return parts if _stands_alone(graph, inputs, parts[1]) and _fits(graph, parts[0]) else None


def as_many_as(graph: Graph, inputs: list[Tensor], most_macs: int, layers: Sequence[Layer]) -> list[Tensor]:
    """The last rows of a batch that take no more multiplications, one at least; all where the model takes no fewer."""
    counts = {value.shape[0] if value.dim() else 0 for value in inputs}
    rows = counts.pop() if len(counts) == 1 else 0
    sizes = bind_dims(graph, inputs)
    kept = max(1, rows * most_macs // max(1, sum(layer.macs(sizes) for layer in layers)))
    if not 0 < kept < rows:
        return inputs
    fewer = [value[-kept:] for value in inputs]
    return fewer if _stands_alone(graph, inputs, fewer) else inputs


def few_of(
    graph: Graph, samples: Sequence[list[Tensor]], most_macs: int, layers: Sequence[Layer]
) -> list[list[Tensor]]:
    """Rows of as many samples as take no more multiplications, as many of each; those of one sample at least."""
    found: list[list[Tensor]] = []
    left = most_macs
    for position, inputs in enumerate(samples):
        few = as_many_as(graph, inputs, left // (len(samples) - position), layers)
        left -= sum(layer.macs(bind_dims(graph, few)) for layer in layers)
        if found and left < 0:
            break
        found.append(few)
    return found


def _stands_alone(graph: Graph, inputs: Sequence[Tensor], rest: Sequence[Tensor]) -> bool:
    """Whether the model computes for the last rows what it computes for them among all: they are samples."""
    if not _fits(graph, rest):
        return False
    rows = rest[0].shape[0]
    with torch.no_grad():
        whole = [v for v in evaluate(graph, inputs) if isinstance(v, Tensor)]
        try:
            alone = [v for v in evaluate(graph, rest) if isinstance(v, Tensor)]
        except (InstarError, IndexError, RuntimeError):  # such as positions of rows that are elsewhere
            return False
    return all(
        a.dim() > 0 and b.dim() == a.dim() and a.shape == b[-rows:].shape and torch.allclose(a, b[-rows:], 1e-3, 1e-4)
        for a, b in zip(alone, whole, strict=True)
    )


def _fits(graph: Graph, inputs: Sequence[Tensor]) -> bool:
    try:
        bind_dims(graph, inputs)
    except PassError:
        return False
    return True


def what_is_too_little(statistics: Statistics) -> Iterable[str]:
    """A note where layers saw fewer inputs than they have columns, and their codes are as without data, or nearly."""
    few = {n: k.weight for n, k in statistics.layers.items() if k.shrinkage.directions > SHRUNK and _has_few(k.weight)}
    if few:
        others = f" and {len(few) - SHOWN} others" if len(few) > SHOWN else ""
        least, most = (
            min(w.count for w in few.values()),
            max(len(w.importance) for w in few.values() if w.importance is not None),
        )
        yield (
            f"calibration: {least} inputs are too few for {', '.join([*few][:SHOWN])}{others}, whose codes are chosen "
            f"nearly as without data; give {most} or more, one for each column of the widest"
        )


def _has_few(known: WeightStatistics) -> bool:
    return known.second_moment is not None and known.count < known.second_moment.shape[0]
