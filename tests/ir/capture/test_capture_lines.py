"""Refusals of dynamic sizes name the user's lines, and the action that they advise works."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import LlamaConfig, LlamaForCausalLM

from instar.ir.capture import capture
from instar.ir.errors import CaptureError

X = torch.randn(4, 4, 16)


def refusal(model: nn.Module, shapes: Any, x: Tensor = X) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(model.eval(), (x,), dynamic_shapes=shapes)
    return str(caught.value)


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 5, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + y[:, :, ::3].mean(-1, keepdim=True)


class Viewed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, -1) * 2


class Choosing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[0] > 3 else x


class Added(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softmax(x + torch.ones(4, 1, 1), -1)


CASES: list[tuple[nn.Module, int, str, str]] = [
    (Strided(), 2, "y = self.conv(x)", r"needs \w+ \+ 2 >= 5"),
    (Viewed(), 0, "return x.view(4, -1) * 2", r"needs \w+ == 4"),
    (Choosing(), 0, "", r"needs \w+ (>|>=) \d"),
    (Added(), 0, "x + torch.ones(4, 1, 1)", r"needs \w+ == 4"),
]


@pytest.mark.parametrize(
    ("model", "axis", "code", "condition", "named"),
    [*((*case, True) for case in CASES), *((*case, False) for case in CASES[1::2])],
)
def test_the_line_that_fixes_a_size_is_named(
    model: nn.Module, axis: int, code: str, condition: str, named: bool
) -> None:
    message = refusal(model, ({axis: Dim("size") if named else Dim.DYNAMIC},))
    assert re.search(rf"test_capture_lines.py:\d+.*{re.escape(code)}.*: {condition}", message)
    assert "a call into torch" not in message
    assert "L[" not in message
    assert f"every value of {'size' if named else f'x_dim{axis}'};" in message


def test_the_advised_range_works() -> None:
    message = refusal(Choosing(), ({0: Dim("size")},))
    suggested = re.search(r"or narrow the range: size = Dim\('size', min=(\d+)\)$", message)
    assert suggested is not None
    graph = capture(Choosing(), (X,), dynamic_shapes=({0: Dim("size", min=int(suggested[1]))},))
    assert graph.dims["size"].minimum == int(suggested[1])


class Shortened(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:] * 2


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool1d(self.conv(x), 3)


@pytest.mark.parametrize("model", [Shortened(), Pooled(), Strided()])
def test_the_range_satisfies_what_torch_leaves_out_of_its_advice(model: nn.Module) -> None:
    """A size of 1 behind an operator is a constant to torch, which its suggestions do not think of."""
    message = refusal(model, ({2: Dim("size")},))
    suggested = re.search(r"or narrow the range: size = Dim\('size', min=(\d+)\)$", message)
    assert suggested is not None, message
    least = int(suggested[1])
    assert capture(model.eval(), (X,), dynamic_shapes=({2: Dim("size", min=least)},)).dims["size"].minimum == least
    assert "narrow" in refusal(model, ({2: Dim("size", min=least - 1)},))


def test_no_range_is_advised_where_one_value_alone_fits() -> None:
    assert "narrow" not in refusal(Viewed(), ({0: Dim("size")},))


def test_leaving_the_size_out_works() -> None:
    assert "leave size out of dynamic_shapes" in refusal(Viewed(), ({0: Dim("size"), 2: Dim("other")},))
    assert list(capture(Viewed(), (X,), dynamic_shapes=({2: Dim("other")},)).dims) == ["other"]


class Composite(nn.Module):
    """A model with a language model inside, whose own configuration asks for a cache."""

    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        self.language = LlamaForCausalLM(config)

    def forward(self, ids: Tensor) -> Any:
        return self.language(ids)


def test_every_configuration_that_asks_for_a_cache_is_named_and_setting_it_works() -> None:
    model, ids = Composite().eval(), torch.ones(1, 3, dtype=torch.int64)
    with pytest.raises(CaptureError, match=r"set model.language.config.use_cache = False$"):
        capture(model, (ids,))
    model.language.config.use_cache = False
    assert len(capture(model, (ids,)).output_nodes) == 1
