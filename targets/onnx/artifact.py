"""An ONNX model that was loaded, run and compared with the graph it was lowered from."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from ...ir.errors import ConfigError, LoweringError
from ...ir.evaluate import bind_dims, evaluate
from ...ir.files import atomic_write_bytes
from ...ir.graph import Graph, Node
from ...ir.layers import EMBEDDING
from ...ir.memory import trim_memory
from ...ir.options import Arithmetic
from ...ir.plan import Plan
from ...passes.formats import format as parse_format
from ..base import CheckResult
from ..compare import amplified, difference, relative_error, rounding_bound
from .culprit import file_fails, located
from .dtypes import FILE_DTYPES, array_of, tensor_of
from .external import check_file, save_external
from .given_up import given_up
from .lower import Lowered
from .options import OnnxOptions
from .resize import other_sizes, valid_inputs
from .runtimes.reach import Reach, reach_of, skeleton
from .session import STEADY, check_kernels, clock_of, executed_kernels, interleaved_ms, make_session, run

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes above which weights go into a file of their own."""


class OnnxArtifact:
    """An ONNX model, loaded when it is first run."""

    def __init__(self, lowered: Lowered, plan: Plan, options: OnnxOptions) -> None:
        self.lowered = lowered
        self.plan = plan
        self.options = options
        self._external = self._is_external()
        self._folder = tempfile.TemporaryDirectory(prefix="instar-") if self._external else None
        self._data = self._serialize()
        self._checks: list[CheckResult] = []
        self._notes: list[str] = []
        self.attention_ms: float | None = None
        """Milliseconds that attention as one kernel would save; None where that was not measured."""
        self.device_notes: tuple[str, ...] = ()
        """What a reader should know of the device that the plan was made for."""

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return make_session(self._data, threads=self.options.threads)

    @cached_property
    def reach(self) -> Reach:
        """The least ONNX Runtime that loads the model, and why no older one does."""
        return reach_of(skeleton(self.lowered.model))

    def unload(self) -> None:
        """Drop the loaded model and what the runtime holds for it; the next run loads it again."""
        self.__dict__.pop("_session", None)
        trim_memory()

    def _is_external(self) -> bool:
        """Whether weights go into a file of their own: on request, and where one file cannot hold them.

        Raises:
            LoweringError: one file was asked for and cannot hold them.
        """
        asked = self.options.external_data
        weights = sum(n.handle.nbytes for n in self.lowered.graph.constants())
        if asked == "never" and weights > PROTOBUF_LIMIT:
            raise LoweringError(
                f"onnx: expected at most 2 GB in one file, found {weights / 1e9:.2f} GB of weights; "
                "set target_options.external_data to 'auto'"
            )
        return asked == "always" or weights > PROTOBUF_LIMIT

    def _serialize(self) -> bytes | str:
        """The model's bytes, or its path in a temporary folder where weights lie beside it."""
        if self._folder is None:
            return self.lowered.proto().SerializeToString(deterministic=True)
        path = Path(self._folder.name) / "model.onnx"
        save_external(self.lowered.model, path)
        check_file(path)
        return str(path)

    @property
    def nbytes(self) -> int:
        """Bytes of the model file, and of its weights' file where there is one."""
        if isinstance(self._data, bytes):
            return len(self._data)
        return sum(file.stat().st_size for file in Path(self._data).parent.iterdir())

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """Comparisons with the graph at several sizes."""
        return tuple(self._checks)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not lowered as a reader might expect."""
        found: list[str] = []
        stored = [d for d in self.plan.decisions if not d.chosen.option.keeps_weight and d.kind != EMBEDDING]
        in_float = [d.chosen.option for d in stored if d.chosen.option.arithmetic is Arithmetic.FLOAT]
        expanded = [option for option in in_float if parse_format(option.format).is_dense]
        found.append(f"loads in {self.reach}")
        found += given_up(self.lowered.graph, self.options.runtime, self.attention_ms)
        found += self.device_notes
        if expanded:
            found.append(
                f"{len(expanded)} layers are stored small and expanded to float while the model loads: the file "
                "shrinks, the memory and the time of a run do not"
            )
        graph = self.lowered.graph
        if any(n.tensor_type.dtype in FILE_DTYPES for n in (*graph.inputs, *graph.output_nodes)):
            found.append("the file takes and gives float32 in place of bfloat16, which numpy does not have")
        if any(n.tensor_type.dtype.is_complex for n in (*graph.inputs, *graph.output_nodes)):
            found.append("the file takes and gives complex numbers as a last axis of real and imaginary parts")
        return (*found, *self._notes)

    # -------------------------------------------------------------------------------------------- running
    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Flat outputs in the order of the graph's outputs.

        Raises:
            PassError: an input has another dtype or size than the graph takes.
        """
        sizes = bind_dims(self.lowered.graph, inputs)
        found = iter(run(self._session, self._feeds(inputs)))
        return [
            tensor_of(next(found), o.tensor_type.dtype) if isinstance(o, Node) else _plain(o, sizes)
            for o in self.lowered.graph.outputs
        ]

    def _feeds(self, inputs: Sequence[Tensor]) -> dict[str, Any]:
        present = {i.name for i in self._session.get_inputs()}
        pairs = zip(self.lowered.input_names, inputs, strict=True)
        return {name: array_of(value) for name, value in pairs if name in present}

    def latency_ms(self, inputs: Sequence[Tensor]) -> float:
        """Median milliseconds of a run."""
        feeds = self._feeds(inputs)
        call = lambda: self._session.run(None, feeds)  # noqa: E731
        clock = clock_of(self.options.threads)
        return interleaved_ms([call], seconds=0.6, least=11, estimate=statistics.median, clock=clock)[0]

    def interleaved_ms(self, other: OnnxArtifact, inputs: Sequence[Tensor]) -> tuple[float, float]:
        """Median milliseconds of this artifact and of another, taking turns."""
        pairs = [(a._session, a._feeds(inputs)) for a in (self, other)]
        calls = [partial(session.run, None, feeds) for session, feeds in pairs]
        clock = clock_of(self.options.threads)
        first, second = interleaved_ms(
            calls, seconds=0.6, least=11, estimate=statistics.median, clock=clock, steady=STEADY
        )
        return first, second

    # -------------------------------------------------------------------------------------------- checks
    def check(self, graph: Graph, examples: Sequence[Sequence[Tensor]]) -> None:
        """Compare with a graph on the examples and at other sizes, and see which kernels ran.

        Raises:
            LoweringError: see :meth:`compare`, or a planned kernel was not used.
        """
        self.compare(graph, examples, elsewhere=True)
        feeds = self._feeds(examples[0])
        check_kernels(executed_kernels(self._data, feeds, threads=self.options.threads), self.lowered.expected)

    def compare(self, graph: Graph, examples: Sequence[Sequence[Tensor]], *, elsewhere: bool = False) -> None:
        """Compare with a graph on the examples, and at other sizes where asked.

        Raises:
            LoweringError: the runtime refuses the file, or an output differs by more than its bound; names the user's
                line.
        """
        try:
            self._compare_all(graph, examples, elsewhere=elsewhere)
        except LoweringError as problem:
            bound = rounding_bound(self.plan, graph)
            fails = file_fails(self.plan, examples[0], self.options, bound)
            raise located(problem, self.lowered.graph, fails) from problem

    def _compare_all(self, graph: Graph, examples: Sequence[Sequence[Tensor]], *, elsewhere: bool) -> None:
        for number, inputs in enumerate(examples):
            self._compare(graph, f"example {number}", inputs, _outputs(graph, inputs))
        for sizes in other_sizes(graph, examples[0]) if elsewhere else ():
            label = ", ".join(f"{k}={v}" for k, v in sorted(sizes.items()))
            valid = valid_inputs(graph, examples[0], sizes)
            if valid is None:
                self._notes.append(
                    f"not compared at {label}: the model itself cannot compute with the example made longer or "
                    f"shorter; "
                    "values of an input may be positions in another one; give calibration batches of other sizes"
                )
            else:
                self._compare(graph, label, *valid)

    def _compare(self, graph: Graph, label: str, inputs: Sequence[Tensor], expected: Sequence[Any]) -> None:
        found = self.run(inputs)
        bound = rounding_bound(self.plan, graph)
        error = relative_error(expected, found)
        if bound < error < float("inf"):
            error, bound = self._worst(expected, found, amplified(graph, inputs, expected, bound))
        result = CheckResult(label, error, bound, "onnxruntime against the graph")
        self._checks.append(result)
        if not result.passed:
            raise LoweringError(
                f"onnx: expected the exported model to agree with the graph within {result.bound:.3g} at {label}; "
                f"found {difference(expected, found, self.lowered.output_names)}"
            )

    @staticmethod
    def _worst(expected: Sequence[Any], found: Sequence[Any], bounds: Sequence[float]) -> tuple[float, float]:
        """Error and bound of the output that is furthest outside of its bound."""
        errors = [relative_error([a], [b]) for a, b in zip(expected, found, strict=True)]
        return max(zip(errors, bounds, strict=True), key=lambda pair: pair[0] / pair[1])

    # -------------------------------------------------------------------------------------------- saving
    def save(self, path: str | os.PathLike[str]) -> list[str]:
        """Write the model; weights above 2 GB, or on request, go into ``<path>.data`` beside it."""
        target = Path(path)
        if target.suffix != ".onnx":
            raise ConfigError(f"{target}: expected a file name that ends in .onnx")
        if not isinstance(self._data, bytes):
            return save_external(self.lowered.model, target)
        atomic_write_bytes(target, self._data)
        return [str(target)]


def _outputs(graph: Graph, inputs: Sequence[Tensor]) -> list[Any]:
    with torch.no_grad():
        return evaluate(graph, inputs)


def _plain(value: Any, sizes: dict[str, int]) -> Any:
    import sympy

    from ...ir.types import evaluate_expression

    return evaluate_expression(value, sizes) if isinstance(value, sympy.Expr) else value
