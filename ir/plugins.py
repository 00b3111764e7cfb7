"""Passes, formats, encoders, kernels and targets by name: instar's own, those of installed packages, and given objects.

A package offers what it has through entry points, in its ``pyproject.toml``::

    [project.entry-points."instar.passes"]
    simplify-relu = "my_package.simplify_relu:SimplifyRelu"

The groups are ``instar.passes``, ``instar.formats``, ``instar.encoders``, ``instar.kernels`` and ``instar.targets``.
Only what is installed can be named: a pipeline file never says what to import. An object that is handed to ``compile``
is known for the time of that call alone.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Generic, TypeVar, cast

from .errors import ConfigError, did_you_mean, nearest

T = TypeVar("T")

KINDS = ("pass", "format", "encoder", "transform", "kernel", "target")
"""What a plugin can be."""

_NOTHING: Mapping[str, Mapping[str, object]] = MappingProxyType({})
_given: ContextVar[Mapping[str, Mapping[str, object]]] = ContextVar("given", default=_NOTHING)


@dataclass(frozen=True)
class Lazy:
    """Something of our own that is imported when it is used: ``Lazy("instar.targets.onnx.target", "OnnxTarget")``."""

    module: str
    attribute: str

    def load(self) -> object:
        """Import it."""
        return getattr(import_module(self.module), self.attribute)


@dataclass(frozen=True)
class Origin:
    """Where something that is not instar's own comes from; both are empty for an object that was handed over."""

    package: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.package} {self.version}" if self.package else "given as an object"


class Named(str):
    """The name of an object that was given in place of a name; equal to the name, and it holds the object."""

    __slots__ = ("given",)

    given: object

    def __new__(cls, name: str, given: object) -> Named:
        """A text that remembers what it names."""
        made = super().__new__(cls, name)
        made.given = given
        return made


@cache
def _entries(group: str, path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Entry points by name; the folders of installed packages are read once for every search path."""
    del path  # where they are looked for
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in importlib.metadata.entry_points(group=group):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


@dataclass(frozen=True)
class Registry(Generic[T], Mapping[str, T]):
    """Everything of one kind by name. Our own names win, then given objects, then installed packages.

    Attributes:
        kind: in a user's words, such as ``format``.
        own: what comes with instar.
        wanted: what a plugin has to be, in a user's words.
        accepts: whether something is that.
    """

    kind: str
    own: Mapping[str, T | Lazy]
    wanted: str
    accepts: Callable[[object], bool]

    @property
    def group(self) -> str:
        """The entry points' group: ``instar.formats``."""
        return f"instar.{self.kind}{'es' if self.kind.endswith('s') else 's'}"

    def __getitem__(self, name: str) -> T:
        if name in self.own:
            found = self.own[name]
            return cast("T", found.load()) if isinstance(found, Lazy) else found
        given = given_objects(self.kind)
        if name in given:
            return cast("T", given[name])
        return self._load(self._entry(name))

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in given_objects(self.kind) or name in self._installed()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.own, *given_objects(self.kind), *sorted(self._installed()))))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, name: str, where: str) -> T:
        """What has this name.

        Raises:
            ConfigError: nothing has; with the nearest name.
        """
        if name in self:
            return self[name]
        raise ConfigError(f"{where}: expected the name of a {self.kind}, found {name!r}{nearest(name, self)}")

    def origin(self, name: str) -> Origin | None:
        """Where it comes from; None for our own."""
        if name in self.own:
            return None
        if name in given_objects(self.kind):
            return Origin()
        distribution = self._entry(name).dist
        return Origin(distribution.name, distribution.version) if distribution is not None else Origin()

    def shadowed(self) -> dict[str, Origin]:
        """Plugins that nobody can use, because instar has something of its own under their name."""
        found = {name: entries[0] for name, entries in self._installed().items() if name in self.own}
        return {name: Origin(e.dist.name, e.dist.version) if e.dist else Origin() for name, e in found.items()}

    def sound(self) -> tuple[dict[str, T], dict[str, str]]:
        """What can be used, by name, and why the rest, of broken packages, cannot."""
        found: dict[str, T] = {}
        broken: dict[str, str] = {}
        for name in self:
            try:
                found[name] = self[name]
            except ConfigError as problem:
                broken[name] = str(problem)
        return found, broken

    def _installed(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        return _entries(self.group, tuple(sys.path))

    def _entry(self, name: str) -> EntryPoint:
        entries = self._installed()[name]
        if len(entries) != 1:
            packages = " and ".join(sorted(e.dist.name if e.dist else e.value for e in entries))
            raise ConfigError(
                f"{self.kind} {name!r}: expected one package that offers it; found {packages}; uninstall all but one"
            )
        return entries[0]

    def _load(self, entry: EntryPoint) -> T:
        package = f" of package {entry.dist.name} {entry.dist.version}" if entry.dist else ""
        where = f"{self.kind} {entry.name!r}{package}"
        try:
            found = entry.load()
        except Exception as problem:
            raise ConfigError(
                f"{where}: expected {entry.value} to be importable; found {type(problem).__name__}: {problem}; "
                "repair or uninstall the package"
            ) from problem
        if not self.accepts(found):
            raise ConfigError(f"{where}: expected {self.wanted}; found {found!r}; repair or uninstall the package")
        return cast("T", found)


def is_frozen(found: type) -> bool:
    """Whether a class is a frozen dataclass, as everything is that a compilation may share and repeat."""
    return is_dataclass(found) and bool(getattr(found, "__dataclass_params__").frozen)  # noqa: B009  # no public name


def given_objects(kind: str) -> Mapping[str, object]:
    """Objects of a kind that were handed to the call that is running, by name."""
    return _given.get().get(kind, {})


@contextmanager
def given(objects: Mapping[str, Mapping[str, object]]) -> Generator[None]:
    """Make objects known by name within the block: kind -> name -> object; those of an outer block stay known.

    Raises:
        ConfigError: there is no such kind.
    """
    for kind in objects:
        if kind not in KINDS:
            raise ConfigError(
                f"given: expected the kinds {', '.join(KINDS)}; found {kind!r}{did_you_mean(kind, KINDS)}"
            )
    outer = _given.get()
    token = _given.set({kind: {**outer.get(kind, {}), **objects.get(kind, {})} for kind in {*outer, *objects}})
    try:
        yield
    finally:
        _given.reset(token)
