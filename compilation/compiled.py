"""What ``compile`` returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ir.evaluate import fitting_call
from ..ir.fx_conversion import unflatten_outputs
from ..ir.graph import Graph
from ..ir.plan import Plan
from ..targets.base import Artifact
from .workloads import Timing, Workload

if TYPE_CHECKING:
    from ..report import Report


@dataclass(frozen=True)
class Compiled:
    """A compiled model: call it like the original, save it, read its plan and its report.

    Attributes:
        artifact: what the target made.
        plan: the decisions; replay them with ``compile(..., plan=...)``.
        report: what was decided and why.
        graph: the graph with the plan in it; the artifact was checked against it.
        captured: the graph as captured.
        workloads: the inputs that it was made for.
        timings: milliseconds at each, where a latency was asked for.
    """

    artifact: Artifact
    plan: Plan
    report: Report
    graph: Graph
    captured: Graph
    workloads: tuple[Workload, ...] = ()
    timings: tuple[Timing, ...] = ()

    def __repr__(self) -> str:
        """One line: model, target, bytes, what the layers became."""
        return f"<Compiled {self.report.data.headline()}>"

    def _repr_html_(self) -> str:
        """The report's table, for notebooks."""
        from ..report.notebook import as_html

        return as_html(self.report.table())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the artifact with the original's call signature.

        Raises:
            PassError: the arguments do not fit the captured signature, or one has another dtype or size than it takes.
        """
        outputs = self.artifact.run(fitting_call(self.captured, args, kwargs))
        return unflatten_outputs(self.captured, outputs)

    @property
    def nbytes(self) -> int:
        """Bytes that :meth:`save` writes."""
        return self.artifact.nbytes

    def save(self, path: str | os.PathLike[str]) -> list[str]:
        """Write the artifact atomically, with external data where needed; returns the paths written."""
        return self.artifact.save(path)


class AsModel:
    """A graph or artifact that is called like the model, for the user's quality metric."""

    def __init__(self, run: Any, captured: Graph) -> None:
        self._run, self._captured = run, captured

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with the original's signature."""
        return unflatten_outputs(self._captured, self._run(fitting_call(self._captured, args, kwargs)))
