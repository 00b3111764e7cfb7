"""What is wrong with a pipeline file by itself: one test per message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from config_files import written

from instar.config import Pipeline, resolve
from instar.ir.errors import ConfigError

TARGETS = "'onnx' or 'torch' or 'scratchpad'"

INVALID: list[tuple[str, str]] = [
    ("formts = []", "formts: unknown key; did you mean 'formats'?"),
    ("[calibration]\nmax_batch = 3", "calibration.max_batch: unknown key; did you mean 'max_batches'?"),
    ('[[layers]]\npattern = "a"\nformat = "keep"', "layers[0].format: unknown key; did you mean 'formats'?"),
    ('[[layers]]\nformats = "keep"', "layers[0].pattern: expected a value, found none; add it"),
    (
        "target = 3",
        "target: expected the name of a target, or its declaration (instar.targets.declaration.Declaration)",
    ),
    ('target = "onxx"', f"target: expected {TARGETS}, found 'onxx'; did you mean 'onnx'?"),
    (
        'target = "onxx:a.json"',
        f"target: expected {TARGETS}, found 'onxx:a.json'; did you mean 'onnx'?",
    ),
    (
        'target = "tensorrt"',
        f"target: expected {TARGETS}, found 'tensorrt'; install the package that offers it",
    ),
    (
        'target = "torch:cpu"',
        "target: expected 'torch' alone, which has no devices, found 'torch:cpu'; remove the colon",
    ),
    ('target = "onnx:"', "target: expected the name of a device behind the colon, found 'onnx:'; remove the colon"),
    (
        'target = "onnx:a.json"\n[target_options]\nprofile = "b.json"',
        "target_options.profile: expected none beside the device of target 'onnx:a.json', found 'b.json'; remove one",
    ),
    ("target_options = 3", "target_options: expected a table, or OnnxOptions, found 3"),
    ("[target_options]\nopsett = 21", "target_options.opsett: unknown key; did you mean 'opset'?"),
    ("[target_options]\nthreads = 0", "target_options.threads: expected a number of at least 1, found 0"),
    (
        '[target_options]\nopset = 22\nattention = "fused"',
        "target_options.attention: expected opset 23 or later for 'fused', found 22; raise it, or write 'unfused'",
    ),
    (
        '[calibration]\nsensitivity = "hessian"',
        "expected 'auto', 'fisher', 'output_error' or 'measured', found 'hessian'",
    ),
    ('seed = "1"', "seed: expected an integer, found '1'"),
    ("seed = -1", "seed: expected a number of at least 0, found -1"),
    ("seed = 4294967296", "seed: expected a number below 4294967296, found 4294967296"),
    ("check_passes = 1", "check_passes: expected true or false, found 1"),
    ('search = "fast"', "search: expected a table, found 'fast'"),
    ('[search]\ntime_limit_s = "5"', "search.time_limit_s: expected a number, found '5'"),
    ("[search]\ntime_limit_s = 0", "search.time_limit_s: expected a number above 0, found 0"),
    ("[search]\ntime_limit_s = inf", "search.time_limit_s: expected a finite number, found inf"),
    ("layers = 3", "layers: expected a list, found 3"),
    ("leave_alone = [3]", "leave_alone[0]: expected a glob such as 'encoder.*'"),
    ('leave_alone = ["re:("]', "leave_alone[0]: expected a regular expression after 're:', found 're:('"),
    ('formats = "int8:channel"', "formats: expected a list of formats or \"keep\", found 'int8:channel'"),
    ("formats = []", "formats: expected a list of at least one name, found []"),
    ('activations = ["int8"]', "activations: expected one of none, dynamic_int8"),
    ('activations = ["dynamic_int8:tokens"]', "found 'dynamic_int8:tokens'; did you mean 'dynamic_int8:token'?"),
    ("passes = [3]", "passes[0]: expected a pass (a frozen dataclass with name and exact) or its name, found 3"),
    ("passes = [{limit = 3}]", "passes[0].name: expected a string, found None"),
    ("[target_options]\nopset = 17", "target_options.opset: expected a number of at least 21, found 17"),
    ("[target_options]\nopset = 26", "target_options.opset: expected a number of at most 25, found 26"),
    (
        "[target_options]\nir_version = 9",
        "target_options.ir_version: expected at least 10 for opset 21, found 9; raise it or lower the opset",
    ),
    ("[target_options]\nir_version = 14", "target_options.ir_version: expected a number of at most 13, found 14"),
    ("[target_options]\naccuracy_level = 7", "target_options.accuracy_level: expected 4, found 7"),
    (
        'target = "torch"\n[target_options]\naccuracy_level = 4',
        "target_options.accuracy_level: expected target 'onnx', found target 'torch'; remove it",
    ),
    ('target = "torch"\n[target_options]\nopset = 21', "target_options.opset: expected target 'onnx'"),
    (
        "[calibration]\npercentile = 99.9",
        "calibration.percentile: expected calibration.activations = 'percentile', found 'mse'; remove one of them",
    ),
    (
        '[calibration]\nbias_correction = "yes"',
        "calibration.bias_correction: expected 'auto', 'always' or 'never', found 'yes'",
    ),
    (
        "[calibration]\nbias_corection = 1",
        "calibration.bias_corection: unknown key; did you mean 'bias_correction'?",
    ),
    ('[budget]\nsize = "12 parsecs"', "budget.size: expected a unit out of B"),
    (
        '[budget]\nsise = "12MB"',
        "budget: expected size, latency, ops, minimise, each_shape, found 'sise'; did you mean 'size'?",
    ),
    ("[budget]", "budget: expected at least one of size, latency and ops, found none"),
    (
        'budget = "small"',
        "budget: expected 'name=amount' such as 'size=15%', 'smallest' or 'fastest' alone, found 'small'",
    ),
    (
        'budget = "smalest"',
        "'smallest' or 'fastest' alone, found 'smalest'; did you mean 'smallest'?",
    ),
    ('[budget]\nsize = "1e400"', "budget.size: expected a positive amount, found '1e400', which is too large"),
    ('[budget]\nsize = "٣%"', "budget.size: expected '15%', '12MB' or a number of bytes, found '٣%'"),
    ("[budget]\nsize = 1e9", "or a number of bytes, found 1000000000.0; write 1000000000"),
    ("formats = [4]", "formats: expected names such as 'int4:g32' or 'onnx', each a text, found 4 among them"),
    ("budget = 3", 'budget: expected a table such as {size = "15%"} "smallest" or "fastest", found 3'),
    ("max_drop = 0.3", "max_drop: expected it from Python; pass it to instar.compile(max_drop=...)"),
    ('quality = "sts"', "quality: expected it from Python; pass it to instar.compile(quality=...)"),
    ('extends = "cpuu"', "extends: expected a preset, found 'cpuu'; did you mean 'cpu'?"),
    ("seed = ", "expected TOML, found: Invalid value"),
]


@pytest.mark.parametrize(("text", "message"), INVALID)
def test_invalid_files(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Pipeline.load(path)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, 'target = 3\nseed = "1"\nbudgets = 3\n')
    with pytest.raises(ConfigError) as caught:
        Pipeline.load(path)
    assert len(str(caught.value).splitlines()) == 3


def test_python_raises_the_same_family() -> None:
    with pytest.raises(ConfigError, match=r"target: expected the name of a target, or its declaration .*, found 3"):
        Pipeline.model_validate({"target": 3})
    with pytest.raises(ConfigError, match=r"^preset 'cpu' with arguments: seed: expected an integer, found 'x'"):
        resolve("cpu", seed="x")


def test_unknown_presets_and_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a preset or a .toml file, found 'cpuu'; did you mean 'cpu'\?"):
        Pipeline.load("cpuu")
    with pytest.raises(ConfigError, match=r"gone.toml: expected a file, found nothing; check the path"):
        Pipeline.load(tmp_path / "gone.toml")
