"""Networks as problems, their schedules executed on real values: bit for bit the reference, in bytes and cycles too."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import instar
from instar.ir.errors import LoweringError, ScheduleError
from instar.ir.plan import Plan
from instar.schedulers.scratchpad.executor import execute
from instar.schedulers.scratchpad.simulator import simulate
from instar.targets.scratchpad.artifact import ScratchpadArtifact
from instar.targets.scratchpad.describe import describe
from instar.targets.scratchpad.execution import GraphKernels
from instar.targets.scratchpad.options import ScratchpadOptions
from instar.targets.scratchpad.target import ScratchpadTarget

from .scratchpad_case import compiled

ETHOS, GAP9 = "ethos-u65-mid", "gap9-l1{dma.setup_cycles=30}"


class Residual(nn.Module):
    """Convolutions with stride, a residual sum, a function that is looked up, a depthwise one, a pool, a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c3, self.dw = nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Conv2d(24, 24, 5, padding=2, groups=24)
        self.f = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(x).relu()
        b = (self.c2(a) + a).relu()
        d = self.dw(F.hardswish(self.c3(b))).relu()
        return self.f(F.adaptive_avg_pool2d(d, 1).flatten(1))


class Unet(nn.Module):
    """Pooling, dilation, resize, a concatenation with a skip, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.c, self.d = nn.Conv2d(12, 12, 3, padding=2, dilation=2), nn.Conv2d(20, 8, 3, padding=1)
        self.o, self.p = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = F.relu(self.a(x))
        c = F.relu(self.c(F.relu(self.b(F.max_pool2d(a, 2)))))
        d = F.relu(self.d(torch.cat([F.interpolate(c, scale_factor=2, mode="nearest"), a], 1)))
        return self.o(d), torch.sigmoid(self.p(d))


class Uneven(nn.Module):
    """Windows, strides and padding that differ along the sides, uneven sizes, a batch, ceil_mode, three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(1, 0))
        self.b, self.c = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 2, stride=3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = F.relu6(self.a(x))
        mean = F.avg_pool2d(a, 3, stride=2, padding=1, count_include_pad=False)
        b = self.b(a)
        top = F.max_pool2d(b, 3, stride=1, padding=1)
        return self.c(mean), F.avg_pool2d(top, 3, stride=2, padding=1, ceil_mode=True), b


class Encoder(nn.Module):
    """Attention with heads, softmax and norms as single row-wise operators, a function that is looked up."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.n, self.m = nn.LayerNorm(width), nn.LayerNorm(width)
        self.f, self.g = nn.Linear(width, 64), nn.Linear(64, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            part(x).view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        x = self.n(x + self.o(mixed.transpose(1, 2).reshape(batch, tokens, width)))
        return self.m(x + self.g(F.gelu(self.f(x))))


class Sequence(nn.Module):
    """Convolutions of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 6, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.silu(self.a(x)))


SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    Residual: (1, 3, 16, 16), Unet: (1, 3, 16, 12), Uneven: (2, 4, 17, 9), Encoder: (1, 12, 32), Sequence: (1, 4, 40),
}  # fmt: skip


@functools.cache
def first(kind: type[nn.Module]) -> tuple[ScratchpadArtifact, tuple[Tensor]]:
    """With much memory."""
    torch.manual_seed(0)
    inputs = (torch.randn(SHAPES[kind]),)
    return compiled(kind(), inputs, ScratchpadOptions(machine=ETHOS, scratchpad_bytes=100_000)), inputs


def made(kind: type[nn.Module], options: ScratchpadOptions) -> tuple[ScratchpadArtifact, tuple[Tensor]]:
    """The same integers under other options."""
    known, inputs = first(kind)
    graph = known.described.graph
    return ScratchpadTarget(options).build(graph, Plan((), "", "scratchpad"), [inputs]), inputs


@pytest.mark.parametrize(("kind", "machine"), [*((kind, ETHOS) for kind in SHAPES), (Unet, GAP9), (Sequence, GAP9)])
def test_commands_give_the_bits_of_the_reference_with_much_memory_and_with_the_least(
    kind: type[nn.Module], machine: str
) -> None:
    artifact, inputs = made(kind, ScratchpadOptions(machine=machine, scratchpad_bytes=100_000))
    tight = made(kind, ScratchpadOptions(machine=machine, scratchpad_bytes=artifact.least_bytes))[0]
    for found in (artifact, tight):
        found.check(found.described.graph, [inputs])
        assert all(result.error == 0.0 for result in found.checks), found.checks
    assert artifact.planned.schedule.traffic.total_bytes == 0
    assert tight.planned.schedule.budget_bytes == artifact.least_bytes


def test_too_little_memory_names_the_operator_and_what_would_do() -> None:
    least = first(Sequence)[0].least_bytes
    with pytest.raises(LoweringError, match=f"operator 'a' needs more; the smallest budget is {least} bytes"):
        made(Sequence, ScratchpadOptions(scratchpad_bytes=least - 1))


def test_the_simulator_of_ranges_agrees_with_the_executor_of_commands() -> None:
    artifact, inputs = made(Unet, ScratchpadOptions(scratchpad_bytes=6000))
    program = artifact.listing.program
    by_rows = simulate(program, kernels=GraphKernels(artifact.described, inputs))
    by_commands = execute(artifact.listing, GraphKernels(artifact.described, inputs))
    assert by_rows.traffic == by_commands.traffic == program.schedule.traffic
    assert by_rows.traffic.total_bytes > 0
    for tensor, values in by_rows.outputs.items():
        assert (values == by_commands.outputs[tensor]).all()


def test_a_load_that_begins_too_early_is_found() -> None:
    artifact, inputs = made(Residual, ScratchpadOptions(scratchpad_bytes=5000))
    listing, machine = artifact.listing, artifact.settings.machine
    broken = replace(listing, commands=tuple(replace(command, needs=()) for command in listing.commands))
    right = execute(listing, GraphKernels(artifact.described, inputs), machine, artifact.described.dtypes)
    assert artifact.planned.prediction is not None
    assert right.cycles == artifact.planned.prediction.timing.total_cycles
    with pytest.raises(ScheduleError, match="expected its operands to stay while it runs, found other bytes"):
        execute(broken, GraphKernels(artifact.described, inputs), machine, artifact.described.dtypes)


def test_a_problem_has_real_bytes_and_the_plans_bits() -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(SHAPES[Residual]),)
    options = ScratchpadOptions(scratchpad_bytes=100_000)
    wide, narrow = (
        compiled(Residual(), inputs, options, lambda layer, bits=bits: f"int{bits if layer == 'c2' else 8}:channel")
        for bits in (8, 4)
    )
    sizes = [{o.name: o.weight_bytes for o in a.described.problem.operators} for a in (wide, narrow)]
    assert sizes[0]["c2"] == 16 * 144 + 2 * 16 + 4 * 16  # codes, a float16 scale a row, the bias
    assert sizes[1]["c2"] == 16 * 72 + 2 * 16 + 4 * 16  # two codes a byte
    assert sizes[0]["c3"] == 24 * 144 + 6 * 24 + 256  # with a table that looks the function up
    tensors = {t.name: t for t in wide.described.problem.tensors}
    assert tensors["x"].size_bytes == 3 * 256
    assert tensors["x"].role == "input"
    assert tensors["c3"].shape == (1, 8, 8, 24)
    assert tensors["c3"].size_bytes == 8 * 8 * 32
    assert {o.kind for o in wide.described.problem.operators} >= {"conv_2d", "depthwise_conv_2d", "add"}
    assert wide.nbytes - narrow.nbytes == 16 * 72


def test_softmax_and_norms_are_row_wise_operators() -> None:
    artifact, _ = made(Encoder, ScratchpadOptions(scratchpad_bytes=100_000))
    kinds = [o.kind for o in artifact.described.problem.operators]
    assert kinds.count("softmax") == 1
    assert kinds.count("layer_norm") == 2
    assert kinds.count("batch_matmul") == 2
    assert kinds.count("fully_connected") == 6
    assert kinds.count("whole: aten.permute") == 4
    assert len(kinds) == 17
    assert not artifact.described.problem.tensors[0].item_bytes > 1


def test_what_cannot_be_described_is_refused_with_the_users_line() -> None:
    class Grows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    dims = {"x": {0: torch.export.Dim("batch", min=2, max=8)}}
    graph = instar.optimize(Grows(), (torch.randn(3, 4),), dynamic_shapes=dims)
    with pytest.raises(LoweringError, match=r"expected fixed sizes, found .*; compile without dynamic_shapes"):
        describe(graph)

    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            top, places = torch.topk(x, 2)
            return top.relu(), places

    graph = instar.optimize(Both(), (torch.randn(3, 4),))
    with pytest.raises(LoweringError, match=r"one result, found aten.topk .*test_scratchpad_program.py:\d+"):
        describe(graph)

    class Same(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x.relu()

    graph = instar.optimize(Same(), (torch.randn(3, 4),))
    with pytest.raises(LoweringError, match="expected outputs that are computed, found the input"):
        describe(graph)
