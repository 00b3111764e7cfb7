"""Small modules that each hold one difficulty of capture, with their example inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F
from torch.utils import _pytree as pytree

BATCH, LENGTH = Dim("batch", min=1, max=64), Dim("length", min=2, max=32)
ROWS = ({0: BATCH},)


def same(found: Any, expected: Any) -> None:
    """Check that two outputs have one structure and one value."""
    found_leaves, found_spec = pytree.tree_flatten(found)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    assert found_spec == expected_spec
    for a, b in zip(found_leaves, expected_leaves, strict=True):
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, equal_nan=True)
        else:
            assert a == b


@dataclass(frozen=True)
class Example:
    """A module, a call, and other calls that it must also take."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    dynamic_shapes: Any = None
    others: Sequence[tuple[Any, ...]] = ()


class InPlaceOnViews(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1:3] += 1
        y[0] = 0
        y.view(-1)[2] = 5
        return y


class Nested(nn.Module):
    def forward(self, named: dict[str, Tensor], pair: list[Tensor]) -> dict[str, Any]:
        return {"sum": named["a"] + pair[0], "rest": (pair[1], [named["b"]], None, 3, "text", True)}


class Keywords(nn.Module):
    def forward(self, x: Tensor, *, mask: Tensor | None = None, scale: float = 2.0, flag: bool = True) -> Tensor:
        y = x * scale + int(flag)
        return y if mask is None else y * mask


class Variadic(nn.Module):
    def forward(self, *xs: Tensor, **named: Tensor) -> Tensor:
        return xs[0] + xs[1] * named["k"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


class TiedLate(nn.Module):
    """The shared weight is registered first, but used after the module that holds its other name."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(10, 4)
        self.encoder = nn.ModuleDict({"first": nn.Linear(4, 4), "embed": nn.Embedding(10, 4)})
        self.encoder["embed"].weight = self.shared.weight

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.encoder["first"](x) + self.encoder["embed"](ids)


class SharedStorage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(8, 4)
        self.top, self.bottom = nn.Parameter(whole[:4]), nn.Parameter(whole[4:])
        self.turned = nn.Parameter(whole.t())
        self.spread: Tensor
        self.hidden: Tensor
        self.register_buffer("spread", torch.randn(1, 4).expand(3, 4))
        self.register_buffer("hidden", torch.randn(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.top + x @ self.bottom + (x @ self.turned)[:, :4] + self.spread + self.hidden


class Lifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.tensor(2)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.linear(x))


class MixedPrecision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = x @ x.t()
        with torch.no_grad():
            z = x * 2
        with torch.enable_grad():
            return y.float() + z[:, :1]


class VmapMask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[0])
        mask = torch.vmap(lambda i: torch.vmap(lambda j: i >= j)(rows))(rows)
        return torch.where(mask, x @ x.t(), -1e9)


class SizeArithmetic(nn.Module):
    def forward(self, x: Tensor) -> Any:
        n = x.shape[0]
        scaled = x / n**0.5 + torch.sym_sqrt(n) + n / 3 + n // 2 + n % 3 + n * 2 - 1 + n**2
        return scaled + torch.sym_max(n, 3) + torch.sym_min(n, 5), n, x.shape[1]


class Shapes(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        batch, length = x.shape[:2]
        padded = F.pad(x, (0, 0, 1, 2))
        return x.view(batch * length, 4), x.new_zeros(batch, 2 * length), torch.arange(length + 1), padded, x[:, :1]


class Derived(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.view(-1, 2, 4).sum(1) + y


class Difference(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - 2 * y


class Dtypes(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        small = (x.to(torch.int8), x > 0, x.half(), x.double(), x.bfloat16(), x.to(torch.float8_e4m3fn).float())
        return (*small, torch.complex(x, x).abs(), torch.zeros(2, dtype=torch.int32), x.long() & 3)


class SpecialNumbers(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        masked = x.masked_fill(x > 0, float("-inf")).clamp(min=-3e38) + 1e-300 + (-0.0)
        return masked, torch.full_like(x, float("nan")), torch.full((2,), float("inf"))


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        return x, self.weight, torch.ones(3), 3, None


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> tuple[()]:
        del x
        return ()


class OddNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        names = ("a b", "1", "x-y", "p, q]) : (")
        self.parts = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
        self.several = nn.ParameterList([nn.Parameter(torch.ones(4))])

    def forward(self, lambda_: Tensor) -> Tensor:
        for part in self.parts.values():
            lambda_ = part(lambda_)
        return lambda_ + self.several[0]


X = torch.linspace(-1, 1, 12).reshape(3, 4)
WIDE = torch.linspace(-1, 1, 20).reshape(5, 4)
IMAGE = torch.randn(2, 6, 4)

EXAMPLES: dict[str, Example] = {
    "in place on views": Example(InPlaceOnViews(), (X,), {}, ROWS, [(WIDE,)]),
    "nested": Example(Nested(), ({"a": X, "b": X + 1}, [X, X * 2]), {}, None, [({"a": X, "b": X}, [X * 3, X])]),
    "keywords": Example(Keywords(), (X,), {"scale": 3.0, "flag": False}),
    "keyword tensors in another order": Example(Keywords(), (X,), {"flag": True, "mask": X}),
    "None": Example(Keywords(), (X,), {"mask": None}),
    "variadic": Example(Variadic(), (X, X + 1), {"k": X}),
    "the same tensor twice": Example(Difference(), (X, X), {}, ({0: BATCH}, {0: BATCH}), [(WIDE, WIDE * 2)]),
    "tied": Example(Tied(), (torch.tensor([[1, 2]]),)),
    "tied late": Example(TiedLate(), (X, torch.tensor([1, 2, 3]))),
    "shared storage": Example(SharedStorage(), (X,)),
    "lifted": Example(Lifted(), (X,), {}, ROWS, [(WIDE,)]),
    "twice": Example(Twice(), (X,)),
    "mixed precision": Example(MixedPrecision(), (X,)),
    "vmap mask": Example(VmapMask(), (X,), {}, ({0: LENGTH},), [(WIDE,)]),
    "size arithmetic": Example(SizeArithmetic(), (X,), {}, ROWS, [(WIDE,), (X[:1],)]),
    "shapes": Example(Shapes(), (IMAGE,), {}, ({0: BATCH, 1: LENGTH},), [(torch.randn(5, 3, 4),)]),
    "derived": Example(
        Derived(), (torch.randn(6, 4), torch.randn(3, 4)), {}, ({0: 2 * BATCH}, {0: BATCH}), [(WIDE[:4], X[:2])]
    ),
    "dtypes": Example(Dtypes(), (X,)),
    "special numbers": Example(SpecialNumbers(), (X,)),
    "constants": Example(Constants(), (X,), {}, ROWS, [(WIDE,)]),
    "no output": Example(Nothing(), (X,)),
    "odd names": Example(OddNames(), (X,)),
    "zero rows": Example(Twice(), (torch.zeros(0, 4),)),
    "symbolic_trace": Example(
        torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()), (X,), {}, ROWS, [(WIDE,)]
    ),
    "lstm": Example(nn.LSTM(4, 5, 2, dropout=0.5, bidirectional=True), (torch.randn(2, 3, 4),)),
    "transformer": Example(
        nn.TransformerEncoderLayer(8, 2, batch_first=True),
        (torch.randn(2, 3, 8),),
        {},
        ({0: BATCH, 1: LENGTH},),
        [(torch.randn(5, 7, 8),)],
    ),
    "weight norm": Example(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), (X,)),
}
for _example in EXAMPLES.values():
    _example.model.eval()
