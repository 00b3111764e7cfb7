"""What a pipeline needs from its surroundings: passes, formats, data, installed packages. Checked before any work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Real
from typing import Any, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from ..ir.budget import Budget
from ..ir.errors import ConfigError, InstarError, nearest
from ..ir.plugins import is_frozen
from ..targets.registry import kernels
from .schema import PassConfig, Pipeline
from .target import declaration_of
from .values import matches

DEFAULT = "default"
"""What stands for the default list in a list of passes."""

TRANSFORM_PARTS = ("name", "exact", "needs_data", "sites", "fit", "apply")
"""What a transform has."""

LOW_RANKS = re.compile(r"(.* @ )?lowrank")
"""Families that a rule gives ranks to."""

Parser = Callable[[str], object]


@dataclass(frozen=True)
class Surroundings:
    """What a pipeline is checked against.

    Attributes:
        passes: pass name -> its class, a frozen dataclass whose fields are the options.
        parse_format: raises :class:`InstarError` for a spelling that is no format.
        parse_encoder: raises :class:`InstarError` for a spelling that is no encoder.
        calibration: whether calibration data was given.
        quality: whether a quality metric was given.
        max_drop: how much of the quality may be lost, in the metric's own unit.
        needs_data: whether an encoder of this spelling works with calibration data alone.
        installed: whether a package can be imported.
        version: the installed version of a distribution.
        transforms: name of a transform -> its class, a frozen dataclass whose fields are the options.
        is_family: whether a spelling leaves options of a format open.
    """

    passes: Mapping[str, type] = field(default_factory=dict[str, type])
    parse_format: Parser = str
    parse_encoder: Parser = str
    calibration: bool = False
    quality: bool = False
    max_drop: object = None
    needs_data: Callable[[str], bool] = lambda encoder: False  # noqa: ARG005
    installed: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None
    version: Callable[[str], str] = importlib.metadata.version
    transforms: Mapping[str, type] = field(default_factory=dict[str, type])
    is_family: Callable[[str], bool] = lambda spelling: ":" not in spelling


def check(pipeline: Pipeline, around: Surroundings) -> None:
    """Finds everything that would make the pipeline fail later.

    Raises:
        ConfigError: one line per problem: where, what was expected, what was found, what to do.
    """
    searches = (_quality, _data, _formats, _ranks, _encoders, _kernels, _passes, _transforms, _packages)
    problems = [line for search in searches for line in search(pipeline, around)]
    if problems:
        raise ConfigError("\n".join(f"{pipeline.source}: {line}" for line in problems))


def check_layers(pipeline: Pipeline, layers: list[str]) -> None:
    """Finds patterns that match no layer, which are typing errors more often than not, and rules that never decide.

    Raises:
        ConfigError: one line per pattern, with the nearest layer.
    """
    problems = list(_shadowed(pipeline, layers))
    given = [(f"leave_alone[{index}]", pattern) for index, pattern in enumerate(pipeline.leave_alone)]
    given += [(f"layers[{index}].pattern", rule.pattern) for index, rule in enumerate(pipeline.layers)]
    problems += [
        f"{pipeline.source}: {where}: expected a pattern that matches a layer, found {pattern!r}, which matches none"
        + nearest(pattern.removeprefix("re:"), layers[:20])
        for where, pattern in given
        if not any(matches(pattern, layer) for layer in layers)
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _shadowed(pipeline: Pipeline, layers: list[str]) -> Iterator[str]:
    """Rules whose layers are all taken by what stands before them."""
    taken = {layer for layer in layers if any(matches(pattern, layer) for pattern in pipeline.leave_alone)}
    for index, rule in enumerate(pipeline.layers):
        own = {layer for layer in layers if rule.matches(layer)}
        if own and own <= taken:
            yield (
                f"{pipeline.source}: layers[{index}].pattern: expected a layer that no earlier rule takes, found "
                f"{rule.pattern!r}, whose layers are all taken; put it first, or remove it"
            )
        taken |= own


def build_passes(pipeline: Pipeline, passes: Mapping[str, type], default: Sequence[Any] = ()) -> tuple[Any, ...]:
    """The passes that the pipeline names, constructed, and those that it holds; the default list where it has none.

    Raises:
        ConfigError: as :func:`check`.
    """
    if pipeline.passes is None:
        return tuple(default)
    problems = list(_passes(pipeline, Surroundings(passes=passes)))
    if problems:
        raise ConfigError("\n".join(f"{pipeline.source}: {line}" for line in problems))
    built: list[Any] = []
    for config in pipeline.passes:
        built += default if config.name == DEFAULT else [config.given or passes[config.name](**config.options)]
    return tuple(built)


def build_transforms(pipeline: Pipeline, transforms: Mapping[str, type]) -> tuple[Any, ...]:
    """The transforms that the pipeline names, constructed, and those that it holds."""
    return tuple(c.given or transforms[c.name](**c.options) for c in pipeline.transforms)


def _quality(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    drop = around.max_drop
    if drop is not None and (isinstance(drop, bool) or not isinstance(drop, Real)):
        yield (
            f"max_drop: expected a number in the metric's own unit, such as 0.5, found {drop!r}; percentages and words "
            "have no meaning for a metric that instar does not know"
        )
        return
    if drop is not None and not around.quality:
        yield "max_drop: expected a quality metric with it, found none; pass quality=function(model) -> float"
    if drop is not None and not 0 <= float(drop) < float("inf"):
        yield f"max_drop: expected a number of at least 0 in the metric's unit, found {drop!r}"
    if drop is not None and pipeline.minimise is None:
        yield (
            "max_drop: expected budget='smallest', 'fastest' or one with minimise= beside it, found a budget without; "
            "say what is to be made small while the quality is kept"
        )
    if isinstance(pipeline.budget, str) and drop is None:
        yield (
            f"budget: {pipeline.budget!r} needs quality= and max_drop=, found no max_drop; say how much quality may be "
            "lost"
        )


def _data(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    if around.calibration:
        return
    lists = [("activations", pipeline.activations)]
    lists += [(f"layers[{i}].activations", rule.activations or ()) for i, rule in enumerate(pipeline.layers)]
    for where, names in lists:
        if "static_int8" in names:
            yield f"{where}: 'static_int8' needs calibration data, found none; pass calibration= or use 'dynamic_int8'"
    measure = pipeline.calibration.sensitivity
    if measure in ("fisher", "measured"):
        yield f"calibration.sensitivity: {measure!r} needs calibration data, found none; pass it or use 'auto'"
    if pipeline.search.refine:
        yield f"search.refine: {pipeline.search.refine} needs calibration data, found none; pass calibration= or use 0"
    encoders = [("encoders", pipeline.encoders)]
    encoders += [(f"layers[{i}].encoders", rule.encoders) for i, rule in enumerate(pipeline.layers)]
    for where, names in encoders:
        if names and all(around.needs_data(name) for name in names):
            yield (
                f"{where}: {names[0]!r} needs calibration data, found none; pass calibration= or add 'mse' "
                "(for factors 'svd', for sparse formats 'magnitude')"
            )


def _formats(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    lists = [("formats", pipeline.formats)]
    lists += [(f"layers[{i}].formats", rule.formats) for i, rule in enumerate(pipeline.layers)]
    for where, names in lists:
        if not isinstance(names, str):
            yield from _parsed(where, names, around.parse_format)


def _ranks(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    """A rule for ranks fills a budget on size, with one family of low ranks and what the other layers stay in."""
    rule = pipeline.search.ranks
    if rule == "solved":
        return
    if not isinstance(pipeline.budget, Budget) or pipeline.budget.size is None:
        yield f"search.ranks: expected a budget on size, which {rule!r} fills; found none; set budget.size"
    ranked = [text for text in pipeline.formats if LOW_RANKS.fullmatch(text)]
    others = [text for text in pipeline.formats if text not in ranked and not _is_family(text, around)]
    if len(ranked) != 1 or len(others) != 1 or len(pipeline.formats) != 2:
        yield (
            "search.ranks: expected a family of low ranks and the one format of layers that keep their rank, as in "
            f"formats = ['fp32', 'lowrank']; found formats = {list(pipeline.formats)}; change them, or leave ranks out"
        )


def _is_family(text: str, around: Surroundings) -> bool:
    try:
        return around.is_family(text)
    except InstarError:  # said by _formats
        return False


def _encoders(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    lists = [("encoders", pipeline.encoders)]
    lists += [(f"layers[{i}].encoders", rule.encoders) for i, rule in enumerate(pipeline.layers)]
    for where, names in lists:
        yield from _parsed(where, names or (), around.parse_encoder)


def _kernels(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    del around
    known = kernels(pipeline.target) if pipeline.kernels else {}
    for index, name in enumerate(pipeline.kernels or ()):
        if name not in known:
            hint = nearest(name, known)
            yield f"kernels[{index}]: expected a kernel of target {pipeline.target!r}, found {name!r}{hint}"


def _parsed(where: str, names: tuple[str, ...], parse: Parser) -> Iterator[str]:
    for index, name in enumerate(names):
        try:
            parse(name)
        except InstarError as problem:
            yield f"{where}[{index}]: {problem}"


def _passes(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    known = (*around.passes, DEFAULT)
    for index, config in enumerate(pipeline.passes or ()):
        where = f"passes[{index}]"
        if config.given is not None:
            yield from (f"{where}: {line}" for line in _given_pass(config.given))
        elif config.name == DEFAULT:
            yield from (f"{where}.{name}: {DEFAULT!r} has no options; remove it" for name in config.options)
        elif config.name not in around.passes:
            yield f"{where}: expected the name of a pass, found {config.name!r}{nearest(config.name, known)}"
        else:
            yield from (f"{where}.{line}" for line in _pass_options(config, around.passes[config.name]))


def _transforms(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    for index, config in enumerate(pipeline.transforms):
        where = f"transforms[{index}]"
        cls: Any = type(config.given) if config.given is not None else around.transforms.get(config.name)
        if cls is None:
            hint = nearest(config.name, around.transforms)
            yield f"{where}: expected the name of a transform, found {config.name!r}{hint}"
        elif not all(hasattr(cls, part) for part in TRANSFORM_PARTS):
            yield f"{where}: expected a transform: a frozen dataclass with {', '.join(TRANSFORM_PARTS)}; found {cls!r}"
        elif not is_frozen(cls):
            yield f"{where}: expected a frozen dataclass, found {cls!r}; write @dataclass(frozen=True)"
        elif cls.needs_data and not around.calibration:
            yield f"{where}: {config.name!r} needs calibration data, found none; pass calibration= or remove it"
        elif config.given is None:
            yield from (f"{where}.{line}" for line in _pass_options(config, cls))


def _given_pass(found: Any) -> Iterator[str]:
    wanted = "expected a pass: a frozen dataclass with name, exact and __call__(graph) -> PassResult"
    if not (is_dataclass(found) and isinstance(getattr(found, "exact", None), bool) and callable(found)):
        yield f"{wanted}; found {found!r}"
    elif not is_frozen(type(found)):
        yield f"{wanted}; found {found!r}, whose class is not frozen; write @dataclass(frozen=True)"


def _pass_options(config: PassConfig, cls: type) -> Iterator[str]:
    hints = get_type_hints(cls)
    known = [item.name for item in fields(cls) if item.init]
    wrong = 0
    for name, value in config.options.items():
        line = _unknown(name, known) if name not in known else _mistyped(name, value, hints[name])
        wrong += line is not None
        if line is not None:
            yield line
    if wrong:
        return
    try:
        cls(**config.options)
    except (InstarError, TypeError, ValueError) as problem:
        yield f"{config.name}: {problem}"


def _unknown(name: str, known: list[str]) -> str:
    return f"{name}: unknown option{nearest(name, known)}"


def _mistyped(name: str, value: object, hint: object) -> str | None:
    try:
        adapter = TypeAdapter[object](cast(Any, hint), config=ConfigDict(strict=True, arbitrary_types_allowed=True))
        adapter.validate_python(value)
    except PydanticSchemaGenerationError:
        return None
    except ValidationError:
        spelled = hint.__name__ if isinstance(hint, type) else str(hint)
        return f"{name}: expected {spelled}, found {value!r}"
    return None


def _packages(pipeline: Pipeline, around: Surroundings) -> Iterator[str]:
    declared = declaration_of(pipeline.target)
    for wanted in declared.packages if declared is not None else ():
        package, _, oldest = wanted.partition(">=")
        where = f"target: {pipeline.target!r} needs"
        if not around.installed(package):
            yield f"{where} the package {package!r}, found none; pip install {package}"
        elif oldest and _numbers(around.version(package)) < _numbers(oldest):
            yield (
                f"{where} {package} {oldest} or later, found {around.version(package)}; pip install --upgrade {package}"
            )


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor number."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
