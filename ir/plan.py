"""The plan: the lockfile of a compilation. JSON that a person can read and edit, with the encoded weights beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from .encodings import (
    load_encodings,
    save_encodings,
    with_biases,
    with_transforms,
    without_biases,
    without_transforms,
)
from .errors import ParseError
from .files import atomic_write_json, read_json
from .json_values import NOT_JSON, plain, read
from .options import Arithmetic, PricedOption
from .plan_findings import BiasCorrection, InOrder, KernelCost, Refinement, SolverOutcome
from .resources import RESOURCES

PLAN_VERSION = 2

_ARITHMETIC_OF_VERSION_1 = {"int8": "int8_rows", "int8_token": "int8_rows", "int8_conv": "codes", "nbits": "codes"}
"""Kernels of plans that did not say what they multiply with."""


@dataclass(frozen=True)
class StaticQuantization:
    """Scale and zero point of one statically quantized value: unsigned 8 bits."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Decision:
    """What one layer became, and what it could have become.

    Attributes:
        layer: the user's own name.
        kind: linear, conv, matmul or embedding.
        shape: shape of the weight.
        chosen: the option with its price.
        original: the layer as it was: bytes, latency, operations; loss 0.
        alternatives: other options that no better one dominates, by increasing bytes; for explanations.
        refused: options that were not possible, with the reason.
        forced: why the choice was not free, or empty.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    chosen: PricedOption
    original: PricedOption
    alternatives: tuple[PricedOption, ...] = ()
    refused: tuple[str, ...] = ()
    forced: str = ""


@dataclass(frozen=True)
class BudgetUse:
    """A budget: what was asked, what the plan uses, what binds.

    Attributes:
        resource: size, latency or ops.
        asked: the user's words, such as ``15%``.
        limit: in bytes, milliseconds or bit operations.
        used: what the plan uses of it by prediction.
        measured: what the artifact really takes, where measured.
        original: what the original takes.
        shadow_price: predicted loss that one more unit would save, 0 where the budget does not bind.
        shape: inputs that the bound holds at, empty where it is one bound for all.
    """

    resource: str
    asked: str
    limit: float
    used: float
    original: float
    shadow_price: float = 0.0
    measured: float | None = None
    shape: str = ""

    @property
    def key(self) -> str:
        """The resource, with the shape where the bound is about one of several."""
        return f"{self.resource} at {self.shape}" if self.shape else self.resource

    @property
    def found(self) -> float:
        """What the artifact takes, by prediction where it was not measured."""
        return self.used if self.measured is None else self.measured

    @property
    def exceeded(self) -> bool:
        """Whether the artifact takes more than the limit, by more than two measurements differ."""
        known = RESOURCES.get(self.resource)
        return self.found > self.limit if known is None else known.exceeds(self.found, self.limit)


@dataclass(frozen=True)
class PassUse:
    """A pass that ran before the decisions, with those of its options that are not the defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class TransformUse:
    """A rewrite that keeps the function and ran before weights were encoded.

    Attributes:
        name: of the transform.
        options: those that are not the defaults.
        sites: where something was found -> its numbers, such as the predicted loss before and after.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sites: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])


@dataclass(frozen=True, order=True)
class Plugin:
    """Something that a plan needs and that is not instar's own.

    Attributes:
        kind: pass, format, encoder, kernel or target.
        name: under which it is known.
        package: that offers it; empty for an object that was given to ``compile``.
        version: of the package.
    """

    kind: str
    name: str
    package: str = ""
    version: str = ""


@dataclass(frozen=True)
class _Tensors:
    """The file of encoded weights beside a plan."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Plan:
    """The decisions of a compilation and everything needed to replay them.

    Attributes:
        decisions: one per layer, in the order of the graph.
        fingerprint: of the captured graph, weights included.
        target: name of the target.
        target_options: options that change the artifact.
        static: name of a value -> its static quantization.
        budgets: budgets and their use.
        solver: the solver's outcome, None where nothing was to decide.
        sensitivity: the loss measure.
        seed: seed of everything random.
        versions: of the packages that decide the artifact's bytes.
        passes: that ran before the decisions, in order.
        plugins: what the plan needs beyond instar itself.
        refinement: what measuring whole plans changed, None where that was not asked for.
        in_order: what choosing codes in the order of the network changed, None where that was not asked for.
        kernel_cost: what a restriction to some kernels costs, None where that was not asked for.
        transforms: rewrites that keep the function, in order; weights are encoded behind them.
        corrections: layer -> how its bias was corrected; removing an entry leaves the bias as it was.
        encodings: layer -> stored tensors. Saved beside the JSON as safetensors.
        biases: layer -> corrected bias, one for every correction. Saved with the encodings.
        transformed: for every transform, site -> what was found there. Saved with the encodings.
    """

    decisions: tuple[Decision, ...]
    fingerprint: str
    target: str
    target_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    static: Mapping[str, StaticQuantization] = field(default_factory=dict[str, StaticQuantization])
    budgets: tuple[BudgetUse, ...] = ()
    solver: SolverOutcome | None = None
    sensitivity: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    passes: tuple[PassUse, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    refinement: Refinement | None = None
    in_order: InOrder | None = None
    kernel_cost: KernelCost | None = None
    transforms: tuple[TransformUse, ...] = ()
    corrections: Mapping[str, BiasCorrection] = field(default_factory=dict[str, BiasCorrection])
    encodings: Mapping[str, Mapping[str, Tensor]] = field(
        default_factory=dict[str, Mapping[str, Tensor]], compare=False, repr=False, metadata=NOT_JSON
    )
    biases: Mapping[str, Tensor] = field(
        default_factory=dict[str, Tensor], compare=False, repr=False, metadata=NOT_JSON
    )
    transformed: tuple[Mapping[str, Tensor], ...] = field(default=(), compare=False, repr=False, metadata=NOT_JSON)

    def __repr__(self) -> str:
        """One line: what the layers become."""
        formats = Counter(d.chosen.option.format for d in self.decisions)
        return f"<Plan for {self.target}: {', '.join(f'{n} {f}' for f, n in formats.most_common()) or 'no layers'}>"

    def decision(self, layer: str) -> Decision:
        """The decision about a layer.

        Raises:
            KeyError: there is none.
        """
        for decision in self.decisions:
            if decision.layer == layer:
                return decision
        raise KeyError(layer)

    @property
    def predicted_loss(self) -> float:
        """Summed predicted loss of the chosen options, correctly rounded."""
        return math.fsum(d.chosen.loss for d in self.decisions)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan: JSON at ``path`` and the encoded weights at ``path`` with the suffix ``.safetensors``.

        The weights are written first, so that a JSON file always has its weights.
        """
        target = Path(path)
        data = self.to_json()
        if self.encodings or self.biases or self.transformed:
            weights = target.with_suffix(".safetensors")
            stored = with_transforms(with_biases(self.encodings, self.biases), self.transformed)
            data["encodings"] = {"file": weights.name, "sha256": save_encodings(stored, weights)}
        atomic_write_json(target, data)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """Read a plan that :meth:`save` wrote.

        Raises:
            ParseError: not a plan, an unknown key, a wrong type, or weights that are missing or not the plan's.
        """
        data = read_json(path, error=ParseError)
        plan = plan_from_json(data, str(path))
        reference = cast("dict[str, Any]", data).get("encodings")
        if reference is None:
            return _with_tensors(plan, {}, str(path))
        file = read(_Tensors, reference, f"{path}: plan.encodings")
        if not file.file or Path(file.file).name != file.file:
            raise ParseError(
                f"{path}: plan.encodings.file: expected the name of a file beside the plan; found {file.file!r}"
            )
        return _with_tensors(plan, load_encodings(Path(path).parent / file.file, file.sha256, str(path)), str(path))

    def digest(self) -> str:
        """SHA-256 of what decides the artifact: options, static quantization, corrected layers, model, target, seed."""
        parts = {
            "fingerprint": self.fingerprint,
            "target": self.target,
            "target_options": plain(self.target_options),
            "options": {d.layer: d.chosen.option.words for d in self.decisions},
            "static": plain(self.static),
            "seed": self.seed,
        }
        if self.transforms:
            parts["transforms"] = [[t.name, plain(t.options), sorted(t.sites)] for t in self.transforms]
        if self.corrections:
            parts["corrected"] = sorted(self.corrections)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data without the encoded weights and the corrected biases."""
        return {"instar_plan": PLAN_VERSION, **plain(self)}


def _with_tensors(plan: Plan, stored: Mapping[str, Mapping[str, Tensor]], where: str) -> Plan:
    """The plan with what the file beside it holds; a bias whose correction was removed from the plan is dropped.

    Raises:
        ParseError: a correction without its bias, or other transforms than those that the weights were encoded behind.
    """
    weights, found = without_transforms(stored)
    encodings, biases = without_biases(weights)
    if {n: set(t.sites) for n, t in enumerate(plan.transforms) if t.sites} != {n: set(f) for n, f in found.items()}:
        raise ParseError(
            f"{where}: transforms: expected the {len(found)} that the weights beside the plan were encoded "
            f"behind, with all their sites; found {len(plan.transforms)}; compile again to leave one out"
        )
    transformed = tuple(found.get(number, {}) for number in range(len(plan.transforms)))
    missing = [layer for layer in plan.corrections if layer not in biases]
    if missing:
        raise ParseError(
            f"{where}: corrections: expected the corrected bias of {missing[0]!r} beside the plan; found none; "
            "remove the entry or save the plan again"
        )
    chosen = {layer: biases[layer] for layer in plan.corrections}
    return dataclasses.replace(plan, encodings=encodings, biases=chosen, transformed=transformed)


def plan_from_json(data: object, where: str) -> Plan:
    """A plan from plain JSON data.

    Raises:
        ParseError: says where, what was expected and what was found.
    """
    table = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    version = table.get("instar_plan")
    if version not in (1, PLAN_VERSION):
        raise ParseError(
            f"{where}: expected a plan with instar_plan = {PLAN_VERSION} or 1; found {version!r}; compile again"
        )
    rest = {k: v for k, v in table.items() if k not in ("instar_plan", "encodings")}
    if isinstance(rest.get("passes"), list):
        rest["passes"] = [{"name": p} if isinstance(p, str) else p for p in cast("list[object]", rest["passes"])]
    if isinstance(rest.get("solver"), dict):
        rest["solver"] = {k: v for k, v in cast("dict[str, Any]", rest["solver"]).items() if k != "wall_s"}
    plan = read(Plan, rest, f"{where}: plan")
    twice = [layer for layer, count in Counter(d.layer for d in plan.decisions).items() if count > 1]
    if twice:
        raise ParseError(f"{where}: plan.decisions: expected every layer once, found {twice[0]!r} twice; remove one")
    return _of_version_1(plan) if version == 1 else plan


def _of_version_1(plan: Plan) -> Plan:
    """With the arithmetic that the kernel of every option had."""

    def upgraded(priced: PricedOption) -> PricedOption:
        arithmetic = Arithmetic(_ARITHMETIC_OF_VERSION_1.get(priced.option.kernel, "float"))
        return dataclasses.replace(priced, option=dataclasses.replace(priced.option, arithmetic=arithmetic))

    decisions = tuple(
        dataclasses.replace(d, chosen=upgraded(d.chosen), alternatives=tuple(map(upgraded, d.alternatives)))
        for d in plan.decisions
    )
    return dataclasses.replace(plan, decisions=decisions)
