"""What a kernel is: one record of what it offers, the rules that make its ops, and how these are written and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ....ir.layers import Layer
from ....ir.options import Activation
from ....passes.formats import Format
from ....passes.rules import Rule
from ...base import Candidates
from ..runtimes.needs import Requirement

Reference = TypeVar("Reference", bound=Callable[..., Any])

Offers = Callable[[Layer, Format, str, Sequence[Activation]], Candidates]
"""What a layer may become under a kernel: (layer, format, encoder, allowed activations) -> options and refusals."""


@dataclass(frozen=True)
class Written:
    """An op of a legal graph and how it is written in ONNX.

    Attributes:
        op: its name, such as ``instar.linear_int8``.
        write: takes the op's arguments while torch.onnx traces the program, emits nodes, returns their values.
        runs: the operator type that the runtime must execute for it, alternatives joined by ``|``; empty for a chain
            that is folded or has no kernel of its own.
        in_runs: it pays in runs only: its own kernel is timed, without the conversions at the ends of a run.
        requires: what a runtime must have for it beyond the operators that all known ones have.
        otherwise: the rule that puts other ops in its place where a runtime has not; None: its kernel is not offered.
    """

    op: str
    write: Callable[..., Any]
    runs: str = ""
    in_runs: bool = False
    requires: tuple[Requirement, ...] = ()
    otherwise: Rule | None = None


@dataclass(frozen=True)
class Kernel:
    """One way in which ONNX Runtime computes something.

    Attributes:
        name: what options and plans call it; a spelling that no option chooses has a name for messages only.
        summary: one line for reports.
        writes: its ops.
        rules: what turns a planned graph into these ops.
        offers: which options it gives a layer; None for a spelling that is used wherever its rule matches.
        target: the target that it belongs to.
    """

    name: str
    summary: str
    writes: tuple[Written, ...]
    rules: tuple[Rule, ...] = ()
    offers: Offers | None = None
    target: str = "onnx"

    @property
    def requires(self) -> tuple[Requirement, ...]:
        """What a runtime must have, or the kernel cannot be used."""
        return tuple(need for entry in self.writes if entry.otherwise is None for need in entry.requires)


def reference(name: str, types: Callable[..., Any] | None = None) -> Callable[[Reference], Reference]:
    """Registers a function of tensors as ``instar_ort::<name>``.

    Args:
        name: of the op.
        types: what it gives where there are types alone; the function itself where its steps keep all sizes.
    """

    def register(function: Reference) -> Reference:
        torch.library.custom_op(f"instar_ort::{name}", function, mutates_args=()).register_fake(types or function)
        return function

    return register
