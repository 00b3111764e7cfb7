"""Budgets that nothing meets are refused before the work that they would waste."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compilation import preparation
from instar.compilation.entry import start
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.ir.errors import CalibrationError, FormatError, InfeasibleError
from instar.ir.graph import Graph
from instar.ir.layers import Layer
from instar.ir.options import Option
from instar.passes.formats import format as parse_format
from instar.passes.pricing import LayerPricer
from instar.targets.base import Latencies, LayerLatency
from instar.targets.torch.target import TorchTarget

from .models import conv_data, conv_net, encoder, encoder_data, mlp, mlp_data

DATA = mlp_data()


class TooLateError(AssertionError):
    """Work that an infeasible budget must not cost."""


def unread() -> Iterator[tuple[Tensor, ...]]:
    raise TooLateError
    yield ()


def no_pricing(monkeypatch: pytest.MonkeyPatch) -> None:
    def price(*_: Any) -> None:
        raise TooLateError

    monkeypatch.setattr(preparation, "price", price)


def compiled(target: str, budget: Mapping[str, Any], folder: Path, **settings: Any) -> instar.Compiled:
    options = {"target_options": {"cache": str(folder)}} if target == "onnx" else {}
    settings = {"target": target, "calibration": DATA, **options, **settings}
    return instar.compile(mlp(), DATA[0], budget=budget, **settings)


@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize(
    "budget", [{"size": "1%"}, {"size": "1%", "latency": "100%"}, {"ops": "1%"}, {"size": "100B", "ops": "1%"}]
)
def test_bytes_and_operations_are_refused_before_data_is_read(
    target: str, budget: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        InfeasibleError, match=r"cannot be met; the smallest feasible value is [\d.]+[kGM]?B(OPS)? \("
    ) as e:
        compiled(target, budget, tmp_path, calibration=unread())
    assert set(e.value.smallest) == set(budget) - {"latency"}
    with pytest.raises(CalibrationError, match="the data raised TooLateError"):
        compiled(target, {"size": "99%"}, tmp_path, calibration=unread())


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_the_smallest_size_is_that_of_a_built_file(target: str, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError) as error:
        compiled(target, {"size": "1%"}, tmp_path, calibration=unread())
    smallest = error.value.smallest["size"]
    assert compiled(target, {"size": int(smallest)}, tmp_path).nbytes <= smallest
    with pytest.raises(InfeasibleError, match=re.escape(f"budget size={int(0.98 * smallest)}: cannot be met")):
        compiled(target, {"size": int(0.98 * smallest)}, tmp_path)


def test_integer_convolutions_are_weighed_once_their_ranges_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    data = conv_data()
    settings: dict[str, Any] = {"formats": ["int8:channel"], "activations": ["static_int8"], "target": "onnx"}
    layers = [{"pattern": "head", "formats": ["int8:channel"], "activations": ["none"]}]
    with monkeypatch.context() as patched:
        no_pricing(patched)
        with pytest.raises(InfeasibleError) as error:
            instar.compile(conv_net(), data[0], budget={"size": "1%"}, calibration=data, layers=layers, **settings)
    smallest = int(error.value.smallest["size"])
    result = instar.compile(conv_net(), data[0], budget={"size": smallest}, calibration=data, layers=layers, **settings)
    assert result.nbytes <= smallest


def test_latency_is_refused_before_pricing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_pricing(monkeypatch)
    with pytest.raises(
        InfeasibleError, match=r"budget latency=0.001%: cannot be met; .* value is [\d.]+[mu]s \("
    ) as error:
        compiled("onnx", {"latency": "0.001%"}, tmp_path)
    assert set(error.value.smallest) == {"latency"}
    with pytest.raises(TooLateError):
        compiled("onnx", {"latency": "1000%"}, tmp_path)


def test_bounds_that_only_conflict_are_refused_before_pricing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each can be met alone: size with 4 bits, latency in float, since 4 bits are made to be slower."""

    def latencies(
        _: Any, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], __: Any
    ) -> Any:
        table = {
            layer.name: LayerLatency(1.0, {o.name: 1.0 + (o.format != "fp32") for o in options[layer.name]})
            for layer in layers
        }
        return Latencies(3.0, 3.0, table, "made up")

    no_pricing(monkeypatch)
    monkeypatch.setattr(TorchTarget, "latencies", latencies)
    settings: dict[str, Any] = {"formats": ["fp32", "int4:g32"], "activations": ["none"]}
    for alone in ({"size": "50%"}, {"latency": "100%"}):
        with pytest.raises(TooLateError):
            compiled("torch", alone, tmp_path, **settings)
    with pytest.raises(InfeasibleError) as error:
        compiled("torch", {"size": "50%", "latency": "100%"}, tmp_path, **settings)
    assert re.search(
        r"size=50%: cannot be met while latency is met; .* value is [\d.]+[kM]?B \(100%\)", str(error.value)
    )
    assert re.search(r"latency=100%: cannot be met while size is met; .* value is [\d.]+[mu]s \(", str(error.value))
    assert error.value.smallest["size"] == sum(p.numel() * 4 for p in mlp().parameters())


def test_a_smallest_plan_that_no_weight_takes_is_refused_with_its_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise FormatError("no")

    monkeypatch.setattr(LayerPricer, "encode", refuse)
    with pytest.raises(InfeasibleError, match=r"budget size=1%: cannot be met; the smallest feasible value is"):
        instar.compile(mlp(), DATA[0], target="torch", budget={"size": "1%"})


def test_pareto_refuses_its_other_bounds_first() -> None:
    with pytest.raises(InfeasibleError, match="budget size=1%: cannot be met"):
        instar.pareto(mlp(), DATA[0], target="torch", resource="ops", budget={"size": "1%"}, calibration=unread())


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_costs_are_what_encoding_gives(target: str) -> None:
    formats = ("fp32", "fp16", "int8:channel", "int8:g32:asym", "int4:g32", "int3:g16")
    prepared = _prepared(target, formats)
    for prices in prepared.prices:
        pricer = LayerPricer(prices.layer, None)
        for priced in prices.options:
            option = priced.option
            encoded = pricer.encode(option.format, "rtn").nbytes
            assert encoded == parse_format(option.format).nbytes(prices.layer.stored_shape)
            assert priced.nbytes == prepared.request.target.stored_nbytes(prices.layer, option, encoded)


def _prepared(target: str, formats: tuple[str, ...]) -> Prepared:
    data = encoder_data()
    request = start(encoder(), data[0], None, None, None, {"target": target, "formats": formats}, calibration=data)
    return prepare(request, calibration=data)


def test_a_model_without_layers_has_no_budget_to_refuse() -> None:
    relu = nn.ReLU().eval()
    request = start(relu, (torch.zeros(2, 3),), None, None, None, {"target": "torch"})
    assert prepare(request, budget=instar.Budget(size=1)).prices == ()
