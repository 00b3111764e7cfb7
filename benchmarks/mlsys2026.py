"""Instances of the MLSys 2026 contest under our reading of its rules: our schedule, every operation alone, and a bound.

``python benchmarks/mlsys2026.py --instances FOLDER``, with ``--least-ops 33`` the larger half alone. Totals are not
comparable with those of teams: each reads the rules differently, and the official evaluator is not public.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import cast

from instar.ir.files import atomic_write_json, atomic_write_text, read_json
from instar.schedulers.mlsys2026.evaluator import Rules
from instar.schedulers.mlsys2026.problem import load_instance
from instar.schedulers.mlsys2026.search import alone, search

RESULTS = Path(__file__).parent / "results"
KEY = ("instance", "depth", "above_native")


HEAD = """# MLSys 2026 contest instances

`benchmarks/mlsys2026.py`, one thread, processor time on a busy machine. Totals of teams are not comparable: the rules
are read differently and the official evaluator is not public. *Depth*: how deep a sum one base cost pays for, the whole
or the native width. *Above*: whether tiles may be larger than the native size.

| instance | ops | depth | above | total | every op alone | bound | total / bound | subgraphs | s |
|---|---|---|---|---|---|---|---|---|---|"""


def row(path: Path, rules: Rules) -> dict[str, float | str | int]:
    """One instance under one reading."""
    instance = load_instance(path.read_text(encoding="utf-8"))
    start = time.process_time()
    found, single = search(instance, rules), alone(instance, rules)
    return {
        "instance": path.stem,
        "ops": len(instance.ops),
        "depth": rules.depth,
        "above_native": rules.above_native,
        "total": found.total,
        "alone": single.total,
        "bound": found.bound,
        "subgraphs": len(found.schedule),
        "cpu_s": round(time.process_time() - start, 1),
    }


def table(rows: list[dict[str, float | str | int]]) -> str:
    """Rows as Markdown."""
    lines = [HEAD]
    for item in rows:
        ratio = float(item["total"]) / float(item["bound"])
        lines.append(
            f"| {item['instance']} | {item['ops']} | {item['depth']} | {item['above_native']} | {item['total']:.6g} "
            f"| {item['alone']:.6g} | {item['bound']:.6g} | {ratio:.2f} | {item['subgraphs']} | {item['cpu_s']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs and writes results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=Path, required=True)
    parser.add_argument("--most-ops", type=int, default=160)
    parser.add_argument("--least-ops", type=int, default=0, help="smaller instances keep their last result")
    arguments = parser.parse_args()
    paths = sorted(arguments.instances.glob("*.json"), key=_number)
    store = RESULTS / "mlsys2026.json"
    known = cast("dict[str, list[dict[str, float | str | int]]]", read_json(store))["rows"] if store.exists() else []
    for path in paths:
        if not arguments.least_ops <= len(load_instance(path.read_text(encoding="utf-8")).ops) <= arguments.most_ops:
            continue
        for rules in (Rules("native", "refused"), Rules("full", "scaled")):
            fresh = row(path, rules)
            same = [fresh[key] for key in KEY]
            known = [item for item in known if [item[key] for key in KEY] != same] + [fresh]
            known.sort(key=lambda item: (_number(Path(str(item["instance"]))), str(item["depth"]) == "full"))
            print(fresh, flush=True)
            atomic_write_json(store, {"rows": known})
            atomic_write_text(RESULTS / "mlsys2026.md", table(known))


def _number(path: Path) -> int:
    return int(path.stem.split("-")[-1])


if __name__ == "__main__":
    main()
