"""Direction: how one-sidedly the price moves, whichever way. Known at the close of bar t.

Wilder averages start as the mean of their first bars, as TA-Lib's do, and are recursive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import KernelFeature, warm_up_bars
from quantfleet_data.features.kernels import Graph, Node

__all__ = [
    "AroonDown",
    "AroonOscillator",
    "AroonUp",
    "AverageDirectionalIndex",
    "MinusDirectionalIndicator",
    "PlusDirectionalIndicator",
    "true_range",
]

_WILDER = "Wilder (1978), New Concepts in Technical Trading Systems"


def true_range(g: Graph) -> Node:
    """The bar's range, stretched to the previous close: max(high, close_{t-1}) - min(low, close_{t-1})."""
    before = g.input("close").lag(1)
    return g.sub(g.larger(g.input("high"), before), g.smaller(g.input("low"), before))


def _directional_movement(g: Graph, bars: int) -> tuple[Node, Node]:
    """Wilder averages of upward and of downward movement: of each bar the larger one counts, if it is positive."""
    high, low = g.input("high"), g.input("low")
    up = g.directed(high, high.lag(1), low, low.lag(1))
    down = g.directed(low.lag(1), low, high.lag(1), high)
    return g.wilder(up, bars), g.wilder(down, bars)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Directional(KernelFeature):
    """Parameters of Wilder's directional system. Look-back: the average's own bars plus its warm-up."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1 + warm_up_bars(1.0 / self.bars)


@register_feature("plus_di")
@dataclass(frozen=True, kw_only=True, slots=True)
class PlusDirectionalIndicator(_Directional):
    """Upward movement as a share of the true range, 0 to 100; 0 in a market that never moved."""

    definition: ClassVar[str] = f"TA-Lib PLUS_DI; {_WILDER}"

    def formula(self, g: Graph) -> Node:
        up, _ = _directional_movement(g, self.bars)
        return g.safe(up, g.wilder(true_range(g), self.bars), p=100.0, undefined=0.0)


@register_feature("minus_di")
@dataclass(frozen=True, kw_only=True, slots=True)
class MinusDirectionalIndicator(_Directional):
    """Downward movement as a share of the true range, 0 to 100; 0 in a market that never moved."""

    definition: ClassVar[str] = f"TA-Lib MINUS_DI; {_WILDER}"

    def formula(self, g: Graph) -> Node:
        _, down = _directional_movement(g, self.bars)
        return g.safe(down, g.wilder(true_range(g), self.bars), p=100.0, undefined=0.0)


@register_feature("adx")
@dataclass(frozen=True, kw_only=True, slots=True)
class AverageDirectionalIndex(_Directional):
    """Average directional index, 0 to 100: how directed the movement is, whichever way; 0 in a market that never moved.

    Look-back: two averages of `bars`, plus the warm-up of two Wilder averages in a row.
    """

    definition: ClassVar[str] = f"TA-Lib ADX; {_WILDER}"

    @property
    def lookback_bars(self) -> int:
        return 2 * self.bars + warm_up_bars(1.0 / self.bars, stages=2)

    def formula(self, g: Graph) -> Node:
        up, down = _directional_movement(g, self.bars)
        return g.wilder(g.safe(g.absdiff(up, down), g.add(up, down), p=100.0, undefined=0.0), self.bars)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Aroon(KernelFeature):
    """Parameters of the Aroon system; of equal extremes the newest counts. Look-back: `bars` bars and the current one."""

    smallest_bars: ClassVar[int] = 2
    bars: int = 25

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1


@register_feature("aroon_up")
@dataclass(frozen=True, kw_only=True, slots=True)
class AroonUp(_Aroon):
    """Aroon up, 0 to 100: 100 when the newest bar has the highest high, 0 when the oldest one has."""

    reads: ClassVar[tuple[str, ...]] = ("high",)
    definition: ClassVar[str] = "TA-Lib AROON; Chande (1995)"

    def formula(self, g: Graph) -> Node:
        return g.lin(g.age_of_highest(g.input("high"), self.bars + 1), p=-100.0 / self.bars, r=100.0)


@register_feature("aroon_down")
@dataclass(frozen=True, kw_only=True, slots=True)
class AroonDown(_Aroon):
    """Aroon down, 0 to 100: 100 when the newest bar has the lowest low, 0 when the oldest one has."""

    reads: ClassVar[tuple[str, ...]] = ("low",)
    definition: ClassVar[str] = "TA-Lib AROON; Chande (1995)"

    def formula(self, g: Graph) -> Node:
        return g.lin(g.age_of_lowest(g.input("low"), self.bars + 1), p=-100.0 / self.bars, r=100.0)


@register_feature("aroon_oscillator")
@dataclass(frozen=True, kw_only=True, slots=True)
class AroonOscillator(_Aroon):
    """Aroon oscillator, -100 to 100: bars since the lowest low less bars since the highest high, in % of the window."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low")
    definition: ClassVar[str] = "TA-Lib AROONOSC; Chande (1995)"

    def formula(self, g: Graph) -> Node:
        since_high = g.age_of_highest(g.input("high"), self.bars + 1)
        since_low = g.age_of_lowest(g.input("low"), self.bars + 1)
        share = 100.0 / self.bars
        return g.lin(since_low, since_high, p=share, q=-share)
