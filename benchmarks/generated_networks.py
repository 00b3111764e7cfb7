"""Compiles generated networks, exactly and quantized, and compares each with itself in float64 at two sizes.

    python benchmarks/generated_networks.py [--first 100] [--count 1000]

Every fifth network is compiled as a whole in float16, bfloat16 or float64 too.
The generator, the bounds and the judge are those of ``tests/generated``, where the first seeds are tests. Writes
``generated_networks.json`` and ``generated_networks.md``: counts for each way, and a row for each outcome that is
not right, with the message. A run that is interrupted goes on where it stopped. Returns 1 where anything was wrong,
foreign, silently fixed, or refused although ``torch.onnx.export(dynamo=True)`` takes it.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from common.store import RESULTS, Row, Store, scratch, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from generated.judge import DTYPES, FAULTS, WAYS, Outcome, judge
from generated.networks import generate

VERDICTS = ("right", "no network", "shared refusal", "infeasible", *FAULTS)


def main() -> int:
    """Run the seeds that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=100, help="seed")
    parser.add_argument("--count", type=int, default=1000, help="of seeds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--quick", action="store_true", help="two seeds, results are thrown away")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = scratch() if given.quick else given.results
    store = Store("generated_networks", folder, render, fresh=given.fresh or given.quick, threads=1)
    for seed in range(given.first, given.first + (2 if given.quick else given.count)):
        for way in (
            "exact",
            WAYS[seed % len(WAYS)],
            *([list(DTYPES)[seed // 5 % len(DTYPES)]] if seed % 5 == 0 else []),
        ):
            if f"{seed}/{way}" not in store.rows:
                put(store, seed, way)
        if seed % 25 == 0:  # what torch and the exporter keep is not walked again by every compilation
            gc.collect()
            gc.freeze()
    return 1 if any(row["verdict"] in FAULTS for row in store.rows.values()) else 0


def put(store: Store, seed: int, way: str) -> None:
    """Judge a seed in one way, and keep what came of it."""
    start = time.process_time()
    outcome: Outcome = judge(generate(seed), way)  # pyright: ignore[reportArgumentType]
    seconds = round(time.process_time() - start, 2)
    row = {"verdict": outcome.verdict, "blocks": list(outcome.blocks), "cpu_s": seconds, "detail": outcome.detail}
    store.put(f"{seed}/{way}", row)
    print(f"{seed}/{way}: {outcome.verdict}, {seconds} s, {' '.join(outcome.blocks)} {outcome.detail}", flush=True)


def render(rows: Mapping[str, Row]) -> str:
    """Counts by way, then everything that is not right."""
    ways = sorted({key.split("/")[1] for key in rows})
    counted = [
        (way, *(sum(r["verdict"] == v for k, r in rows.items() if k.endswith(f"/{way}")) for v in VERDICTS))
        for way in ways
    ]
    others = [
        (key, row["verdict"], " ".join(row["blocks"]), row["detail"])
        for key, row in rows.items()
        if row["verdict"] != "right"
    ]
    text = table(("way", *VERDICTS), counted)
    return f"{text}\n\n{table(('seed', 'verdict', 'blocks', 'what it says'), others)}" if others else text


if __name__ == "__main__":
    sys.exit(main())
