"""What torch.export says when it fails, in a few words: the user's line, what was expected, found, and what to do."""

from __future__ import annotations

import contextlib
import inspect
import io
import keyword
import logging
import re
import traceback
import warnings
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, cast

import sympy
import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from ..expressions import symbol
from .any_size import AnySize
from .dims import argument_names, user_names
from .guards import GuardLines
from .places import is_users, short_place, shown_line, user_line
from .ranges import narrowed

SHOWN = 8
"""How many offenders a message lists before it only counts the others."""
_LOGGERS = (
    "torch.export",
    "torch._export",
    "torch.fx.experimental.symbolic_shapes",
    "torch._dynamo",
    "torch._subclasses",
    "torch._subclasses.fake_tensor",
)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Silences torch.export's own warnings, logging and printed graphs; errors still arrive as exceptions."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def listed(items: Iterable[str]) -> str:
    """One item per line, equal ones once, the first few only and a count of the rest."""
    unique = list(dict.fromkeys(items))
    rest = [f"  and {len(unique) - SHOWN} more"] if len(unique) > SHOWN else []
    return "\n".join([*(f"  {item}" for item in unique[:SHOWN]), *rest])


def explain(
    error: Exception, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> CaptureError | None:
    """The error that the user sees in place of a usual one of torch.export; None for an unusual one."""
    text = str(error)
    if isinstance(error, UserError) and "Constraints violated" in text:
        return _constraints(text, model, args, kwargs, dynamic_shapes)
    if isinstance(error, UserError) and "dynamic_shapes" in text:
        return CaptureError(f"dynamic_shapes: {_first_line(text)}")
    if "is not a known type" in text:
        return _unknown_type(text, model)
    if isinstance(error, TypeError) and "argument" in text and _user_frame(error.__traceback__) is None:
        return _wrong_arguments(model, text)
    if isinstance(error, SyntaxError):
        return _keywords(n for n, _ in model.named_modules())
    if isinstance(error, GuardOnDataDependentSymNode):
        return CaptureError(
            f"{_where(error)}: expected a choice that depends on sizes only; found one that depends on the values of a "
            "tensor; use torch.where, or compute it outside the model"
        )
    return None


def refuse_unrunnable(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell a model that cannot even be called with the examples apart from one that torch.export cannot take.

    Raises:
        CaptureError: the call fails; names the user's line.
    """
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as failure:
        at = f" at {_where(failure)}" if _user_frame(failure.__traceback__) else ""
        raise CaptureError(
            f"args: expected example inputs that the model can run; called with them it raises{at}: "
            f"{type(failure).__name__}: {_first_line(str(failure))}; give inputs of the shapes and dtypes it expects"
        ) from failure


def unexplained(error: Exception) -> CaptureError:
    """The error for what :func:`explain` does not know: the user's line and the first line of torch's words."""
    text = _first_line(str(error))
    return CaptureError(f"{_where(error)}: torch.export cannot capture this: {type(error).__name__}: {text}")


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else "no message"
    return re.split(r" (?:For more information|Alternatively|See https?:|Use tlparse|If you would like)", first)[0]


def _where(error: Exception) -> str:
    frame = _user_frame(error.__traceback__)
    if frame is None:
        return "model"
    return shown_line(*frame)


def _user_frame(trace: TracebackType | None) -> tuple[str, int] | None:
    found = None
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if is_users(path):
            found = (path, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _unknown_type(text: str, model: nn.Module) -> CaptureError:
    name = (re.findall(r"<class '([^']+)'>", text) or ["an unknown class"])[0].rsplit(".", 1)[-1]
    side = "output" if "in output" in text else "input"
    caching = _caching(model) if "Cache" in name else []
    advice = (
        f"for a transformers model set {' and '.join(caching)}"
        if caching
        else f"return its tensors, or register it: torch.utils._pytree.register_pytree_node({name}, ...)"
    )
    return CaptureError(
        f"model: expected an {side} of tensors, tuples, lists, dicts and registered classes; found {name}; {advice}"
    )


def _caching(model: nn.Module) -> list[str]:
    """``model.decoder.config.use_cache = False`` for every configuration in the model that asks for a cache."""
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", False):
            found.setdefault(id(config), f"{'.'.join(['model', *filter(None, [name])])}.config.use_cache = False")
    return list(found.values())


def _wrong_arguments(model: nn.Module, text: str) -> CaptureError:
    signature = inspect.signature(model.forward)
    return CaptureError(f"model: expected example inputs that fit forward{signature}; found: {_first_line(text)}")


def explain_functionalization(error: Exception, program: ExportedProgram) -> CaptureError:
    """The error that the user sees where torch fails to make an exported program functional."""
    text = re.split(r" so this behavior is banned| As a workaround", _first_line(str(error)))[0]
    return CaptureError(
        f"model: torch cannot make it functional: {type(error).__name__}: {text}; build the tensor without writing to "
        f"parts of it (torch.cat, torch.stack, torch.where) in these lines:\n{listed(write_places(program))}"
    )


def write_places(program: ExportedProgram) -> list[str]:
    """``file.py:12 (operator)`` of every call that writes to a tensor."""
    calls = (n for n in program.graph.nodes if n.op == "call_function" and isinstance(n.target, OpOverload))
    writing = [n for n in calls if n.target._schema.is_mutable]
    return [f"{user_line(n.meta.get('stack_trace') or '') or 'unknown line'} ({n.target})" for n in writing]


def refuse_fixed(before: ExportedProgram, after: ExportedProgram) -> None:
    """Refuse a program whose inputs lost a dynamic size on the way.

    Raises:
        CaptureError: says which input and size, and the lines that write to tensors.
    """
    found = [
        f"input {name}, axis {axis}: {size} at capture, fixed to {fixed}"
        for (name, shape), (_, left) in zip(_user_shapes(before), _user_shapes(after), strict=True)
        for axis, (size, fixed) in enumerate(zip(shape, left, strict=True))
        if not isinstance(size, int) and isinstance(fixed, int)
    ]
    if found:
        raise CaptureError(
            "dynamic_shapes: expected the sizes that were asked for to stay dynamic; found some that torch fixed while "
            f"it made writes functional:\n{listed(found)}\n  build the tensor without writing to parts of it "
            f"(torch.cat, torch.stack, torch.where) in these lines:\n{listed(write_places(before))}"
        )


def _user_shapes(program: ExportedProgram) -> list[tuple[str, tuple[Any, ...]]]:
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    return [
        (n.name, tuple(n.meta["val"].shape))
        for n, spec in zip(placeholders, program.graph_signature.input_specs, strict=True)
        if spec.kind is InputKind.USER_INPUT and isinstance(n.meta.get("val"), torch.Tensor)
    ]


def refuse_names(program: ExportedProgram) -> None:
    """Refuse names that the code of an FX module cannot hold.

    Raises:
        CaptureError: a module, parameter or argument has such a name.
    """
    arguments = argument_names(program)
    usual = all(a.isidentifier() and not keyword.iskeyword(a) for a in arguments)
    names = [n for n in (*program.state_dict, *program.constants) if _has_keyword(n)]
    if names or not usual or len(set(arguments)) < len(arguments):
        raise _keywords(names)


def _keywords(names: Iterable[str]) -> CaptureError:
    found = [n for n in names if _has_keyword(n)]
    rename = f"rename:\n{listed(found)}" if found else "rename arguments that are no Python names or occur twice"
    return CaptureError(f"model: torch.export needs names that are not Python keywords; {rename}")


def _has_keyword(name: str) -> bool:
    return any(keyword.iskeyword(part) for part in name.split("."))


# ------------------------------------------------------------------------------------------------ dynamic sizes
def _automatic(shapes: Any) -> Any:
    """The same structure with every dynamic dimension left to torch."""
    if isinstance(shapes, Mapping):
        return {k: _automatic(v) for k, v in cast("Mapping[Any, Any]", shapes).items()}
    if isinstance(shapes, list | tuple):
        parts = [_automatic(v) for v in cast("list[Any]", shapes)]
        return parts if isinstance(shapes, list) else tuple(parts)
    return shapes if shapes is None or isinstance(shapes, int) else Dim.AUTO


def _constraints(
    text: str, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> CaptureError:
    """A size that is marked dynamic is not: say which lines need which value. Torch only knows after a second look."""
    fixes = re.findall(r"^\s+(\w+ = .+)$", text.partition("Suggested fixes:")[2], re.MULTILINE)
    noted = GuardLines()
    try:
        with quiet(), torch.no_grad(), AnySize(), noted:
            program = torch.export.export(model, args, kwargs, dynamic_shapes=_automatic(shapes), strict=False)
        needed = _needed(program, shapes, args, kwargs, text, noted.lines)
    except (RuntimeError, ValueError, TypeError, AssertionError):
        needed = []
    lines = [f"{place}: needs {_readable(condition)}" for place, condition in needed]
    names = ", ".join(_violated(text)) or "the sizes"
    if not lines and re.search(r"be a constant \([01]\)", text):
        return CaptureError(
            f"dynamic_shapes: expected example inputs of size 2 or more where a size is dynamic; found size 0 or 1 for "
            f"{names}, which torch.export takes as fixed; pass a larger example"
        )
    if not lines:
        return CaptureError(
            f"dynamic_shapes: expected a model that takes every value of {names}; torch.export fixes it, and says not "
            f"where; leave {names} out of dynamic_shapes"
        )
    range_ = narrowed([condition for _, condition in needed], _violated(text), _begins(shapes))
    advice = f"or narrow the range: {range_}" if range_ else f"torch suggests {'; '.join(fixes)}" if fixes else ""
    return CaptureError(
        f"dynamic_shapes: expected a model that takes every value of {names}; found lines that do not:\n"
        f"{listed(lines)}\n"
        f"  leave {names} out of dynamic_shapes, or rewrite the lines{'; ' if advice else ''}{advice}"
    )


def _begins(shapes: Any) -> dict[str, int]:
    """The least sizes that the user's ``Dim`` objects say, by name."""
    leaves = pytree.tree_leaves(shapes)
    return {leaf.__name__: leaf.min for leaf in leaves if isinstance(leaf, Dim)}


def _violated(text: str) -> list[str]:
    """The sizes that a message of torch is about: ``length``, or ``x_dim1`` for ``L['x'].size()[1]``."""
    inside = (re.findall(r"Constraints violated \((.*?)\)!", text) or [""])[0]
    found = re.findall(r"L\[['\"](\w+)['\"]\].*?\.size\(\)\[(\d+)\]|(\w+)", inside)
    return [f"{base}_dim{axis}" if base else name for base, axis, name in found]


def _needed(
    program: ExportedProgram,
    shapes: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    text: str,
    noted: Mapping[int, str],
) -> list[tuple[str, sympy.Basic]]:
    """The line, and what it needs, for every condition on sizes that the model's lines made."""
    values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and "val" in n.meta]
    environment = next(v.fake_mode.shape_env for v in values if hasattr(v, "fake_mode"))
    names = _source_names(program, environment, user_names(shapes, args, kwargs, argument_names(program)))
    violated = _violated(text)
    found: list[tuple[str, sympy.Basic]] = []
    for number, guard in enumerate(environment.guards):
        involved = {str(names.get(s, s)) for s in guard.expr.free_symbols}
        condition = guard.expr.xreplace(names)
        if involved & set(violated) and condition != sympy.true:
            found.append((noted.get(number) or _guard_place(guard), condition))
    return found


def _guard_place(guard: Any) -> str:
    """The user's line, where torch noted one; for many conditions it only has a line of its own."""
    for frame in (guard.sloc.maybe_user_loc, guard.sloc.framework_loc):
        if isinstance(frame, traceback.FrameSummary) and is_users(frame.filename):
            return short_place(frame.filename, frame.lineno or 0)
        if isinstance(frame, str) and ":" in frame:
            return short_place(*frame.partition(" in ")[0].rsplit(":", 1))
    return "a call into torch"


def _readable(condition: sympy.Basic) -> str:
    """``length == 8``, in Python's words."""
    canonical = cast(sympy.Basic, getattr(condition, "canonical", condition))
    sign = "==" if isinstance(canonical, sympy.Eq) else "!=" if isinstance(canonical, sympy.Ne) else ""
    if not sign:
        return sympy.sstr(canonical)
    left, right = (sympy.sstr(side) for side in canonical.args)
    return f"{left} {sign} {right}"


def _source_names(
    program: ExportedProgram, environment: Any, wanted: Mapping[tuple[int, int], str]
) -> dict[sympy.Symbol, sympy.Symbol]:
    """Torch's symbols -> the user's ``Dim`` names, by the input and axis that torch made each symbol for."""
    inputs = list(program.graph_signature.user_inputs)
    names: dict[sympy.Symbol, sympy.Symbol] = {}
    for native, sources in environment.var_to_sources.items():
        for source in sources[:1]:
            base, axis = getattr(getattr(source, "base", None), "local_name", ""), getattr(source, "idx", None)
            if base in inputs and axis is not None:
                position = inputs.index(base)
                names[native] = symbol(wanted.get((position, axis)) or f"{base}_dim{axis}")
    return names
