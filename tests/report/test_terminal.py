from __future__ import annotations

from dataclasses import replace

from instar.report import Report, ReportData

from .rendering import terminal
from .sample import empty_data, report_data, several_shapes


def rows(text: str) -> list[list[str]]:
    """Cells of each line: what two or more spaces separate."""
    return [[cell for cell in line.strip().split("  ") if cell] for line in text.splitlines()]


def test_headline() -> None:
    lines = [[cell.strip() for cell in row] for row in rows(terminal(Report(report_data()).table()))[:6]]
    assert lines == [
        ["SentenceEncoder", "before", "after", "share"],
        ["size", "90.8 MB", "20.4 MB", "22.5 %"],
        ["latency", "37.4 ms", "30.5 ms", "81.6 %"],
        ["output error, measured", "0 %", "6.38 %"],
        ["output error, predicted", "0 %", "6.14 %"],
        ["quality", "86.72", "86.52"],
    ]


def test_the_largest_layers_and_the_rest() -> None:
    text = terminal(Report(report_data()).table())
    assert "embeddings.word_embeddings" in text
    assert "29 smaller layers" in text
    assert "encoder.layer.5.attention.self.key" not in text


def test_every_layer() -> None:
    data = report_data()
    text = terminal(Report(data).table(every_layer=True))
    assert all(d.layer in text for d in data.plan.decisions)
    assert "smaller layer" not in text


def test_budgets_and_notes() -> None:
    text = terminal(Report(report_data()).table())
    assert "binds: 1 % more (204 kB) would lower the predicted loss by about 21.7 %" in text
    assert "does not bind: 2.15 ms are left" in text
    assert "note: pooler.dense runs in float: a rule keeps it as it was." in text


def shape_lines(data: ReportData) -> list[str]:
    """The table of shapes without its alignment."""
    lines = [" ".join(line.split()) for line in terminal(Report(data).table()).splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("latency at weight"))
    return lines[start : start + 3]


def test_each_shape_with_its_budget() -> None:
    assert shape_lines(several_shapes()) == [
        "latency at weight original predicted measured ratio budget",
        "1x16, 1x16 75.0 % 10.0 ms 7.50 ms 7.90 ms 79.0 % 8.00 ms",
        "8x64, 8x64 25.0 % 60.0 ms 45.0 ms 51.0 ms 85.0 % 48.0 ms over",
    ]


def test_each_shape_under_one_budget_for_all() -> None:
    data = replace(several_shapes(), plan=report_data().plan)
    assert shape_lines(data) == [
        "latency at weight original predicted measured ratio",
        "1x16, 1x16 75.0 % 10.0 ms 7.50 ms 7.90 ms 79.0 %",
        "8x64, 8x64 25.0 % 60.0 ms 45.0 ms 51.0 ms 85.0 %",
    ]


def test_a_shape_that_only_a_device_has_times_of_is_not_called_measured() -> None:
    data = several_shapes()
    data = replace(data, shapes=tuple(replace(s, artifact_ms=None) for s in data.shapes))
    assert shape_lines(data)[1] == "1x16, 1x16 75.0 % 10.0 ms 7.50 ms - 75.0 % 8.00 ms"


def test_one_shape_needs_no_table() -> None:
    assert "latency at" not in terminal(Report(report_data()).table())


def test_warnings() -> None:
    data = report_data()
    size, _ = data.plan.budgets
    data = replace(data, plan=replace(data.plan, budgets=(replace(size, measured=41e6),)))
    assert "warning: Budget size: 41.0 MB (measured) is over the limit of 20.4 MB." in terminal(Report(data).table())


def test_nothing_measured() -> None:
    text = terminal(Report(empty_data()).table())
    assert "latency" not in text.partition("\n\n")[0]
    assert "Identity (0 parameters) went from 0 B to 0 B." in text


def test_a_narrow_terminal_loses_nothing() -> None:
    text = terminal(Report(report_data()).table(), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "smaller layers" in " ".join(text.split())
