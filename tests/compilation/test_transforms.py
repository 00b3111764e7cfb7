"""Transforms before encoding: selected, reported, kept in the plan, and replayed to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import ConfigError, ParseError
from instar.ir.graph import Graph
from instar.ir.layers import Layer
from instar.ir.plan import Plan
from instar.passes.base import PassResult
from instar.passes.transforms import AWQ, Evidence, Found
from instar.report.summary import summary


class Normed(nn.Module):
    """A norm with a large channel in front of two layers that a third one reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(64)
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32)
        with torch.no_grad():
            self.norm.weight[3] = 30.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.c(torch.tanh(self.a(y)) * self.b(y))


def batches(count: int = 4) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 64, generator=generator),) for _ in range(count)]


def compiled(target: str = "torch", **settings: Any) -> instar.Compiled:
    given: dict[str, Any] = {"formats": ["int3:g32"], "calibration": batches(), "transforms": ["awq"], **settings}
    return instar.compile(Normed().eval(), batches()[0], target=target, **given)


@pytest.fixture(scope="module")
def original() -> instar.Compiled:
    return compiled()


def error(found: instar.Compiled) -> float:
    (x,) = batches(5)[-1]
    with torch.no_grad():
        expected = Normed().eval()(x)
    return float((found(x) - expected).norm() / expected.norm())


def test_it_helps_and_the_report_says_so(original: instar.Compiled) -> None:
    plain = compiled(transforms=[])
    assert plain.plan.transforms == ()
    assert error(original) < 0.9 * error(plain)
    assert original.plan.predicted_loss < plain.plan.predicted_loss
    (use,) = original.plan.transforms
    assert (use.name, dict(use.options)) == ("awq", {})
    assert set(use.sites) == {"a", "c"} or set(use.sites) == {"a"}
    assert use.sites["a"]["after"] < use.sites["a"]["before"]
    (record,) = [r for r in original.report.data.passes if r.name == "transform"]
    assert record.fired == {"awq": len(use.sites)}
    assert record.exact
    assert "The transform awq was applied in " in summary(original.report.data)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_plan_replays_to_the_same_bytes(target: str, tmp_path: Path) -> None:
    first = compiled(target)
    first.plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == first.plan
    assert loaded.digest() == first.plan.digest()
    again = instar.compile(Normed().eval(), batches()[0], target=target, plan=tmp_path / "plan.json")
    suffix = {"torch": "pt2", "onnx": "onnx"}[target]
    files = [Path(c.save(tmp_path / f"{n}.{suffix}")[0]).read_bytes() for n, c in (("a", first), ("b", again))]
    assert files[0] == files[1]


def test_the_same_call_gives_the_same_plan(original: instar.Compiled) -> None:
    again = compiled()
    assert again.plan == original.plan
    assert [{n: t.tolist() for n, t in f.items()} for f in again.plan.transformed] == [
        {n: t.tolist() for n, t in f.items()} for f in original.plan.transformed
    ]


def test_data_that_can_be_read_once_is_enough(original: instar.Compiled) -> None:
    def stream() -> Iterator[tuple[Tensor]]:
        yield from batches()

    assert compiled(calibration=stream()).plan == original.plan


def test_files_objects_and_options_select_it(original: instar.Compiled, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'target = "torch"\nformats = ["int3:g32"]\ntransforms = [{name = "awq", steps = 20}]\n'
    )
    from_file = instar.compile(
        Normed().eval(), batches()[0], pipeline=tmp_path / "mine.toml", calibration=batches(), check_passes=False
    )
    assert from_file.plan.transforms == original.plan.transforms
    coarse = compiled(transforms=[AWQ(steps=4)])
    assert dict(coarse.plan.transforms[0].options) == {"steps": 4}


def test_an_edited_layer_is_encoded_behind_the_transform(original: instar.Compiled, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    original.plan.save(path)
    data = json.loads(path.read_text())
    for decision in data["decisions"]:
        decision["chosen"]["option"] |= {"format": "int8:channel", "encoder": "rtn"}
    path.write_text(json.dumps(data))
    edited = instar.compile(Normed().eval(), batches()[0], target="torch", plan=path)
    assert error(edited) < 0.05


def test_a_transform_cannot_be_taken_out_of_a_plan(original: instar.Compiled, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    original.plan.save(path)
    data = json.loads(path.read_text())
    data["transforms"] = []
    path.write_text(json.dumps(data))
    with pytest.raises(ParseError, match=r"transforms: expected the 1 that the weights beside the plan were encoded"):
        Plan.load(path)


def test_what_cannot_work_is_said_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r"transforms\[0\]: expected the name of a transform, found 'awk'.*'awq'"):
        compiled(transforms=["awk"])
    with pytest.raises(ConfigError, match=r"transforms\[0\]\.step: unknown option"):
        compiled(transforms=[{"name": "awq", "step": 3}])
    with pytest.raises(ConfigError, match=r"transforms\[0\]\.awq: awq: expected steps of 1 or more, found 0"):
        compiled(transforms=[{"name": "awq", "steps": 0}])
    with pytest.raises(ConfigError, match=r"transforms\[0\]: 'awq' needs calibration data, found none"):
        compiled(calibration=None)
    with pytest.raises(
        ConfigError, match=r"transforms\[0\]: expected a transform: a frozen dataclass with name, exact"
    ):
        compiled(transforms=[NoTransform()])


@dataclass(frozen=True)
class NoTransform:
    """A pass, which is something else."""

    name: ClassVar[str] = "no-transform"
    exact: ClassVar[bool] = True


@dataclass(frozen=True)
class Nothing:
    """Finds nothing and changes nothing."""

    name: ClassVar[str] = "nothing"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Nowhere."""
        return {}, {}

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Nothing."""
        return {}

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """The graph as it is."""
        return PassResult(graph)


def test_a_transform_of_the_users_own_is_asked_for_again_at_replay(tmp_path: Path) -> None:
    first = compiled(transforms=[Nothing()], calibration=None)
    assert "The transform nothing found no place where it helps." in summary(first.report.data)
    first.plan.save(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="expected the transform 'nothing', which was given as an object, found none"):
        instar.compile(Normed().eval(), batches()[0], target="torch", plan=tmp_path / "plan.json")
    again = instar.compile(
        Normed().eval(), batches()[0], target="torch", plan=tmp_path / "plan.json", transforms=[Nothing()]
    )
    assert torch.equal(again(*batches()[0]), first(*batches()[0]))


def test_without_anything_to_decide_it_is_said_to_have_no_effect() -> None:
    found = compiled(formats=["fp32", "int3:g32"])
    assert any(note.startswith("transforms has no effect") for note in found.report.data.notes)


def test_auto_keeps_what_lowers_the_loss_on_what_was_held_out_and_replays(original: instar.Compiled) -> None:
    found = compiled(transforms="auto")
    names = [use.name for use in found.plan.transforms]
    assert "awq" in names
    assert "auto" not in names
    assert error(found) < error(compiled(transforms=[]))
    again = instar.compile(Normed().eval(), batches()[0], target="torch", plan=found.plan)
    assert torch.equal(again(batches()[0][0]), found(batches()[0][0]))
    with pytest.raises(ConfigError, match="'auto' needs calibration data"):
        compiled(transforms="auto", calibration=None)


class Stream(nn.Module):
    """A residual stream between norms, which may be returned; one channel is large, and weights of every other one."""

    def __init__(self, *, returned: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.returned = returned
        self.first, self.up, self.down, self.head = (
            nn.Linear(a, b) for a, b in ((64, 64), (64, 96), (96, 64), (64, 32))
        )
        self.norm, self.last = nn.LayerNorm(64), nn.LayerNorm(64)
        with torch.no_grad():
            self.first.weight[5] *= 40.0
            self.norm.weight[::2] /= 30.0
            self.up.weight[:, ::2] *= 30.0

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        scores = self.head(self.last(x))
        return (scores, x) if self.returned else scores


@pytest.mark.parametrize(("name", "returned"), [("permute-channels", True), ("rotate-residual", False)])
def test_streams_move_and_replay_to_the_same_bytes(name: str, returned: bool, tmp_path: Path) -> None:
    model, (x,) = Stream(returned=returned).eval(), batches()[0]
    rules: dict[str, Any] = {"formats": ["int3:g16"], "encoders": ["mse"], "calibration": batches(), "target": "onnx"}
    found = instar.compile(model, (x,), transforms=[name], **rules)
    (use,) = found.plan.transforms
    assert use.name == name
    assert {"permute-channels": "up", "rotate-residual": "first"}[name] in use.sites
    found.plan.save(tmp_path / "plan.json")
    again = instar.compile(model, (x,), target="onnx", plan=tmp_path / "plan.json")
    files = [Path(c.save(tmp_path / f"{n}.onnx")[0]).read_bytes() for n, c in (("a", found), ("b", again))]
    assert files[0] == files[1]


def test_a_stream_in_blocks_of_like_channels_loses_less_and_is_returned_in_its_order() -> None:
    model, (x,) = Stream(returned=True).eval(), batches()[0]
    rules: dict[str, Any] = {"formats": ["int3:g16"], "encoders": ["mse"], "calibration": batches(), "target": "torch"}
    plain, found = (instar.compile(model, (x,), transforms=t, **rules) for t in ([], ["permute-channels"]))
    with torch.no_grad():
        expected = model(x)
    for place in range(2):
        errors = [float((each(x)[place] - expected[place]).norm()) for each in (found, plain)]
        assert errors[0] < (0.9, 1.0)[place] * errors[1]
