"""The check of integer forms: honest ones pass with room, broken ones are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import instar
from instar.ir.errors import PassError
from instar.ir.graph import Node
from instar.passes.rewrite import RewriteContext
from instar.passes.rules import Outcome
from instar.targets.scratchpad import integer_forms

from .test_scratchpad_program import ETHOS, Encoder, Residual


def compile_it(kind: type[nn.Module], shape: tuple[int, ...]) -> instar.Compiled:
    torch.manual_seed(0)
    model, batches = kind().eval(), [torch.randn(shape) for _ in range(8)]
    options = {"scratchpad_bytes": 100_000}
    return instar.compile(
        model, (batches[0],), target=f"scratchpad:{ETHOS}", target_options=options, calibration=batches
    )


NETWORKS = pytest.mark.parametrize(("kind", "shape"), [(Encoder, (1, 12, 32)), (Residual, (1, 3, 16, 16))])


@NETWORKS
def test_honest_forms_pass(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    assert all(check.passed for check in compile_it(kind, shape).artifact.checks)


@NETWORKS
@pytest.mark.parametrize("broken", ["scale", "offset"])
def test_broken_forms_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], shape: tuple[int, ...], broken: str
) -> None:
    """Results at a scale that is a quarter too large; results that are shifted, as by a wrong zero point."""
    known = integer_forms.RULES

    def wrong(node: Node, match: RewriteContext) -> Outcome:
        made = integer_forms.linear_sums.apply(node, match)
        if not isinstance(made, Node):
            return made
        op, number = {"scale": ("aten.mul.Scalar", 1.25), "offset": ("aten.add.Scalar", 0.5)}[broken]
        return match.node(op, made, number)

    rules = tuple(replace(r, function=wrong) if r is integer_forms.linear_sums else r for r in known)
    monkeypatch.setattr(integer_forms, "RULES", rules)
    with pytest.raises(PassError, match=r"pass integer-forms .*: expected finite values and at least .* dB"):
        compile_it(kind, shape)
