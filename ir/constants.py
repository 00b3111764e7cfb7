"""Constants are handles: a name, a type, and a tensor that is loaded when touched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from .types import TensorType


class ConstantHandle:
    """A named tensor of a graph. Two uses of one handle are one constant; two handles never are, even with equal names.

    The tensor is detached and shared with whoever created it; nobody may write to it.
    """

    __slots__ = ("_digest", "_load", "_tensor", "aliases", "kind", "name", "type")

    def __init__(
        self,
        name: str,
        type: TensorType,
        load: Callable[[], torch.Tensor],
        kind: str = "parameter",
        aliases: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.type = type
        self.kind = kind
        self.aliases = aliases
        self._load = load
        self._tensor: torch.Tensor | None = None
        self._digest: str | None = None

    @staticmethod
    def of(name: str, tensor: torch.Tensor, kind: str = "parameter", aliases: tuple[str, ...] = ()) -> ConstantHandle:
        """A handle of a tensor that is already in memory."""
        value = tensor.detach()
        return ConstantHandle(name, TensorType(value.dtype, tuple(value.shape)), lambda: value, kind, aliases)

    @property
    def tensor(self) -> torch.Tensor:
        """The value. Loaded at the first access and kept."""
        if self._tensor is None:
            self._tensor = self._load()
        return self._tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.type.nbytes()

    @property
    def digest(self) -> str:
        """SHA-256 of dtype, shape and contents."""
        if self._digest is None:
            data = self.tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
            sha = hashlib.sha256(str(self.type).encode())
            sha.update(data.data)
            self._digest = sha.hexdigest()
        return self._digest

    def __repr__(self) -> str:
        return f"@{self.name}: {self.type}"
