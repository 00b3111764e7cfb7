"""``device.json``: what a device answered, read strictly; a half-finished answer is refused with what is missing."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ....ir.errors import ConfigError
from ....ir.files import read_json
from ....ir.json_values import read
from ..latency import DeviceProfile
from ..runtimes.table import table

VERSION = 2
"""Of bundles and answers."""

CALL, COUNTED, NETWORK = "call", "counted", "network"
"""Kinds of cases: a whole run less what an empty one takes, the kernels alone, and a network as its user runs it."""

EMPTY = "empty model"
"""Key of the run that computes nothing."""

SHOWN = 5

LEAST = (1, 18)
"""The oldest ONNX Runtime whose answers are read."""

WIDE = 0.5
"""A spread above it is of a device that did other things meanwhile."""


@dataclass(frozen=True)
class Answer:
    """What a device said about a case: why it does not run there, or milliseconds.

    Attributes:
        kind: see :data:`CALL`.
        error: the runtime's words, None where it ran.
        samples: behind the numbers.
        median_ms: of a run.
        quartile_ms: the lower one.
        spread: distance of the quartiles, as a share of the median.
        difference: of its outputs from those expected, relative to these; None where nothing was expected.
    """

    kind: str
    error: str | None
    samples: int
    median_ms: float | None
    quartile_ms: float | None
    spread: float | None
    difference: float | None


@dataclass(frozen=True)
class Document:
    """An answer as it is written; see :class:`Device`."""

    instar_device: int
    bundle: str
    runtime: str
    cpu: str
    threads: int
    spelling: Mapping[str, str]
    saturates: bool
    files: Mapping[str, int]
    wanted: tuple[str, ...]
    cases: Mapping[str, Answer]


@dataclass(frozen=True)
class Device:
    """A device as it answered a bundle.

    Attributes:
        profile: milliseconds of what runs there, single layers without the cost of a call.
        failed: case -> the runtime's words.
        spelling: options of the target that the networks of single kernels were written with.
        saturates: whether its products of 8-bit weights are wrong; see :func:`~..session.products_saturate`.
        path: of the answer, for messages.
        unsteady: cases whose times spread by more than :data:`WIDE`.
    """

    profile: DeviceProfile
    failed: Mapping[str, str]
    spelling: Mapping[str, str]
    saturates: bool
    path: str
    unsteady: int = 0

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Device:
        """Reads an answer.

        Raises:
            ConfigError: it is missing, damaged, of another kind, or half finished; names the missing cases.
        """
        where = f"{os.fspath(path)}: device profile"
        known = read_answer(path, where)
        if known.files:
            raise ConfigError(
                f"{where}: expected the answer to a bundle of 'instar profile', found that to a check of a compiled "
                "model; give it to 'instar bench'"
            )
        overhead = number_of(known.cases.get(EMPTY, _NOTHING), EMPTY, where)
        times = {
            key: max(number_of(answer, key, where) - (overhead if answer.kind == CALL else 0.0), 1e-4)
            for key, answer in known.cases.items()
            if answer.error is None
        }
        failed = {key: answer.error for key, answer in known.cases.items() if answer.error is not None}
        profile = DeviceProfile(known.runtime, known.cpu, known.threads, times)
        unsteady = sum((answer.spread or 0.0) > WIDE for answer in known.cases.values())
        return cls(profile, failed, known.spelling, known.saturates, os.fspath(path), unsteady)

    def notes(self, runtime: str | None) -> tuple[str, ...]:
        """What a reader of a report should know; ``runtime`` is the one that files keep to."""
        found: list[str] = []
        known = self.profile
        cases = len(known.milliseconds) + len(self.failed)
        version = ".".join(map(str, version_of(known.runtime) or LEAST))
        if self.failed:
            text = (
                f"{len(self.failed)} of {cases} cases do not run on the device with {known.runtime}, and are no choice"
            )
            if runtime is None and version in table().names:
                text += (
                    f"; where that is for want of operators, set target_options.runtime = '{version}', profile and "
                    "compile again: they are then written in what it has"
                )
            found.append(text)
        if self.unsteady:
            found.append(
                f"times of {self.unsteady} of {cases} cases spread by more than {WIDE:.0%} on the device: it was busy; "
                "measure again while it does nothing else"
            )
        return tuple(found)

    def with_threads(self, threads: int) -> Device:
        """This device, where it measured with as many threads.

        Raises:
            ConfigError: it measured with others.
        """
        if self.profile.threads != threads:
            raise ConfigError(
                f"{self.path}: device profile: expected times for {threads} threads, found {self.profile.threads}; set "
                "target_options.threads to the profile's, or measure with --threads"
            )
        return self

    def answers(self, key: str) -> bool:
        """Whether the device ran a case, or said why not."""
        return key in self.profile.milliseconds or key in self.failed

    def require(self, keys: Iterable[str]) -> None:
        """Refuses a profile that was made for something else.

        Raises:
            ConfigError: names cases that it does not have.
        """
        missing = [key for key in dict.fromkeys(keys) if not self.answers(key)]
        if missing:
            raise ConfigError(
                f"{self.path}: device profile: expected times of {_some(missing)}, found none; it was made for another "
                "model, other inputs or other settings: write a bundle with 'instar profile' and these, and measure it"
            )

    def network_ms(self, key: str) -> float:
        """Milliseconds of a network that everything else refers to.

        Raises:
            ConfigError: the device does not run it; in the runtime's words.
        """
        if key in self.failed:
            raise ConfigError(
                f"{self.path}: device profile: expected a device that runs the network in float, found: "
                f"{self.failed[key]}; choose an older opset, or update the device's runtime"
            )
        return self.profile.milliseconds[key]


_NOTHING = Answer(CALL, None, 0, None, None, None, None)


def version_of(runtime: str) -> tuple[int, int] | None:
    """The first two numbers of a runtime in words, ``onnxruntime 1.20.1``; None where there are none."""
    found = re.search(r"(\d+)\.(\d+)", runtime)
    return (int(found[1]), int(found[2])) if found else None


def read_answer(path: str | os.PathLike[str], where: str) -> Document:
    """What a device wrote.

    Raises:
        ConfigError: it is missing, damaged, of another kind, or half finished; names the missing cases.
    """
    document = read_json(path, error=ConfigError)
    if isinstance(document, dict) and "instar_bundle" in document:
        raise ConfigError(
            f"{where}: expected what a device answered, found the manifest of a bundle; run measure.py on the device "
            "and give the device.json that it writes"
        )
    if isinstance(document, dict) and document.get("instar_device", VERSION) != VERSION:
        raise ConfigError(
            f"{where}: expected version {VERSION}, found {document['instar_device']!r}; write the bundle and "
            "measure again"
        )
    known = read(Document, document, where, ConfigError)
    version = version_of(known.runtime)
    if version is None or version < LEAST:
        least = ".".join(map(str, LEAST))
        raise ConfigError(
            f"{where}: expected times of ONNX Runtime {least} or later, found {known.runtime!r}; update the device's "
            "runtime and measure again"
        )
    missing = [key for key in known.wanted if key not in known.cases]
    if missing:
        raise ConfigError(
            f"{where}: expected times of all {len(known.wanted)} cases, found {len(known.cases)}; missing are "
            f"{_some(missing)}; run measure.py on the device again, it goes on where it was stopped"
        )
    return known


def number_of(answer: Answer, key: str, where: str) -> float:
    """The median of a network, the lower quartile of the rest."""
    found = answer.median_ms if answer.kind == NETWORK else answer.quartile_ms
    if answer.kind not in (CALL, COUNTED, NETWORK):
        raise ConfigError(
            f"{where}: expected the kind {CALL!r}, {COUNTED!r} or {NETWORK!r} for {key!r}, found {answer.kind!r}; "
            "measure again with the bundle's own script"
        )
    if found is None or not 0 <= found < math.inf:
        raise ConfigError(f"{where}: expected a time in milliseconds for {key!r}, found {found!r}; measure again")
    return found


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return "; ".join(keys[:SHOWN]) + more
