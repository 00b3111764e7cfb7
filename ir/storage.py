"""A graph in one .safetensors file: constants as tensors, everything else as text and JSON in the metadata. No pickle.

Metadata keys: ``instar_graph`` (version of the layout), ``text`` (the graph's text), ``constants`` (a JSON list of
name, kind and aliases), ``origins`` (a JSON table of [module, source], and for each node of the text its position in
it) and ``signature`` (JSON, see :mod:`instar.ir.signature_json`). The tensor of a constant has the constant's own name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch

from .constants import ConstantHandle
from .errors import ParseError
from .files import atomic_path, parse_json
from .graph import Graph, Origin
from .op import CONSTANT, INPUT
from .parse import parse_graph
from .signature_json import read_signature, write_signature
from .types import TensorType, parse_type

LAYOUT = "1"
_KINDS = ("parameter", "buffer", "constant", "derived")
_MAX_HEADER_BYTES = 90 * 10**6


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph with all its constants, atomically.

    Raises:
        ConfigError: the folder does not exist, or an argument that was fixed at capture has no place in JSON.
        ParseError: the text is beyond what the file format can hold.
    """
    handles = [node.handle for node in graph.constants()]
    metadata = {
        "instar_graph": LAYOUT,
        "text": graph.text(),
        "constants": json.dumps([{"name": h.name, "kind": h.kind, "aliases": list(h.aliases)} for h in handles]),
        "origins": json.dumps(_origin_table(graph)),
        "signature": json.dumps(write_signature(graph.signature)),
    }
    size = sum(len(v.encode()) for v in metadata.values())
    if size > _MAX_HEADER_BYTES:
        raise ParseError(
            f"{path}: expected at most {_MAX_HEADER_BYTES / 1e6:g} MB of text for a graph; found {size / 1e6:g} MB"
        )
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(_separate(handles), temporary, metadata)
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put the metadata into one order, so that equal graphs give equal bytes; safetensors writes them in any order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def load(path: str | os.PathLike[str]) -> Graph:
    """Read a graph. The file is memory-mapped and a constant is loaded when it is touched.

    Raises:
        ParseError: the file is missing, damaged, or not a graph; or its tensors do not fit its text.
    """
    file = _open(Path(path))
    metadata = file.metadata() or {}
    if metadata.get("instar_graph") != LAYOUT:
        found = metadata.get("instar_graph", "another kind of file")
        raise ParseError(f"{path}: expected a graph saved by instar (layout {LAYOUT}); found {found}")
    missing = [key for key in ("text", "constants", "origins", "signature") if key not in metadata]
    if missing:
        raise ParseError(f"{path}: expected {', '.join(missing)} in the metadata; found none; save the graph again")
    try:
        handles = _handles(file, _document(metadata, "constants"), metadata["text"])
        graph = parse_graph(metadata["text"], handles, _origins(_document(metadata, "origins")))
        signature = read_signature(_document(metadata, "signature"), len(graph.inputs), len(graph.outputs))
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from error
    return graph.context.graph(graph.inputs, graph.outputs, signature)


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ParseError(f"{path}: expected a file; found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        return cast(Any, safetensors.safe_open(path, framework="pt"))
    except (safetensors.SafetensorError, OSError) as error:
        raise ParseError(f"{path}: expected a .safetensors file; found: {error}") from error


def _document(metadata: dict[str, str], key: str) -> Any:
    return parse_json(metadata[key], key)


# ------------------------------------------------------------------------------------------------ constants
def _separate(handles: list[ConstantHandle]) -> dict[str, torch.Tensor]:
    """The tensors with no memory in common, which the file format asks for; copied only where there is some."""
    seen: set[int] = set()
    result: dict[str, torch.Tensor] = {}
    for handle in handles:
        tensor = handle.tensor
        tensor = torch.view_as_real(tensor) if tensor.dtype is torch.complex128 else tensor
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
        memory = tensor.untyped_storage().data_ptr()
        if not tensor.is_contiguous() or not whole or memory in seen:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(memory)
        result[handle.name] = tensor
    return result


def _handles(file: Any, entries: Any, text: str) -> dict[str, ConstantHandle]:
    names = set(file.keys())
    declared = dict(_declared(text))
    handles: dict[str, ConstantHandle] = {}
    for entry in cast("list[Any]", entries) if isinstance(entries, list) else [None]:
        name, kind, aliases = _entry(entry)
        if name not in names or name not in declared:
            raise ParseError(f"constant {name!r}: expected its tensor and its type in the text; found only a mention")
        load_tensor = _loader(file, name, declared[name])
        handles[name] = ConstantHandle(name, declared[name], load_tensor, kind, aliases)
    absent = sorted(set(declared) - set(handles))
    if absent:
        raise ParseError(f"constants: expected tensors for {', '.join(absent[:5])}; found none; the file is incomplete")
    return handles


def _entry(entry: Any) -> tuple[str, str, tuple[str, ...]]:
    match entry:
        case {"name": str() as name, "kind": str() as kind, "aliases": list() as aliases} if kind in _KINDS:
            if all(isinstance(a, str) for a in cast("list[Any]", aliases)):
                return name, kind, tuple(cast("list[str]", aliases))
        case _:
            pass
    raise ParseError(f"constants: expected entries of name, kind and aliases; found {str(entry)[:80]}")


def _declared(text: str) -> list[tuple[str, TensorType]]:
    """(name, type) of every ``const`` line."""
    lines = [line.removeprefix("const @") for line in text.splitlines() if line.startswith("const @")]
    parts = [line.rpartition(": ") for line in lines]
    return [(_unquoted(name), parse_type(type_text)) for name, _, type_text in parts]


def _unquoted(name: str) -> str:
    if not name.startswith('"'):
        return name
    return str(parse_json(name, "constant name"))


def _loader(file: Any, name: str, declared: TensorType) -> Callable[[], torch.Tensor]:
    """Loads one tensor; its shape is checked at once, without reading it."""
    stored = tuple(file.get_slice(name).get_shape())
    shape = (*declared.shape, 2) if declared.dtype is torch.complex128 else declared.shape
    if stored != shape:
        raise ParseError(f"constant {name!r}: expected a tensor of shape {list(shape)}; found {list(stored)}")

    def read() -> torch.Tensor:
        tensor = cast(torch.Tensor, file.get_tensor(name))
        tensor = torch.view_as_complex(tensor) if declared.dtype is torch.complex128 else tensor
        if tensor.dtype != declared.dtype:
            raise ParseError(f"constant {name!r}: expected {declared}; found a tensor of {tensor.dtype}")
        return tensor

    return read


# ------------------------------------------------------------------------------------------------ origins
def _origin_table(graph: Graph) -> dict[str, Any]:
    table: dict[Origin, int] = {}
    nodes = [n for n in graph.nodes() if n.op not in (INPUT, CONSTANT)]
    positions = [table.setdefault(n.origin, len(table)) for n in nodes]
    return {"table": [[o.module, o.source] for o in table], "nodes": positions}


def _origins(document: Any) -> list[Origin]:
    match document:
        case {"table": list() as table, "nodes": list() as nodes}:
            origins = [_origin(entry) for entry in cast("list[Any]", table)]
            positions = cast("list[Any]", nodes)
            if all(isinstance(p, int) and 0 <= p < len(origins) for p in positions):
                return [origins[p] for p in positions]
        case _:
            pass
    raise ParseError("origins: expected a table of [module, source] and positions in it; found something else")


def _origin(entry: Any) -> Origin:
    match entry:
        case [str() as module, str() as source]:
            return Origin(module, source)
        case _:
            raise ParseError(f"origins: expected [module, source]; found {str(entry)[:80]}")
