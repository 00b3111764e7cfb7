"""Batch norm folding: every layer kind in both directions, what may stand between, and every reason to refuse."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from instar.ir.graph import Graph
from instar.ir.parse import parse_graph
from instar.passes.base import PassResult
from instar.passes.canonicalize import Canonicalize
from instar.passes.fold_batch_norm import FoldBatchNorm

from .rewrite_case import assert_agrees, check_rewrite, constant, module_graph

BEFORE, BEHIND = "into-the-layer-before", "into-the-layer-behind"


def trained(model: nn.Module) -> nn.Module:
    """A model whose batch norms have seen data: nothing is 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    nn.init.normal_(tensor.data)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def canonical(model: nn.Module, x: torch.Tensor) -> Graph:
    return Canonicalize()(module_graph(trained(model), (x,))).graph


def fold(model: nn.Module, x: torch.Tensor, fires: dict[str, int], refused: list[str] | None = None) -> PassResult:
    """Fold, and compare with the module itself."""
    graph = canonical(model, x)
    result = check_rewrite(graph, FoldBatchNorm(), fires=fires, refused=refused, inputs=[x.double()])
    assert_agrees(model, (x,), result.graph)
    return result


def image(channels: int = 4) -> torch.Tensor:
    return torch.randn(2, channels, 6, 6)


@pytest.mark.parametrize(
    ("layer", "norm", "x"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), torch.randn(2, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), image()),
        (nn.Conv2d(4, 8, 3, groups=2, stride=2), nn.BatchNorm2d(8, affine=False), image()),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=2), nn.BatchNorm2d(4), image()),
        (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), torch.randn(2, 2, 4, 4, 4)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6), torch.randn(2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, padding=1, bias=False), nn.BatchNorm2d(6), image()),
        (nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3), torch.randn(2, 2, 3, 3, 3)),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), torch.randn(3, 4)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), torch.randn(3, 4)),
    ],
)
def test_into_the_layer_before(layer: nn.Module, norm: nn.Module, x: torch.Tensor) -> None:
    result = fold(nn.Sequential(OrderedDict(layer=layer, norm=norm)), x, {BEFORE: 1}, [])
    assert sum(result.graph.ops().values()) == 1
    assert {c.handle.name for c in result.graph.constants()} == {"layer.weight", "layer.bias"}
    (node,) = result.graph.output_nodes
    assert node.origin.module == "layer"


@pytest.mark.parametrize(
    ("norm", "layer", "x"),
    [
        (nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3), torch.randn(2, 4, 9)),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False), image()),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1, stride=2), image()),
        (nn.BatchNorm3d(2), nn.Conv3d(2, 4, 2), torch.randn(2, 2, 4, 4, 4)),
        (nn.BatchNorm1d(4), nn.Linear(4, 6), torch.randn(3, 4)),
        (nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False), torch.randn(3, 4)),
    ],
)
def test_into_the_layer_behind(norm: nn.Module, layer: nn.Module, x: torch.Tensor) -> None:
    result = fold(nn.Sequential(norm, layer), x, {BEHIND: 1})
    assert sum(result.graph.ops().values()) == 1


def without_shift(norm: nn.Module) -> nn.Module:
    """A batch norm that only scales."""
    for name in ("running_mean", "bias"):
        getattr(norm, name).data.zero_()
    return norm


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, padding=1), nn.ConvTranspose2d(4, 6, 3, groups=2)])
def test_zero_padding_does_not_matter_without_a_shift(layer: nn.Module) -> None:
    norm, x = nn.BatchNorm2d(4), image()
    model = nn.Sequential(norm, layer)
    trained(model)
    without_shift(norm)
    graph = Canonicalize()(module_graph(model, (x,))).graph
    result = check_rewrite(graph, FoldBatchNorm(), fires={BEHIND: 1}, inputs=[x.double()])
    assert_agrees(model, (x,), result.graph)


class View(nn.Module):
    """Reshapes to a shape without the batch size."""

    def __init__(self, *shape: int, batch: int = -1) -> None:
        super().__init__()
        self.shape = (batch, *shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.shape)


class Permute(nn.Module):
    """Permutes axes."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.dims)


@pytest.mark.parametrize(
    ("between", "norm", "x"),
    [
        ([nn.Linear(4, 6), View(6)], nn.BatchNorm1d(6), torch.randn(2, 5, 4)),
        ([nn.Linear(4, 6), Permute(0, 2, 1), nn.Dropout()], nn.BatchNorm1d(6), torch.randn(2, 5, 4)),
        ([nn.Linear(4, 6), View(6, 1, 1)], nn.BatchNorm2d(6), torch.randn(3, 4)),
        ([nn.Linear(4, 6 * 3 * 2), View(6, 3, 2)], nn.BatchNorm2d(6), torch.randn(3, 4)),
        ([nn.Conv2d(4, 6, 1), Permute(0, 2, 3, 1), View(6)], nn.BatchNorm1d(6), image()),
        ([nn.Conv2d(4, 6, 3), nn.ReflectionPad2d(1)], nn.BatchNorm2d(6), image()),
        ([nn.Conv2d(4, 6, 3), nn.ReplicationPad2d(1)], nn.BatchNorm2d(6), image()),
        ([nn.Conv2d(4, 6, 3), nn.AvgPool2d(2)], nn.BatchNorm2d(6), image()),
        ([nn.Conv2d(4, 6, 3), nn.AvgPool2d(2, padding=1, count_include_pad=False)], nn.BatchNorm2d(6), image()),
        ([nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(2)], nn.BatchNorm2d(6), image()),
        ([nn.Conv2d(4, 6, 3), nn.Upsample(scale_factor=2, mode="bilinear")], nn.BatchNorm2d(6), image()),
        ([nn.Conv2d(4, 6, 3), nn.Upsample(scale_factor=2)], nn.BatchNorm2d(6), image()),
    ],
)
def test_across_what_stands_between(between: list[nn.Module], norm: nn.Module, x: torch.Tensor) -> None:
    result = fold(nn.Sequential(*between, norm), x, {BEFORE: 1}, [])
    assert result.graph.ops()["aten.batch_norm"] == 0


@pytest.mark.parametrize(
    ("modules", "x"),
    [
        ([nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)], image()),
        ([nn.BatchNorm2d(4), nn.ReflectionPad2d(1), nn.Conv2d(4, 6, 3)], image()),
        ([nn.BatchNorm2d(4), Permute(0, 2, 3, 1), nn.Linear(4, 5)], image()),
        ([nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)], image()),
    ],
)
def test_across_what_stands_between_into_the_layer_behind(modules: list[nn.Module], x: torch.Tensor) -> None:
    result = fold(nn.Sequential(*modules), x, {BEHIND: 1})
    assert result.graph.ops()["aten.batch_norm"] == 0


def test_max_pooling_needs_a_positive_scale() -> None:
    norm, x = nn.BatchNorm2d(6), image()
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.MaxPool2d(2, padding=1), norm)
    reason = "aten.max_pool2d does not commute with a scale that is not positive"
    fold(model, x, {}, [reason])
    norm.weight.data.abs_()
    graph = Canonicalize()(module_graph(model, (x,))).graph
    check_rewrite(graph, FoldBatchNorm(), fires={BEFORE: 1}, inputs=[x.double()])


class Block(nn.Module):
    """A basic residual block with a projection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


def test_residual_blocks_keep_no_batch_norm() -> None:
    result = fold(nn.Sequential(Block(4, 6), Block(6, 8)), image(), {BEFORE: 6}, [])
    assert dict(result.graph.ops()) == {"aten.conv2d": 6, "aten.relu": 4, "aten.add.Tensor": 2}
    assert "0.conv1.weight" in {c.handle.name for c in result.graph.constants()}


class Fork(nn.Module):
    """Something beside the batch norm uses the convolution."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.conv, self.between, self.norm = nn.Conv2d(4, 4, 1), between, nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.between(self.conv(x))
        return self.norm(y) + y


class Shared(nn.Module):
    """One convolution, two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.conv(x)) + self.second(self.conv(x * 2))


class ForkBehind(nn.Module):
    """Two layers use one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return self.a(y) + self.b(y)


NOTHING_BEFORE = "no convolution or linear layer comes before it"


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        (Fork(nn.Identity()), ["the result of aten.conv2d has 2 uses"]),
        (Fork(nn.ReflectionPad2d(1)), ["the result of aten.reflection_pad2d has 2 uses"]),
        (Shared(), ["@conv.weight has 2 uses; folding would store it twice"] * 2),
        (ForkBehind(), [NOTHING_BEFORE, *["the result of aten.batch_norm has 2 uses"] * 2]),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), ["aten.relu stands between them"]),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ZeroPad2d(1), nn.BatchNorm2d(4)), ["constant_pad_nd stands between"]),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(4)),
            ["aten.avg_pool2d counts its zero padding"],
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.BatchNorm1d(144)),
            ["a reshape from [2, 144] to [2, 4, 6, 6] mixes the channels"],
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), Permute(0, 2, 1, 3), nn.BatchNorm2d(6)),
            ["batch norm works along axis 2, the channels are axis 1"],
        ),
        (
            nn.Sequential(
                nn.Conv2d(4, 4, 1), Permute(0, 2, 1, 3), nn.AvgPool2d(2), Permute(0, 3, 1, 2), nn.BatchNorm2d(3)
            ),
            ["aten.avg_pool2d works along the axis of the channels"],
        ),
        (
            nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)),
            [NOTHING_BEFORE, "the convolution pads with zeros ((1, 1)), which batch norm would have shifted"],
        ),
        (
            nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 3)),
            [NOTHING_BEFORE, "a transposed convolution meets zeros at its borders"],
        ),
    ],
)
def test_refusals(model: nn.Module, reasons: list[str]) -> None:
    fold(model, image(), {}, reasons)


HEAD = """input %x: f64[2, 3]
const @w: f64[4, 3]
const @m: f64[4]
const @v: f64[4]
"""
LINEAR = "%0 = aten.linear(%x, @w) : f64[2, 4]\n"


def refusal(text: str, constants: dict[str, torch.Tensor] | None = None) -> list[str]:
    graph = parse_graph(text, constants)
    result = FoldBatchNorm()(graph)
    assert result.graph is graph
    return [r.reason for r in result.refused]


def test_refusals_that_capture_does_not_let_through() -> None:
    norm = "aten.batch_norm(%0, None, None, {}, {}, {}, 0.1, 1e-05, False) : f64[2, 4]\n"
    training = HEAD + LINEAR + "%1 = " + norm.format("@m", "@v", True) + "return %1"
    assert refusal(training) == ["the batch norm is in training mode"]
    computed = HEAD + LINEAR + "%1 = aten.square(@v) : f64[4]\n%2 = " + norm.format("@m", "%1", False) + "return %2"
    assert refusal(computed) == ["aten.square is computed, not a constant"]
    weight = (
        HEAD
        + "%0 = aten.square(@w) : f64[4, 3]\n%1 = aten.linear(%x, %0) : f64[2, 4]\n%2 = "
        + norm.format("@m", "@v", False).replace("%0", "%1")
        + "return %2"
    )
    ones = {"w": torch.ones(4, 3).double(), "m": torch.ones(4).double(), "v": torch.ones(4).double()}
    assert refusal(weight, ones) == ["the weight or bias of aten.linear is computed, not a constant"]


def test_statistics_that_are_not_finite_are_refused() -> None:
    text = HEAD + LINEAR + "%1 = aten.batch_norm(%0, None, None, @m, @v, False, 0.1, 0.0, False) : f64[2, 4]\nreturn %1"
    zeros = {"w": torch.ones(4, 3).double(), "m": torch.ones(4).double(), "v": torch.zeros(4).double()}
    assert refusal(text, zeros) == ["its statistics give a scale or shift that is not finite"]


def test_dynamic_sizes() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return self.norm(y.reshape(-1, 6)).reshape(y.shape)

    x = torch.randn(2, 5, 4)
    dims = ({0: torch.export.Dim("batch", min=2, max=9), 1: torch.export.Dim("seq", min=2, max=9)},)
    model = trained(Tokens())
    graph = Canonicalize()(module_graph(model, (x,), dynamic_shapes=dims)).graph
    result = check_rewrite(graph, FoldBatchNorm(), fires={BEFORE: 1}, inputs=[torch.randn(3, 7, 4).double()])
    assert_agrees(model, (torch.randn(4, 2, 4),), result.graph)


def test_a_merge_with_a_dynamic_size_is_refused() -> None:
    graph = parse_graph(
        """dim n in [2, 9]
input %x: f64[2, 4, n]
input %w: f64[3, 4*n]
const @m: f64[4]
const @v: f64[4]
%0 = aten.batch_norm(%x, None, None, @m, @v, False, 0.1, 1e-05, False) : f64[2, 4, n]
%1 = aten.reshape(%0, [2, 4*n]) : f64[2, 4*n]
%2 = aten.linear(%1, %w) : f64[2, 3]
return %2
""",
        {"m": torch.zeros(4).double(), "v": torch.ones(4).double()},
    )
    reasons = [r.reason for r in FoldBatchNorm()(graph).refused]
    assert reasons == [NOTHING_BEFORE, "a reshape merges the channels with a dynamic size in [4, n]"]


def test_low_precision_weights_are_computed_in_float64_and_rounded_once() -> None:
    torch.manual_seed(3)
    text = """input %x: bf16[2, 3]
    const @w: bf16[4, 3]
    const @m: bf16[4]
    const @v: bf16[4]
    %0 = aten.linear(%x, @w) : bf16[2, 4]
    %1 = aten.batch_norm(%0, None, None, @m, @v, False, 0.1, 1e-05, False) : bf16[2, 4]
    return %1"""
    lines = "\n".join(line.strip() for line in text.splitlines())
    given = {n: torch.rand(s).bfloat16() + 0.5 for n, s in (("w", (4, 3)), ("m", (4,)), ("v", (4,)))}
    result = FoldBatchNorm()(parse_graph(lines, given))
    scale = (given["v"].double() + 1e-5).rsqrt()
    assert torch.equal(constant(result.graph, "w"), (given["w"].double() * scale[:, None]).bfloat16())
    assert torch.equal(constant(result.graph, "w.bias"), (-given["m"].double() * scale).bfloat16())
