"""How small MiniLM becomes: files of 9.5 and 7.5 MB, on the torch target and as ONNX.

    OMP_NUM_THREADS=1 python benchmarks/small_minilm.py --assets FOLDER [--only 'torch/*'] [--fresh]

Writes ``small_minilm.json`` and ``small_minilm.md``. Asked on the torch target: 9.5 MB at an STS drop of at most 0.5
and an output error of at most 0.30, 7.5 MB at a drop of at most 1.0. Weights alone are changed; integers of 2 to 5
bits, codebooks found by k-means and normal floats with double quantization compete in every layer, the embedding
among them. Prices of a target are computed once. Plans are refined, built, and measured as built; sizes are those of
what is saved, everything counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from common.networks import FULL, QUICK, Networks, drop
from common.planning import REFINE, prepare_network
from common.store import Row, Store, arguments, scratch, selected, table

from instar.compilation.allocation_stage import predicted
from instar.compilation.budgets import build_plan, decide_and_build
from instar.compilation.building import Built
from instar.compilation.compiled import AsModel
from instar.compilation.prepared import Prepared
from instar.compilation.refinement import refine
from instar.ir.budget import Budget

NAME = "minilm"
MEGABYTES = (9.5, 7.5)
ASKED = {9.5: {"drop": 0.5, "error": 0.30}, 7.5: {"drop": 1.0}}
FORMATS = (
    "int2:g64", "int2:g32", "int3:g128", "int3:g32", "int4:g128", "int4:g32", "int5:g128",
    "codebook:2:channel", "codebook:2:g64", "codebook:3:channel", "codebook:3:g64", "nf2:g64:dq", "nf3:g64:dq",
)  # fmt: skip
QUICK_FORMATS = ("int2:g64", "codebook:2:g64", "int4:g32")
TARGETS = ("torch", "onnx")


def main() -> None:
    """Measure every selected row."""
    parser = arguments(__doc__)
    parser.add_argument("--formats", type=lambda text: tuple(text.split(",")), default=FORMATS)
    parser.add_argument("--encoder", help="for codes; the compile's own choice without it")
    parser.add_argument(
        "--steps", type=int, default=REFINE, help="of refinement, beside the candidates; 0: none at all"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK if given.quick else FULL)
    folder = scratch() if given.quick else given.results
    store = Store("small_minilm", folder, render, fresh=given.fresh, threads=given.threads)
    for target in TARGETS:
        keys = {f"{target}/{mb:g} MB": mb for mb in MEGABYTES}
        wanted = {k: mb for k, mb in keys.items() if selected(k, given.only) and k not in store.rows}
        if wanted:
            prepared = prepare_network(
                networks, NAME, formats=QUICK_FORMATS if given.quick else given.formats, target=target,
                encoders=[given.encoder] if given.encoder else None,
            )  # fmt: skip
            print("priced", target, flush=True)
            measure(networks, store, prepared, wanted, given.steps)
    print(render(store.rows))


def measure(networks: Networks, store: Store, prepared: Prepared, wanted: Mapping[str, float], steps: int) -> None:
    """Decide, refine, build and measure for every size."""
    original = networks.metric(NAME, networks.model(NAME))
    for key, mb in wanted.items():
        built = refined(prepared, Budget(size=int(mb * 1e6)), steps)
        model = AsModel(built.artifact.run, prepared.captured)
        metric = networks.metric(NAME, model)
        store.put(
            key,
            {
                "asked_mb": mb,
                "mb": built.artifact.nbytes / 1e6,
                "error": networks.fidelity(NAME, model),
                "metric": metric,
                "drop": drop(NAME, original, metric),
                "predicted": built.plan.predicted_loss,
                "formats": used(built),
                "embedding": embedding(built),
            },
        )
        print(key, store.rows[key], flush=True)


def refined(prepared: Prepared, budget: Budget, steps: int) -> Built:
    """What a compile with refinement builds; refinement keeps to the bytes of a plan that was seen to fit."""
    built = decide_and_build(prepared, budget)
    if not steps:
        return built
    limits = {"size": predicted(built.plan.decisions, prepared.totals)["size"]}
    return build_plan(prepared, refine(prepared, budget, built.plan, steps, limits))


def used(built: Built) -> dict[str, int]:
    """Format -> layers."""
    counted: dict[str, int] = {}
    for decision in built.plan.decisions:
        text = decision.chosen.option.format
        counted[text] = counted.get(text, 0) + 1
    return dict(sorted(counted.items()))


def embedding(built: Built) -> str:
    """The format of the largest layer: the word embedding, half of all weights."""
    return max(built.plan.decisions, key=lambda d: d.original.nbytes).chosen.option.format


def render(rows: Mapping[str, Row]) -> str:
    """One table."""
    columns = ["target and size", "MB", "output error", "STS", "drop", "asked", "met", "word embedding", "formats"]
    lines: list[list[object]] = []
    for key, row in rows.items():
        asked = ASKED[row["asked_mb"]]
        met = row["mb"] <= row["asked_mb"] and all(row[what] <= bound for what, bound in asked.items())
        words = ", ".join(f"{what} <= {bound:g}" for what, bound in asked.items())
        formats = ", ".join(f"{text} x {count}" for text, count in row["formats"].items())
        numbers = [row[what] for what in ("mb", "error", "metric", "drop")]
        lines.append([key, *numbers, words, met, row["embedding"], formats])
    return table(columns, lines)


if __name__ == "__main__":
    main()
