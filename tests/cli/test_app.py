"""The command line against a stand-in for the compiler: what it passes on, what it prints, how it fails."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from instar.cli import app
from instar.config import Budget
from instar.ir.errors import CaptureError
from instar.ir.plugins import Registry


class Saved:
    """A result that writes a marker and prints one."""

    def save(self, path: Path) -> None:
        path.write_text("saved")

    def table(self) -> str:
        return "the table"


class Compiled(Saved):
    plan = Saved()
    report = Saved()


@dataclass(frozen=True)
class Tidy:
    """Tidies up with ``care``.

    More about it.
    """

    limit: int = 3


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Keyword arguments of every call that the command line makes."""
    seen: dict[str, dict[str, Any]] = {}
    fake = ModuleType("instar.compiler")

    def recorder(name: str, result: object) -> Any:
        def call(*args: object, **kwargs: Any) -> object:
            seen[name] = {"positional": args, **kwargs}
            return result

        return call

    for name, result in (("compile", Compiled()), ("inspect", Saved()), ("bench", Saved()), ("pareto", Saved())):
        setattr(fake, name, recorder(name, result))
    setattr(fake, "explain", recorder("explain", "because"))  # noqa: B010  # the module is built here
    monkeypatch.setattr("instar.passes.registry.PASSES", Registry("pass", {"tidy": Tidy}, "", lambda _: True))
    monkeypatch.setitem(sys.modules, "instar.compiler", fake)
    return seen


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(
        "def build():\n"
        "    return {'model': abs, 'args': (1,), 'quality': float, 'calibration': [1], 'dynamic_shapes': ({0: 'n'},)}\n"
        "def broken():\n"
        "    raise ValueError('mine')\n"
    )
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_compile(calls: dict[str, dict[str, Any]], model: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "build"
    budgets = ("--budget", "size=15%", "--budget", "latency=60%")
    more = ("--out", str(out), "--threads", "2", "--refine", "3")
    result = run("compile", f"{model}:build", "--target", "onnx", *budgets, *more)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "plan.json", "report.html", "report.json"]
    assert "the table" in result.output
    call = calls["compile"]
    pipeline = call["pipeline"]
    assert pipeline.budget == Budget(size="15%", latency="60%")
    assert (pipeline.target, pipeline.seed, call["max_drop"], call["plan"]) == ("onnx", 0, None, None)
    assert call["progress"] is None, "nothing moves where nobody watches"
    assert (call["model"], call["args"], call["kwargs"]) == (abs, (1,), None)
    assert (call["calibration"], call["quality"], call["dynamic_shapes"]) == ([1], float, ({0: "n"},))
    assert (pipeline.target_options.threads, pipeline.search.refine) == (2, 3)


def test_a_replay_does_not_pass_on_the_data_of_the_file(
    calls: dict[str, dict[str, Any]], model: str, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    result = run("compile", f"{model}:build", "--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "build"))
    assert result.exit_code == 0, result.output
    assert (calls["compile"]["calibration"], calls["compile"]["quality"]) == (None, float)


def test_compile_takes_a_pipeline(calls: dict[str, dict[str, Any]], model: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('target = "torch"\nseed = 4\nbudget = { size = "20%" }\n')
    result = run("compile", f"{model}:build", "--pipeline", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    call = calls["compile"]
    pipeline = call["pipeline"]
    assert (pipeline.target, pipeline.seed, pipeline.budget) == ("torch", 4, Budget(size="20%"))


def test_compile_the_smallest(calls: dict[str, dict[str, Any]], model: str, tmp_path: Path) -> None:
    arguments = ("--budget", "smallest", "--max-drop", "0.3", "--out", str(tmp_path / "out"))
    assert run("compile", f"{model}:build", *arguments).exit_code == 0
    assert (calls["compile"]["pipeline"].budget, calls["compile"]["max_drop"]) == ("smallest", 0.3)


def test_inspect_explain_bench_pareto(calls: dict[str, dict[str, Any]], model: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    compiled = tmp_path / "model.onnx"
    compiled.write_bytes(b"")
    assert "the table" in run("inspect", f"{model}:build").output
    assert "because" in run("explain", str(plan)).output
    assert "the table" in run("bench", str(compiled), "--vs", f"{model}:build", "--repeats", "5").output
    assert (calls["bench"]["repeats"], calls["bench"]["threads"]) == (5, 1)
    out = tmp_path / "new" / "pareto.html"
    assert run("pareto", f"{model}:build", "--resource", "latency", "--points", "4", "--out", str(out)).exit_code == 0
    assert (calls["pareto"]["resource"], calls["pareto"]["points"]) == ("latency", 4)
    assert out.read_text() == "saved"


def test_passes_lists_everything(calls: dict[str, dict[str, Any]]) -> None:
    result = run("passes")
    assert result.exit_code == 0, result.output
    for word in ("tidy", "limit=3", "Tidies up with `care`.", "int4", "gptq"):
        assert word in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "gone.py:build"], "error: model: expected a Python file, found nothing at 'gone.py'"),
        (["compile", "MODEL:biuld"], "expected a function 'biuld', found nothing; did you mean 'build'?"),
        (["compile", "MODEL:broken"], "broken raised ValueError: mine"),
        (
            ["compile", "MODEL:build", "--budget", "15%"],
            "budget: expected 'name=amount' such as 'size=15%', 'smallest' or 'fastest' alone, found '15%'",
        ),
        (["compile", "MODEL:build", "-b", "size=1%", "-b", "size=2%"], "budget: expected each name once"),
        (["compile", "MODEL:build", "--pipeline", "cpuu"], "found 'cpuu'; did you mean 'cpu'?"),
        (["compile", "MODEL:build", "--plan", "MODEL", "-b", "size=1%"], "--plan: expected no --budget beside it"),
        (["explain", "."], "plan: expected a file, found the folder '.'; check the path"),
        (["compile", "MODEL:build", "--plan", "gone.json"], "plan: expected a file, found nothing at 'gone.json'"),
        (["compile", "MODEL:build", "--out", "MODEL"], "--out: expected a folder, found the file"),
        (["compile", "MODEL:build", "--out", "MODEL/below"], "--out: expected a folder, found the file"),
        (["pareto", "MODEL:build", "--out", "MODEL/below.html"], "--out: expected a folder, found the file"),
        (["compile", "gone.py:one:one"], "model: expected file.py:function such as examples/minilm.py:build"),
        (["explain", "gone.json"], "plan: expected a file, found nothing at 'gone.json'"),
        (["bench", "MODEL"], "--vs: expected the original as file.py:function"),
        (["bench", "MODEL", "--report", "r.html"], "--report: expected the device.json of a check, found"),
        (["bench", "gone.onnx", "--vs", "MODEL:build"], "model: expected a file, found nothing at 'gone.onnx'"),
        (["pareto", "MODEL:build", "--out", "curve.png"], "--out: expected a .html or .json file, found 'curve.png'"),
    ],
)
def test_user_errors(calls: dict[str, dict[str, Any]], model: str, arguments: list[str], message: str) -> None:
    result = run(*(argument.replace("MODEL", model) for argument in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert calls == {}


def test_no_emoji_in_messages(calls: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def heart():\n    return 3\n")
    result = run("compile", f"{tmp_path / 'mine.py'}:heart")
    assert "mine.py:heart: expected a model with its inputs" in " ".join(result.stderr.split())


def test_a_folder_that_was_made_for_nothing_is_gone(
    calls: dict[str, dict[str, Any]], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["instar.compiler"], "compile", failing(CaptureError("no")))
    assert run("compile", f"{model}:build", "--out", str(tmp_path / "deep" / "build")).exit_code == 1
    assert not (tmp_path / "deep").exists()
    (tmp_path / "kept").mkdir()
    assert run("compile", f"{model}:build", "--out", str(tmp_path / "kept" / "build")).exit_code == 1
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["compilee"], ["compile"], ["compile", "a.py:b", "--threads", "0"]],
)
def test_usage_errors(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.stderr


def test_a_target_that_nobody_has() -> None:
    result = run("compile", "a.py:b", "--target", "onxx:device.json")
    assert result.exit_code == 2
    assert (
        "target: expected 'onnx' or 'torch' or 'scratchpad', found 'onxx:device.json'; did you mean 'onnx'?"
        in result.stderr
    )


def failing(problem: BaseException) -> Any:
    def call(**kwargs: object) -> object:
        raise problem

    return call


@pytest.mark.parametrize(
    ("problem", "code", "message"),
    [
        (CaptureError("net.py:3: expected a tensor"), 1, "error: net.py:3: expected a tensor"),
        (TypeError("oops"), 1, "internal error: TypeError: oops; --debug shows where"),
        (KeyboardInterrupt(), 130, "interrupted; files written before are whole"),
    ],
)
def test_failures(
    calls: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    problem: BaseException,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(sys.modules["instar.compiler"], "inspect", failing(problem))
    result = run("inspect", f"{model}:build")
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(
    calls: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(sys.modules["instar.compiler"], "inspect", failing(CaptureError("no")))
    result = run("inspect", f"{model}:build", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_version_and_help() -> None:
    assert run("--version").output.startswith("instar ")
    assert "pareto" in run("--help").output


def test_help_loads_nothing_heavy() -> None:
    """`instar --help` answers at once."""
    code = "import sys, instar.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & {"torch", "onnx", "onnxruntime", "ortools", "plotly", "pydantic", "transformers"}
