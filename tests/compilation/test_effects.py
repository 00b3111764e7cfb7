"""What is asked without a budget is done; what has no effect is said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import instar
from instar.compilation import preparation
from instar.compilation.codes import CodeStore
from instar.ir.errors import ConfigError, FormatError, InfeasibleError, PassError

from .models import mlp, mlp_data

DATA = mlp_data()


def compiled(**settings: Any) -> instar.Compiled:
    return instar.compile(mlp(), DATA[0], target="torch", **settings)


def formats(result: instar.Compiled) -> set[str]:
    return {d.chosen.option.format for d in result.plan.decisions}


def without_effect(result: instar.Compiled) -> list[str]:
    return [note for note in result.report.data.notes if "has no effect" in note]


def test_formats_that_leave_no_float_are_applied_at_the_least_loss(tmp_path: Path) -> None:
    result = compiled(formats=["int4:g32", "int8:channel", "int3:g32"], calibration=DATA)
    assert formats(result) == {"int8:channel"}
    assert {d.chosen.option.activation.spelling for d in result.plan.decisions} == {"none"}
    assert without_effect(result) == []
    assert result.report.data.pareto == ()
    result.plan.save(tmp_path / "plan.json")
    again = compiled(plan=tmp_path / "plan.json")
    assert torch.equal(again(*DATA[0]), result(*DATA[0]))


def test_a_rule_for_every_layer_is_applied() -> None:
    result = compiled(layers=[{"pattern": "0", "formats": ["fp32", "int4:g32"]}, {"pattern": "*", "formats": ["fp16"]}])
    found = {d.layer: d.chosen.option.format for d in result.plan.decisions}
    assert found.pop("0") == "fp32"
    assert set(found.values()) == {"fp16"}


def test_where_nothing_is_decided_no_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def unread() -> Iterator[tuple[Tensor, ...]]:
        raise AssertionError
        yield ()

    monkeypatch.setattr(preparation, "price", unread)
    result = compiled(formats=["fp32", "int4:g32"], calibration=unread(), checkpoint="c.safetensors")
    assert formats(result) == {"fp32"}
    why = "there is no budget, and every layer may stay as it is"
    assert result.report.data.notes == tuple(
        f"{n} has no effect: {why}" for n in ("formats", "calibration=", "checkpoint=")
    )


def test_settings_beside_a_plan_are_said() -> None:
    plan = compiled(budget={"size": "40%"}).plan
    result = compiled(
        plan=plan, calibration=DATA, leave_alone=["0"], quality=lambda model: float(model(*DATA[0]).sum())
    )
    notes = result.report.data.notes
    assert "leave_alone has no effect: a plan holds its decisions" in notes
    assert "calibration= has no effect: a plan holds its decisions" in notes
    assert result.report.data.quality_final is not None


def test_settings_about_data_that_is_not_there() -> None:
    result = instar.compile(
        mlp(), DATA[0], target="onnx", budget={"size": "40%"}, checkpoint="c.safetensors", calibration=None,
        target_options={"cache": "x"}, pipeline={"formats": ["fp32", "int4:g32"]},
    )  # fmt: skip
    assert without_effect(result) == [
        "checkpoint= has no effect: there is no calibration data",
        "target_options.cache has no effect: no budget is about latency",
    ]


def test_methods_of_ranges_that_nothing_needs() -> None:
    result = instar.compile(
        mlp(), DATA[0], budget={"size": "40%"}, calibration=DATA,
        pipeline={"target": "torch", "calibration": {"activations": "minmax", "max_batches": 2}},
    )  # fmt: skip
    (note,) = without_effect(result)
    assert note.startswith("calibration.activations has no effect: no layer may quantize its input statically")


def test_an_encoder_that_no_format_asks_is_said() -> None:
    result = compiled(budget={"size": "60%"}, formats=["fp32", "lowrank:r8"], encoders=["rtn"])
    (note,) = without_effect(result)
    assert note.startswith("encoders = rtn has no effect: it is about formats of the kind grid, and what layers may ")
    assert without_effect(compiled(budget={"size": "60%"}, formats=["fp32", "int4:g32"], encoders=["rtn"])) == []


def test_transforms_that_find_nothing_to_change_are_said_with_the_reason() -> None:
    chosen = {"budget": {"size": "30%"}, "calibration": DATA, "formats": ["int4:g32"]}
    result = compiled(**chosen, transforms=["rotate-residual", "permute-channels"])
    (said,) = without_effect(result)
    assert said.startswith("transforms = rotate-residual has no effect: it neither writes nor reads a residual stream")


def test_refusals_name_a_format_once_and_encoders_without_data_the_ones_to_add() -> None:
    message = "none of its formats possible: lowrank:r999: expected a rank that saves something, at most"
    with pytest.raises(ConfigError, match=message):
        compiled(formats=["lowrank:r999"])
    with pytest.raises(ConfigError, match=re.escape("add 'mse' (for factors 'svd', for sparse formats 'magnitude')")):
        compiled(formats=["lowrank:r2"], encoders=["whitened"])
    message = "layer 0: expected a weight that one of its formats can store; found gptq: expected calibration statist"
    with pytest.raises(FormatError, match=message):
        compiled(formats=["int4:g32"], encoders=["gptq", "svd"])


def test_kernels_that_offer_nothing_are_named_where_no_plan_is_small_enough() -> None:
    with pytest.raises(InfeasibleError) as caught:
        instar.compile(
            mlp(), DATA[0], target="onnx", kernels=["int8"], formats=["fp32", "int4:g32:asym"], budget={"size": "20%"},
            activations=["none"],
        )  # fmt: skip
    assert "\n  kernels = int8 restricts what layers may become: 3 of 3 may only stay as they are (0, ...)" in str(
        caught.value
    )
    assert "int4:g32:asym mse @float: float is not among kernels = int8" in str(caught.value)
    assert str(caught.value).endswith("allow more kernels, or leave kernels out")
    assert caught.value.smallest["size"] > 0


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_call_with_other_sizes_names_the_input_and_what_to_do(target: str) -> None:
    dims = ({0: torch.export.Dim("batch", min=2, max=64)},)
    fixed = instar.compile(mlp(), DATA[0], target=target)
    found = instar.compile(mlp(), DATA[0], target=target, dynamic_shapes=dims)
    message = r"input input: expected f32\[8, 64\]; found torch.float32 \[3, 64\], whose axis 0 was fixed to 8 at"
    with pytest.raises(PassError, match=message + r" capture; pass dynamic_shapes=\.\.\. to compile"):
        fixed(torch.randn(3, 64))
    assert found(torch.randn(3, 64)).shape == (3, 32)
    with pytest.raises(PassError, match=r"expected f32\[batch, 64\]; found torch.float32 \[8, 63\], whose axis 1"):
        found(torch.randn(8, 63))
    with pytest.raises(PassError, match=r"dimension batch: expected a size in \[2, 64\]; found 65"):
        found(torch.randn(65, 64))


def test_layers_that_compute_with_factors_are_not_called_expanded() -> None:
    result = instar.compile(mlp(), DATA[0], target="onnx", formats=["lowrank:r4"])
    assert not any("expanded to float" in note for note in result.report.data.notes)
    dense = instar.compile(mlp(), DATA[0], target="onnx", formats=["int4:g32"], activations=["none"])
    assert any(note.startswith("3 layers are stored small and expanded") for note in dense.report.data.notes)


def test_a_drop_without_its_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_drop: expected budget='smallest'"):
        compiled(budget={"size": "40%"}, quality=lambda _: 1.0, max_drop=0.1)


def test_a_rule_that_never_decides_is_refused() -> None:
    rules = [{"pattern": "*", "formats": ["fp16"]}, {"pattern": "0", "formats": ["fp32"]}]
    message = "layers[1].pattern: expected a layer that no earlier rule takes, found '0', whose layers are all taken"
    with pytest.raises(ConfigError, match=re.escape(message)):
        compiled(layers=rules)
    with pytest.raises(ConfigError, match=r"layers\[0\]\.pattern: expected a layer that no earlier rule takes"):
        compiled(leave_alone=["0"], layers=[rules[1]])


@pytest.mark.parametrize("room", [0, 24, 10**6])
def test_codes_are_kept_in_memory_and_beyond_it_in_a_folder(room: int) -> None:
    store = CodeStore(room)
    written = {f"layer {n}": {"codes": torch.arange(16, dtype=torch.uint8) + n} for n in range(3)}
    for name, tensors in written.items():
        store.put(name, "int4:g32", "gptq", tensors)
    for name, tensors in written.items():
        found = store.get(name, "int4:g32", "gptq")
        assert found is not None
        assert torch.equal(found["codes"], tensors["codes"])
    assert store.get("layer 0", "int4:g32", "mse") is None


class Looked(torch.nn.Module):
    """An embedding and a linear layer: only the second one has inputs that can be rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = torch.nn.Embedding(64, 32), torch.nn.Linear(32, 64)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.table(ids))


def looked_up(**settings: Any) -> instar.Compiled:
    torch.manual_seed(0)
    ids = torch.arange(24).view(3, 8)
    return instar.compile(Looked().eval(), (ids,), target="onnx", formats=["int7:channel"], **settings)


def test_inputs_that_no_kernel_rounds_stay_and_that_is_said() -> None:
    result = looked_up(activations=["dynamic_int8"])
    kinds = {d.layer: d.chosen.option.activation.kind for d in result.plan.decisions}
    assert kinds == {"table": "none", "linear": "dynamic"}
    assert formats(result) == {"int7:channel"}
    assert without_effect(result) == [
        "activations = dynamic_int8 has no effect for table: no kernel rounds the inputs of such a layer; a rule in "
        "[[layers]] that asks for it is an error"
    ]


def test_a_rule_that_asks_for_rounded_inputs_where_no_kernel_rounds_them_is_an_error() -> None:
    rule = {"pattern": "table", "formats": ["int7:channel"], "activations": ["dynamic_int8"]}
    with pytest.raises(
        ConfigError,
        match=r"found none of int7:channel possible: no kernel rounds the inputs .* \(activations = dynamic_int8\)",
    ):
        looked_up(layers=[rule])
