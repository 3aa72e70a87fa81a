"""Support and resistance: where the price stands against levels that others watch too. Known at the close of bar t.

Distances are fractions, level / close - 1: above 0 the level is above the price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet.contracts.feature import FeatureState, Scaling
from quantfleet.errors import ConfigError
from quantfleet_data.features.base import Feature
from quantfleet_data.features.multi_timeframe import OnTimeframe
from quantfleet_data.features.windows import Array, column, lag, rolling_max, rolling_mean, rolling_min, safe_ratio

__all__ = ["AtrMove", "DistanceToExtreme", "PriorPeriodLevel", "SwingAge", "SwingDistance", "true_range"]

Side = Literal["high", "low"]
Level = Literal["high", "low", "close", "pivot", "resistance", "support"]


def true_range(bars: pl.DataFrame) -> Array:
    """Largest of high - low, |high - close before|, |low - close before|; NaN in the first bar. Wilder (1978)."""
    high, low, before = column(bars, "high"), column(bars, "low"), lag(column(bars, "close"), 1)
    reach: Array = np.maximum(high, before) - np.minimum(low, before)
    return reach


@register_feature("distance_to_extreme")
@dataclass(frozen=True, kw_only=True, slots=True)
class DistanceToExtreme(Feature):
    """Distance to the highest high (or lowest low) of the last bars: 0 at a new extreme."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = "George & Hwang (2004), The 52-week high and momentum investing, J. Finance 59"
    side: Side = "high"
    bars: int = 20

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def values(self, bars: pl.DataFrame) -> Array:
        extreme = rolling_max if self.side == "high" else rolling_min
        return extreme(column(bars, self.side), self.bars) / column(bars, "close") - 1.0


@register_feature("atr_move")
@dataclass(frozen=True, kw_only=True, slots=True)
class AtrMove(Feature):
    """Move of the close over some bars in average true ranges (a simple average, of the window alone); 0 when still."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = "true range: Wilder (1978), New Concepts in Technical Trading Systems"
    move_bars: int = 1
    range_bars: int = 14

    @property
    def lookback_bars(self) -> int:
        return max(self.move_bars, self.range_bars) + 1

    def values(self, bars: pl.DataFrame) -> Array:
        close = column(bars, "close")
        return safe_ratio(
            close - lag(close, self.move_bars), rolling_mean(true_range(bars), self.range_bars), undefined=0.0
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Swing(Feature):
    """What the features of swings share: which bars are swings, and when that became known."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    definition: ClassVar[str] = (
        "pivot reversals: Murphy (1999), Technical Analysis of the Financial Markets, ch. 4; fractals: Williams (1995)"
    )
    side: Side = "high"
    bars: int = 100
    """How far back a level is remembered."""
    confirm_bars: int = 3
    """A high is a swing when it is above the `confirm_bars` highs on either side, which is known that many bars later."""

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        if self.bars < 2 * self.confirm_bars + 1:
            raise ConfigError(
                f"feature {self.kind}: bars={self.bars} cannot hold a swing of confirm_bars={self.confirm_bars}; "
                f"set bars >= {2 * self.confirm_bars + 1}."
            )

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def last_swing(self, bars: pl.DataFrame) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return the extremes, and for each bar the row of the last swing confirmed by then; -1 where none is remembered.

        A bar counts from `confirm_bars` bars after it, and only while both its sides lie in the window. Of equal
        neighbouring highs the last is the swing.
        """
        extreme = column(bars, self.side) if self.side == "high" else -column(bars, self.side)
        k = self.confirm_bars
        rows = np.arange(extreme.size)
        left, right = lag(rolling_max(extreme, k), 1), np.full(extreme.shape, np.nan)
        right[: max(extreme.size - k, 0)] = rolling_max(extreme, k)[k:]
        swing = (extreme >= left) & (extreme > right)
        seen = np.where(swing, rows, -1)
        last = np.full(extreme.shape, -1, dtype=np.int64)
        last[k:] = np.maximum.accumulate(seen)[: max(extreme.size - k, 0)]
        last[last - k < rows - self.bars + 1] = -1
        return column(bars, self.side), last


@register_feature("swing_distance")
@dataclass(frozen=True, kw_only=True, slots=True)
class SwingDistance(_Swing):
    """Distance to the last confirmed swing high (or low); to the highest high (lowest low) of the window if none."""

    def values(self, bars: pl.DataFrame) -> Array:
        level, last = self.last_swing(bars)
        farthest = (rolling_max if self.side == "high" else rolling_min)(level, self.bars)
        return np.where(last >= 0, level[last], farthest) / column(bars, "close") - 1.0


@register_feature("swing_age")
@dataclass(frozen=True, kw_only=True, slots=True)
class SwingAge(_Swing):
    """Bars since the last confirmed swing high (or low) as a share of the window, 0 to 1; 1 if it holds none."""

    def values(self, bars: pl.DataFrame) -> Array:
        level, last = self.last_swing(bars)
        age = (np.arange(level.size) - last) / self.bars
        broken = np.isnan(rolling_max(level, self.bars))  # a missing price says nothing about its whole window
        return np.where(broken, np.nan, np.where(last >= 0, age, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class _PeriodLevel(Feature):
    """A level made of the last periods' bars, in units of price. Only `PriorPeriodLevel` uses it, on longer bars."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low", "close")
    scaling: ClassVar[Scaling] = "price"
    level: Level = "pivot"
    periods: int = 1

    @property
    def lookback_bars(self) -> int:
        return self.periods

    def values(self, bars: pl.DataFrame) -> Array:
        high, low = rolling_max(column(bars, "high"), self.periods), rolling_min(column(bars, "low"), self.periods)
        close = column(bars, "close")
        pivot = (high + low + close) / 3.0
        levels = {
            "high": high,
            "low": low,
            "close": close.copy(),
            "pivot": pivot,
            "resistance": 2.0 * pivot - low,
            "support": 2.0 * pivot - high,
        }
        return levels[self.level]


@register_feature("prior_period_level")
@dataclass(frozen=True, kw_only=True, slots=True)
class PriorPeriodLevel(Feature):
    """Distance to a level of the last closed day (week, month, hour ...): its high, low, close, pivot, R1 or S1.

    Pivot (H + L + C) / 3, resistance 2 pivot - L, support 2 pivot - H, of the last `periods` closed periods and the last
    one's close. Periods are those of `on_timeframe`: UTC days, weeks from Monday, calendar months, only when closed.
    """

    reads: ClassVar[tuple[str, ...]] = ("timestamp", "high", "low", "close")
    definition: ClassVar[str] = (
        "floor trader's pivots: Person (2004), A Complete Guide to Technical Trading Tactics, ch. 6"
    )
    recursive: ClassVar[bool] = True
    level: Level = "pivot"
    periods: int = 1
    timeframe: str = "1h"
    base: str = "1m"
    """Length of the symbol's own bars, as in `on_timeframe`."""

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        _ = self._on_longer_bars

    @property
    def column(self) -> str:
        return f"{self.kind}_{self.level}_{self.periods}_on_{self.timeframe}"

    @property
    def lookback_bars(self) -> int:
        return self._on_longer_bars.lookback_bars

    @property
    def _on_longer_bars(self) -> OnTimeframe:
        level = _PeriodLevel(level=self.level, periods=self.periods)
        return OnTimeframe(of=level, timeframe=self.timeframe, base=self.base)

    def values(self, bars: pl.DataFrame) -> Array:
        return self._on_longer_bars.compute(bars) / column(bars, "close") - 1.0

    def advance(self, bars: pl.DataFrame, new_bars: int, state: FeatureState | None) -> tuple[Array, FeatureState]:
        """As the contract says; the state is that of the longer bars."""
        levels, after = self._on_longer_bars.advance(bars, new_bars, state)
        return levels / column(bars.tail(new_bars), "close") - 1.0, after
