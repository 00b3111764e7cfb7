"""A device that is not at hand, tried for real: profile, compile, check, confirm; another environment plays the device.

    python benchmarks/device_trial.py --assets FOLDER --environments FOLDER [--release 1.20.1] [--threads 2]

The device has one release of ONNX Runtime and numpy and nothing else, and another number of threads than this process.
Every step is what a user does: ``instar.profile``, ``measure.py`` there, ``instar.compile`` with the profile,
``instar.write_check``, ``measure.py`` there, ``instar.confirm``. Writes ``device_trial.json`` and ``device_trial.md``.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from common.networks import QUICK, Networks
from common.runtime_table import minor
from common.store import Row, Store, arguments, scratch, selected, table
from common.wheels import environment

import instar
from instar.targets.onnx.runtimes.reach import reach_of

NETWORKS: Mapping[str, tuple[Any, ...]] = {
    "resnet20": ({"latency": "90%", "size": "30%"},),
    "minilm": ({"latency": "90%", "size": "20%"},),
}
FORMATS = ("fp32", "int4:g32", "int7:channel", "int8:channel")


def main() -> None:
    """Play every selected network."""
    parser = arguments(__doc__)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the device's environment")
    parser.add_argument("--release", default="1.20.1", help="ONNX Runtime of the device")
    parser.add_argument("--seconds", type=float, default=0.3, help="time of the device for every case")
    given = parser.parse_args()
    torch.set_num_threads(1)
    networks = Networks(given.assets, QUICK)
    folder = scratch() if given.quick else given.results
    store = Store("device_trial", folder, render, fresh=given.fresh, threads=given.threads)
    python = environment(given.environments, given.release)
    for name, (budget,) in NETWORKS.items():
        if selected(name, given.only) and name not in store.rows:
            with tempfile.TemporaryDirectory() as place:
                store.put(name, play(networks, name, budget, Path(place), python, given))
    print(render(store.rows))


def play(networks: Networks, name: str, budget: Any, place: Path, python: Path, given: Any) -> Row:
    """One network from profile to confirmation."""
    batch, length = networks.shapes(name)[0]
    options = {"threads": given.threads, "runtime": minor(given.release)}
    settings: dict[str, Any] = {
        "formats": FORMATS,
        "dynamic_shapes": networks.dynamic_shapes(name),
        "latency_inputs": [networks.timed_inputs(name, max(batch, 1), length)],
    }
    model, example = networks.model(name), networks.captured_with(name)
    bundle = place / "bundle"
    written = instar.profile(model, example, out=bundle, target_options=options, **settings)
    measure(python, bundle, given)
    answer = json.loads((bundle / "device.json").read_text(encoding="utf-8"))
    compiled = instar.compile(
        model, example, budget=budget, target_options={**options, "profile": str(bundle / "device.json")}, **settings
    )
    check = instar.write_check(compiled, place / "check")
    measure(python, check, given)
    confirmed = instar.confirm(check / "device.json").to_json()
    return {
        "budget": budget,
        "bundle_nbytes": written.holds.nbytes,
        "float_nbytes": networks.weights_nbytes(name),
        "layers": written.holds.layers,
        "networks": written.holds.networks,
        "does_not_run": [key for key, found in answer["cases"].items() if found["error"] is not None],
        "nbytes": compiled.nbytes,
        "least": reach_of(onnx.load(check / "models/model.onnx", load_external_data=False)).least,
        "kernels": sorted({d.chosen.option.kernel for d in compiled.plan.decisions}),
        "confirmed": confirmed,
    }


def measure(python: Path, bundle: Path, given: Any) -> None:
    """On the device."""
    subprocess.run([str(python), str(bundle / "measure.py"), "--seconds", str(given.seconds)], check=True)


def render(rows: Mapping[str, Row]) -> str:
    """A line for every network and shape."""
    lines: list[list[Any]] = []
    for name, row in rows.items():
        found = row["confirmed"]
        for shape in found["shapes"]:
            known, measured = shape["predicted"], shape["median_ms"]
            device = f"{found['runtime']}, {found['threads']} threads"
            lines.append([
                f"{name} {known['sizes']}", device, row["bundle_nbytes"] / 1e6,
                row["float_nbytes"] / 1e6, row["networks"], len(row["does_not_run"]), row["nbytes"] / 1e6,
                known["artifact_ms"], measured, measured / known["artifact_ms"], measured / known["original_ms"],
                shape["difference"], "; ".join(found["problems"]) or "none",
            ])  # fmt: skip
    columns = [
        "network", "device", "bundle MB", "float MB", "networks in it", "do not run", "MB", "predicted ms",
        "confirmed ms", "ratio", "of the original", "outputs apart", "problems",
    ]  # fmt: skip
    return table(columns, lines)


if __name__ == "__main__":
    main()
