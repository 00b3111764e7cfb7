"""What the target produces: commands for the accelerator, judged by executing them on real values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ir.errors import LoweringError
from ...ir.evaluate import evaluate
from ...ir.files import atomic_write_bytes, atomic_write_text
from ...ir.graph import Graph
from ...ir.machine_picture import MachinePicture
from ...schedulers.scratchpad.commands import Listing
from ...schedulers.scratchpad.executor import Execution, execute, off_chip_image
from ...schedulers.scratchpad.picture import picture_of
from ...schedulers.scratchpad.planning import Planned
from ...schedulers.scratchpad.reasons import Spill, sentences, spills
from ..base import CheckResult
from ..compare import relative_error
from .describe import Described
from .execution import GraphKernels, host_after
from .header import header
from .host import LOOK_UPS
from .integer_forms import FUNCTIONS
from .settings import Settings
from .tables import Tables, dump, tables_of

FLOAT_TOLERANCE = 1e-6
"""Where products or functions are left in float."""


class ScratchpadArtifact:
    """Commands, with the network that they compute."""

    def __init__(self, described: Described, planned: Planned, settings: Settings) -> None:
        if planned.listing is None:
            raise ValueError("an artifact needs commands")
        self.described, self.planned, self.settings = described, planned, settings
        self.listing: Listing = planned.listing
        self._checks: list[CheckResult] = []
        self.remarks: list[str] = []

    @property
    def nbytes(self) -> int:
        """Constants as they lie off-chip; tables for people and firmware are not counted."""
        return sum(node.handle.nbytes for node in self.described.graph.constants())

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """The commands, executed, against the graph."""
        return tuple(self._checks)

    @cached_property
    def tables(self) -> Tables:
        """The program as it is written."""
        machine = self.settings.machine
        return tables_of(self.described, self.listing, self.planned.prediction, machine.name, machine.clock_hz)

    @cached_property
    def spills(self) -> tuple[Spill, ...]:
        """What leaves the chip and why."""
        return spills(self.listing)

    @cached_property
    def least_bytes(self) -> int:
        """The smallest budget with which there is a schedule of this kind."""
        return self.settings.least_bytes(self.described.problem)

    @property
    def notes(self) -> tuple[str, ...]:
        """The schedule in words: bytes, time, the least memory that would do, why something leaves the chip."""
        schedule = self.listing.program.schedule
        found = [
            f"{schedule.traffic.total_bytes} avoidable bytes move off-chip ({schedule.status}), peak "
            f"{schedule.peak_bytes} of {schedule.budget_bytes} bytes; the smallest budget is {self.least_bytes} bytes",
            *self._time_notes(),
            *self._float_notes(),
            *self._host_notes(),
            *self.remarks,
            *sentences(self.spills),
        ]
        return tuple(found)

    def _time_notes(self) -> list[str]:
        known, clock = self.planned.prediction, self.settings.machine.clock_hz
        if known is None:
            return [f"no time was predicted: {self.planned.untimed}"] if self.planned.untimed else []
        cycles = known.timing.total_cycles
        return [f"{cycles:,.0f} cycles are predicted, {1e3 * cycles / clock:.3g} ms at {clock / 1e6:g} MHz"]

    def _float_notes(self) -> list[str]:
        floats = [
            tensor.name
            for tensor, layout in zip(self.described.problem.tensors, self.described.layouts, strict=True)
            if layout.dtype.is_floating_point
        ]
        if not floats:
            return []
        shown = ", ".join(floats[:4]) + (f" and {len(floats) - 4} more" if len(floats) > 4 else "")
        return [f"{len(floats)} values lie in memory as floats: {shown}"]

    def _host_notes(self) -> list[str]:
        """Tables that the accelerator never sees."""
        host = self.described.fused.host
        rows = [
            self.described.problem.tensors[self.described.stored[node]]
            for node in host.given
            if node in host.before and any(source in host.before and source.inputs for source in (node, *node.inputs))
        ]
        looked = [node for node in host.before if node.op.name in LOOK_UPS]
        if not looked:
            return []
        size = sum(tensor.size_bytes for tensor in rows)
        return [f"rows of {len(looked)} tables are looked up outside the accelerator, which reads {size} bytes of them"]

    def picture(self) -> MachinePicture:
        """Memory over time, DMA, core."""
        title = f"{self.described.problem.model} on {self.settings.machine.name}"
        clock = self.settings.machine.clock_hz
        return picture_of(self.listing, self.planned.prediction, title, sentences(self.spills, 40), clock)

    # ------------------------------------------------------------------------------------------ running
    def execute(self, inputs: Sequence[Tensor]) -> Execution:
        """The simulator's verdict on flat inputs: outputs, bytes, cycles.

        Raises:
            ScheduleError: a command read bytes while they changed.
        """
        with torch.no_grad():
            kernels = GraphKernels(self.described, inputs)
            machine = None if self.planned.prediction is None else self.settings.machine
            return execute(self.listing, kernels, machine, self.described.dtypes)

    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Flat outputs of the reference that the commands were checked against: fast."""
        with torch.no_grad():
            return evaluate(self.described.graph, inputs)

    def latency_ms(self, inputs: Sequence[Tensor]) -> float:
        """Predicted cycles over the clock.

        Raises:
            LoweringError: the machine's description gives no time; names the number that it lacks.
        """
        del inputs
        known = self.planned.prediction
        if known is None:
            raise LoweringError(f"scratchpad: expected a time, found none: {self.planned.untimed}")
        return 1e3 * known.timing.total_cycles / self.settings.machine.clock_hz

    def check(self, graph: Graph, examples: Sequence[Sequence[Tensor]]) -> None:
        """Execute the commands on the first example; compare with the reference bit for bit, then with the graph.

        Raises:
            LoweringError: outputs, bytes or cycles differ.
        """
        inputs = examples[0]
        found = self.execute(inputs)
        with torch.no_grad():
            wanted = self.run(inputs)
            outputs = host_after(self.described, found.outputs)
            exact = all(torch.equal(_plain(a), _plain(b)) for a, b in zip(wanted, outputs, strict=True))
            error = relative_error(wanted, outputs)
            rounding = relative_error(evaluate(graph, inputs), outputs)
        bound = 0.0 if self._exact_everywhere() else FLOAT_TOLERANCE
        same = 0.0 if exact else max(error, 1e-30)
        self._checks = [
            CheckResult("simulator", same, bound, "executed commands against the reference, bit for bit"),
            CheckResult("integers", rounding, float("inf"), "executed commands against the planned graph in float"),
            CheckResult("bytes", float(found.traffic != self._traffic()), 0.0, "counted by the simulator"),
            CheckResult("cycles", float(self._cycles_differ(found.cycles)), 0.0, "counted by the simulator"),
            CheckResult("peak", float(found.peak_bytes > self.listing.program.schedule.budget_bytes), 0.0, "in budget"),
        ]
        wrong = [result for result in self._checks if not result.passed]
        if wrong:
            raise LoweringError(
                f"scratchpad: expected commands that do what was planned; found {wrong[0].name}: {wrong[0].detail}, "
                f"off by {wrong[0].error:.3g}; report this"
            )

    def _traffic(self) -> Any:
        return self.listing.program.schedule.traffic

    def _cycles_differ(self, cycles: int | None) -> bool:
        known = self.planned.prediction
        return known is not None and known.timing.total_cycles != cycles

    def _exact_everywhere(self) -> bool:
        """Whether no torch kernel is left whose rounding may depend on where an element lies."""
        nodes = (node for op in self.described.fused.operators for node in op.nodes)
        floats = any(dtype not in ("", "int8") for dtype in self.described.dtypes)
        return not floats and not any(node.op.name in FUNCTIONS for node in nodes)

    # ------------------------------------------------------------------------------------------ files
    def save(self, path: str | os.PathLike[str]) -> list[str]:
        """Write the program: tables as JSON at ``path``, and beside it a C header and the off-chip image."""
        base = Path(path)
        files = {base: dump(self.tables), base.with_suffix(".h"): header(self.tables)}
        for file, text in files.items():
            atomic_write_text(file, text)
        image = base.with_suffix(".bin")
        atomic_write_bytes(image, self.image().tobytes())
        return [os.fspath(file) for file in (*files, image)]

    def image(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The off-chip memory before a run: constants, zeros elsewhere."""
        return off_chip_image(self.listing, GraphKernels.without_inputs(self.described))


def _plain(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value)
