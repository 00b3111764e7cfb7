"""``file.py:function``: how the command line gets a model, its inputs and its data."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from ..ir.errors import ConfigError, nearest

HELP = (
    "return (model, args), (model, args, kwargs), or a dict with model, args and perhaps kwargs, dynamic_shapes, "
    "calibration, quality, latency_inputs, latency_weights"
)


@dataclass(frozen=True)
class Source:
    """What a user's function gave.

    Attributes:
        model: ``nn.Module``, ``torch.export.ExportedProgram`` or ``fx.GraphModule``.
        args: example inputs.
        kwargs: example keyword inputs.
        dynamic_shapes: as for ``torch.export.export``.
        calibration: iterable of inputs, or ``None``.
        quality: function of a model, larger is better, or ``None``.
        latency_inputs: calls that latency is measured on, or ``None`` for the example inputs.
        latency_weights: how often each of them happens, or ``None``.
    """

    model: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dynamic_shapes: Any = None
    calibration: Any = None
    quality: Callable[[Any], float] | None = None
    latency_inputs: Any = None
    latency_weights: Any = None


def load_source(spec: str) -> Source:
    """Runs ``function`` of ``file.py`` and reads what it returns.

    Raises:
        ConfigError: no such file or function, the user's code raised, or it returned something else.
    """
    path, name = _split(spec)
    with _importable(path.parent):
        module = _load(path)
        function = getattr(module, name, None)
        if not callable(function):
            raise ConfigError(_no_function(path, name, module))
        with _user_code(path, name):
            result = function()
    return read_source(result, f"{path}:{name}")


def read_source(result: object, where: str) -> Source:
    """A source from what a function returned: a tuple, a mapping, or an object with the same names as attributes.

    Raises:
        ConfigError: the value has another shape; ``where`` names its origin.
    """
    if isinstance(result, tuple):
        items = cast(tuple[object, ...], result)
        if len(items) not in (2, 3):
            raise ConfigError(f"{where}: expected 2 or 3 values, found {len(items)}; {HELP}")
        return _checked(dict(zip(("model", "args", "kwargs"), items, strict=False)), where)
    if isinstance(result, Mapping):
        return _checked(cast(Mapping[str, object], result), where)
    names = [item.name for item in fields(Source)]
    if hasattr(result, "model") and hasattr(result, "args"):
        return _checked({name: getattr(result, name) for name in names if hasattr(result, name)}, where)
    raise ConfigError(f"{where}: expected a model with its inputs, found {type(result).__name__}; {HELP}")


def _checked(values: Mapping[str, object], where: str) -> Source:
    known = [item.name for item in fields(Source)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{where}: expected the keys {', '.join(known)}, found {name!r}{nearest(name, known)}")
    for name in ("model", "args"):
        if values.get(name) is None:
            raise ConfigError(f"{where}: expected {name!r}, found none; {HELP}")
    args, kwargs = values["args"], values.get("kwargs") or {}
    if not isinstance(args, tuple | list):
        found = type(args).__name__
        raise ConfigError(f"{where}: expected a tuple of inputs, found {found}; write (model, (input,)); {HELP}")
    if not isinstance(kwargs, Mapping):
        found = type(kwargs).__name__
        raise ConfigError(f"{where}: expected kwargs to be a dict of inputs by name, found {found}; {HELP}")
    for name in ("model", "quality"):
        if values.get(name) is not None and not (callable(values[name]) or hasattr(values[name], "graph_module")):
            raise ConfigError(f"{where}: expected {name!r} to be callable, found {type(values[name]).__name__}")
    given = {**values, "args": tuple(cast(list[object], args)), "kwargs": cast(Mapping[str, object], kwargs)}
    return Source(**cast(dict[str, Any], given))


def _split(spec: str) -> tuple[Path, str]:
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"model: expected file.py:function such as examples/minilm.py:build, found {spec!r}")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"model: expected a Python file, found nothing at {file!r}; check the path")
    return path, name


def _load(path: Path) -> object:
    name = f"instar_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _user_code(path, "import"):
        spec.loader.exec_module(module)
    return module


def _no_function(path: Path, name: str, module: object) -> str:
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    found = "a value" if hasattr(module, name) else "nothing"
    return f"{path}: expected a function {name!r}, found {found}{nearest(name, names)}"


@contextmanager
def _importable(folder: Path) -> Generator[None]:
    """Lets the user's file import its neighbours, as it could if it were run."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


@contextmanager
def _user_code(path: Path, what: str) -> Generator[None]:
    """Reports an exception of the user's code with its line in the user's file."""
    try:
        yield
    except (Exception, SystemExit) as problem:
        frames = traceback.extract_tb(problem.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
        line = problem.lineno if isinstance(problem, SyntaxError) else (lines[-1] if lines else None)
        place = f"{path}:{line}" if line else f"{path}"
        message = f"{place}: {what} raised {type(problem).__name__}: {problem}"
        raise ConfigError(message) from problem
