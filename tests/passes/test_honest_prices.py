"""Honest prices: what was fitted to some samples is judged by others, so that few samples make nothing look cheap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from instar.ir.calibration.moments import LayerMoments, Samples
from instar.ir.calibration.shrinkage import AS_SEEN, NOTHING_KNOWN, Shrinkage
from instar.ir.capture import capture
from instar.ir.layers import Layer, find_layers
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format as parse_format
from instar.passes.objective import weighted_error
from instar.passes.pricing import LayerPricer

COLUMNS = 64


@pytest.fixture(scope="module")
def layer() -> Layer:
    torch.manual_seed(0)
    graph = capture(nn.Linear(COLUMNS, 48), (torch.randn(2, COLUMNS),))
    (found,), _ = find_layers(graph)
    return found


def inputs(count: int, seed: int) -> Tensor:
    """Directions of falling energy, so that a factor of low rank is worth having."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, COLUMNS, generator=generator) * torch.logspace(0, -1.5, COLUMNS)


def known_from(x: Tensor, shrinkage: Shrinkage = AS_SEEN) -> WeightStatistics:
    moments = LayerMoments(48, COLUMNS, 4096)
    moments.add_inputs(x, 1.0, Samples(x.shape[0]))
    return moments.finish(moments.scale("linear", None), shrinkage, gradients=False, embedding=False)


def lost_on_others(layer: Layer, known: WeightStatistics, format_text: str, encoder: str) -> float:
    """What the weight that a plan stores loses on many new samples, as a share of all that they bring out."""
    encoded = LayerPricer(layer, known).encode(format_text, encoder)
    decoded = parse_format(format_text).decode(encoded).reshape(48, COLUMNS)
    new = known_from(inputs(20_000, 9))
    assert new.second_moment is not None
    assert known.second_moment is not None
    scale = float(known.second_moment.trace() / new.second_moment.trace())
    return scale * weighted_error(layer.matrix(), decoded, new)


@pytest.mark.parametrize("seed", range(4))
def test_a_rank_with_room_for_all_that_was_seen_is_not_free(layer: Layer, seed: int) -> None:
    known = known_from(inputs(30, seed))
    seen, honest = (
        LayerPricer(layer, known, honest=h).price(LayerPricer(layer, known, honest=h).encode("lowrank:r20", "whitened"))
        for h in (False, True)
    )
    truth = lost_on_others(layer, known, "lowrank:r20", "whitened")
    assert seen.loss < 0.3 * truth
    assert 0.7 * truth < honest.loss < 2.5 * truth


@pytest.mark.parametrize(("text", "method"), [("lowrank:r16", "whitened"), ("int4:g32", "gptq"), ("int4:g32", "mse")])
def test_with_many_samples_a_price_is_what_others_lose(layer: Layer, text: str, method: str) -> None:
    known = known_from(inputs(4000, 1))
    pricer = LayerPricer(layer, known, honest=True)
    assert pricer.price(pricer.encode(text, method)).loss == pytest.approx(
        lost_on_others(layer, known, text, encoder(method).draft.spelling), rel=0.08
    )


def test_prices_are_drafts_and_what_is_stored_is_not_worse(layer: Layer) -> None:
    known = known_from(inputs(4000, 1))
    pricer = LayerPricer(layer, known, honest=True)
    assert encoder("gptq").draft.spelling == "gptq:sweeps=0"
    assert encoder("whitened+gptq").draft.spelling == "whitened+gptq:sweeps=0"
    assert encoder("mse").draft == encoder("mse")
    assert encoder("whitened+alternate").draft.spelling == "whitened+alternate:sweeps=3"
    assert encoder("alternate:sweeps=1").draft.spelling == "alternate:sweeps=1"
    drafted = pricer.price(pricer.encode("int3:g16", "gptq")).loss
    assert lost_on_others(layer, known, "int3:g16", "gptq") < drafted


@pytest.mark.parametrize("rank", [4, 12, 20])
def test_nothing_is_priced_below_its_bound(layer: Layer, rank: int) -> None:
    pricer = LayerPricer(layer, known_from(inputs(40, 3)), honest=True)
    text = f"lowrank:r{rank}"
    bound = pricer.bound(text)
    assert bound is not None
    assert bound <= pricer.price(pricer.encode(text, "whitened")).loss


def test_the_halves_are_of_every_second_sample_and_have_the_trace_of_the_whole() -> None:
    x = inputs(30, 5)
    known = known_from(x)
    assert known.halves is not None
    assert known.second_moment is not None
    for half, own in zip(known.halves, (x[0::2], x[1::2]), strict=True):
        expected = own.T @ own
        torch.testing.assert_close(half / half.trace(), expected / expected.trace())
        torch.testing.assert_close(half.trace(), known.second_moment.trace())


def test_a_plan_stores_what_all_samples_say(layer: Layer) -> None:
    known = known_from(inputs(30, 5))
    assert LayerPricer(layer, known).is_final
    assert not LayerPricer(layer, known, honest=True).is_final


@pytest.mark.parametrize("x", [inputs(1, 0), inputs(1, 0).expand(1, -1)])
def test_a_single_sample_is_not_divided(x: Tensor) -> None:
    assert known_from(x).divided() is None


def test_directions_that_are_not_believed_are_not_divided() -> None:
    assert known_from(inputs(30, 0), NOTHING_KNOWN).divided() is None
