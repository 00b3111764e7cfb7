"""Prices of options on a ladder: the ends of a family are stored first, what lies between waits until it may be chosen.

An option that waits has the exact bytes and milliseconds of all options, and in place of its loss either a bound that
nothing in its format goes below (singular values) or an estimate between its neighbours on the ladder. Where storing is
priced by running the model, which finds more than the bound, it is the bound times what the nearest stored member of
the family lost more than its own. Decisions are
made as if these were losses; what they take is stored and priced, until they take nothing that waits. Then no option
that has a bound could have made the plan better, although it was never stored: the proof covers all of them. Of
options with estimates it says what is true of them: a plan beside which some wait is optimal among what was stored, and
its bound is that of the problem in which they lose nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ..ir.errors import FormatError
from ..ir.layers import Layer
from ..ir.options import PricedOption
from ..ir.processes import in_processes
from ..passes.formats import format as parse_format
from ..passes.formats.families import family_of
from .pricing_stage import LayerPrices, Pricing

T = TypeVar("T")

FEWEST = 4
"""Members of a family without bounds from which on the ones between the ends wait."""

ENOUGH_TO_PRICE = 2_000_000
"""Weights from which on it pays to price in two processes."""

Found = tuple[tuple[PricedOption, ...], tuple[str, ...], dict[PricedOption, float | None], dict[str, float]]
"""Of one layer what was priced, refused and left waiting, and floors: all that a process has to send back."""


@dataclass(frozen=True)
class Rungs:
    """The options of one layer.

    Attributes:
        priced: with the losses of those that were stored.
        waiting: option -> bound on its loss, or None where only an estimate is known.
        floors: format -> bound, of those whose prices are run: they lose more than that.
    """

    priced: LayerPrices
    waiting: Mapping[PricedOption, float | None]
    floors: Mapping[str, float] = field(default_factory=dict[str, float])

    def hopeful(self) -> LayerPrices:
        """The same with all options that wait, at the least that they may lose."""
        known = self._known()
        return self._with({o: _at_least(o, bound, known[kin(o)], self.floors) for o, bound in self.waiting.items()})

    def proven(self) -> LayerPrices:
        """The same, where an estimate counts as no loss of the weight: what it says is no proof."""
        return self._with({o: o.activation_loss + (bound or 0.0) for o, bound in self.waiting.items()})

    def _with(self, losses: Mapping[PricedOption, float]) -> LayerPrices:
        waiting = [replace(o, loss=loss) for o, loss in losses.items()]
        return replace(self.priced, options=(*self.priced.options, *waiting)) if waiting else self.priced

    @property
    def estimates(self) -> int:
        """Options that wait without a bound that decisions are made by."""
        known = self._known()
        return sum(
            bound is None or not is_close(o) or _excess(o, known[kin(o)], self.floors) > 1.0
            for o, bound in self.waiting.items()
        )

    def _known(self) -> dict[tuple[str, ...], list[PricedOption]]:
        """What was stored, by what members of a family share."""
        known: dict[tuple[str, ...], list[PricedOption]] = defaultdict(list)
        for option in self.priced.options if self.waiting else ():
            known[kin(option)].append(option)
        return known


def _at_least(
    option: PricedOption, bound: float | None, known: Sequence[PricedOption], floors: Mapping[str, float]
) -> float:
    """What a waiting option is taken to lose: its bound where that is close, or what its stored relatives say."""
    if bound is not None and is_close(option):
        return option.activation_loss + bound * _excess(option, known, floors)
    return max(_between(option, [(o.nbytes, o.loss) for o in known]), option.activation_loss + (bound or 0.0))


def _excess(option: PricedOption, known: Sequence[PricedOption], floors: Mapping[str, float]) -> float:
    """How many times its bound the stored relative that is next in bytes loses; one without such."""
    bounded = [o for o in known if floors.get(o.option.format, 0.0) > 0.0]
    if not bounded:
        return 1.0
    nearest = min(bounded, key=lambda o: abs(math.log(o.nbytes / option.nbytes)))
    return max(1.0, (nearest.loss - nearest.activation_loss) / floors[nearest.option.format])


def _between(option: PricedOption, known: Sequence[tuple[int, float]]) -> float:
    """Losses fall in equal ratios with bytes, from one stored member (bytes, loss) of the family to the next."""
    below = max((k for k in known if k[0] <= option.nbytes), default=None)
    above = min((k for k in known if k[0] >= option.nbytes), default=None)
    if below is None or above is None or above[0] == below[0]:
        return min((loss for _, loss in known), default=0.0)
    share = (option.nbytes - below[0]) / (above[0] - below[0])
    low, high = (math.log(max(loss, 1e-300)) for loss in (below[1], above[1]))
    return math.exp(low + share * (high - low))


def is_close(option: PricedOption) -> bool:
    """Whether a bound of its format is about what storing will lose; others prove, and decide nothing."""
    return parse_format(option.option.format).close_bounds


def kin(option: PricedOption) -> tuple[str, ...]:
    """What members of a family share."""
    chosen = option.option
    return family_of(chosen.format), chosen.encoder, chosen.activation.spelling, chosen.kernel, chosen.arithmetic


def first_rungs(
    costed: LayerPrices, bounds: Mapping[str, float], run: Container[str] = ()
) -> tuple[list[PricedOption], list[PricedOption]]:
    """The options to store before any decision, and those that may wait.

    Args:
        costed: options with bytes and times, in any order.
        bounds: format -> bound on the loss, where one is known.
        run: formats whose prices are run; one of a family then says how far its bounds are off.
    """
    families: dict[tuple[str, ...], list[PricedOption]] = {}
    for option in costed.options:
        families.setdefault(kin(option), []).append(option)
    first: list[PricedOption] = []
    for members in families.values():
        ordered = sorted(members, key=lambda o: o.nbytes)
        if all(o.option.format in bounds for o in ordered):
            middle = ordered[len(ordered) // 2]
            first += [middle] if middle.option.format in run else []
            continue
        ends = {0, len(ordered) // 2, len(ordered) - 1}
        first += ordered if len(ordered) < FEWEST else [ordered[i] for i in sorted(ends)]
    if not first:  # every layer has something that is known
        first = [min(costed.options, key=lambda o: (bounds[o.option.format], o.nbytes))]
    return first, [o for o in costed.options if o not in first]


class Ladder:
    """The prices of all layers, which grow as decisions ask for more of them.

    Args:
        rungs: of every layer.
        pricing: stores and prices more of them; None where all are priced.
    """

    def __init__(self, rungs: Sequence[Rungs], pricing: Pricing | None = None) -> None:
        self._rungs = list(rungs)
        self._pricing = pricing

    @property
    def settled(self) -> Ladder:
        """The same, without what prices more of it where nothing waits: statistics of its own are no longer held."""
        return self if self.waits else Ladder(self._rungs)

    @classmethod
    def of(cls, prices: Sequence[LayerPrices]) -> Ladder:
        """Prices that are complete."""
        return cls([Rungs(p, {}) for p in prices])

    def only(self, keeps: Callable[[PricedOption], bool]) -> Ladder:
        """The same prices seen without some options, such as for comparing families; layers keep at least one.

        What decisions among these ask for is stored for the whole ladder, too.

        Raises:
            FormatError: a layer would have no option that was stored.
        """
        part = _Part(self, keeps)
        for prices in part.prices:
            if not prices.options:
                raise FormatError(f"layer {prices.layer.name}: expected an option that is kept; found none; keep fp32")
        return part

    def _seen(self) -> Sequence[Rungs]:
        """Every layer with the options that decisions may take."""
        return self._rungs

    def beside(self, costs: Sequence[LayerPrices]) -> Ladder:
        """The same prices with more options of every layer, perhaps none; those that a weight refuses are left out.

        Raises:
            ValueError: all prices of this ladder are complete, so that nothing can price more.
        """
        pricing = self._pricing
        if pricing is None:
            raise ValueError("a ladder of complete prices has nothing that prices more options")
        more = _each(lambda costed: _stored(costed, pricing), costs, costs)
        return Ladder([_joined(old, new) for old, new in zip(self._rungs, more, strict=True)], pricing)

    def widen(self, costs: Sequence[LayerPrices]) -> None:
        """More options, of some layers, each of a family that is on the ladder; they wait until decisions take them.

        Args:
            costs: of every layer, the new options with bytes and times; perhaps none.
        """
        pricing = self._pricing
        for place, costed in enumerate(costs):
            if pricing is not None and costed.options:
                self._rungs[place] = _joined(self._rungs[place], _waiting(costed, pricing))

    @property
    def prices(self) -> tuple[LayerPrices, ...]:
        """Every layer with the options that were stored."""
        return tuple(r.priced for r in self._seen())

    @property
    def hopeful(self) -> tuple[LayerPrices, ...]:
        """Every layer with all of its options."""
        return tuple(r.hopeful() for r in self._seen())

    @property
    def proven(self) -> tuple[LayerPrices, ...]:
        """Every layer with all of its options, at losses that none of them goes below."""
        return tuple(r.proven() for r in self._seen())

    @property
    def estimates(self) -> int:
        """Options that were never stored and have no bound."""
        return sum(r.estimates for r in self._seen())

    @property
    def waits(self) -> bool:
        """Whether an option was never stored."""
        return any(r.waiting for r in self._seen())

    def climb(self, chosen: Mapping[str, str]) -> bool:
        """Store what decisions took (layer -> option); whether there was anything to store."""
        pricing = self._pricing
        if pricing is None:
            return False
        wanted: dict[int, list[PricedOption]] = {}
        for place, rungs in enumerate(self._rungs):
            taken = [o for o in rungs.waiting if o.option.name == chosen[rungs.priced.layer.name]]
            wanted |= {place: taken} if taken else {}
        costed = [self._rungs[place].priced for place in wanted]
        stored = _each(lambda place: _with(self._rungs[place], wanted[place], pricing), [*wanted], costed)
        for place, rungs in zip(wanted, [*stored], strict=True):
            self._rungs[place] = rungs
        return bool(wanted)

    def note(self) -> str:
        """How many options were never stored, and on what grounds; empty where all were."""
        waiting = sum(len(r.waiting) for r in self._seen())
        if not waiting:
            return ""
        stored, estimated = sum(len(r.priced.options) for r in self._seen()), self.estimates
        bounded = waiting - estimated
        grounds = [f"{bounded} by bounds from singular values"] if bounded else []
        grounds += [f"{estimated} by estimates between stored ones"] if estimated else []
        return (
            f"{waiting + stored} options were considered, {stored} stored and priced; never stored: "
            f"{' and '.join(grounds)}"
        )


class _Part(Ladder):
    """A ladder without some options; it grows where the whole one does."""

    def __init__(self, whole: Ladder, keeps: Callable[[PricedOption], bool]) -> None:
        super().__init__(())
        self._whole, self._keeps = whole, keeps

    def _seen(self) -> Sequence[Rungs]:
        return [self._of(rungs) for rungs in self._whole._seen()]

    def _of(self, rungs: Rungs) -> Rungs:
        options = tuple(o for o in rungs.priced.options if self._keeps(o))
        waiting = {o: bound for o, bound in rungs.waiting.items() if self._keeps(o)}
        return replace(rungs, priced=replace(rungs.priced, options=options), waiting=waiting)

    @property
    def settled(self) -> Ladder:
        return self if self.waits else Ladder(self._seen())

    def beside(self, costs: Sequence[LayerPrices]) -> Ladder:
        return _Part(self._whole.beside(costs), self._keeps)

    def widen(self, costs: Sequence[LayerPrices]) -> None:
        self._whole.widen(costs)

    def climb(self, chosen: Mapping[str, str]) -> bool:
        return self._whole.climb(chosen)


def _with(rungs: Rungs, wanted: Sequence[PricedOption], pricing: Pricing) -> Rungs:
    """Some options stored and priced, with everything that shares their weight."""
    stored = {(o.option.format, o.option.encoder) for o in wanted}
    these = tuple(o for o in rungs.waiting if (o.option.format, o.option.encoder) in stored)
    found = pricing(replace(rungs.priced, options=these, refused=()))
    options, refused = (*rungs.priced.options, *found.options), (*rungs.priced.refused, *found.refused)
    left = {o: bound for o, bound in rungs.waiting.items() if o not in these}
    return replace(rungs, priced=replace(rungs.priced, options=options, refused=refused), waiting=left)


def price(costs: Sequence[LayerPrices], pricing: Pricing, progress: Callable[[str], None] = lambda _: None) -> Ladder:
    """The first rungs of every layer, several layers at a time.

    Args:
        costs: every option with bytes, operations and times.
        pricing: stores weights.
        progress: told after every layer.

    Raises:
        FormatError: no format can store a layer's weight.
    """
    found: list[Rungs] = []
    for rungs in _each(lambda costed: _priced(costed, pricing), costs, costs):
        found.append(rungs)
        progress(rungs.priced.layer.name)
    return Ladder(found, pricing)


def numbers(layer: Layer) -> float:
    """How much work a layer is, about."""
    return layer.numel


def _each(work: Callable[[T], Rungs], items: Sequence[T], costed: Sequence[LayerPrices]) -> Iterator[Rungs]:
    """Work on several layers, in processes where they are large; ``costed`` is what each item is about."""

    def found(place: int) -> Found:
        rungs = work(items[place])
        return rungs.priced.options, rungs.priced.refused, dict(rungs.waiting), dict(rungs.floors)

    sent = in_processes(found, range(len(items)), lambda place: numbers(costed[place].layer), ENOUGH_TO_PRICE)
    for known, (options, refused, waiting, floors) in zip(costed, sent, strict=True):
        yield Rungs(replace(known, options=options, refused=refused), waiting, floors)


def _waiting(costed: LayerPrices, pricing: Pricing) -> Rungs:
    """Options none of which is stored."""
    bounds = pricing.bounds(costed)
    waiting = {pricing.hoped_for(costed.layer, o): bounds.get(o.option.format) for o in costed.options}
    return Rungs(replace(costed, options=()), waiting, _floors(costed, bounds, pricing))


def _floors(costed: LayerPrices, bounds: Mapping[str, float], pricing: Pricing) -> dict[str, float]:
    """Bounds of formats whose prices are run."""
    return {text: bound for text, bound in bounds.items() if pricing.runs(costed.layer, text)}


def _joined(old: Rungs, new: Rungs) -> Rungs:
    options = (*old.priced.options, *new.priced.options)
    return Rungs(replace(old.priced, options=options), {**old.waiting, **new.waiting}, {**old.floors, **new.floors})


def _priced(costed: LayerPrices, pricing: Pricing) -> Rungs:
    rungs = _stored(costed, pricing)
    if not rungs.priced.options:
        where = f"layer {costed.layer.name}: "
        reasons = "; ".join(dict.fromkeys(reason.removeprefix(where) for reason in rungs.priced.refused))
        raise FormatError(f"{where}expected a weight that one of its formats can store; found {reasons}")
    return rungs


def _stored(costed: LayerPrices, pricing: Pricing) -> Rungs:
    """The first rungs of a layer; without options where its weight refuses all of them."""
    if not costed.options:
        return Rungs(costed, {})
    bounds = pricing.bounds(costed)
    close = {o.option.format for o in costed.options if is_close(o)}
    decided_by = {text: bound for text, bound in bounds.items() if text in close}
    floors = _floors(costed, decided_by, pricing)
    first, later = first_rungs(costed, decided_by, floors)
    waiting = {pricing.hoped_for(costed.layer, o): bounds.get(o.option.format) for o in later}
    rungs = Rungs(pricing(replace(costed, options=tuple(first))), waiting, floors)
    while not rungs.priced.options and rungs.waiting:
        rungs = _with(rungs, [next(iter(rungs.waiting))], pricing)
    return rungs
