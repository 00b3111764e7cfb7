from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from capture_models import BATCH, same
from torch import nn
from torch.export import Dim

from instar.ir.capture import capture
from instar.ir.errors import CaptureError
from instar.ir.evaluate import call
from instar.ir.storage import load, save
from instar.ir.verify import verify

SMALL: Any = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
LENGTH = Dim("length", min=4, max=32)
TEXT = {"input_ids": {0: BATCH, 1: LENGTH}, "attention_mask": {0: BATCH, 1: LENGTH}}


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**SMALL | {"attn_implementation": "eager"}))


def llama(**changes: Any) -> nn.Module:
    config = transformers.LlamaConfig(
        **SMALL, num_key_value_heads=1, tie_word_embeddings=True, pad_token_id=0, **changes
    )
    return transformers.LlamaForCausalLM(config)


def text(batch: int, length: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return {"input_ids": torch.randint(3, 90, (batch, length)), "attention_mask": mask}


@pytest.mark.parametrize("model", [bert(), llama(use_cache=False, attn_implementation="sdpa")], ids=["bert", "llama"])
def test_text_models_stay_dynamic(model: nn.Module, tmp_path: Any) -> None:
    graph = capture(model.eval(), (), text(2, 8), dynamic_shapes=TEXT)
    verify(graph)
    assert [str(n.type) for n in graph.inputs] == ["i64[batch, length]"] * 2
    inputs = text(3, 11)
    with torch.no_grad():
        expected = model(**inputs)
    assert type(call(graph, (), inputs)) is type(expected)
    same(call(graph, (), inputs), expected)
    save(graph, tmp_path / "g.safetensors")
    same(load(tmp_path / "g.safetensors").to_module()(**inputs), expected)
    tied = {n.handle.name: n.handle.aliases for n in graph.constants() if n.handle.aliases}
    assert tied == (
        {"model.embed_tokens.weight": ("lm_head.weight",)} if "lm_head" in dict(model.named_children()) else {}
    )


def test_a_cache_among_the_outputs_is_explained() -> None:
    with pytest.raises(
        CaptureError, match=r"found DynamicCache; for a transformers model set model.config.use_cache = False"
    ):
        capture(llama().eval(), (), text(2, 8), dynamic_shapes=TEXT)


def test_a_convolutional_network_with_padding_stays_dynamic() -> None:
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=32)
    model = transformers.MobileNetV2Model(config).eval()
    x = torch.randn(3, 3, 32, 32)
    graph = capture(model, (), {"pixel_values": x[:2]}, dynamic_shapes={"pixel_values": {0: BATCH}})
    verify(graph)
    with torch.no_grad():
        same(call(graph, (), {"pixel_values": x}), model(pixel_values=x))
