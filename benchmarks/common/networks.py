"""The five networks of the evaluation set: models, calibration data, inputs to time, metrics on data no decision saw.

The set's folder is an argument of every benchmark (``--assets``); it holds ``loaders.py`` and ``evaluate.py``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES = ("minilm", "chargpt", "resnet20", "mobilenetv2_tiny", "vit")
VISION = ("resnet20", "mobilenetv2_tiny", "vit")

SENTENCE_WORDS = (5, 40)
"""The fewest and the most words of a sentence for calibration."""

TASKS = {"minilm": "sts", "chargpt": "chars"} | dict.fromkeys(VISION, "fashion")
METRICS = {"sts": "STS Spearman x 100", "chars": "nats per character", "fashion": "top-1 in %"}

TIMED: dict[str, tuple[tuple[int, int], ...]] = {"minilm": ((1, 128),), "chargpt": ((1, 256),)}
"""Network -> the (batch, length) at which it is timed; vision networks at batch 1 and 64."""

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Effort:
    """How much is measured: calibration batches and samples per batch, and how many evaluation samples (None: all)."""

    batches: int = 16
    batch: int = 8
    limit: int | None = None
    fidelity: int = 512
    seconds: float = 3.0


FULL = Effort()
QUICK = Effort(batches=2, batch=4, limit=64, fidelity=32, seconds=0.2)


class Networks:
    """Everything that a benchmark needs from the evaluation set."""

    def __init__(self, assets: Path, effort: Effort) -> None:
        sys.path.insert(0, str(assets))
        self.loaders: Any = importlib.import_module("loaders")
        self.evaluate: Any = importlib.import_module("evaluate")
        self.effort = effort

    def model(self, name: str) -> torch.nn.Module:
        """The trained network, float32, in evaluation mode."""
        return self.loaders.load_model(name)

    def weights_nbytes(self, name: str) -> int:
        """Bytes of all parameters and buffers of the float network."""
        model = self.model(name)
        return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))

    def parameters(self, name: str) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model(name).parameters())

    def export(self, name: str, path: Path) -> None:
        """The float ONNX file of PyTorch's own exporter, with dynamic sizes."""
        self.evaluate.export_onnx(name, str(path))

    def dynamic_shapes(self, name: str) -> Any:
        """Batch, and the length of MiniLM."""
        batch = torch.export.Dim("batch", min=1, max=4096)
        if name != "minilm":
            return ({0: batch},)
        axes = {0: batch, 1: torch.export.Dim("length", min=2, max=512)}
        return (axes, axes)

    def shapes(self, name: str) -> tuple[tuple[int, int], ...]:
        """The (batch, length) pairs at which the network is timed."""
        return TIMED.get(name, ((1, 0), (64, 0)))

    def timed_inputs(self, name: str, batch: int, length: int) -> Batch:
        """Real calibration data of exactly one shape."""
        if name == "minilm":
            return self._tokens(batch, length)
        if name == "chargpt":
            train = self.loaders.shakespeare()[0]
            return (train[: batch * length].view(batch, length),)
        return (self.loaders.fashion_mnist("calib")[0][:batch],)

    def captured_with(self, name: str) -> Batch:
        """Inputs for capture: two rows, because a single one would be taken for a constant."""
        return self.timed_inputs(name, 2, self.shapes(name)[0][1])

    def calibration(self, name: str) -> list[Batch]:
        """Batches of calibration data, drawn with a fixed seed."""
        count, size = self.effort.batches, self.effort.batch
        generator = torch.Generator().manual_seed(0)
        if name == "minilm":
            return self._sentences(generator, count, size)
        if name == "chargpt":
            train = self.loaders.shakespeare()[0]
            starts = torch.randint(0, len(train) - 256, (count * size,), generator=generator)
            rows = torch.stack([train[i : i + 256] for i in starts.tolist()])
        else:
            images = self.loaders.fashion_mnist("calib")[0]
            rows = images[torch.randperm(len(images), generator=generator)[: 4 * count * size]]
        return [(part,) for part in rows.chunk(count)]

    def held_out(self, name: str) -> list[Batch]:
        """A few batches of the evaluation split, for measuring losses of plans."""
        count = self.effort.fidelity // 4
        if name == "minilm":
            texts = self.loaders.sts("dev")[0][:count]
            return [self._encode(texts[i : i + 32]) for i in range(0, len(texts), 32)]
        if name == "chargpt":
            windows = max(1, count // 16)
            return [(self.loaders.shakespeare()[1][: windows * 256].view(windows, 256),)]
        return [(self.loaders.fashion_mnist("test")[0][:count],)]

    def _sentences(self, generator: torch.Generator, count: int, size: int) -> list[Batch]:
        """Single sentences, as a sentence encoder sees them; the corpus comes in paragraphs, its full stops apart."""
        parts = [part for line in self.loaders.wikitext() for part in line.split(" . ")]
        usual = [f"{part.strip()} ." for part in parts if SENTENCE_WORDS[0] <= len(part.split()) <= SENTENCE_WORDS[1]]
        chosen = [usual[i] for i in torch.randperm(len(usual), generator=generator)[: count * size].tolist()]
        return [self._encode(chosen[i : i + size]) for i in range(0, len(chosen), size)]

    def _encode(self, texts: Sequence[str]) -> Batch:
        minilm: Any = importlib.import_module("minilm")
        return tuple(minilm.encode(minilm.load_tokenizer(), texts))

    def _tokens(self, batch: int, length: int) -> Batch:
        ids, mask = self._encode([" ".join(self.loaders.wikitext()[:400])[:100_000]])
        inner = ids[0, 1 : int(mask.sum()) - 1].repeat(batch * length // 100 + 1)[: batch * (length - 2)]
        ends = torch.stack([ids[0, :1], ids[0, -1:]]).expand(2, batch).reshape(2, batch, 1)
        rows = torch.cat([ends[0], inner.view(batch, length - 2), ends[1]], dim=1)
        return rows, torch.ones_like(rows)

    # ------------------------------------------------------------------------------------------- quality
    def metric(self, name: str, model: Callable[..., Any]) -> float:
        """The task metric on the evaluation split: percent, Spearman x 100, or nats per character."""
        task, limit = TASKS[name], self.effort.limit
        if task == "chars":
            return float(self.evaluate.nats_per_char(model, limit=None if limit is None else max(1, limit // 16)))
        measure = self.evaluate.sts_spearman if task == "sts" else self.evaluate.top1
        return 100.0 * float(measure(model, limit=limit))

    def fidelity(self, name: str, model: Callable[..., Any]) -> float:
        """Relative output error against the float network on evaluation inputs."""
        return float(self.evaluate.fidelity(model, name, limit=self.effort.fidelity))

    def runner(self, path: Path, threads: int) -> Callable[..., Any]:
        """An ONNX file that is called like the network."""
        return self.evaluate.OnnxRunner(str(path), threads)


def drop(name: str, reference: float, value: float) -> float:
    """How much worse: points of percent or of Spearman x 100; nats for the language model."""
    return value - reference if TASKS[name] == "chars" else reference - value
