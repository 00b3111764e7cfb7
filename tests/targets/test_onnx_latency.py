"""Latency: what is measured, what is kept, and what happens when the cache or a profile cannot be used."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import ConfigError
from instar.ir.layers import Layer, find_layers
from instar.ir.options import KEPT, STATIC_INT8, Activation, Arithmetic, Option
from instar.targets.onnx import latency
from instar.targets.onnx.cases import Case, LayerCases, case_models
from instar.targets.onnx.latency import DeviceProfile, LatencyTable, default_cache, measure
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.profiled import ProfiledRun, milliseconds_of, profiled_in_turns
from instar.targets.onnx.session import KernelRun, executed_kernels


class Layers(nn.Module):
    """A layer of each kind that is used nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bare = nn.Linear(64, 48), nn.Linear(70, 48, bias=False)
        self.conv, self.even = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 4, padding="same")
        self.table = nn.Embedding(50, 32)

    def forward(self, x: Tensor, y: Tensor, image: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        return self.linear(x), self.bare(y), self.conv(image), self.even(image), self.table(ids)


INPUTS = (torch.randn(8, 64), torch.randn(1, 70), torch.randn(1, 8, 10, 10), torch.arange(4))
TENSOR, TOKEN = Activation.dynamic("tensor"), Activation.dynamic("token")
ROWS = Arithmetic.INT8_ROWS


@functools.cache
def layers() -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(instar.capture(Layers().eval(), INPUTS), min_elements=0)[0]}


def case(name: str, option: Option = KEPT) -> Case:
    return LayerCases({}, OnnxOptions()).case(layers()[name], layers()[name].uses[0], option)


KERNELS = {
    ("linear", KEPT): "MatMul|Gemm|FusedMatMul|FusedGemm",
    ("bare", KEPT): "MatMul|Gemm",
    ("linear", Option("int8:channel", "rtn", TENSOR, "int8", ROWS)): "DynamicQuantizeMatMul|MatMulIntegerToFloat",
    ("linear", Option("int4:g32", "rtn", TOKEN, "int8_token", ROWS)): "MatMulIntegerToFloat",
    ("linear", Option("int4:g32", "rtn", Activation.dynamic("group:32"), "nbits", Arithmetic.CODES)): "MatMulNBits",
    ("linear", Option("int4:g32")): "MatMul|Gemm|FusedMatMul|FusedGemm",
    ("conv", KEPT): "Conv|FusedConv",
    ("even", KEPT): "Conv|FusedConv",
    ("conv", Option("int8:channel", "rtn", STATIC_INT8, "int8_conv", Arithmetic.CODES)): "QLinearConv",
    ("table", KEPT): "Gather",
    ("table", Option("fp16")): "Gather",
    ("table", Option("int3:g16")): "Gather",
    ("table", Option("int4:g16")): "GatherBlockQuantized",
}


def test_every_case_runs_its_kernel_when_all_are_exported_together() -> None:
    wanted = {(made := case(*of)).key: (made, kernel) for of, kernel in KERNELS.items()}
    models = {made.key: model for made, model in case_models([made for made, _ in wanted.values()])}
    assert models.keys() == wanted.keys()
    for key, (_, kernel) in wanted.items():
        executed = executed_kernels(models[key].model, models[key].feeds)
        assert sum(executed[name] for name in kernel.split("|")) >= 1, (key, executed)
        assert not models[key].counted or any(executed[name] for name in models[key].counted)
        assert len(models[key].model.graph.output) == 1


def test_what_takes_the_same_time_has_one_key() -> None:
    formats = ("int8:channel", "int4:g32", "int3:g16")
    keys = {case("linear", Option(text, "rtn", TENSOR, "int8", ROWS)).key for text in formats}
    assert keys == {
        "instar.quantize_dynamic(x=x f32[8, 64]); instar.linear_int8(codes=%0.0, scale=%0.1, zero_point=%0.2, "
        "weight=i8[64, 48], weight_scale=f32[48], bias=f32[48])"
    }
    plain = "aten.linear(input=x f32[8, 64], weight=f32[48, 64], bias=f32[48])"
    assert case("linear", Option("int4:g32")).key == case("linear").key == plain
    assert case("table", Option("int4:g16")).key != case("table", Option("int4:g32")).key


def test_int8_is_measured_faster_than_float_where_it_is() -> None:
    layer = find_layers(instar.capture(nn.Linear(512, 512).eval(), (torch.randn(128, 512),)))[0][0]
    found = [
        LayerCases({}, OnnxOptions()).case(layer, layer.uses[0], option)
        for option in (KEPT, Option("int8:channel", "rtn", TENSOR, "int8", ROWS))
    ]
    times = measure(found, seconds=0.1)
    assert 0 < times[found[1].key] < times[found[0].key]


def test_models_that_are_profiled_take_turns() -> None:
    models = [model for _, model in case_models([case("conv"), case("even")])]
    found = profiled_in_turns(models, turns=4)
    assert [len(runs) for runs in found] == [4, 4]
    for runs in found:
        assert all(one.kernels and [k.name for k in one.kernels] == [k.name for k in runs[0].kernels] for one in runs)
        assert all(0.0 < one.own <= 1.0 for one in runs)
        assert 0.0 < milliseconds_of(runs, lambda kernels: [k for k in kernels if k.op in models[0].counted]) < 100.0


def test_runs_that_were_disturbed_least_count() -> None:
    """A kernel of 100 us: half of the runs was interrupted for nine times as long."""
    kernel, other = KernelRun("a", "Conv", 100), KernelRun("b", "Add", 40)
    calm = [ProfiledRun((kernel, other), 1.0)] * 6
    busy = [ProfiledRun((KernelRun("a", "Conv", 1000), other), 0.1)] * 6
    counted = [kernel.op]
    taken = milliseconds_of([*busy, *calm], lambda kernels: [k for k in kernels if k.op in counted])
    assert taken == pytest.approx(0.1005)
    assert milliseconds_of(busy, lambda kernels: [k for k in kernels if k.op in counted]) == pytest.approx(0.10005)


def test_a_case_is_measured_once(tmp_path: Path) -> None:
    cases = [case("linear"), case("bare")]
    first = LatencyTable(1, cache=tmp_path / "new" / "folder", seconds=0.01)
    times = first.milliseconds(cases)
    assert first.measured == 2
    assert all(0 < t < 100 for t in times.values())
    second = LatencyTable(1, cache=tmp_path / "new" / "folder", seconds=0.01)
    assert second.milliseconds(cases) == times
    assert second.measured == 0


def test_caches_of_thread_counts_are_apart(tmp_path: Path) -> None:
    LatencyTable(1, cache=tmp_path, seconds=0.01).milliseconds([case("linear")])
    other = LatencyTable(2, cache=tmp_path, seconds=0.01)
    assert not other.profile.milliseconds
    other.milliseconds([case("linear")])
    assert len(list(tmp_path.iterdir())) == 2


def test_two_processes_keep_each_others_times(tmp_path: Path) -> None:
    one, two = (LatencyTable(1, cache=tmp_path, seconds=0.01) for _ in range(2))
    one.milliseconds([case("linear")])
    two.milliseconds([case("bare")])
    assert len(LatencyTable(1, cache=tmp_path).profile.milliseconds) == 2


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1}', "[]", "NaN"])
def test_a_damaged_cache_is_reported_and_rebuilt(tmp_path: Path, damage: str) -> None:
    LatencyTable(1, cache=tmp_path, seconds=0.01).milliseconds([case("linear")])
    (path,) = tmp_path.iterdir()
    path.write_text(damage)
    with pytest.warns(UserWarning, match="latency cache ignored and rebuilt: "):
        table = LatencyTable(1, cache=tmp_path, seconds=0.01)
    with pytest.warns(UserWarning, match="latency cache ignored and rebuilt: "):
        table.milliseconds([case("linear")])
    assert json.loads(path.read_text())["milliseconds"].keys() == {case("linear").key}


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "instar"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache() == Path.home() / ".cache" / "instar"


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    profile = DeviceProfile("onnxruntime 1", "some cpu", 4, {"a": 0.5})
    profile.save(tmp_path / "times.json")
    assert DeviceProfile.load(tmp_path / "times.json") == profile


def test_no_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 1 thread, found 0"):
        LatencyTable(0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], r"measured latencies: expected"),
        ({"version": 4}, "runtime"),
        ({"version": 9, "runtime": "r", "cpu": "c", "threads": 1, "milliseconds": {}}, "expected version 4, found 9"),
        ({"version": 4, "runtime": 3, "cpu": "c", "threads": 1, "milliseconds": {}}, "runtime: expected"),
        ({"version": 4, "runtime": "r", "cpu": "c", "threads": 1, "milliseconds": []}, "milliseconds: expected"),
        ({"version": 4, "runtime": "r", "cpu": "c", "threads": 1, "milliseconds": {"k": -1}}, "a time in milliseconds"),
    ],
)
def test_a_profile_that_is_none_is_refused(tmp_path: Path, document: object, message: str) -> None:
    path = tmp_path / "device.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=message):
        DeviceProfile.load(path)


def test_a_cache_that_cannot_be_made_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError

    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr(latency, "measure", measured)
    table = LatencyTable(1, cache=tmp_path / "taken" / "below", seconds=0.01)
    with pytest.raises(ConfigError, match=r"target_options.cache: expected a folder, found the file '.*taken'"):
        table.milliseconds([case("linear")])
