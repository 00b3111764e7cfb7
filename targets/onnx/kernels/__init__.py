"""Every kernel of ONNX Runtime that is used, a file each: our own by name, and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....ir.errors import ConfigError
from ....ir.op import op
from ....passes.rules import Rule
from ...registry import KERNELS
from ..runtimes.kept import has
from . import attention, embeddings, layout, recurrent, rotary, softmax
from .base import Kernel, Written

SPELLINGS = (
    embeddings.KERNEL,
    layout.KERNEL,
    rotary.KERNEL,
    recurrent.KERNEL,
    softmax.MASKS,
    softmax.CLAMPED_SOFTMAX,
    attention.KERNEL,
)
"""Kernels that no option names: they are used wherever their rules match."""


def kernels() -> tuple[Kernel, ...]:
    """The kernels of this target that options name, our own first.

    Raises:
        ConfigError: a kernel claims this target and is no record of it.
    """
    found: list[Kernel] = []
    for name in KERNELS:
        kernel = KERNELS[name]
        if kernel.target != "onnx":
            continue
        if not isinstance(kernel, Kernel):
            raise ConfigError(f"kernel {name!r}: expected instar.targets.onnx.kernels.Kernel; found {kernel!r}")
        found.append(kernel)
    return tuple(found)


def written() -> tuple[Written, ...]:
    """Every op of a legal graph that is no ATen operator."""
    ops = {entry.op: entry for kernel in (*kernels(), *SPELLINGS) for entry in kernel.writes}
    return tuple(ops.values())


def substitutes(runtime: str | None) -> tuple[Rule, ...]:
    """Rules that take away what a runtime does not have."""
    return tuple(e.otherwise for e in written() if e.otherwise is not None and not has(runtime, *e.requires))


def translations() -> dict[Any, Callable[..., Any]]:
    """Op overload -> how it is written, for torch.onnx."""
    return {op(entry.op).overload: entry.write for entry in written()}


def planned_runs(ops: Mapping[str, int]) -> dict[str, int]:
    """Operator types that the runtime must execute for the ops of a legal graph, and how often."""
    found: dict[str, int] = {}
    for entry in written():
        count = ops.get(entry.op, 0)
        if entry.runs and count:
            found[entry.runs] = found.get(entry.runs, 0) + count
    return found


def alone(ops: Mapping[str, int]) -> str:
    """Operator types whose time is what an op costs inside a network, joined by ``|``; empty for the time of a run.

    Convolutions are surrounded by changes of layout that a network has at the ends of a run of them only.
    """
    timed = [entry.runs for entry in written() if entry.in_runs and ops.get(entry.op)]
    timed += ["Conv|FusedConv"] if any(name.startswith("aten.conv") for name in ops) else []
    return "|".join(timed)


__all__ = [
    "SPELLINGS",
    "Kernel",
    "Written",
    "alone",
    "kernels",
    "planned_runs",
    "substitutes",
    "translations",
    "written",
]
