"""A file is read as sentence-transformers (``backend="onnx"``) and optimum read it: by names, at any batch and length.

``optimum.onnxruntime.ORTModelForFeatureExtraction`` takes ``onnx/model.onnx`` of a folder, feeds what the tokenizer
gives under the names of the session's inputs, and looks its outputs up by name, ``last_hidden_state`` among them, which
sentence-transformers pools with the attention mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim
from transformers import BertConfig, BertModel

import instar


class Client:
    """What both do with a file."""

    def __init__(self, folder: Path) -> None:
        path = folder / "onnx" / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = {entry.name: entry.type for entry in self.session.get_inputs()}
        self.outputs = {entry.name: index for index, entry in enumerate(self.session.get_outputs())}

    def sentence_vectors(self, tokens: dict[str, Tensor]) -> Tensor:
        """Mean pooling over the tokens that are no padding, normalised."""
        feeds: dict[str, NDArray[Any]] = {name: tokens[name].numpy() for name in self.inputs}
        found = self.session.run(None, feeds)
        hidden = torch.from_numpy(np.asarray(found[self.outputs["last_hidden_state"]]))
        return pooled(hidden, tokens["attention_mask"])


def pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def tokens(batch: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length // 2 :] = 0
    ids = torch.randint(5, 100, (batch, length))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def test_a_sentence_encoder_works_where_the_original_did(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    model = BertModel(config).eval()
    shapes = {name: {0: Dim("batch"), 1: Dim("sequence", max=512)} for name in tokens(2, 8)}
    compiled = instar.compile(
        model, (), tokens(2, 8), target="onnx", dynamic_shapes=shapes, formats=["int8:channel"], activations=["none"]
    )
    (tmp_path / "onnx").mkdir()
    compiled.save(tmp_path / "onnx" / "model.onnx")
    client = Client(tmp_path)
    assert client.inputs == dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), "tensor(int64)")
    assert list(client.outputs) == ["last_hidden_state", "pooler_output"]
    for batch, length in ((2, 8), (5, 13)):
        given = tokens(batch, length)
        with torch.no_grad():
            expected = pooled(model(**given).last_hidden_state, given["attention_mask"])
        assert float((client.sentence_vectors(given) * expected).sum(1).min()) > 0.995
