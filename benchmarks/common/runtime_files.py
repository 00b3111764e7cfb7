"""Files for older runtimes to load: every kernel and format on single layers, every spelling, and real networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instar.compilation.cleaning import clean
from instar.compilation.entry import start
from instar.compilation.offer import Offer, list_options
from instar.compilation.rough_build import build_rough
from instar.config import resolve
from instar.ir.evaluate import bind_dims
from instar.ir.options import KEPT
from instar.ir.plan import StaticQuantization
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.cases import LayerCases, case_models
from instar.targets.onnx.device.networks import kernel_networks
from instar.targets.onnx.target import OnnxTarget

from .networks import Networks

FORMATS = (
    "fp32", "fp16", "int2:g32", "int3:g32", "int4:g32", "int4:g32:asym", "int5:channel", "int6:g64", "int7:channel",
    "int8:channel",
    "int8:channel:asym", "int8:g32", "nf4:g64", "fp4_e2m1:g32", "fp8_e4m3:channel", "mxfp4", "lowrank:r8", "monarch:b4",
)  # fmt: skip
ACTIVATIONS = ("none", "dynamic_int8", "dynamic_int8:token", "static_int8")
NETWORKS = ("resnet20", "chargpt", "minilm")
STEP = StaticQuantization(0.05, 128)


@dataclass(frozen=True)
class File:
    """A model and what to run it on."""

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, NDArray[Any]]


# ------------------------------------------------------------------------------------------------ small ones
class Layers(nn.Module):
    """One layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(96, 64), nn.Linear(64, 128), nn.Linear(128, 64, bias=False)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)

    def forward(self, ids: Tensor) -> Tensor:
        """``[2, 16] -> [2, 64, 16, 8]``."""
        x = self.table(ids)
        x = self.lstm(self.down(torch.relu(self.up(x))))[0]
        image = torch.relu(self.first(x.unsqueeze(1)))
        return image + torch.relu(self.second(image))


class Spelled(nn.Module):
    """Whatever is written in words of our own: attention, masks, recurrence, norms, clips, repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.split = nn.Embedding(96, 64), nn.Linear(64, 192)
        self.norm, self.scale = nn.LayerNorm(64), nn.RMSNorm(64)
        self.lstm, self.gru = nn.LSTM(64, 32, batch_first=True, bidirectional=True), nn.GRU(64, 64, batch_first=True)
        self.plain = nn.RNN(64, 64, batch_first=True)
        angles = torch.outer(torch.arange(16.0), 10000.0 ** (-torch.arange(0, 16, 2) / 16)).repeat(1, 2)
        self.cos, self.sin = nn.Buffer(angles.cos()), nn.Buffer(angles.sin())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``[batch, 16]`` twice ``-> [batch, 16, 64]``."""
        x = self.table(ids)
        query, key, value = (t.unflatten(-1, (4, 16)).transpose(1, 2) for t in self.split(x).chunk(3, -1))
        query, key = self._turned(query), self._turned(key[:, :2]).repeat_interleave(2, 1)
        hidden = (1.0 - mask[:, None, None].float()) * -1e9
        scores = query @ key.transpose(-1, -2) / 4.0 + hidden
        x = self.norm(x + self._flat(scores.softmax(-1) @ value))
        x = self.scale(x + self._flat(nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)))
        x = self.plain(self.gru(self.lstm(x)[0])[0])[0]
        return nn.functional.hardtanh(nn.functional.gelu(x)).cumsum(-1).clamp(-1.0, 1.0)

    def _turned(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-right, left], dim=-1) * self.sin

    def _flat(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


def offered(model: nn.Module, inputs: tuple[Tensor, ...], options: Mapping[str, Any], shapes: Any = None) -> Offer:
    """Everything that the layers of a model may become."""
    settings = {"formats": FORMATS, "activations": ACTIVATIONS, "target_options": dict(options)}
    request = start(model, inputs, None, shapes, resolve(None, **settings), {}, calibration=())
    return list_options(clean(request), calibrated=True)


def small_files(options: Mapping[str, Any]) -> Iterator[File]:
    """Single layers under every option, and a network of every spelling."""
    torch.manual_seed(0)
    ids = torch.randint(0, 96, (2, 16), generator=torch.Generator().manual_seed(0))
    offer = offered(Layers().eval(), (ids,), options)
    graph, layers, target = offer.cleaned.graph, offer.cleaned.layers, target_of(offer)
    cases = LayerCases(bind_dims(graph, [ids]), target.options)
    named = {
        cases.case(layer, use, option).key: (f"{layer.name} {option.name}", cases.case(layer, use, option))
        for layer in layers
        for option in (KEPT, *offer.options[layer.name])
        for use in layer.uses
    }
    for case, model in case_models(case for _, case in named.values()):
        yield File(named[case.key][0], model.model, model.feeds)
    for kernel, chosen in kernel_networks(layers, offer.options).items():
        yield file_of(f"network of {kernel}", _rough(offer, chosen), [ids])
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) * 2
    inputs = (ids, torch.ones_like(ids))
    spelled = offered(Spelled().eval(), inputs, options, shapes)
    yield from _floats(spelled, inputs, "spellings")


def network_files(networks: Networks, options: Mapping[str, Any]) -> Iterator[File]:
    """Real networks in float, in every spelling, and with every kernel wherever it is possible."""
    for name in NETWORKS:
        inputs = networks.captured_with(name)
        offer = offered(networks.model(name), inputs, options, networks.dynamic_shapes(name))
        yield from _floats(offer, inputs, name)
        for kernel, chosen in kernel_networks(offer.cleaned.layers, offer.options).items():
            yield file_of(f"{name} {kernel}", _rough(offer, chosen), inputs)


def _floats(offer: Offer, inputs: Any, name: str) -> Iterator[File]:
    target, graph = target_of(offer), offer.cleaned.graph
    ways = [{"attention": "unfused", "masked_softmax": way} for way in ("clamped", "plain")]
    if not target.options.runtime:
        ways.append({"attention": "fused"})
        yield file_of(f"{name} original", target.build_plain(graph, inputs), inputs)
    for way in ways:
        yield file_of(f"{name} float {' '.join(way.values())}", target.spelled(way).build_float(graph, inputs), inputs)


def _rough(offer: Offer, chosen: Any) -> OnnxArtifact:
    cleaned = offer.cleaned
    static = dict.fromkeys(offer.static, STEP)
    built = build_rough(cleaned.graph, cleaned.layers, chosen, static, target_of(offer), cleaned.request.example)
    assert isinstance(built, OnnxArtifact)
    return built


def target_of(offer: Offer) -> OnnxTarget:
    """The target that an offer was made for."""
    target = offer.cleaned.request.target
    assert isinstance(target, OnnxTarget)
    return target


def file_of(name: str, artifact: OnnxArtifact, inputs: Any) -> File:
    """An artifact as a file."""
    feeds = {n: t.numpy() for n, t in zip(artifact.lowered.input_names, inputs, strict=True)}
    return File(name, artifact.lowered.proto(), {n: np.ascontiguousarray(value) for n, value in feeds.items()})
