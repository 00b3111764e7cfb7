"""Quality against bytes: one allocation over integers and structure, against each alone, uniform and greedy plans.

    OMP_NUM_THREADS=1 python benchmarks/structure_curves.py --assets FOLDER [--only 'vit/*'] [--percent 10,25] [--fresh]

Writes ``structure_curves.json``, ``structure_curves.md`` and a picture for each network. Rows are budgets for
everything that the network stores, as percent of its float bytes. All plans of a network share calibration data,
encoders and prices; weights alone are changed, on the torch target; quality is that of data which no decision saw:

* ``joint``: integers, low rank, Monarch, low rank in integers and sums compete in every layer; refined, as ``compile``
  does it: whole plans are measured on calibration data, those of one kind of format and the greedy one among them.
* ``predicted``: the same before that, the optimum of the predicted losses.
* ``integers`` and ``structure``: the same without the other half (``fp32`` and ``fp16`` are in both); not refined.
* ``uniform``: one integer format for all layers, the one of least predicted loss that fits.
* ``greedy``: by saved loss per byte, over all options that were stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from common.curve_picture import Series, write_picture
from common.networks import FULL, NAMES, QUICK, Networks
from common.planning import (
    FORMATS,
    REFINE,
    Assignment,
    Measured,
    nbytes_of,
    predicted_loss,
    prepare_network,
    uniform,
)
from common.store import Row, Store, arguments, scratch, selected, table

from instar.compilation.prepared import Prepared
from instar.compilation.refinement import refine
from instar.ir.budget import Budget
from instar.ir.errors import InfeasibleError
from instar.passes.formats.registry import names_in

PERCENT = (4, 6, 8, 10, 13, 17, 25, 40)
QUICK_PERCENT = (10, 25)

STRUCTURES = ("lowrank", "monarch")
STRUCTURE = (*STRUCTURES, "int8:channel @ lowrank", "int4:g32 @ lowrank", "lowrank + int4:g32", "lowrank + int2:g64")
QUICK_STRUCTURE = ("lowrank", "int8:channel @ lowrank")
FLOATS = ("fp32", "fp16")

AMOUNTS = {
    "batches": "calibration batches", "steps": "steps of refinement", "limit": "samples for the metric",
    "fidelity": "samples for the output error",
}  # fmt: skip
"""What rows say about how much was measured."""

PLANS = {
    "joint": "#0f766e", "predicted": "#7c3aed", "integers": "#2563eb", "structure": "#c2410c", "uniform": "#9ca3af",
    "greedy": "#a16207",
}  # fmt: skip
"""Plans and their colours."""


def main() -> None:
    """Measure every selected network."""
    parser = arguments(__doc__)
    parser.add_argument("--limit", type=int, help="evaluation samples for the metric; all without it")
    parser.add_argument("--steps", type=int, default=REFINE, help="of refinement, beside the candidates")
    parser.add_argument("--percent", type=listed, default=tuple(map(str, PERCENT)), help="budgets, in this order")
    parser.add_argument("--integers", type=listed, default=FORMATS, help="formats, smallest first")
    parser.add_argument("--structure", type=listed, default=STRUCTURE, help="families of formats with factors")
    parser.add_argument("--batches", type=int, default=FULL.batches, help="of calibration data")
    parser.add_argument("--fidelity", type=int, default=FULL.fidelity, help="evaluation samples for the output error")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    effort = replace(FULL, limit=given.limit, batches=given.batches, fidelity=given.fidelity)
    networks = Networks(given.assets, QUICK if given.quick else effort)
    folder: Path = scratch() if given.quick else given.results
    store = Store("structure_curves", folder, render, fresh=given.fresh, threads=given.threads)
    known = (*FORMATS[-3:], *QUICK_STRUCTURE) if given.quick else (*given.integers, *given.structure)
    formats = (*FLOATS, *known)
    for name in NAMES:
        keys = [f"{name}/{p} %" for p in (QUICK_PERCENT if given.quick else given.percent)]
        wanted = [k for k in keys if selected(k, given.only) and k not in store.rows]
        if wanted:
            measure(networks, store, name, wanted, formats, given.steps)
            draw(name, store.rows, folder)
    print(render(store.rows))


def listed(text: str) -> tuple[str, ...]:
    """What commas separate."""
    return tuple(part.strip() for part in text.split(","))


def measure(
    networks: Networks, store: Store, name: str, wanted: Sequence[str], formats: Sequence[str], steps: int
) -> None:
    """Price a network once and measure its rows."""
    joint = prepare_network(networks, name, formats=formats)
    print(name, "priced", {stage: round(seconds) for stage, seconds in joint.stages.seconds.items()}, flush=True)
    measured = Measured(networks, name, joint, networks.metric(name, networks.model(name)))
    for key in wanted:
        nbytes = int(float(key.partition("/")[2].split()[0]) / 100 * joint.totals.original_nbytes)
        plans = {label: plan for label, plan in plans_of(joint, nbytes, formats, steps).items() if plan is not None}
        rows = {label: measured(plan) | {"formats": used(plan)} for label, plan in plans.items()}
        known = {"nbytes": nbytes, "fixed_nbytes": joint.totals.fixed_nbytes, "limit": networks.effort.limit}
        known |= {"batches": networks.effort.batches, "fidelity": networks.effort.fidelity, "steps": steps}
        store.put(key, known | {"options": list(formats), "plans": rows})
        print(key, {label: (row["error"], row["drop"]) for label, row in rows.items()}, flush=True)
        spent = {stage: round(seconds) for stage, seconds in joint.stages.seconds.items()}
        print(key, spent, f"{time.process_time():.0f} s of processor time", flush=True)
    print(joint.ladder.note(), flush=True)


def plans_of(joint: Prepared, nbytes: int, formats: Sequence[str], steps: int) -> dict[str, Assignment | None]:
    """Every plan for so many bytes; None where none is that small."""
    integers = replace(joint, ladder=joint.ladder.only(lambda o: not is_structure(o.option.format)))
    structure = replace(
        joint, ladder=joint.ladder.only(lambda o: o.option.format in FLOATS or is_structure(o.option.format))
    )
    found = {label: optimum(one, nbytes) for label, one in (("integers", integers), ("structure", structure))}
    best = optimum(joint, nbytes)
    greedy = joint.greedy(Budget(size=nbytes))
    return {
        "joint": None if best is None else refined(joint, nbytes, steps),
        "predicted": best,
        **found,
        "uniform": best_uniform(integers, nbytes, [f for f in formats if f in FORMATS]),
        "greedy": None if greedy is None else {d.layer: d.chosen.option.format for d in greedy.decisions},
    }


def is_structure(format_text: str) -> bool:
    """Whether factors are a part of a format."""
    return any(name in STRUCTURES for name in names_in(format_text))


def optimum(prepared: Prepared, nbytes: int) -> Assignment | None:
    """Instar's decisions; what they store is stored for all plans."""
    try:
        allocation = prepared.allocate(Budget(size=nbytes))
    except InfeasibleError:
        return None
    return {d.layer: d.chosen.option.format for d in allocation.decisions}


def refined(joint: Prepared, nbytes: int, steps: int) -> Assignment:
    """The plan that a compile with refinement finds."""
    budget = Budget(size=nbytes)
    limits = joint.totals.limits(budget)
    plan = refine(joint, budget, joint.plan(joint.allocate(budget)), steps, limits)
    return {d.layer: d.chosen.option.format for d in plan.decisions}


def best_uniform(prepared: Prepared, nbytes: int, formats: Sequence[str]) -> Assignment | None:
    """The uniform plan of least predicted loss that fits."""
    plans = [uniform(prepared, text) for text in formats]
    fitting = [p for p in plans if nbytes_of(prepared, p) + prepared.totals.fixed_nbytes <= nbytes]
    return min(fitting, key=lambda plan: predicted_loss(prepared.prices, plan), default=None)


def used(plan: Assignment) -> dict[str, int]:
    """Format -> layers."""
    counted: dict[str, int] = {}
    for text in plan.values():
        counted[text] = counted.get(text, 0) + 1
    return counted


def draw(name: str, rows: Mapping[str, Row], folder: Path) -> None:
    """The picture of a network: a line for each kind of plan."""
    own = [row for key, row in rows.items() if key.startswith(f"{name}/")]
    points = {
        label: [
            (row["plans"][label]["nbytes"] / 1e6, row["plans"][label]["error"]) for row in own if label in row["plans"]
        ]
        for label in PLANS
    }
    lines = [Series(label, PLANS[label], tuple(sorted(each))) for label, each in points.items() if each]
    write_picture(folder / f"structure_curves_{name}.svg", f"{name}: error of the outputs against MB of weights", lines)


def render(rows: Mapping[str, Row]) -> str:
    """One table per network."""
    parts: list[str] = []
    for name in NAMES:
        own = {k.partition("/")[2]: row for k, row in rows.items() if k.startswith(f"{name}/")}
        own = dict(sorted(own.items(), key=lambda entry: float(entry[0].split()[0])))
        if own:
            parts += [f"## {name}", _effort(own), f"![{name}](structure_curves_{name}.svg)", _table(own)]
    return "\n\n".join(parts)


def _effort(rows: Mapping[str, Row]) -> str:
    """What was offered and how much was measured, for rows that say so."""
    found: dict[str, list[str]] = {}
    for what, row in rows.items():
        amounts = [f"{row[key]} {words}" for key, words in AMOUNTS.items() if row.get(key) is not None]
        options = ", ".join(f"`{option}`" for option in row.get("options", ())) or "options of the defaults"
        found.setdefault("; ".join([options, *amounts]), []).append(what)
    return "\n".join(f"* {', '.join(keys)}: {text}" for text, keys in found.items())


def _table(rows: Mapping[str, Row]) -> str:
    columns = [
        "bytes",
        "plan",
        "MB of weights",
        "bits/weight",
        "predicted loss",
        "output error",
        "drop",
        "structure in",
    ]
    lines: list[list[object]] = []
    for what, row in rows.items():
        for label in PLANS:
            plan = row["plans"].get(label)
            if plan is None:
                lines.append([what, label, *(None,) * 6])
                continue
            numbers = [plan["nbytes"] / 1e6, *(plan[key] for key in ("bits", "predicted", "error", "drop"))]
            layers = sum(count for text, count in plan["formats"].items() if is_structure(text))
            lines.append([what, label, *numbers, f"{layers} of {sum(plan['formats'].values())} layers"])
    return table(columns, lines)


if __name__ == "__main__":
    main()
