"""``instar schedule`` on operator graphs: the JSON that scripts read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from networks_of_scratchpads import residual
from typer.testing import CliRunner

from instar.cli.app import app
from instar.cli.schedule import parse_bytes
from instar.ir.errors import ConfigError
from instar.schedulers.scratchpad.checker import check
from instar.schedulers.scratchpad.problem_json import dump_problem
from instar.schedulers.scratchpad.schedule_json import load_schedule

runner = CliRunner()


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    path = tmp_path / "problem.json"
    path.write_text(dump_problem(residual()))
    return path


def test_json_has_what_scripts_read(problem: Path, tmp_path: Path) -> None:
    out = tmp_path / "schedule.json"
    result = runner.invoke(app, ["schedule", str(problem), "--budget", "20KiB", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {"status", "traffic_bytes", "bound_bytes", "peak_bytes", "wall_s", "order"} <= document.keys()
    assert document["status"] == "optimal"
    assert document["budget_bytes"] == 20480
    assert check(residual(), load_schedule(out.read_text())) == ()


def test_infeasible_says_what_would_be_enough(problem: Path) -> None:
    document = json.loads(runner.invoke(app, ["schedule", str(problem), "--budget", "9", "--json"]).stdout)
    assert document["status"] == "infeasible"
    assert document["order"] == []
    assert document["operator"]
    assert document["smallest_budget_bytes"] > 9
    assert "smallest feasible budget" in runner.invoke(app, ["schedule", str(problem), "--budget", "9"]).output


def test_people_get_a_table(problem: Path) -> None:
    options = ["--atomic", "--fixed-order", "--min-rows", "2", "--no-spill", "--machine", "ethos-u65-mid"]
    result = runner.invoke(app, ["schedule", str(problem), "--budget", "1MiB", *options])
    assert result.exit_code == 0, result.output
    assert "residual: optimal, 1048576 bytes of scratchpad, 0 avoidable bytes" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "a lot"], "--budget: expected bytes such as 524288 or 512KiB, found 'a lot'"),
        ([], "--budget: expected bytes of scratchpad, found none"),
    ],
)
def test_wrong_arguments_are_refused(problem: Path, arguments: list[str], message: str) -> None:
    result = runner.invoke(app, ["schedule", str(problem), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "problem.txt"
    path.write_text("")
    result = runner.invoke(app, ["schedule", str(path), "--budget", "1"])
    assert "problem: expected a .json file, found" in " ".join(result.output.split())


def test_sizes_are_exact() -> None:
    assert parse_bytes("0.5MB", "") == 500_000
    assert parse_bytes("512KiB", "") == 524288
    with pytest.raises(ConfigError):
        parse_bytes("0.5", "--budget")
