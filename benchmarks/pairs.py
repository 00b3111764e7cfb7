"""Whether interactions of pairs of layers (CLADO, ``search.pairs``) lead to better plans, on data no decision saw.

    OMP_NUM_THREADS=1 python benchmarks/pairs.py --assets FOLDER [--only 'vit/*'] [--fresh] [--quick]

Writes ``pairs.json`` and ``pairs.md``. At every number of bits per weight: the optimum of the predicted losses, and the
optimum with the interactions of the most sensitive pairs of layers, each measured with both weights replaced. Integers
only, weights only, torch target, GPTQ. Neither plan is refined, so that the difference is that of interactions alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from common.networks import FULL, NAMES, QUICK, Networks
from common.planning import FORMATS, Assignment, Measured, prepare_network, weights
from common.store import Row, Store, arguments, scratch, selected, table

from instar.compilation.allocation_stage import Allocation
from instar.compilation.candidates import on_few, with_interactions
from instar.compilation.prepared import Prepared
from instar.ir.budget import Budget

BITS = (4.0, 3.0, 2.5)
PAIRS = 8
QUICK_FORMATS = ("int2:g64", "int3:g32", "int4:g32")


def main() -> None:
    """Measure every selected network."""
    given = arguments(__doc__).parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK if given.quick else FULL)
    store = Store(
        "pairs", scratch() if given.quick else given.results, render, fresh=given.fresh, threads=given.threads
    )
    for name in NAMES:
        keys = [f"{name}/{bits:g} bits" for bits in BITS]
        wanted = [k for k in keys if selected(k, given.only) and k not in store.rows]
        if wanted:
            measure(networks, store, name, wanted, QUICK_FORMATS if given.quick else FORMATS)
    print(render(store.rows))


def measure(networks: Networks, store: Store, name: str, wanted: Sequence[str], formats: Sequence[str]) -> None:
    """Price a network once and measure its rows."""
    prepared = prepare_network(networks, name, formats=formats)
    measured = Measured(networks, name, prepared, networks.metric(name, networks.model(name)))
    for key in wanted:
        bits = float(key.partition("/")[2].split()[0])
        budget = Budget(size=int(bits * weights(prepared) / 8) + prepared.totals.fixed_nbytes)
        plain = prepared.allocate(budget)
        paired = interacting(prepared, budget, plain)
        plans = {"independent": formats_of(plain), "pairs": formats_of(paired)}
        changed = sum(plans["pairs"][layer] != chosen for layer, chosen in plans["independent"].items())
        store.put(key, {"plans": {label: measured(plan) for label, plan in plans.items()}, "changed": changed})
        print(key, {label: row["error"] for label, row in store.rows[key]["plans"].items()}, flush=True)


def interacting(prepared: Prepared, budget: Budget, plain: Allocation) -> Allocation:
    """The optimum with interactions, measured as ``compile`` does it."""
    limits = prepared.totals.limits(budget)
    return with_interactions(prepared, budget, plain.decisions, on_few(prepared), limits, PAIRS)


def formats_of(allocation: Allocation) -> Assignment:
    """Layer -> format."""
    return {d.layer: d.chosen.option.format for d in allocation.decisions}


def render(rows: Mapping[str, Row]) -> str:
    """One table."""
    columns = [
        "network",
        "at",
        "layers changed",
        "error, independent",
        "error, pairs",
        "drop, independent",
        "drop, pairs",
    ]
    lines: list[list[object]] = []
    for key, row in rows.items():
        (plain, paired), (name, _, bits) = row["plans"].values(), key.partition("/")
        numbers = [plan[what] for what in ("error", "drop") for plan in (plain, paired)]
        lines.append([name, bits, row["changed"], *numbers])
    return table(columns, lines)


if __name__ == "__main__":
    main()
