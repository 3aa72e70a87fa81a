"""Trend: where the price stands against its own averages, and where these stand. Known at the close of bar t.

Exponential averages start as the mean of their first bars, as TA-Lib's do, and are recursive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import KernelFeature, warm_up_bars
from quantfleet_data.features.kernels import Graph, Node

__all__ = [
    "CloseDemaRatio",
    "CloseEmaRatio",
    "CloseKamaRatio",
    "CloseSmaRatio",
    "CloseTemaRatio",
    "MacdHistogram",
    "MacdLine",
    "MacdSignal",
    "PercentagePriceOscillator",
    "SmaRatio",
    "Trix",
]

_APPEL = "Appel (2005), Technical Analysis: Power Tools for Active Investors"
_BROCK = "Brock, Lakonishok & LeBaron (1992), Simple technical trading rules, J. Finance 47"
_MULLOY = "Mulloy (1994), Smoothing data with faster moving averages, Technical Analysis of Stocks & Commodities 12"


def _ema_alpha(bars: int) -> float:
    return 2.0 / (bars + 1)


@register_feature("close_sma_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class CloseSmaRatio(KernelFeature):
    """Distance of the close from its simple average: close / SMA - 1, a fraction."""

    definition: ClassVar[str] = _BROCK
    smallest_bars: ClassVar[int] = 2
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        return g.ratio(close, g.total(close, self.bars), p=float(self.bars), r=-1.0)


@register_feature("sma_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class SmaRatio(KernelFeature):
    """Fast against slow simple average of the close: SMA_fast / SMA_slow - 1, a fraction; above zero in an uptrend."""

    definition: ClassVar[str] = _BROCK
    fast_bars: int = 50
    slow_bars: int = 200

    @property
    def lookback_bars(self) -> int:
        return self.slow_bars

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        fast, slow = g.total(close, self.fast_bars), g.total(close, self.slow_bars)
        return g.ratio(fast, slow, p=self.slow_bars / self.fast_bars, r=-1.0)


@register_feature("close_ema_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class CloseEmaRatio(KernelFeature):
    """Distance of the close from its exponential average: close / EMA - 1, a fraction.

    Look-back: the average's own bars plus the warm-up of alpha = 2 / (bars + 1).
    """

    definition: ClassVar[str] = "TA-Lib EMA"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars + warm_up_bars(_ema_alpha(self.bars))

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        return g.ratio(close, g.ema(close, self.bars), r=-1.0)


@register_feature("close_dema_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class CloseDemaRatio(KernelFeature):
    """Distance of the close from its double exponential average 2 EMA - EMA(EMA), a fraction.

    Look-back: both averages' own bars plus the warm-up of the cascade.
    """

    definition: ClassVar[str] = f"TA-Lib DEMA; {_MULLOY}"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 20

    @property
    def lookback_bars(self) -> int:
        return 2 * self.bars - 1 + warm_up_bars(_ema_alpha(self.bars), stages=2)

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        once = g.ema(close, self.bars)
        return g.ratio(close, g.lin(once, g.ema(once, self.bars), p=2.0, q=-1.0), r=-1.0)


@register_feature("close_tema_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class CloseTemaRatio(KernelFeature):
    """Distance of the close from its triple exponential average 3 EMA - 3 EMA(EMA) + EMA(EMA(EMA)), a fraction.

    Look-back: the three averages' own bars plus the warm-up of the cascade.
    """

    definition: ClassVar[str] = f"TA-Lib TEMA; {_MULLOY}"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 20

    @property
    def lookback_bars(self) -> int:
        return 3 * self.bars - 2 + warm_up_bars(_ema_alpha(self.bars), stages=3)

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        once = g.ema(close, self.bars)
        twice = g.ema(once, self.bars)
        return g.ratio(close, g.add(g.lin(once, twice, p=3.0, q=-3.0), g.ema(twice, self.bars)), r=-1.0)


@register_feature("close_kama_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class CloseKamaRatio(KernelFeature):
    """Distance of the close from Kaufman's adaptive average, a fraction; the average stands still in a choppy market.

    Look-back: the efficiency's bars plus the warm-up at a random walk's efficiency, 1 / sqrt(bars).
    """

    definition: ClassVar[str] = "TA-Lib KAMA; Kaufman (1995), Smarter Trading"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 10
    fast_bars: int = 2
    slow_bars: int = 30

    @property
    def lookback_bars(self) -> int:
        fast, slow = _ema_alpha(self.fast_bars), _ema_alpha(self.slow_bars)
        return self.bars + 1 + warm_up_bars((slow + (fast - slow) / math.sqrt(self.bars)) ** 2)

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        return g.ratio(close, g.adaptive(close, self.bars, self.fast_bars, self.slow_bars), r=-1.0)


@register_feature("trix")
@dataclass(frozen=True, kw_only=True, slots=True)
class Trix(KernelFeature):
    """One-bar change of a triple smoothed close, in percent.

    Look-back: the three averages' own bars, one change, plus the warm-up of the cascade.
    """

    definition: ClassVar[str] = "TA-Lib TRIX; Hutson (1983), Good TRIX, Technical Analysis of Stocks & Commodities 1"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    bars: int = 15

    @property
    def lookback_bars(self) -> int:
        return 3 * self.bars - 1 + warm_up_bars(_ema_alpha(self.bars), stages=3)

    def formula(self, g: Graph) -> Node:
        smooth = g.input("close")
        for _ in range(3):
            smooth = g.ema(smooth, self.bars)
        return g.ratio(smooth, smooth.lag(1), p=100.0, r=-100.0)


@register_feature("ppo")
@dataclass(frozen=True, kw_only=True, slots=True)
class PercentagePriceOscillator(KernelFeature):
    """Fast against slow exponential average of the close, in percent of the slow one.

    Look-back: the slow average's own bars plus its warm-up.
    """

    definition: ClassVar[str] = f"TA-Lib PPO of exponential averages; {_APPEL}"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    fast_bars: int = 12
    slow_bars: int = 26

    @property
    def lookback_bars(self) -> int:
        return self.slow_bars + warm_up_bars(_ema_alpha(self.slow_bars))

    def formula(self, g: Graph) -> Node:
        close = g.input("close")
        return g.ratio(g.ema(close, self.fast_bars), g.ema(close, self.slow_bars), p=100.0, r=-100.0)


def _macd_line(g: Graph, fast_bars: int, slow_bars: int) -> Node:
    close = g.input("close")
    return g.sub(g.ema(close, fast_bars), g.ema(close, slow_bars))


@register_feature("macd_line")
@dataclass(frozen=True, kw_only=True, slots=True)
class MacdLine(KernelFeature):
    """MACD line as a fraction of the close: (EMA_fast - EMA_slow) / close.

    Look-back: the slow average's own bars plus its warm-up.
    """

    definition: ClassVar[str] = f"TA-Lib MACD; {_APPEL}"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    fast_bars: int = 12
    slow_bars: int = 26

    @property
    def lookback_bars(self) -> int:
        return self.slow_bars + warm_up_bars(_ema_alpha(self.slow_bars))

    def formula(self, g: Graph) -> Node:
        return g.product(_macd_line(g, self.fast_bars, self.slow_bars), g.inverse(g.input("close")))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Signalled(KernelFeature):
    """Parameters and look-back of what uses the MACD's signal: slow and signal bars, plus the warm-up of both."""

    definition: ClassVar[str] = f"TA-Lib MACD; {_APPEL}"
    smallest_bars: ClassVar[int] = 2
    recursive: ClassVar[bool] = True
    fast_bars: int = 12
    slow_bars: int = 26
    signal_bars: int = 9

    @property
    def lookback_bars(self) -> int:
        warm_up = warm_up_bars(_ema_alpha(self.slow_bars)) + warm_up_bars(_ema_alpha(self.signal_bars))
        return self.slow_bars + self.signal_bars - 1 + warm_up


@register_feature("macd_signal")
@dataclass(frozen=True, kw_only=True, slots=True)
class MacdSignal(_Signalled):
    """MACD signal as a fraction of the close: the line's own exponential average / close."""

    def formula(self, g: Graph) -> Node:
        signal = g.ema(_macd_line(g, self.fast_bars, self.slow_bars), self.signal_bars)
        return g.product(signal, g.inverse(g.input("close")))


@register_feature("macd_histogram")
@dataclass(frozen=True, kw_only=True, slots=True)
class MacdHistogram(_Signalled):
    """MACD histogram as a fraction of the close: (EMA_fast - EMA_slow - its signal EMA) / close."""

    def formula(self, g: Graph) -> Node:
        line = _macd_line(g, self.fast_bars, self.slow_bars)
        return g.product(g.sub(line, g.ema(line, self.signal_bars)), g.inverse(g.input("close")))
