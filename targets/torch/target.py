"""The torch target: the compiled graph as an ``nn.Module``. Runs every format and every activation quantization."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import LoweringError, said_by
from ...ir.evaluate import evaluate
from ...ir.files import atomic_path
from ...ir.fx_conversion import to_flat_module
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, EMBEDDING, Layer
from ...ir.options import NONE, WITHOUT_CODES, Activation, Option
from ...ir.plan import Plan
from ...ir.storage import save
from ...passes.base import Pass
from ...passes.formats import format as parse_format
from ..base import Artifact, Candidates, CheckResult, Latencies, LayerLatency, TargetOptions
from ..compare import relative_error

KERNEL = "torch"

TOLERANCE = 1e-6


class TorchTarget:
    """Weights are stored encoded and decoded at every call: small in memory and on disk, not faster than float."""

    name = "torch"

    def __init__(self, options: TargetOptions) -> None:
        self.options = options

    @property
    def plan_options(self) -> Mapping[str, Any]:
        """None: graph and weights are all there is."""
        return {}

    def candidates(
        self, layer: Layer, formats: Sequence[str], activations: Sequence[Activation], encoder: str
    ) -> Candidates:
        """Every format and activation that the layer's shape admits."""
        options: list[Option] = []
        refused: list[str] = []
        for text in formats:
            reason = parse_format(text).refuses(layer.stored_shape)
            if reason:
                refused.append(said_by(text, reason))
                continue
            plain = layer.only_stored or layer.kinds == {EMBEDDING} or text in WITHOUT_CODES
            allowed = (NONE,) if plain else activations
            how = "rtn" if text in WITHOUT_CODES else encoder
            options += [Option(text, how, a, KERNEL) for a in allowed if _allowed(layer, a)]
        return Candidates(tuple(options), tuple(refused))

    def stored_nbytes(self, layer: Layer, option: Option, format_nbytes: int) -> int:
        """What the format stores."""
        del layer, option
        return format_nbytes

    def tuned(self, graph: Graph, inputs: Sequence[Tensor]) -> TorchTarget:
        """Nothing is left open here."""
        del graph, inputs
        return self

    def latencies(
        self, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Sequence[Tensor]
    ) -> Latencies:
        """Time the float model, and per layer the decoding of its weight, which is what an option adds."""
        module = to_flat_module(graph)
        whole = median_ms(lambda: module(*inputs))
        table: dict[str, LayerLatency] = {}
        cache: dict[tuple[Any, ...], float] = {}
        for layer in layers:
            times = {o.name: self._decode_ms(layer, o, cache) for o in options[layer.name]}
            table[layer.name] = LayerLatency(0.0, times)
        return Latencies(
            whole, whole, table, f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), decoding measured"
        )

    def latency_ms(self, artifact: Artifact, inputs: Sequence[Tensor]) -> float:
        """Median milliseconds of the module."""
        return artifact.latency_ms(inputs)

    def _decode_ms(self, layer: Layer, option: Option, cache: dict[tuple[Any, ...], float]) -> float:
        if option.keeps_weight:
            return 0.0
        key = (layer.stored_shape, option.format)
        if key not in cache:
            chosen = parse_format(option.format)
            encoded = chosen.encode(layer.matrix().reshape(layer.stored_shape))
            cache[key] = median_ms(lambda: chosen.decode(encoded))
        return cache[key]

    def unsupported(self, graph: Graph, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """Nothing: torch runs every op that it captured."""
        del graph, sizes
        return ()

    def build_plain(self, graph: Graph, inputs: Sequence[Tensor]) -> TorchArtifact:
        """The graph as it is."""
        del inputs
        return TorchArtifact(graph)

    def passes(self, plan: Plan) -> tuple[Pass, ...]:
        """None: torch runs every op of the dialect."""
        del plan
        return ()

    def build(self, legal: Graph, plan: Plan, examples: Sequence[Sequence[Tensor]]) -> TorchArtifact:
        """The graph as a module."""
        del plan, examples
        return TorchArtifact(legal)


def _allowed(layer: Layer, activation: Activation) -> bool:
    return not activation.is_dynamic or layer.kind != CONV


class TorchArtifact:
    """A graph as a module that takes and returns flat tensors."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.module = to_flat_module(graph)
        self._checks: list[CheckResult] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all constants."""
        return sum(n.handle.nbytes for n in self.graph.constants())

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """The module against the graph's evaluation."""
        return tuple(self._checks)

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say: every layer runs as planned."""
        return ()

    def check(self, graph: Graph, examples: Sequence[Sequence[Tensor]]) -> None:
        """Run the module and the evaluator on the same inputs.

        Raises:
            LoweringError: they differ.
        """
        for number, inputs in enumerate(examples):
            with torch.no_grad():
                error = relative_error(evaluate(graph, inputs), self.run(inputs))
            result = CheckResult(f"example {number}", error, TOLERANCE, "the module against the graph")
            self._checks.append(result)
            if not result.passed:
                raise LoweringError(
                    f"torch: expected the module to agree with the graph within {TOLERANCE:.3g} on example {number}; "
                    f"found a relative error of {error:.3g}; report this"
                )

    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Flat outputs."""
        with torch.no_grad():
            return list(self.module(*inputs))

    def latency_ms(self, inputs: Sequence[Tensor]) -> float:
        """Median milliseconds per run with torch's current number of threads."""
        return median_ms(lambda: self.run(inputs))

    def save(self, path: str | os.PathLike[str]) -> list[str]:
        """Write graph and weights as one safetensors file that ``instar.load`` reads back."""
        with atomic_path(path) as temporary:
            save(self.graph, temporary)
        return [os.fspath(path)]


def median_ms(call: Callable[[], Any], runs: int = 9, warmup: int = 2) -> float:
    """Median milliseconds of a call."""
    for _ in range(warmup):
        call()
    times: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
