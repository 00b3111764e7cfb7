"""Words that a user meets: short ones of results, and messages whose advice works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.capture.errors import unexplained
from instar.ir.errors import CalibrationError, InfeasibleError

X = torch.randn(4, 40)


class Kept(nn.Module):
    """A table that is returned, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Parameter(torch.randn(40, 40)), nn.Linear(40, 40)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.table


class Undefined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 40)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return torch.log(y - 100).sum(-1)


class Masked(nn.Module):
    """Infinity is no mistake: it is what hides a score."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 40)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).masked_fill(torch.arange(40) > 20, float("-inf"))


def test_results_are_one_line_and_pages_in_notebooks() -> None:
    compiled = instar.compile(Kept().eval(), (X,), target="torch", formats=["int8:channel"])
    found = instar.inspect(Kept().eval(), (X,))
    for value in (compiled, compiled.plan, compiled.report, compiled.report.data, found):
        text = repr(value)
        assert len(text) < 120
        assert "\n" not in text
    assert repr(compiled.plan) == "<Plan for torch: 1 int8:channel>"
    for shown in (compiled, compiled.report, found):
        html = getattr(shown, "_repr_html_")()  # noqa: B009 - notebooks ask for it by this name
        assert "<pre" in html or "<table" in html


def test_what_holds_the_bytes_is_said_in_words_and_the_named_budget_works() -> None:
    model = Kept().eval()
    with pytest.raises(InfeasibleError) as raised:
        instar.compile(model, (X,), target="onnx", budget={"size": "60%"})
    message = str(raised.value)
    assert "  table holds 6.4 kB: it is an output of the model" in message
    with pytest.raises(InfeasibleError, match=r"bias holds 160 B: aten.linear reads it as bias, which no format"):
        instar.compile(nn.Linear(40, 40), (X,), target="onnx", budget={"size": 1})
    least = re.search(r"smallest feasible value is .*B \(([\d.]+)%\); raise the budget", message)
    assert least is not None
    assert instar.compile(model, (X,), target="onnx", budget={"size": f"{least[1]}%"}).nbytes > 0


def test_a_model_that_gives_nan_is_told_apart_from_one_that_masks() -> None:
    with pytest.raises(CalibrationError) as raised:
        instar.compile(Undefined().eval(), (X,), target="torch", budget={"size": "60%"}, calibration=[X])
    assert re.fullmatch(
        r"calibration batch 0: expected outputs that are numbers; found NaN, first given by aten\.log in "
        r".*test_words\.py:\d+; remove the batch, or mend the line",
        str(raised.value),
    )
    compiled = instar.compile(Masked().eval(), (X,), target="torch", budget={"size": "60%"}, calibration=[X])
    assert torch.isinf(compiled(X)).sum() == 4 * 19


def test_tiny_weights_and_the_bytes_around_weights_are_named() -> None:
    """Scales are float16: of weights below it nothing but fp32 is left, and the refusal says so."""
    tiny = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).eval()
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.mul_(1e-9)
    with pytest.raises(InfeasibleError) as raised:
        instar.compile(tiny, (torch.randn(4, 64),), target="onnx", budget={"size": "40%"})
    assert re.search(
        r"0 holds 16.38 kB: fp32 is the smallest that it may become \(.*weights that float16 scales can express",
        str(raised.value),
    )
    deep = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12))).eval()
    with pytest.raises(
        InfeasibleError, match=r"operators and their names hold [\d.]+ kB, which no format makes smaller"
    ):
        instar.compile(deep, (torch.randn(4, 4),), target="onnx", budget={"size": "10%"})


def refusal(model: nn.Module, *args: Tensor, **settings: Any) -> str:
    with pytest.raises(InfeasibleError) as raised:
        instar.compile(model.eval(), args, target="onnx", **settings)
    return str(raised.value)


def test_more_formats_are_advised_where_they_help_and_then_they_do() -> None:
    wide, x = nn.Linear(256, 256, bias=False), torch.randn(2, 256)
    formats = ["fp32", "int8:channel"]
    message = refusal(wide, x, budget={"size": "20%"}, formats=formats)
    assert "raise the budget, or allow more formats\n" in message
    smaller = instar.compile(wide, (x,), target="onnx", budget={"size": "20%"}, formats=[*formats, "int4:g64"])
    assert smaller.nbytes < 0.2 * 4 * 256 * 256
    held = refusal(Kept(), X, budget={"size": "30%"})
    assert "raise the budget, more formats do not help\n" in held
    assert "allow more formats" not in held


def test_a_share_of_nothing_is_not_printed() -> None:
    class Rectified(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    message = refusal(Rectified(), X, budget={"size": "60%"})
    assert re.search(r"smallest feasible value is [\d.]+k?B; no weight of this model is a layer", message)
    assert "e+" not in message
    assert torch.equal(instar.compile(Rectified().eval(), (X,), target="onnx")(X), X.relu())


def test_torchs_own_advice_to_its_authors_is_left_out() -> None:
    text = "cannot trace this. Use tlparse to see more. Alternatively, call draft_export()."
    assert str(unexplained(RuntimeError(text))) == (
        "model: torch.export cannot capture this: RuntimeError: cannot trace this."
    )


PHRASES = ("gradients=False", "draft_export", "TORCH_LOGS", "1.498e+14", "every value of L[")
"""Advice that users could not follow, and words that name nothing of theirs."""


def test_no_source_holds_phrases_that_pointed_the_wrong_way() -> None:
    root = Path(instar.__file__).parent
    folders = ("cli", "compilation", "config", "ir", "passes", "report", "schedulers", "targets", "tools")
    sources = [path for folder in folders for path in (root / folder).rglob("*.py")]
    assert len(sources) > 200
    found = [(path.name, phrase) for path in sources for phrase in PHRASES if phrase in path.read_text("utf-8")]
    assert found == []
