"""The command line with the real compiler on a small model: what a user types, what is on disk and on the screen."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import instar
from instar.cli import app
from instar.cli.progress import progress
from instar.cli.source import load_source

TINY = Path(__file__).parent / "tiny.py"
MODEL = f"{TINY}:build"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words_of(result: Result) -> str:
    """The output on one line, however the terminal broke it."""
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "build"
    result = run("compile", MODEL, "--target", "onnx", "--budget", "size=50%", "--out", folder, "--debug")
    assert result.exit_code == 0, result.output
    assert "Tiny" in result.output
    return folder


def test_compile_writes_model_plan_and_report(built: Path) -> None:
    assert {"model.onnx", "plan.json", "report.html", "report.json"} <= {path.name for path in built.iterdir()}
    report = json.loads((built / "report.json").read_text())
    size = (built / "model.onnx").stat().st_size
    assert report["headline"]["artifact_nbytes"] == size
    assert size <= 0.5 * report["headline"]["original_nbytes"]


def test_explain_names_layers_and_budget(built: Path) -> None:
    result = run("explain", built / "plan.json")
    assert result.exit_code == 0, result.output
    for word in ("table", "up", "down", "size"):
        assert word in result.output


def test_a_plan_replays_to_the_same_bytes(built: Path, tmp_path: Path) -> None:
    result = run("compile", MODEL, "--target", "onnx", "--plan", built / "plan.json", "--out", tmp_path, "--debug")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model.onnx").read_bytes() == (built / "model.onnx").read_bytes()


def test_bench_compares_with_the_original(built: Path) -> None:
    result = run("bench", built / "model.onnx", "--vs", MODEL, "--repeats", "3", "--debug")
    assert result.exit_code == 0, result.output
    for word in ("Tiny as it is", "float export", "model.onnx", "output error", "onnxruntime", "1 thread"):
        assert word in words_of(result)


def test_bench_of_a_torch_artifact(tmp_path: Path) -> None:
    result = run("compile", MODEL, "--target", "torch", "--budget", "size=40%", "--out", tmp_path, "--debug")
    assert result.exit_code == 0, result.output
    result = run("bench", tmp_path / "model.safetensors", "--vs", MODEL, "--repeats", "2", "--debug")
    assert result.exit_code == 0, result.output
    assert "model.safetensors" in words_of(result)


def test_inspect(tmp_path: Path) -> None:
    result = run("inspect", MODEL, "--debug")
    assert result.exit_code == 0, result.output
    for word in ("3 layers to decide about", "aten.linear", "table embedding", "int8", "canonicalize"):
        assert word in words_of(result)


def test_pareto_draws_and_saves(tmp_path: Path) -> None:
    out = tmp_path / "curve.json"
    result = run("pareto", MODEL, "--points", "4", "--out", out, "--debug")
    assert result.exit_code == 0, result.output
    points = json.loads(out.read_text())["points"]
    losses = [point["predicted_loss"] for point in points]
    assert 2 <= len(points) <= 4
    assert losses == sorted(losses, reverse=True)


def test_passes_lists_what_there_is() -> None:
    result = run("passes")
    assert result.exit_code == 0, result.output
    for word in ("fold-batch-norm", "int4", "gptq", "damping=0.01", "MatMulNBits", "kernel"):
        assert word in words_of(result)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compile", MODEL, "--budget", "size=1%", "--out", "OUT"], 1, "the smallest feasible value is"),
        (["compile", MODEL, "--pipeline", "OUT/broken.toml"], 2, "formats"),
        (["compile", f"{TINY}:in_train_mode", "--out", "OUT"], 1, "train"),
        (["bench", "OUT/broken.onnx", "--vs", MODEL], 1, "expected an ONNX model"),
        (["bench", "OUT/broken.toml", "--vs", MODEL], 2, "ends in .onnx or .safetensors or .scratchpad"),
        (["explain", "OUT/broken.json"], 1, "broken.json"),
    ],
)
def test_errors_are_one_message(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "broken.toml").write_text('formats = ["int9:channel"]\n')
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "broken.json").write_text("{")
    result = run(*(argument.replace("OUT", str(tmp_path)) for argument in arguments))
    assert result.exit_code == code, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "model.onnx").exists()


def test_ctrl_c_ends_with_130() -> None:
    command = [sys.executable, "-m", "instar.cli", "inspect", f"{TINY}:never_ends"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 130
    assert "interrupted; files written before are whole" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_stage_is_announced() -> None:
    seen: list[str] = []
    source = load_source(MODEL)
    instar.compile(
        source.model,
        source.args,
        dynamic_shapes=source.dynamic_shapes,
        calibration=source.calibration,
        budget={"size": "50%"},
        progress=lambda stage, what: seen.append(stage),
    )
    stages = list(dict.fromkeys(seen))
    assert stages[:6] == ["capture", "exact passes", "operators", "budgets", "calibrate", "price"]
    assert stages[-2:] == ["check", "report"]


def test_progress_is_for_terminals() -> None:
    shown = io.StringIO()
    with progress(Console(file=shown, force_terminal=True)) as report:
        assert report is not None
        report("calibrate", "batch [1]")
    assert shown.getvalue()
    silent = io.StringIO()
    with progress(Console(file=silent)) as report:
        assert report is None
    assert silent.getvalue() == ""
