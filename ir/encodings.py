"""Encoded weights, corrected biases and transforms of a plan on disk: one safetensors file, checked by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from .errors import ParseError
from .files import atomic_write_bytes

SEPARATOR = "/"
"""Between the layer's name and the tensor's name."""

CORRECTED_BIAS = "corrected_bias"
"""Name of the tensor that is no part of an encoded weight."""

TRANSFORM = "@transform "
"""Before the number of a transform, in place of a layer's name."""

Stored = Mapping[str, Mapping[str, Tensor]]
"""Layer -> tensors by name."""


def with_biases(encodings: Stored, biases: Mapping[str, Tensor]) -> Stored:
    """Encoded weights with the corrected biases among a layer's tensors."""
    layers = dict.fromkeys((*encodings, *biases))
    return {n: {**encodings.get(n, {}), **({CORRECTED_BIAS: biases[n]} if n in biases else {})} for n in layers}


def without_biases(stored: Stored) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Encoded weights and corrected biases apart, as they were before :func:`with_biases`."""
    biases = {layer: tensors[CORRECTED_BIAS] for layer, tensors in stored.items() if CORRECTED_BIAS in tensors}
    encodings = {n: {k: t for k, t in tensors.items() if k != CORRECTED_BIAS} for n, tensors in stored.items()}
    return {n: tensors for n, tensors in encodings.items() if tensors}, biases


def with_transforms(stored: Stored, transformed: Sequence[Mapping[str, Tensor]]) -> Stored:
    """The same with what transforms found, each under its number."""
    return {**stored, **{f"{TRANSFORM}{number}": found for number, found in enumerate(transformed)}}


def without_transforms(stored: Stored) -> tuple[dict[str, Mapping[str, Tensor]], dict[int, Mapping[str, Tensor]]]:
    """Weights apart from transforms by number; those that found nothing are not in a file."""
    weights = {name: tensors for name, tensors in stored.items() if not name.startswith(TRANSFORM)}
    numbered = {name.removeprefix(TRANSFORM): t for name, t in stored.items() if name.startswith(TRANSFORM)}
    return weights, {int(number): tensors for number, tensors in numbered.items() if number.isdecimal()}


def save_encodings(encodings: Stored, path: Path) -> str:
    """Write the tensors of every layer and return the file's SHA-256. Equal tensors give equal bytes."""
    flat = {
        f"{layer}{SEPARATOR}{name}": tensor.contiguous()
        for layer, tensors in sorted(encodings.items())
        for name, tensor in sorted(tensors.items())
    }
    data = safetensors.torch.save(flat)
    atomic_write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_encodings(path: Path, digest: str, plan: str) -> dict[str, dict[str, Tensor]]:
    """Read what :func:`save_encodings` wrote.

    Raises:
        ParseError: the file is missing, damaged, or not the one that the plan was saved with.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ParseError(
            f"{plan}: expected its encoded weights at {path}; found {error.strerror or error}; "
            "keep the two files together"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ParseError(
            f"{plan}: expected {path} with SHA-256 {digest[:12]}...; found {found[:12]}...; save the plan again"
        )
    result: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(data, path).items():
        layer, _, name = key.rpartition(SEPARATOR)
        result.setdefault(layer, {})[name] = tensor
    return result


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ParseError(f"{path}: expected encoded weights in a safetensors file; found {error}") from error
