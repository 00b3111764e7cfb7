"""Attention as one kernel: the legalised ops, numbers through ONNX Runtime, and how it is decided what is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as sdpa

import instar
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph
from instar.ir.plan import Plan
from instar.ir.verify import verify
from instar.passes.run import run_passes
from instar.targets.legalize import legalize
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.cases import case_models
from instar.targets.onnx.cases_attention import KERNELS, AttentionShape
from instar.targets.onnx.kernels.attention import block_rows
from instar.targets.onnx.legalize import passes
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.session import executed_kernels
from instar.targets.onnx.spellings import attention_sites, choose
from instar.targets.onnx.target import OnnxTarget

from .fake_table import Times

FUSED = OnnxOptions(attention="fused")
TOKENS, WIDTH, HEADS = 7, 8, 3


class Block(nn.Module):
    """Linear layers, heads split off, attention by a function, heads joined."""

    def __init__(self, mix: Callable[..., Tensor], heads: int = HEADS, shared: int = HEADS) -> None:
        super().__init__()
        self.mix, self.heads, self.shared = mix, heads, shared
        self.q = nn.Linear(24, heads * WIDTH)
        self.k, self.v = (nn.Linear(24, shared * WIDTH) for _ in range(2))
        self.o = nn.Linear(heads * WIDTH, 24)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (count, WIDTH)).transpose(1, 2)
            for layer, count in ((self.q, self.heads), (self.k, self.shared), (self.v, self.shared))
        )
        return self.o(self.mix(query, key, value, *rest).transpose(1, 2).flatten(2))


def spelled(query: Tensor, key: Tensor, value: Tensor, *mask: Tensor) -> Tensor:
    scores = query @ key.transpose(-2, -1) / math.sqrt(WIDTH)
    return torch.softmax(scores + mask[0] if mask else scores, dim=-1) @ value


def padded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return spelled(query, key, value, (1.0 - mask[:, None, None].float()) * -1e9)


def rotated(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    angles = torch.arange(TOKENS)[:, None] / torch.tensor([1.0, 3.0, 10.0, 30.0])
    cos, sin = (torch.cat([f(angles)] * 2, dim=-1) for f in (torch.cos, torch.sin))
    half = WIDTH // 2
    query, key = (x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin for x in (query, key))
    return spelled(query, key, value)


def x(tokens: int = TOKENS) -> Tensor:
    return torch.randn(2, tokens, 24, generator=torch.Generator().manual_seed(tokens))


def padding() -> Tensor:
    mask = torch.ones(2, TOKENS, dtype=torch.int64)
    mask[1, 4:] = 0
    return mask


def graph_of(
    mix: Callable[..., Tensor], *rest: Tensor, dynamic: bool = False, heads: int = HEADS, shared: int = HEADS
) -> Graph:
    shapes = None
    if dynamic:
        batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", min=2, max=64)
        sizes = {0: batch, 1: length}
        shapes = (sizes, tuple(sizes for _ in rest)) if rest else (sizes,)
    return instar.optimize(Block(mix, heads, shared).eval(), (x(), *rest), dynamic_shapes=shapes)


def check(graph: Graph, *rest: Tensor, **options: Any) -> OnnxArtifact:
    """The fused graph is valid, computes the same in torch and in the runtime, and the planned kernels run."""
    inputs = [x(), *rest]
    legal = run_passes(graph, passes(FUSED))[0]
    verify(legal)
    with torch.no_grad():
        (expected,), (found,) = evaluate(graph, inputs), evaluate(legal, inputs)
    assert torch.allclose(expected, found, rtol=0, atol=2e-6)
    artifact = built(graph, inputs, **options)
    assert all(c.error <= 2e-6 for c in artifact.checks)
    return artifact


def built(graph: Graph, inputs: list[Tensor], **options: Any) -> OnnxArtifact:
    target, plan = OnnxTarget(replace(FUSED, **options)), Plan((), graph.fingerprint(), "onnx")
    artifact = target.build(legalize(target, graph, plan, [inputs])[0], plan, [inputs])
    artifact.check(graph, [inputs])
    return artifact


MASK = torch.randn(TOKENS, TOKENS, generator=torch.Generator().manual_seed(3)) * 3
HIDDEN_ROW = MASK.masked_fill(torch.arange(TOKENS)[:, None] == 2, -math.inf)
LEAST_ROW = MASK.masked_fill(torch.arange(TOKENS)[:, None] == 2, torch.finfo(torch.float32).min)


def all_padded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """As the transformers library hides padding; where all is padding, all is attended to."""
    hidden = (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
    return sdpa(query, key, value, hidden)


@pytest.mark.parametrize(
    ("mix", "rest", "counts"),
    [
        (spelled, (), (HEADS, HEADS)),
        (sdpa, (), (HEADS, HEADS)),
        (padded, (padding(),), (HEADS, HEADS)),
        (spelled, (MASK,), (HEADS, HEADS)),
        (sdpa, (MASK,), (HEADS, HEADS)),
        (sdpa, (MASK > 0,), (HEADS, HEADS)),
        (sdpa, (HIDDEN_ROW,), (HEADS, HEADS)),
        (sdpa, (LEAST_ROW,), (HEADS, HEADS)),
        (all_padded, (padding() * torch.tensor([[0], [1]]),), (HEADS, HEADS)),
        (sdpa, (HIDDEN_ROW > -1,), (HEADS, HEADS)),
        (sdpa, (HIDDEN_ROW.expand(2, HEADS, -1, -1).contiguous() > -1,), (HEADS, HEADS)),
        (lambda q, k, v: sdpa(q, k, v, enable_gqa=True), (), (6, 2)),
        (lambda q, k, v: spelled(q, *(t.repeat_interleave(3, 1) for t in (k, v))), (), (6, 2)),
        (rotated, (), (HEADS, HEADS)),
        (lambda q, k, v: sdpa(q, k, v, is_causal=True, scale=0.2), (), (HEADS, HEADS)),
    ],
)  # fmt: skip
def test_tokens_stay_in_rows(mix: Callable[..., Tensor], rest: tuple[Tensor, ...], counts: tuple[int, int]) -> None:
    graph = graph_of(mix, *rest, heads=counts[0], shared=counts[1])
    ops = run_passes(graph, passes(FUSED))[0].ops()
    assert ops["instar_ort.attention"] + ops["instar_ort.causal_attention"] == 1
    assert not {"aten.softmax.int", "aten.matmul", "aten.repeat_interleave.self_int"} & ops.keys()
    hidden_by_head = rest and rest[0].dim() == 4
    assert ops["aten.permute"] == int(bool(hidden_by_head))  # of a flag per head and query
    artifact = check(graph, *rest)
    assert artifact.lowered.expected["Attention"] == 1
    executed = executed_kernels(artifact.lowered.proto(), {
        name: t.numpy() for name, t in zip(artifact.lowered.input_names, [x(), *rest], strict=True)
    })  # fmt: skip
    assert executed["Attention"] == 1
    assert executed["Transpose"] == int(bool(hidden_by_head))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("mask", [LEAST_ROW, HIDDEN_ROW, HIDDEN_ROW > -1])
def test_masks_between_products_are_added_in_float32(dtype: torch.dtype, mask: Tensor) -> None:
    """Float16 has no number for what masks hold; rows of its own least number are attended to as torch does."""
    hidden = mask if mask.dtype == torch.bool else mask.clamp(min=torch.finfo(dtype).min).to(dtype)
    if torch.isinf(mask).any():
        hidden = mask.to(dtype)
    model = Block(sdpa).eval().to(dtype)
    compiled = instar.compile(
        model, (x().to(dtype), hidden), target="onnx", target_options={"attention": "unfused"}
    )  # fmt: skip
    with torch.no_grad():
        expected = model(x().to(dtype), hidden)
    error = (compiled(x().to(dtype), hidden) - expected).double().norm() / expected.double().norm()
    assert float(error) < (0.003 if dtype == torch.float16 else 1e-6)


def test_heads_that_come_first_stay_first() -> None:
    graph = graph_of(lambda q, k, v: sdpa(q, k.cumsum(2), v))
    legal = run_passes(graph, passes(FUSED))[0]
    (node,) = [n for n in legal.nodes() if n.op.short_name == "instar_ort.attention"]
    assert (node.argument("heads"), node.argument("key_heads")) == (0, 0)
    check(graph)


@pytest.mark.parametrize("mix", [padded, lambda q, k, v, m: sdpa(q, k, v, m[:, None, None].bool())])
def test_dynamic_sizes(mix: Callable[..., Tensor]) -> None:
    artifact = check(graph_of(mix, padding(), dynamic=True), padding())
    assert len(artifact.checks) == 3


def test_causal_attention_of_dynamic_length_is_one_node() -> None:
    artifact = check(graph_of(lambda q, k, v: sdpa(q, k, v, is_causal=True), dynamic=True))
    assert [n.op_type for n in artifact.lowered.proto().graph.node].count("Attention") == 1


@pytest.mark.parametrize("tokens", [40, 64])
@pytest.mark.parametrize("shared", [1, 3])
def test_causal_attention_comes_in_blocks(tokens: int, shared: int) -> None:
    mix = lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=shared == 1)  # noqa: E731
    module = Block(mix, shared=shared).eval()
    graph = instar.optimize(module, (x(tokens),))
    artifact = built(graph, [x(tokens)])
    assert artifact.checks[0].error <= 2e-6
    executed = executed_kernels(artifact.lowered.proto(), {artifact.lowered.input_names[0]: x(tokens).numpy()})
    assert executed["Attention"] == 2
    assert executed["ConstantOfShape"] + executed["Trilu"] == 0


@pytest.mark.parametrize(("length", "rows"), [(1, 32), (256, 32), (512, 32), (513, 64), (1024, 64), (4096, 256)])
def test_blocks_are_neither_small_nor_many(length: int, rows: int) -> None:
    assert block_rows(length) == rows
    assert -(-length // rows) <= 16


def test_doubles_and_other_ranks_are_refused() -> None:
    module = lambda q, k, v: sdpa(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).unflatten(0, (2, HEADS))  # noqa: E731
    graph = graph_of(module)
    legal, records = run_passes(graph, passes(FUSED))
    assert legal.ops()["instar_ort.attention"] == 0
    refused = [r.reason for record in records for r in record.refused]
    assert any("expected heads as f32[batch, heads, tokens, width]" in reason for reason in refused)


# ------------------------------------------------------------------------------------------------ deciding
@pytest.mark.parametrize(
    ("times", "given", "chosen"),
    [
        (Times(fused=1, unfused_clamped=2, unfused_plain=3, clamped=1, plain=2), {}, {"attention": "fused"}),
        (Times(fused=3, unfused_clamped=2, unfused_plain=4), {}, {"attention": "unfused", "masked_softmax": "clamped"}),
        (Times(fused=3, unfused_clamped=3, unfused_plain=2), {}, {"attention": "unfused", "masked_softmax": "plain"}),
        (Times(fused=3, unfused_clamped=2), {"masked_softmax": "clamped"}, {"attention": "unfused"}),
        (Times(clamped=1, plain=2), {"opset": 21}, {"masked_softmax": "clamped"}),
        (Times(clamped=2, plain=1), {"ir_version": 10}, {"masked_softmax": "plain"}),
        (Times(clamped=2, plain=1), {"attention": "unfused"}, {"masked_softmax": "plain"}),
        (Times(), {"attention": "fused"}, {}),
    ],
)
def test_the_fastest_spelling_is_chosen_where_the_user_left_it_open(
    times: Times, given: dict[str, Any], chosen: dict[str, str]
) -> None:
    assert choose(graph_of(padded, padding()), [x(), padding()], cast(Any, times), OnnxOptions(**given)) == chosen


def test_options_and_versions_of_the_plan_say_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    target = OnnxTarget(OnnxOptions())
    assert {"opset": 21, "ir_version": 10, "attention": "unfused"}.items() <= target.plan_options.items()
    monkeypatch.setattr(target, "_table", lambda: Times(fused=1, unfused_clamped=2, unfused_plain=3))
    tuned = target.tuned(graph_of(spelled), [x()])
    assert target.plan_options["opset"] == 21
    assert {"opset": 23, "ir_version": 11, "attention": "fused"}.items() <= tuned.plan_options.items()


def test_sites_are_found_with_their_sizes_and_what_the_example_hides() -> None:
    assert attention_sites(graph_of(padded, padding()), [x(), padding()]) == Counter(
        {AttentionShape(2, HEADS, HEADS, TOKENS, TOKENS, WIDTH, WIDTH, hidden=3): 1}  # 3 of 14 keys
    )
    causal = graph_of(lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=True), heads=6, shared=2)
    assert attention_sites(causal, [x()]) == Counter(
        {AttentionShape(2, 6, 2, TOKENS, TOKENS, WIDTH, WIDTH, causal="static"): 1}
    )
    first = graph_of(lambda q, k, v: sdpa(q, k.cumsum(2), v))
    assert attention_sites(first, [x()]) == Counter(
        {AttentionShape(2, HEADS, HEADS, TOKENS, TOKENS, WIDTH, WIDTH, split=False): 1}
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "shape",
    [
        AttentionShape(1, 4, 4, 5, 6, 8, 8),
        AttentionShape(2, 4, 2, 5, 5, 8, 8, split=False),
        AttentionShape(2, 4, 4, 5, 8, 8, 16, hidden=4),
        AttentionShape(1, 4, 2, 40, 40, 8, 8, causal="static"),
    ],
    ids=lambda shape: shape.key,
)
def test_a_site_is_timed_as_it_is_emitted(shape: AttentionShape, kernel: str) -> None:
    ((_, model),) = case_models([shape.case(kernel)])
    executed = executed_kernels(model.model, model.feeds)
    blocks = 2 if shape.causal else 1
    assert executed["Attention"] == (blocks if kernel == "fused" else 0)
    assert executed["Softmax"] == (0 if kernel == "fused" else -(-shape.queries // 64))
    masked = bool(shape.causal) or shape.hidden >= 0
    assert (executed["ReduceMax"] > 0) == (masked and kernel == "unfused:clamped")
