"""Instar's plans against uniform and greedy ones at the same bytes: output error and task metric on unseen data.

    OMP_NUM_THREADS=1 python benchmarks/plans.py --assets FOLDER [--only 'vit/*'] [--fresh]

Writes ``plans.json`` and ``plans.md``. Formats, encoder (GPTQ), calibration data and prices are the same for all plans
of a network, weights alone are quantized, biases of all of them are corrected. Uniform plans: instar solves for exactly
the bytes that the uniform plan uses. Greedy plans: at 5, 3.6 and 3 bits per weight, where instar refines its plan, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from common.networks import FULL, NAMES, QUICK, TASKS, Networks
from common.planning import (
    FORMATS,
    Assignment,
    Measured,
    greedy_plans,
    losses_by_format,
    nbytes_of,
    optimal,
    prepare_network,
    refined,
    uniform,
    weights,
)
from common.store import Row, Store, arguments, scratch, selected, table

BITS = (5.0, 3.6, 3.0)
QUICK_FORMATS = ("int3:g32", "int4:channel")
NOISE = {"sts": 0.1, "fashion": 0.1, "chars": 0.001}
"""Change of a metric that counts as none: a tenth of a point, a thousandth of a nat."""

SAME_ERROR = 1e-3
"""Relative difference of two output errors that counts as none."""


def main() -> None:
    """Measure every selected network."""
    parser = arguments(__doc__)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK if given.quick else FULL)
    folder = scratch() if given.quick else given.results
    store = Store("plans", folder, render, fresh=given.fresh, threads=given.threads)
    formats = QUICK_FORMATS if given.quick else FORMATS
    for name in NAMES:
        wanted = [key for key in keys(name, formats) if selected(key, given.only) and key not in store.rows]
        if wanted:
            measure(networks, store, name, wanted)
    print(render(store.rows))


def keys(name: str, formats: tuple[str, ...]) -> list[str]:
    """The rows of a network: one per uniform format, one per budget."""
    return [*(f"{name}/uniform {f}" for f in formats), *(f"{name}/{b:g} bits" for b in BITS)]


def measure(networks: Networks, store: Store, name: str, wanted: list[str]) -> None:
    """Price a network once and measure its rows."""
    prepared = prepare_network(networks, name)
    by_weight = losses_by_format(prepare_network(networks, name, calibrated=False))
    measured = Measured(networks, name, prepared, networks.metric(name, networks.model(name)))
    for key in wanted:
        what = key.partition("/")[2]
        if what.startswith("uniform "):
            plan = uniform(prepared, what.removeprefix("uniform "))
            limit = nbytes_of(prepared, plan)
            best, others = optimal(prepared, limit), {"uniform": plan}
        else:
            limit = int(float(what.split()[0]) * weights(prepared) / 8)
            best = refined(prepared, limit)
            others = {"instar, not refined": optimal(prepared, limit)} | greedy_plans(prepared, by_weight, limit)
        store.put(key, compared(measured, name, best, others))
        print(key, store.rows[key]["verdicts"], flush=True)


def compared(
    measured: Callable[[Assignment], Row], name: str, best: Assignment, others: Mapping[str, Assignment]
) -> Row:
    """The plans of one budget with verdicts."""
    rows = {"instar": measured(best)} | {label: measured(plan) for label, plan in others.items()}
    noise, own = NOISE[TASKS[name]], rows["instar"]
    verdicts = {
        label: "same plan" if dict(plan) == dict(best) else _verdict(own, rows[label], noise)
        for label, plan in others.items()
    }
    return {"plans": rows, "verdicts": verdicts}


def _verdict(own: Row, other: Row, noise: float) -> str:
    equal = abs(own["error"] - other["error"]) <= SAME_ERROR * other["error"]
    error = "equal" if equal else "better" if own["error"] < other["error"] else "WORSE"
    metric = "better" if own["drop"] < other["drop"] else "equal" if own["drop"] <= other["drop"] + noise else "WORSE"
    return f"error {error}, metric {metric}"


def render(rows: Mapping[str, Row]) -> str:
    """One table per network."""
    parts = [f"`equal`: within the metric's noise, {NOISE['sts']} points or {NOISE['chars']} nats."]
    for name in NAMES:
        own = {k.partition("/")[2]: row for k, row in rows.items() if k.startswith(f"{name}/")}
        if own:
            parts += [f"## {name}", _table(own)]
    return "\n\n".join(parts)


def _table(rows: Mapping[str, Row]) -> str:
    columns = [
        "at the bytes of",
        "plan",
        "bits/weight",
        "predicted loss",
        "output error",
        "metric",
        "drop",
        "instar is",
    ]
    lines: list[list[object]] = []
    for what, row in rows.items():
        for label, plan in row["plans"].items():
            numbers = [plan[key] for key in ("bits", "predicted", "error", "metric", "drop")]
            lines.append([what, label, *numbers, row["verdicts"].get(label, "")])
    return table(columns, lines)


if __name__ == "__main__":
    main()
