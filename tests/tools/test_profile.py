"""A device that is not at hand: a bundle is written, another interpreter measures it, and plans are made for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

import instar
from instar.cli import app
from instar.compilation.offer import without
from instar.ir.errors import ConfigError, InfeasibleError
from instar.ir.layers import find_layers
from instar.ir.options import Activation, Arithmetic, Option
from instar.targets.onnx.cases import LayerCases
from instar.targets.onnx.device import elsewhere
from instar.targets.onnx.device.profile import Device
from instar.targets.onnx.latency import DeviceProfile
from instar.targets.onnx.options import OnnxOptions

from .device_case import FORMATS, THREADS, Net, Played, X, measured, net, planned


def of_networks(document: Mapping[str, Any], word: str) -> list[str]:
    return [key for key in document["wanted"] if key.startswith("network ") and f"@{word}" in key]


def test_a_device_answers_every_case(played: Played) -> None:
    document = played.document
    assert document["threads"] == 2
    assert list(document["cases"])
    assert set(document["cases"]) == set(document["wanted"])
    assert all(answer["error"] is None and answer["samples"] >= 7 for answer in document["cases"].values())
    assert of_networks(document, "original")
    assert of_networks(document, "float")
    assert of_networks(document, "nbits ")


def with_times(played: Played, path: Path, nbits: float) -> Path:
    """Layers take 4 ms and networks 10 ms, those of one kernel a share of that."""

    def change(document: dict[str, Any]) -> None:
        for key, answer in document["cases"].items():
            whole = 10.0 if answer["kind"] == "network" else 4.0 if "linear" in key or "nbits" in key else 0.0
            answer["quartile_ms"] = answer["median_ms"] = whole * (nbits if "nbits" in key else 1.0)

    return played.edited(path, change)


def test_plans_follow_the_device_and_not_this_machine(played: Played, tmp_path: Path) -> None:
    compiled = planned(with_times(played, tmp_path / "fast.json", 0.2), {"latency": "30%"})
    assert {d.chosen.option.kernel for d in compiled.plan.decisions} == {"nbits"}
    report = json.dumps(compiled.report.to_json())
    assert "device profile: onnxruntime" in report
    assert "the network with nbits takes 2 ms against 10 ms in float: gains are scaled by 1.25" in report
    head = compiled.report.to_json()["headline"]
    assert head["artifact_ms"] is None, "nothing was measured here"
    assert head["predicted_ms"] == compiled.timings[0].artifact_ms
    assert "is predicted to take" in compiled.report.to_json()["summary"]
    assert compiled.plan.budgets[0].measured is None
    assert any(note.startswith("times are those of another device") for note in compiled.report.data.notes)
    with pytest.raises(InfeasibleError):
        planned(with_times(played, tmp_path / "slow.json", 5.0), {"latency": "90%"})


def test_what_does_not_load_on_the_device_is_no_choice(played: Played, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for key, answer in document["cases"].items():
            if "matmul_nbits" in key or "@nbits" in key:
                answer.update(error="no such operator here", median_ms=None, quartile_ms=None, spread=None)

    path = played.edited(tmp_path / "device.json", change)
    compiled = planned(path, {"size": "60%"})
    assert not any("nbits" in d.chosen.option.kernel for d in compiled.plan.decisions)
    assert "on the device with onnxruntime " in json.dumps(compiled.report.to_json())
    notes = "\n".join(compiled.report.data.notes)
    assert "cases do not run on the device with onnxruntime" in notes
    assert "set target_options.runtime = '1." in notes
    with pytest.raises(ConfigError, match=r"expected at least one format that the device runs; found none: int4:g32"):
        without("up", ((Option("int4:g32"),), (), ""), {Option("int4:g32"): "int4:g32 does not run"})


def test_products_that_saturate_on_the_device_are_no_choice() -> None:
    graph = instar.capture(net(), (X,))
    layer = find_layers(graph, min_elements=0)[0][0]
    activation = Activation.dynamic("tensor")
    seven, eight = (Option(f"int{b}:channel", "rtn", activation, "int8", Arithmetic.INT8_ROWS) for b in (7, 8))
    cases = LayerCases({}, OnnxOptions())
    found = {layer.name: {option: [cases.case(layer, layer.uses[0], option)] for option in (seven, eight)}}
    keys = {case.key: 1.0 for groups in found[layer.name].values() for case in groups}
    device = Device(DeviceProfile("ort", "cpu", 1, keys), {}, {}, True, "device.json")
    refused = elsewhere.refused(device, found)[layer.name]
    assert list(refused) == [eight]
    assert "8-bit products saturate" in refused[eight]
    assert elsewhere.refused(replace(device, saturates=False), found) == {}


def test_a_half_finished_answer_is_refused_and_goes_on(played: Played, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["cases"].pop(document["wanted"][-1])

    path = played.edited(tmp_path / "device.json", change)
    key = played.document["wanted"][-1]
    with pytest.raises(ConfigError, match=r"missing are instar_ort.*; run measure.py on the device again") as error:
        planned(path, {"latency": "90%"})
    assert key in str(error.value)
    before = json.loads(path.read_text())["cases"]
    assert measured(played.bundle, "--out", str(path)).returncode == 0
    after = json.loads(path.read_text())["cases"]
    assert after.keys() == before.keys() | {key}
    assert all(after[known] == before[known] for known in before)


def test_an_answer_of_other_threads_is_not_continued(played: Played) -> None:
    result = measured(played.bundle, "--threads", "1")
    assert result.returncode == 2
    assert "expected an answer to this bundle, runtime and threads, found another" in result.stderr


def test_a_foreign_profile_is_refused(played: Played) -> None:
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64)).eval()
    options = {**THREADS, "profile": str(played.answer)}
    with pytest.raises(ConfigError, match=r"expected times of .*, found none; it was made for another model"):
        instar.compile(other, (X,), budget={"latency": "90%"}, formats=FORMATS, target_options=options)
    with pytest.raises(ConfigError, match="expected times for 1 threads, found 2"):
        instar.compile(net(), (X,), budget={"latency": "90%"}, target_options={"profile": str(played.answer)})


def test_a_profile_of_another_network_is_refused_before_calibration(played: Played) -> None:
    """The same layers in another network: every single layer was measured, the network was not."""

    def batches() -> Any:
        raise AssertionError("calibration began")
        yield

    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.relu(self.up(x))) + x

    options = {**THREADS, "profile": str(played.answer)}
    with pytest.raises(ConfigError, match=r"expected times of network .*, found none; it was made for another model"):
        instar.compile(Other().eval(), (X,), budget={"latency": "90%"}, formats=FORMATS, target_options=options,
                       calibration=batches())  # fmt: skip


def test_weights_lie_in_a_bundle_once(played: Played) -> None:
    models = played.bundle / "models"
    weights = (models / "weights.bin").stat().st_size
    assert sum(file.stat().st_size for file in models.glob("*.onnx")) < weights
    float_nbytes = sum(p.numel() * p.element_size() for p in net().parameters())
    packed_nbytes = 2 * 64 * 128 * (4 / 8 + 2 / 32)
    spare = 1.1  # what is padded, biases that are written apart
    assert float_nbytes < weights < spare * (float_nbytes + packed_nbytes), "the original, and one network in 4 bits"


# ------------------------------------------------------------------------------------------------ confirmed
def test_predicted_against_confirmed_in_the_terminal(checked: Played, tmp_path: Path) -> None:
    found = instar.confirm(checked.answer)
    console = Console(width=160, record=True)
    console.print(found.table())
    assert "predicted" in console.export_text()
    found.save(tmp_path / "confirmed.json")
    assert json.loads((tmp_path / "confirmed.json").read_text())["problems"] == []


def test_the_report_in_a_bundle_says_what_was_confirmed(checked: Played, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(checked.answer), "--report", str(tmp_path / "report.html")])
    assert result.exit_code == 0, result.output
    assert "wrote" in result.output
    page = (tmp_path / "report.html").read_text()
    assert "confirmed at 8x64: " in page
    assert "ms were predicted" in page
    assert "Confirmed on the device" in page
    instar.confirm(checked.answer).save_report(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    original = json.loads((checked.bundle / "report.json").read_text())
    assert saved["notes"][: len(original["notes"])] == original["notes"]
    assert saved["confirmed"]["shapes"][0]["median_ms"] is not None
    assert {**saved, "notes": original["notes"], "warnings": original["warnings"], "confirmed": None} == original


def test_a_report_of_another_compilation_is_refused(checked: Played, tmp_path: Path) -> None:
    for name in ("device.json", "manifest.json"):
        (tmp_path / name).write_bytes((checked.bundle / name).read_bytes())
    found = instar.confirm(tmp_path / "device.json")
    with pytest.raises(ConfigError, match=r"report\.json: expected the report of the compilation beside the manifest"):
        found.save_report(tmp_path / "report.html")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected the report that was written with the manifest, found another"):
        found.save_report(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_answer_without_its_bundle_is_refused(checked: Played, played: Played, tmp_path: Path) -> None:
    path = checked.edited(tmp_path / "device.json", lambda _: None)
    with pytest.raises(ConfigError, match=r"expected the bundle's manifest\.json beside it, found nothing"):
        instar.confirm(path)
    with pytest.raises(ConfigError, match="expected the manifest of a check bundle, found another"):
        instar.confirm(played.answer)
    with pytest.raises(ConfigError, match="found that to a check of a compiled model"):
        planned(path, {"latency": "90%"})


def test_what_is_not_as_promised_is_named(checked: Played, tmp_path: Path) -> None:
    def far(document: dict[str, Any]) -> None:
        (answer,) = document["cases"].values()
        answer["difference"] = 0.5
        document["files"]["models/model.onnx"] += 1

    found = instar.confirm(checked.edited(tmp_path / "far.json", far), checked.bundle / "manifest.json")
    assert "bytes there, not" in found.problems[0]
    assert "at 8x64 outputs are apart by 0.5, more than" in found.problems[1]

    def broken(document: dict[str, Any]) -> None:
        (answer,) = document["cases"].values()
        answer.update(error="no such operator", median_ms=None, quartile_ms=None, spread=None)

    found = instar.confirm(checked.edited(tmp_path / "broken.json", broken), checked.bundle / "manifest.json")
    assert found.problems == ("at 8x64 it does not run: no such operator",)
    assert found.found.latency_ms is None


def test_only_models_of_onnx_are_checked_on_a_device(tmp_path: Path) -> None:
    compiled = instar.compile(net(), (X,), target="torch")
    with pytest.raises(ConfigError, match="expected a model for target 'onnx', found 'torch'"):
        instar.write_check(compiled, tmp_path / "check")


def test_a_device_that_cannot_run_the_network_is_refused(played: Played, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for key in of_networks(document, "float"):
            document["cases"][key].update(error="opset 99", median_ms=None, quartile_ms=None, spread=None)

    path = played.edited(tmp_path / "device.json", change)
    with pytest.raises(ConfigError, match="expected a device that runs the network in float, found: opset 99"):
        planned(path, {"latency": "90%"})


def test_a_bundlewithout_manifest_says_so(played: Played, tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text((played.bundle / "measure.py").read_text())
    result = measured(tmp_path)
    assert result.returncode == 2
    assert "expected manifest.json, found none" in result.stderr


def test_targetswithout_another_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one that another device can measure, found 'torch'"):
        instar.profile(net(), (X,), out=tmp_path / "b", target="torch")
