"""What a bundle holds: every layer under every option, and the networks that put single layers into proportion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor

from ....ir.graph import Graph
from ....ir.options import Option
from ...base import Artifact, BundleSummary
from ..artifact import OnnxArtifact
from ..latency import CasesByOption, all_cases
from ..spellings import ways
from .bundle import BundleWriter
from .networks import ORIGINAL, SPELLED, float_label, kernel_label, network_key
from .profile import NETWORK

if TYPE_CHECKING:
    from ..target import OnnxTarget

Build = Callable[["OnnxTarget", Mapping[str, Option]], Artifact]


def write(
    target: OnnxTarget,
    folder: Path,
    graph: Graph,
    networks: Mapping[str, Mapping[str, Option]],
    found: Sequence[CasesByOption],
    shapes: Sequence[Sequence[Tensor]],
    build: Build,
) -> BundleSummary:
    """Write a bundle; see :class:`~instar.targets.base.MeasuredElsewhere`."""
    spelling = {name: str(target.plan_options[name]) for name in SPELLED}
    base = target.spelled(spelling)
    writer = BundleWriter(folder, target.options.threads, spelling)

    def add(label: str, artifact: Artifact) -> None:
        keys = {network_key(graph, inputs, label): inputs for inputs in shapes}
        writer.add_network(cast("OnnxArtifact", artifact), keys)

    add(ORIGINAL, base.build_plain(graph, shapes[0]))
    spelled = {float_label(t.plan_options): t for t in (base, *map(target.spelled, _ways(target, graph, shapes)))}
    for label, way in spelled.items():
        add(label, way.build_float(graph, shapes[0]))
    for kernel, chosen in networks.items():
        add(kernel_label(kernel, chosen), build(base, chosen))
    writer.add_layers(case for cases in found for case in all_cases(cases))  # they take the weights of the networks
    writer.finish()
    whole = sum(entry["kind"] == NETWORK for entry in writer.entries)
    nbytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return BundleSummary(len(writer.entries) - whole, whole, nbytes)


def _ways(target: OnnxTarget, graph: Graph, shapes: Sequence[Sequence[Tensor]]) -> list[dict[str, str]]:
    """Spellings that a compilation may choose: it looks at the example, the first of the shapes."""
    return list(ways(graph, shapes[0], target.options))
