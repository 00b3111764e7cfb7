from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from instar.cli.source import load_source, read_source
from instar.ir.errors import ConfigError

MODEL = torch.nn.Linear(2, 2)
INPUT = torch.zeros(1, 2)


def written(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return f"{path}:build"


def test_a_function_that_returns_a_pair(tmp_path: Path) -> None:
    source = load_source(
        written(tmp_path, "import torch\ndef build():\n    return torch.nn.ReLU(), (torch.zeros(2),)\n")
    )
    assert isinstance(source.model, torch.nn.ReLU)
    assert len(source.args) == 1
    assert source.kwargs == {}


def test_the_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("def model(x):\n    return x\n")
    before = list(sys.path)
    source = load_source(written(tmp_path, "import neighbour_of_mine as n\ndef build():\n    return n.model, (1,)\n"))
    assert source.model(3) == 3
    assert sys.path == before


def test_all_shapes_of_a_result() -> None:
    quality = float
    table = {"model": MODEL, "args": [INPUT], "kwargs": None, "quality": quality, "dynamic_shapes": ({0: "n"},)}
    assert read_source((MODEL, (INPUT,), {"k": 1}), "f").kwargs == {"k": 1}
    assert read_source(table, "f").args == (INPUT,)
    assert read_source(table, "f").quality is quality
    assert read_source(SimpleNamespace(model=MODEL, args=(INPUT,), other=3), "f").model is MODEL


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (MODEL, "f: expected a model with its inputs, found Linear; return (model, args)"),
        (None, "f: expected a model with its inputs, found NoneType"),
        ((MODEL,), "f: expected 2 or 3 values, found 1"),
        ((MODEL, INPUT), "f: expected a tuple of inputs, found Tensor; write (model, (input,))"),
        (
            (MODEL, (INPUT,), 3),
            "f: expected kwargs to be a dict of inputs by name, found int; return (model, args), (model, args, kwargs)",
        ),
        ((3, (INPUT,)), "f: expected 'model' to be callable, found int"),
        ({"model": MODEL}, "f: expected 'args', found none"),
        ({"model": MODEL, "args": (), "calib": 3}, "found 'calib'; did you mean 'calibration'?"),
        ({"model": MODEL, "args": (), "quality": 3}, "f: expected 'quality' to be callable, found int"),
    ],
)
def test_wrong_results(result: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_source(result, "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def buidl():\n    pass\n", "mine.py: expected a function 'build', found nothing; did you mean 'buidl'?"),
        ("build = 3\n", "mine.py: expected a function 'build', found a value"),
        ("def build():\n    return 1 / 0\n", "mine.py:2: build raised ZeroDivisionError: division by zero"),
        ("import sys\n\ndef build():\n    sys.exit(3)\n", "mine.py:4: build raised SystemExit: 3"),
        ("import gone_and_away\n", "mine.py:1: import raised ModuleNotFoundError: No module named 'gone_and_away'"),
        ("def build(:\n", "mine.py:1: import raised SyntaxError"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_source(written(tmp_path, text))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", "model: expected file.py:function such as examples/minilm.py:build, found 'mine.py'"),
        ("mine:build", "model: expected file.py:function"),
        ("gone.py:build", "model: expected a Python file, found nothing at 'gone.py'; check the path"),
    ],
)
def test_wrong_specs(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_source(spec)
