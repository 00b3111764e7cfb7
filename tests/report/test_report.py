from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from instar.ir.errors import ConfigError
from instar.ir.files import read_json
from instar.ir.plan import BudgetUse
from instar.passes.base import CheckOutcome
from instar.report import LossPair, ParetoPoint, QualityPoint, Report, ReportData
from instar.report.content import content as content_of
from instar.report.figures import figures
from instar.report.page import render
from instar.targets.base import CheckResult

from .rendering import terminal
from .sample import empty_data, report_data, several_shapes

HOSTILE = '<script>alert("1")</script>&</td><!--'


class Page(HTMLParser):
    """Text of the page, its scripts by id, and every start tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.scripts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data
        else:
            self.text += data

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)

    def json(self, name: str) -> Any:
        return json.loads(self.scripts[name])


def page(data: ReportData) -> Page:
    return Page(render(Report(data).to_json(), plotly="window.Plotly = null;"))


def renamed(data: ReportData, name: str) -> ReportData:
    """The first layer under another name."""
    first, *others = data.plan.decisions
    plan = replace(data.plan, decisions=(replace(first, layer=name), *others))
    return replace(data, plan=plan)


def test_html_holds_exactly_the_json() -> None:
    data = report_data()
    assert page(data).json("report-data") == Report(data).to_json()


def test_html_shows_what_the_json_holds() -> None:
    data = report_data()
    content, shown = Report(data).to_json(), page(data)
    for layer in content["layers"]:
        assert layer["name"] in shown.words
        assert layer["verdict"] in shown.words
        assert layer["bits_words"] in shown.words
    for text in (content["summary"], content["solver"]["words"], content["losses"]["words"], *content["notes"]):
        assert text in shown.words
    for row in content["budgets"]:
        assert row["words"] in shown.words
    for row in (*content["passes"], *content["checks"]):
        assert row["name"] in shown.words
    assert content["passes"][2]["refused"][0]["text"] in shown.words
    assert content["environment"]["fingerprint"] in shown.words
    assert set(shown.json("figures")) == {
        "strip", "sizes", "errors", "pareto", "quality", "losses", "stages", "passes"
    }  # fmt: skip


def test_html_shows_each_shape_with_its_budget() -> None:
    shown = page(several_shapes()).words
    assert "The budget holds at each shape by itself." in shown
    assert "inputsweightoriginalpredictedmeasuredratiobudget" in shown
    assert "1x16, 1x16 75.0 % 10.0 ms7.50 ms7.90 ms 79.0 % 8.00 ms met" in shown
    assert "8x64, 8x64 25.0 % 60.0 ms45.0 ms51.0 ms 85.0 % 48.0 ms over the limit" in shown


def test_html_shows_each_shape_under_one_budget_for_all() -> None:
    shown = page(replace(several_shapes(), plan=report_data().plan)).words
    assert "8x64, 8x64 25.0 % 60.0 ms45.0 ms51.0 ms 85.0 %" in shown
    assert "budget holds at each shape" not in shown
    assert "Latency at each shape" not in page(report_data()).words


def test_every_plot_has_its_place() -> None:
    shown = page(report_data())
    places = {attributes.get("id") for tag, attributes in shown.tags if tag == "div"}
    assert {f"plot-{name}" for name in shown.json("figures")} <= places


def test_the_page_needs_no_network() -> None:
    shown = page(report_data())
    assert not any({"src", "srcset"} & set(attributes) for _, attributes in shown.tags)
    assert not [attributes for tag, attributes in shown.tags if tag in ("link", "iframe", "img", "base")]
    policy = next(a["content"] for t, a in shown.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_plotly_is_inlined_once(tmp_path: Path) -> None:
    Report(report_data()).save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    assert text.index("plotly.js v") < text.index("Plotly.newPlot(place")


def test_a_report_without_plots_has_no_plotly(tmp_path: Path) -> None:
    Report(empty_data()).save(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 50_000


def test_names_are_escaped_everywhere() -> None:
    data = renamed(report_data(), HOSTILE)
    data = replace(data, model=replace(data.model, name=HOSTILE), notes=(HOSTILE,), settings={HOSTILE: HOSTILE})
    data = replace(data, checks=(CheckResult(HOSTILE, 1.0, 0.0, HOSTILE),), latency_source=HOSTILE)
    text = Report(data).html()
    assert HOSTILE not in text
    assert "<script>alert" not in text
    shown = page(data)
    plain = page(report_data())
    assert len([t for t, _ in shown.tags if t == "script"]) == len([t for t, _ in plain.tags if t == "script"])
    assert shown.json("report-data")["layers"][0]["name"] == HOSTILE
    assert "&lt;script&gt;" in json.dumps(shown.json("figures")["strip"])
    assert HOSTILE in shown.words


def test_brackets_in_names_are_no_markup_in_the_terminal() -> None:
    data = renamed(report_data(), "blocks[/red][0]")
    assert "blocks[/red][0]" in terminal(Report(data).table())
    assert "blocks[/red][0]" in terminal(Report(data).explain())


def test_a_model_without_layers() -> None:
    shown = page(empty_data())
    assert "The model has no layer that could be stored in another format." in shown.words
    assert shown.json("figures") == {}


def test_missing_latency_and_quality() -> None:
    data = replace(report_data(), original_ms=None, predicted_ms=None, artifact_ms=None, quality_original=None)
    data = replace(data, quality_final=None, chosen_loss=None, random_plans=(), pareto=(), layer_sqnr_db={})
    bare = tuple(
        replace(d, chosen=replace(d.chosen, latency_ms=None), original=replace(d.original, latency_ms=None))
        for d in data.plan.decisions
    )
    data = replace(data, plan=replace(data.plan, decisions=bare, budgets=data.plan.budgets[:1]))
    shown = page(data)
    assert "Latency was not measured." in shown.words
    assert "Your metric" not in shown.words.partition("Other sizes")[0]
    assert "Without calibration data the error of the output was not measured." in shown.words
    assert "None" not in shown.words


def test_infinities_and_nan_are_null(tmp_path: Path) -> None:
    data = report_data()
    wild = tuple(
        replace(p, check=CheckOutcome("own dtype", math.nan, math.inf, -math.inf, 0.1)) for p in data.passes[:1]
    )
    data = replace(data, passes=wild, chosen_loss=LossPair("chosen", 0.1, math.nan), settings={"x": math.inf})
    data = replace(data, pareto=(ParetoPoint(10, math.inf),), quality_search=(QualityPoint(1, math.nan, True),))
    Report(data).save(tmp_path / "report.json")
    read = read_json(tmp_path / "report.json")
    assert isinstance(read, dict)
    assert read == Report(data).to_json()
    assert read["settings"] == {"x": None}
    shown = page(data)
    assert "nan" not in shown.words
    assert "pareto" not in shown.json("figures")


def test_an_output_with_nan_is_a_warning() -> None:
    data = replace(report_data(), chosen_loss=LossPair("chosen plan", 0.1, math.nan))
    content = Report(data).to_json()
    assert content["warnings"][0] == "The output of the compiled model holds NaN or infinities on calibration data."
    assert "differs" not in content["summary"]


def test_wild_numbers_do_not_stop_a_report() -> None:
    data = report_data()
    wild = [math.inf, math.nan, 0.0, 1e300]
    decisions = tuple(
        replace(d, chosen=replace(d.chosen, loss=wild[i % 4]), shape=(0, 4)) for i, d in enumerate(data.plan.decisions)
    )
    budgets = tuple(replace(b, limit=math.inf, original=0.0, used=math.nan) for b in data.plan.budgets)
    plan = replace(data.plan, decisions=decisions, budgets=budgets)
    data = replace(
        data, plan=plan, artifact_nbytes=0, original_ms=0.0, random_plans=(LossPair("r", 0.0, math.inf),) * 4
    )
    assert terminal(Report(data).table(every_layer=True))
    assert terminal(Report(data).explain())
    assert page(data).json("report-data") == Report(data).to_json()


def test_settings_that_are_no_json_become_text() -> None:
    data = replace(report_data(), settings={"path": Path("a"), 3: {"b"}})
    assert Report(data).to_json()["settings"] == {"path": "a", "3": ["b"]}


def test_a_report_grows_no_faster_than_its_layers() -> None:
    small, big = (render(Report(report_data(blocks=n)).to_json(), plotly="") for n in (41, 82))
    assert big.count("<tbody>") >= 492
    assert len(big) < 2.0 * len(small)


def test_plots_of_a_big_model_summarise() -> None:
    drawn = figures(Report(report_data(blocks=83)).to_json())
    assert len(drawn["sizes"]["data"][0]["y"]) == 21
    assert "ticktext" not in drawn["strip"]["layout"]["xaxis"]
    assert sum(len(trace["x"]) for trace in drawn["strip"]["data"]) == 501


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        Report(report_data()).save(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.html.gz"])
def test_an_unknown_suffix_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a file name that ends in \.html or \.json, found '.*'; rename it"):
        Report(report_data()).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_suffixes_may_be_capital(tmp_path: Path) -> None:
    Report(empty_data()).save(tmp_path / "REPORT.HTML")
    assert (tmp_path / "REPORT.HTML").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_same_data_give_the_same_bytes() -> None:
    assert Report(report_data()).html() == Report(report_data()).html()


def test_warnings_come_from_the_numbers() -> None:
    data = report_data()
    assert Report(data).to_json()["warnings"] == []
    size, latency = data.plan.budgets
    assert data.plan.solver is not None
    broken = CheckOutcome("float64", 0.5, 1e-9, 6.0)
    plan = replace(
        data.plan,
        budgets=(replace(size, measured=size.limit + 1e6), latency),
        solver=replace(data.plan.solver, status="feasible", gap=0.02),
    )
    passes = (replace(data.passes[0], check=broken), *data.passes[1:])
    checks = (CheckResult("session", math.nan, 1e-4),)
    warnings = Report(replace(data, plan=plan, passes=passes, checks=checks, estimates=0)).to_json()["warnings"]
    assert warnings[0] == "Check session failed: relative error -, allowed 1.00e-04."
    assert warnings[1] == "Pass canonicalize changed the model: relative error 0.500, allowed 1.00e-09."
    assert warnings[2].startswith("Budget size: 21.4 MB (measured) is over the limit of 20.4 MB.")
    assert "up to 2.00 % above" in warnings[3]
    assert warnings[3].endswith("the solver's time was over; raise search.time_limit_s.")
    assert len(warnings) == 4
    given = Report(replace(data, plan=plan, passes=passes, checks=checks)).to_json()["warnings"]
    assert given[3].endswith("the plan that was given does not say why; the report of the call that made it does.")
    waiting = replace(data, plan=plan, passes=passes, checks=checks, estimates=17)
    assert (
        "17 options have estimates alone and were never stored; name members"
        in Report(waiting).to_json()["warnings"][3]
    )


def test_a_single_point_is_no_plot_of_predictions() -> None:
    data = replace(report_data(), random_plans=())
    assert "losses" not in figures(content_of(data))
    shown = page(data)
    assert "How far to trust the prediction" in shown.text
    assert re.search(r"an output error of [\d.]+ % was predicted and [\d.]+ % measured, [\d.]+ times", shown.text)
    assert "report.random_plans = 20 in the pipeline does" in shown.text


def test_other_sizes_are_told_beside_the_chosen_one() -> None:
    best = [ParetoPoint(int(size * 1e6), loss) for size, loss in ((8, 0.04), (9.9, 0.011), (12, 0.0025), (40, 0.0))]
    chosen = ParetoPoint(10_000_000, 0.01, chosen=True)
    data = report_data()
    plan = replace(data.plan, sensitivity="fisher")
    content = content_of(replace(data, plan=plan, pareto=(*best, chosen)))
    assert content["pareto_words"] == (
        "The chosen plan has 10.0 MB and a predicted error of 10.0 %, the next smaller one 8.00 MB and a predicted "
        "error of 20.0 % and the next larger one 12.0 MB and a predicted error of 5.00 %."
    )
    drawn = figures(content)["pareto"]
    assert drawn["layout"]["yaxis"]["title"]["text"] == "predicted error, %"
    assert drawn["data"][0]["y"] == pytest.approx([20.0, 100 * 0.011**0.5, 5.0, 0.0])
    plan = replace(data.plan, sensitivity="weight_error")
    content = content_of(replace(data, plan=plan, pareto=(chosen,)))
    assert content["pareto_words"] == "The chosen plan has 10.0 MB and a predicted loss of 0.0100."
    assert figures(content)["pareto"]["layout"]["yaxis"]["title"]["text"] == "predicted loss"
    assert content_of(replace(data, pareto=tuple(best)))["pareto_words"] == ""


def test_a_bar_is_as_long_as_what_was_measured() -> None:
    data = report_data()
    use = BudgetUse("latency", "8ms", limit=8.0, used=7.0, original=10.0, measured=9.0)
    shown = page(replace(data, plan=replace(data.plan, budgets=(use,))))
    bars = [attributes for tag, attributes in shown.tags if tag == "div" and "used" in (attributes.get("class") or "")]
    assert [(bar["class"], bar["style"]) for bar in bars] == [("used over", "width: 90.00%")]
