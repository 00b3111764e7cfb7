"""Operators that the target cannot run: refused before any work, with the user's line; what is advised works."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import instar
from instar.ir.errors import LoweringError


class Inverse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(x)
        y = torch.linalg.inv(y @ y.mT)
        return torch.diff(y, dim=-1)


def unread() -> Iterator[tuple[Tensor, ...]]:
    raise AssertionError("data was read before the model was refused")
    yield ()


def test_the_line_is_named_before_any_work_and_the_other_target_works() -> None:
    model, x = Inverse().eval(), torch.randn(2, 32, 32)
    with pytest.raises(LoweringError) as raised:
        instar.compile(model, (x,), target="onnx", budget={"size": "40%"}, calibration=unread())
    lines = str(raised.value).splitlines()
    assert lines[0] == "onnx: expected operators that it can run; found"
    assert re.fullmatch(r"  aten\.linalg_inv\S* in .*test_untranslated\.py:\d+.*", lines[1])
    assert lines[2:] == ["  compute them outside the model, spell them with other operators, or use target='torch'"]
    (named,) = instar.inspect(model, (x,)).unsupported
    assert named.op.startswith("aten.linalg_inv")
    compiled = instar.compile(model, (x,), target="torch", budget={"size": "40%"})
    assert torch.isfinite(compiled(x)).all()


class Strided(nn.Module):
    """A write through strides, whose sizes are dynamic, or through an index."""

    def __init__(self, *, strides: bool) -> None:
        super().__init__()
        self.strides = strides

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        (y.as_strided((x.shape[0], 3), (27, 9)) if self.strides else y[:, :, 0]).zero_()
        return y


def test_operators_with_dynamic_sizes_among_their_arguments_are_refused_in_the_same_words() -> None:
    x, shapes = torch.randn(4, 3, 9), ({0: Dim("batch")},)
    model = Strided(strides=True).eval()
    with pytest.raises(LoweringError, match=r"aten\.as_strided_scatter in .*test_untranslated\.py:\d+"):
        instar.compile(model, (x,), target="onnx", dynamic_shapes=shapes)
    (named,) = instar.inspect(model, (x,), dynamic_shapes=shapes).unsupported
    assert named.op == "aten.as_strided_scatter"
    other, longer = Strided(strides=False).eval(), torch.randn(7, 3, 9)
    for again, target in ((other, "onnx"), (model, "torch")):
        compiled = instar.compile(again, (x,), target=target, dynamic_shapes=shapes)
        torch.testing.assert_close(compiled(longer), other(longer))


class Product(nn.Module):
    """A product of integers: the runtime has a kernel for those of 32 bits."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.project, self.dtype = nn.Linear(32, 32), dtype

    def forward(self, x: Tensor) -> Tensor:
        codes = (self.project(x) * 9).to(self.dtype)
        return (codes @ codes.mT).float()


def test_dtypes_without_kernels_are_named_before_any_work_and_another_dtype_works() -> None:
    x = torch.randn(4, 32)
    small, wide = Product(torch.int8).eval(), Product(torch.int32).eval()
    wide.load_state_dict(small.state_dict())
    with pytest.raises(LoweringError) as raised:
        instar.compile(small, (x,), target="onnx", budget={"size": "90%"}, calibration=unread())
    lines = str(raised.value).splitlines()
    assert re.fullmatch(r"  aten\.matmul on int8 in .*test_untranslated\.py:\d+.*", lines[1])
    assert lines[2].startswith("  compute them in another dtype (x.int() or x.float() before)")
    assert [named.op for named in instar.inspect(small, (x,)).unsupported] == ["aten.matmul on int8"]
    compiled = instar.compile(wide, (x,), target="onnx")
    torch.testing.assert_close(compiled(x), wide(x))


class Masks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).masked_fill((x > 0).triu(), 0.0)


def test_what_an_older_runtime_lacks_is_named_before_any_work_and_a_newer_one_works() -> None:
    model, x = Masks().eval(), torch.randn(32, 32)
    with pytest.raises(LoweringError) as raised:
        instar.compile(
            model, (x,), target="onnx", target_options={"runtime": "1.18"}, budget={"size": "90%"}, calibration=unread()
        )
    lines = str(raised.value).splitlines()
    assert re.fullmatch(r"  aten\.triu in .*test_untranslated\.py:\d+.*", lines[1])
    assert "raise target_options.runtime (1.18)" in lines[2]
    (named,) = instar.inspect(model, (x,), target="onnx", target_options={"runtime": "1.18"}).unsupported
    assert named.op == "aten.triu"
    compiled = instar.compile(model, (x,), target="onnx", target_options={"runtime": "1.19"})
    torch.testing.assert_close(compiled(x), model(x))
