"""Networks of sound, of two modalities, and whole pipelines of the transformers library."""

from __future__ import annotations

from typing import Any

import torch
from architecture_cases import BATCH, BATCH_LENGTH, Architecture, Call, ids, mask
from architecture_text import ENCODER, SEQUENCE, loader

Settings = dict[str, Any]

WAVE: Settings = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 4, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 40,
}
SPEECH: Settings = SEQUENCE | {"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32}
VIT: Settings = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.02,  # the library's own for some of them is 1e-10, with which nothing is computed
}


def wave(batch: int, length: int) -> Call:
    """A signal of 100 samples for each step of the length."""
    del length
    return {"input_values": torch.randn(batch, 1600)}


def _codec(batch: int, _: int) -> Call:
    return {"input_values": torch.randn(batch, 1, 1600)}


def _whisper(batch: int, length: int) -> Call:
    return {"input_features": torch.randn(batch, 16, 64), "decoder_input_ids": ids(batch, length)}


def _speech(batch: int, length: int) -> Call:
    return {
        "input_features": torch.randn(batch, 64, 16),
        "attention_mask": torch.ones(batch, 64, dtype=torch.int64),
        "decoder_input_ids": ids(batch, length),
    }


def _clip(batch: int, length: int) -> Call:
    return {
        "input_ids": ids(batch, length),
        "pixel_values": torch.randn(batch, 3, 32, 32),
        "attention_mask": mask(batch, length),
    }


def _clip_fixed(batch: int, length: int) -> Call:
    del length
    return _clip(batch, 8)


def _patches(batch: int, _: int) -> Call:
    return {"past_values": torch.randn(batch, 32, 3)}


def _spectrum(batch: int, _: int) -> Call:
    return {"input_values": torch.randn(batch, 32, 16)}


def _words(batch: int, length: int) -> Call:
    return {
        "input_ids": torch.randint(3, 30, (batch, length)),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64),
    }


def _features(batch: int, _: int) -> Call:
    return {"input_features": torch.randn(batch, 20, 16)}


SIDES = {"text_config": ENCODER | {"eos_token_id": 2, "bos_token_id": 1}, "vision_config": VIT}

SOUNDS: tuple[Architecture, ...] = (
    *(
        Architecture(name, "transformers", loader(model, config, WAVE), wave, {"input_values": BATCH})
        for name, model, config in (
            ("wav2vec 2.0", "Wav2Vec2Model", "Wav2Vec2Config"),
            ("wav2vec 2.0 CTC", "Wav2Vec2ForCTC", "Wav2Vec2Config"),
            ("HuBERT", "HubertModel", "HubertConfig"),
            ("WavLM", "WavLMModel", "WavLMConfig"),
            ("UniSpeech", "UniSpeechModel", "UniSpeechConfig"),
            ("Data2Vec audio", "Data2VecAudioModel", "Data2VecAudioConfig"),
            ("SEW", "SEWModel", "SEWConfig"),
            ("wav2vec 2.0 Conformer", "Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig"),
        )
    ),
    Architecture(
        "wav2vec2-BERT",
        "transformers",
        loader("Wav2Vec2BertModel", "Wav2Vec2BertConfig", WAVE | {"feature_projection_input_dim": 16}),
        _features,
        {"input_features": BATCH},
    ),
    Architecture(
        "Whisper",
        "transformers",
        loader("WhisperModel", "WhisperConfig", SPEECH),
        _whisper,
        {"input_features": BATCH, "decoder_input_ids": BATCH_LENGTH},
    ),
    Architecture(
        "Speech2Text",
        "transformers",
        loader(
            "Speech2TextModel",
            "Speech2TextConfig",
            SPEECH | {"max_source_positions": 64, "input_feat_per_channel": 16, "conv_channels": 32},
        ),
        _speech,
        {"input_features": BATCH, "attention_mask": BATCH, "decoder_input_ids": BATCH_LENGTH},
    ),
    Architecture(
        "Moonshine",
        "transformers",
        loader(
            "MoonshineModel",
            "MoonshineConfig",
            {
                "vocab_size": 1000,
                "hidden_size": 128,
                "intermediate_size": 512,
                "encoder_num_hidden_layers": 2,
                "decoder_num_hidden_layers": 2,
                "encoder_num_attention_heads": 4,
                "decoder_num_attention_heads": 4,
                "use_cache": False,
                "max_position_embeddings": 64,
            },
        ),
        lambda b, n: {"input_values": torch.randn(b, 3200), "decoder_input_ids": ids(b, n)},
        {"input_values": BATCH, "decoder_input_ids": BATCH_LENGTH},
    ),
    Architecture(
        "EnCodec",
        "transformers",
        loader(
            "EncodecModel",
            "EncodecConfig",
            {
                "num_filters": 8,
                "hidden_size": 32,
                "codebook_size": 64,
                "codebook_dim": 32,
                "upsampling_ratios": [4, 2],
                "num_lstm_layers": 1,
                "target_bandwidths": [24.0],
                "sampling_rate": 1600,
            },
        ),
        _codec,
        {"input_values": BATCH},
    ),
    Architecture(
        "DAC",
        "transformers",
        loader(
            "DacModel",
            "DacConfig",
            {
                "encoder_hidden_size": 16,
                "downsampling_ratios": [2, 4],
                "decoder_hidden_size": 64,
                "upsampling_ratios": [4, 2],
                "n_codebooks": 2,
                "codebook_size": 64,
                "codebook_dim": 8,
            },
        ),
        _codec,
        {"input_values": BATCH},
    ),
    Architecture(
        "VITS",
        "transformers",
        loader(
            "VitsModel",
            "VitsConfig",
            {
                "vocab_size": 38,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "ffn_dim": 64,
                "flow_size": 32,
            },
        ),
        _words,
        dict.fromkeys(("input_ids", "attention_mask"), BATCH_LENGTH),
    ),
    Architecture(
        "Audio Spectrogram Transformer",
        "transformers",
        loader(
            "ASTModel",
            "ASTConfig",
            VIT | {"num_mel_bins": 16, "max_length": 32, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
        ),
        _spectrum,
        {"input_values": BATCH},
    ),
    Architecture(
        "CLAP audio",
        "transformers",
        loader(
            "ClapAudioModel",
            "ClapAudioConfig",
            {
                "spec_size": 64,
                "num_mel_bins": 16,
                "patch_size": 4,
                "patch_stride": [4, 4],
                "patch_embeds_hidden_size": 64,
                "depths": [1, 1],
                "num_attention_heads": [2, 2],
                "hidden_size": 128,
                "window_size": 4,
                "enable_fusion": False,
            },
        ),
        lambda b, _: {"input_features": torch.randn(b, 1, 256, 16)},
        {"input_features": BATCH},
    ),
    Architecture(
        "CLIP",
        "transformers",
        loader("CLIPModel", "CLIPConfig", SIDES | {"projection_dim": 32}),
        _clip,
        {"input_ids": {0: "batch", 1: "length"}, "attention_mask": BATCH_LENGTH, "pixel_values": BATCH},
    ),
    Architecture(
        "SigLIP",
        "transformers",
        loader("SiglipModel", "SiglipConfig", SIDES),
        _clip_fixed,
        dict.fromkeys(("input_ids", "pixel_values", "attention_mask"), BATCH),
    ),
    Architecture(
        "BLIP",
        "transformers",
        loader(
            "BlipModel",
            "BlipConfig",
            {"text_config": ENCODER | {"bos_token_id": 1}, "vision_config": VIT, "projection_dim": 32},
        ),
        _clip,
        {"input_ids": BATCH_LENGTH, "attention_mask": BATCH_LENGTH, "pixel_values": BATCH},
    ),
    Architecture(
        "ViLT",
        "transformers",
        loader("ViltModel", "ViltConfig", ENCODER | {"image_size": 32, "patch_size": 8, "max_image_length": -1}),
        _clip,
        {"input_ids": BATCH_LENGTH, "attention_mask": BATCH_LENGTH, "pixel_values": BATCH},
    ),
    Architecture(
        "FLAVA text",
        "transformers",
        loader("FlavaTextModel", "FlavaTextConfig", ENCODER),
        lambda b, n: {"input_ids": ids(b, n), "attention_mask": mask(b, n)},
        dict.fromkeys(("input_ids", "attention_mask"), BATCH_LENGTH),
    ),
    Architecture(
        "GIT",
        "transformers",
        loader("GitModel", "GitConfig", ENCODER | {"vision_config": VIT, "use_cache": False}),
        _clip,
        {"input_ids": BATCH_LENGTH, "attention_mask": BATCH_LENGTH, "pixel_values": BATCH},
    ),
    Architecture(
        "TrOCR decoder",
        "transformers",
        loader(
            "TrOCRForCausalLM",
            "TrOCRConfig",
            {
                "vocab_size": 1000,
                "d_model": 128,
                "decoder_layers": 2,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 512,
                "max_position_embeddings": 64,
                "use_cache": False,
            },
        ),
        lambda b, n: {"input_ids": ids(b, n)},
        {"input_ids": BATCH_LENGTH},
    ),
    Architecture(
        "PatchTST",
        "transformers",
        loader(
            "PatchTSTModel",
            "PatchTSTConfig",
            {
                "num_input_channels": 3,
                "context_length": 32,
                "patch_length": 8,
                "patch_stride": 8,
                "d_model": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "ffn_dim": 512,
            },
        ),
        _patches,
        {"past_values": BATCH},
    ),
    Architecture(
        "PatchTSMixer",
        "transformers",
        loader(
            "PatchTSMixerModel",
            "PatchTSMixerConfig",
            {
                "num_input_channels": 3,
                "context_length": 32,
                "patch_length": 8,
                "patch_stride": 8,
                "d_model": 128,
                "num_layers": 2,
            },
        ),
        _patches,
        {"past_values": BATCH},
    ),
    Architecture(
        "VideoMAE",
        "transformers",
        loader("VideoMAEModel", "VideoMAEConfig", VIT | {"num_frames": 4, "tubelet_size": 2}),
        lambda b, _: {"pixel_values": torch.randn(b, 4, 3, 32, 32)},
        {"pixel_values": BATCH},
    ),
    Architecture(
        "TimeSformer",
        "transformers",
        loader("TimesformerModel", "TimesformerConfig", VIT | {"num_frames": 4}),
        lambda b, _: {"pixel_values": torch.randn(b, 4, 3, 32, 32)},
        {"pixel_values": BATCH},
    ),
)
"""Sound, then two modalities, then time series."""
