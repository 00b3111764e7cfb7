"""Generated networks: exact and quantized, at two sizes, against the networks themselves in float64."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from generated.blocks import BLOCKS
from generated.bounds import first_difference, reference
from generated.judge import FAULTS, Way, fixed_dimensions, judge
from generated.networks import FORMS, Generated, generate

from instar.ir.capture import capture
from instar.targets.onnx import session

SEEDS, COMPILED = 100, 70
"""How many seeds are run in torch, and how many compiled; the rest is benchmarks/generated_networks.py."""


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """A compilation collects garbage several times; what the libraries hold need not be walked each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer products are exact with VNNI and on ARM; on other processors the runtime has to be asked for it."""
    monkeypatch.setitem(session.CONFIG, *session.EXACT_PRODUCTS)


def test_the_seeds_cover_every_block_and_every_form_of_outputs() -> None:
    names = {name for seed in range(SEEDS) for name in generate(seed).blocks}
    assert {b.name for b in BLOCKS} | set(FORMS) <= names


def test_a_seed_always_makes_the_same_network() -> None:
    for seed in range(20):
        first, second = generate(seed), generate(seed)
        assert first.blocks == second.blocks
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(first.calls[1], second.calls[1], strict=True):
            assert torch.equal(a, b)


def test_bounds_of_every_seed_are_narrow_and_hold_for_the_network_itself() -> None:
    for seed in range(SEEDS):
        network = generate(seed)
        for call in network.calls:
            right = reference(network.model, call)
            with torch.no_grad():
                own = network.model(*call)
            assert first_difference(own, own, right) == "", seed
            narrow = any(name in ("other_dtype", "autocast") for name in network.blocks)
            for value, bound in zip(right.values, right.bounds, strict=True):
                if value.is_floating_point():
                    assert float(bound) < (0.5 if narrow else 5e-3) * float(value.abs().max()) + 1e-6, (seed, bound)
            for value, stable in zip(right.values, right.stable, strict=True):
                assert value.is_floating_point() or float(stable.double().mean()) > 0.5, seed


def compared(network: Generated, changed: Any, step: float) -> str:
    with torch.no_grad():
        found, expected = changed(*network.calls[0]), network.model(*network.calls[0])
    return first_difference(found, expected, reference(network.model, network.calls[0], step))


@pytest.mark.parametrize(("step", "factor"), [(0.0, 1.001), (1 / 254, 2.0)])
def test_a_wrong_weight_a_wrong_dtype_and_a_missing_output_are_found(step: float, factor: float) -> None:
    network = next(n for n in map(generate, range(100)) if n.blocks[-1] == "mapping" and n.blocks[0] == "vector")
    assert compared(network, network.model, step) == ""
    changed = copy.deepcopy(network.model)
    with torch.no_grad():
        changed.get_parameter("head.weight").mul_(factor)
    assert "output 0: error" in compared(network, changed, step)
    assert "output 0 is torch.float64" in compared(network, lambda *call: as_double(network.model(*call)), step)
    assert "structure" in compared(network, lambda *call: network.model(*call)["logits"], step)


def as_double(outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in outputs.items()}


def test_a_fixed_dimension_is_found() -> None:
    network = next(n for n in map(generate, range(100)) if n.dynamic_shapes is not None and n.blocks[0] == "vector")
    kept = capture(network.model, network.calls[0], dynamic_shapes=network.dynamic_shapes)
    assert fixed_dimensions(network, SimpleNamespace(captured=kept)) == ""
    lost = capture(network.model, network.calls[0])
    assert "dimension 0 of (3," in fixed_dimensions(network, SimpleNamespace(captured=lost))


@pytest.mark.parametrize("seed", range(COMPILED))
@pytest.mark.parametrize("way", ["exact", "int8"])
def test_generated_networks_compile_and_compute_what_they_say(seed: int, way: Way) -> None:
    outcome = judge(generate(seed), way)
    assert outcome.verdict not in FAULTS, outcome


@pytest.mark.parametrize(("seed", "way"), [(0, "float16"), (1, "bfloat16"), (2, "float64"), (3, "float16")])
def test_generated_networks_of_other_dtypes_compile(seed: int, way: Way) -> None:
    outcome = judge(generate(seed), way)
    assert outcome.verdict not in FAULTS, outcome
