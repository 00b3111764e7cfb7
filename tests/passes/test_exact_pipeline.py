"""The exact passes together: random graphs keep their values, real blocks come out clean, the registry is complete."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from instar.ir.context import Context
from instar.ir.graph import Graph, Node
from instar.ir.types import TensorType
from instar.ir.verify import verify
from instar.passes.registry import PASSES, exact_pipeline
from instar.passes.run import NumericCheck, run_passes

from .rewrite_case import assert_agrees, assert_same_numbers, draw_inputs, module_graph

F64 = torch.float64


def test_registry_and_pipeline_agree() -> None:
    assert all(PASSES[pass_.name] is type(pass_) and pass_.exact for pass_ in exact_pipeline())
    for name, cls in PASSES.items():
        assert cls.name == name
        assert isinstance(cls.exact, bool)
        assert cls.__doc__


# ------------------------------------------------------------------------------------------------ random graphs
class Builder:
    """Makes small graphs out of ops that the passes know, on values of rank 2 and 3."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.context = Context()
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
        self.inputs = [
            self.context.input("x", TensorType(F64, (2, 3, 4))),
            self.context.input("y", TensorType(F64, (6, 4))),
        ]
        self.values: list[Node] = [*self.inputs, self.constant("c", 3, 4)]

    def constant(self, name: str, *shape: int) -> Node:
        value = torch.randn(shape, generator=self.generator, dtype=F64)
        return self.context.constant(name, value, self.draw(st.sampled_from(["parameter", "buffer"])))

    def pick(self) -> Node:
        return self.values[self.draw(st.integers(0, len(self.values) - 1))]

    def step(self) -> None:
        kind = self.draw(st.sampled_from(sorted(STEPS)))
        value = STEPS[kind](self, self.pick())
        if value is not None:
            self.values.append(value)

    def graph(self) -> Graph:
        outputs = [self.values[-1], *(self.pick() for _ in range(2))]
        return self.context.graph(self.inputs, outputs)


def shape_of(value: Node) -> tuple[int, ...]:
    return tuple(int(d) for d in value.tensor_type.shape)


def transpose(b: Builder, x: Node) -> Node:
    rank = len(shape_of(x))
    if b.draw(st.booleans()):
        return b.context.node("aten.transpose.int", x, b.draw(st.integers(-rank, rank - 1)), 0)
    return b.context.node("aten.permute", x, tuple(b.draw(st.permutations(range(rank)))))


def view(b: Builder, x: Node) -> Node:
    total = x.tensor_type.numel()
    shapes = [(total,), (2, total // 2), (-1, 4), (2, -1, 4), (1, total)] if total % 8 == 0 else [(total,), (1, total)]
    return b.context.node("aten.reshape", x, b.draw(st.sampled_from(shapes)))


def unary(b: Builder, x: Node) -> Node:
    names = ["relu", "tanh", "clone", "neg", "sigmoid", "alias", "contiguous"]
    return b.context.node(f"aten.{b.draw(st.sampled_from(names))}", x)


def scalar(b: Builder, x: Node) -> Node:
    name = b.draw(st.sampled_from(["add.Scalar", "sub.Scalar", "mul.Scalar", "div.Scalar", "rsub.Scalar"]))
    return b.context.node(f"aten.{name}", x, b.draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, -1.5])))


def binary(b: Builder, x: Node) -> Node:
    name = b.draw(st.sampled_from(["add.Tensor", "sub.Tensor", "mul.Tensor"]))
    others = [v for v in b.values if shape_of(v) in (shape_of(x), shape_of(x)[1:])]
    other = b.draw(st.sampled_from(others))
    return b.context.node(f"aten.{name}", *((x, other) if b.draw(st.booleans()) else (other, x)))


def product(b: Builder, x: Node) -> Node | None:
    width = shape_of(x)[-1] if shape_of(x) else 0
    if not 0 < width <= 12:
        return None
    bias = b.constant("bias", 4)
    if len(shape_of(x)) == 2 and b.draw(st.booleans()):
        return b.context.node("aten.addmm", bias, x, b.constant("w", width, 4))
    if b.draw(st.booleans()):
        return b.context.node("aten.matmul", x, b.context.node("aten.t", b.constant("w", 4, width)))
    return b.context.node("aten.linear", x, b.constant("w", 4, width), bias)


def norm(b: Builder, x: Node) -> Node | None:
    if len(shape_of(x)) not in (2, 3):
        return None
    channels = shape_of(x)[1]
    variance = b.context.constant("v", torch.rand(channels, generator=b.generator, dtype=F64) + 0.5)
    statistics = (b.constant("m", channels), variance)
    scale = (b.constant("s", channels), b.constant("t", channels))
    value = b.context.node("aten._native_batch_norm_legit_no_training", x, *scale, *statistics, 0.1, 1e-5)
    return b.context.item(value, 0)


def shape_only(b: Builder, x: Node) -> Node:
    rank = len(shape_of(x))
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("unsqueeze", (b.draw(st.integers(-rank - 1, rank)),)),
        ("squeeze", ()),
        ("slice.Tensor", (0, 0, b.draw(st.integers(1, 9)))),
        ("cat", ()),
        ("dropout", (0.5, False)),
    ]
    name, rest = b.draw(st.sampled_from(calls))
    return b.context.node(f"aten.{name}", (x,) if name == "cat" else x, *rest)


STEPS = {f.__name__: f for f in (transpose, view, unary, scalar, binary, product, norm, shape_only)}


@st.composite
def graphs(draw: Any) -> Graph:
    builder = Builder(draw)
    for _ in range(draw(st.integers(1, 14))):
        builder.step()
    return builder.graph()


@settings(max_examples=120, deadline=None, derandomize=True)
@given(graphs())
def test_random_graphs_keep_their_values(graph: Graph) -> None:
    torch.manual_seed(0)
    inputs = draw_inputs(graph)
    after, records = run_passes(graph, exact_pipeline(), NumericCheck([inputs]))
    verify(after)
    assert_same_numbers(graph, after, inputs)
    assert len(records) == len(exact_pipeline())
    again, _ = run_passes(after, exact_pipeline())
    assert len(again.nodes()) <= len(after.nodes())


# ------------------------------------------------------------------------------------------------ real blocks
class Attention(nn.Module):
    """A pre-norm block as transformers writes it: packed projections, a mask, dropout, a GELU network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = (1.0 - torch.ones(x.shape[1], x.shape[1]).tril()) * -10000.0
        y = self.norm1(x)
        q, k, v = self.split(self.q(y)), self.split(self.k(y)), self.split(self.v(y))
        scores = torch.matmul(q, k.transpose(-1, -2)) / 2.0 + mask
        mixed = torch.matmul(self.dropout(torch.softmax(scores, -1)), v)
        x = x + self.dropout(self.o(mixed.transpose(1, 2).contiguous().view(*x.shape)))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def test_a_transformer_block() -> None:
    model, x = Attention(8, 2), torch.randn(2, 5, 8)
    graph = module_graph(model, (x,))
    after, _ = run_passes(graph, exact_pipeline(), NumericCheck([[x.double()]]))
    assert_agrees(model, (x,), after)
    assert dict(after.ops()) == {
        "aten.layer_norm": 2,
        "aten.linear": 6,
        "aten.reshape": 4,
        "aten.permute": 4,
        "aten.matmul": 2,
        "aten.mul.Tensor": 1,
        "aten.add.Tensor": 3,
        "aten.softmax.int": 1,
        "aten.gelu": 1,
    }


class Mobile(nn.Module):
    """An inverted residual block between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, **options: Any) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, bias=False, **options), nn.BatchNorm2d(outputs)]

        self.stem = nn.Sequential(*layer(1, 8, kernel_size=3, stride=2, padding=1), nn.ReLU6())
        expand = [*layer(8, 16, kernel_size=1), nn.ReLU6()]
        depthwise = [*layer(16, 16, kernel_size=3, padding=1, groups=16), nn.ReLU6()]
        self.block = nn.Sequential(*expand, *depthwise, *layer(16, 8, kernel_size=1))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 3), nn.BatchNorm1d(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.head(y + self.block(y))


def test_a_mobile_network_keeps_no_batch_norm() -> None:
    model, x = Mobile(), torch.randn(2, 1, 8, 8)
    model(x)
    graph = module_graph(model, (x,))
    after, _ = run_passes(graph, exact_pipeline(), NumericCheck([[x.double()]]))
    assert_agrees(model, (x,), after)
    ops = after.ops()
    assert (ops["aten.conv2d"], ops["aten.linear"], ops["aten.batch_norm"]) == (4, 1, 0)
    assert after.fingerprint() == run_passes(graph, exact_pipeline())[0].fingerprint()
