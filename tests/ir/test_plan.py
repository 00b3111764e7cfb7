"""Plans as JSON: a round trip, and every message about a file that is not one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instar.ir.errors import ParseError
from instar.ir.options import Activation, Arithmetic, Option, PricedOption
from instar.ir.plan import BudgetUse, Decision, PassUse, Plan, Plugin, StaticQuantization, plan_from_json
from instar.ir.plan_findings import SolverOutcome


def a_plan() -> Plan:
    original = PricedOption(Option("fp32"), 4096, 0.5, 1024, 0.0)
    option = Option("int4:g32", "gptq", Activation.dynamic("group:32"), "nbits", Arithmetic.CODES)
    chosen = PricedOption(option, 640, None, 128, 0.25, 0.2, 0.05)
    decision = Decision("encoder.dense", "linear", (32, 32), chosen, original, (original,), ("int2: no",), "")
    return Plan(
        decisions=(decision,),
        fingerprint="abc",
        target="onnx",
        target_options={"opset": 21, "ir_version": 10},
        static={"%3": StaticQuantization(0.5, 3)},
        budgets=(BudgetUse("size", "15%", 100.0, 90.0, 4096.0, 0.001, 95.0),),
        solver=SolverOutcome("optimal", 0.25, 0.25, 0.0, "cp-sat", 0),
        sensitivity="fisher",
        seed=7,
        versions={"torch": "2"},
        passes=(PassUse("canonicalize"), PassUse("fuse", {"sizes": [1, 2]})),
        plugins=(Plugin("pass", "fuse", "fusions", "0.1"),),
        encodings={"encoder.dense": {"codes": torch.arange(4, dtype=torch.uint8), "scale": torch.ones(2, 1).half()}},
    )


def test_round_trip(tmp_path: Path) -> None:
    plan = a_plan()
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert torch.equal(loaded.encodings["encoder.dense"]["codes"], plan.encodings["encoder.dense"]["codes"])
    assert loaded.predicted_loss == 0.25
    assert loaded.decision("encoder.dense").kind == "linear"
    with pytest.raises(KeyError, match="nowhere"):
        loaded.decision("nowhere")


def test_a_plan_without_weights_is_one_file(tmp_path: Path) -> None:
    Plan((), "abc", "torch").save(tmp_path / "plan.json")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert Plan.load(tmp_path / "plan.json") == Plan((), "abc", "torch")


def test_the_digest_is_of_decisions_alone() -> None:
    data = a_plan().to_json()
    same, other = copy.deepcopy(data), copy.deepcopy(data)
    same["decisions"][0]["chosen"]["loss"] = 9.0
    other["decisions"][0]["chosen"]["option"]["encoder"] = "rtn"
    assert plan_from_json(same, "x").digest() == plan_from_json(data, "x").digest()
    assert plan_from_json(other, "x").digest() != plan_from_json(data, "x").digest()


def put(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


def twice(data: Any) -> None:
    data["decisions"].append(copy.deepcopy(data["decisions"][0]))


FIRST = ("decisions", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("instar_plan", value=3), r"p.json: expected a plan with instar_plan = 2 or 1; found 3; compile again"),
        (drop("instar_plan"), r"found None; compile again"),
        (put("fingerprnt", value=""), r"p.json: plan: expected known keys, found 'fingerprnt'; did you mean 'fing"),
        (put(*FIRST, "lyer", value=""), r"plan.decisions\[0\]: expected known keys, found 'lyer'; did you mean 'la"),
        (drop("fingerprint"), r"p.json: plan: expected the key 'fingerprint', found "),
        (drop(*FIRST, "chosen", "option", "format"), r"chosen.option: expected the key 'format', found encoder"),
        (put("target", value=3), r"p.json: plan.target: expected a string, found 3"),
        (put("seed", value=True), r"p.json: plan.seed: expected an integer, found true"),
        (put("seed", value="7"), r'p.json: plan.seed: expected an integer, found "7"'),
        (put("decisions", value={}), r"p.json: plan.decisions: expected a list, found \{\}"),
        (put("decisions", value=None), r"p.json: plan.decisions: expected a list, found null"),
        (put("decisions", value=[3]), r"decisions\[0\]: expected an object, found 3"),
        (put(*FIRST, "chosen", value=[]), r"chosen: expected an object, found \[\]"),
        (put(*FIRST, "chosen", value=None), r"chosen: expected an object, found null"),
        (put(*FIRST, "shape", value="32x32"), r'decisions\[0\].shape: expected a list, found "32x32"'),
        (put(*FIRST, "shape", value=[32, "a"]), r'decisions\[0\].shape\[1\]: expected an integer, found "a"'),
        (put(*FIRST, "chosen", "latency_ms", value="fast"), r'latency_ms: expected a number, found "fast"'),
        (put("static", value=[]), r"p.json: plan.static: expected an object, found \[\]"),
        (put("static", "%3", value=1), r"static.%3: expected an object, found 1"),
        (put("versions", value={"torch": 2}), r"p.json: plan.versions.torch: expected a string, found 2"),
        (put("passes", value="all"), r'p.json: plan.passes: expected a list, found "all"'),
        (twice, r"p.json: plan.decisions: expected every layer once, found 'encoder.dense' twice; remove one"),
        (put("biases", value={}), r"p.json: plan: expected known keys, found 'biases'"),
        (put("encodings", value=3), r"p.json: plan.encodings: expected an object, found 3"),
        (put("encodings", value={}), r"p.json: plan.encodings: expected the key 'file', found none"),
        (put("encodings", "sha256", value=1), r"p.json: plan.encodings.sha256: expected a string, found 1"),
        (put("encodings", "file", value="../x.safetensors"), r"expected the name of a file beside the plan; found"),
    ],
)  # fmt: skip
def test_what_is_not_a_plan_is_refused(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    path = tmp_path / "p.json"
    a_plan().save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ParseError, match=message):
        Plan.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"expected a plan with instar_plan = 2 or 1; found None"),
        ("{", r"p.json:1:2: expected JSON"),
        ('{"instar_plan": NaN}', "NaN, which is not a JSON number"),
        ("", r"p.json:1:1: expected JSON"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ParseError, match=message):
        Plan.load(tmp_path / "p.json")


def test_passes_of_the_first_plans_are_names() -> None:
    data = a_plan().to_json()
    data["passes"] = ["canonicalize", "fold-constants"]
    del data["plugins"]
    plan = plan_from_json(data, "x")
    assert plan.passes == (PassUse("canonicalize"), PassUse("fold-constants"))


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="expected a file, found nothing; check the path"):
        Plan.load(tmp_path / "p.json")


def test_plans_of_the_first_version_say_by_their_kernel_what_is_multiplied() -> None:
    data = a_plan().to_json()
    data["instar_plan"] = 1
    for decision in data["decisions"]:
        for priced in (decision["chosen"], decision["original"], *decision["alternatives"]):
            del priced["option"]["arithmetic"]
    assert plan_from_json(data, "p.json") == a_plan()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("activation", "dynamic_int8:tokn", r"option.activation: activation 'dynamic_int8:tokn': .*did you mean"),
        ("arithmetic", "int7", r"option.arithmetic: arithmetic: expected one of float, int8_rows, codes, found 'int7'"),
    ],
)
def test_unknown_words_of_an_option_are_refused(key: str, value: str, message: str) -> None:
    data = a_plan().to_json()
    data["decisions"][0]["chosen"]["option"][key] = value
    with pytest.raises(ParseError, match=message):
        plan_from_json(data, "p.json")
