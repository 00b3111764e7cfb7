"""Results on a terminal, in a pipe, and where a width was asked for."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.text import Text

from instar.cli.output import output_folder, show
from instar.ir.errors import ConfigError
from instar.report.grid import LayerName, open_grid

NAMES = [f"encoder.layers.{number}.attention.self_attention.query_projection" for number in range(3)]


def shown(*, terminal: bool, width: int | None = None) -> list[str]:
    grid = open_grid("layer", ">bytes", "kernels")
    for name in NAMES:
        grid.add_row(LayerName(name), "2.36 MB", "float int8 int8_token nbits")
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    show(console, Group(Text("a remark " * 20 + "[batch, length]"), Text(), grid))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_nothing_is_folded_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = shown(terminal=False)
    assert lines[0] == ("a remark " * 20 + "[batch, length]")
    assert lines[1] == ""
    assert [line.split()[0] for line in lines[3:]] == NAMES
    assert all("float int8 int8_token nbits" in line for line in lines[3:])
    assert all(line == line.rstrip() for line in lines)


def test_a_width_that_was_asked_for_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = shown(terminal=False)
    assert max(map(len, lines)) <= 60
    assert not any(name in line for line in lines for name in NAMES)


def test_names_are_abbreviated_on_a_narrow_terminal_only() -> None:
    narrow, wide = shown(terminal=True, width=70), shown(terminal=True, width=200)
    assert max(map(len, narrow)) <= 70
    assert any(line.startswith("e.l.0.a.s.query_projection ") for line in narrow), narrow
    assert any(line.startswith(NAMES[0]) for line in wide), wide


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    message = r"--out: expected a folder that can be written to, found '.*'; choose"
    with pytest.raises(ConfigError, match=message), output_folder(tmp_path):
        raise AssertionError


def test_what_was_written_before_a_failure_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "a" / "b") as folder:
        (folder / "model").write_text("whole")
        raise KeyboardInterrupt
    assert (tmp_path / "a" / "b" / "model").read_text() == "whole"
