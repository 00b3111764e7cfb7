"""A saved ONNX model in a session of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data
from torch import Tensor

from ...ir.errors import ConfigError, ParseError
from .dtypes import array_of
from .session import make_session, run


class OpenedOnnx:
    """A model file, with its external data where it has any.

    Args:
        path: of the model.
        threads: that a run may use.

    Raises:
        ParseError: the file is not an ONNX model.
        LoweringError: ONNX Runtime refuses it.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._nbytes = sum(file.stat().st_size for file in [path, *_data_files(path)])
        self._session = make_session(path, threads=threads)
        self._name = path.name

    @property
    def nbytes(self) -> int:
        """Bytes of the model and its external data."""
        return self._nbytes

    @property
    def runtime(self) -> str:
        """ONNX Runtime and its version."""
        return f"onnxruntime {onnxruntime.__version__}"

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], list[Any]]:
        """See :meth:`~instar.targets.base.Opened.bind`; matched by name, or by order where no name fits."""
        feeds, session = self._feeds(inputs), self._session
        return lambda: [torch.from_numpy(a if a.flags.writeable else a.copy()) for a in run(session, feeds)]

    def _feeds(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        entries = self._session.get_inputs()
        wanted = [entry.name for entry in entries]
        arrays = {name: array_of(value) for name, value in inputs.items()}
        feeds: dict[str, NDArray[Any]] = {}
        if set(wanted) <= set(arrays):
            feeds = {name: arrays[name] for name in wanted}
        elif set(wanted).isdisjoint(arrays) and len(wanted) == len(arrays):
            feeds = dict(zip(wanted, arrays.values(), strict=True))
        if len(feeds) != len(entries) or not all(_fits(entry, feeds[entry.name]) for entry in entries):
            raise ConfigError(
                f"{self._name}: expected the inputs {', '.join(map(_entry, entries))}; found "
                f"{', '.join(f'{name} {a.dtype}{list(a.shape)}' for name, a in arrays.items())}; is it another model?"
            )
        return feeds


def _dtype(entry: Any) -> str:
    """The name in numpy of what an input of a session holds, which the runtime calls ``tensor(float)``."""
    name = str(entry.type).removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _entry(entry: Any) -> str:
    return f"{entry.name} {_dtype(entry)}[{', '.join('?' if d is None else str(d) for d in entry.shape)}]"


def _fits(entry: Any, array: NDArray[Any]) -> bool:
    """Whether dtype, rank and fixed sizes are those of the file; a named dimension takes any size."""
    shape = () if not entry.shape and array.size == 1 else array.shape  # a number is an array of one
    if _dtype(entry) != str(array.dtype) or len(entry.shape) != len(shape):
        return False
    return all(not isinstance(dim, int) or dim == size for dim, size in zip(entry.shape, shape, strict=True))


def _data_files(path: Path) -> list[Path]:
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as problem:
        raise ParseError(f"{path}: expected an ONNX model; found something else ({problem})") from problem
    locations: dict[str, None] = {}
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            locations |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    return [path.parent / location for location in locations]
