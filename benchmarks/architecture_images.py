"""Detectors, segmenters and other vision networks of the transformers library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from architecture_cases import BATCH, Architecture, pixels
from architecture_text import loader
from torch import nn

Settings = dict[str, Any]

# -------------------------------------------------------------------------- images in transformers
VIT: Settings = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.02,  # the library's own for some of them is 1e-10, with which nothing is computed
}
RESNET: Settings = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [32, 64, 128, 128],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
DETECT: Settings = {
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "num_queries": 8,
}


def _with_backbone(model: str, config: str, settings: Settings, backbone: Settings = RESNET) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        kind = dict(backbone)
        inner = transformers.AutoConfig.for_model(kind.pop("model_type"), **kind)
        return getattr(transformers, model)(getattr(transformers, config)(backbone_config=inner, **settings)).eval()

    return load


def _made(name: str, load: Callable[[], nn.Module], size: int = 64) -> Architecture:
    return Architecture(name, "transformers", load, pixels(size, "pixel_values"), {"pixel_values": BATCH})


SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 4,
}

PLAIN = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}

PIXELS: tuple[Architecture, ...] = (
    _made("DETR", _with_backbone("DetrForObjectDetection", "DetrConfig", DETECT | PLAIN)),
    _made(
        "Conditional DETR", _with_backbone("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", DETECT | PLAIN)
    ),
    _made(
        "Table Transformer",
        _with_backbone("TableTransformerForObjectDetection", "TableTransformerConfig", DETECT | PLAIN),
    ),
    _made(
        "DAB-DETR", _with_backbone("DabDetrForObjectDetection", "DabDetrConfig", {"hidden_size": 128} | DETECT | PLAIN)
    ),
    _made(
        "Deformable DETR",
        _with_backbone(
            "DeformableDetrForObjectDetection",
            "DeformableDetrConfig",
            DETECT | PLAIN | {"num_feature_levels": 2, "disable_custom_kernels": True},
            RESNET | {"out_features": ["stage3", "stage4"]},
        ),
    ),
    _made(
        "YOLOS",
        loader("YolosForObjectDetection", "YolosConfig", VIT | {"image_size": [32, 32], "num_detection_tokens": 5}),
        32,
    ),
    _made(
        "SegFormer",
        loader(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            {
                "hidden_sizes": [32, 64, 128, 128],
                "depths": [1, 1, 1, 1],
                "num_attention_heads": [1, 2, 2, 4],
                "decoder_hidden_size": 64,
            },
        ),
    ),
    _made(
        "Mask2Former",
        _with_backbone(
            "Mask2FormerForUniversalSegmentation",
            "Mask2FormerConfig",
            {
                "feature_size": 64,
                "mask_feature_size": 64,
                "hidden_dim": 64,
                "num_queries": 8,
                "num_attention_heads": 4,
                "dim_feedforward": 128,
                "encoder_feedforward_dim": 128,
                "encoder_layers": 2,
                "decoder_layers": 3,
                "feature_strides": [4, 8, 16, 32],
            },
            SWIN | {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        ),
    ),
    _made(
        "MaskFormer",
        _with_backbone(
            "MaskFormerForInstanceSegmentation",
            "MaskFormerConfig",
            {
                "fpn_feature_size": 32,
                "mask_feature_size": 32,
                "decoder_config": DETECT | {"model_type": "detr"} | PLAIN,
            },
            SWIN | {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        ),
    ),
    _made("Swin v2", loader("Swinv2Model", "Swinv2Config", SWIN)),
    _made(
        "Swin2SR",
        loader(
            "Swin2SRForImageSuperResolution",
            "Swin2SRConfig",
            {"image_size": 16, "embed_dim": 32, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "upscale": 2},
        ),
        16,
    ),
    _made(
        "GLPN",
        loader(
            "GLPNForDepthEstimation",
            "GLPNConfig",
            {
                "hidden_sizes": [32, 64, 128, 128],
                "depths": [1, 1, 1, 1],
                "num_attention_heads": [1, 2, 2, 4],
                "decoder_hidden_size": 32,
            },
        ),
    ),
    _made(
        "BEiT segmentation",
        loader(
            "BeitForSemanticSegmentation",
            "BeitConfig",
            VIT
            | {
                "num_hidden_layers": 4,
                "out_indices": [1, 2, 3, 4],
                "use_relative_position_bias": True,
                "use_mask_token": False,
            },
        ),
        32,
    ),
    _made("DINOv2", loader("Dinov2Model", "Dinov2Config", VIT), 32),
    _made("DINOv3 ViT", loader("DINOv3ViTModel", "DINOv3ViTConfig", VIT), 32),
    _made("SigLIP vision", loader("SiglipVisionModel", "SiglipVisionConfig", VIT), 32),
    _made(
        "SAM vision",
        loader(
            "SamVisionModel",
            "SamVisionConfig",
            VIT
            | {
                "mlp_dim": 512,
                "output_channels": 32,
                "global_attn_indexes": [1],
                "window_size": 2,
                "num_pos_feats": 16,
            },
        ),
        32,
    ),
    _made(
        "ViTDet",
        loader(
            "VitDetModel",
            "VitDetConfig",
            VIT | {"window_block_indices": [0], "window_size": 2, "residual_block_indices": [1]},
        ),
        32,
    ),
    _made(
        "PVT v2",
        loader(
            "PvtV2Model",
            "PvtV2Config",
            {
                "hidden_sizes": [32, 64, 128, 128],
                "depths": [1, 1, 1, 1],
                "num_attention_heads": [1, 2, 2, 4],
                "image_size": 64,
            },
        ),
    ),
    _made(
        "UPerNet",
        _with_backbone(
            "UperNetForSemanticSegmentation",
            "UperNetConfig",
            {"hidden_size": 32, "use_auxiliary_head": False, "pool_scales": [1, 2], "num_labels": 5},
            {
                "model_type": "convnext",
                "hidden_sizes": [32, 64, 128, 128],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
        ),
    ),
)
"""Detectors and segmenters."""
