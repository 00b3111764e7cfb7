"""``instar.profile``: what a device has to measure so that a model is planned for it, as a bundle of files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compilation.cleaning import clean
from ..compilation.entry import Request, start
from ..compilation.offer import Offer, list_options
from ..compilation.rough_build import build_rough
from ..compilation.stages import Progress
from ..config import resolve
from ..ir.errors import ConfigError
from ..ir.options import Option
from ..ir.plan import StaticQuantization
from ..ir.plugins import given
from ..ir.threads import one_thread
from ..targets.base import Artifact, BundleSummary, MeasuredElsewhere, Target

if TYPE_CHECKING:
    from rich.console import RenderableType

ANY = StaticQuantization(0.01, 128)
"""Stands for every static quantization: no time depends on its numbers."""


@dataclass(frozen=True)
class Profiling:
    """A bundle that was written.

    Attributes:
        model: name of the model.
        folder: of the bundle.
        threads: that the device will use unless its script is told otherwise.
        holds: cases and bytes.
    """

    model: str
    folder: str
    threads: int
    holds: BundleSummary

    def table(self) -> RenderableType:
        """What was written and what to do with it."""
        from rich.text import Text

        holds = self.holds
        return Text(
            f"{self.folder}: {holds.layers} single layers and {holds.networks} networks of {self.model}, "
            f"{holds.nbytes / 1e6:.1f} MB\ncopy it to the device, run 'python measure.py' there (numpy and onnxruntime "
            "1.18 or later), copy the device.json that it writes back, and compile for it: "
            f"--target onnx:device.json --threads {self.threads}, and the same settings"
        )


def profile(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str],
    dynamic_shapes: Any = None,
    pipeline: Any = None,
    calibrated: bool = False,
    latency_inputs: Sequence[Any] | None = None,
    latency_weights: Sequence[float] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Profiling:
    """Write the bundle that a device measures: nothing is calibrated or measured here.

    Args:
        model: as for :func:`instar.compile`.
        args: example positional inputs; times will be measured on them.
        kwargs: example keyword inputs.
        out: folder of the bundle; made if it does not exist.
        dynamic_shapes: as for :func:`instar.compile`.
        pipeline: formats and rules: what each layer may become is what has to be measured.
        calibrated: whether the compilation will have calibration data: some options ask for it.
        latency_inputs: as for :func:`instar.compile`.
        latency_weights: as for :func:`instar.compile`.
        progress: called with (stage, what) while work goes on.
        settings: further fields of :class:`~instar.config.Pipeline`.

    Raises:
        ConfigError: invalid settings, or a target that no other device measures.
        CaptureError: the model cannot be captured.
        LoweringError: the target cannot run the network.
    """
    resolved = resolve(pipeline, **settings).model_copy(update={"budget": None})
    with given(resolved.given()):
        request = start(
            model, args, kwargs, dynamic_shapes, resolved, {}, calibration=() if calibrated else None,
            latency_inputs=latency_inputs, latency_weights=latency_weights, progress=progress,
        )  # fmt: skip
        holds = _write(request, Path(out), calibrated=calibrated)
    return Profiling(request.model_name, os.fspath(out), resolved.target_options.threads, holds)


def _write(request: Request, folder: Path, *, calibrated: bool) -> BundleSummary:
    target = request.target
    if not isinstance(target, MeasuredElsewhere):
        raise ConfigError(
            f"target: expected one that another device can measure, found {target.name!r}; profile for 'onnx'"
        )
    offer = list_options(clean(replace(request, times="elsewhere")), calibrated=calibrated)
    shapes = [request.example, *(w.inputs for w in request.workloads if w.inputs is not request.example)]
    with request.stages.time("write bundle"), one_thread():
        return target.write_bundle(
            folder, offer.cleaned.graph, offer.cleaned.layers, offer.options, shapes, _Rough(offer)
        )


@dataclass(frozen=True)
class _Rough:
    """Builds networks with weights rounded to nearest."""

    offer: Offer

    def __call__(self, target: Target, chosen: Mapping[str, Option]) -> Artifact:
        cleaned, static = self.offer.cleaned, dict.fromkeys(self.offer.static, ANY)
        return build_rough(cleaned.graph, cleaned.layers, chosen, static, target, cleaned.request.example)
