"""``instar.pareto``: one budget is swept, everything is measured once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..compilation.entry import start
from ..compilation.pareto_curve import POINTS, sweep
from ..compilation.preparation import prepare
from ..compilation.prepared import Prepared, measure_name
from ..compilation.stages import Progress
from ..config import resolve
from ..ir.budget import Budget
from ..ir.errors import ConfigError, nearest
from ..ir.plugins import given
from ..ir.resources import RESOURCES
from ..report import Curve
from ..report.reasons import loss_words
from ..targets.declaration import Declaration


def pareto(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Declaration | None = None,
    pipeline: Any = None,
    budget: Any = None,
    calibration: Iterable[Any] | None = None,
    dynamic_shapes: Any = None,
    resource: str = "size",
    points: int = POINTS,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Curve:
    """The best predicted loss over a range of one budget, from the smallest possible value to the float model's.

    The model is captured, calibrated and priced once; each point is one run of the solver. Latencies are measured where
    the swept or a fixed budget is about latency.

    Args:
        model: as for :func:`instar.compile`, like everything that is not explained here.
        args: example positional inputs.
        kwargs: example keyword inputs.
        target: what the plans are for.
        pipeline: formats, rules and options.
        budget: further bounds that every plan meets; one on what is swept is left out.
        calibration: batches; without them losses are weight errors.
        dynamic_shapes: as ``torch.export.export`` takes it.
        resource: ``size``, ``latency`` or ``ops``.
        points: values of the budget; fewer plans where neighbours are the same.
        seed: of everything random.
        checkpoint: file from which an interrupted calibration continues.
        progress: called with (stage, what) while work goes on.
        settings: further fields of :class:`~instar.config.Pipeline`.

    Raises:
        ConfigError: invalid settings.
        CaptureError: the model cannot be captured.
        InfeasibleError: no plan meets the other bounds.
    """
    _check(resource, points)
    resolved = resolve(pipeline, target=target, budget=budget, seed=seed, **settings)
    with given(resolved.given()):
        request = start(model, args, kwargs, dynamic_shapes, resolved, {}, calibration=calibration, progress=progress)
        others = _without(request.budget, resource)
        prepared = prepare(
            request, calibration=calibration, budget=others, latency=resource == "latency", checkpoint=checkpoint
        )
        found = sweep(prepared, resource, points, others, request.stages.progress)
    return Curve(request.model_name, request.target.name, resource, found, _notes(prepared, others))


def _without(budget: Budget | None, resource: str) -> Budget | None:
    """The other bounds; one on what is swept has no meaning here."""
    given = budget.to_mapping() if budget is not None else {}
    others = {name: value for name, value in given.items() if name not in (resource, "minimise")}
    return Budget.from_mapping(others) if others else None


def _check(resource: str, points: int) -> None:
    if resource not in RESOURCES:
        known = ", ".join(RESOURCES)
        raise ConfigError(f"pareto: expected resource {known}; found {resource!r}{nearest(resource, RESOURCES)}")
    if points < 2:
        raise ConfigError(f"pareto: expected at least 2 points; found {points}")


def _notes(prepared: Prepared, others: Budget | None) -> tuple[str, ...]:
    measure = loss_words(measure_name(prepared.pipeline, prepared.statistics))
    notes = [f"losses are predicted, not measured; {measure}"]
    if prepared.latencies is not None:
        notes.append(f"latencies are predicted from kernels measured on {prepared.latencies.source}")
    if others is not None:
        bounds = ", ".join(f"{name}={value}" for name, value in others.to_mapping().items())
        notes.append(f"every plan meets {bounds}")
    return tuple(notes)
