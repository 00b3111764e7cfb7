"""The scratchpad target: programs for accelerators whose fast memory is managed by software, judged by a simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...ir.analysis import flops
from ...ir.errors import LoweringError, said_by
from ...ir.evaluate import bind_dims
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, EMBEDDING, LINEAR, Layer
from ...ir.machine_file import machine as load_machine
from ...ir.options import AS_IT_WAS, STATIC_INT8, WITHOUT_CODES, Activation, Arithmetic, Option
from ...ir.plan import Plan
from ...passes.base import Pass
from ...passes.formats import Format, IntFormat
from ...passes.formats import format as parse_format
from ...schedulers.scratchpad.planning import Planned, PlanOptions
from ...schedulers.scratchpad.planning import plan as plan_schedule
from ..base import Artifact, Candidates, Latencies, LayerLatency
from ..legalize import legalize
from .artifact import ScratchpadArtifact
from .describe import describe
from .integer_forms import IntegerForms
from .options import ScratchpadOptions
from .parts import SeparateParts
from .residency import Residency
from .settings import Settings

KERNEL = "array"
FLOAT_KERNEL = "float_array"
HOST_KERNEL = "host"

FLOAT_PRODUCTS = 4
"""Integer products that one of floats is charged as where its rate is unknown; only percentages follow from it."""


class ScratchpadTarget:
    """Weights in few bits, products in integers, values between operators as codes."""

    name = "scratchpad"
    least_layer_elements = 1

    def __init__(self, options: ScratchpadOptions) -> None:
        self.options = options
        self.machine = load_machine(options.machine)
        if options.scratchpad_bytes is not None:
            self.machine = self.machine.with_budget(options.scratchpad_bytes)

    @property
    def plan_options(self) -> Mapping[str, Any]:
        """The machine, and what a schedule may do."""
        return {
            "machine": self.options.machine,
            "scratchpad_bytes": self.options.scratchpad_bytes,
            "min_rows": self.options.min_rows,
            "objective": self.options.objective,
            "tiles": self.options.tiles,
        }

    @property
    def settings(self) -> Settings:
        """How networks are scheduled."""
        chosen = self.options
        wanted = PlanOptions(chosen.objective, chosen.min_rows, chosen.solver_time_s, tiles=chosen.tiles, seed=0)
        return Settings(self.machine, wanted)

    @property
    def widths_loss(self) -> float | None:
        """See :class:`~.options.ScratchpadOptions`."""
        return self.options.widths_loss

    def residency(self, artifact: Artifact, sizes: Mapping[str, int]) -> Residency:
        """What other bytes of an artifact's layers would move."""
        if not isinstance(artifact, ScratchpadArtifact):
            raise TypeError(f"expected an artifact of this target, found {type(artifact).__name__}")
        return Residency(artifact.described, self.settings, sizes)

    def moved_bytes(self, artifact: Artifact) -> int:
        """Weights and spills that cross the border in one run."""
        if not isinstance(artifact, ScratchpadArtifact):
            raise TypeError(f"expected an artifact of this target, found {type(artifact).__name__}")
        traffic = artifact.planned.schedule.traffic
        return traffic.total_bytes + traffic.weight_bytes

    def remark(self, artifact: Artifact, text: str) -> None:
        """A sentence for the notes of an artifact."""
        if isinstance(artifact, ScratchpadArtifact):
            artifact.remarks.append(text)

    # ------------------------------------------------------------------------------------------ options
    def candidates(
        self, layer: Layer, formats: Sequence[str], activations: Sequence[Activation], encoder: str
    ) -> Candidates:
        """Signed integers of 2 to 8 bits on values rounded to calibrated codes; floats where the machine has a rate."""
        del activations  # the array reads codes and nothing else
        options: list[Option] = []
        refused: list[str] = []
        for text in formats:
            chosen = parse_format(text)
            reason = chosen.refuses(layer.stored_shape) or self._refusal(layer, chosen)
            if layer.kinds == {EMBEDDING} and not chosen.refuses(layer.stored_shape):
                options.append(_on_the_host(text, encoder))
            elif reason:
                refused.append(said_by(text, reason))
            elif text == AS_IT_WAS:
                options.append(Option(text, kernel=FLOAT_KERNEL))
            else:
                rows = Arithmetic.CODES if isinstance(chosen, IntFormat) and not chosen.group else Arithmetic.INT8_ROWS
                options.append(Option(text, encoder, STATIC_INT8, KERNEL, rows))
        return Candidates(tuple(options), tuple(refused))

    def _refusal(self, layer: Layer, chosen: Format) -> str:
        if chosen.spelling == AS_IT_WAS:
            known = "float32" in self.machine.macs_per_cycle
            unknown = f"{self.machine.name} has no rate for float products; give macs_per_cycle.float32 or quantize"
            return "" if known else unknown
        if not isinstance(chosen, IntFormat) or chosen.asymmetric:
            return "the array takes signed integers without zero points"
        if not layer.kinds <= {CONV, LINEAR, EMBEDDING}:
            return f"{', '.join(sorted(layer.kinds))} is not computed by the array"
        if any(isinstance(use.node.argument("padding"), str) for use in layer.uses if use.kind == CONV):
            return "padding given as a word"
        return ""

    def stored_nbytes(self, layer: Layer, option: Option, format_nbytes: int) -> int:
        """What the format stores."""
        del layer, option
        return format_nbytes

    def tuned(self, graph: Graph, inputs: Sequence[Tensor]) -> ScratchpadTarget:
        """Nothing is left open here."""
        del graph, inputs
        return self

    # ------------------------------------------------------------------------------------------ latency
    def latencies(
        self, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Sequence[Tensor]
    ) -> Latencies:
        """Predicted, not measured: what a layer's array and the first read of its weight take, whichever is longer.

        The original is the model in float; where the machine has no rate for float products, one is charged as four of
        integers. What counts in the end is the predicted time of the whole program.

        Raises:
            ConfigError: the machine's description lacks what a time needs; it is named.
        """
        sizes = bind_dims(graph, inputs)
        counts = flops(graph, sizes)
        table: dict[str, LayerLatency] = {}
        for layer in layers:
            if layer.kinds == {EMBEDDING}:
                table[layer.name] = LayerLatency(0.0, {option.name: 0.0 for option in options[layer.name]})
                continue
            macs = sum(counts[use.node] // 2 for use in layer.uses)
            original = self._layer_ms(macs, layer.weight.handle.nbytes, "float32")
            table[layer.name] = LayerLatency(
                original,
                {
                    option.name: self._layer_ms(macs, parse_format(option.format).nbytes(layer.stored_shape), "int8")
                    if not option.keeps_weight
                    else original
                    for option in options[layer.name]
                },
            )
        whole = sum(known.original_ms for known in table.values())
        source = f"predicted for {self.machine.name}; in float a weight has four bytes"
        if "float32" not in self.machine.macs_per_cycle:
            source += f" and a product is charged as {FLOAT_PRODUCTS} of integers, because no rate is known"
        return Latencies(whole, whole, table, source)

    def _layer_ms(self, macs: int, weight_bytes: int, dtype: str) -> float:
        machine = self.machine
        known = dtype in machine.macs_per_cycle
        products = machine.compute_cycles(macs, dtype) if known else machine.compute_cycles(FLOAT_PRODUCTS * macs)
        moving = weight_bytes / float(machine.bytes_per_cycle(machine.slow, "read"))
        return 1e3 * max(products, moving) / machine.clock_hz

    def latency_ms(self, artifact: Artifact, inputs: Sequence[Tensor]) -> float:
        """Predicted cycles over the clock."""
        return artifact.latency_ms(inputs)

    # ------------------------------------------------------------------------------------------ lowering
    def unsupported(self, graph: Graph, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """None: what has no integer form runs in float and whole."""
        del graph, sizes
        return ()

    def build_plain(self, graph: Graph, inputs: Sequence[Tensor]) -> ScratchpadArtifact:
        """The model in float on this machine.

        Raises:
            LoweringError: it cannot be described or scheduled.
        """
        plan = Plan((), graph.fingerprint(), self.name)
        return self.build(legalize(self, graph, plan, [inputs])[0], plan, [inputs])

    def passes(self, plan: Plan) -> tuple[Pass, ...]:
        """Values are taken apart piece by piece, products of rounded values become integer sums."""
        del plan
        return (SeparateParts(), IntegerForms())

    def build(self, legal: Graph, plan: Plan, examples: Sequence[Sequence[Tensor]]) -> ScratchpadArtifact:
        """Describe, schedule, place.

        Raises:
            LoweringError: the graph cannot be described, or there is no schedule within the budget.
        """
        del plan, examples
        described = describe(legal, channel_brick=self.machine.channel_brick)
        found = plan_schedule(described.problem, self.machine, self.settings.options, described.dtypes)
        if found.program is None:
            raise LoweringError(self._refused(found))
        return ScratchpadArtifact(described, found, self.settings)

    def _refused(self, found: Planned) -> str:
        """Why there is no schedule, and what would do."""
        schedule = found.schedule
        if schedule.infeasible is None:
            return (
                f"scratchpad: expected a schedule within {self.options.solver_time_s:g} s, found none; raise "
                f"target_options.solver_time_s or scratchpad_bytes"
            )
        return (
            f"scratchpad: expected the network to fit {schedule.budget_bytes} bytes, found that operator "
            f"{schedule.infeasible.operator!r} needs more; the smallest budget is "
            f"{schedule.infeasible.smallest_budget_bytes} bytes"
        )


def _on_the_host(text: str, encoder: str) -> Option:
    """A table whose rows are looked up before the run: whatever can be decoded."""
    return Option(text, kernel=HOST_KERNEL) if text in WITHOUT_CODES else Option(text, encoder, kernel=HOST_KERNEL)
