"""A check bundle of a compiled model, and what a device answered to it: predicted against confirmed."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compilation.compiled import Compiled
from ..compilation.workloads import Timing, Workload
from ..ir.errors import ConfigError
from ..ir.files import atomic_write_json
from ..ir.resources import LATENCY

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..report import Report
    from ..targets.onnx.device.check import Confirmation, Predicted


@dataclass(frozen=True)
class Confirmed:
    """What a device confirmed.

    Attributes:
        found: predicted and measured, and what is not as promised.
        folder: of the bundle's manifest.
    """

    found: Confirmation
    folder: Path

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it was promised; empty where size and outputs are."""
        return self.found.problems

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {"instar_confirmed": 1, **asdict(self.found), "problems": list(self.problems)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, atomically."""
        atomic_write_json(path, self.to_json())

    def lines(self) -> list[str]:
        """Predicted against confirmed, a sentence for every shape, and what is not as promised."""
        found = self.found
        told = [f"confirmed on {found.runtime}, {found.cpu}, {found.threads} thread(s): {found.nbytes} bytes"]
        for shape in found.shapes:
            if shape.median_ms is not None:
                known = shape.predicted.artifact_ms
                beside = "nothing was predicted" if known is None else f"{known:.4g} ms were predicted"
                told.append(f"confirmed at {shape.predicted.sizes}: {shape.median_ms:.4g} ms, {beside}")
        return told

    def warnings(self) -> list[str]:
        """What is not as promised, then budgets of latency that the device is above."""
        return [*(f"not as promised: {problem}" for problem in self.problems), *self.found.slower]

    def added_to(self, report: Report) -> Report:
        """A report of the compilation that says what was confirmed, too."""
        from ..report import Report

        return Report(replace(report.data, notes=(*report.data.notes, *self.lines(), *self.warnings())))

    def save_report(self, path: str | os.PathLike[str]) -> None:
        """Write the report of the compilation, which lies in the bundle, with what was confirmed: .html or .json.

        Raises:
            ConfigError: another suffix, no such folder, or a bundle without its report or with an older one.
        """
        from ..report.content import REPORT_VERSION
        from ..report.page import render
        from ..report.saving import save
        from ..targets.onnx.device.check import saved_report

        content = saved_report(self.folder, self.found.promise)
        version = content.get("instar_report")
        if version != REPORT_VERSION:
            raise ConfigError(
                f"{self.folder}: expected a report of version {REPORT_VERSION}, found {version!r}: another instar "
                "wrote the check; compile again with --check, and measure that"
            )
        content["warnings"] = [*content["warnings"], *self.warnings()]
        content["notes"] = [*content["notes"], *self.lines()]
        content["confirmed"] = self.to_json()
        save(path, lambda: content, lambda: render(content))

    def table(self) -> RenderableType:
        """One row for every shape."""
        from .confirm_table import table

        return table(self)


def write_check(compiled: Compiled, folder: str | os.PathLike[str]) -> Path:
    """Write what a device needs to confirm a compiled model: the file, inputs, outputs, a script.

    Args:
        compiled: for target ``onnx``.
        folder: made if it does not exist.

    Returns:
        The folder.

    Raises:
        ConfigError: another target, or a folder that cannot be written.
    """
    from ..targets.onnx.artifact import OnnxArtifact
    from ..targets.onnx.device.check import write_check as write

    artifact, target = compiled.artifact, compiled.plan.target
    if not isinstance(artifact, OnnxArtifact):
        raise ConfigError(f"check bundle: expected a model for target 'onnx', found {target!r}; compile for 'onnx'")
    timed = {t.workload.label: t for t in compiled.timings}
    limits = {use.shape: use.limit for use in compiled.plan.budgets if use.resource == LATENCY.name}
    cases = [(_predicted(w, timed.get(w.label), limits.get(w.label)), w.inputs) for w in compiled.workloads]
    data = compiled.report.data
    told = compiled.report.to_json()
    write(Path(folder), artifact, data.model.name, data.latency_source, cases, artifact.options.threads, told,
          limits.get(""))  # fmt: skip
    return Path(folder)


def _predicted(workload: Workload, timing: Timing | None, limit_ms: float | None) -> Predicted:
    from ..targets.onnx.device.check import Predicted

    times = (None, None) if timing is None else (timing.original_ms, timing.artifact_ms)
    return Predicted(workload.label, workload.weight, *times, limit_ms)


def confirm(answer: str | os.PathLike[str], manifest: str | os.PathLike[str] | None = None) -> Confirmed:
    """Read what a device answered to a check bundle.

    Raises:
        ConfigError: the answer or the manifest is missing, damaged, half finished or foreign.
    """
    from ..targets.onnx.device.check import confirmation

    return Confirmed(confirmation(answer, manifest), Path(answer if manifest is None else manifest).parent)
