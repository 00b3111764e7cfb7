"""Stage: stream the calibration data through the graph once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from ..ir.calibration.batches import flatten_batch
from ..ir.calibration.calibrator import Calibrator
from ..ir.calibration.learned import CalibrationSettings, LayerStatistics, Statistics
from ..ir.calibration.state import restore_state, save_state
from ..ir.errors import CalibrationError
from ..ir.graph import Graph, Node
from ..ir.layers import Layer
from ..ir.memory import release_memory
from ..ir.plan import StaticQuantization
from ..ir.threads import Beside, one_thread, torch_threads
from .holding_out import hold_out


@dataclass(frozen=True)
class Known:
    """What the calibration data says about a model.

    Attributes:
        statistics: of every layer; None without data.
        static: quantization of the values that static layers need.
        samples: flat inputs: the example call and a few batches.
        held_out: flat inputs that no code and no loss saw; None where there was too little data to spare any.
    """

    statistics: Statistics | None
    static: Mapping[Node, StaticQuantization]
    samples: list[list[Tensor]]
    held_out: list[Tensor] | None = None

    @property
    def after_pricing(self) -> Known:
        """Without the halves of second moments, which prices alone are judged by: half the memory."""
        if self.statistics is None:
            return self
        layers = {name: _whole(known) for name, known in self.statistics.layers.items()}
        return replace(self, statistics=replace(self.statistics, layers=layers))


def _whole(known: LayerStatistics) -> LayerStatistics:
    weight = replace(known.weight, halves=None)
    return replace(known, gives=lambda: weight)


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
    threads: int = 1,
) -> tuple[Statistics, list[list[Tensor]], list[Tensor] | None]:
    """One pass over the data; a little of it is held out (:mod:`.holding_out`).

    Args:
        graph: after the exact passes.
        layers: whose statistics to gather.
        data: batches, see :func:`instar.ir.calibration.batches.flatten_batch`.
        settings: what to gather.
        observed: values whose range is needed.
        checkpoint: file that an interrupted run continues from; removed when calibration ends.
        progress: told after every batch.
        keep: batches to keep.
        threads: with two or more, moments are added up beside the gradients; the statistics are the same.

    Returns:
        The statistics, the first batches as flat inputs (for checks that want real data), and what was held out.

    Raises:
        CalibrationError: no data, data that does not fit the model, NaN or infinity; or a checkpoint of something else.
    """
    beside = Beside(alone=threads < 2)
    calibrator = Calibrator(graph, layers, settings, observed, beside)
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        restore_state(calibrator, path)
    try:
        with one_thread():
            samples, held_out = _stream(calibrator, data, path, progress, keep)
    finally:
        beside.close()
    release_memory()  # what batches needed, before several layers at a time need their own
    with torch_threads(threads):
        statistics = calibrator.statistics()
    if path is not None:
        path.unlink(missing_ok=True)
    return statistics, samples, held_out


def _stream(
    calibrator: Calibrator, data: Iterable[Any], path: Path | None, progress: Callable[[str], None], keep: int
) -> tuple[list[list[Tensor]], list[Tensor] | None]:
    samples: list[list[Tensor]] = []
    done = calibrator.batches
    held_out: list[Tensor] | None = None
    for number, (inputs, last) in enumerate(_with_last(_flat(calibrator.graph, data), calibrator.settings.max_batches)):
        seen: list[Tensor] | None = inputs
        if last:
            seen, held_out = hold_out(calibrator.graph, inputs, number, calibrator.settings.max_batches)
        if seen is None:
            break
        if len(samples) < keep:
            samples.append(seen)
        if number < done:
            continue
        calibrator.add(seen)
        if path is not None and calibrator.batches % CHECKPOINT_EVERY == 0:
            save_state(calibrator, path)
        progress(f"batch {number + 1}")
    return samples, held_out


def _flat(graph: Graph, data: Iterable[Any]) -> Iterator[list[Tensor]]:
    for number, batch in enumerate(_iterate(data)):
        inputs = flatten_batch(graph, batch, number)
        _check_devices(inputs, number)
        yield inputs


def _with_last(batches: Iterator[list[Tensor]], most: int | None) -> Iterator[tuple[list[Tensor], bool]]:
    """Each batch with whether it is the last one; one more than ``most``, so that it can be held out."""
    waiting: list[Tensor] | None = None
    for batch in islice(batches, None if most is None else most + 1):
        if waiting is not None:
            yield waiting, False
        waiting = batch
    if waiting is not None:
        yield waiting, True


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
