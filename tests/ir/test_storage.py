from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors
import safetensors.torch
import torch
from capture_models import EXAMPLES, Tied, X, same
from torch import nn
from torch.utils import _pytree as pytree

from instar.ir.capture import capture
from instar.ir.constants import ConstantHandle
from instar.ir.context import Context
from instar.ir.errors import ConfigError, ParseError
from instar.ir.evaluate import call
from instar.ir.graph import Graph
from instar.ir.parse import parse_graph
from instar.ir.storage import load, save
from instar.ir.verify import verify

NAMES = ["nested", "keywords", "variadic", "shared storage", "odd names", "constants", "size arithmetic", "no output"]


def captured(name: str) -> Graph:
    example = EXAMPLES[name]
    return capture(example.model, example.args, example.kwargs, dynamic_shapes=example.dynamic_shapes)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    example, graph = EXAMPLES[name], captured(name)
    save(graph, tmp_path / "g.safetensors")
    read = load(tmp_path / "g.safetensors")
    verify(read)
    assert read.text() == graph.text()
    assert read.signature == graph.signature
    assert read.fingerprint() == graph.fingerprint()
    assert [n.origin for n in read.nodes()] == [n.origin for n in graph.nodes()]
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]
    same(call(read, example.args, example.kwargs), example.model(*example.args, **example.kwargs))


def test_constants_are_loaded_when_touched(tmp_path: Path) -> None:
    graph = capture(Tied().eval(), torch.tensor([[1, 2]]))
    save(graph, tmp_path / "g.safetensors")
    (node,) = load(tmp_path / "g.safetensors").constants()
    assert cast(Any, node.handle)._tensor is None
    assert (node.handle.name, node.handle.kind, node.handle.aliases) == ("embed.weight", "parameter", ("head.weight",))
    assert torch.equal(node.handle.tensor, graph.constants()[0].handle.tensor)
    module = load(tmp_path / "g.safetensors").to_module()
    assert set(module.state_dict()) == {"embed.weight", "head.weight"}


def test_names_given_after_loading_avoid_the_old_ones(tmp_path: Path) -> None:
    save(captured("twice"), tmp_path / "g.safetensors")
    graph = load(tmp_path / "g.safetensors")
    assert graph.context.unique_name("linear.weight") == "linear.weight.1"


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.uint16, torch.bool]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_every_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    context = Context()
    graph = context.graph([], [context.constant("a b", torch.ones(shape).to(dtype))])
    save(graph, tmp_path / "g.safetensors")
    assert load(tmp_path / "g.safetensors").fingerprint() == graph.fingerprint()


def test_a_graph_without_signature(tmp_path: Path) -> None:
    save(parse_graph("input %x: f32[2]\nreturn %x"), tmp_path / "g.safetensors")
    assert load(tmp_path / "g.safetensors").signature is None


def test_classes_that_are_unknown_when_reading_become_dicts(tmp_path: Path) -> None:
    class Pair(dict[str, Any]):
        pass

    class Returns(nn.Module):
        def forward(self, x: torch.Tensor) -> Pair:
            return Pair(first=x, second=x * 2)

    pytree.register_pytree_node(
        Pair,
        lambda p: (list(p.values()), list(p)),
        lambda values, keys: Pair(zip(keys or (), values, strict=True)),
        serialized_type_name="test.Pair",
    )
    graph = capture(Returns().eval(), (X,))
    save(graph, tmp_path / "g.safetensors")
    assert isinstance(call(load(tmp_path / "g.safetensors"), (X,)), Pair)
    text = (tmp_path / "g.safetensors").read_bytes().replace(b"test.Pair", b"test.Pail")
    (tmp_path / "g.safetensors").write_bytes(text)  # as in a process that has not registered the class
    found = call(load(tmp_path / "g.safetensors"), (X,))
    assert type(found) is dict
    assert list(found) == ["first", "second"]


def test_a_fixed_argument_that_json_cannot_hold(tmp_path: Path) -> None:
    class Complex(nn.Module):
        def forward(self, x: torch.Tensor, factor: complex) -> torch.Tensor:
            return x + factor.real

    graph = capture(Complex().eval(), (X, 1.0))
    assert graph.signature is not None
    odd = type(graph.signature)(graph.signature.in_spec, graph.signature.out_spec, (None, (1j,)), graph.signature.names)
    with pytest.raises(ConfigError, match="expected a number, string, bool, dtype or None; found complex"):
        save(graph.context.graph(graph.inputs, graph.outputs, odd), tmp_path / "g.safetensors")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ damaged files
@pytest.fixture
def stored(tmp_path: Path) -> Path:
    save(captured("keywords"), tmp_path / "g.safetensors")
    return tmp_path / "g.safetensors"


def _rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: str | None) -> None:
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() | changes
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
    present = {key: value for key, value in metadata.items() if value is not None}
    safetensors.torch.save_file(kept if tensors is None else tensors, path, present)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instar_graph": None}, r"expected a graph saved by instar \(layout 1\); found another kind of file"),
        ({"instar_graph": "7"}, "found 7"),
        ({"text": None, "origins": None}, "expected text, origins in the metadata"),
        ({"text": "input %x: f32[2\n"}, "line 1"),
        ({"text": "return 3\n"}, "signature: expected a call with 0 tensors"),
        ({"text": "input %x: f32[3, 4]\nreturn %x, %x\n"}, "expected 2 outputs; found 1"),
        (
            {"text": "input %x: f32[3, 4]\nconst @w: f32[2]\nreturn %x\n"},
            "constants: expected tensors for w; found none",
        ),
        ({"constants": "["}, "constants:1:2: expected JSON"),
        ({"constants": "3"}, "expected entries of name, kind and aliases"),
        ({"constants": '[{"name": "w", "kind": "evil", "aliases": []}]'}, "expected entries of name, kind and aliases"),
        (
            {"constants": '[{"name": "w", "kind": "buffer", "aliases": [1]}]'},
            "expected entries of name, kind and aliases",
        ),
        (
            {"constants": '[{"name": "w", "kind": "buffer", "aliases": []}]'},
            "constant 'w': expected its tensor and its type",
        ),
        ({"origins": "{}"}, "origins: expected a table"),
        ({"origins": '{"table": [[1, 2]], "nodes": []}'}, r"origins: expected \[module, source\]"),
        ({"origins": '{"table": [], "nodes": [4]}'}, "origins: expected a table"),
        ({"signature": "[]"}, "signature: expected names, leaves, inputs and outputs"),
        (
            {"signature": '{"names": [3], "leaves": [], "inputs": null, "outputs": null}'},
            "expected names that are strings",
        ),
        (
            {"signature": '{"names": [], "leaves": [7], "inputs": null, "outputs": null}'},
            "expected null or a fixed value",
        ),
        ({"signature": '{"names": [], "leaves": [], "inputs": 3, "outputs": null}'}, "the torch and the plain form"),
    ],
)
def test_damaged_metadata_is_refused(stored: Path, changes: dict[str, str | None], message: str) -> None:
    _rewrite(stored, None, **changes)
    with pytest.raises(ParseError, match=message) as caught:
        load(stored)
    assert str(stored) in str(caught.value)


@pytest.mark.parametrize(
    "plain",
    ['"?"', '{"dict": [["a"], []]}', '{"set": []}', '{"tuple": ["*", ' * 120 + '"*"' + "]}" * 120],
)
def test_damaged_structures_are_refused(stored: Path, plain: str) -> None:
    enum = {"type": "evil", "context": json.dumps({"__enum__": True}), "children_spec": []}
    spec = json.dumps({"torch": [1, enum], "plain": "PLAIN"}).replace('"PLAIN"', plain)
    signature = json.dumps({"names": [], "leaves": [None], "inputs": "SPEC", "outputs": None})
    _rewrite(stored, signature=signature.replace('"SPEC"', spec))
    with pytest.raises(ParseError, match="signature"):
        load(stored)


def test_a_structure_that_would_import_a_module_is_read_from_its_plain_form(stored: Path) -> None:
    spec = {"torch": [1, {"type": "enum", "context": json.dumps({"__enum__": True}), "children_spec": []}]}
    call_spec = spec | {"plain": {"tuple": [{"tuple": ["*"]}, {"dict": [[], []]}]}}
    signature = {"names": ["x"], "leaves": [None], "inputs": call_spec, "outputs": spec | {"plain": "*"}}
    _rewrite(stored, signature=json.dumps(signature), text="input %x: f32[2]\nreturn %x\n")
    assert torch.equal(call(load(stored), (torch.ones(2),)), torch.ones(2))


def test_tensors_that_do_not_fit_the_text(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    context = Context()
    save(context.graph([], [context.constant_of(ConstantHandle.of("w", torch.ones(2)))]), path)
    _rewrite(path, {"w": torch.ones(3)})
    with pytest.raises(ParseError, match=r"constant 'w': expected a tensor of shape \[2\]; found \[3\]"):
        load(path)
    _rewrite(path, {"w": torch.ones(2).double()})
    with pytest.raises(ParseError, match=r"constant 'w': expected f32\[2\]; found a tensor of torch.float64"):
        _ = load(path).constants()[0].handle.tensor


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.safetensors"
    path.write_bytes(content)
    with pytest.raises(ParseError, match=r"g\.safetensors: expected"):
        load(path)


def test_a_cut_file(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(ParseError, match=r"expected a \.safetensors file; found"):
        load(stored)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="expected a file; found nothing"):
        load(tmp_path / "none")
    with pytest.raises(ParseError, match="expected a file; found a folder"):
        load(tmp_path)


def test_an_interrupted_save_leaves_the_old_file(stored: Path) -> None:
    before = stored.read_bytes()

    def interrupt() -> torch.Tensor:
        raise KeyboardInterrupt

    handle = ConstantHandle("w", parse_graph("const @w: f32[2]\nreturn @w").constants()[0].handle.type, interrupt)
    context = Context()
    graph = context.graph([], [context.constant_of(handle)])
    with pytest.raises(KeyboardInterrupt):
        save(graph, stored)
    assert stored.read_bytes() == before
    assert [p.name for p in stored.parent.iterdir()] == [stored.name]
