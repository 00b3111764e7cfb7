"""Encoder-decoders, decoders, encoders and mixtures of experts of the transformers library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from architecture_cases import BATCH, BATCH_LENGTH, Architecture, Call, ids, mask
from torch import nn

Settings = dict[str, Any]


def loader(model: str, config: str, settings: Settings) -> Callable[[], nn.Module]:
    """Makes a model of the library by the names of its classes."""

    def load() -> nn.Module:
        torch.manual_seed(0)
        made = getattr(transformers, config)(**settings)
        return getattr(transformers, model)(made).eval()

    return load


def text(batch: int, length: int) -> Call:
    """Tokens and a mask."""
    return {"input_ids": ids(batch, length), "attention_mask": mask(batch, length)}


def tokens(batch: int, length: int) -> Call:
    """Tokens alone."""
    return {"input_ids": ids(batch, length)}


def both_sides(batch: int, length: int) -> Call:
    """Tokens of a source and of a target of the same length."""
    return {**text(batch, length), "decoder_input_ids": ids(batch, length)}


ENCODER: Settings = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
DECODER: Settings = ENCODER | {"num_key_value_heads": 2, "head_dim": 32, "pad_token_id": 0, "use_cache": False}
SEQUENCE: Settings = {
    "vocab_size": 1000,
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "use_cache": False,
}
GIVEN = json.loads((Path(__file__).parent / "architecture_settings.json").read_text(encoding="utf-8"))
"""Settings by name: ``pairs`` of encoder and decoder, ``single`` networks, and those of ``timm`` and ``diffusers``."""

NO_MASK = {"FNet", "RWKV"}
BATCH_ONLY = {"JAMBA", "RWKV", "RecurrentGemma", "Mamba-2", "LongT5", "CANINE", "Qwen3-Next"}
"""Networks that loop over the length in Python, or cut it into blocks."""


def architectures() -> Iterator[Architecture]:
    """All of them."""
    for name, given in GIVEN["pairs"].items():
        yield _architecture(name, loader(given["model"], given["config"], given["settings"]), both_sides)
    for name, given in GIVEN["single"].items():
        make = tokens if name in NO_MASK else text
        yield _architecture(name, loader(given["model"], given["config"], given["settings"]), make)


def _architecture(name: str, load: Callable[[], nn.Module], make: Callable[[int, int], Call]) -> Architecture:
    """Batch and length dynamic, or the batch alone."""
    axes = BATCH if name in BATCH_ONLY else BATCH_LENGTH
    fixed = (lambda batch, _: make(batch, 8)) if name in BATCH_ONLY else make
    return Architecture(name, "transformers", load, fixed, dict.fromkeys(make(2, 8), axes))
