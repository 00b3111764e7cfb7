"""What a plan needs beyond instar itself: kept when it is made, asked for when it is replayed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from ..ir.errors import ConfigError, InstarError, ParseError, nearest
from ..ir.plan import Decision, PassUse, Plan, Plugin
from ..ir.plugins import Origin, Registry, given_objects
from ..passes.base import Pass
from ..passes.encoders import ENCODERS, encoder
from ..passes.formats import FORMATS
from ..passes.formats import format as parse_format
from ..passes.formats.registry import names_in
from ..passes.registry import PASSES
from ..passes.transforms import TRANSFORMS, BeforeEncoding
from ..targets.registry import KERNELS, TARGETS, kernels

REGISTRIES: dict[str, Registry[Any]] = {r.kind: r for r in (FORMATS, ENCODERS, KERNELS, TARGETS)}


def check_spellings(plan: Plan, where: str) -> None:
    """Every format, encoder and kernel of a plan is one; those of packages that are not here are not judged.

    Raises:
        ParseError: one is not; names file and layer.
    """
    foreign = {(p.kind, p.name) for p in plan.plugins}
    known = kernels(plan.target) if plan.target in TARGETS else {}
    for decision in plan.decisions:
        option = decision.chosen.option
        at = f"{where}: layer {decision.layer}"
        try:
            if not _foreign(FORMATS, option.format, foreign):
                parse_format(option.format)
            if not option.unchanged and not _foreign(ENCODERS, option.encoder, foreign):
                encoder(option.encoder)
        except InstarError as problem:
            raise ParseError(f"{at}: {problem}") from problem
        if option.unchanged or not known or ("kernel", option.kernel) in foreign or option.kernel in known:
            continue
        hint = nearest(option.kernel, known)
        raise ParseError(f"{at}: expected a kernel of target {plan.target}, found {option.kernel!r}{hint}")


def _foreign(registry: Registry[Any], spelling: str, foreign: Collection[tuple[str, str]]) -> bool:
    """Whether a spelling names something that is not instar's own."""
    return any(kind == registry.kind and name in spelling for kind, name in foreign)


def pass_use(found: Pass) -> PassUse:
    """A pass as a plan keeps it: its name, and the options that are not the defaults."""
    return PassUse(found.name, options_of(found))


def options_of(found: object) -> dict[str, Any]:
    """The fields of a frozen dataclass that are not the defaults."""
    if not is_dataclass(found):
        return {}
    given = {f.name: getattr(found, f.name) for f in fields(found) if f.init and f.name != "name"}
    defaults = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(found)}
    return {name: _plain(value) for name, value in given.items() if value != defaults[name]}


def _plain(value: object) -> Any:
    """What JSON can hold; other values are told apart by what they show of themselves."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def plugins_of(
    passes: Sequence[Pass], decisions: Sequence[Decision], target: str, transforms: Sequence[BeforeEncoding] = ()
) -> tuple[Plugin, ...]:
    """Everything that is not instar's own, each once, in order of kind and name."""
    found = dict.fromkeys((*_passes(passes), *_transforms(transforms), *_named(decisions, target)))
    return tuple(sorted(found))


def _passes(passes: Sequence[Pass]) -> Iterator[Plugin]:
    for item in passes:
        registered = item.name in PASSES and type(item) is PASSES[item.name]
        origin = PASSES.origin(item.name) if registered else Origin()
        if origin is not None:
            yield Plugin(PASSES.kind, item.name, origin.package, origin.version)


def _transforms(transforms: Sequence[BeforeEncoding]) -> Iterator[Plugin]:
    for item in transforms:
        registered = item.name in TRANSFORMS and type(item) is TRANSFORMS[item.name]
        origin = TRANSFORMS.origin(item.name) if registered else Origin()
        if origin is not None:
            yield Plugin(TRANSFORMS.kind, item.name, origin.package, origin.version)


def transforms_of(plan: Plan, given: Sequence[BeforeEncoding]) -> tuple[BeforeEncoding, ...]:
    """The transforms of a plan, made anew; those that were given as objects are taken from what is given now.

    Raises:
        ConfigError: one is missing.
    """
    objects = {item.name: item for item in given}
    built: list[BeforeEncoding] = []
    for use in plan.transforms:
        foreign = any(p.kind == TRANSFORMS.kind and p.name == use.name and not p.package for p in plan.plugins)
        if foreign or use.name not in TRANSFORMS:
            if use.name not in objects:
                raise ConfigError(_missing(Plugin(TRANSFORMS.kind, use.name)))
            built.append(objects[use.name])
        else:
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in use.options.items()}
            built.append(TRANSFORMS[use.name](**options))
    return tuple(built)


def _named(decisions: Sequence[Decision], target: str) -> Iterator[Plugin]:
    used = {(TARGETS.kind, target)}
    for decision in decisions:
        option = decision.chosen.option
        used |= {(FORMATS.kind, name) for name in names_in(option.format)}
        used |= {(ENCODERS.kind, name) for name in _heads(option.encoder)}
        used |= {(KERNELS.kind, option.kernel)} if option.kernel in KERNELS else set()
    for kind, name in used:
        origin = REGISTRIES[kind].origin(name)
        if origin is not None:
            yield Plugin(kind, name, origin.package, origin.version)


def _heads(encoder: str) -> list[str]:
    """The names that the registry knows, one for each family: an object is known by its whole spelling."""
    given = given_objects(ENCODERS.kind)
    return [part if part in given else part.partition(":")[0] for part in encoder.split("+")]


def passes_of(plan: Plan, given: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes of a plan, made anew; those that were given as objects are taken from what is given now.

    Raises:
        ConfigError: one is missing.
    """
    objects = {item.name: item for item in given}
    foreign = {p.name for p in plan.plugins if p.kind == PASSES.kind and not p.package}
    built: list[Pass] = []
    for use in plan.passes:
        if use.name in foreign or use.name not in PASSES:
            if use.name not in objects:
                raise ConfigError(_missing(Plugin(PASSES.kind, use.name)))
            built.append(objects[use.name])
        else:
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in use.options.items()}
            built.append(PASSES[use.name](**options))
    return tuple(built)


def check_plugins(plan: Plan) -> None:
    """Formats, encoders and target of a plan are known here.

    Raises:
        ConfigError: names what is missing, and where it comes from.
    """
    for plugin in plan.plugins:
        registry: Registry[Any] = REGISTRIES.get(plugin.kind, TRANSFORMS if plugin.kind == TRANSFORMS.kind else PASSES)
        if (plugin.package or plugin.kind not in (PASSES.kind, TRANSFORMS.kind)) and plugin.name not in registry:
            raise ConfigError(_missing(plugin))


def _missing(plugin: Plugin) -> str:
    where = f"plan: expected the {plugin.kind} {plugin.name!r}"
    if plugin.package:
        package = f"{plugin.package} {plugin.version}"
        return f"{where} of the package {package}, found none; pip install {plugin.package}=={plugin.version}"
    return f"{where}, which was given as an object, found none; give it again"
