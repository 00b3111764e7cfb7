"""A graph that was saved as .safetensors, run by torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import ConfigError, PassError
from ...ir.evaluate import bind_dims
from ...ir.fx_conversion import to_flat_module
from ...ir.graph import Node
from ...ir.storage import load


class OpenedGraph:
    """A saved graph as a module.

    Args:
        path: of the file.
        threads: torch has one number of threads for everything: the caller sets it.

    Raises:
        ParseError: the file is not a saved graph.
    """

    def __init__(self, path: Path, threads: int) -> None:
        del threads
        self.graph = load(path)
        self._nbytes = path.stat().st_size
        self._name = path.name
        self._module = to_flat_module(self.graph)

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self._nbytes

    @property
    def runtime(self) -> str:
        """Torch and its version."""
        return f"torch {torch.__version__}"

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], list[Any]]:
        """See :meth:`~instar.targets.base.Opened.bind`."""
        if len(inputs) != len(self.graph.inputs):
            names = ", ".join(f"{n.argument('name')} {n.tensor_type}" for n in self.graph.inputs)
            found = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in inputs.items())
            raise ConfigError(f"{self._name}: expected the inputs {names}; found {found}; is it another model?")
        values, module, outputs = list(inputs.values()), self._module, self.graph.outputs
        try:
            bind_dims(self.graph, values)
        except PassError as problem:
            raise ConfigError(f"{self._name}: {problem}; is it another model?") from problem

        def call() -> list[Any]:
            with torch.no_grad():
                found = module(*values)
            return [value for value, output in zip(found, outputs, strict=True) if isinstance(output, Node)]

        return call
