"""``instar.inspect``: what a model is made of, what could become of it, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..compilation.cleaning import clean
from ..compilation.entry import Request, start
from ..compilation.offer import not_finite
from ..compilation.pricing_stage import list_candidates
from ..compilation.stages import Progress
from ..compilation.summary import summary
from ..compilation.untranslated import operator_words, refused_nodes
from ..config import resolve
from ..ir.analysis import bytes_moved, flops, liveness
from ..ir.evaluate import bind_dims
from ..ir.graph import Graph, Node
from ..ir.layers import Layer
from ..ir.op import CONSTANT, GETITEM, INPUT
from ..ir.options import Option
from ..ir.plugins import given
from ..passes.base import PassRecord
from ..report.data import ModelSummary
from ..targets.declaration import Declaration
from .attention_sites import AttentionSite, attention_sites

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class InspectedLayer:
    """A weight that decisions are made about.

    Attributes:
        name: the user's own.
        kind: linear, conv, matmul or embedding.
        shape: of the weight.
        nbytes: as it is stored now.
        flops: of all its uses on the example inputs.
        kernels: kernel of the target -> formats that it could run this layer with.
        refused: why other formats or kernels are impossible.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    nbytes: int
    flops: int
    kernels: Mapping[str, tuple[str, ...]]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class InspectedOp:
    """All occurrences of one op after the exact passes, on the example inputs."""

    name: str
    count: int
    flops: int
    nbytes_moved: int


@dataclass(frozen=True)
class Unsupported:
    """An op that the target cannot run, and where the model computes it."""

    op: str
    places: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found.

    Attributes:
        target: what the model was looked at for.
        model: counts, bytes, FLOPs, inputs and outputs.
        peak_nbytes: most bytes of inputs and intermediate values alive at once.
        layers: weights that can be decided about.
        ops: by FLOPs.
        passes: what the exact passes did and refused.
        skipped: weights that are not layers, with the reason.
        attention: where the model computes attention.
        unsupported: what the target cannot run.
    """

    target: str
    model: ModelSummary
    peak_nbytes: int
    layers: tuple[InspectedLayer, ...]
    ops: tuple[InspectedOp, ...]
    passes: tuple[PassRecord, ...]
    skipped: tuple[str, ...]
    attention: tuple[AttentionSite, ...]
    unsupported: tuple[Unsupported, ...]

    def __repr__(self) -> str:
        """One line; :meth:`table` and the fields have the rest."""
        layers, unsupported = len(self.layers), len(self.unsupported)
        return f"<Inspection of {self.model.name} for {self.target}: {layers} layers, {unsupported} operators refused>"

    def _repr_html_(self) -> str:
        """The table of the terminal, for notebooks."""
        from ..report.notebook import as_html

        return as_html(self.table())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {"instar_inspection": 1, **asdict(self)}

    def table(self) -> RenderableType:
        """Everything for a terminal, the largest layers and ops only."""
        from .inspect_table import table

        return table(self)


def inspect(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Declaration | None = None,
    dynamic_shapes: Any = None,
    pipeline: Any = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Inspection:
    """Look at a model without compiling it: nothing is calibrated, measured or encoded.

    Args:
        model: as for :func:`instar.compile`.
        args: example positional inputs; FLOPs and bytes are counted for their sizes.
        kwargs: example keyword inputs.
        target: whose kernels are asked.
        dynamic_shapes: as for :func:`instar.compile`.
        pipeline: its formats and rules say what each layer may become.
        progress: called with (stage, what) while work goes on.
        settings: further fields of :class:`~instar.config.Pipeline`.

    Raises:
        ConfigError: invalid settings.
        CaptureError: the model cannot be captured.
        PassError: an exact pass broke the model.
    """
    resolved = resolve(pipeline, target=target, **settings).model_copy(update={"budget": None})
    with given(resolved.given()):
        return _inspect(start(model, args, kwargs, dynamic_shapes, resolved, {}, calibration=(), progress=progress))


def _inspect(request: Request) -> Inspection:
    cleaned = clean(request)
    graph = cleaned.graph
    sizes = bind_dims(graph, request.example)
    request.stages.progress("inspect", f"target {request.target.name}")
    return Inspection(
        target=request.target.name,
        model=summary(request, graph),
        peak_nbytes=liveness(graph, sizes).peak_bytes,
        layers=_layers(request, cleaned.layers, sizes),
        ops=_ops(graph, sizes),
        passes=cleaned.records,
        skipped=tuple(f"{s.name}: {s.reason}" for s in cleaned.skipped),
        attention=attention_sites(graph),
        unsupported=_unsupported(refused_nodes(request.target, graph, sizes)),
    )


def _layers(request: Request, layers: Sequence[Layer], sizes: Mapping[str, int]) -> tuple[InspectedLayer, ...]:
    candidates = list_candidates(layers, request.pipeline, request.target, calibrated=False, times="here")
    found: list[InspectedLayer] = []
    for layer in layers:
        options, refused, kept = candidates[layer.name]
        reasons = (*refused, kept) if kept else refused
        bad = not_finite(layer)
        if bad:
            options, reasons = (), (f"expected finite weights; found {bad} NaN or infinity; repair the checkpoint",)
        shape, nbytes, work = layer.shape, layer.weight.handle.nbytes, 2 * layer.macs(sizes)
        found.append(InspectedLayer(layer.name, layer.kind, shape, nbytes, work, _kernels(options), reasons))
    return tuple(found)


def _kernels(options: Sequence[Option]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for option in options:
        found.setdefault(option.kernel, {})[option.format] = None
    return {kernel: tuple(formats) for kernel, formats in found.items()}


def _ops(graph: Graph, sizes: Mapping[str, int]) -> tuple[InspectedOp, ...]:
    work, moved = flops(graph, sizes), bytes_moved(graph, sizes)
    nodes: dict[str, list[Node]] = {}
    for node in graph.nodes():
        if node.op not in (INPUT, CONSTANT, GETITEM):
            nodes.setdefault(node.op.short_name, []).append(node)
    found = [
        InspectedOp(name, len(group), sum(work[n] for n in group), sum(moved[n] for n in group))
        for name, group in nodes.items()
    ]
    return tuple(sorted(found, key=lambda op: (-op.flops, -op.nbytes_moved, op.name)))


def _unsupported(nodes: Sequence[Node]) -> tuple[Unsupported, ...]:
    places: dict[str, dict[str, None]] = {}
    for node in nodes:
        places.setdefault(operator_words(node), {})[str(node.origin)] = None
    return tuple(Unsupported(op, tuple(where)) for op, where in places.items())
