from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from instar.config.schema import CalibrationOptions
from instar.ir.options import Option, PricedOption
from instar.ir.plan import BudgetUse, Decision, Plan
from instar.ir.plan_findings import SolverOutcome
from instar.report import explain_plan
from instar.report.reasons import LOSSES, budget_words, loss_words, reason, saved_ms, solver_words

from .rendering import terminal
from .sample import plan


def option(spelling: str, nbytes: int, loss: float, latency_ms: float | None = None) -> PricedOption:
    return PricedOption(Option(spelling), nbytes, latency_ms, nbytes * 100, loss)


SMALL, MIDDLE, LARGE = option("int2:g64", 300, 9.0), option("int4:g64", 500, 2.0), option("int8:channel", 900, 0.5)
FLOAT = option("fp32", 3200, 0.0)


def decision(chosen: PricedOption, *others: PricedOption, forced: str = "") -> Decision:
    return Decision("fc", "linear", (10, 80), chosen, FLOAT, others, (), forced)


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_a_saved_plan_explains_itself(tmp_path: Path) -> None:
    made = plan()
    made.save(tmp_path / "plan.json")
    text = one_line(terminal(explain_plan(Plan.load(tmp_path / "plan.json"))))
    assert text.startswith("Plan for onnx: 39 layers, 90.7 MB -> 20.3 MB of weights, predicted loss 0.00377")
    assert "The size budget binds." in text
    assert "binds: 1 % more (204 kB) would lower the predicted loss by about 21.7 %" in text
    assert "it is not a proof about accuracy" in text
    assert "why: not free: kept by 'pooler.*'" in text
    assert "cheaper: int4:g32 gptq @gather_blocks: 5.19 MB less, loss 0.0332 higher" in text
    assert "refused: int4:g256: 384 columns are not a multiple of 256" in text
    assert all(d.layer in text for d in made.decisions)


def test_a_plan_without_anything_to_decide() -> None:
    text = terminal(explain_plan(Plan((), "0", "torch")))
    assert "No budget was given." in text
    assert "There was nothing to decide, so there is no proof." in text


def test_many_refusals_are_summed_up() -> None:
    refusing = replace(decision(MIDDLE, SMALL), refused=tuple(f"format {i}: no {i}" for i in range(9)))
    text = terminal(explain_plan(Plan((refusing,), "0", "torch")))
    assert "refused: format 2: no" in text
    assert "refused: format 3: no" not in text
    assert "refused: 6 more, all in the plan" in text


@pytest.mark.parametrize(
    ("chosen", "others", "price", "verdict"),
    [
        (MIDDLE, (SMALL, LARGE), 0.01, "the best trade at the budgets' prices"),
        (LARGE, (SMALL, MIDDLE), 0.0, "the most accurate option; the budgets leave room for it"),
        (SMALL, (MIDDLE, LARGE), 0.1, "the cheapest option; what it saves lowers the loss more elsewhere"),
        (MIDDLE, (), 0.0, "no other option is better in any respect"),
        (
            MIDDLE,
            (SMALL, LARGE),
            0.001,
            "another option trades better for this layer alone, but not in a whole plan: a layer is one choice, and "
            "layers that are tied choose together",
        ),
    ],
)
def test_verdicts(chosen: PricedOption, others: tuple[PricedOption, ...], price: float, verdict: str) -> None:
    assert reason(decision(chosen, *others), {"size": price}).verdict == verdict


def test_a_forced_layer_says_why() -> None:
    assert reason(decision(FLOAT, forced="kept by 'head'"), {}).verdict == "not free: kept by 'head'"


def test_the_runner_up_is_the_best_trade_on_its_side() -> None:
    worse = option("int3:g64", 400, 3.0)
    why = reason(decision(MIDDLE, SMALL, worse, LARGE, FLOAT), {"size": 0.01})
    assert why.cheaper is not None
    assert why.better is not None
    assert why.cheaper.priced is worse
    assert why.better.priced is LARGE
    assert why.better.text == "400 B more, loss 1.50 lower"
    assert why.better.worth == pytest.approx(4.0)


def test_what_is_called_cheaper_takes_less_of_what_is_bounded() -> None:
    larger, dearer = option("int4:g32", 600, 2.5, 1.0), replace(option("int8:g32", 950, 3.0, 2.0), bops=1)
    assert reason(decision(MIDDLE, larger, dearer, LARGE), {"size": 0.01}).cheaper is None
    assert reason(decision(MIDDLE, larger, dearer), {"size": 0.01}).verdict == (
        "no other option loses less or takes less of what is bounded"
    )
    found = reason(decision(MIDDLE, larger, dearer), {"size": 0.01, "ops": 0.0}).cheaper
    assert found is not None
    assert found.priced is dearer
    assert reason(decision(MIDDLE, dearer), {}).cheaper is not None


def test_a_reason_that_several_formats_and_kernels_share_is_said_once() -> None:
    names = [
        f"{f}: kernel {k}: products saturate" for f in ("int8:channel", "int8:g32") for k in ("int8", "int8_token")
    ]
    text = terminal(explain_plan(Plan((replace(decision(MIDDLE), refused=tuple(names)),), "0", "torch")))
    assert one_line(text).count("saturate") == 1
    assert "refused: int8:channel, int8:g32: kernels int8, int8_token: products saturate" in one_line(text)


def test_latency_counts_where_it_was_measured() -> None:
    fast, slow = option("int8:channel", 900, 0.5, 1.0), option("int4:g64", 500, 2.0, 3.0)
    why = reason(decision(fast, slow), {"size": 0.0, "latency": 2.0})
    assert why.cheaper is not None
    assert why.cheaper.text == "400 B less, 2.00 ms slower, loss 1.50 higher"
    assert why.cheaper.worth == pytest.approx(4.0)


def test_a_latency_above_its_limit_by_less_than_measurements_differ_is_not_over_it() -> None:
    close = BudgetUse("latency", "8ms", 8.0, 7.9, 20.0, measured=8.2)
    assert not close.exceeded
    assert budget_words(close, 0.4).endswith("8.20 ms, the limit within the 3.00 % that two measurements differ by.")
    assert BudgetUse("size", "8B", 8.0, 7.0, 20.0, measured=9.0).exceeded
    assert BudgetUse("latency", "8ms", 8.0, 8.3, 20.0).exceeded


def test_a_budget_that_binds_in_words() -> None:
    use = BudgetUse("latency", "8ms", 8.0, 7.9, 20.0, shadow_price=0.5, measured=8.4)
    assert budget_words(use, 0.4) == (
        "7.90 ms of at most 8.00 ms (asked: 8ms); binds: 1 % more (0.0800 ms) would lower the predicted loss by about "
        "10.0 %. Measured on the artifact: 8.40 ms, over the limit."
    )


def test_more_room_cannot_save_more_than_the_whole_loss() -> None:
    use = BudgetUse("size", "10%", 1e6, 1e6, 1e7, shadow_price=1.0)
    assert "by about 100 %" in budget_words(use, 0.4)
    assert budget_words(use, 0.0).endswith("by about 0.")


def test_operations_have_their_unit() -> None:
    use = BudgetUse("ops", "40%", 4e9, 3e9, 1e10)
    assert (
        budget_words(use, 0.0) == "3.00 GBOPS of at most 4.00 GBOPS (asked: 40%); does not bind: 1.00 GBOPS are left."
    )


def test_the_proof_in_words() -> None:
    proven = solver_words(SolverOutcome("optimal", 2.0, 2.0, 0.0, "CP-SAT 9", 0, 0.1))
    assert proven.startswith("Proven optimal: no other choice among these options that meets the budgets has a lower")
    assert "(objective 2.00, bound 2.00, gap 0 %, CP-SAT 9)" in proven
    stopped = solver_words(SolverOutcome("feasible", 2.0, 1.9, 0.05, "CP-SAT 9", 0, 60.0))
    assert stopped.startswith("Not proven optimal (status feasible): the predicted loss may be up to 5.00 % above")
    loose = solver_words(SolverOutcome("optimal", 2.0, 1.9, 0.01, "CP-SAT 9", 0, 60.0))
    assert "up to a gap of 1.00 %" in loose


def test_measures_of_loss_are_explained() -> None:
    assert loss_words("weight_error").startswith("weight_error: squared relative error of each layer's weight")
    assert set(LOSSES) == {*get_args(CalibrationOptions.model_fields["sensitivity"].annotation), "weight_error"} - {
        "auto"
    }
    assert loss_words("by hand") == "by hand"


def test_slower_layers_are_not_said_to_save() -> None:
    slower = replace(decision(replace(LARGE, latency_ms=3.0)), original=replace(FLOAT, latency_ms=2.5))
    text = one_line(terminal(explain_plan(Plan((slower,), "f", "onnx"))))
    assert "3.20 kB -> 900 B, takes 0.500 ms longer, loss" in text


def test_what_a_layer_saves_is_a_difference() -> None:
    fast, slow = option("int8:channel", 900, 0.5, 1.0), option("int4:g64", 500, 2.0, 3.0)
    assert saved_ms(replace(decision(fast), original=slow)) == pytest.approx(2.0)
    assert saved_ms(replace(decision(slow), original=fast)) == pytest.approx(-2.0)
    assert saved_ms(decision(fast)) is None, "the original was not timed"
