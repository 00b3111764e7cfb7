"""How well the predicted loss of a plan ranks and scales with the measured one, for three measures of sensitivity.

    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py --assets FOLDER [--plans 40] [--only vit]

Writes ``sensitivity.json`` and ``sensitivity.md``. Random plans of every network are built once (GPTQ, weights only);
each draws two formats and gives every layer one between them, so that plans spread over all sizes. Measured: relative
squared output error on evaluation inputs, which no measure saw. Correlations: Spearman's, and Pearson's of logarithms.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from common.networks import FULL, NAMES, QUICK, Networks
from common.planning import (
    FORMATS,
    Assignment,
    build,
    by_format,
    losses_by_format,
    nbytes_of,
    prepare_network,
    weights,
)
from common.store import Row, Store, arguments, scratch, selected, table

from instar.compilation.measured_loss import MeasuredLoss
from instar.compilation.prepared import Prepared

MEASURES = ("fisher", "output_error", "weight_error")


def main() -> None:
    """Measure every selected network."""
    parser = arguments(__doc__)
    parser.add_argument("--plans", type=int, default=40, help="random plans per network")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK if given.quick else FULL)
    folder = scratch() if given.quick else given.results
    store = Store("sensitivity", folder, render, fresh=given.fresh, threads=given.threads)
    for name in NAMES:
        if selected(name, given.only) and name not in store.rows:
            store.put(name, measure(networks, name, 6 if given.quick else given.plans))
            print(name, store.rows[name]["spearman"], flush=True)
    print(render(store.rows))


def measure(networks: Networks, name: str, count: int) -> Row:
    """Predicted and measured losses of random plans of one network."""
    prepared = prepare_network(networks, name, sensitivity="fisher")
    tables = {
        "fisher": losses_by_format(prepared),
        "output_error": losses_by_format(prepare_network(networks, name, sensitivity="output_error")),
        "weight_error": losses_by_format(prepare_network(networks, name, calibrated=False)),
    }
    plans = random_plans(prepared, count)
    measured = measured_losses(networks, name, prepared, plans)
    predicted = {m: [_total(tables[m], plan) for plan in plans] for m in MEASURES}
    scale = weights(prepared)
    return {
        "plans": count,
        "spearman": {m: spearman(predicted[m], measured) for m in MEASURES},
        "pearson_of_logs": {m: pearson_of_logs(predicted[m], measured) for m in MEASURES},
        "median_ratio": {m: float(np.median(np.asarray(measured) / np.asarray(predicted[m]))) for m in MEASURES},
        "bits": [round(8 * nbytes_of(prepared, plan) / scale, 3) for plan in plans],
        "measured": measured,
        "predicted": predicted,
    }


def random_plans(prepared: Prepared, count: int) -> list[Assignment]:
    """Plans drawn with a fixed seed."""
    generator = random.Random(0)
    plans: list[Assignment] = []
    for _ in range(count):
        low, high = sorted(generator.choices(range(len(FORMATS)), k=2))
        allowed = FORMATS[low : high + 1]
        plans.append({p.layer.name: _draw(generator, list(by_format(p)), allowed) for p in prepared.prices})
    return plans


def _draw(generator: random.Random, known: Sequence[str], allowed: Sequence[str]) -> str:
    possible = [f for f in allowed if f in known]
    return generator.choice(possible or list(known))


def measured_losses(networks: Networks, name: str, prepared: Prepared, plans: Sequence[Assignment]) -> list[float]:
    """Relative squared output error of every plan on evaluation inputs."""
    loss = MeasuredLoss(prepared.graph, [list(batch) for batch in networks.held_out(name)])
    return [loss.of_graph(build(prepared, plan)) for plan in plans]


def _total(losses: Mapping[str, Mapping[str, float]], plan: Assignment) -> float:
    return sum(losses[layer][chosen] for layer, chosen in plan.items())


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of ranks; losses have no ties to speak of."""
    first, second = (np.argsort(np.argsort(np.asarray(values))) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def pearson_of_logs(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of the logarithms of losses."""
    return float(np.corrcoef(np.log(np.asarray(a)), np.log(np.asarray(b)))[0, 1])


def render(rows: Mapping[str, Row]) -> str:
    """One row per network and measure."""
    columns = ["network", "plans", "measure", "Spearman", "Pearson of logs", "measured / predicted (median)"]
    lines: list[list[object]] = [
        [name, row["plans"], m, row["spearman"][m], row["pearson_of_logs"][m], row["median_ratio"][m]]
        for name, row in rows.items()
        for m in MEASURES
    ]
    return table(columns, lines)


if __name__ == "__main__":
    main()
