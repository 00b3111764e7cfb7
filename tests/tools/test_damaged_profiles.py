"""Damaged, foreign and half-finished answers and bundles: each says what is wrong and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.ir.errors import ConfigError
from instar.targets.onnx.device.check import file_digest

from .device_case import Played, measured, planned

Change = Callable[[dict[str, Any]], None]


def last(document: dict[str, Any]) -> dict[str, Any]:
    """The answer about the last case."""
    return document["cases"][document["wanted"][-1]]


def put(**values: Any) -> Change:
    return lambda document: document.update(values)


def put_last(**values: Any) -> Change:
    return lambda document: last(document).update(values)


EDITED: list[tuple[Change, str]] = [
    (put(instar_device=9), "expected version 2, found 9; write the bundle and measure again"),
    (put(instar_device="2"), "expected version 2, found '2'"),
    (lambda d: d.pop("instar_device"), "expected the key 'instar_device'"),
    (lambda d: d.pop("cpu"), "expected the key 'cpu'"),
    (put(more=1), "expected known keys, found 'more'"),
    (put(threads="2"), r"threads: expected an integer, found \"2\""),
    (put(threads=1), "expected times for 2 threads, found 1; set target_options.threads to the profile's"),
    (put(runtime="onnxruntime 1.17.3"), "expected times of ONNX Runtime 1.18 or later, found 'onnxruntime 1.17.3'"),
    (put(runtime="tensorflow"), "expected times of ONNX Runtime 1.18 or later, found 'tensorflow'"),
    (put(saturates="no"), "saturates: expected true or false, found"),
    (put(wanted="all"), "wanted: expected a list, found"),
    (put(cases=[]), "cases: expected an object, found"),
    (
        put(cases={}),
        r"expected times of all \d+ cases, found 0; missing are .* and \d+ more; run measure.py",
    ),
    (lambda d: d["cases"].pop(d["wanted"][-1]), "missing are instar_ort"),
    (put(wanted=[], cases={}), "expected a time in milliseconds for 'empty model', found None"),
    (put_last(quartile_ms=-1.0), "expected a time in milliseconds for .*, found -1.0; measure again"),
    (put_last(quartile_ms=None), "expected a time in milliseconds for .*, found None"),
    (put_last(quartile_ms="3 ms"), r"quartile_ms: expected a number, found \"3 ms\""),
    (put_last(kind="layer"), "expected the kind 'call', 'counted' or 'network' for .*, found 'layer'"),
    (put_last(error=7), "error: expected a string, found 7"),
    (lambda d: last(d).pop("spread"), "expected the key 'spread'"),
]


@pytest.mark.parametrize(("change", "message"), EDITED)
def test_a_damaged_profile_is_refused(played: Played, tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        planned(played.edited(tmp_path / "device.json", change), {"latency": "90%"})
    assert "device.json" in str(refused.value)


TEXTS: list[tuple[Callable[[str], str], str]] = [
    (lambda text: "", r"device\.json:1:1: expected JSON, found"),
    (lambda text: text[:-20], r"device\.json:\d+:\d+: expected JSON, found"),
    (lambda text: "[1, 2]", "expected an object, found"),
    (lambda text: "<html>", r"device\.json:1:1: expected JSON, found"),
    (lambda text: "\x00" * 50, r"device\.json:1:1: expected JSON, found"),
    (lambda text: "[" * 100_000 + "]" * 100_000, "found lists or objects nested too deeply"),
    (lambda text: text.replace('"cpu"', '"runtime"', 1), "found .*runtime.* twice"),
    (lambda text: text.replace('"threads": 2', '"threads": NaN', 1), "expected strict JSON, found .*NaN"),
    (lambda text: text.replace('"threads": 2', '"threads": 1e999', 1), "expected strict JSON, found .*1e999"),
]


@pytest.mark.parametrize(("change", "message"), TEXTS)
def test_what_is_no_profile_is_refused(
    played: Played, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    path = tmp_path / "device.json"
    path.write_text(change(played.answer.read_text()))
    with pytest.raises(ConfigError, match=message):
        planned(path, {"latency": "90%"})


def test_a_profile_has_to_be_a_file_of_text(played: Played, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.json.*: expected a file"):
        planned(tmp_path / "nothing.json", {"latency": "90%"})
    with pytest.raises(ConfigError, match="expected a file"):
        planned(tmp_path, {"latency": "90%"})
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        planned(tmp_path / "binary.json", {"latency": "90%"})
    with pytest.raises(ConfigError, match=r"found the manifest of a bundle; run measure\.py on the device"):
        planned(played.bundle / "manifest.json", {"latency": "90%"})


CONFIRMED: list[tuple[Change, str]] = [
    (lambda d: d["cases"].clear(), r"expected times of all 1 cases, found 0; missing are artifact \w+ at 8x64"),
    (put(bundle="0"), "found one to another bundle; measure this one"),
    (put(threads=7), "expected 2 threads, as the plan was made for, found 7"),
    (lambda d: d["files"].update({"models/model.onnx": -1}), r"missing are models/model\.onnx"),
    (lambda d: d.pop("cpu"), "cpu"),
    (put_last(median_ms=-2.0), "expected a time in milliseconds for 'artifact .*', found -2.0"),
    (put_last(median_ms=None), "expected a time in milliseconds for 'artifact .*', found None"),
]


@pytest.mark.parametrize(("change", "message"), CONFIRMED)
def test_an_answer_that_confirms_nothing_is_refused(
    checked: Played, tmp_path: Path, change: Change, message: str
) -> None:
    path = checked.edited(tmp_path / "device.json", change)
    with pytest.raises(ConfigError, match=message):
        instar.confirm(path, checked.bundle / "manifest.json")


def _manifest(bundle: Path, change: Change) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    change(document)
    (bundle / "manifest.json").write_text(json.dumps(document))


def test_bundles_of_another_instar_are_refused(checked: Played, tmp_path: Path) -> None:
    old = shutil.copytree(checked.bundle, tmp_path / "old")
    _manifest(old, put(instar_bundle=1))
    with pytest.raises(ConfigError, match=r"expected a bundle of version 2, found 1; compile again with --check"):
        instar.confirm(old / "device.json")


def test_reports_of_another_instar_are_refused(checked: Played, tmp_path: Path) -> None:
    older = shutil.copytree(checked.bundle, tmp_path / "older")
    report = json.loads((older / "report.json").read_text())
    (older / "report.json").write_text(json.dumps({**report, "instar_report": 1}))
    _manifest(older, lambda d: d["promise"].update(report=file_digest(older / "report.json")))
    answer = json.loads((older / "device.json").read_text())
    (older / "device.json").write_text(json.dumps({**answer, "bundle": file_digest(older / "manifest.json")}))
    found = instar.confirm(older / "device.json")
    with pytest.raises(ConfigError, match=r"expected a report of version 2, found 1: another instar wrote the check"):
        found.save_report(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_budget_that_the_device_is_above_is_named(checked: Played, tmp_path: Path) -> None:
    bundle = shutil.copytree(checked.bundle, tmp_path / "bundle")
    answer = json.loads((bundle / "device.json").read_text())
    put_last(median_ms=1e6)(answer)
    (bundle / "device.json").write_text(json.dumps(answer))
    found = instar.confirm(bundle / "device.json")
    assert found.problems == (), "latencies are no promise"
    assert "the device takes 1e+06 ms, more than the budget of" in found.warnings()[0]
    found.save_report(tmp_path / "report.json")
    assert found.warnings()[0] in json.loads((tmp_path / "report.json").read_text())["warnings"]


# ------------------------------------------------------------------------------------------ on the device
BUNDLES: list[tuple[Callable[[Path], object], str]] = [
    (lambda b: (b / "manifest.json").unlink(), "expected manifest.json, found none; copy the whole bundle"),
    (lambda b: (b / "manifest.json").write_text('{"instar_bundle": 2,'), "expected the manifest of a bundle"),
    (lambda b: (b / "manifest.json").write_text("[" * 100_000), "expected the manifest of a bundle"),
    (lambda b: (b / "manifest.json").write_text("[]"), "expected the manifest of a bundle"),
    (lambda b: _manifest(b, put(instar_bundle=9)), "expected a bundle of version 2, as this script is of, found 9"),
    (
        lambda b: (b / "models/weights.bin").unlink(),
        "missing or not whole are models/weights.bin; copy",
    ),
    (lambda b: (b / "models/network0.onnx").write_bytes(b"\x08"), "missing or not whole are models/network0.onnx"),
    (lambda b: shutil.rmtree(b / "feeds"), r"missing or not whole are feeds/.* and \d+ more; copy the bundle again"),
    (lambda b: (b / "device.json").write_text("{"), "expected an answer of this script, found something else"),
    (lambda b: (b / "device.json").mkdir(), "expected an answer of this script, found something else"),
]


@pytest.mark.parametrize(("damage", "message"), BUNDLES)
def test_the_device_says_what_is_wrong_with_a_bundle(
    played: Played, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    bundle = shutil.copytree(played.bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("device.json"))
    damage(bundle)
    result = measured(bundle)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert message.split(r".*")[0] in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threads", "0"), "expected a number of threads from 1 on, found '0'"),
        (("--threads", "-2"), "expected a number of threads from 1 on"),
        (("--seconds", "nan"), "expected seconds above 0, found 'nan'"),
        (("--out", "/nowhere/device.json"), "--out: expected a file that can be written, found /nowhere/device.json"),
    ],
)
def test_options_of_the_script(played: Played, options: tuple[str, ...], message: str) -> None:
    result = measured(played.bundle, *options)
    assert result.returncode == 2
    assert message in result.stderr


def test_an_old_runtime_on_the_device_is_refused(played: Played) -> None:
    result = measured(played.bundle, runtime="1.17.3")
    assert result.returncode == 2
    assert "expected onnxruntime 1.18 or later, found 1.17.3; update it" in result.stderr
