"""A target of one's own: its options and its device are known from its declaration, and nothing else is touched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

import onnx.helper
import pytest
import torch
from annotated_types import Interval
from torch import nn
from typer.testing import CliRunner

import instar
from instar.cli import app
from instar.config import resolve
from instar.ir.graph import Graph
from instar.ir.plan import Plan
from instar.targets.base import FOR_LATENCY, TargetOptions
from instar.targets.declaration import Declaration
from instar.targets.onnx.options import IR_OF_OPSET, OnnxOptions
from instar.targets.registry import OWN, TARGETS, kernels
from instar.targets.torch.target import TorchArtifact, TorchTarget

X = torch.linspace(-1, 1, 4 * 64).reshape(4, 64)


@dataclass(frozen=True)
class ChipOptions(TargetOptions):
    """Options of a chip."""

    model: str = "small"
    cores: Annotated[int, Interval(ge=1, le=8)] = 1
    sizes: tuple[int, ...] = (1,)
    cache: str | None = field(default=None, metadata=FOR_LATENCY)

    def __post_init__(self) -> None:
        if self.model == "small" and self.cores > 2:
            raise instar.ConfigError(
                f"target_options.cores: expected at most 2 of 'small', found {self.cores}; lower it"
            )


class ChipTarget(TorchTarget):
    """A chip that computes like torch."""

    name = "chip"

    def __init__(self, options: ChipOptions) -> None:
        super().__init__(options)
        self.chip = options

    @property
    def plan_options(self) -> dict[str, Any]:
        """Which chip."""
        return {"model": self.chip.model, "cores": self.chip.cores, "sizes": list(self.chip.sizes)}

    def build(self, legal: Graph, plan: Plan, examples: Any) -> TorchArtifact:
        """Says for which chip it was built."""
        artifact = super().build(legal, plan, examples)
        artifact.module.register_buffer("cores", torch.tensor(self.chip.cores))
        return artifact


CHIP = Declaration("chip", "A chip.", ChipTarget, ChipOptions, device="model", kernels={"torch": "all it has"})


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()


def cores(compiled: Any) -> int:
    return int(compiled.artifact.module.cores)


def refusal(**settings: Any) -> str:
    with pytest.raises(instar.ConfigError) as caught:
        resolve(None, target=CHIP, **settings)
    return str(caught.value)


def test_from_python(tmp_path: Path) -> None:
    compiled = instar.compile(
        net(), (X,), target=CHIP, target_options={"model": "large", "cores": 4}, budget={"size": "30%"}
    )
    assert cores(compiled) == 4
    assert compiled.plan.target_options == {"model": "large", "cores": 4, "sizes": [1]}
    compiled.plan.save(tmp_path / "plan.json")
    again = instar.compile(net(), (X,), target=CHIP, plan=tmp_path / "plan.json")
    assert cores(again) == 4
    assert torch.equal(again(X), compiled(X))
    with pytest.raises(instar.ConfigError, match=r"plan: expected target_options\.cores = 4, as in the plan; found 2"):
        instar.compile(net(), (X,), target=CHIP, plan=tmp_path / "plan.json", target_options={"cores": 2})


def test_options_as_a_value() -> None:
    options = ChipOptions(cores=2)
    assert resolve(None, target=CHIP, target_options=options).target_options is options
    assert refusal(target_options=OnnxOptions()).startswith("compile: target_options: expected a table, or ChipOptions")


def test_from_a_file_with_its_device(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('target = "chip:large"\n[target_options]\ncores = 3\nsizes = [1, 2]\n')
    pipeline = resolve(path, target=CHIP)
    assert pipeline.target_options == ChipOptions(model="large", cores=3, sizes=(1, 2))
    assert pipeline.merged(target_options={"cores": 5}).target_options == ChipOptions(
        model="large", cores=5, sizes=(1, 2)
    )
    assert pipeline.to_mapping()["target_options"] == {
        "threads": 1, "model": "large", "cores": 3, "sizes": [1, 2], "cache": None
    }  # fmt: skip
    assert cores(instar.compile(net(), (X,), pipeline=path, target=CHIP)) == 3
    with pytest.raises(
        instar.ConfigError, match=r"mine.toml: target: expected 'onnx' or 'torch' or 'scratchpad', found 'chip:large'"
    ):
        instar.Pipeline.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core": 1}, "target_options.core: unknown key; did you mean 'cores'?"),
        ({"cores": 9, "sizes": ["a"]}, "target_options.cores: expected a number of at most 8, found 9\n"),
        ({"cores": 9, "sizes": ["a"]}, "compile: target_options.sizes[0]: expected an integer, found 'a'"),
        ({"cores": 3}, "compile: target_options.cores: expected at most 2 of 'small', found 3; lower it"),
        ({"opset": 21, "cores": 9}, "target_options.opset: expected target 'onnx', found target 'chip'; remove it"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(options: dict[str, Any], message: str) -> None:
    assert message in refusal(target_options=options)


def test_a_device_of_an_argument_replaces_that_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('target = "onnx:a.json"\n[target_options]\nopset = 22\n')
    assert resolve(path, target="onnx:b.json").target_options == OnnxOptions(profile="b.json", opset=22)
    path.write_text('extends = "cpu"\ntarget = "torch:gpu"\n')
    with pytest.raises(instar.ConfigError, match=r"mine.toml: target: expected 'torch' alone, which has no devices"):
        resolve(path)


def test_options_for_latency_alone() -> None:
    compiled = instar.compile(net(), (X,), target=CHIP, target_options={"cache": "x"}, budget={"size": "30%"})
    assert any("target_options.cache has no effect" in note for note in compiled.report.data.notes)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were instar's own: a line in the registry, and nothing else."""
    monkeypatch.setitem(cast("dict[str, Declaration]", TARGETS.own), "chip", CHIP)


def test_on_the_command_line(tmp_path: Path, registered: None) -> None:
    (tmp_path / "model.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(64, 64).eval(), (torch.ones(2, 64),)\n"
    )
    command = ["compile", f"{tmp_path / 'model.py'}:build", "--target", "chip:large", "--budget", "size=50%"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "build")])
    assert result.exit_code == 0, result.output
    plan = Plan.load(tmp_path / "build" / "plan.json")
    assert (plan.target, plan.target_options["model"]) == ("chip", "large")
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["passes"]).output
    assert "A chip." in listed
    assert "all it has" in listed
    wrong = CliRunner().invoke(app, [*command[:2], "--target", "torch:gpu"])
    assert wrong.exit_code == 2
    assert kernels("torch").keys() == {"torch"}


def test_a_target_without_an_opener() -> None:
    with pytest.raises(instar.ConfigError, match=r"a.bin: expected target chip to open its files; found no opener"):
        CHIP.open(Path("a.bin"), 1)


def test_versions_of_onnx_are_those_of_the_standard() -> None:
    for opset, version in IR_OF_OPSET.items():
        assert onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]) == version
    assert {declared.name for declared in OWN} == set(TARGETS.own)
    assert OnnxOptions(attention="fused").versions == (23, 11)
    assert replace(OnnxOptions(), opset=25).versions == (25, 13)
