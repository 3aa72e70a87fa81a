"""Bands: where the price stands between lines around it, and how far these are apart. Known at the close of bar t."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import KernelFeature, warm_up_bars
from quantfleet_data.features.directional import true_range
from quantfleet_data.features.kernels import Graph, Node

__all__ = [
    "AtrRatio",
    "BollingerB",
    "BollingerWidth",
    "DonchianPlace",
    "DonchianWidth",
    "KeltnerB",
    "KeltnerWidth",
    "TrueRangeRatio",
]

_BOLLINGER = "Bollinger (2001), Bollinger on Bollinger Bands; population deviation as in TA-Lib BBANDS"
_KELTNER = "Keltner (1960), How to Make Money in Commodities; exponential average and ATR as Raschke draws them"
_DONCHIAN = "Donchian (1960), High finance in copper, Financial Analysts Journal 16; TA-Lib MAX and MIN"


@register_feature("true_range_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class TrueRangeRatio(KernelFeature):
    """The bar's true range as a fraction of the close."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = "TA-Lib TRANGE; Wilder (1978), New Concepts in Technical Trading Systems"

    @property
    def lookback_bars(self) -> int:
        return 2

    def formula(self, g: Graph) -> Node:
        return g.product(true_range(g), g.inverse(g.input("close")))


@register_feature("atr_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class AtrRatio(KernelFeature):
    """Wilder's average true range as a fraction of the close.

    Look-back: `bars` true ranges (each needs the bar before) plus the warm-up of Wilder's average, alpha = 1 / bars.
    """

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = "TA-Lib ATR; Wilder (1978), New Concepts in Technical Trading Systems"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1 + warm_up_bars(1.0 / self.bars)

    def formula(self, g: Graph) -> Node:
        return g.product(g.wilder(true_range(g), self.bars), g.inverse(g.input("close")))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bollinger(KernelFeature):
    """Parameters of Bollinger's bands."""

    definition: ClassVar[str] = _BOLLINGER
    smallest_bars: ClassVar[int] = 2
    bars: int = 20
    width: float = 2.0
    """Half-width of the bands in standard deviations."""

    @property
    def lookback_bars(self) -> int:
        return self.bars


@register_feature("bollinger_b")
@dataclass(frozen=True, kw_only=True, slots=True)
class BollingerB(_Bollinger):
    """Bollinger %b: 0 on the lower band, 1 on the upper, 0.5 where the bands coincide."""

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        distance = g.sub(close, g.mean(close, self.bars))
        return g.safe(distance, g.deviation(close, self.bars), p=0.5 / self.width, r=0.5, undefined=0.5)


@register_feature("bollinger_width")
@dataclass(frozen=True, kw_only=True, slots=True)
class BollingerWidth(_Bollinger):
    """Distance between the Bollinger bands as a fraction of the middle band; 0 in a flat market."""

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        total = g.total(close, self.bars)
        return g.ratio(g.deviation(close, self.bars), total, p=2.0 * self.width * self.bars)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Keltner(KernelFeature):
    """Parameters of Keltner's channel. Look-back: the slower of its two averages, warm-up included."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = _KELTNER
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 20
    atr_bars: int = 10
    width: float = 2.0
    """Half-width of the channel in average true ranges."""

    @property
    def lookback_bars(self) -> int:
        average = self.bars + warm_up_bars(2.0 / (self.bars + 1))
        return max(average, self.atr_bars + 1 + warm_up_bars(1.0 / self.atr_bars))


@register_feature("keltner_b")
@dataclass(frozen=True, kw_only=True, slots=True)
class KeltnerB(_Keltner):
    """Place of the close in the Keltner channel: 0 on its lower line, 1 on its upper, 0.5 where they coincide."""

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        distance, swing = g.sub(close, g.ema(close, self.bars)), g.wilder(true_range(g), self.atr_bars)
        return g.safe(distance, swing, p=0.5 / self.width, r=0.5, undefined=0.5)


@register_feature("keltner_width")
@dataclass(frozen=True, kw_only=True, slots=True)
class KeltnerWidth(_Keltner):
    """Distance between the lines of the Keltner channel as a fraction of the middle one; 0 in a flat market."""

    def formula(self, g: Graph) -> Node:
        middle = g.ema(g.input("close"), self.bars)
        return g.ratio(g.wilder(true_range(g), self.atr_bars), middle, p=2.0 * self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Donchian(KernelFeature):
    """Parameters of Donchian's channel: the highest high and the lowest low of the window."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = _DONCHIAN
    bars: int = 20

    @property
    def lookback_bars(self) -> int:
        return self.bars


@register_feature("donchian_place")
@dataclass(frozen=True, kw_only=True, slots=True)
class DonchianPlace(_Donchian):
    """Place of the middle of the channel against the close: (highest + lowest) / 2 / close - 1, a fraction."""

    def formula(self, g: Graph) -> Node:
        edges = g.add(g.highest(g.input("high"), self.bars), g.lowest(g.input("low"), self.bars))
        return g.product(edges, g.inverse(g.input("close")), p=0.5, r=-1.0)


@register_feature("donchian_width")
@dataclass(frozen=True, kw_only=True, slots=True)
class DonchianWidth(_Donchian):
    """Distance between the channel's lines as a fraction of the close."""

    def formula(self, g: Graph) -> Node:
        apart = g.sub(g.highest(g.input("high"), self.bars), g.lowest(g.input("low"), self.bars))
        return g.product(apart, g.inverse(g.input("close")))
