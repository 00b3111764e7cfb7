"""Embeds sentences with a folder's ONNX file in two clients, and with its original weights; prints JSON.

    python client_embeddings.py FOLDER

Runs where sentence-transformers and optimum are installed; it imports nothing of instar.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch

SENTENCES = [
    "A cat sleeps on the warm roof.",
    "The stock market fell sharply on Tuesday.",
    "How do I reset my password?",
    "Two children are playing chess in the park.",
    "The recipe needs three eggs and a cup of flour.",
    "Quantum computers use superposition and entanglement.",
    "The train to the coast was delayed because of snow, and nobody at the station knew when the next one would leave.",
    "Please send me the invoice by the end of the week.",
    "An orchestra tuned its instruments before the concert.",
    "Rain.",
    "The committee decided, after a long debate in which nearly every member spoke twice, to postpone the vote.",
    "Bees communicate the direction of flowers by dancing.",
]


def pooled(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are no padding, normalised."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def main(folder: str) -> None:
    """Print the cosines by client."""
    from transformers import AutoTokenizer

    model_of: Any = import_module("optimum.onnxruntime").ORTModelForFeatureExtraction
    sentence_transformer: Any = import_module("sentence_transformers").SentenceTransformer
    original = sentence_transformer(folder, device="cpu").encode(SENTENCES, batch_size=5, convert_to_tensor=True)
    client = sentence_transformer(
        folder, backend="onnx", device="cpu", model_kwargs={"provider": "CPUExecutionProvider"}
    )
    by_sentences = client.encode(SENTENCES, batch_size=5, convert_to_tensor=True)
    model = model_of.from_pretrained(folder, subfolder="onnx", file_name="model.onnx")
    tokens = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    hidden = model(**tokens).last_hidden_state
    packages = ("sentence-transformers", "optimum", "optimum-onnx", "transformers", "onnxruntime")
    said = ", ".join(f"{name} {version(name)}" for name in packages)
    found = {
        'SentenceTransformer(backend="onnx")': by_sentences,
        "ORTModelForFeatureExtraction": pooled(hidden, tokens["attention_mask"]),
    }
    print(json.dumps({name: row(vectors, original, said) for name, vectors in found.items()}))


def row(found: torch.Tensor, original: torch.Tensor, versions: str) -> dict[str, object]:
    """Cosines of the sentences, one by one."""
    cosines = torch.nn.functional.cosine_similarity(found.cpu().float(), original.cpu().float())
    return {
        "versions": versions,
        "sentences": len(cosines),
        "mean_cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
    }


if __name__ == "__main__":
    main(sys.argv[1])
