"""Elements of the user's calibration data as flat inputs of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from ..errors import CalibrationError, PassError
from ..evaluate import bind_dims, flatten_call
from ..graph import Graph


def flatten_batch(graph: Graph, batch: Any, number: int) -> list[Tensor]:
    """Flat graph inputs of one element of the user's calibration data.

    An element is a tuple of positional inputs, a mapping of keyword inputs, a single tensor, or ``(args, kwargs)``.

    Raises:
        CalibrationError: the element does not fit the model's inputs; names the batch.
    """
    args, kwargs = _split_batch(batch)
    where = f"calibration batch {number}: does not fit the model's inputs"
    try:
        flat = flatten_call(graph, args, kwargs)
    except Exception as error:
        raise CalibrationError(f"{where}: {error}") from error
    try:
        bind_dims(graph, flat)
    except PassError as error:
        raise CalibrationError(
            f"{where}: {error}; give batches like the example, and name the axes whose sizes differ in dynamic_shapes"
        ) from error
    return flat


def _split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(cast("Mapping[str, Any]", batch))
    if isinstance(batch, tuple | list):
        parts = cast("Sequence[Any]", batch)
        if len(parts) == 2 and isinstance(parts[0], tuple) and isinstance(parts[1], Mapping):
            return cast("tuple[Any, ...]", parts[0]), dict(cast("Mapping[str, Any]", parts[1]))
        return tuple(parts), {}
    return (batch,), {}
