"""Formats and encoders that do not do what they promise: the error names layer, format and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import ConfigError, ContractError
from instar.passes.encoders import Encoder
from instar.passes.formats import GRID, Format, TensorSpec
from instar.passes.formats.families import MOST_COMBINATIONS, expand


def whole(problem: Any) -> Mapping[str, Tensor]:
    return {"v": problem.matrix.half()}


@dataclass(frozen=True)
class Halves(Format):
    """``halves``: float16, or whatever a test makes of it."""

    storing: Callable[[Any], Any] = field(default=whole, compare=False)
    giving: Callable[[Any], Any] = field(default=lambda v: v, compare=False)
    text: str = "halves"

    @property
    def spelling(self) -> str:
        return self.text

    def tensors(self, shape: Any) -> Mapping[str, TensorSpec]:
        return {"v": TensorSpec((shape[0], shape[1]), torch.float16)}

    def weight(self, ops: Any, stored: Any, shape: Any) -> Any:
        return self.giving(ops("aten.to.dtype", stored["v"], torch.float32))

    def store(self, problem: Any, encoder: Any) -> Any:
        return self.storing(problem)


@dataclass(frozen=True)
class Applied(Halves):
    """The same, computed as a test says, with tensors of any width."""

    applying: Callable[[Any, Any], Any] = field(default=lambda ops, y: y, compare=False)
    width: int | None = None

    def tensors(self, shape: Any) -> Mapping[str, TensorSpec]:
        return {"v": TensorSpec((shape[0], shape[1] if self.width is None else self.width), torch.float16)}

    def apply(self, ops: Any, x: Any, stored: Any, use: Any) -> Any:
        return self.applying(ops, super().apply(ops, x, stored, use))


@dataclass(frozen=True)
class Sevens(Encoder):
    """``sevens``: chooses no codes."""

    text: str = "sevens"

    @property
    def families(self) -> frozenset[str]:
        return frozenset({GRID})

    @property
    def spelling(self) -> str:
        return self.text

    def choose(self, grid: Any, group: int, problem: Any) -> Any:
        return 7


def compiled(**settings: Any) -> instar.Compiled:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96)).eval()
    return instar.compile(model, (torch.zeros(2, 64),), target="torch", **settings)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (
            Applied(applying=lambda ops, y: ops("aten.mul.Tensor", y, 2.0)),
            "layer 0: format halves: expected its method apply to compute with the weight that its method weight "
            "gives, found outputs that differ by 100.0%; make both agree",
        ),
        (
            Applied(applying=lambda _, y: y if isinstance(y, Tensor) else failing(y), text="nodes"),
            "format nodes: expected its methods tensors, weight and apply to build a layer of the weight [96, 64], "
            "found ValueError: cannot; mend them",
        ),
        (Applied(width=-1), "stored tensor: expected sizes of 0 or more, found [96, -1]; mend its method tensors"),
    ],
)
def test_a_format_that_computes_with_something_else_is_named(format: Format, message: str) -> None:
    with pytest.raises(ContractError) as caught:
        compiled(formats=[format], budget={"size": "60%", "ops": "90%"})
    assert message in str(caught.value)


def failing(_: Any) -> Any:
    raise ValueError("cannot")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (Halves(lambda p: {"v": p.matrix}), "'v' to be float16 [96, 64], as its method tensors says, found float32"),
        (Halves(lambda p: {"v": p.matrix.half()[:4]}), "to be float16 [96, 64], as its method tensors says, found"),
        (Halves(lambda p: {"w": p.matrix.half()}), "expected the stored tensors ['v'], as its method tensors says, f"),
        (Halves(lambda _: None), "expected store to give tensors by name, found NoneType"),
        (Halves(giving=lambda v: v[:4]), "expected its method weight to give the shape [96, 64], found [4, 64]"),
        (Halves(lambda p: {"v": p.matrix.half() * torch.nan}), "expected finite weights from what it stored, found"),
        (Halves(failing), "halves by rtn: expected a stored weight, found ValueError: cannot; mend the format or the"),
    ],
)
def test_a_format_that_breaks_its_promise(format: Halves, message: str) -> None:
    with pytest.raises(ContractError) as error:
        compiled(formats=[format])
    assert str(error.value).startswith("layer 0: ")
    assert message in str(error.value)


def test_an_encoder_that_breaks_its_promise() -> None:
    with pytest.raises(ContractError, match="layer 0: int4:channel by sevens: expected a stored weight, found Attr"):
        compiled(formats=["int4:channel"], encoders=[Sevens()])


def test_names_of_our_own_are_taken() -> None:
    with pytest.raises(ConfigError, match="format 'int4:g32': expected a name that instar has no format of its own"):
        compiled(formats=[Halves(text="int4:g32")])
    with pytest.raises(ConfigError, match="encoder 'gptq': expected a name that instar has no encoder of its own"):
        compiled(formats=["int4:channel"], encoders=[Sevens(text="gptq")])
    assert compiled(formats=[instar.format("int4:channel")]).plan.decisions[0].chosen.option.format == "int4:channel"


def test_combinations_of_several_ladders_are_few_and_reach_both_ends() -> None:
    both, low = expand("lowrank + monarch", (64, 128)), expand("lowrank + monarch:b4", (64, 128))
    assert 16 <= len(both) <= MOST_COMBINATIONS
    assert {m.split(" + ")[0] for m in both} <= {m.split(" + ")[0] for m in low}
    assert both[0].startswith(low[0].split(" + ")[0])
    assert len(expand("lowrank + monarch + kron", (64, 128))) <= MOST_COMBINATIONS
