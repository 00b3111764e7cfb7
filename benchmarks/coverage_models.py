"""The networks of the coverage table: the transformers library with random weights and small configurations."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.export import Dim

Loader = Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: what the table calls it.
        load: makes the module, in evaluation mode.
        kind: which inputs it takes; a key of ``INPUTS``.
    """

    name: str
    load: Loader
    kind: str


@dataclass(frozen=True)
class Inputs:
    """A call: keyword inputs for a batch and length, and which sizes are dynamic."""

    make: Callable[[int, int], dict[str, torch.Tensor]]
    dynamic: dict[str, dict[int, str]]


def _text(batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 90, (batch, length))
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length - 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _ids(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 90, (batch, length))}


def _pixels(batch: int, length: int) -> dict[str, torch.Tensor]:
    del length
    return {"pixel_values": torch.randn(batch, 3, 32, 32)}


def _features(batch: int, length: int) -> dict[str, torch.Tensor]:
    del length
    return {"input_features": torch.randn(batch, 16, 64)}


def _images(batch: int, length: int) -> dict[str, torch.Tensor]:
    del length
    return {"x": torch.randn(batch, 1, 28, 28)}


def _characters(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {"ids": torch.randint(0, 60, (batch, length))}


_BATCH_LENGTH = {0: "batch", 1: "length"}
INPUTS: dict[str, Inputs] = {
    "text": Inputs(_text, {"input_ids": _BATCH_LENGTH, "attention_mask": _BATCH_LENGTH}),
    "ids": Inputs(_ids, {"input_ids": _BATCH_LENGTH}),
    "pixels": Inputs(_pixels, {"pixel_values": {0: "batch"}}),
    "features": Inputs(_features, {"input_features": {0: "batch"}}),
    "images": Inputs(_images, {"x": {0: "batch"}}),
    "characters": Inputs(_characters, {"ids": _BATCH_LENGTH}),
    "ids, batch only": Inputs(lambda batch, _: _ids(batch, 8), {"input_ids": {0: "batch"}}),
}


def dims(inputs: Inputs) -> dict[str, dict[int, Any]]:
    """``dynamic_shapes`` for torch.export; one ``Dim`` per name."""
    made = {"batch": Dim("batch", min=1, max=64), "length": Dim("length", min=4, max=32)}
    return {name: {axis: made[dim] for axis, dim in axes.items()} for name, axes in inputs.dynamic.items()}


# ------------------------------------------------------------------------------------------------ transformers
_ENCODER = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_DECODER = _ENCODER | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "use_cache": False}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_SEQUENCE = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}
_MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "BERT": ("BertModel", "BertConfig", _ENCODER, "text"),
    "RoBERTa": ("RobertaModel", "RobertaConfig", _ENCODER, "text"),
    "DistilBERT": (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
        "text",
    ),
    "GPT-2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False},
        "text",
    ),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER, "text"),
    "Mistral": ("MistralForCausalLM", "MistralConfig", _DECODER | {"sliding_window": 16}, "text"),
    "Qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _DECODER, "text"),
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _DECODER, "text"),
    "Gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _DECODER | {"sliding_window": 16}, "text"),
    "Phi": ("PhiForCausalLM", "PhiConfig", _DECODER, "text"),
    "OPT": (
        "OPTForCausalLM",
        "OPTConfig",
        _DECODER | {"ffn_dim": 64, "word_embed_proj_dim": 32, "intermediate_size": 64},
        "text",
    ),
    "T5 encoder": (
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "text",
    ),
    "BART encoder": ("BartModel", "BartConfig", _SEQUENCE, "text"),
    "ViT": ("ViTModel", "ViTConfig", _VISION, "pixels"),
    "DeiT": ("DeiTModel", "DeiTConfig", _VISION, "pixels"),
    "CLIP vision": ("CLIPVisionModel", "CLIPVisionConfig", _VISION, "pixels"),
    "CLIP text": ("CLIPTextModel", "CLIPTextConfig", _ENCODER | {"eos_token_id": 2, "bos_token_id": 1}, "text"),
    "Whisper encoder": (
        "WhisperModel",
        "WhisperConfig",
        _SEQUENCE | {"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32, "pad_token_id": 0},
        "features",
    ),
    "ConvNeXt": (
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "image_size": 32},
        "pixels",
    ),
    "MobileNetV2": ("MobileNetV2Model", "MobileNetV2Config", {"depth_multiplier": 0.35, "image_size": 32}, "pixels"),
    "ResNet": (
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]},
        "pixels",
    ),
    "Mamba": (
        "MambaModel",
        "MambaConfig",
        {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "use_cache": False},
        "ids, batch only",
    ),
}
_ENCODER_ONLY = {"BART encoder", "Whisper encoder"}
_NO_ATTENTION = {"ConvNeXt", "MobileNetV2", "ResNet", "Mamba"}
_CACHED = ("GPT-2", "Llama", "Mistral", "Gemma2")


def _loader(name: str, **changes: Any) -> Loader:
    model_name, config_name, settings, _ = _MODELS[name]

    def load() -> nn.Module:
        torch.manual_seed(0)
        config = getattr(transformers, config_name)(**(settings | changes))
        model = getattr(transformers, model_name)(config)
        part = model.encoder if name in _ENCODER_ONLY else model
        return part.eval()

    return load


def transformers_cases() -> Iterator[Case]:
    """Every architecture with eager and sdpa attention where the library has both."""
    for name, (model_name, _, _, kind) in _MODELS.items():
        if name in _NO_ATTENTION:
            yield Case(name, _loader(name), kind)
            continue
        for attention in ("eager", "sdpa"):
            if attention == "eager" or getattr(transformers, model_name)._supports_sdpa:
                yield Case(f"{name}, {attention}", _loader(name, attn_implementation=attention), kind)


def limit_cases() -> Iterator[Case]:
    """What is not expected to capture as it is, to say what happens."""
    yield Case("Mamba, dynamic length", _loader("Mamba"), "ids")
    for name in _CACHED:
        yield Case(f"{name}, use_cache left on", _loader(name, use_cache=True), "text")


def cache_cases() -> Iterator[Case]:
    """Causal models that return their key-value cache, after the library's own registration of the cache class."""
    for name in _CACHED:
        yield Case(f"{name}, cache registered", _loader(name, use_cache=True), "text")


# ------------------------------------------------------------------------------------------------ trained networks
_ASSETS = {
    "resnet20": "images",
    "mobilenetv2_tiny": "images",
    "vit": "images",
    "chargpt": "characters",
    "minilm": "text",
}


def asset_cases(folder: Path) -> Iterator[Case]:
    """Trained networks from a folder with ``loaders.py`` and its ``load_model(name)``."""
    sys.path.insert(0, str(folder))
    loaders = importlib.import_module("loaders")
    for name, kind in _ASSETS.items():
        yield Case(f"{name} (trained)", lambda name=name: loaders.load_model(name).eval(), kind)
