"""Latency: what is measured, what is kept, and what happens when the cache or a profile cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instar.ir.errors import ConfigError, LoweringError
from instar.targets.onnx import latency
from instar.targets.onnx.cases import Case, Conv, Embedding, Linear, case_model
from instar.targets.onnx.latency import DeviceProfile, LatencyTable, default_cache, measure
from instar.targets.onnx.session import executed_kernels

LINEAR = Linear(8, 64, 48)
CONV = Conv(1, 8, (10, 10), 8, (3, 3), (1, 1), (1, 1), (1, 1))
EMBEDDING = Embedding(4, 50, 32)

KERNELS = {
    Case(LINEAR, "float"): "MatMul|Gemm",
    Case(Linear(8, 64, 48, bias=False), "float"): "MatMul|Gemm",
    Case(LINEAR, "int8"): "DynamicQuantizeMatMul|MatMulIntegerToFloat",
    Case(LINEAR, "int8_token"): "MatMulIntegerToFloat",
    Case(LINEAR, "nbits:4:32:4"): "MatMulNBits",
    Case(Linear(1, 70, 48), "nbits:2:64:4"): "MatMulNBits",
    Case(CONV, "float"): "Conv|FusedConv",
    Case(CONV, "int8"): "QLinearConv",
    Case(EMBEDDING, "float"): "Gather",
    Case(EMBEDDING, "half"): "Gather",
    Case(EMBEDDING, "packed:3:16"): "Gather",
    Case(EMBEDDING, "block:4:16"): "GatherBlockQuantized",
}


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.key)
def test_a_case_runs_its_kernel(case: Case) -> None:
    model = case_model(case)
    executed = executed_kernels(model.model, model.feeds)
    assert sum(executed[name] for name in KERNELS[case].split("|")) >= 1
    assert not model.counted or any(executed[name] for name in model.counted)


def test_int8_is_measured_faster_than_float_where_it_is() -> None:
    shape = Linear(128, 512, 512)
    times = measure([Case(shape, "float"), Case(shape, "int8")], seconds=0.1)
    assert 0 < times[Case(shape, "int8").key] < times[Case(shape, "float").key]


@pytest.mark.parametrize("kernel", ["int7", "nbits:4:32", "nbits:a:b:c", "packed:3:16"])
def test_an_unknown_kernel_is_refused(kernel: str) -> None:
    with pytest.raises(LoweringError, match=f"expected a kernel of such layers, found '{kernel}'"):
        case_model(Case(LINEAR, kernel))


def test_a_case_is_measured_once(tmp_path: Path) -> None:
    cases = [Case(LINEAR, "float"), Case(CONV, "float")]
    first = LatencyTable(1, cache=tmp_path / "new" / "folder", seconds=0.01)
    times = first.milliseconds(cases)
    assert first.measured == 2
    assert all(0 < t < 100 for t in times.values())
    second = LatencyTable(1, cache=tmp_path / "new" / "folder", seconds=0.01)
    assert second.milliseconds(cases) == times
    assert second.measured == 0


def test_caches_of_thread_counts_are_apart(tmp_path: Path) -> None:
    LatencyTable(1, cache=tmp_path, seconds=0.01).milliseconds([Case(LINEAR, "float")])
    other = LatencyTable(2, cache=tmp_path, seconds=0.01)
    assert not other.profile.milliseconds
    other.milliseconds([Case(LINEAR, "float")])
    assert len(list(tmp_path.iterdir())) == 2


def test_two_processes_keep_each_others_times(tmp_path: Path) -> None:
    one, two = (LatencyTable(1, cache=tmp_path, seconds=0.01) for _ in range(2))
    one.milliseconds([Case(LINEAR, "float")])
    two.milliseconds([Case(CONV, "float")])
    assert len(LatencyTable(1, cache=tmp_path).profile.milliseconds) == 2


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1}', "[]", "NaN"])
def test_a_damaged_cache_is_reported_and_rebuilt(tmp_path: Path, damage: str) -> None:
    LatencyTable(1, cache=tmp_path, seconds=0.01).milliseconds([Case(LINEAR, "float")])
    (path,) = tmp_path.iterdir()
    path.write_text(damage)
    with pytest.warns(UserWarning, match="latency cache ignored and rebuilt: "):
        table = LatencyTable(1, cache=tmp_path, seconds=0.01)
    with pytest.warns(UserWarning, match="latency cache ignored and rebuilt: "):
        table.milliseconds([Case(LINEAR, "float")])
    assert json.loads(path.read_text())["milliseconds"].keys() == {Case(LINEAR, "float").key}


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "instar"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache() == Path.home() / ".cache" / "instar"


def test_a_profile_replaces_measuring(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    DeviceProfile("onnxruntime 1", "some cpu", 4, {Case(LINEAR, "float").key: 0.5}).save(path)
    table = LatencyTable(4, profile=DeviceProfile.load(path))
    assert table.milliseconds([Case(LINEAR, "float")]) == {Case(LINEAR, "float"): 0.5}
    with pytest.raises(ConfigError, match=r"of some cpu: expected times of linear 8x64x48 bias @int8; did you mean"):
        table.milliseconds([Case(LINEAR, "int8")])


def test_a_profile_for_other_threads_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected times for 1 threads, found 4"):
        LatencyTable(1, profile=DeviceProfile("r", "c", 4))


def test_no_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 1 thread, found 0"):
        LatencyTable(0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected a JSON object, found list"),
        ({"version": 1}, "missing or unknown:"),
        ({"version": 9, "runtime": "r", "cpu": "c", "threads": 1, "milliseconds": {}}, "expected version 1, found 9"),
        ({"version": 1, "runtime": 3, "cpu": "c", "threads": 1, "milliseconds": {}}, "expected runtime and cpu"),
        ({"version": 1, "runtime": "r", "cpu": "c", "threads": 1, "milliseconds": []}, "an object of numbers"),
        ({"version": 1, "runtime": "r", "cpu": "c", "threads": 1, "milliseconds": {"k": -1}}, "a time in milliseconds"),
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
        table.milliseconds([Case(LINEAR, "float")])
