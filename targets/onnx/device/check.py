"""A check bundle: the deployed file with inputs and outputs; what a device answers to it, beside what was predicted."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ....ir.errors import ConfigError
from ....ir.files import atomic_write_json, read_json
from ....ir.json_values import plain, read
from ..artifact import OnnxArtifact
from ..session import products_saturate
from .bundle import BundleWriter
from .networks import SPELLED
from .profile import VERSION, Answer, number_of, read_answer

REPORT = "report.json"
"""The compilation's report in a check bundle; the device needs none."""

TOLERANCE = 1e-3
"""Distance of outputs where no product of the model is in integers: another order of sums."""

INTEGER_TOLERANCE = 0.05
"""The same where activations are quantized: a rounding that falls the other way moves a code by one."""


@dataclass(frozen=True)
class Predicted:
    """One shape of the artifact.

    Attributes:
        sizes: of its inputs, in words.
        weight: share of the latency.
        original_ms: of the original, None where no latency was asked for.
        artifact_ms: as the plan predicts it.
        limit_ms: of the budget that holds at this shape by itself, None where there is none.
    """

    sizes: str
    weight: float
    original_ms: float | None
    artifact_ms: float | None
    limit_ms: float | None = None


@dataclass(frozen=True)
class Promise:
    """What a compilation says of its result.

    Attributes:
        model: name of the model.
        plan: digest of the plan.
        nbytes: of the files.
        source: where its times come from.
        tolerance: that outputs may differ by.
        cases: key -> what is predicted.
        report: digest of the compilation's report, which lies beside the manifest.
        limit_ms: of the budget over the weighted sum of the shapes, None where there is none.
    """

    model: str
    plan: str
    nbytes: int
    source: str
    tolerance: float
    cases: Mapping[str, Predicted]
    report: str
    limit_ms: float | None = None


@dataclass(frozen=True)
class Shape:
    """One shape, predicted and confirmed.

    Attributes:
        predicted: by the plan.
        median_ms: on the device.
        spread: of the device's runs, as a share of the median.
        difference: of its outputs.
        error: the runtime's words where it does not run; the numbers are None then.
    """

    predicted: Predicted
    median_ms: float | None
    spread: float | None
    difference: float | None
    error: str | None


@dataclass(frozen=True)
class Confirmation:
    """What a device says of a compiled model, beside what was promised.

    Attributes:
        promise: of the compilation.
        runtime: of the device.
        cpu: of the device.
        threads: that it ran with.
        nbytes: of the files there.
        shapes: in order.
    """

    promise: Promise
    runtime: str
    cpu: str
    threads: int
    nbytes: int
    shapes: tuple[Shape, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it was promised; latencies are for the reader to judge."""
        found: list[str] = []
        if self.nbytes != self.promise.nbytes:
            found.append(f"the model has {self.nbytes} bytes there, not {self.promise.nbytes}")
        for shape in self.shapes:
            if shape.error is not None:
                found.append(f"at {shape.predicted.sizes} it does not run: {shape.error}")
            elif shape.difference is None or not shape.difference <= self.promise.tolerance:
                far = "nothing" if shape.difference is None else f"{shape.difference:.3g}"
                found.append(
                    f"at {shape.predicted.sizes} outputs are apart by {far}, more than {self.promise.tolerance:g}"
                )
        return tuple(found)

    @property
    def slower(self) -> tuple[str, ...]:
        """Budgets of latency that the device is above; another load of it, or a wrong prediction."""
        pairs = [(f"at {s.predicted.sizes} ", s.median_ms, s.predicted.limit_ms) for s in self.shapes]
        pairs.append(("", self.latency_ms, self.promise.limit_ms))
        return tuple(
            f"{where}the device takes {found:.4g} ms, more than the budget of {limit:.4g} ms; where its times spread, "
            "measure again while it does nothing else"
            for where, found, limit in pairs
            if found is not None and limit is not None and found > limit
        )

    @property
    def latency_ms(self) -> float | None:
        """The weighted sum over the shapes, None where one does not run."""
        times = [s.median_ms for s in self.shapes]
        pairs = zip(self.shapes, times, strict=True)
        return None if None in times else math.fsum(s.predicted.weight * (t or 0.0) for s, t in pairs)


def write_check(
    folder: Path,
    artifact: OnnxArtifact,
    model: str,
    source: str,
    cases: Sequence[tuple[Predicted, Sequence[Tensor]]],
    threads: int,
    report: Mapping[str, Any],
    limit_ms: float | None = None,
) -> Promise:
    """Write a check bundle, the compilation's report in it.

    Raises:
        ConfigError: the folder cannot be written.
    """
    integers = any(d.chosen.option.activation.spelling != "none" for d in artifact.plan.decisions)
    writer = BundleWriter(folder, threads, {name: str(artifact.plan.target_options.get(name)) for name in SPELLED})
    promised: dict[str, Predicted] = {}
    for predicted, inputs in cases:
        key = f"artifact {artifact.plan.digest()[:16]} at {predicted.sizes}"
        promised[key] = predicted
        writer.add_artifact(artifact, key, inputs)
    atomic_write_json(folder / REPORT, dict(report))
    promise = Promise(
        model,
        artifact.plan.digest(),
        artifact.nbytes,
        source,
        INTEGER_TOLERANCE if integers else TOLERANCE,
        promised,
        file_digest(folder / REPORT),
        limit_ms,
    )
    writer.finish(promise=plain(promise), saturates=products_saturate())
    return promise


def confirmation(answer: str | os.PathLike[str], manifest: str | os.PathLike[str] | None = None) -> Confirmation:
    """What a device answered to a check bundle.

    Args:
        answer: ``device.json``.
        manifest: of the bundle; beside the answer where not given.

    Raises:
        ConfigError: one of the two is missing, damaged, half finished or foreign; says what is missing.
    """
    where = f"{os.fspath(answer)}: answer to a check"
    known = read_answer(answer, where)
    file = Path(manifest) if manifest is not None else Path(answer).with_name("manifest.json")
    if not file.is_file():
        raise ConfigError(
            f"{where}: expected the bundle's manifest.json beside it, found nothing at '{file}'; copy the answer into "
            "the bundle, or name the manifest"
        )
    document = read_json(file, error=ConfigError)
    if isinstance(document, dict) and document.get("instar_bundle", VERSION) != VERSION:
        raise ConfigError(
            f"{file}: expected a bundle of version {VERSION}, found {document['instar_bundle']!r}; compile again with "
            "--check, and measure that"
        )
    if not isinstance(document, dict) or "promise" not in document:
        raise ConfigError(f"{file}: expected the manifest of a check bundle, found another; it is written by compiling")
    if file_digest(file) != known.bundle:
        raise ConfigError(f"{where}: expected an answer to '{file}', found one to another bundle; measure this one")
    promise = read(Promise, document["promise"], f"{file}: promise", ConfigError)
    if document.get("threads") != known.threads:
        raise ConfigError(
            f"{where}: expected {document.get('threads')} threads, as the plan was made for, found {known.threads}; "
            "measure without --threads"
        )
    absent = [name for name, size in known.files.items() if size < 0]
    if absent:
        raise ConfigError(f"{where}: expected all files of the model on the device, missing are {', '.join(absent)}")
    unknown = [key for key in promise.cases if key not in known.cases]
    if unknown or not promise.cases:
        raise ConfigError(f"{file}: expected promises about cases of the bundle, found {unknown}; compile again")
    shapes = tuple(_shape(predicted, key, known.cases[key], where) for key, predicted in promise.cases.items())
    return Confirmation(promise, known.runtime, known.cpu, known.threads, sum(known.files.values()), shapes)


def saved_report(folder: Path, promise: Promise) -> dict[str, Any]:
    """The report of the compilation, as it was written with a check bundle.

    Raises:
        ConfigError: it is missing, or of another compilation.
    """
    file = folder / REPORT
    if not file.is_file():
        raise ConfigError(
            f"{file}: expected the report of the compilation beside the manifest, found nothing; copy it there"
        )
    if file_digest(file) != promise.report:
        raise ConfigError(
            f"{file}: expected the report that was written with the manifest, found another; copy it again"
        )
    return cast("dict[str, Any]", read_json(file, error=ConfigError))


def file_digest(file: Path) -> str:
    """Of its bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _shape(predicted: Predicted, key: str, answer: Answer, where: str) -> Shape:
    """What was measured at one shape.

    Raises:
        ConfigError: neither a time nor a reason why there is none.
    """
    if answer.error is None:
        number_of(answer, key, where)
    return Shape(predicted, answer.median_ms, answer.spread, answer.difference, answer.error)
