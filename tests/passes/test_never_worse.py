"""No encoder is worse than rounding to nearest on its own objective, whatever the format and what is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instar.ir.errors import FormatError
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import RoundToNearest, encoder
from instar.passes.formats import FORMATS, FloatFormat, Format, format
from instar.passes.objective import Problem

from .every_format import FORMS

ENCODERS = ("mse", "gptq", "gptq:sweeps=0", "gptq:act_order", "whitened+gptq+alternate:sweeps=2+obs",
            "whitened+mse+sequential+wanda")  # fmt: skip
"""Those whose objective is that of the layer; ``fwsvd`` and ``whitened:diagonal`` see a part of it."""


def test_every_class_of_formats_is_here() -> None:
    classes = {type(format(FORMATS[name].example(name))) for name in FORMATS} - {FloatFormat}
    assert classes <= {type(format(text)) for text in FORMS}


@st.composite
def problems(draw: st.DrawFn, shape: tuple[int, ...]) -> Problem:
    """A weight, and statistics of few or many samples: dead channels, single directions, embeddings with both."""
    seed, columns = draw(st.integers(0, 10_000)), Problem(torch.zeros(shape)).matrix.shape[1]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * draw(st.sampled_from([0.05, 3.0]))
    if draw(st.booleans()):
        weight[draw(st.integers(0, shape[0] - 1))] = 0.0
    if draw(st.booleans()):  # outliers
        weight = weight.pow(3)
    count = draw(st.sampled_from([1, 2, 7, 100]))
    inputs = torch.randn(count, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    dead = torch.rand(columns, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    inputs[:, dead] = 0.0
    rows = torch.rand(shape[0], generator=generator)
    rows[rows < draw(st.sampled_from([0.0, 0.4]))] = 0.0
    frequency = torch.rand(shape[0], generator=generator) if draw(st.booleans()) else None
    moment = inputs.T @ inputs / count
    if frequency is not None and draw(st.booleans()):
        return Problem(weight, WeightStatistics(count, None, rows, frequency))
    if draw(st.booleans()):
        return Problem(weight, WeightStatistics(count, moment, rows, frequency))
    return Problem(weight, WeightStatistics(count, torch.diag(moment.diagonal()), rows, frequency))


def stored(f: Format, name: str, problem: Problem) -> Tensor | None:
    try:
        return f.decode(encoder(name).encode(f, problem))
    except FormatError:
        return None


@pytest.mark.parametrize("text", FORMS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_no_encoder_is_worse_than_round_to_nearest(text: str, data: st.DataObject) -> None:
    f = format(text)
    shape = (12, 16, 3, 3) if text.startswith("tucker") else data.draw(st.sampled_from([(12, 40), (3, 64), (16, 32)]))
    if f.refuses(shape) is not None:
        shape = (32, 64)
    assert f.refuses(shape) is None
    problem = data.draw(problems(shape))
    plain = problem.error(f.decode(RoundToNearest().encode(f, problem)))
    whole = problem.error(torch.zeros(shape))
    for name in data.draw(st.permutations(ENCODERS))[:3]:
        found = stored(f, name, problem)
        if found is not None:
            assert problem.error(found) <= plain * 1.002 + 1e-6 * whole, name
