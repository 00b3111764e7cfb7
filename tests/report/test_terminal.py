from __future__ import annotations

from dataclasses import replace

from instar.report import Report

from .rendering import terminal
from .sample import empty_data, report_data


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
