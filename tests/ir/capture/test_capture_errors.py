from __future__ import annotations

import logging
import re
import warnings
from importlib import import_module
from typing import Any, cast

import pytest
import torch
from capture_models import ROWS, X
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import instar
from instar.ir.capture import capture
from instar.ir.errors import CaptureError


def refusal(model: nn.Module, *args: Any, dynamic_shapes: Any = None, train: bool = False) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(model.train(train), args, dynamic_shapes=dynamic_shapes)
    text = str(caught.value)
    assert "draft_export" not in text
    assert "TORCH" not in text
    assert len(text) < 900
    return text


class ValueSizes(nn.Module):
    def forward(self, x: Tensor) -> Any:
        positive = x[x > 0]
        places = x.nonzero()
        return positive * 2, places, torch.rand_like(x), F.dropout(positive, 0.5, training=True)


def test_all_lines_that_cannot_be_captured_are_listed_once() -> None:
    text = refusal(ValueSizes(), X)
    lines = text.splitlines()
    assert lines[0] == "model: these lines cannot be captured:"
    assert [line.split(": ")[1] for line in lines[1:3]] == ["aten.index.Tensor", "aten.nonzero"]
    assert "expected sizes that follow from the input sizes" in lines[1]
    assert "aten.rand_like draws random numbers" in lines[3]
    assert all(line.strip().startswith("test_capture_errors.py:") for line in lines[1:])


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_branch_on_values_names_the_line() -> None:
    text = refusal(Branch(), X)
    assert text.startswith("test_capture_errors.py:")
    assert "(if x.sum() > 0:): expected a choice that depends on sizes only" in text
    assert text.endswith("use torch.where, or compute it outside the model")


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x,))


def test_control_flow_operators_are_refused_by_name() -> None:
    assert "cond: control flow inside the model is not supported; use torch.where" in refusal(Conditional(), X)


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy())


def test_what_torch_cannot_trace_names_the_line() -> None:
    text = refusal(Numpy(), X)
    assert "(return torch.from_numpy(x.numpy())): torch.export cannot capture this: RuntimeError" in text


class Unrolled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for row in range(x.shape[0]):
            x = x + row
        return x


def test_a_size_that_is_not_dynamic_names_the_line_and_the_value() -> None:
    text = refusal(Unrolled(), X, dynamic_shapes=ROWS)
    assert "expected a model that takes every value of batch" in text
    assert "test_capture_errors.py:" in text
    assert ": needs batch == 3" in text
    assert text.endswith("leave batch out of dynamic_shapes, or rewrite the lines; torch suggests batch = 3")


class Shorter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(min(x.shape[0], 8), 1)


def test_a_condition_with_a_comma_in_it_reads_like_python() -> None:
    text = refusal(Shorter(), torch.randn(3, 2), dynamic_shapes={"x": {0: Dim("batch", max=16)}})
    assert "needs batch == Min(8, batch)" in text


def test_an_example_of_size_zero_is_explained() -> None:
    text = refusal(nn.ReLU(), X[:0], dynamic_shapes=ROWS)
    assert "expected example inputs of size 2 or more where a size is dynamic" in text


def test_dynamic_shapes_of_another_structure() -> None:
    assert refusal(nn.ReLU(), X, dynamic_shapes=({0: Dim("a")}, None)).startswith("dynamic_shapes: Detected mismatch")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (7, r"^dynamic_shapes: expected a tuple with an entry for every input, or a dict .*; found int 7; for example"),
        ((7,), r"^dynamic_shapes\[0\]: expected None, or a dict from axes of an input \[3, 4\] to .*; found int 7"),
        ([Dim("a")], r"^dynamic_shapes\[0\]: expected None, or a dict .*; found Dim\('a'"),
        (
            ({0: Dim("a"), 5: Dim("b")},),
            r"^dynamic_shapes\[0\]: expected axes from 0 to 1 of an input \[3, 4\]; found 5",
        ),
        (({-1: Dim("a")},), r"expected axes from 0 to 1 .*; found -1"),
        ({"input": {"0": Dim("a")}}, r"^dynamic_shapes\['input'\]: expected axes from 0 to 1 .*; found '0'"),
        (((Dim("a"),),), r"^dynamic_shapes\[0\]: expected 2 sizes for an input \[3, 4\]; found 1"),
        (({0: 7},), r"^dynamic_shapes\[0\]\[0\]: expected the example's own size 3, or a torch.export.Dim; found 7"),
        (({0: "a"},), r"^dynamic_shapes\[0\]\[0\]: expected None, a torch.export.Dim or Dim.AUTO; found str 'a'"),
    ],
)
def test_entries_that_name_no_size_of_an_input(shapes: Any, message: str) -> None:
    assert re.search(message, refusal(nn.ReLU(), X, dynamic_shapes=shapes))


def test_entries_of_inputs_without_sizes() -> None:
    text = refusal(Scaled(), X, 3, dynamic_shapes=(ROWS[0], {0: Dim("a")}))
    assert text.startswith("dynamic_shapes[1]: expected None for int 3, which is no tensor; found dict {0: Dim('a'")
    text = refusal(Scaled(), X, torch.tensor(3.0), dynamic_shapes=(ROWS[0], {0: Dim("a")}))
    assert text.startswith("dynamic_shapes[1]: expected None or {} for an input without axes; found dict")


def test_shapes_given_to_a_builder_of_torch() -> None:
    shapes = torch.export.ShapesCollection()
    shapes[X] = {0: Dim("rows")}
    assert str(capture(nn.ReLU().eval(), (X,), dynamic_shapes=shapes).inputs[0].tensor_type) == "f32[rows, 4]"
    others = torch.export.AdditionalInputs()
    others.add((torch.zeros(5, 4),))
    graph = capture(nn.ReLU().eval(), (X,), dynamic_shapes=others)
    assert str(graph.inputs[0].tensor_type) == "f32[input_dim0, 4]"
    shapes[torch.zeros(3)] = {0: Dim("rows")}
    text = refusal(nn.ReLU(), X, dynamic_shapes=shapes)
    assert text.startswith("dynamic_shapes: expected shapes for the example inputs; found: Some tensors")


def test_inputs_that_the_model_cannot_run() -> None:
    text = refusal(nn.Linear(5, 2), X)
    assert text.startswith("args: expected example inputs that the model can run; called with them it raises")
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x4 and 5x2); give inputs of the shapes" in text


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: Any) -> Tensor:
        return x * scale


def test_wrong_example_inputs_show_the_signature() -> None:
    text = refusal(nn.Bilinear(4, 4, 2), X)
    assert "expected example inputs that fit forward(input1" in text
    assert "missing a required argument: 'input2'" in text


class Opaque:
    """A class that torch knows nothing about."""


class ReturnsOpaque(nn.Module):
    def forward(self, x: Tensor) -> Any:
        del x
        return Opaque()


class DynamicCache(Opaque):
    pass


class ReturnsCache(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, DynamicCache()


def test_unknown_outputs_are_named() -> None:
    assert "found Opaque; return its tensors, or register it" in refusal(ReturnsOpaque(), X)
    assert "found DynamicCache; return its tensors, or register it" in refusal(ReturnsCache(), X)


def test_training_mode_lists_the_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.BatchNorm1d(4))
    text = refusal(model, X, train=True)
    assert text.splitlines()[0].endswith("call model.eval():")
    assert text.splitlines()[1:] == ["  1 (Dropout)", "  2 (BatchNorm1d)"]
    assert "and 2 more" in refusal(nn.Sequential(*(nn.Dropout() for _ in range(10))), X, train=True)
    assert refusal(nn.Dropout(), X, train=True).splitlines()[1] == "  the model (Dropout)"


def test_functional_dropout_in_training_is_refused() -> None:
    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, self.training)

    assert "acts as in training; call model.eval()" in refusal(Drops(), X, train=True)
    assert capture(Drops().eval(), (X,)).outputs


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.count: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x.add_(1) + self.count


def test_all_writes_are_listed() -> None:
    assert refusal(Writes(), X.clone()).splitlines()[1:] == ["  buffer count", "  input x"]


def test_weights_without_values_are_listed() -> None:
    text = refusal(nn.Linear(4, 4, device="meta"), X)
    assert text.endswith("load the weights:\n  weight\n  bias")


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.eye(4).to_sparse())
        self.table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table.to_dense()


def test_unusual_tensors_are_listed() -> None:
    assert "convert these before compiling:\n  table: torch.float32, sparse_coo" in refusal(Sparse(), X)


def test_keywords_as_module_names_are_listed() -> None:
    text = refusal(_named("class"), X)
    assert "needs names that are not Python keywords; rename:" in text
    assert "parts.class" in text


def _named(name: str) -> nn.Module:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Linear(4, 4)})

        def forward(self, x: Tensor) -> Tensor:
            return self.parts[name](x)

    return Holder()


def test_what_is_not_a_model() -> None:
    with pytest.raises(CaptureError, match=r"an ExportedProgram or an fx.GraphModule; found int"):
        capture(cast(nn.Module, 3), (X,))


def test_torch_logs_nothing_while_a_model_is_refused() -> None:
    seen: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Kept()
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.addHandler(handler)
    try:
        with pytest.raises(CaptureError, match="mat1 and mat2 shapes cannot be multiplied"):
            capture(nn.Linear(64, 64).eval(), (torch.randn(2, 63),))
        assert seen == []
        logger.error("afterwards")
        assert [record.msg for record in seen] == ["afterwards"]
    finally:
        logger.removeHandler(handler)
    assert logger.level == before


def _linear() -> nn.Module:
    return nn.Linear(4, 4).eval()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.eye(4).to_sparse(), "torch.float32, sparse_coo"),
        (torch.eye(4).to_sparse_csr(), "torch.float32, sparse_csr"),
        (torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)]), "a nested tensor"),
        (torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged), "a nested tensor"),
        (torch.quantize_per_tensor(torch.ones(2, 4), 0.1, 0, torch.qint8), "torch.qint8, strided"),
        (torch.ones(2, 4, device="meta"), "without values, on meta"),
    ],
)
def test_examples_that_no_graph_holds_are_refused(value: torch.Tensor, said: str) -> None:
    with pytest.raises(CaptureError, match="args: expected dense tensors with values") as raised:
        capture(_linear(), (value,))
    assert str(raised.value).endswith(f"  args[0]: {said}")
    with pytest.raises(CaptureError, match=re.escape(f"input['deep'][0]: {said}")):
        capture(_linear(), (), {"input": {"deep": [value]}})


def _quantizing() -> Any:
    """Torch's own quantization, which it has announced to drop."""
    return import_module("torch.ao.quantization")


def test_modules_that_torch_quantized_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _quantizing().quantize_dynamic(nn.Sequential(_linear()), {nn.Linear})
    with pytest.raises(CaptureError, match=r"expected float layers.*compile the model from before:\n  0 .*Linear"):
        capture(model, (torch.ones(2, 4),))


def test_observers_of_quantization_have_an_advice_of_their_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = nn.Sequential(_linear()).train()
        model.qconfig = _quantizing().get_default_qat_qconfig("x86")
        prepared = _quantizing().prepare_qat(model)
        prepared(torch.ones(2, 4))
    with pytest.raises(CaptureError, match="found writes; observers of torch's quantization go on measuring"):
        capture(prepared.eval(), (torch.ones(2, 4),))


def test_modes_around_a_capture_are_refused() -> None:
    model, x = _linear(), torch.ones(2, 4)
    with torch.inference_mode(), pytest.raises(CaptureError, match=r"expected no torch.inference_mode\(\) around"):
        capture(model, (x,))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(CaptureError, match=r"expected no torch.autocast around"),
    ):
        capture(model, (x,))


def test_weights_that_were_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model, x = _linear(), torch.ones(2, 4)
    with pytest.raises(
        CaptureError, match=r"made in torch.inference_mode\(\); load the model outside of it:\n  weight"
    ):
        capture(model, (x,))
    assert len(capture(_linear(), (x,)).outputs) == 1  # examples may be


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(2, 4))])
def test_torchscript_is_refused(make: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(_linear())
    with pytest.raises(CaptureError, match="found TorchScript; compile the model that it was scripted or traced from"):
        capture(model, (torch.ones(2, 4),))


def test_a_model_that_returns_nothing_is_refused() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> None:
            x.relu()

    with pytest.raises(CaptureError, match="expected an output that is a tensor; found none"):
        instar.compile(Silent(), (torch.ones(2, 4),), target="onnx")
