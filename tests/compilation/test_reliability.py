"""What goes wrong in practice is handled, or refused with a message; an interruption leaves nothing half-written."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import instar
from instar.compilation import calibration_stage
from instar.ir import memory
from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.learned import CalibrationSettings
from instar.ir.calibration.state import restore_state, save_state
from instar.ir.capture import capture
from instar.ir.errors import CalibrationError, CaptureError, ConfigError, FormatError
from instar.ir.graph import Graph
from instar.ir.layers import find_layers
from instar.ir.options import activations_of
from instar.passes.static_values import static_values

from .models import conv_data, conv_net, mlp, mlp_data, relative

DATA = mlp_data()
SMALL: dict[str, Any] = {"target": "torch", "budget": {"size": "40%"}}


def with_weight(change: Any) -> nn.Module:
    model = mlp()
    with torch.no_grad():
        change(next(iter(model.parameters())))
    return model


def compiles(model: nn.Module, target: str = "torch", **settings: Any) -> instar.Compiled:
    merged: dict[str, Any] = {**SMALL, "target": target, **settings}
    return instar.compile(model, DATA[0], **merged)


def never() -> Iterator[tuple[Tensor, ...]]:
    """Data that must not be read."""
    raise AssertionError
    yield ()


# ---------------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    message = r"layer 0: expected finite weights; found 1 NaN or infinity; repair the checkpoint"
    with pytest.raises(FormatError, match=message):
        compiles(with_weight(lambda w: w[3, 5].fill_(bad)), calibration=never())


def test_a_weight_that_no_allowed_format_can_store_is_refused() -> None:
    message = r"layer 0: expected a weight that one of its formats can store; found int8:channel: .*float16"
    with pytest.raises(FormatError, match=message):
        compiles(with_weight(lambda w: w.mul_(1e12)), formats=["int8:channel"])


@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("scale", [1e-12, 1e4], ids=["tiny", "huge"])
def test_tiny_and_huge_scales(scale: float, target: str) -> None:
    model = with_weight(lambda w: w.mul_(scale))
    result = compiles(model, target, budget={"size": "70%"})
    assert relative(result(*DATA[1]), model(*DATA[1])) < 0.25


def test_a_layer_whose_scales_no_float16_holds_stays_float() -> None:
    model = with_weight(lambda w: w.mul_(1e12))
    result = compiles(model, budget={"size": "70%"})
    decision = result.plan.decision("0")
    assert decision.chosen.option.format == "fp32"
    assert any("float16" in reason for reason in decision.refused)
    assert relative(result(*DATA[1]), model(*DATA[1])) < 0.25


@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_groups_and_layers_of_zeros(target: str, calibrated: bool) -> None:
    def zero(weight: Tensor) -> None:
        weight[:, :32] = 0.0
        weight[7] = 0.0

    model = with_weight(zero)
    with torch.no_grad():
        model[2].weight.zero_()  # pyright: ignore[reportIndexIssue]
    result = compiles(model, target, calibration=DATA if calibrated else None)
    found = result(*DATA[1])
    assert torch.isfinite(found).all()
    assert relative(found, model(*DATA[1])) < 0.25


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_columns_that_no_group_divides(target: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 75), nn.ReLU(), nn.Linear(75, 33)).eval()
    x = torch.randn(4, 50)
    settings: dict[str, Any] = {"formats": ["int4:g32", "int8:g64"], "activations": ["none", "dynamic_int8"]}
    result = instar.compile(model, (x,), target=target, budget={"size": "70%"}, **settings)
    assert relative(result(x), model(x)) < 0.25


def test_views_and_shared_memory() -> None:
    """A transposed parameter, one that is a slice of another's memory, and one tensor under two names."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            base = torch.randn(96, 64)
            self.transposed = nn.Parameter(torch.randn(64, 64).t())
            self.part = nn.Parameter(base[:64])
            self.other = nn.Parameter(base[32:])
            self.same = self.transposed

        def forward(self, x: Tensor) -> Tensor:
            for weight in (self.transposed, self.part, self.other, self.same):
                x = torch.nn.functional.linear(x, weight) / 8
            return x

    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(4, 64)
    for target in ("torch", "onnx"):
        result = instar.compile(model, (x,), target=target, budget={"size": "60%"}, formats=["int8:channel"])
        assert relative(result(x), model(x)) < 0.1
        assert {d.layer for d in result.plan.decisions} == {"transposed", "part", "other"}


def test_the_callers_model_is_unchanged() -> None:
    model = conv_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]
    data = conv_data()
    instar.compile(model, data[0], target="torch", budget={"size": "40%"}, calibration=data)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"expected evaluation mode; .* call model.eval\(\)(.|\n)*norm1"):
        instar.compile(conv_net().train(), conv_data()[0], **SMALL)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_an_empty_batch_as_example(target: str) -> None:
    empty = torch.zeros(0, 64)
    result = instar.compile(mlp(), (empty,), target=target, budget={"size": "40%"})
    assert result(empty).shape == (0, 32)


# ---------------------------------------------------------------------------------------------- data
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_data_that_is_not_finite_is_refused(bad: float) -> None:
    data = mlp_data()
    data[1][0][2, 3] = bad
    with pytest.raises(
        CalibrationError, match=r"calibration batch 1, input %.*: expected finite values; found 1 NaN or inf"
    ):
        compiles(mlp(), calibration=data)


def test_empty_data_is_refused() -> None:
    used_up = iter(mlp_data())
    assert len(list(used_up)) == 3
    for empty in ([], used_up):
        with pytest.raises(CalibrationError, match="expected at least one batch; found none"):
            compiles(mlp(), calibration=empty)


def test_data_that_fails_while_it_is_read_is_refused() -> None:
    def failing() -> Iterator[tuple[Tensor, ...]]:
        yield DATA[0]
        raise OSError("the disk is gone")

    with pytest.raises(
        CalibrationError, match="calibration batch 1: the data raised OSError: the disk is gone"
    ) as error:
        compiles(mlp(), calibration=failing())
    assert isinstance(error.value.__cause__, OSError)


def test_an_interruption_while_data_is_read_reaches_the_caller() -> None:
    def interrupted() -> Iterator[tuple[Tensor, ...]]:
        yield DATA[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiles(mlp(), calibration=interrupted())


def test_data_elsewhere_than_on_the_cpu_is_refused() -> None:
    with pytest.raises(
        CalibrationError, match=r"batch 0: expected tensors on the cpu.*found one on meta; call .cpu\(\)"
    ):
        compiles(mlp(), calibration=[(torch.zeros(8, 64, device="meta"),)])


def test_arrays_are_named_and_not_printed() -> None:
    with pytest.raises(CalibrationError, match=r"found ndarray; write torch.as_tensor\(...\)$"):
        compiles(mlp(), calibration=[(torch.zeros(8, 64).numpy(),)])


def test_inputs_that_the_model_cannot_compute_with_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"args: expected example inputs that the model can run; found: aten.linear"):
        instar.compile(nn.Linear(64, 64).eval(), (torch.zeros(4, 64, dtype=torch.int64),), **SMALL)


def test_data_that_is_no_iterable_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"expected an iterable of batches .* found int; wrap it in a list"):
        compiles(mlp(), calibration=3)


# ---------------------------------------------------------------------------------------------- interruptions
def conv_graph() -> Graph:
    return instar.optimize(conv_net(), conv_data()[0])


def test_calibration_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_stage, "CHECKPOINT_EVERY", 2)
    graph, data, path = conv_graph(), conv_data(5), tmp_path / "state.safetensors"
    layers = find_layers(graph)[0]
    settings = CalibrationSettings(
        activations=activations_of(["dynamic_int8"]), sensitivity_of_inputs=True, centred=(layers[0].name,)
    )
    observed = static_values(graph, [layer for layer in layers if layer.kind == "conv"])

    def interrupted() -> Iterator[tuple[Tensor, ...]]:
        yield from data[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibration_stage.calibrate(graph, layers, interrupted(), settings, observed, path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    resumed, samples, held_out = calibration_stage.calibrate(graph, layers, data, settings, observed, path)
    whole, _, too = calibration_stage.calibrate(graph, layers, data, settings, observed)
    assert held_out is too is None
    assert not path.exists()
    assert len(samples) == 2
    assert (resumed.batches, whole.batches) == (5, 5)
    for name, expected in whole.layers.items():
        found = resumed.layers[name]
        assert torch.equal(found.weight.row_weight, expected.weight.row_weight)
        assert found.weight.second_moment is not None
        assert expected.weight.second_moment is not None
        assert torch.equal(found.weight.second_moment, expected.weight.second_moment)
        assert found.activation_loss == expected.activation_loss
        assert found.input_gradient == expected.input_gradient
        if name == layers[0].name:
            assert found.mean_input is not None
            assert expected.mean_input is not None
            assert torch.equal(found.mean_input, expected.mean_input)
    for node, expected_range in whole.ranges.items():
        found_range = resumed.ranges[node]
        assert (found_range.minimum, found_range.maximum) == (expected_range.minimum, expected_range.maximum)
        assert torch.equal(found_range.histogram, expected_range.histogram)


def mlp_calibrator(**settings: Any) -> Calibrator:
    graph = capture(mlp(), DATA[0])
    return Calibrator(graph, find_layers(graph)[0], CalibrationSettings(**settings))


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    calibrator = mlp_calibrator()
    calibrator.add(DATA[0])
    save_state(calibrator, path)
    with pytest.raises(CalibrationError, match="belongs to another model or other calibration settings; delete it"):
        restore_state(mlp_calibrator(gradients=False), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        CalibrationError, match=r"expected a calibration checkpoint; found .*; delete it to start again"
    ):
        restore_state(mlp_calibrator(), path)
    path.write_bytes(b"")
    with pytest.raises(CalibrationError, match="expected a calibration checkpoint"):
        compiles(mlp(), calibration=DATA, checkpoint=path)
    path.write_bytes(whole)
    with safetensors.safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownMemberType]
        metadata = dict(file.metadata() or {})
    safetensors.torch.save_file({"other": torch.zeros(1)}, path, metadata)
    with pytest.raises(CalibrationError, match="expected a complete calibration checkpoint; found no 'second'"):
        restore_state(mlp_calibrator(), path)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "plan.json", "report.html"])
def test_an_interrupted_save_leaves_the_old_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = compiles(mlp(), "onnx" if name.endswith("onnx") else "torch")
    path = tmp_path / name
    path.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    save = {"plan.json": result.plan.save, "report.html": result.report.save}.get(name, result.save)
    with pytest.raises(KeyboardInterrupt):
        save(path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"old")]


def test_an_interruption_while_lowering_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instar.targets.onnx import export

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compiles(mlp(), "onnx")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- files
def test_where_files_may_not_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = compiles(mlp(), "onnx")
    with pytest.raises(ConfigError, match=r"expected a file name that ends in .onnx"):
        result.save(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=r"expected the folder .*nowhere to exist, found nothing; create it first"):
        result.save(tmp_path / "nowhere" / "model.onnx")
    monkeypatch.setattr("os.access", lambda *_: False)
    for save, name in ((result.save, "model.onnx"), (result.plan.save, "plan.json")):
        with pytest.raises(
            ConfigError, match=r"expected a folder that can be written to, found .*; choose another one"
        ):
            save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_convolution_that_no_integer_kernel_takes_runs_in_float() -> None:
    convolution, data = nn.Conv2d(16, 32, 3, padding=1), [(torch.randn(16, 10, 10),) for _ in range(3)]
    result, error = compiled_convolution(convolution, data)
    (decision,) = result.plan.decisions
    assert decision.chosen.option.kernel == "float"
    reason = "int8:channel: QLinearConv takes inputs with a batch axis; it runs in float"
    assert any(text.startswith(reason) for text in decision.refused), decision.refused
    assert error < 0.02


def test_a_convolution_whose_padding_is_uneven_compiles() -> None:
    convolution, data = nn.Conv2d(16, 32, 4, padding="same"), [(torch.randn(2, 16, 10, 10),) for _ in range(3)]
    result, error = compiled_convolution(convolution, data)
    (decision,) = result.plan.decisions
    assert decision.chosen.option.format == "int8:channel"
    assert error < 0.02


def compiled_convolution(convolution: nn.Conv2d, data: list[tuple[torch.Tensor]]) -> tuple[instar.Compiled, float]:
    model = nn.Sequential(convolution, nn.ReLU()).eval()
    result = instar.compile(
        model, data[0], target="onnx", budget={"size": "50%"}, calibration=data, formats=("fp32", "int8:channel"),
        activations=("none", "static_int8"),
    )  # fmt: skip
    return result, relative(result(*data[1]), model(*data[1]))


def test_freed_memory_goes_back_where_the_library_has_no_such_function(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: called.append("library") or object())
    monkeypatch.setattr(memory.sys, "platform", "linux")
    memory.release_memory()
    monkeypatch.setattr(memory.sys, "platform", "win32")
    memory.release_memory()
    assert called == ["library"]


def test_a_compilation_gives_the_garbage_collector_back_as_it_was() -> None:
    before = (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold())
    instar.compile(nn.Linear(4, 3).eval(), (torch.randn(2, 4),), target="onnx")
    assert (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()) == before
    with pytest.raises(CaptureError):
        instar.compile(nn.Linear(4, 3).eval(), (torch.randn(2, 5),), target="onnx")
    with pytest.raises(ConfigError):
        instar.compile(nn.Linear(4, 3).eval(), (torch.randn(2, 4),), target="no such target")
    assert (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()) == before
