"""The schema, and one test per message that a user can meet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from config_files import written

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
from instar.ir.plugins import given
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
    max_drop: object = None,
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
        {"budget": "fastest"},
        around(quality=True, max_drop="1%"),
        "max_drop: expected a number in the metric's own unit, such as 0.5, found '1%'; percentages",
    ),
    (
        {"budget": "fastest"},
        around(quality=True, max_drop=True),
        "max_drop: expected a number in the metric's own unit",
    ),
    (
        {"passes": ["defualt"]},
        around(),
        "passes[0]: expected the name of a pass, found 'defualt'; did you mean 'default'?",
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
        "target: 'onnx' needs onnxruntime 1.23 or later, found 1.22.0; pip install --upgrade onnxruntime",
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


@dataclass
class Thawed:
    name: ClassVar[str] = "thawed"
    exact: ClassVar[bool] = True

    def __call__(self, graph: object) -> object:
        return graph


def test_a_pass_that_is_not_frozen_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"passes\[0\]: expected a pass: .* is not frozen; write @dataclass\(frozen"):
        check(resolve(None, passes=[Thawed()]), around())


def test_objects_of_a_kind_that_there_is_none_of() -> None:
    message = r"given: expected the kinds pass, .* found 'kernels'; did you mean 'kernel'\?"
    with pytest.raises(ConfigError, match=message), given({"kernels": {}}):
        pass


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
