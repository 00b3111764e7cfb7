"""The example model is the published network, and the command line can load it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from instar.cli.source import Source, load_source

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def source() -> Source:
    return load_source(f"{EXAMPLES / 'minilm.py'}:build")


def test_it_computes_what_bert_computes(source: Source) -> None:
    """Hidden states of transformers' own network with the same parameters, pooled by hand."""
    config = BertConfig(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    bert = BertModel(config, add_pooling_layer=False).eval()
    bert.load_state_dict(source.model.state_dict())
    with torch.no_grad():
        for ids, mask in list(source.calibration)[:2]:
            hidden = bert(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[:, :, None].float()
            expected = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
            torch.testing.assert_close(source.model(ids, mask), expected, rtol=0, atol=2e-6)


def test_the_demo_judges_on_sentences_that_compiling_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    demo = importlib.import_module("demo")
    seen, held_out = demo.split()
    assert (len(seen), len(held_out)) == (150, 50)
    assert not set(seen) & set(held_out)
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9]]), dim=1)
    assert demo.nearest(vectors).tolist() == [1, 0, 3, 2]
    assert demo.quality(vectors, vectors) == {"output_error": 0.0, "same_neighbour": 1.0}
    assert demo.quality(vectors, vectors.flip(1))["output_error"] > 0.5


def test_example_inputs_and_calibration(source: Source) -> None:
    assert all(value.shape[1] == 128 and value.dtype == torch.int64 for value in source.args)
    assert bool((source.args[0] > 0).all())
    batches = list(source.calibration)
    assert len(batches) == len(source.calibration)
    assert max(ids.shape[1] for ids, _ in batches) > 64


def test_sentences_are_many_and_different() -> None:
    lines = (EXAMPLES / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 200


def test_the_model_exports_with_dynamic_shapes(source: Source) -> None:
    program = torch.export.export(source.model, source.args, dynamic_shapes=source.dynamic_shapes)
    ids = torch.randint(0, 30522, (3, 17))
    expected = source.model(ids, torch.ones_like(ids))
    torch.testing.assert_close(program.module()(ids, torch.ones_like(ids)), expected, rtol=0, atol=1e-5)
