"""Networks of timm and of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from architecture_cases import BATCH, Architecture, Call, pixels
from architecture_text import GIVEN
from torch import nn

Settings = dict[str, Any]


def as_tuples(value: Any) -> Any:
    """Lists of a JSON file as the tuples that both libraries take."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def timm_load(name: str, size: int, settings: Settings) -> Callable[[], nn.Module]:
    """Makes a network of timm; sizes of images are arguments where the network asks for them."""

    def load() -> nn.Module:
        timm: Any = import_module("timm")
        torch.manual_seed(0)
        given = {"num_classes": 10} | settings
        try:
            made = timm.create_model(name, pretrained=False, img_size=size, **given)
        except TypeError:
            made = timm.create_model(name, pretrained=False, **given)
        return made.eval()

    return load


def timm_architectures() -> Iterator[Architecture]:
    """All of timm's."""
    for name, given in GIVEN["timm"].items():
        load = timm_load(name, given["size"], as_tuples(given["settings"]))
        yield Architecture(name, "timm", load, pixels(given["size"]), {"x": BATCH})


def _step(batch: int) -> torch.Tensor:
    return torch.randint(0, 100, (batch,))


def diffusion_inputs(kind: str) -> Callable[[int, int], Call]:
    """Inputs of a kind of diffusion network; images keep their size."""

    def make(batch: int, length: int) -> Call:
        del length
        latent, words = torch.randn(batch, 4, 16, 16), torch.randn(batch, 6, 32)
        made: dict[str, Call] = {
            "image": {"sample": torch.randn(batch, 3, 32, 32)},
            "image step": {"sample": torch.randn(batch, 3, 16, 16), "timestep": _step(batch)},
            "signal": {"sample": torch.randn(batch, 4, 64), "timestep": _step(batch)},
            "latent step text": {"sample": latent, "timestep": _step(batch), "encoder_hidden_states": words},
            "control": {
                "sample": latent,
                "timestep": _step(batch),
                "encoder_hidden_states": words,
                "controlnet_cond": torch.randn(batch, 3, 32, 32),
            },
            "latent step class": {
                "hidden_states": latent,
                "timestep": _step(batch),
                "class_labels": torch.randint(0, 10, (batch,)),
            },
            "pixart": {"hidden_states": latent, "encoder_hidden_states": words, "timestep": _step(batch)},
            "sd3": {
                "hidden_states": latent,
                "encoder_hidden_states": words,
                "pooled_projections": torch.randn(batch, 32),
                "timestep": _step(batch),
            },
            "flux": {
                "hidden_states": torch.randn(batch, 16, 16),
                "encoder_hidden_states": words,
                "pooled_projections": torch.randn(batch, 32),
                "timestep": torch.rand(batch),
                "img_ids": torch.randint(0, 4, (16, 3)).float(),
                "txt_ids": torch.zeros(6, 3),
                "guidance": torch.ones(batch),
            },
            "prior": {
                "hidden_states": torch.randn(batch, 32),
                "timestep": _step(batch),
                "proj_embedding": torch.randn(batch, 32),
                "encoder_hidden_states": torch.randn(batch, 7, 32),
            },
        }
        return made[kind]

    return make


def _diffusion_load(model: str, settings: Settings) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        diffusers: Any = import_module("diffusers")
        torch.manual_seed(0)
        return getattr(diffusers, model)(**settings).eval()

    return load


def diffusers_architectures() -> Iterator[Architecture]:
    """All of diffusers'."""
    for name, given in GIVEN["diffusers"].items():
        made = diffusion_inputs(given["inputs"])
        axes = {key: BATCH for key in made(2, 8) if not key.endswith("_ids")}
        load = _diffusion_load(given["model"], as_tuples(given["settings"]))
        yield Architecture(name, "diffusers", load, made, axes, most=given.get("most", 64))
