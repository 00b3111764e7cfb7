"""A compiled sentence encoder in the libraries that read such files: sentence-transformers and optimum.

    python -m venv clients && clients/bin/pip install sentence-transformers[onnx] "transformers<5"
    python benchmarks/clients.py --client-python clients/bin/python [--size 15%]

optimum-onnx 0.1.0, the newest, asks for ``transformers < 4.58`` (transformers 5 has no ``is_offline_mode`` in
``transformers.utils`` any more, which it imports), so that the clients run in an environment of their own.
all-MiniLM-L6-v2 of ``examples/minilm.py`` is compiled with the names that they look for and laid, unchanged, as
``onnx/model.onnx`` into a copy of the model's folder. ``SentenceTransformer(folder, backend="onnx")``,
``ORTModelForFeatureExtraction`` and sentence-transformers with the original weights embed the same sentences, which
were not among the calibration data. Writes ``clients.json`` and ``clients.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from common.store import RESULTS, Row, Store, table
from torch import Tensor, nn

import instar

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
minilm: Any = import_module("minilm")

CLIENT = Path(__file__).parent / "common" / "client_embeddings.py"


class TokenEmbeddings(nn.Module):
    """The example's encoder up to what clients pool themselves, under the names of a ``BertModel``."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.embeddings, self.encoder = encoder.embeddings, encoder.encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """``last_hidden_state``: float32 ``[batch, length, 384]``."""
        bias = (attention_mask.to(torch.float32) - 1)[:, None, None, :] * 1e9
        x = self.embeddings(input_ids)
        for layer in self.encoder["layer"].children():
            x = layer(x, bias)
        return {"last_hidden_state": x}


def main() -> int:
    """Compile, let the clients embed, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client-python", default=sys.executable, help="of an environment with the clients")
    parser.add_argument("--client-path", default="", help="folder of packages that this Python finds first")
    parser.add_argument("--size", action="append", default=[], help="budget; may be given several times")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = Store("clients", given.results, render, fresh=True, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        for size in given.size or ["15%"]:
            file = Path(folder) / f"{size.strip('%')}.onnx"
            compile_to(file, size)
            place = laid_out(Path(folder) / f"model{size.strip('%')}", file)
            for name, row in embedded(place, given.client_python, given.client_path).items():
                store.put(f"{size}/{name}", {"file_bytes": file.stat().st_size, **row})
    print(render(store.rows))
    return 0 if all(row["least_cosine"] > 0.9 for row in store.rows.values()) else 1


def compile_to(file: Path, size: str) -> None:
    """The encoder at a size, from the calibration sentences of the example."""
    built = minilm.build()
    names = ("input_ids", "attention_mask")
    compiled = instar.compile(
        TokenEmbeddings(built["model"]).eval(), (), dict(zip(names, built["args"], strict=True)), target="onnx",
        budget=instar.Budget(size=size), dynamic_shapes=dict(zip(names, built["dynamic_shapes"], strict=True)),
        calibration=({"input_ids": a, "attention_mask": b} for a, b in built["calibration"]),
    )  # fmt: skip
    compiled.save(file)


def laid_out(folder: Path, file: Path) -> Path:
    """The original's folder with ``onnx/model.onnx`` in it."""
    shutil.copytree(minilm.weights_folder(), folder)
    (folder / "onnx").mkdir()
    shutil.copy(file, folder / "onnx" / "model.onnx")
    return folder


def embedded(folder: Path, python: str, path: str) -> dict[str, Row]:
    """What the clients say, by client."""
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [python, str(CLIENT), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the clients do not run: {done.stderr[-3000:]}")
    found: dict[str, Row] = json.loads(done.stdout.splitlines()[-1])
    return found


COLUMNS = ("size", "client", "versions", "file MB", "sentences", "mean cosine", "least cosine")


def render(rows: Mapping[str, Row]) -> str:
    """Cosines between embeddings of the file and of the original weights."""
    return table(
        COLUMNS,
        [
            (*key.split("/", 1), r["versions"], round(r["file_bytes"] / 1e6, 2), r["sentences"],
             round(r["mean_cosine"], 4), round(r["least_cosine"], 4))
            for key, r in rows.items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
