"""Stage: stream the calibration data through the graph once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from ..ir.calibration.batches import flatten_batch
from ..ir.calibration.calibrator import CalibrationSettings, Calibrator, Statistics
from ..ir.calibration.state import restore_state, save_state
from ..ir.errors import CalibrationError
from ..ir.graph import Graph, Node
from ..ir.layers import Layer
from ..ir.plan import StaticQuantization


@dataclass(frozen=True)
class Known:
    """What the calibration data says about a model.

    Attributes:
        statistics: of every layer; None without data.
        static: quantization of the values that static layers need.
        samples: flat inputs: the example call and a few batches.
    """

    statistics: Statistics | None
    static: Mapping[Node, StaticQuantization]
    samples: list[list[Tensor]]


CHECKPOINT_EVERY = 8
"""Batches between two checkpoints."""


def calibrate(
    graph: Graph,
    layers: Sequence[Layer],
    data: Iterable[Any],
    settings: CalibrationSettings,
    observed: Sequence[Node] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    keep: int = 2,
) -> tuple[Statistics, list[list[Tensor]]]:
    """One pass over the data.

    Args:
        graph: after the exact passes.
        layers: whose statistics to gather.
        data: batches, see :func:`instar.ir.calibration.batches.flatten_batch`.
        settings: what to gather.
        observed: values whose range is needed.
        checkpoint: file that an interrupted run continues from; removed when calibration ends.
        progress: told after every batch.
        keep: batches to keep.

    Returns:
        The statistics and the first batches as flat inputs (for checks that want real data).

    Raises:
        CalibrationError: no data, data that does not fit the model, NaN or infinity; or a checkpoint of something else.
    """
    calibrator = Calibrator(graph, layers, settings, observed)
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        restore_state(calibrator, path)
    samples = _stream(calibrator, data, path, progress, keep)
    statistics = calibrator.statistics()
    if path is not None:
        path.unlink(missing_ok=True)
    return statistics, samples


def _stream(
    calibrator: Calibrator, data: Iterable[Any], path: Path | None, progress: Callable[[str], None], keep: int
) -> list[list[Tensor]]:
    samples: list[list[Tensor]] = []
    done = calibrator.batches
    for number, batch in enumerate(islice(_iterate(data), calibrator.settings.max_batches)):
        inputs = flatten_batch(calibrator.graph, batch, number)
        _check_devices(inputs, number)
        if len(samples) < keep:
            samples.append(inputs)
        if number < done:
            continue
        calibrator.add(inputs)
        if path is not None and calibrator.batches % CHECKPOINT_EVERY == 0:
            save_state(calibrator, path)
        progress(f"batch {number + 1}")
    return samples


def _check_devices(inputs: Sequence[Tensor], number: int) -> None:
    for tensor in inputs:
        if tensor.device.type != "cpu":
            raise CalibrationError(
                f"calibration batch {number}: expected tensors on the cpu, where calibration runs; found one on "
                f"{tensor.device}; call .cpu() on it"
            )


def _iterate(data: Any) -> Iterator[Any]:
    """The batches; what the data itself raises is the data's error.

    Raises:
        CalibrationError: the data is not iterable, or failed while it was read.
    """
    batches, number = _iterator(data), 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            raise CalibrationError(
                f"calibration batch {number}: the data raised {type(error).__name__}: {error}"
            ) from error
        yield batch
        number += 1


def _iterator(data: Any) -> Iterator[Any]:
    try:
        return iter(data)
    except TypeError as error:
        raise CalibrationError(
            f"calibration: expected an iterable of batches (tuples of inputs, or mappings of keyword inputs); found "
            f"{type(data).__name__}; wrap it in a list"
        ) from error
