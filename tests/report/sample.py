"""A realistic report made by hand: a small sentence encoder under a size and a latency budget."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from instar.ir.graph import Origin
from instar.ir.options import Activation, Option, PricedOption
from instar.ir.plan import BudgetUse, Decision, PassUse, Plan
from instar.ir.plan_findings import SolverOutcome
from instar.passes.base import CheckOutcome, PassRecord, Refusal
from instar.report import LossPair, ModelSummary, ParetoPoint, QualityPoint, ReportData, StageTime
from instar.report.data import ShapeTime
from instar.targets.base import CheckResult

FLOAT = "fp32"
LINEAR = {
    FLOAT: (32.0, 1.0, 0.0, "none", "float"),
    "int8:channel": (8.04, 0.42, 1.0, "dynamic_int8:token", "int8_dynamic"),
    "int6:g64": (6.25, 0.75, 14.0, "none", "unpack"),
    "int4:g32": (4.5, 0.8, 160.0, "none", "matmul_nbits"),
    "int4:g128": (4.125, 0.72, 260.0, "none", "matmul_nbits"),
    "int2:g16": (3.0, 0.9, 5200.0, "none", "unpack"),
}
"""Format -> bits per weight, time relative to float, relative loss, activation, kernel."""

EMBEDDING = {
    FLOAT: (32.0, 1.0, 0.0, "none", "float"),
    "int8:channel": (8.04, 0.9, 0.4, "none", "gather"),
    "int4:g32": (4.5, 0.9, 60.0, "none", "gather_blocks"),
}
SIZE_PRICE = 4e-9
"""Predicted loss that one more byte saves."""

BLOCK = (
    ("attention.self.query", (384, 384)),
    ("attention.self.key", (384, 384)),
    ("attention.self.value", (384, 384)),
    ("attention.output.dense", (384, 384)),
    ("intermediate.dense", (1536, 384)),
    ("output.dense", (384, 1536)),
)


def shapes(blocks: int) -> dict[str, tuple[int, ...]]:
    """Layer -> shape of its weight."""
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings": (30522, 384),
        "embeddings.position_embeddings": (512, 384),
    }
    for block in range(blocks):
        found |= {f"encoder.layer.{block}.{name}": shape for name, shape in BLOCK}
    return found | {"pooler.dense": (384, 384)}


def priced(name: str, shape: tuple[int, ...], scale: float) -> dict[str, PricedOption]:
    """The options of a layer."""
    embedding = "embeddings" in name
    weights = math.prod(shape)
    time = 0.02 if embedding else weights * 2.9e-6
    found: dict[str, PricedOption] = {}
    for spelling, (bits, speed, loss, activation, kernel) in (EMBEDDING if embedding else LINEAR).items():
        encoder = "rtn" if spelling == FLOAT else "gptq"
        option = Option(spelling, encoder, Activation.parse(activation), kernel)
        bops = round(weights * 128 * bits * option.activation.bits)
        weight_loss = scale * loss * 1e-6
        noise = 0.3 * weight_loss if activation != "none" else 0.0
        nbytes = round(weights * bits / 8)
        found[spelling] = PricedOption(option, nbytes, time * speed, bops, weight_loss + noise, weight_loss, noise)
    return found


def decision(name: str, shape: tuple[int, ...], position: float, dice: random.Random) -> Decision:
    """A layer's decision by the price of a byte; the first blocks are the sensitive ones."""
    scale = (3.0 - 2.0 * position) * math.prod(shape) / 384**2
    table = priced(name, shape, math.exp(dice.gauss(0.0, 0.9)) * scale)
    if name == "pooler.dense":
        return Decision(name, "linear", shape, table[FLOAT], table[FLOAT], (), (), "kept by 'pooler.*'")
    chosen = min(table.values(), key=lambda p: p.loss + SIZE_PRICE * p.nbytes)
    others = sorted((p for p in table.values() if p is not chosen), key=lambda p: p.nbytes)
    refused = ("int4:g256: 384 columns are not a multiple of 256",) if shape[-1] % 256 else ()
    kind = "embedding" if "embeddings" in name else "linear"
    return Decision(name, kind, shape, chosen, table[FLOAT], tuple(others), refused)


def plan(blocks: int = 6, seed: int = 0) -> Plan:
    """A plan for a sentence encoder of some blocks."""
    dice = random.Random(seed)
    table = shapes(blocks)
    decisions = tuple(decision(n, s, i / len(table), dice) for i, (n, s) in enumerate(table.items()))
    objective = sum(d.chosen.loss for d in decisions)
    used = sum(d.chosen.nbytes for d in decisions) + 162_000.0
    original = sum(d.original.nbytes for d in decisions) + 110_000.0
    time = sum(d.chosen.latency_ms or 0.0 for d in decisions) + 6.1
    before = sum(d.original.latency_ms or 0.0 for d in decisions) + 6.1
    budgets = (
        BudgetUse("size", "22.5%", used * 1.0004, used, original, SIZE_PRICE, used + 4_211),
        BudgetUse("latency", "85%", before * 0.85, time, before, 0.0, time * 1.03),
    )
    outcome = SolverOutcome("optimal", objective, objective * (1 - 1e-9), 1e-9, "CP-SAT 9.15", seed, 0.41)
    return Plan(
        decisions,
        "9f0c6f2b7d0e4c7d95f3d5b6f1a2e3c4",
        "onnx",
        {"threads": 1, "opset": 21},
        budgets=budgets,
        solver=outcome,
        sensitivity="output error weighted by the diagonal Fisher information",
        seed=seed,
        versions={"instar": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.0", "ortools": "9.15.6755"},
        passes=(PassUse("canonicalize"), PassUse("fold-constants")),
    )


def passes() -> tuple[PassRecord, ...]:
    """Passes, one of them with refusals, the last one lossy."""
    origin = Origin("encoder.layer.0", "model.py:81")
    refused = (
        Refusal("fold-batch-norm", "%41 = aten.native_batch_norm(%40)", origin, "its input is used by 2 other nodes"),
        Refusal("fold-batch-norm", "%77 = aten.native_batch_norm(%76)", origin, "no convolution comes before it"),
    )
    same = CheckOutcome("unchanged", 0.0, 1e-9, math.inf, 0.0)
    exact = CheckOutcome("float64", 3.1e-16, 1e-9, 310.2, 0.42)
    lossy = CheckOutcome("own dtype", 0.108, math.inf, 19.3, 0.4)
    return (
        PassRecord(
            "canonicalize", True, 0.081, 214, 182, {"addmm-to-linear": 37, "drop-no-op": 12}, (), 0, 0.02, exact
        ),
        PassRecord("fold-constants", True, 0.043, 182, 180, {"fold": 2}, (), 0, 0.02, exact),
        PassRecord("fold-batch-norm", True, 0.006, 180, 180, {}, refused, 2, 0.0, same),
        PassRecord("apply-plan", False, 2.31, 180, 301, {"quantize-weight": 39}, (), 0, 0.03, lossy),
    )


def losses(dice: random.Random) -> tuple[LossPair, ...]:
    """Random plans, predicted and measured."""
    predicted = [math.exp(dice.uniform(-7.0, 0.5)) for _ in range(24)]
    return tuple(
        LossPair(f"random plan {i}", p, p**0.94 * math.exp(dice.gauss(0.0, 0.16)), round(12e6 + 3e5 * i))
        for i, p in enumerate(predicted)
    )


def pareto(size: float, loss: float) -> tuple[ParetoPoint, ...]:
    """A falling curve through the chosen plan."""
    steps = (0.7, 0.78, 0.88, 1.0, 1.15, 1.35, 1.7, 2.2, 3.0, 4.4)
    return tuple(ParetoPoint(round(size * s), loss * s**-3.4, 21.0 - 2.0 / s, s == 1.0) for s in steps)


def summary(original_nbytes: float) -> ModelSummary:
    """Of a sentence encoder."""
    return ModelSummary(
        "SentenceEncoder",
        214,
        180,
        {"aten.linear": 37, "aten.layer_norm": 13, "aten.scaled_dot_product_attention": 6, "aten.embedding": 3},
        round(original_nbytes / 4),
        round(original_nbytes),
        2_850_000_000,
        ("batch in [1, 64]", "length in [2, 512]"),
        ("i64[batch, length]", "i64[batch, length]"),
        ("f32[batch, 384]",),
    )


def report_data(blocks: int = 6, seed: int = 0) -> ReportData:
    """Everything filled in."""
    made = plan(blocks, seed)
    dice = random.Random(seed + 1)
    size, latency = made.budgets
    searched = ((3.1, 86.71, True), (1.9, 86.69, True), (0.8, 85.1, False), (1.2, 86.3, False), (1.0, 86.52, True))
    return ReportData(
        model=summary(size.original),
        plan=made,
        settings={
            "target": "onnx",
            "budget": {"size": "22.5%", "latency": "85%"},
            "formats": list(LINEAR),
            "seed": seed,
        },
        passes=passes(),
        stages=tuple(
            StageTime(name, s)
            for name, s in (
                ("capture", 3.9),
                ("exact passes", 1.1),
                ("calibration", 21.7),
                ("pricing", 48.2),
                ("latency", 31.0),
                ("allocation", 0.5),
                ("apply plan", 2.8),
                ("lowering", 6.2),
            )
        ),
        artifact_nbytes=round(size.measured or 0.0),
        original_ms=latency.original,
        predicted_ms=latency.used,
        artifact_ms=latency.measured,
        latency_source="median of 20 runs, ONNX Runtime 1.31.0, 1 thread, batch 1, length 128",
        chosen_loss=LossPair("chosen plan", made.predicted_loss, 1.08 * made.predicted_loss, round(size.used)),
        random_plans=losses(dice),
        layer_sqnr_db={d.layer: 14.0 + 12.0 * dice.random() for d in made.decisions if d.chosen.loss},
        quality_original=86.72,
        quality_final=86.52,
        quality_search=tuple(QualityPoint(round(size.used * s), q, a) for s, q, a in searched),
        pareto=pareto(size.used, made.predicted_loss),
        checks=(
            CheckResult("onnx checker", 0.0, 0.0),
            CheckResult("ONNX Runtime against the graph, batch 1, length 128", 2.1e-6, 1e-4, "largest of 1 output"),
            CheckResult("ONNX Runtime against the graph, batch 3, length 17", 1.8e-6, 1e-4, "largest of 1 output"),
        ),
        notes=("pooler.dense runs in float: a rule keeps it as it was.",),
        skipped=("embeddings.token_type_embeddings: 768 numbers are fewer than the smallest layer worth storing",),
        calibration_batches=32,
        peak_memory_nbytes=1_042_000_000,
    )


def several_shapes() -> ReportData:
    """Measured at two shapes, each with a bound of its own; the second one is missed."""
    full = report_data()
    size, latency = full.plan.budgets
    bounds = tuple(
        replace(latency, limit=limit, used=used, measured=measured, original=original, shape=shape)
        for shape, original, limit, used, measured in (
            ("1x16, 1x16", 10.0, 8.0, 7.5, 7.9),
            ("8x64, 8x64", 60.0, 48.0, 45.0, 51.0),
        )
    )
    times = (
        ShapeTime("1x16, 1x16", 0.75, 10.0, 7.5, 7.9),
        ShapeTime("8x64, 8x64", 0.25, 60.0, 45.0, 51.0),
    )
    return replace(full, plan=replace(full.plan, budgets=(size, *bounds)), shapes=times)


def empty_data() -> ReportData:
    """A model without layers and nothing measured."""
    full = report_data()
    bare = replace(full.plan, decisions=(), budgets=(), solver=None, sensitivity="", versions={}, passes=())
    model = ModelSummary("Identity", 1, 1, {}, 0, 0, 0)
    return ReportData(model, bare, {}, (), (), 0)
