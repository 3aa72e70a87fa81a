"""Momentum: how fast and how one-sidedly the price moved. Known at the close of bar t."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import KernelFeature, warm_up_bars
from quantfleet_data.features.directional import true_range
from quantfleet_data.features.kernels import Graph, Node

__all__ = [
    "BalanceOfPower",
    "CommodityChannelIndex",
    "RateOfChange",
    "RelativeStrengthIndex",
    "StochasticD",
    "StochasticK",
    "StochasticRsiD",
    "StochasticRsiK",
    "StochasticSlowD",
    "UltimateOscillator",
    "WilliamsR",
]

_LANE = "Lane (1984), Lane's Stochastics, Technical Analysis of Stocks & Commodities 2"


def _range_position(g: Graph, n: int) -> Node:
    """Place of the close in the range of n bars: 0 at the lowest low, 100 at the highest high, 50 without a range."""
    lowest, highest = g.lowest(g.input("low"), n), g.highest(g.input("high"), n)
    return g.place(g.input("close"), lowest, highest, lowest, p=100.0, undefined=50.0)


def _rsi(g: Graph, n: int) -> Node:
    close = g.input("close")
    up, down = g.wilder(g.rise(close, close.lag(1)), n), g.wilder(g.rise(close.lag(1), close), n)
    return g.safe(up, g.add(up, down), p=100.0, undefined=50.0)


def _rsi_lookback(n: int) -> int:
    return n + 1 + warm_up_bars(1.0 / n)


@register_feature("rsi")
@dataclass(frozen=True, kw_only=True, slots=True)
class RelativeStrengthIndex(KernelFeature):
    """Wilder's relative strength index of the close, 0 to 100; 50 in a market that has not moved yet.

    Look-back: `bars` changes plus the warm-up of Wilder's average, alpha = 1 / bars.
    """

    definition: ClassVar[str] = "TA-Lib RSI; Wilder (1978), New Concepts in Technical Trading Systems"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return _rsi_lookback(self.bars)

    def formula(self, g: Graph) -> Node:
        return _rsi(g, self.bars)


@register_feature("stochastic_k")
@dataclass(frozen=True, kw_only=True, slots=True)
class StochasticK(KernelFeature):
    """Fast stochastic %K: place of the close in the range of the last bars, 0 to 100; 50 where the range is zero."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = f"TA-Lib STOCHF; {_LANE}"
    bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def formula(self, g: Graph) -> Node:
        return _range_position(g, self.bars)


@register_feature("stochastic_d")
@dataclass(frozen=True, kw_only=True, slots=True)
class StochasticD(KernelFeature):
    """Fast stochastic %D, which is the slow %K too: simple average of %K over `smooth_bars`, 0 to 100."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = f"TA-Lib STOCHF; {_LANE}"
    bars: int = 14
    smooth_bars: int = 3

    @property
    def lookback_bars(self) -> int:
        return self.bars + self.smooth_bars - 1

    def formula(self, g: Graph) -> Node:
        return g.mean(_range_position(g, self.bars), self.smooth_bars)


@register_feature("stochastic_slow_d")
@dataclass(frozen=True, kw_only=True, slots=True)
class StochasticSlowD(KernelFeature):
    """Slow stochastic %D: simple average over `slow_bars` of the slow %K, 0 to 100."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = f"TA-Lib STOCH; {_LANE}"
    bars: int = 14
    smooth_bars: int = 3
    signal_bars: int = 3

    @property
    def lookback_bars(self) -> int:
        return self.bars + self.smooth_bars + self.signal_bars - 2

    def formula(self, g: Graph) -> Node:
        return g.mean(g.mean(_range_position(g, self.bars), self.smooth_bars), self.signal_bars)


def _rsi_position(g: Graph, rsi_bars: int, bars: int) -> Node:
    rsi = _rsi(g, rsi_bars)
    lowest, highest = g.lowest(rsi, bars), g.highest(rsi, bars)
    return g.place(rsi, lowest, highest, lowest, p=100.0, undefined=50.0)


@register_feature("stochastic_rsi_k")
@dataclass(frozen=True, kw_only=True, slots=True)
class StochasticRsiK(KernelFeature):
    """Place of the RSI in its own range of the last bars, 0 to 100; 50 where it did not move.

    Look-back: the range's bars plus that of the RSI.
    """

    definition: ClassVar[str] = "TA-Lib STOCHRSI; Chande & Kroll (1994), The New Technical Trader"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    rsi_bars: int = 14
    bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return _rsi_lookback(self.rsi_bars) + self.bars - 1

    def formula(self, g: Graph) -> Node:
        return _rsi_position(g, self.rsi_bars, self.bars)


@register_feature("stochastic_rsi_d")
@dataclass(frozen=True, kw_only=True, slots=True)
class StochasticRsiD(KernelFeature):
    """Simple average of the stochastic RSI's %K over `smooth_bars`, 0 to 100."""

    definition: ClassVar[str] = "TA-Lib STOCHRSI; Chande & Kroll (1994), The New Technical Trader"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    rsi_bars: int = 14
    bars: int = 14
    smooth_bars: int = 3

    @property
    def lookback_bars(self) -> int:
        return _rsi_lookback(self.rsi_bars) + self.bars + self.smooth_bars - 2

    def formula(self, g: Graph) -> Node:
        return g.mean(_rsi_position(g, self.rsi_bars, self.bars), self.smooth_bars)


@register_feature("williams_r")
@dataclass(frozen=True, kw_only=True, slots=True)
class WilliamsR(KernelFeature):
    """Williams %R: place of the close in the range of the last bars, -100 to 0; -50 where the range is zero."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = "TA-Lib WILLR; Williams (1979), How I Made One Million Dollars"
    bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def formula(self, g: Graph) -> Node:
        lowest, highest = g.lowest(g.input("low"), self.bars), g.highest(g.input("high"), self.bars)
        return g.place(g.input("close"), highest, highest, lowest, p=100.0, undefined=-50.0)


@register_feature("roc")
@dataclass(frozen=True, kw_only=True, slots=True)
class RateOfChange(KernelFeature):
    """Rate of change of the close over some bars, in percent."""

    definition: ClassVar[str] = "TA-Lib ROC"
    bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        return g.product(close, g.inverse(close).lag(self.bars), p=100.0, r=-100.0)


@register_feature("cci")
@dataclass(frozen=True, kw_only=True, slots=True)
class CommodityChannelIndex(KernelFeature):
    """Commodity channel index: typical price against its average, in 0.015 mean deviations; 0 in a flat market."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = "TA-Lib CCI; Lambert (1980), Commodity Channel Index, Commodities 10"
    smallest_bars: ClassVar[int] = 2
    bars: int = 20

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def formula(self, g: Graph) -> Node:
        typical = g.typical_price()
        distance = g.sub(typical, g.mean(typical, self.bars))
        return g.safe(distance, g.mean_deviation(typical, self.bars), p=self.bars / 0.015, undefined=0.0)


@register_feature("ultimate_oscillator")
@dataclass(frozen=True, kw_only=True, slots=True)
class UltimateOscillator(KernelFeature):
    """Buying pressure as a share of the true range over three windows, weighted 4, 2, 1; 0 to 100.

    A window without any range counts as 0, as in TA-Lib.
    """

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = "TA-Lib ULTOSC; Williams (1985), The ultimate oscillator, TASC 3"
    fast_bars: int = 7
    middle_bars: int = 14
    slow_bars: int = 28

    @property
    def lookback_bars(self) -> int:
        return max(self.fast_bars, self.middle_bars, self.slow_bars) + 1

    def formula(self, g: Graph) -> Node:
        close, spread = g.input("close"), true_range(g)
        pressure = g.sub(close, g.smaller(g.input("low"), close.lag(1)))
        fast, middle, slow = (
            g.safe(g.total(pressure, bars), g.total(spread, bars), p=100.0 * weight / 7.0, undefined=0.0)
            for bars, weight in ((self.fast_bars, 4), (self.middle_bars, 2), (self.slow_bars, 1))
        )
        return g.add(g.add(fast, middle), slow)


@register_feature("balance_of_power")
@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceOfPower(KernelFeature):
    """The bar's body as a share of its range, -1 to 1: who won the bar; 0 in a bar without a range."""

    reads: ClassVar[tuple[str, ...]] = ("open", "high", "low", "close")
    definition: ClassVar[str] = "TA-Lib BOP; Livshin (2001), Balance of power, TASC 19"

    @property
    def lookback_bars(self) -> int:
        return 1

    def formula(self, g: Graph) -> Node:
        return g.place(g.input("close"), g.input("open"), g.input("high"), g.input("low"), undefined=0.0)
