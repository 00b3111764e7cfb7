"""The signature of a call as JSON: argument names, fixed arguments, and the pytree specs of inputs and outputs.

A spec is stored twice. ``torch`` is torch's own serialisation, which keeps registered classes such as the outputs of
the transformers library; it is left out where torch cannot write it. ``plain`` is a structure that needs no class:
``"*"`` for a leaf, ``{"tuple": [...]}``, ``{"list": [...]}``, or ``{"dict": [[key, ...], [...]]}``; a class with named
fields is a dict there, any other class a tuple. Reading takes ``torch`` if its classes are known in the reading
process, else ``plain``.
"""

from __future__ import annotations

import json
import math
import warnings
from typing import Any, cast

import torch
from torch.utils import _pytree as pytree

from .errors import ConfigError, ParseError
from .graph import Signature
from .names import field_names
from .types import DTYPE_NAMES, DTYPES

_MAX_DEPTH = 100
_REFUSED = ("__enum__", "default_factory_module")
"""What torch's reader would import a module for; such specs are read from their plain form."""


def write_signature(signature: Signature | None) -> Any:
    """JSON for a signature, or None.

    Raises:
        ConfigError: an argument that was fixed at capture is not a number, string, bool, dtype or None.
    """
    if signature is None:
        return None
    return {
        "names": list(signature.names),
        "leaves": [None if leaf is None else {"fixed": _write_fixed(leaf[0])} for leaf in signature.leaves],
        "inputs": _write_spec(signature.in_spec),
        "outputs": _write_spec(signature.out_spec),
        "output_names": list(signature.outputs),
    }


def read_signature(document: Any, inputs: int, outputs: int) -> Signature | None:
    """The signature of JSON written by :func:`write_signature`, for a graph with that many inputs and outputs.

    Raises:
        ParseError: the document has another structure, or does not fit the graph.
    """
    if document is None:
        return None
    match document:
        case {"names": list() as names, "leaves": list() as leaves, "inputs": given, "outputs": returned}:
            in_spec, out_spec = _read_spec(given), _read_spec(returned)
            fixed = tuple(_read_leaf(leaf) for leaf in cast("list[Any]", leaves))
            chosen = cast("dict[str, Any]", document).get("output_names", [])
        case _:
            raise ParseError("signature: expected names, leaves, inputs and outputs; found something else")
    if not isinstance(chosen, list) or not all(isinstance(name, str) for name in cast("list[Any]", names + chosen)):
        raise ParseError("signature: expected names that are strings")
    if in_spec is not None and (
        in_spec.num_leaves != len(fixed) or fixed.count(None) != inputs or not _is_call(in_spec)
    ):
        raise ParseError(f"signature: expected a call with {inputs} tensors; found another structure")
    if out_spec is not None and out_spec.num_leaves != outputs:
        raise ParseError(f"signature: expected {outputs} outputs; found {out_spec.num_leaves}")
    return Signature(in_spec, out_spec, fixed, tuple(cast("list[str]", names)), tuple(cast("list[str]", chosen)))


def _is_call(spec: Any) -> bool:
    """Whether a spec is ((positional...), {keywords})."""
    children = spec.children()
    return spec.type is tuple and len(children) == 2 and children[0].type is tuple and children[1].type is dict


# ------------------------------------------------------------------------------------------------ fixed arguments
def _write_fixed(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": DTYPE_NAMES[value]}
    raise ConfigError(
        f"argument fixed at capture: expected a number, string, bool, dtype or None; found {type(value).__name__}; "
        "capture with one of these to save the graph"
    )


def _read_leaf(entry: Any) -> tuple[Any] | None:
    match entry:
        case None:
            return None
        case {"fixed": {"float": "nan" | "inf" | "-inf" as text}}:
            return (float(text),)
        case {"fixed": {"dtype": str() as name}} if name in DTYPES:
            return (DTYPES[name],)
        case {"fixed": None | bool() | int() | float() | str() as value}:
            return (value,)
        case _:
            raise ParseError(f"signature: expected null or a fixed value; found {str(entry)[:80]}")


# ------------------------------------------------------------------------------------------------ pytree specs
def _write_spec(spec: Any) -> Any:
    if spec is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = json.loads(pytree.treespec_dumps(spec))
    except (NotImplementedError, TypeError, ValueError, KeyError):
        written = None
    return {"torch": written, "plain": _plain(spec)}


def _plain(spec: Any) -> Any:
    if spec.is_leaf():
        return "*"
    children = [_plain(child) for child in spec.children()]
    if spec.type is list:
        return {"list": children}
    keys = field_names(spec)
    if keys is not None or spec.type is dict:
        return {"dict": [keys or [], children]}
    return {"tuple": children}


def _read_spec(document: Any) -> Any:
    match document:
        case None:
            return None
        case {"torch": written, "plain": plain}:
            spec = _read_torch(written)
            return pytree.tree_structure(_example(plain, 0)) if spec is None else spec
        case _:
            raise ParseError("signature: expected the torch and the plain form of a structure; found something else")


def _read_torch(written: Any) -> Any:
    """None where torch does not know the classes in this process, or would have to import one."""
    text = json.dumps(written)
    if written is None or any(word in text for word in _REFUSED):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytree.treespec_loads(text)
    except (NotImplementedError, TypeError, ValueError, KeyError, AttributeError, IndexError, AssertionError):
        return None


def _example(plain: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ParseError(f"signature: expected a structure of at most {_MAX_DEPTH} levels; found more")
    match plain:
        case "*":
            return 0
        case {"list": list() as children}:
            return [_example(child, depth + 1) for child in cast("list[Any]", children)]
        case {"tuple": list() as children}:
            return tuple(_example(child, depth + 1) for child in cast("list[Any]", children))
        case {"dict": [list() as keys, list() as children]} if len(cast("list[Any]", keys)) == len(
            cast("list[Any]", children)
        ):
            values = [_example(child, depth + 1) for child in cast("list[Any]", children)]
            return {str(k): v for k, v in zip(cast("list[Any]", keys), values, strict=True)}
        case _:
            raise ParseError(f"signature: expected '*', tuple, list or dict; found {str(plain)[:80]}")
