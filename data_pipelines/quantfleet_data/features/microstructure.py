"""Microstructure guessed from bars: who traded, how much a trade moves the price, how wide the spread is.

Bars do not say which side was the aggressor. Bulk volume classification guesses the bought share of a bar's volume from
how far the close moved: Phi(move / deviation of moves). As for every feature of volume here, a window that holds a null
volume, or no volume at all, is neutral (0). All are known at the close of bar t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numba import njit
from scipy.special import ndtr

from quantfleet.contracts import register_feature
from quantfleet.contracts.feature import Scaling
from quantfleet_data.features.base import Feature
from quantfleet_data.features.rolling import neutral_without_volume, rolling_correlation
from quantfleet_data.features.windows import (
    Array,
    column,
    lag,
    log_change,
    rolling_mean,
    rolling_rms,
    rolling_std,
    rolling_sum,
    safe_ratio,
)

__all__ = ["Amihud", "CorwinSchultz", "KyleLambda", "RollSpread", "TradeImbalance", "Vpin"]

_BULK = "bulk volume classification: Easley, Lopez de Prado & O'Hara (2012), Flow toxicity, Rev. Fin. Studies 25"


def _bought_less_sold(bars: pl.DataFrame, n: int) -> Array:
    """Bought less sold share of each bar's volume, -1..1; deviations over n changes; 0 where none of them moved."""
    close = column(bars, "close")
    change = close - lag(close, 1)
    share: Array = 2.0 * ndtr(safe_ratio(change, rolling_rms(change, n), undefined=0.0)) - 1.0
    return share


@register_feature("trade_imbalance")
@dataclass(frozen=True, kw_only=True, slots=True)
class TradeImbalance(Feature):
    """Bought less sold volume as a share of all volume over the window, -1 to 1."""

    reads: ClassVar[tuple[str, ...]] = ("close", "volume")
    definition: ClassVar[str] = _BULK
    smallest_bars: ClassVar[int] = 2
    bars: int = 21
    deviation_bars: int = 21
    """Price changes from which the deviation of a move is taken."""

    @property
    def lookback_bars(self) -> int:
        return self.bars + self.deviation_bars

    def values(self, bars: pl.DataFrame) -> Array:
        volume = column(bars, "volume")
        flow = rolling_sum(_bought_less_sold(bars, self.deviation_bars) * volume, self.bars)
        ratio = safe_ratio(flow, rolling_sum(volume, self.bars), undefined=0.0)
        return neutral_without_volume(ratio, self.lookback_bars - 1)


@register_feature("vpin")
@dataclass(frozen=True, kw_only=True, slots=True)
class Vpin(Feature):
    """Volume-synchronised probability of informed trading, 0 to 1: how one-sided the trading was, whichever side.

    The window's volume is dealt, oldest first, into buckets of equal volume, bars cut where a bucket is full; VPIN is the
    mean over buckets of |bought - sold| / volume. The paper fixes the bucket at a share of an average day's volume; here
    it is the window's volume / buckets, so that the value depends on the window alone.
    """

    reads: ClassVar[tuple[str, ...]] = ("close", "volume")
    definition: ClassVar[str] = f"VPIN with {_BULK}"
    smallest_bars: ClassVar[int] = 2
    bars: int = 50
    buckets: int = 10
    deviation_bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars + self.deviation_bars

    def values(self, bars: pl.DataFrame) -> Array:
        volume = column(bars, "volume")
        out = np.full(volume.shape, np.nan)
        _vpin(_bought_less_sold(bars, self.deviation_bars), volume, self.bars, self.buckets, out)
        return neutral_without_volume(out, self.lookback_bars - 1)


@register_feature("amihud")
@dataclass(frozen=True, kw_only=True, slots=True)
class Amihud(Feature):
    """Amihud's illiquidity: mean of |log return| per unit of turnover (close x volume), over bars that traded.

    In 1 / money, so it depends on the units of price and volume: compare symbols by cross-sectional rank.
    """

    reads: ClassVar[tuple[str, ...]] = ("close", "volume")
    definition: ClassVar[str] = "Amihud (2002), Illiquidity and stock returns, J. Financial Markets 5, eq. 1"
    scaling: ClassVar[Scaling] = "none"
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        close = column(bars, "close")
        turnover = close * column(bars, "volume")
        impact = safe_ratio(np.abs(log_change(close)), turnover, undefined=0.0)
        traded = np.where(np.isnan(turnover), np.nan, turnover > 0.0)
        mean = safe_ratio(rolling_sum(impact, self.bars), rolling_sum(traded, self.bars), undefined=0.0)
        return neutral_without_volume(mean, self.bars)


@register_feature("kyle_lambda")
@dataclass(frozen=True, kw_only=True, slots=True)
class KyleLambda(Feature):
    """Price impact: slope of the log return on signed volume, per average bar of volume in the window.

    0.01 means that buying one average bar's volume goes with a rise of 1 %. Volume takes the sign of the bar's return.
    """

    reads: ClassVar[tuple[str, ...]] = ("close", "volume")
    definition: ClassVar[str] = (
        "Kyle (1985), Econometrica 53; from bars as in Lopez de Prado (2018), Advances in Financial Machine Learning, 19.4"
    )
    smallest_bars: ClassVar[int] = 3
    bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        volume, change = column(bars, "volume"), log_change(column(bars, "close"))
        signed = np.sign(change) * volume
        ratio = safe_ratio(rolling_std(change, self.bars), rolling_std(signed, self.bars), undefined=0.0)
        slope = rolling_correlation(change, signed, self.bars) * ratio
        return neutral_without_volume(slope * rolling_mean(volume, self.bars), self.bars)


@register_feature("roll_spread")
@dataclass(frozen=True, kw_only=True, slots=True)
class RollSpread(Feature):
    """Roll's effective spread, a fraction of the price: 2 sqrt(-covariance of successive log returns).

    0 where that covariance is positive, as it is for half of all windows without a bounce between bid and ask.
    """

    definition: ClassVar[str] = "Roll (1984), A simple implicit measure of the effective bid-ask spread, J. Finance 39"
    smallest_bars: ClassVar[int] = 3
    bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.bars + 2

    def values(self, bars: pl.DataFrame) -> Array:
        change = log_change(column(bars, "close"))
        before, n = lag(change, 1), self.bars
        covariance = rolling_correlation(change, before, n) * rolling_std(change, n) * rolling_std(before, n)
        spread: Array = 2.0 * np.sqrt(np.maximum(-covariance, 0.0))
        return spread


@register_feature("corwin_schultz")
@dataclass(frozen=True, kw_only=True, slots=True)
class CorwinSchultz(Feature):
    """Spread from highs and lows, a fraction of the price: mean of the two-bar estimates, negative ones taken as 0.

    Gaps between bars are not corrected for, as the authors do with overnight returns of stocks.
    """

    reads: ClassVar[tuple[str, ...]] = ("high", "low")
    definition: ClassVar[str] = "Corwin & Schultz (2012), Bid-ask spreads from daily high and low prices, J. Finance 67"
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        high, low = column(bars, "high"), column(bars, "low")
        swing = np.log(high / low)
        beta = swing * swing + lag(swing * swing, 1)
        both = np.log(np.maximum(high, lag(high, 1)) / np.minimum(low, lag(low, 1)))
        root = 3.0 - 2.0 * math.sqrt(2.0)
        alpha = (math.sqrt(2.0) - 1.0) / root * np.sqrt(beta) - both / math.sqrt(root)
        grown = np.exp(alpha)
        return rolling_mean(np.maximum(2.0 * (grown - 1.0) / (1.0 + grown), 0.0), self.bars)


@njit(cache=True, nogil=True)
def _vpin(share_T: Array, volume_T: Array, n: int, buckets: int, out_T: Array) -> None:
    for t in range(n - 1, volume_T.size):
        total = 0.0
        for i in range(t - n + 1, t + 1):
            total += volume_T[i]
        bucket = total / buckets
        if math.isnan(bucket) or bucket == 0.0:
            out_T[t] = 0.0 * bucket
            continue
        room, flow, one_sided = bucket, 0.0, 0.0
        for i in range(t - n + 1, t + 1):
            left = volume_T[i]
            while left >= room:
                one_sided += abs(flow + share_T[i] * room)
                left -= room
                room, flow = bucket, 0.0
            flow += share_T[i] * left
            room -= left
        out_T[t] = min((one_sided + abs(flow)) / total, 1.0)
