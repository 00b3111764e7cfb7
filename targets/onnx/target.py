"""The ONNX target: what ONNX Runtime's CPU kernels run fast, and nothing that they run slowly without saying so."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import ConfigError, LoweringError, said_by
from ...ir.evaluate import bind_dims
from ...ir.graph import Graph, Node
from ...ir.layers import Layer, Use
from ...ir.op import CONSTANT, GETITEM, INPUT
from ...ir.options import KEPT, Activation, Option
from ...ir.plan import Plan
from ...passes.base import Pass
from ...passes.formats import format as parse_format
from ...passes.run import run_passes
from ..base import Artifact, BundleSummary, Candidates, Latencies, Target
from ..legalize import legalize
from .artifact import OnnxArtifact
from .border_cases import border_cases, runs_of
from .cases import LayerCases
from .device import elsewhere
from .device.networks import float_label, kernel_networks
from .device.profile import Device
from .device.writing import write
from .dtypes import without_kernels
from .inspect import untranslatable
from .kernels import kernels
from .kernels.attention import UNFUSED
from .kernels.nbits import ACCURACY_LEVEL
from .kernels.offers import EIGHT_BITS, EXACT_ROWS, in_float32
from .kernels.softmax import CLAMPED
from .latency import CasesByOption, LatencyTable, all_cases, layer_latencies
from .legalize import passes
from .lower import lower
from .options import OnnxOptions
from .runtimes.kept import lacks
from .runtimes.reach import check_reach
from .session import products_saturate
from .spellings import choose, fused_gain_ms, ways


class OnnxTarget:
    """ONNX for ONNX Runtime on a CPU."""

    name = "onnx"

    def __init__(self, options: OnnxOptions) -> None:
        self.options = options
        self.device = Device.load(options.profile).with_threads(options.threads) if options.profile else None
        self._reference: tuple[OnnxArtifact, float] | None = None
        self._offered: Mapping[str, Sequence[Option]] = {}
        self._attention_ms: float | None = None

    # ------------------------------------------------------------------------------------------ options
    @property
    def plan_options(self) -> Mapping[str, Any]:
        """Operator set, IR version, kernels' options, and how attention and masked scores are written."""
        opset, ir_version = self.options.versions
        return {
            "opset": opset,
            "ir_version": ir_version,
            "accuracy_level": self.options.accuracy_level or ACCURACY_LEVEL,
            "masked_softmax": self.options.masked_softmax or CLAMPED,
            "attention": self.options.attention or UNFUSED,
        } | ({"runtime": self.options.runtime} if self.options.runtime else {})

    def candidates(
        self, layer: Layer, formats: Sequence[str], activations: Sequence[Activation], encoder: str
    ) -> Candidates:
        """Every format under every kernel that can run it fast; refusals say why not."""
        options: list[Option] = []
        refused: list[str] = []
        for text in formats:
            chosen = parse_format(text)
            reason = chosen.refuses(layer.stored_shape)
            if reason is not None:
                refused.append(said_by(text, reason))
                continue
            for kernel in kernels():
                found = kernel.offers(layer, chosen, encoder, activations) if kernel.offers else Candidates(())
                found = in_float32(layer, found)
                lacking = lacks(self.options.runtime, *kernel.requires) if found.options else ""
                options += () if lacking else found.options
                refused += (f"{text}: kernel {kernel.name} uses {lacking}",) if lacking else found.refused
        return Candidates(tuple(options), tuple(dict.fromkeys(refused)))

    def stand_ins(self, formats: Sequence[str], *, elsewhere: bool) -> tuple[str, ...]:
        """Seven bits where eight saturate, or may do so on a device that has not been asked."""
        saturate = elsewhere or products_saturate() or (self.device is not None and self.device.saturates)
        return (EXACT_ROWS,) if saturate and EIGHT_BITS in formats and EXACT_ROWS not in formats else ()

    def stored_nbytes(self, layer: Layer, option: Option, format_nbytes: int) -> int:
        """Codes, scales and zero points are stored as the format has them."""
        del layer, option
        return format_nbytes

    # ------------------------------------------------------------------------------------------ latency
    def latencies(
        self, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Sequence[Tensor]
    ) -> Latencies:
        """Time the float export of the model and every distinct (shape, kernel) under ONNX Runtime."""
        found = self._cases(graph, layers, options, inputs)
        if self.device is not None:
            offered = self._offered or options
            return elsewhere.latencies(self.device, graph, layers, options, inputs, found, self.plan_options, offered)
        table = self._table()
        plain, in_float = (self._baseline(graph, inputs, plain=way) for way in (True, False))
        for artifact in (plain, in_float):
            artifact.compare(graph, [inputs])
        original, whole = plain.interleaved_ms(in_float, inputs)
        plain.unload()
        in_float.unload()
        self._reference = (plain, original)
        between = border_cases(graph, layers, options, bind_dims(graph, inputs), self.options)
        times = table.milliseconds((*all_cases(found), *between.cases))
        device = table.profile
        source = f"{device.runtime}, {device.cpu}, {device.threads} thread(s), example inputs"
        runs = runs_of(between, options, times)
        return Latencies(original, whole, layer_latencies(found, times), source, runs=runs)

    def _cases(
        self, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Sequence[Tensor]
    ) -> CasesByOption:
        """Layer -> option, the original among them -> the cases of its uses; none where all options run alike."""
        cases = LayerCases(bind_dims(graph, inputs), self.options)
        return {
            layer.name: {
                o: [cases.case(layer, use, o) for use in _timed(layer, options[layer.name])]
                for o in (KEPT, *options[layer.name])
            }
            for layer in layers
        }

    def refused_elsewhere(
        self, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Sequence[Tensor]
    ) -> Mapping[str, Mapping[Option, str]]:
        """Options that the device of the profile does not run, in its runtime's words."""
        if self.device is None:
            return {}
        self._offered = options
        ways = self._spelled_ways(graph, inputs)
        elsewhere.require_networks(self.device, graph, layers, options, inputs, list(ways.values()))
        return elsewhere.refused(self.device, self._cases(graph, layers, options, inputs))

    def write_bundle(
        self,
        folder: str | os.PathLike[str],
        graph: Graph,
        layers: Sequence[Layer],
        options: Mapping[str, Sequence[Option]],
        shapes: Sequence[Sequence[Tensor]],
        build: Callable[[Target, Mapping[str, Option]], Artifact],
    ) -> BundleSummary:
        """Single layers as they are emitted and whole networks, with a script that needs numpy and onnxruntime."""
        if self.device is not None:
            raise ConfigError(
                "target_options.profile: expected none, found one: this writes what it is made of; remove it"
            )
        found = [self._cases(graph, layers, options, inputs) for inputs in shapes]
        return write(self, Path(folder), graph, kernel_networks(layers, options), found, shapes, build)

    def spelled(self, options: Mapping[str, Any]) -> OnnxTarget:
        """This target with some options of spelling decided."""
        target = OnnxTarget(replace(self.options, **options))
        target._offered, target._attention_ms = self._offered, self._attention_ms
        return target

    def latency_ms(self, artifact: Artifact, inputs: Sequence[Tensor]) -> float:
        """Milliseconds of an artifact on the scale of :meth:`latencies`.

        The artifact takes turns with the original and the ratio counts: a busy machine is slow for both.
        """
        if self._reference is None or not isinstance(artifact, OnnxArtifact):
            return artifact.latency_ms(inputs)
        original, milliseconds = self._reference
        first, second = artifact.interleaved_ms(original, inputs)
        original.unload()  # a loaded original would count in the peak of all that follows
        return milliseconds * first / max(second, 1e-9)

    def tuned(self, graph: Graph, inputs: Sequence[Tensor]) -> OnnxTarget:
        """With attention and masked scores written as is fastest on these inputs, where the user left it open."""
        if self.device is None:
            chosen = self.spelled(choose(graph, inputs, self._table(), self.options))
            chosen._attention_ms = fused_gain_ms(graph, inputs, self._table(), chosen.options)
            return chosen
        labels = self._spelled_ways(graph, inputs)
        return self.spelled(dict(elsewhere.fastest(self.device, graph, inputs, labels)))

    def _spelled_ways(self, graph: Graph, inputs: Sequence[Tensor]) -> dict[tuple[tuple[str, str], ...], str]:
        """Spellings to choose among, as options, and the labels of the float networks in them."""
        tried = map(_items, ways(graph, inputs, self.options))
        return {way: float_label(self.spelled(dict(way)).plan_options) for way in tried}

    def _table(self) -> LatencyTable:
        return LatencyTable(self.options.threads, cache=self.options.cache)

    # ------------------------------------------------------------------------------------------ lowering
    def build_plain(self, graph: Graph, inputs: Sequence[Tensor]) -> OnnxArtifact:
        """The graph as torch.onnx exports it by itself: the original that percentages of latency refer to."""
        return self._checked(graph, inputs, plain=True)

    def build_float(self, graph: Graph, inputs: Sequence[Tensor]) -> OnnxArtifact:
        """The graph with every layer in float, as this target spells it."""
        return self._checked(graph, inputs, plain=False)

    def _checked(self, graph: Graph, inputs: Sequence[Tensor], *, plain: bool) -> OnnxArtifact:
        artifact = self._baseline(graph, inputs, plain=plain)
        artifact.check(graph, [inputs])
        return artifact

    def _baseline(self, graph: Graph, inputs: Sequence[Tensor], *, plain: bool) -> OnnxArtifact:
        """Weights lie in a temporary file, which the runtime maps, and not in memory twice.

        Passes are not compared one by one: the file as a whole is.
        """
        plan = Plan((), graph.fingerprint(), self.name)
        options = replace(self.options, external_data="always")
        legal = graph if plain else legalize(self, graph, plan)[0]
        return OnnxArtifact(lower(legal, plan, [inputs], options, plain=plain), plan, options)

    def without_kernels(self, graph: Graph) -> tuple[str, ...]:
        """Floating dtypes that ONNX Runtime cannot compute this graph in."""
        return without_kernels(graph)

    def unsupported(self, graph: Graph, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """Nodes that cannot be written as ONNX, after legalisation; all are doubted where a runtime lacks some."""
        legal = run_passes(graph, passes(self.options))[0]
        found = untranslatable(legal, sizes, self.options.versions[0])
        if found or self.options.runtime is None or self._is_in_reach(legal, sizes):
            return found
        return tuple(node for node in legal.nodes() if node.op not in (INPUT, CONSTANT, GETITEM))

    def _is_in_reach(self, legal: Graph, sizes: Mapping[str, int]) -> bool:
        kinds = [node.tensor_type for node in legal.inputs]
        examples = [torch.zeros(kind.sizes(sizes), dtype=kind.dtype) for kind in kinds]
        try:
            self.build(legal, Plan((), legal.fingerprint(), self.name), [examples])
        except LoweringError:
            return False
        return True

    def passes(self, plan: Plan) -> tuple[Pass, ...]:
        """Quantized patterns become kernels, slow spellings fast ones."""
        del plan
        return passes(self.options)

    def build(self, legal: Graph, plan: Plan, examples: Sequence[Sequence[Tensor]]) -> OnnxArtifact:
        """Export.

        Raises:
            LoweringError: says which op failed, or what the runtime to keep to lacks.
        """
        artifact = OnnxArtifact(lower(legal, plan, examples, self.options), plan, self.options)
        artifact.attention_ms = self._attention_ms
        artifact.device_notes = self.device.notes(self.options.runtime) if self.device is not None else ()
        if self.options.runtime is not None:
            check_reach(self.options.runtime, artifact.reach)
        return artifact


def _timed(layer: Layer, options: Sequence[Option]) -> Sequence[Use]:
    """The uses whose time an option changes: none where weights are only stored in another way."""
    return () if layer.only_stored and all(o.activation.is_none for o in options) else layer.uses


def _items(options: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(options.items())
