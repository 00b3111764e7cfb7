"""``compile``: the one driver. The stages are called here in order; each lives in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compilation.budgets import meet_budgets
from .compilation.cleaning import clean
from .compilation.compiled import Compiled
from .compilation.entry import Request, start
from .compilation.finish import finish
from .compilation.minimising import minimising
from .compilation.plugins import check_spellings
from .compilation.preparation import prepare
from .compilation.quality_search import least_within_drop
from .compilation.replay import replay, replayed_request
from .compilation.stages import Progress
from .config import resolve
from .ir.budget import Budget
from .ir.capture import capture
from .ir.errors import ConfigError
from .ir.graph import Graph
from .ir.loading import loaded, loading
from .ir.plan import Plan
from .ir.plugins import given
from .passes.registry import PASSES, exact_pipeline
from .passes.run import NumericCheck, run_passes
from .targets.registry import TARGETS

if TYPE_CHECKING:
    from .config import Pipeline
    from .targets.declaration import Declaration


def compile(  # noqa: A001  # the verb of every compiler
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Declaration | None = None,
    budget: Budget | Mapping[str, Any] | str | None = None,
    pipeline: str | os.PathLike[str] | Mapping[str, Any] | Pipeline | None = None,
    calibration: Iterable[Any] | None = None,
    quality: Callable[[Callable[..., Any]], float] | None = None,
    max_drop: float | None = None,
    dynamic_shapes: Any = None,
    plan: str | os.PathLike[str] | Plan | None = None,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    latency_inputs: Sequence[Any] | None = None,
    latency_weights: Sequence[float] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Compiled:
    """Compile a model.

    Args:
        model: an nn.Module in evaluation mode, an ExportedProgram, or an fx.GraphModule. It is not changed.
        args: example positional inputs; they fix dtypes and static sizes, and latency is measured on them.
        kwargs: example keyword inputs.
        target: ``"onnx"``, ``"torch"`` or that of an installed package, perhaps with a device
            (``"onnx:device.json"``), or the declaration of a target of your own.
        budget: a :class:`Budget`, ``{"size": "15%"}``, or ``"smallest"`` or ``"fastest"`` (with ``quality`` and
            ``max_drop``). Without a budget the exact passes run, and formats that leave no float are applied.
        pipeline: preset, TOML file, table or :class:`~instar.config.Pipeline`; the other arguments are laid over it.
        calibration: batches: tuples of inputs, mappings of keyword inputs, or single tensors.
        quality: ``quality(model) -> float``, higher is better; where no budget asks for it, only the report has it.
        max_drop: how much ``quality`` may fall.
        dynamic_shapes: as ``torch.export.export`` takes it; its names become the artifact's; other axes stay fixed.
        plan: a plan or its file: replays the decisions without calibration or search.
        seed: of everything random; the same model, data, settings and seed give the same bytes.
        checkpoint: file from which an interrupted calibration continues; beside it, what ``quality`` has judged.
        latency_inputs: calls, like calibration batches, that are timed in place of the example: a weighted sum counts.
        latency_weights: how often each of them happens, in any unit; equal where not given.
        progress: called with (stage, what) while work goes on.
        settings: further fields of :class:`~instar.config.Pipeline`.

    Raises:
        ConfigError, ParseError: invalid settings, or a plan that cannot be read; before any work.
        CaptureError: the model cannot be captured.
        PassError: a pass broke the model; names the pass and the node.
        CalibrationError: unusable data.
        InfeasibleError: the budgets cannot be met; names the smallest feasible values.
        LoweringError: the target cannot run the result as planned.
    """
    decided = _decided(plan, budget)
    resolved = resolve(pipeline, target=target, budget=budget, seed=seed, **settings)
    with given(resolved.given()), _loaded(resolved.target):
        request = start(
            model, args, kwargs, dynamic_shapes, resolved, {},
            calibration=calibration, quality=quality, max_drop=max_drop, checkpoint=checkpoint, progress=progress,
            latency_inputs=latency_inputs, latency_weights=latency_weights,
        )  # fmt: skip
        return _run(request, decided, plan, calibration, checkpoint)


@contextmanager
def _loaded(target: str) -> Generator[None]:
    """What a compilation for a target imports is imported, and left out of searches for garbage in the block.

    Raises:
        ConfigError: there is no such target.
    """
    with loading():
        import_module("torch.export._trace")  # torch imports it when a model is first captured
        TARGETS.find(target, "target").load()
    with loaded():
        yield


def _run(
    request: Request,
    decided: Plan | None,
    plan: str | os.PathLike[str] | Plan | None,
    calibration: Iterable[Any] | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Compiled:
    """The stages after the start, in order; ``plan`` is what ``decided`` was read from, for messages."""
    if decided is not None:
        where = "plan" if plan is None or isinstance(plan, Plan) else os.fspath(plan)
        return replay(clean(replayed_request(request, decided, where)), decided)
    prepared = prepare(
        request, calibration=calibration, budget=request.budget, latency=request.minimise == "latency",
        checkpoint=checkpoint, decide=request.decides,
    )  # fmt: skip
    aim = minimising(prepared)
    if aim is not None and request.max_drop is not None:
        return least_within_drop(aim, checkpoint)
    return finish(prepared, meet_budgets(prepared))


def _decided(plan: str | os.PathLike[str] | Plan | None, budget: object) -> Plan | None:
    """The plan to replay, read before any work.

    Raises:
        ConfigError: there is a budget to decide for as well.
        ParseError: the plan is not readable.
    """
    if plan is None:
        return None
    if budget is not None:
        raise ConfigError("plan: expected no budget beside it: a plan holds its decisions; remove one of them")
    return plan if isinstance(plan, Plan) else Plan.load(plan)


def optimize(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    passes: Sequence[Any] | None = None,
) -> Graph:
    """The graph of a model after the exact passes, each verified and compared in float64.

    Args:
        model: as for :func:`compile`.
        args: example positional inputs.
        kwargs: example keyword inputs.
        dynamic_shapes: as for :func:`compile`.
        passes: names or objects instead of the default list, which ``"default"`` in the list stands for.
    """
    from .compilation.entry import as_arguments
    from .config import build_passes
    from .ir.evaluate import flatten_call

    chosen = build_passes(resolve(None, passes=passes), PASSES, exact_pipeline())
    positional = as_arguments(args)
    graph = capture(model, positional, kwargs, dynamic_shapes=dynamic_shapes)
    check = NumericCheck([flatten_call(graph, positional, kwargs or {})])
    return run_passes(graph, chosen, check)[0]


def explain(plan: str | os.PathLike[str]) -> Any:
    """Why each layer of a saved plan became what it is, as something rich can print.

    Raises:
        ParseError: it is no plan, or a format, encoder or kernel in it is none.
    """
    from .report import explain_plan

    found = Plan.load(plan)
    check_spellings(found, os.fspath(plan))
    return explain_plan(found)


def inspect(model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Layers, ops, FLOPs, bytes, and what could be quantized. See :func:`instar.tools.inspect.inspect`."""
    from .tools.inspect import inspect as run

    return run(model, args, kwargs, **options)


def bench(
    path: str | os.PathLike[str], model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """A saved artifact against the original model. See :func:`instar.tools.bench.bench`."""
    from .tools.bench import bench as run

    return run(path, model, args, kwargs, **options)


def pareto(model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Sweep a budget with all measurements shared. See :func:`instar.tools.pareto.pareto`."""
    from .tools.pareto import pareto as run

    return run(model, args, kwargs, **options)


def profile(model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Write what a device has to measure. See :func:`instar.tools.profile.profile`."""
    from .tools.profile import profile as run

    return run(model, args, kwargs, **options)


def write_check(compiled: Compiled, folder: str | os.PathLike[str]) -> Path:
    """Write what a device needs to confirm a compiled model. See :func:`instar.tools.confirm.write_check`."""
    from .tools.confirm import write_check as run

    return run(compiled, folder)


def confirm(answer: str | os.PathLike[str], manifest: str | os.PathLike[str] | None = None) -> Any:
    """What a device answered to a check bundle. See :func:`instar.tools.confirm.confirm`."""
    from .tools.confirm import confirm as run

    return run(answer, manifest)


__all__: Sequence[str] = (
    "bench", "compile", "confirm", "explain", "inspect", "optimize", "pareto", "profile", "write_check",
)  # fmt: skip
