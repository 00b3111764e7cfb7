"""The character GPT at 3 and 2.25 bits a weight, a format for every layer, all bytes counted.

    OMP_NUM_THREADS=1 python benchmarks/small_chargpt.py --assets FOLDER [--only '3 bits'] [--windows 256] [--fresh]

Writes ``small_chargpt.json`` and ``small_chargpt.md``. Asked: 3 bits at +0.005 nats a character, 2.25 bits at +0.03.
Weights alone are changed, on the torch target; codebooks found by k-means with one scale a row and integers in groups
compete in every layer, codes by error feedback and coordinate descent. Bits count all numbers of the network: codes,
scales, tables, and norms, which stay in float, over the number of all weights (the attention mask is none of them).
Prices are computed once; nats are those of the whole validation text (``--judged`` windows of it), which no decision
saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from common.networks import FULL, QUICK, Effort, Networks
from common.planning import REFINE, Measured, optimal, prepare_network, refined, weights
from common.store import Row, Store, arguments, scratch, selected, table

from instar.compilation.prepared import Prepared

NAME = "chargpt"
ASKED = {3.0: 0.005, 2.25: 0.03}
FORMATS = ("codebook:2:channel", "codebook:3:channel", "codebook:4:channel", "int2:g64", "int3:g128", "int4:g128")
QUICK_FORMATS = ("codebook:2:channel", "codebook:3:channel", "codebook:4:channel")
ENCODER = "gptq:act_order:sweeps=4"
WINDOWS_A_BATCH = 16


def main() -> None:
    """Measure every selected row."""
    parser = arguments(__doc__)
    parser.add_argument("--formats", type=lambda text: tuple(text.split(",")), default=FORMATS)
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--windows", type=int, default=256, help="of 256 characters, for calibration")
    parser.add_argument("--judged", type=int, help="windows of the validation text; all without it")
    parser.add_argument("--steps", type=int, default=REFINE, help="of refinement; 0: none at all")
    parser.add_argument("--label", default="", help="tells rows with other options apart")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    effort = QUICK if given.quick else effort_of(given.windows, given.judged)
    networks = Networks(given.assets, effort)
    folder = scratch() if given.quick else given.results
    store = Store("small_chargpt", folder, render, fresh=given.fresh, threads=given.threads)
    keys = {" ".join(filter(None, (f"{bits:g} bits", given.label))): bits for bits in ASKED}
    wanted = {k: bits for k, bits in keys.items() if selected(k, given.only) and k not in store.rows}
    if wanted:
        formats = QUICK_FORMATS if given.quick else given.formats
        prepared = prepare_network(networks, NAME, formats=formats, encoders=[given.encoder])
        print("priced", flush=True)
        measure(networks, store, prepared, wanted, given.steps, given.encoder)
    print(render(store.rows))


def effort_of(windows: int, judged: int | None) -> Effort:
    """Calibration and evaluation in windows; one of the language model stands for 16 samples of the others."""
    limit = None if judged is None else 16 * judged
    return Effort(max(1, windows // WINDOWS_A_BATCH), WINDOWS_A_BATCH, limit, FULL.fidelity, FULL.seconds)


def measure(
    networks: Networks, store: Store, prepared: Prepared, wanted: Mapping[str, float], steps: int, encoder: str
) -> None:
    """Decide, refine and measure every number of bits."""
    numbers = networks.parameters(NAME)
    others = 4 * (numbers - weights(prepared))
    measured = Measured(networks, NAME, prepared, networks.metric(NAME, networks.model(NAME)))
    for key, bits in wanted.items():
        nbytes = int(bits * numbers / 8) - others
        plan = refined(prepared, nbytes, steps) if steps else optimal(prepared, nbytes)
        found = measured(plan)
        store.put(
            key,
            {
                "asked_bits": bits,
                "bits": 8 * (found["nbytes"] + others) / numbers,
                "float": measured.original,
                "nats": found["metric"],
                "drop": found["drop"],
                "predicted": found["predicted"],
                "encoder": encoder,
                "calibrated": networks.effort.batches * networks.effort.batch,
                "steps": steps,
                "formats": dict(sorted(Counter(plan.values()).items())),
                "plan": plan,
            },
        )
        print(key, store.rows[key], flush=True)


def render(rows: Mapping[str, Row]) -> str:
    """One table."""
    columns = ["plan", "bits a weight", "nats", "against float", "asked", "met", "predicted loss", "windows", "encoder",
               "steps", "formats"]  # fmt: skip
    lines: list[list[object]] = []
    for key, row in rows.items():
        asked = ASKED[row["asked_bits"]]
        met = row["bits"] <= row["asked_bits"] and row["drop"] <= asked
        formats = ", ".join(f"{text} x {count}" for text, count in row["formats"].items())
        lines.append(
            [key, f"{row['bits']:.3f}", f"{row['nats']:.4f}", f"{row['drop']:+.4f}", f"+{asked:g}", met,
             row["predicted"], row["calibrated"], row["encoder"], row["steps"], formats]
        )  # fmt: skip
    return table(columns, lines)


if __name__ == "__main__":
    main()
