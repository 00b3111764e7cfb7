"""``instar.bench``: a saved artifact against the model that it was made from, in the same run on the same machine."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..compilation.cleaning import clean
from ..compilation.entry import Request, start
from ..ir.analysis import parameter_bytes
from ..ir.errors import ConfigError, LoweringError
from ..ir.graph import Graph, Node
from ..ir.threads import torch_threads
from ..targets.base import Opened
from ..targets.compare import relative_error
from ..targets.registry import open_artifact, target_of

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class BenchRow:
    """One model that was measured.

    Attributes:
        name: which one.
        runtime: what ran it.
        nbytes: of its files; of its parameters for the module.
        latency_ms: median of a run.
        error: relative output error against the module: ``|found - expected| / |expected|``, the largest over outputs.
    """

    name: str
    runtime: str
    nbytes: int
    latency_ms: float
    error: float


@dataclass(frozen=True)
class Bench:
    """What :func:`bench` measured: the module, its float export on the artifact's runtime, the artifact.

    Attributes:
        model: name of the model.
        path: of the artifact.
        rows: the module first, the artifact last.
        inputs: their types as text, with the sizes that were measured.
        threads: that every run could use.
        repeats: runs of each.
        notes: what a user should know.
    """

    model: str
    path: str
    rows: tuple[BenchRow, ...]
    inputs: tuple[str, ...]
    threads: int
    repeats: int
    notes: tuple[str, ...] = ()

    @property
    def artifact(self) -> BenchRow:
        """The artifact's row."""
        return self.rows[-1]

    @property
    def baseline(self) -> BenchRow:
        """What the artifact is compared with: the float model on the same runtime where it can run there."""
        return self.rows[-2]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {"instar_bench": 1, **asdict(self)}

    def table(self) -> RenderableType:
        """One row per model, shares relative to the baseline."""
        from .bench_table import table

        return table(self)


def bench(
    path: str | os.PathLike[str],
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    threads: int = 1,
    repeats: int = 20,
) -> Bench:
    """Measure a saved artifact.

    The original is measured twice: as the module, and exported in float to the artifact's own runtime, because only
    that comparison tells what compiling has gained beyond the change of runtime.

    Args:
        path: an ``.onnx`` or ``.safetensors`` file that a compilation saved.
        model: the original.
        args: example positional inputs, on which everything is measured.
        kwargs: example keyword inputs.
        dynamic_shapes: as for :func:`instar.compile`.
        threads: that every run may use.
        repeats: runs of each model; they take turns, so that a busy machine slows all alike.

    Raises:
        ConfigError: no such artifact, or it takes other inputs than the model.
        CaptureError: the model cannot be captured.
    """
    if repeats < 1:
        raise ConfigError(f"repeats: expected at least 1; found {repeats}")
    opened, suffix = open_artifact(path, threads), Path(path).suffix
    options = {"target": target_of(suffix), "target_options": {"threads": threads}, "check_passes": False}
    request = start(model, args, kwargs, dynamic_shapes, None, options)
    named = {str(n.argument("name")): t for n, t in zip(request.captured.inputs, request.example, strict=True)}
    original = _original(model, request, args, kwargs or {})
    with torch_threads(threads), tempfile.TemporaryDirectory() as folder:
        float_model, note = _float_model(request, Path(folder), suffix, threads)
        entries = [*float_model, (Path(path).name, opened)]
        calls = [original, *(model.bind(named) for _, model in entries)]
        expected = original()
        errors = [relative_error(expected, call()) for call in calls]
        times = interleaved_ms(calls, repeats)
    module = (f"{request.model_name} as it is", f"torch {torch.__version__}", parameter_bytes(request.captured))
    facts = [module, *((name, model.runtime, model.nbytes) for name, model in entries)]
    rows = tuple(BenchRow(*fact, time, error) for fact, time, error in zip(facts, times, errors, strict=True))
    inputs = tuple(f"{name}: {list(tensor.shape)}" for name, tensor in named.items())
    return Bench(request.model_name, os.fspath(path), rows, inputs, threads, repeats, note)


def interleaved_ms(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median milliseconds of each call; calls take turns.

    Every turn runs a call twice and times the second run: no model pays for the caches that another has filled.
    """
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, samples, strict=True):
            call()
            begin = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(taken) for taken in samples]


def _original(model: Any, request: Request, args: Any, kwargs: Mapping[str, Any]) -> Callable[[], list[Any]]:
    """The user's own module with the user's own call; its outputs in the order of the artifact's."""
    module = model if isinstance(model, torch.nn.Module) else request.captured.to_module()
    positional = (args,) if isinstance(args, Tensor) else tuple(args)
    captured = request.captured.outputs

    def call() -> list[Any]:
        with torch.no_grad():
            leaves = pytree.tree_leaves(module(*positional, **kwargs))
        return [leaf for leaf, output in zip(leaves, captured, strict=True) if isinstance(output, Node)]

    return call


def _float_model(
    request: Request, folder: Path, suffix: str, threads: int
) -> tuple[list[tuple[str, Opened]], tuple[str, ...]]:
    """The original on the artifact's runtime; torch is its own reference."""
    if suffix != ".onnx":
        return [], ()
    graph: Graph = clean(request).graph
    file = folder / f"float{suffix}"
    try:
        request.target.build_plain(graph, request.example).save(file)
    except LoweringError as problem:
        return [], (f"the original cannot be exported, so that it is compared as a module: {problem}",)
    return [("float export", open_artifact(file, threads))], ()
