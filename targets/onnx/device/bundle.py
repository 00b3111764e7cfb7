"""A bundle: models of single layers and whole networks with inputs, a manifest, and the script that measures them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ....ir.files import atomic_path, atomic_write_bytes, atomic_write_json, make_folder
from ..artifact import OnnxArtifact
from ..cases import Case, CaseModel, case_models
from ..dtypes import array_of
from ..latency import empty_model
from ..session import product_model
from .profile import CALL, COUNTED, EMPTY, NETWORK, VERSION
from .weights import NAME, SharedWeights

TOGETHER = 16
"""Single layers that take turns on the device."""

SECONDS = 0.3
"""Time that the device spends on every case, unless it is told otherwise."""


@dataclass
class BundleWriter:
    """Writes one bundle; the manifest comes last, so that a bundle without one is not whole.

    Attributes:
        folder: of the bundle.
        threads: of an operator on the device.
        spelling: options that networks of single kernels are written with.
        entries: of the manifest so far.
    """

    folder: Path
    threads: int
    spelling: Mapping[str, str]
    entries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    weights: SharedWeights = field(init=False)
    files: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Makes the folders; an older manifest goes, as its files are about to be replaced."""
        for name in ("models", "feeds"):
            make_folder(self.folder / name, "--out")
        (self.folder / "manifest.json").unlink(missing_ok=True)
        self.weights = SharedWeights(self.folder / "models")

    def add_layers(self, cases: Iterable[Case]) -> None:
        """Single layers, and the run that computes nothing."""
        empty, feeds = empty_model()
        self._write(EMPTY, CALL, 0, CaseModel(empty, feeds))
        for number, (case, model) in enumerate(case_models({c.key: c for c in cases}.values())):
            self._write(case.key, COUNTED if model.counted else CALL, number // TOGETHER, model)

    def add_network(self, artifact: OnnxArtifact, inputs: Mapping[str, Sequence[Tensor]]) -> None:
        """One network with its inputs by key; networks take turns with others at the same shape."""
        name = f"models/network{len(self.entries)}.onnx"
        model = self.weights.written_from(artifact.lowered.model)
        atomic_write_bytes(self.folder / name, model.SerializeToString(deterministic=True))
        for number, (key, tensors) in enumerate(inputs.items()):
            pairs = zip(artifact.lowered.input_names, tensors, strict=True)
            feeds = {n: array_of(t) for n, t in pairs}
            self._enter(key, NETWORK, f"networks {number}", name, self._feeds(feeds), ())

    def add_artifact(self, artifact: OnnxArtifact, key: str, inputs: Sequence[Tensor]) -> None:
        """The file that will be deployed, as it is, at one shape, with the outputs that it has here."""
        name = "models/model.onnx"
        if not self.files:
            saved = artifact.save(self.folder / name)
            self.files += [f"models/{Path(path).name}" for path in saved]
        pairs = zip(artifact.lowered.input_names, inputs, strict=True)
        feeds = self._feeds({n: array_of(t) for n, t in pairs})
        values = [array_of(value) for value in artifact.run(inputs) if isinstance(value, Tensor)]
        outputs: dict[str, Any] = {str(number): value for number, value in enumerate(values)}
        expected = f"feeds/{len(self.entries)}.expected.npz"
        with atomic_path(self.folder / expected) as path:
            np.savez(path, **outputs)
        self._enter(key, NETWORK, "artifact", name, feeds, (), expected)

    def finish(self, **more: Any) -> None:
        """Writes the script, the question whether products saturate, and the manifest, with ``more`` in it."""
        self.weights.close()
        product, feeds, exact = product_model()
        atomic_write_bytes(self.folder / "models/product.onnx", product.SerializeToString(deterministic=True))
        name, values = "models/product.onnx", self._feeds(feeds)
        script = Path(__file__).with_name("measure.py")
        with atomic_path(self.folder / "measure.py") as path:
            shutil.copyfile(script, path)
        atomic_write_json(
            self.folder / "manifest.json",
            {
                "instar_bundle": VERSION,
                "threads": self.threads,
                "seconds": SECONDS,
                "spelling": dict(self.spelling),
                "product": {"model": name, "feeds": values, "exact": exact},
                "files": self.files,
                "sizes": self._sizes(name, values),
                **more,
                "cases": self.entries,
            },
        )

    def _sizes(self, *more: str) -> dict[str, int]:
        """Bytes of every file that the device needs, so that it sees where one was not copied whole."""
        names = [entry[part] for entry in self.entries for part in ("model", "feeds", "expected")]
        needed = dict.fromkeys(name for name in (*names, *more, *self.files, f"models/{NAME}") if name)
        return {name: (self.folder / name).stat().st_size for name in needed}

    def _write(self, key: str, kind: str, group: int, model: CaseModel) -> None:
        name = f"models/case{len(self.entries)}.onnx"
        shared = self.weights.taken_from(model.model)
        atomic_write_bytes(self.folder / name, shared.SerializeToString(deterministic=True))
        self._enter(key, kind, f"layers {group}", name, self._feeds(model.feeds), sorted(model.counted))

    def _feeds(self, feeds: Mapping[str, Any]) -> str:
        name = f"feeds/{len(self.entries)}.npz"
        with atomic_path(self.folder / name) as path:
            np.savez(path, **feeds)
        return name

    def _enter(
        self, key: str, kind: str, group: str, model: str, feeds: str, counted: Sequence[str], expected: str = ""
    ) -> None:
        entry = {"key": key, "kind": kind, "group": group, "model": model, "feeds": feeds, "counted": list(counted)}
        self.entries.append({**entry, "expected": expected})
