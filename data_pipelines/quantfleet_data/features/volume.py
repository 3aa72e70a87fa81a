"""Volume: how much trading stood behind the move. Known at the close of bar t.

Indices and currencies have no volume. A window that holds a null volume, or no volume at all, says nothing, so its
feature is neutral: neither above nor below normal, neither buying nor selling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import KernelFeature
from quantfleet_data.features.kernels import Graph, Node

__all__ = [
    "ChaikinMoneyFlow",
    "MoneyFlowIndex",
    "ObvSlope",
    "SessionVwapRatio",
    "VolumeRatio",
    "VolumeZScore",
    "VwapRatio",
]


@register_feature("volume_zscore")
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeZScore(KernelFeature):
    """Volume against its window, in the window's standard deviations; 0 where volume is null or constant."""

    reads: ClassVar[tuple[str, ...]] = ("volume",)
    definition: ClassVar[str] = "standard score over the window, the current bar included: |z| <= sqrt(bars - 1)"
    smallest_bars: ClassVar[int] = 2
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def formula(self, g: Graph) -> Node:
        volume = g.input("volume")
        distance = g.sub(volume, g.mean(volume, self.bars))
        return g.neutral(g.safe(distance, g.deviation(volume, self.bars), undefined=0.0), 0.0)


@register_feature("volume_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeRatio(KernelFeature):
    """Fast against slow average volume: fast / slow - 1; 0 where volume is null or all zero."""

    reads: ClassVar[tuple[str, ...]] = ("volume",)
    definition: ClassVar[str] = "ratio of simple averages; the base of TA-Lib PVO without its recursion"
    fast_bars: int = 5
    slow_bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.slow_bars

    def formula(self, g: Graph) -> Node:
        volume = g.input("volume")
        fast, slow = g.total(volume, self.fast_bars), g.total(volume, self.slow_bars)
        return g.neutral(g.safe(fast, slow, p=self.slow_bars / self.fast_bars, r=-1.0, undefined=0.0), 0.0)


@register_feature("obv_slope")
@dataclass(frozen=True, kw_only=True, slots=True)
class ObvSlope(KernelFeature):
    """Change of on-balance volume over the window as a share of all its volume, -1 to 1.

    A difference of on-balance volume, so it does not matter where that sum began; 0 where volume is null or all zero.
    """

    reads: ClassVar[tuple[str, ...]] = ("close", "volume")
    definition: ClassVar[str] = (
        "TA-Lib OBV; Granville (1963), New Key to Stock Market Profits; (OBV_t - OBV_{t-n}) / sum of volume"
    )
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def formula(self, g: Graph) -> Node:
        close, volume = g.input("close"), g.input("volume")
        change = g.total(g.signed(close, close.lag(1), volume), self.bars)
        return g.neutral(g.safe(change, g.total(volume, self.bars), undefined=0.0), 0.0)


@register_feature("chaikin_money_flow")
@dataclass(frozen=True, kw_only=True, slots=True)
class ChaikinMoneyFlow(KernelFeature):
    """Chaikin money flow, -1 to 1: volume weighted by where the close lies in its bar.

    A bar without a range counts as neutral; 0 where volume is null or all zero.
    """

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close", "volume")
    definition: ClassVar[str] = "Chaikin (1982), money flow; accumulation line of TA-Lib AD over a window"
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def formula(self, g: Graph) -> Node:
        high, low, volume = g.input("high"), g.input("low"), g.input("volume")
        place = g.place(g.input("close"), low, high, low, p=2.0, r=-1.0, undefined=0.0)
        flow = g.total(g.mul(place, volume), self.bars)
        return g.neutral(g.safe(flow, g.total(volume, self.bars), undefined=0.0), 0.0)


@register_feature("money_flow_index")
@dataclass(frozen=True, kw_only=True, slots=True)
class MoneyFlowIndex(KernelFeature):
    """Turnover of the bars whose typical price rose as a share of that of all which moved, 0 to 100.

    50 where volume is null or all zero, or the price did not move.
    """

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close", "volume")
    definition: ClassVar[str] = "TA-Lib MFI; Quong & Soudack (1989), Volume-weighted RSI: money flow, TASC 7"
    bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def formula(self, g: Graph) -> Node:
        typical = g.typical_price()
        before, flow = typical.lag(1), g.mul(typical, g.input("volume"))
        rose = g.total(g.where_rose(typical, before, flow), self.bars)
        fell = g.total(g.where_rose(before, typical, flow), self.bars)
        return g.neutral(g.safe(rose, g.add(rose, fell), p=100.0, undefined=50.0), 50.0)


@register_feature("vwap_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class VwapRatio(KernelFeature):
    """Distance of the close from the volume-weighted typical price of the window, a fraction.

    0 where volume is null or all zero.
    """

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close", "volume")
    definition: ClassVar[str] = (
        "Berkowitz, Logue & Noser (1988), The total cost of transactions on the NYSE, J. Finance 43"
    )
    bars: int = 20

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def formula(self, g: Graph) -> Node:
        volume = g.input("volume")
        turnover = g.total(g.mul(g.typical_price(), volume), self.bars)
        traded = g.mul(g.input("close"), g.total(volume, self.bars))
        return g.neutral(g.safe(traded, turnover, r=-1.0, undefined=0.0), 0.0)


@register_feature("session_vwap_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class SessionVwapRatio(KernelFeature):
    """Distance of the close from the volume-weighted typical price since UTC midnight, a fraction.

    Bars of null volume are left out; 0 while nothing was traded. The day a history begins in counts from its first bar.
    """

    reads: ClassVar[tuple[str, ...]] = ("timestamp", "high", "low", "close", "volume")
    definition: ClassVar[str] = (
        "Berkowitz, Logue & Noser (1988), The total cost of transactions on the NYSE, J. Finance 43"
    )
    recursive: ClassVar[bool] = True

    @property
    def lookback_bars(self) -> int:
        return 1

    def formula(self, g: Graph) -> Node:
        volume = g.neutral(g.input("volume"), 0.0)
        turnover = g.since_midnight(g.mul(g.typical_price(), volume))
        traded = g.mul(g.input("close"), g.since_midnight(volume))
        return g.safe(traded, turnover, r=-1.0, undefined=0.0)
