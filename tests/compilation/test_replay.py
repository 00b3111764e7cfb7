"""Plans: saved, read, edited, replayed; the same inputs give the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import instar
from instar.compilation import entry
from instar.ir.errors import ConfigError, ParseError
from instar.ir.plan import Plan

from ..report.rendering import terminal
from .models import conv_data, conv_net, encoder, encoder_data, encoder_dims, mlp, mlp_data, relative

DATA = mlp_data()


@pytest.fixture(scope="module")
def original() -> instar.Compiled:
    return instar.compile(mlp(), DATA[0], target="onnx", budget={"size": "35%"}, calibration=DATA, seed=3)


@pytest.fixture
def saved(original: instar.Compiled, tmp_path: Path) -> Path:
    original.plan.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def option(data: dict[str, Any], layer: int) -> dict[str, Any]:
    return data["decisions"][layer]["chosen"]["option"]


def file_bytes(compiled: instar.Compiled, folder: Path, name: str) -> bytes:
    return Path(compiled.save(folder / name)[0]).read_bytes()


def test_a_plan_reads_back_as_it_was_saved(original: instar.Compiled, saved: Path) -> None:
    loaded = Plan.load(saved)
    assert loaded == original.plan
    assert loaded.digest() == original.plan.digest()
    assert {n: sorted(t) for n, t in loaded.encodings.items()} == {
        n: sorted(t) for n, t in original.plan.encodings.items()
    }
    saved_again = saved.with_name("again.json")
    loaded.save(saved_again)
    assert saved_again.with_suffix(".safetensors").read_bytes() == saved.with_suffix(".safetensors").read_bytes()


def test_replay_gives_the_same_file_without_data_or_search(
    original: instar.Compiled, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instar.compilation import allocation_stage, preparation

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a replay neither calibrates nor searches")

    monkeypatch.setattr(preparation, "calibrate", forbidden)
    monkeypatch.setattr(allocation_stage, "allocate", forbidden)
    again = instar.compile(mlp(), DATA[0], plan=saved)
    assert file_bytes(again, saved.parent, "again.onnx") == file_bytes(original, saved.parent, "original.onnx")
    assert again.report.data.notes[0] == "replayed from a plan: nothing was calibrated, measured or searched"


def test_a_budget_met_in_a_second_round_replays_too(tmp_path: Path) -> None:
    """The first artifact is larger than predicted; constants of the second must not remember the first."""
    first = instar.compile(mlp(), DATA[0], target="onnx", budget={"size": "26%"})
    again = instar.compile(mlp(), DATA[0], plan=first.plan)
    assert file_bytes(again, tmp_path, "again.onnx") == file_bytes(first, tmp_path, "first.onnx")


def test_replay_uses_the_plans_target_options(tmp_path: Path) -> None:
    first = instar.compile(mlp(), DATA[0], target="onnx", budget={"size": "50%"}, target_options={"opset": 22})
    again = instar.compile(mlp(), DATA[0], plan=first.plan)
    assert file_bytes(again, tmp_path, "again.onnx") == file_bytes(first, tmp_path, "first.onnx")
    with pytest.raises(
        ConfigError, match=r"plan: expected target_options.opset = 22, as in the plan; found 21; remove it"
    ):
        instar.compile(mlp(), DATA[0], plan=first.plan, target_options={"opset": 21})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: option(d, 1).update(format="int4:g63"),
            r"plan.json: layer 2: format 'int4:g63', position 6: expected",
        ),
        (lambda d: option(d, 1).update(encoder="gptp"), r"plan.json: layer 2: encoder 'gptp': .* mean 'gptq'\?"),
        (
            lambda d: option(d, 1).update(kernel="zz"),
            r"plan.json: layer 2: expected a kernel of target onnx, found 'zz'",
        ),
    ],
)
def test_what_an_edited_plan_misspells_is_named_with_file_and_layer(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = edited(saved, change)
    with pytest.raises(ParseError, match=message):
        instar.compile(mlp(), DATA[0], plan=path)
    with pytest.raises(ParseError, match=message):
        instar.explain(path)


def test_a_layer_without_a_decision_stays_and_that_is_said(original: instar.Compiled, saved: Path) -> None:
    result = instar.compile(mlp(), DATA[0], plan=edited(saved, lambda d: d["decisions"].pop(1)))
    assert "the plan holds no decision for 2: stored and computed as in the model" in result.report.data.notes
    assert result.nbytes > original.nbytes + 96 * 64 * 2


def test_what_layers_were_compared_on_is_said(original: instar.Compiled, saved: Path) -> None:
    again = instar.compile(mlp(), DATA[0], plan=saved)
    assert again.report.data.sqnr_on == "the example inputs"
    assert original.report.data.sqnr_on in ("calibration data that was held out", "the last calibration batch")
    assert "SQNR: of each layer's output, on the example inputs" in terminal(again.report.table())


def test_static_quantization_replays(tmp_path: Path) -> None:
    data = conv_data()
    first = instar.compile(
        conv_net(), data[0], target="onnx", budget={"size": "90%"}, calibration=data,
        layers=[{"pattern": "body", "formats": ["int8:channel"], "activations": ["static_int8"]}],
    )  # fmt: skip
    assert first.plan.static
    first.plan.save(tmp_path / "plan.json")
    again = instar.compile(conv_net(), data[0], plan=tmp_path / "plan.json")
    assert file_bytes(again, tmp_path, "again.onnx") == file_bytes(first, tmp_path, "first.onnx")


def test_the_torch_target_replays(tmp_path: Path) -> None:
    first = instar.compile(mlp(), DATA[0], target="torch", budget={"size": "30%"}, calibration=DATA)
    again = instar.compile(mlp(), DATA[0], target="torch", plan=first.plan)
    assert again.save(tmp_path / "b.safetensors")
    assert file_bytes(again, tmp_path, "a.safetensors") == file_bytes(first, tmp_path, "b.safetensors")


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import instar
from models import encoder, encoder_data, encoder_dims
data = encoder_data()
c = instar.compile(encoder(), data[0], target="onnx", budget={{"size": "60%"}}, calibration=data,
                   dynamic_shapes=encoder_dims(), seed=7)
c.save(sys.argv[1]); c.plan.save(sys.argv[2])
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    for name in ("a", "b"):
        arguments = [str(tmp_path / f"{name}.onnx"), str(tmp_path / f"{name}.json")]
        ran = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    for suffix in (".onnx", ".safetensors"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# ---------------------------------------------------------------------------------------------- edited by hand
@pytest.mark.parametrize("encoder_name", ["rtn", "mse"])
def test_an_edited_format_is_encoded_anew(saved: Path, encoder_name: str) -> None:
    def change(data: dict[str, Any]) -> None:
        option(data, 0).update(format="int8:channel", encoder=encoder_name, activation="none", kernel="float")

    result = instar.compile(mlp(), DATA[0], plan=edited(saved, change))
    assert result.plan.decision("0").chosen.option.format == "int8:channel"
    assert relative(result(*DATA[1]), mlp()(*DATA[1])) < 0.2


def test_an_edited_layer_that_needs_data_is_refused(saved: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        option(data, 0).update(format="int2:g32", encoder="gptq", activation="none", kernel="float")

    with pytest.raises(
        ParseError, match=r"layer 0 has no stored codes for int2:g32 and the encoder 'gptq' needs .*'mse'"
    ):
        instar.compile(mlp(), DATA[0], plan=edited(saved, change))


def test_a_layer_may_be_put_back_to_float(saved: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for layer in range(3):
            option(data, layer).update(format="fp32", encoder="rtn", activation="none", kernel="float")

    result = instar.compile(mlp(), DATA[0], plan=edited(saved, change))
    assert relative(result(*DATA[1]), mlp()(*DATA[1])) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "int9:g32"}, "int9"),
        ({"encoder": "gtpq"}, "gptq"),
        ({"format": "int8:channel", "activation": "static_int8", "kernel": "int8_conv"},
         "layer 0: expected an option that target onnx runs, found .* it runs 'int8:channel "),
        ({"format": "int8:channel", "activation": "none", "kernel": "int7"}, "layer 0: expected a kernel of target"),
        ({"format": "int4:g32", "activation": "dynamic_int8:g64", "kernel": "nbits"}, r"dynamic_int8:g32 @nbits"),
    ],
)  # fmt: skip
def test_an_edit_that_the_target_cannot_run_is_refused(saved: Path, change: dict[str, str], message: str) -> None:
    path = edited(saved, lambda data: option(data, 0).update(change))
    with pytest.raises(ParseError, match=message):
        instar.compile(mlp(), DATA[0], plan=path)


def test_an_edited_layer_name_is_refused(saved: Path) -> None:
    path = edited(saved, lambda data: data["decisions"][1].update(layer="22"))
    with pytest.raises(ConfigError, match=r"plan: expected layers of the model, found '22'; did you mean '2'\?"):
        instar.compile(mlp(), DATA[0], plan=path)


def test_a_plan_of_another_model_or_target_is_refused(original: instar.Compiled) -> None:
    other = mlp()
    next(iter(other.parameters())).data[0, 0] += 1.0
    with pytest.raises(
        ConfigError, match=r"plan: expected the model with fingerprint .*; its weights, its code or the"
    ):
        instar.compile(other, DATA[0], plan=original.plan)
    with pytest.raises(ConfigError, match=r"expected a plan for target torch; found one for onnx; pass target='onnx'"):
        instar.compile(mlp(), DATA[0], plan=original.plan, target="torch")
    with pytest.raises(
        ConfigError, match=r"plan: expected the passes canonicalize, .*; found fold-constants, or other"
    ):
        instar.compile(mlp(), DATA[0], plan=original.plan, passes=["fold-constants"])


# ---------------------------------------------------------------------------------------------- damaged files
def test_missing_and_damaged_weights_are_refused(saved: Path) -> None:
    weights = saved.with_suffix(".safetensors")
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(
        ParseError, match=r"plan.json: expected .*plan.safetensors with SHA-256 .*; save the plan again"
    ):
        Plan.load(saved)
    weights.unlink()
    with pytest.raises(
        ParseError, match=r"expected its encoded weights at .*No such file .*keep the two files together"
    ):
        Plan.load(saved)


def test_weights_that_are_no_safetensors_file_are_refused(saved: Path) -> None:
    import hashlib

    saved.with_suffix(".safetensors").write_bytes(b"junk")
    edited(saved, lambda data: data["encodings"].update(sha256=hashlib.sha256(b"junk").hexdigest()))
    with pytest.raises(ParseError, match="expected encoded weights in a safetensors file; found "):
        Plan.load(saved)


def test_a_truncated_plan_is_refused_with_its_place(saved: Path) -> None:
    saved.write_text(saved.read_text()[:200])
    with pytest.raises(ParseError, match=r"plan.json:\d+:\d+: expected JSON"):
        instar.compile(mlp(), DATA[0], plan=saved)


def test_tied_weights_stay_tied_and_are_stored_once(tmp_path: Path) -> None:
    data = encoder_data()
    result = instar.compile(
        encoder(), data[0], target="onnx", budget={"size": "60%"}, calibration=data, dynamic_shapes=encoder_dims(),
        layers=[{"pattern": "tokens", "formats": ["int8:channel"]}],
    )  # fmt: skip
    assert result.plan.decision("tokens").kind == "embedding"
    assert [d.layer for d in result.plan.decisions].count("tokens") == 1
    assert "output" not in {d.layer for d in result.plan.decisions}
    (path,) = result.save(tmp_path / "model.onnx")
    stored = [i for i in onnx.load(path).graph.initializer if "tokens" in i.name or "output" in i.name]
    assert sum(len(i.raw_data) for i in stored) == result.plan.decision("tokens").chosen.nbytes


def test_a_plan_is_read_before_the_model_is_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def captured(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(entry, "capture", captured)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ParseError, match=r"plan.json:1:2: expected JSON"):
        instar.compile(mlp(), DATA[0], plan=tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="plan: expected no budget beside it: a plan holds its decisions; remove one"):
        instar.compile(mlp(), DATA[0], plan=tmp_path / "plan.json", budget={"size": "10%"})
