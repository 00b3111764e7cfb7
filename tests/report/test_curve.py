from __future__ import annotations

from pathlib import Path

import pytest

from instar.ir.errors import ConfigError
from instar.ir.files import read_json
from instar.report import Curve, ParetoPoint
from instar.report.curve_plots import pareto

from .rendering import terminal

POINTS = (
    ParetoPoint(20_000_000, 0.01, 9.0, bops=2 * 10**9),
    ParetoPoint(10_000_000, 0.04, 8.0, bops=10**9),
    ParetoPoint(12_000_000, 0.03, 8.5, chosen=True, bops=10**9),
)
CURVE = Curve("<b>net</b>", "onnx", "size", POINTS, ("a note",))


def test_json_and_html_are_saved_by_suffix(tmp_path: Path) -> None:
    CURVE.save(tmp_path / "pareto.json")
    CURVE.save(tmp_path / "pareto.html")
    assert read_json(tmp_path / "pareto.json") == CURVE.to_json()
    text = (tmp_path / "pareto.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;net&lt;/b&gt; for onnx: loss against size" in text
    assert "<b>net" not in text.partition("plotly.js v")[0]
    assert 'id="plot-pareto"' in text


def test_points_are_ordered() -> None:
    assert [p["nbytes"] for p in CURVE.to_json()["points"]] == [10_000_000, 12_000_000, 20_000_000]
    assert CURVE.summary == "3 plans from 10.0 MB with a predicted loss of 0.0400 to 20.0 MB with 0.0100."


def test_the_terminal_draws_the_curve() -> None:
    lines = terminal(CURVE.table()).splitlines()
    bars = [line.count("█") for line in lines if "GBOPS" in line]
    assert bars == [32, 26, 1]  # logarithms of 0.04, 0.03 and 0.01
    assert lines[4].split()[-1] == "chosen"
    assert "note: a note" in lines[-1]


@pytest.mark.parametrize(("resource", "x"), [("size", [10.0, 20.0]), ("latency", [8.0, 9.0]), ("ops", [1.0, 2.0])])
def test_every_budget_has_its_axis(resource: str, x: list[float]) -> None:
    figure = pareto(CURVE.to_json()["points"], resource)
    assert figure is not None
    assert figure["data"][0]["x"] == x
    assert len(figure["data"][1]["x"]) == 1


def test_an_empty_curve() -> None:
    empty = Curve("net", "onnx", "latency", ())
    assert "No budget could be met." in empty.html()
    assert "No budget could be met." in terminal(empty.table())


def test_a_curve_without_latency_has_no_points_on_that_axis() -> None:
    assert pareto([{"nbytes": 1, "predicted_loss": 1.0, "latency_ms": None, "chosen": False}], "latency") is None


def test_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a file name that ends in \.html or \.json"):
        CURVE.save(tmp_path / "pareto.png")
