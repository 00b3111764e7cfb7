"""The schema, and one test per message that a user can meet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from instar.config import (
    Budget,
    LayerRule,
    Pipeline,
    Surroundings,
    build_passes,
    check,
    check_layers,
    presets,
    resolve,
)
from instar.ir.errors import ConfigError
from instar.passes.formats import format as parse_format
from instar.targets.onnx.options import OnnxOptions


@dataclass(frozen=True)
class FoldConstants:
    limit: int = 10
    name: str = "fold-constants"

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit: expected at least 1, found {self.limit}")


@dataclass(frozen=True)
class Fuse:
    sizes: tuple[int, ...] = ()


PASSES: dict[str, type] = {"fold-constants": FoldConstants, "fuse": Fuse}


def around(
    *,
    calibration: bool = True,
    quality: bool = False,
    max_drop: float | None = None,
    installed: Callable[[str], bool] = lambda name: True,
    version: str = "1.31.1",
) -> Surroundings:
    return Surroundings(
        passes=PASSES,
        parse_format=parse_format,
        needs_data=lambda encoder: encoder == "gptq",
        calibration=calibration,
        quality=quality,
        max_drop=max_drop,
        installed=installed,
        version=lambda name: version,
    )


def written(folder: Path, text: str) -> Path:
    path = folder / "pipeline.toml"
    path.write_text(text, encoding="utf-8")
    return path


WHOLE = """
target = "onnx"
budget = { size = "15%", latency = "60%" }
formats = ["fp32", "int8:channel"]
activations = ["none", "dynamic_int8:token"]
leave_alone = ["*.LayerNorm"]
passes = ["fold-constants", { name = "fuse", sizes = [1, 2] }]
seed = 7

[[layers]]
pattern = "re:encoder[.]layer[.][0-2][.].*"
formats = ["int4:g32"]
encoders = ["rtn"]

[[layers]]
pattern = "embeddings.*"
formats = "keep"

[target_options]
opset = 23
threads = 2

[calibration]
activations = "percentile"
percentile = 99.9
max_batches = 8

[search]
time_limit_s = 5
gap = 0.01
"""


def test_a_whole_file(tmp_path: Path) -> None:
    pipeline = Pipeline.load(written(tmp_path, WHOLE))
    assert pipeline.budget == Budget(size="15%", latency="60%")
    assert pipeline.target_options == OnnxOptions(opset=23, threads=2)
    assert pipeline.search.time_limit_s == 5
    assert pipeline.passes is not None
    assert [config.name for config in pipeline.passes] == ["fold-constants", "fuse"]
    check(pipeline, around())
    assert build_passes(pipeline, PASSES) == (FoldConstants(), Fuse(sizes=(1, 2)))


def test_it_survives_json(tmp_path: Path) -> None:
    pipeline = Pipeline.load(written(tmp_path, WHOLE))
    again = Pipeline.parse(json.loads(json.dumps(pipeline.to_mapping())))
    assert again.to_mapping() == pipeline.to_mapping()


def test_the_first_rule_that_matches_decides(tmp_path: Path) -> None:
    pipeline = Pipeline.load(written(tmp_path, WHOLE))
    rule = pipeline.rule_for("encoder.layer.1.output.dense")
    assert (rule.formats, rule.activations, rule.encoders) == (("int4:g32",), ("none", "dynamic_int8:token"), ("rtn",))
    assert pipeline.rule_for("encoder.layer.5.output.dense").formats == ("fp32", "int8:channel")
    assert pipeline.rule_for("embeddings.word_embeddings").formats == "keep"
    assert pipeline.rule_for("encoder.layer.1.output.LayerNorm").formats == "keep"


def test_rules_match_whole_names() -> None:
    assert LayerRule(pattern="re:fc[12]", formats="keep").matches("fc1")
    assert not LayerRule(pattern="re:fc[12]", formats="keep").matches("blocks.0.fc1")
    assert LayerRule(pattern="blocks.*", formats="keep").matches("blocks.0.fc1")
    assert not LayerRule(pattern="blocks", formats="keep").matches("blocks.0.fc1")


@pytest.mark.parametrize("name", ["cpu", "cpu-small", "vision-cpu"])
def test_presets_are_valid(name: str) -> None:
    assert name in presets()
    check(Pipeline.load(name), around())


def test_defaults() -> None:
    pipeline = Pipeline()
    assert (pipeline.target, pipeline.target_options, pipeline.seed) == ("onnx", OnnxOptions(), 0)
    assert OnnxOptions().versions == (21, 10)
    check(pipeline, around(calibration=False))


def test_arguments_are_laid_over_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    pipeline = resolve(path, seed=3, budget={"size": "9MB"}, calibration={"max_batches": 2}, layers=None)
    assert (pipeline.seed, pipeline.budget) == (3, Budget(size="9MB"))
    assert (pipeline.calibration.max_batches, pipeline.calibration.percentile) == (2, 99.9)
    assert len(pipeline.layers) == 2


def test_every_kind_of_pipeline_argument() -> None:
    assert resolve(None, target="torch").target == "torch"
    assert resolve({"seed": 1}, seed=2).seed == 2
    assert resolve(Pipeline(seed=1)).seed == 1
    assert resolve("cpu", budget="smallest").budget == "smallest"


def test_a_file_extends_a_preset(tmp_path: Path) -> None:
    pipeline = Pipeline.load(written(tmp_path, 'extends = "vision-cpu"\ncalibration = { max_batches = 3 }\n'))
    assert pipeline.activations == ("none", "static_int8")
    assert pipeline.calibration.max_batches == 3
    assert pipeline.calibration.activations == "mse"


def test_a_pass_as_a_value() -> None:
    pipeline = Pipeline.parse({"passes": (FoldConstants(limit=3),)})
    assert pipeline.passes is not None
    assert pipeline.passes[0].options["limit"] == 3


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
    ('[budget]\nsise = "12MB"', "budget: expected size, latency, ops, minimise, found 'sise'; did you mean 'size'?"),
    ("[budget]", "budget: expected at least one of size, latency and ops, found none"),
    (
        'budget = "small"',
        "budget: expected 'name=amount' such as 'size=15%', 'smallest' or 'fastest' alone, found 'small'",
    ),
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


UNFIT: list[tuple[dict[str, object], Surroundings, str]] = [
    (
        {"activations": ["none", "static_int8"]},
        around(calibration=False),
        "activations: 'static_int8' needs calibration data, found none; pass calibration= or use 'dynamic_int8'",
    ),
    (
        {"layers": [{"pattern": "*", "formats": "keep", "activations": ["static_int8"]}]},
        around(calibration=False),
        "layers[0].activations: 'static_int8' needs calibration data",
    ),
    (
        {"calibration": {"sensitivity": "fisher"}},
        around(calibration=False),
        "calibration.sensitivity: 'fisher' needs calibration data, found none; pass it or use 'auto'",
    ),
    (
        {"encoders": ["gptq"]},
        around(calibration=False),
        "encoders: 'gptq' needs calibration data, found none; pass calibration= or add 'mse'",
    ),
    (
        {},
        around(max_drop=0.3),
        "max_drop: expected a quality metric with it, found none; pass quality=function(model) -> float",
    ),
    (
        {},
        around(quality=True, max_drop=-1.0),
        "max_drop: expected a number of at least 0 in the metric's unit, found -1.0",
    ),
    (
        {"budget": "smallest"},
        around(quality=True),
        "budget: 'smallest' needs quality= and max_drop=, found no max_drop; say how much quality may be lost",
    ),
    ({"formats": ["int4:g31"]}, around(), "formats[0]: "),
    ({"layers": [{"pattern": "*", "formats": ["itn4:g32"]}]}, around(), "layers[0].formats[0]: "),
    (
        {"passes": ["fold-constant"]},
        around(),
        "passes[0]: expected the name of a pass, found 'fold-constant'; did you mean 'fold-constants'?",
    ),
    (
        {"passes": [{"name": "fold-constants", "limits": 3}]},
        around(),
        "passes[0].limits: unknown option; did you mean 'limit'?",
    ),
    ({"passes": [{"name": "fold-constants", "limit": "3"}]}, around(), "passes[0].limit: expected int, found '3'"),
    (
        {"passes": [{"name": "fold-constants", "limit": 0}]},
        around(),
        "passes[0].fold-constants: limit: expected at least 1, found 0",
    ),
    (
        {},
        around(installed=lambda name: name != "onnxscript"),
        "target: 'onnx' needs the package 'onnxscript', found none; pip install onnxscript",
    ),
    (
        {},
        around(version="1.22.0"),
        "target: 'onnx' needs onnxruntime 1.31 or later, found 1.22.0; pip install --upgrade onnxruntime",
    ),
]


@pytest.mark.parametrize(("data", "surroundings", "message"), UNFIT)
def test_what_does_not_fit_its_surroundings(data: dict[str, object], surroundings: Surroundings, message: str) -> None:
    pipeline = Pipeline.parse(data, "here")
    with pytest.raises(ConfigError, match=re.escape(f"here: {message}")):
        check(pipeline, surroundings)


def test_building_passes_checks_them() -> None:
    with pytest.raises(ConfigError, match="expected the name of a pass, found 'fold'"):
        build_passes(Pipeline.parse({"passes": ["fold"]}), PASSES)
    assert build_passes(Pipeline(), PASSES, ("ours",)) == ("ours",)


@dataclass(frozen=True)
class Given:
    limit: int = 3
    name: ClassVar[str] = "given"
    exact: ClassVar[bool] = True

    def __call__(self, graph: object) -> object:
        return graph


def test_passes_as_objects_stand_beside_names() -> None:
    pipeline = resolve("cpu", passes=["fuse", "default", Given(limit=5)])
    check(pipeline, around())
    assert build_passes(pipeline, PASSES, ("ours", "again")) == (Fuse(), "ours", "again", Given(limit=5))
    assert pipeline.to_mapping()["passes"][2] == {"name": "given", "options": {"limit": 5}}
    with pytest.raises(ConfigError, match=r"passes\[0\]: expected a pass: a frozen dataclass with name, exact and"):
        check(resolve(None, passes=[FoldConstants()]), around())
    with pytest.raises(ConfigError, match=r"passes\[0\]\.limit: 'default' has no options; remove it"):
        check(resolve(None, passes=[{"name": "default", "limit": 3}]), around())


def test_patterns_that_match_no_layer() -> None:
    pipeline = Pipeline.parse(
        {"leave_alone": ["encoder.fc1"], "layers": [{"pattern": "encodr.fc2", "formats": "keep"}]}
    )
    check_layers(Pipeline.parse({"leave_alone": ["encoder.fc1"]}), ["encoder.fc1", "encoder.fc2"])
    message = (
        r"layers\[0\].pattern: expected a pattern that matches a layer, found 'encodr.fc2', .*mean 'encoder.fc2'\?"
    )
    with pytest.raises(ConfigError, match=message):
        check_layers(pipeline, ["encoder.fc1", "encoder.fc2"])
