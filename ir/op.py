"""Ops: every functional torch operator is one, without a line of code; instar's dialect is registered the same way."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch._ops import OpOverload, OpOverloadPacket

from .aten import FACTS as ATEN
from .errors import CaptureError, ParseError, nearest
from .facts import ELEMENTWISE, Facts


@dataclass(frozen=True)
class Op:
    """One operation: a name and the torch overload that is its type rule (fake tensors) and its reference evaluation.

    ``overload`` is ``None`` for the structural ops ``input``, ``constant`` and ``getitem``.
    """

    name: str
    overload: OpOverload | None = None
    parameters: tuple[str, ...] = ()
    keyword_only: frozenset[str] = frozenset()
    defaults: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Op) and other.name == self.name

    @property
    def packet(self) -> str:
        """The name without the overload."""
        return ".".join(self.name.split(".")[:2])

    @property
    def facts(self) -> Facts:
        """What it costs and how it uses a weight."""
        return _facts(self.packet)

    @property
    def short_name(self) -> str:
        """The name without ``.default``."""
        return self.name.removesuffix(".default")


@functools.cache
def _facts(packet: str) -> Facts:
    if packet.startswith("instar."):
        return cast("Facts", importlib.import_module(".dialect", __package__).FACTS.get(packet, ELEMENTWISE))
    return ATEN.get(packet, ELEMENTWISE)


INPUT = Op("input")
CONSTANT = Op("constant")
GETITEM = Op("getitem", parameters=("value", "index"))
STRUCTURAL: dict[str, Op] = {op.name: op for op in (INPUT, CONSTANT, GETITEM)}


FORBIDDEN = ("aten.from_file",)
"""Operators that touch more than their arguments: a graph's text from elsewhere must not open files."""


@functools.cache
def op(name: str) -> Op:
    """The op of that name, such as ``aten.linear`` or ``aten.add.Tensor`` or ``instar.dequantize``.

    Raises:
        ParseError: there is no such operator; the message names the nearest one.
        CaptureError: the operator writes to one of its arguments, so it is not functional.
    """
    if name in STRUCTURAL:
        return STRUCTURAL[name]
    namespace, _, rest = name.partition(".")
    packet_name, _, overload_name = rest.partition(".")
    if namespace == "instar":
        importlib.import_module(".dialect", __package__)
    known = namespace.isidentifier() and packet_name.isidentifier()
    packet = getattr(getattr(torch.ops, namespace), packet_name, None) if known else None
    if not isinstance(packet, OpOverloadPacket):
        names = dir(torch.ops.aten) if namespace == "aten" else []
        raise ParseError(f"op {name!r}: no such torch operator{nearest(packet_name, names) if names else ''}")
    overload_name = overload_name or "default"
    if overload_name not in packet.overloads():
        raise ParseError(f"op {name!r}: expected one of its overloads {', '.join(packet.overloads())}")
    return op_of(getattr(packet, overload_name))


@functools.cache
def op_of(overload: OpOverload) -> Op:
    """The op of a torch overload.

    Raises:
        CaptureError: the operator writes to one of its arguments.
    """
    schema = cast(Any, overload)._schema
    name = str(overload)
    if str(overload.overloadpacket) in FORBIDDEN:
        raise CaptureError(f"op {name}: expected an operator of its arguments; it reads files; load the data before")
    if schema.is_mutable:
        raise CaptureError(f"op {name}: expected a functional operator; it writes to its arguments")
    arguments = schema.arguments
    return Op(
        name,
        overload,
        parameters=tuple(a.name for a in arguments),
        keyword_only=frozenset(a.name for a in arguments if a.kwarg_only),
        defaults={a.name: freeze(a.default_value) for a in arguments if a.has_default_value()},
    )


def freeze(value: Any) -> Any:
    """Lists to tuples, recursively, so that values can be hashed and compared."""
    if isinstance(value, list | tuple):
        return tuple(freeze(v) for v in value)
    return value


def is_random(overload: OpOverload) -> bool:
    """Whether two calls with equal arguments may differ."""
    return torch.Tag.nondeterministic_seeded in overload.tags
