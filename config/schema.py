"""The one schema behind Python, the command line and pipeline files.

A pipeline is data: which passes run, which formats each layer may take, the budgets, the target and its options. What
can be wrong with it is found before any work starts, and all problems are reported at once.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..ir.budget import Budget
from ..ir.errors import ConfigError, nearest
from ..ir.files import read_text
from ..ir.plugins import Named, given
from ..ir.resources import ResourceName
from ..targets.base import TargetOptions
from ..targets.declaration import Declaration
from .explain import explain
from .target import declaration_of, read_options, target_name, with_device
from .values import Activations, BudgetValue, Formats, Names, Pattern, Patterns, as_transforms, as_tuple, matches, plain

PRESETS = Path(__file__).parents[1] / "presets"
MAX_FILE_BYTES = 10**6


class _Table(BaseModel):
    """A table of the file: unknown keys and wrong types are errors."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LayerRule(_Table):
    """What the layers whose name matches may become; the first rule that matches a layer decides.

    Attributes:
        pattern: a glob (``*`` matches dots too), or ``re:`` and a regular expression that must match the whole name.
        formats: spellings such as ``int4:g64``, or ``"keep"``: the layer stays as it is.
        activations: how inputs may be quantized; the pipeline's list where not given.
        encoders: ways to choose codes; the pipeline's list where not given.
    """

    pattern: Pattern
    formats: Formats
    activations: Activations | None = None
    encoders: Names | None = None

    def matches(self, layer: str) -> bool:
        """Whether the rule speaks about the layer of this name."""
        return matches(self.pattern, layer)


class PassConfig(_Table):
    """A pass by name, with options; in a file ``"fold-constants"`` or ``{name = "fold-constants", limit = 3}``.

    Attributes:
        name: of the pass, or ``"default"`` for the whole default list.
        options: its fields.
        given: the pass itself, where it was given as an object.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    given: Any = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if is_dataclass(value) and not isinstance(value, type | PassConfig):
            options = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "name"}
            return {"name": getattr(value, "name", None), "options": options, "given": value}
        if not isinstance(value, Mapping | PassConfig):
            raise ValueError(f"expected a pass (a frozen dataclass with name and exact) or its name, found {value!r}")
        if isinstance(value, Mapping) and "options" not in value:
            table = dict(cast(Mapping[str, object], value))
            return {"name": table.pop("name", None), "options": {key: as_tuple(item) for key, item in table.items()}}
        return value


class CalibrationOptions(_Table):
    """How calibration data is used.

    Attributes:
        activations: how the range of a statically quantized activation is chosen.
        percentile: share of values inside the range, for ``activations = "percentile"``.
        sensitivity: measure of the loss that a choice adds; ``auto``: ``fisher`` with gradients, else ``output_error``.
        max_batches: batches to read at most.
        bias_correction: whether biases take back what a plan does to the mean of a layer's output; ``auto``: in
            networks with convolutions, where it was measured to help. Without data there is none.
        sequential: choose the codes of a finished plan anew in the order of the network, each layer for the inputs that
            the encoded layers before it give (GPTQ as published); kept where whole plans measure better with them.
    """

    activations: Literal["minmax", "percentile", "mse"] = "mse"
    percentile: float | None = Field(default=None, gt=50, le=100)
    sensitivity: Literal["auto", "fisher", "output_error", "measured"] = "auto"
    max_batches: int = Field(default=64, ge=1)
    bias_correction: Literal["auto", "always", "never"] = "auto"
    sequential: bool = False


class SearchOptions(_Table):
    """How the allocation is solved.

    Attributes:
        time_limit_s: seconds for the solver.
        gap: relative gap at which it may stop; 0 is a proof.
        refine: plans to build and measure after the optimum, each the optimum of an expansion around the best one so
            far; the one that loses least on the calibration data is taken. Needs calibration data and gradients.
        pairs: pairs of layers whose interaction is measured for one more plan (CLADO), the most sensitive ones.
        kernel_cost: price what ``kernels`` leaves out as well and solve once more with it, for a number of what the
            restriction costs.
        ranks: who chooses ranks: the solver like everything else, or as a baseline one threshold for all layers,
            WeLore's or that of explained variance.
    """

    time_limit_s: float = Field(default=60.0, gt=0)
    gap: float = Field(default=0.0, ge=0, lt=1)
    refine: int = Field(default=0, ge=0, le=64)
    pairs: int = Field(default=0, ge=0, le=256)
    kernel_cost: bool = False
    ranks: Literal["solved", "welore", "explained-variance"] = "solved"


class ReportOptions(_Table):
    """What the report measures beyond the decisions: random plans for predicted against measured loss; 0 is none."""

    random_plans: int = Field(default=0, ge=0)


class Pipeline(_Table):
    """A whole pipeline. Every way to make one validates it and raises :class:`ConfigError` with all problems.

    Attributes:
        target: ``onnx``, ``torch``, or that of an installed package, perhaps with a device: ``onnx:device.json``.
        target_options: options of the target, as it declares them.
        budget: upper bounds, perhaps with a resource to ``minimise``; or ``"smallest"`` or ``"fastest"``: the model
            that is that within the caller's own quality metric.
        formats: what layers without a rule may become; ``fp32`` in the list lets a layer stay float. Not given: what is
            usual, and where times count, what the target's processor wants besides.
        activations: how inputs may be quantized; ``dynamic_int8`` stands for all its granularities.
        encoders: ways to choose codes (``rtn``, ``mse``, ``gptq``); not given: the best that the data allows.
        kernels: of the target, that layers may be computed with; not given: all. A layer as it was needs none.
        layers: rules per layer, the first match wins.
        leave_alone: patterns of layers that stay as they are, before any rule.
        passes: the passes to run instead of the default list, which ``"default"`` in the list stands for.
        transforms: rewrites that keep the function and make weights easier to store, in order: ``awq``,
            ``smooth-quant``, ``rotate-residual``, ``permute-channels``, or ``auto``, which tries those that fit.
        calibration: how calibration data is used.
        search: limits of the solver.
        report: what is measured for the report.
        input_names: one name for each input tensor, instead of the names of arguments.
        output_names: one name for each output tensor, instead of the keys of what the model returns.
        check_passes: compare the model after every pass with the one before on real inputs.
        seed: of everything random.
    """

    target: Annotated[str, PlainValidator(target_name), PlainSerializer(plain)] = "onnx"
    target_options: Annotated[TargetOptions, PlainSerializer(asdict)] = Field(
        default=cast("TargetOptions", {}), validate_default=True
    )
    budget: BudgetValue = None
    formats: Formats = ("fp32", "int8:channel", "int8:g32", "int4:g32", "int4:g64", "int4:g128")
    activations: Activations = ("none", "dynamic_int8")
    encoders: Names | None = None
    kernels: Names | None = None
    layers: Annotated[tuple[LayerRule, ...], BeforeValidator(as_tuple)] = ()
    leave_alone: Patterns = ()
    passes: Annotated[tuple[PassConfig, ...] | None, BeforeValidator(as_tuple)] = None
    transforms: Annotated[tuple[PassConfig, ...], BeforeValidator(as_transforms)] = ()
    calibration: CalibrationOptions = CalibrationOptions()
    search: SearchOptions = SearchOptions()
    report: ReportOptions = ReportOptions()
    input_names: Names | None = None
    output_names: Names | None = None
    check_passes: bool = True
    seed: int = Field(default=0, ge=0, lt=2**32)

    _source: str = PrivateAttr(default="pipeline")

    @field_validator("target_options", mode="plain")
    @classmethod
    def _options(cls, value: object, info: ValidationInfo) -> TargetOptions:
        """As the target declares them; nothing is said about those of a target that is not known."""
        declared = declaration_of(cast("str", info.data.get("target", "")))
        return TargetOptions() if declared is None else read_options(declared, value)

    @model_validator(mode="wrap")
    @classmethod
    def _teach(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validates, then turns every problem into one line of a ConfigError."""
        try:
            table = cast("Mapping[str, object] | None", value if isinstance(value, Mapping) else None)
            pipeline = handler(value if table is None else with_device(table))
        except ValidationError as problem:
            raise ConfigError("\n".join(explain(cls, problem))) from None
        problems = pipeline.contradictions()
        if problems:
            raise ConfigError("\n".join(problems))
        return pipeline

    @classmethod
    def load(cls, pipeline: str | os.PathLike[str]) -> Self:
        """A pipeline from a preset's name or a TOML file.

        A file may start from a preset with ``extends = "cpu"``; its tables are laid over the preset's.

        Raises:
            ConfigError: no such preset or file, not TOML, or not a valid pipeline; with file and key of every problem.
        """
        path = _locate(pipeline)
        data = _read_toml(path)
        base = data.pop("extends", None)
        if base is not None:
            if not isinstance(base, str) or base not in presets():
                raise ConfigError(f"{path}: extends: expected a preset, found {base!r}{nearest(str(base), presets())}")
            data = _laid_over(_read_toml(PRESETS / f"{base}.toml"), data, f"{path}: ")
        return cls.parse(data, f"preset {path.stem!r}" if path.parent == PRESETS else str(path))

    @classmethod
    def parse(cls, data: Mapping[str, object], where: str = "pipeline") -> Self:
        """A pipeline from plain data; ``where`` names its origin in errors.

        Raises:
            ConfigError: with the key, what was expected and what was found, one line per problem.
        """
        for name in ("quality", "max_drop"):
            if name in data:
                raise ConfigError(f"{where}: {name}: expected it from Python; pass it to instar.compile({name}=...)")
        try:
            pipeline = cls.model_validate(dict(data))
        except ConfigError as problem:
            lines = str(problem).splitlines()
            raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None
        pipeline._source = where
        return pipeline

    def merged(self, **overrides: object) -> Self:
        """The same pipeline with the arguments that are not ``None`` laid over it; tables are merged key by key."""
        given = {name: value for name, value in overrides.items() if value is not None}
        own: dict[str, object] = {name: getattr(self, name) for name in self.model_fields_set}
        for name, value in own.items():
            if isinstance(value, _Table) and isinstance(given.get(name), Mapping):
                own[name] = {key: getattr(value, key) for key in value.model_fields_set}
            elif isinstance(value, TargetOptions):
                own[name] = value.chosen()
        source = f"{self._source} with arguments" if given else self._source
        return type(self).parse(_laid_over(own, given, f"{source}: "), source)

    def given(self) -> dict[str, dict[str, object]]:
        """Objects that stand in the pipeline in place of names: kind -> name -> object."""
        formats = [self.formats, *(rule.formats for rule in self.layers)]
        encoders = [self.encoders or (), *(rule.encoders or () for rule in self.layers)]
        kinds = {"target": (self.target,), "format": chain(*formats), "encoder": chain(*encoders)}
        return {kind: {n: n.given for n in names if isinstance(n, Named)} for kind, names in kinds.items()}

    @property
    def source(self) -> str:
        """Where the pipeline came from, for messages."""
        return self._source

    @property
    def formats_left_open(self) -> bool:
        """Whether nobody said what layers without a rule may become."""
        return "formats" not in self.model_fields_set

    @property
    def minimise(self) -> ResourceName | None:
        """What is to be made as small as it gets."""
        if isinstance(self.budget, Budget):
            return self.budget.minimise
        names: dict[str, ResourceName] = {"smallest": "size", "fastest": "latency"}
        return names[self.budget] if self.budget is not None else None

    def to_mapping(self) -> dict[str, Any]:
        """Every value as plain JSON data, defaults included; :meth:`parse` takes it back."""
        return self.model_dump(mode="json")

    def rule_for(self, layer: str) -> LayerRule:
        """The complete rule for a layer: ``leave_alone`` first, then the first match, then the pipeline's own lists."""
        default = LayerRule(pattern="*", formats=self.formats, activations=self.activations, encoders=self.encoders)
        kept = next((pattern for pattern in self.leave_alone if matches(pattern, layer)), None)
        if kept is not None:
            return default.model_copy(update={"pattern": kept, "formats": "keep"})
        found = next((rule for rule in self.layers if rule.matches(layer)), default)
        missing = {"activations": found.activations or self.activations, "encoders": found.encoders or self.encoders}
        return found.model_copy(update=missing)

    def contradictions(self) -> list[str]:
        """Combinations of values that are each valid and cannot hold together."""
        found: list[str] = []
        if self.search.refine and self.calibration.sensitivity not in ("auto", "fisher"):
            found.append(
                "search.refine: expected calibration.sensitivity 'auto' or 'fisher', whose losses are those of the "
                f"whole network; found {self.calibration.sensitivity!r}; change one of them"
            )
        if self.search.pairs and not self.search.refine:
            found.append(
                "search.pairs: expected search.refine of at least 1, which measures what interactions lead to; "
                "found 0; set it, or leave pairs out"
            )
        if self.search.refine and self.minimise is not None:
            found.append(
                f"search.refine: expected 0 where {self.minimise} is minimised; found {self.search.refine}; compile "
                "with the bound that it finds to refine that plan"
            )
        method = self.calibration.activations
        if self.calibration.percentile is not None and method != "percentile":
            found.append(
                f"calibration.percentile: expected calibration.activations = 'percentile', found {method!r}; "
                "remove one of them"
            )
        return found


def resolve(pipeline: str | os.PathLike[str] | Mapping[str, object] | Pipeline | None, **overrides: object) -> Pipeline:
    """A pipeline from whatever ``compile`` was given: a preset, a file, a table or a pipeline, with arguments on top.

    Raises:
        ConfigError: see :meth:`Pipeline.load` and :meth:`Pipeline.parse`.
    """
    target = overrides.get("target")
    with given({"target": {target.name: target}} if isinstance(target, Declaration) else {}):
        return _resolved(pipeline, overrides)


def _resolved(
    pipeline: str | os.PathLike[str] | Mapping[str, object] | Pipeline | None, overrides: Mapping[str, object]
) -> Pipeline:
    if pipeline is None:
        return Pipeline.parse({name: value for name, value in overrides.items() if value is not None}, "compile")
    if isinstance(pipeline, Mapping):
        return Pipeline.parse(pipeline).merged(**overrides)
    return (pipeline if isinstance(pipeline, Pipeline) else Pipeline.load(pipeline)).merged(**overrides)


def presets() -> list[str]:
    """Names of the pipelines that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _locate(pipeline: str | os.PathLike[str]) -> Path:
    name = os.fspath(pipeline)
    if name in presets():
        return PRESETS / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return path
    raise ConfigError(f"pipeline: expected a preset or a .toml file, found {name!r}{nearest(name, presets())}")


def _read_toml(path: Path) -> dict[str, object]:
    text = read_text(path, max_bytes=MAX_FILE_BYTES, error=ConfigError)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise ConfigError(f"{path}: expected TOML, found: {problem}") from None


def _laid_over(base: Mapping[str, object], top: Mapping[str, object], where: str) -> dict[str, object]:
    """``top`` over ``base``; a table in both is merged one level deep, a budget is replaced whole."""
    base, top = with_device(base, where), with_device(top, where)
    result = {**base, **top}
    for name, value in top.items():
        below = base.get(name)
        if name != "budget" and isinstance(below, Mapping) and isinstance(value, Mapping):
            result[name] = {**cast(Mapping[str, object], below), **cast(Mapping[str, object], value)}
    return result
