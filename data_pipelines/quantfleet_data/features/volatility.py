"""Volatility: how wide prices swing. Fractions per bar (0.01 is 1 %), not annualised; known at the close of bar t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import Feature
from quantfleet_data.features.windows import (
    Array,
    column,
    log_change,
    rolling_rms,
    rolling_sum,
    safe_ratio,
)

__all__ = [
    "GarmanKlass",
    "Parkinson",
    "RealisedVolatility",
    "VolatilityRatio",
]


@register_feature("realised_volatility")
@dataclass(frozen=True, kw_only=True, slots=True)
class RealisedVolatility(Feature):
    """Root mean square of the last close-to-close log returns, per bar; around zero, not around their mean."""

    definition: ClassVar[str] = "Andersen, Bollerslev, Diebold & Labys (2003), Econometrica 71"
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        return rolling_rms(log_change(column(bars, "close")), self.bars)


@register_feature("volatility_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class VolatilityRatio(Feature):
    """Fast against slow realised volatility: fast / slow - 1; 0 where nothing moved in the slow window."""

    definition: ClassVar[str] = "ratio of realised volatilities: Andersen et al. (2003), Econometrica 71"
    fast_bars: int = 5
    slow_bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.slow_bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        change = log_change(column(bars, "close"))
        return safe_ratio(rolling_rms(change, self.fast_bars), rolling_rms(change, self.slow_bars), undefined=1.0) - 1.0


@register_feature("parkinson")
@dataclass(frozen=True, kw_only=True, slots=True)
class Parkinson(Feature):
    """Parkinson's volatility from highs and lows, per bar; blind to gaps between bars."""

    reads: ClassVar[tuple[str, ...]] = ("high", "low")
    definition: ClassVar[str] = "Parkinson (1980), The extreme value method, J. Business 53"
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def values(self, bars: pl.DataFrame) -> Array:
        swing = np.log(column(bars, "high") / column(bars, "low"))
        return rolling_rms(swing, self.bars) / math.sqrt(4.0 * math.log(2.0))


@register_feature("garman_klass")
@dataclass(frozen=True, kw_only=True, slots=True)
class GarmanKlass(Feature):
    """Garman and Klass's volatility from open, high, low and close, per bar.

    0 where bars whose open or close lies outside their range make the variance negative.
    """

    reads: ClassVar[tuple[str, ...]] = ("open", "high", "low", "close")
    definition: ClassVar[str] = (
        "Garman & Klass (1980), On the estimation of security price volatilities, J. Business 53"
    )
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def values(self, bars: pl.DataFrame) -> Array:
        swing = np.log(column(bars, "high") / column(bars, "low"))
        body = np.log(column(bars, "close") / column(bars, "open"))
        variance = 0.5 * swing * swing - (2.0 * math.log(2.0) - 1.0) * body * body
        volatility: Array = np.sqrt(np.maximum(rolling_sum(variance, self.bars) / self.bars, 0.0))
        return volatility
