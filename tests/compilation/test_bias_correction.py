"""Corrected biases through a compilation: in the plan, replayed to the same bytes, left out where they are stale."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import instar
from instar.compilation.entry import start
from instar.compilation.measured_loss import MeasuredLoss
from instar.compilation.preparation import prepare
from instar.ir.encodings import load_encodings
from instar.ir.errors import ParseError
from instar.ir.layers import find_layers
from instar.ir.options import Option
from instar.ir.plan import Plan
from instar.passes.formats import format as parse_format

from .models import conv_data, conv_net, encoder, encoder_data, encoder_dims, mlp, mlp_data

DATA = mlp_data()
int2 = parse_format("int2:g32")


def small(target: str = "torch", *, correct: str = "always", calibrated: bool = True) -> instar.Compiled:
    return instar.compile(
        mlp(), DATA[0], target=target, budget={"size": "20%"}, formats=["int3:g32", "int2:g32"], activations=["none"],
        pipeline={"calibration": {"bias_correction": correct}}, calibration=DATA if calibrated else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def original() -> instar.Compiled:
    return small()


@pytest.fixture
def saved(original: instar.Compiled, tmp_path: Path) -> Path:
    original.plan.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def file_bytes(compiled: instar.Compiled, folder: Path, name: str) -> bytes:
    return Path(compiled.save(folder / name)[0]).read_bytes()


def biases(compiled: instar.Compiled) -> dict[str, torch.Tensor]:
    constants = compiled.graph.constants()
    return {n.handle.name.removesuffix(".bias"): n.handle.tensor for n in constants if n.handle.name.endswith(".bias")}


def test_biases_of_changed_layers_are_corrected_at_no_bytes(original: instar.Compiled) -> None:
    plain = small(correct="never")
    assert not plain.plan.corrections
    assert not plain.plan.biases
    assert list(original.plan.corrections) == ["0", "2", "4"]
    assert original.nbytes == plain.nbytes
    for name, value in biases(plain).items():
        assert torch.equal(value, mlp().get_parameter(f"{name}.bias"))
        assert torch.equal(biases(original)[name], original.plan.biases[name])
        assert not torch.equal(biases(original)[name], value)
    (record,) = (r for r in original.report.data.passes if r.name == "apply-plan")
    assert record.fired["correct-bias"] == 3
    summary = original.report.to_json()["summary"]
    assert "3 biases were corrected: the means of outputs had moved by " in summary
    assert "corrected" not in plain.report.to_json()["summary"]


def test_without_calibration_nothing_is_corrected() -> None:
    plain = small(calibrated=False)
    assert not plain.plan.corrections
    assert "corrected" not in plain.report.to_json()["summary"]


def test_auto_corrects_networks_with_convolutions() -> None:
    assert not small(correct="auto").plan.corrections
    data = conv_data()
    given = {"target": "torch", "budget": {"size": "30%"}, "formats": ("int4:g32",), "activations": ("none",)}
    request = start(conv_net(), data[0], None, None, None, given, calibration=data)
    prepared = prepare(request, calibration=data, budget=request.budget)
    assert request.budget is not None
    assert set(prepared.plan(prepared.allocate(request.budget)).corrections) == {"stem", "body", "head"}


def test_the_mean_of_the_output_is_kept_on_the_calibration_batches(original: instar.Compiled) -> None:
    with torch.no_grad():
        found, expected = (torch.cat([m(*b) for b in DATA[:2]]).mean(0) for m in (original, mlp()))
        plain = torch.cat([small(correct="never")(*b) for b in DATA[:2]]).mean(0)
    assert float((found - expected).abs().max()) < 1e-5
    assert float((plain - expected).abs().max()) > 1e-3


@pytest.mark.parametrize(("target", "suffix"), [("torch", "safetensors"), ("onnx", "onnx")])
def test_a_replay_has_the_same_bytes(target: str, suffix: str, tmp_path: Path) -> None:
    first = small(target)
    first.plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded.corrections == first.plan.corrections
    again = instar.compile(mlp(), DATA[0], target=target, plan=tmp_path / "plan.json")
    assert file_bytes(again, tmp_path, f"again.{suffix}") == file_bytes(first, tmp_path, f"first.{suffix}")
    assert not any("left out" in note for note in again.report.data.notes)
    assert again.plan.digest() == first.plan.digest()
    again.plan.save(tmp_path / "again.json")
    weights = [(tmp_path / name).with_suffix(".safetensors").read_bytes() for name in ("plan.json", "again.json")]
    assert weights[0] == weights[1]


def test_static_convolutions_keep_their_kernels_with_corrected_biases(tmp_path: Path) -> None:
    data = conv_data()
    first = instar.compile(
        conv_net(), data[0], target="onnx", budget={"size": "90%"}, calibration=data,
        layers=[{"pattern": "body", "formats": ["int8:channel"], "activations": ["static_int8"]},
                {"pattern": "stem", "formats": ["int8:channel"], "activations": ["static_int8"]}],
    )  # fmt: skip
    assert {"stem", "body"} <= set(first.plan.corrections)
    assert {d.chosen.option.kernel for d in first.plan.decisions if d.kind == "conv"} == {"int8_conv"}
    assert first.report.data.checks
    assert all(check.passed for check in first.report.data.checks)
    again = instar.compile(conv_net(), data[0], plan=first.plan)
    assert file_bytes(again, tmp_path, "again.onnx") == file_bytes(first, tmp_path, "first.onnx")


def test_layers_without_a_bias_are_named_in_the_record() -> None:
    data = encoder_data()
    result = instar.compile(
        encoder(), data[0], target="torch", budget={"size": "60%"}, calibration=data, dynamic_shapes=encoder_dims(),
        formats=["int4:g32"], activations=["none"], pipeline={"calibration": {"bias_correction": "always"}},
    )  # fmt: skip
    assert set(result.plan.corrections) == {"query", "key", "value", "up", "down"}
    (record,) = (r for r in result.report.data.passes if r.name == "apply-plan")
    assert [(r.rule, r.node) for r in record.refused] == [("correct-bias", "tokens")]


def test_measured_losses_are_those_behind_the_correction() -> None:
    model, x = torch.nn.Linear(32, 32).eval(), torch.randn(64, 32) + 2.0
    graph = instar.capture(model, (x,))
    (layer,) = find_layers(graph)[0]
    option, mean = Option("int2:g32", "rtn"), x.mean(0).expand(32, 32)
    decoded = int2.decode(int2.encode(model.weight)).detach()
    error = torch.nn.functional.linear(x, decoded - model.weight.detach())
    energy = model(x).detach().square().sum()
    for means, left in (({}, error), ({layer.name: mean}, error - error.mean(0))):
        found = MeasuredLoss(graph, [[x]], means)(layer, [option])
        assert found[option.name] == pytest.approx(float(left.square().sum() / energy), rel=1e-4)


def test_every_plan_of_a_prepared_model_is_corrected() -> None:
    given = {
        "target": "torch", "budget": {"size": "20%"}, "formats": ("int2:g32",), "activations": ("none",),
        "calibration": {"bias_correction": "always"},
    }  # fmt: skip
    request = start(mlp(), DATA[0], None, None, None, given, calibration=DATA)
    prepared = prepare(request, calibration=DATA, budget=request.budget)
    assert request.budget is not None
    first, second = (prepared.plan(prepared.allocate(request.budget)) for _ in range(2))
    assert all(torch.equal(first.biases[name], second.biases[name]) for name in first.biases)
    assert len(first.biases) == 3


# ---------------------------------------------------------------------------------------------- edited by hand
def test_an_edit_leaves_out_the_corrections_of_the_layer_and_of_those_behind_it(saved: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["decisions"][1]["chosen"]["option"].update(format="int8:channel", encoder="mse")

    result = instar.compile(mlp(), DATA[0], target="torch", plan=edited(saved, change))
    assert list(result.plan.corrections) == ["0"]
    assert list(result.plan.biases) == ["0"]
    for name in ("2", "4"):
        assert torch.equal(biases(result)[name], mlp().get_parameter(f"{name}.bias"))
    assert (
        "the correction of 2 biases (2, ...) was left out: options that it was found under were edited; compile with "
        "calibration data to correct again"
    ) in result.report.data.notes
    (record,) = (r for r in result.report.data.passes if r.name == "apply-plan")
    assert [(r.node, r.reason) for r in record.refused] == [
        ("2", "no correction was found for it"),
        ("4", "no correction was found for it"),
    ]


def test_a_layer_that_is_put_back_to_float_keeps_its_own_bias(saved: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["decisions"][2]["chosen"]["option"].update(format="fp32", encoder="rtn", activation="none", kernel="float")

    result = instar.compile(mlp(), DATA[0], target="torch", plan=edited(saved, change))
    assert list(result.plan.corrections) == ["0", "2"]
    assert torch.equal(biases(result)["4"], mlp().get_parameter("4.bias"))
    assert any(note.startswith("the correction of the bias of 4 was left out") for note in result.report.data.notes)


def test_edited_static_quantization_leaves_out_corrections(tmp_path: Path) -> None:
    data = conv_data()
    first = instar.compile(
        conv_net(), data[0], target="onnx", budget={"size": "90%"}, calibration=data,
        layers=[{"pattern": "body", "formats": ["int8:channel"], "activations": ["static_int8"]}],
    )  # fmt: skip
    first.plan.save(tmp_path / "plan.json")
    path = edited(tmp_path / "plan.json", lambda d: next(iter(d["static"].values())).update(zero_point=3))
    assert not instar.compile(conv_net(), data[0], plan=path).plan.corrections


def test_a_correction_may_be_removed(saved: Path) -> None:
    result = instar.compile(mlp(), DATA[0], target="torch", plan=edited(saved, lambda d: d["corrections"].pop("2")))
    assert list(result.plan.corrections) == ["0", "4"]
    assert torch.equal(biases(result)["2"], mlp().get_parameter("2.bias"))


def test_a_plan_file_from_before_corrections_still_loads(saved: Path) -> None:
    plan = Plan.load(edited(saved, lambda d: d.pop("corrections")))
    assert not plan.corrections
    assert not plan.biases
    assert set(plan.encodings) == {"0", "2", "4"}
    assert all(set(tensors) == {"codes", "scale"} for tensors in plan.encodings.values())
    assert biases(instar.compile(mlp(), DATA[0], target="torch", plan=plan))["0"].shape == (96,)


def test_a_correction_without_its_bias_is_refused(saved: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["corrections"]["1"] = data["corrections"]["0"]

    with pytest.raises(
        ParseError,
        match=r"plan.json: corrections: expected the corrected bias of '1' beside the plan; found none; remove ",
    ):
        Plan.load(edited(saved, change))


def test_the_file_holds_one_bias_per_correction(original: instar.Compiled, saved: Path) -> None:
    digest = json.loads(saved.read_text())["encodings"]["sha256"]
    stored = load_encodings(saved.with_suffix(".safetensors"), digest, "plan")
    for name, tensors in stored.items():
        assert torch.equal(tensors["corrected_bias"], original.plan.biases[name])
    shifts = json.loads(saved.read_text())["corrections"]
    assert all(0.0 < entry["shift"] < 1.0 for entry in shifts.values())


def test_explanations_tell_the_shift(saved: Path) -> None:
    from rich.console import Console

    console = Console(width=200, record=True)
    console.print(instar.explain(saved))
    text = console.export_text()
    assert "3 biases were corrected" in text
    assert text.count("bias corrected by ") == 3
