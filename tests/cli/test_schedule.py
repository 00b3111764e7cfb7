"""``instar schedule`` on operator graphs: the JSON that scripts read, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from networks_of_scratchpads import random_network, residual
from typer.testing import CliRunner

from instar.cli.app import app
from instar.cli.schedule import parse_bytes
from instar.ir.errors import ConfigError
from instar.ir.plan import Plan
from instar.schedulers.placement import check as check_placement
from instar.schedulers.placement import load_csv, load_solution
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
    assert document["traffic_bytes"] is None  # no schedule is not the same as no traffic
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
        ([], "--budget: expected bytes of scratchpad or a --machine, found neither"),
        (["--budget", "1", "--capacity", "1"], "--capacity: expected --budget for an operator graph"),
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
    assert "problem: expected a .json or .csv file, found" in " ".join(result.output.split())


def test_a_plan_is_no_operator_graph(tmp_path: Path) -> None:
    Plan((), "abc", "torch").save(tmp_path / "plan.json")
    result = runner.invoke(app, ["schedule", str(tmp_path / "plan.json"), "--budget", "1KiB"])
    assert result.exit_code == 2
    assert "plan.json: expected an operator graph, found a plan that compile wrote" in " ".join(result.output.split())


def test_errors_in_a_graph_name_its_file(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(json.dumps({"model": "m", "ops": [{"name": "a", "kind": "add", "ins": [3], "bytes": 1}]}))
    result = runner.invoke(app, ["schedule", str(path), "--budget", "1"])
    assert result.exit_code == 1
    assert "net.json.ops[0].ins: expected positions of earlier operations" in result.output.replace("\n", "")


def test_sizes_are_exact() -> None:
    assert parse_bytes("0.5MB", "") == 500_000
    assert parse_bytes("512KiB", "") == 524288
    assert parse_bytes("1.5 TB", "") == 1_500_000_000_000
    assert parse_bytes("2TiB", "") == 1 << 41
    with pytest.raises(ConfigError):
        parse_bytes("0.5", "--budget")


BUFFERS = "id,lower,upper,size\na,0,3,4\nb,3,9,4\nc,0,9,4\nd,9,21,4\ne,0,21,4\n"


@pytest.fixture
def buffers(tmp_path: Path) -> Path:
    path = tmp_path / "buffers.csv"
    path.write_text(BUFFERS)
    return path


def test_buffers_are_placed(buffers: Path, tmp_path: Path) -> None:
    out = tmp_path / "placement.json"
    arguments = ["schedule", str(buffers), "--capacity", "12", "--time-limit", "10", "--json", "--out", str(out)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["status"], document["height_bytes"]) == ("optimal", 12)
    assert document["wall_s"] >= 0
    assert document["offsets"].keys() == {"a", "b", "c", "d", "e"}
    placed = load_solution(out.read_text())
    assert check_placement(load_csv(BUFFERS, 12), placed) == []
    assert dict(placed.offsets) == document["offsets"]


def test_buffers_that_do_not_fit_say_why(buffers: Path) -> None:
    document = json.loads(runner.invoke(app, ["schedule", str(buffers), "--capacity", "11", "--json"]).stdout)
    assert (document["status"], document["height_bytes"], document["offsets"]) == ("infeasible", None, {})
    assert document["reason"].startswith("capacity 11: no placement exists: 3 buffers alive at 0 need 12 bytes")
    assert "no placement exists" in runner.invoke(app, ["schedule", str(buffers), "--capacity", "11"]).output


def test_people_see_where_every_buffer_lies(buffers: Path) -> None:
    shown = " ".join(runner.invoke(app, ["schedule", str(buffers)]).output.split())
    assert "5 buffers: optimal, 12 bytes (at least 12)" in shown


def test_buffers_have_a_capacity_and_no_budget(buffers: Path) -> None:
    result = runner.invoke(app, ["schedule", str(buffers), "--budget", "12"])
    assert result.exit_code == 2
    assert "--budget: expected --capacity for buffers of a .csv" in " ".join(result.output.split())


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "buffers.csv"
    path.write_text("id,lower,upper,size\na,0,1,-4\n")
    result = runner.invoke(app, ["schedule", str(path)])
    assert result.exit_code == 1
    assert "buffers.csv:2: buffer 'a': expected a size of at least 0 bytes" in " ".join(result.output.split())


def test_operators_that_run_whole_are_reordered_unless_the_order_is_fixed(tmp_path: Path) -> None:
    """Two branches that widen and narrow: side by side they spill, one after the other they do not."""
    rows = [([], 1), ([0], 8), ([0], 8), ([1], 2), ([2], 2), ([3, 4], 1)]
    ops = [{"name": f"o{place}", "kind": "op", "ins": ins, "bytes": size} for place, (ins, size) in enumerate(rows)]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"model": "branches", "ops": ops}))
    arguments = ["schedule", str(path), "--budget", "12", "--json"]
    free = json.loads(runner.invoke(app, arguments).stdout)
    fixed = json.loads(runner.invoke(app, [*arguments, "--fixed-order"]).stdout)
    assert (free["status"], free["traffic_bytes"], free["peak_bytes"]) == ("optimal", 0, 12)
    assert fixed["order"] == list(range(6))
    assert fixed["traffic_bytes"] > 0


@pytest.mark.parametrize(
    "options",
    [
        ["--machine", "ethos-u65-mid"],
        ["--machine", "ethos-u65-mid", "--objective", "cycles"],
        ["--machine", "gap9-l1"],
        [],
        ["--atomic"],
    ],
)
def test_a_report_is_a_page_with_a_picture(problem: Path, tmp_path: Path, options: list[str]) -> None:
    report = tmp_path / "report.html"
    budget = ["--budget", "20KiB" if "--atomic" not in options else "1MiB"]
    result = runner.invoke(app, ["schedule", str(problem), *budget, "--json", "--report", str(report), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["status"] in ("optimal", "feasible")
    text = report.read_text()
    assert '<svg class="machine"' in text
    unit = "cycles" if "ethos-u65-mid" in options else "steps" if "--atomic" in options else "commands"
    assert f" {unit}</text>" in text
    assert ("no time: machine &#x27;gap9-l1&#x27;: expected a value of dma.setup_cycles" in text) == (
        "gap9-l1" in options
    )


def test_a_report_of_buffers(tmp_path: Path) -> None:
    buffers, report = tmp_path / "buffers.csv", tmp_path / "report.html"
    buffers.write_text("id,lower,upper,size\na,0,2,16\nb,1,3,16\n")
    result = runner.invoke(app, ["schedule", str(buffers), "--json", "--report", str(report)])
    assert result.exit_code == 0, result.output
    assert "b: tensor, whole, 16 bytes at " in report.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "speed"], "--objective: expected bytes, cycles or energy, found 'speed'"),
        (["--objective", "cycles"], "'cycles' needs --machine and stripes, found no machine"),
        (["--objective", "cycles", "--machine", "ethos-u65-mid", "--atomic"], "found --atomic"),
        (["--objective", "energy", "--machine", "ethos-u65-mid"], "expected a value of .*pj"),
        (["--report", "nowhere/report.html"], "nowhere"),
    ],
)
def test_objectives_and_reports_that_cannot_be(problem: Path, options: list[str], message: str) -> None:
    result = runner.invoke(app, ["schedule", str(problem), "--budget", "20KiB", *options])
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.stderr.split()))


def test_nothing_to_draw_is_said_behind_the_answer(problem: Path, tmp_path: Path) -> None:
    report, buffers = tmp_path / "report.html", tmp_path / "buffers.csv"
    buffers.write_text("id,lower,upper,size\na,0,2,16\n")
    for arguments in ([str(problem), "--budget", "9"], [str(buffers), "--capacity", "9"]):
        result = runner.invoke(app, ["schedule", *arguments, "--json", "--report", str(report)])
        assert result.exit_code == 1
        assert json.loads(result.stdout)["status"] == "infeasible"
        assert re.search("expected a (schedule|placement) to draw, found infeasible", " ".join(result.stderr.split()))
        assert not report.exists()


def test_time_that_is_over_is_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(dump_problem(random_network(0, 40)))
    for options in ([], ["--no-spill"]):
        arguments = ["schedule", str(path), "--budget", "200", "--time-limit", "0.001", "--json", *options]
        document = json.loads(runner.invoke(app, arguments).stdout)
        assert (document["status"], document["order"], document["traffic_bytes"]) == ("timeout", [], None)
