"""Moments of the returns in a moving window, and how they depend on each other over time. Known at the close of bar t.

Of log returns of the close; a market that did not move in the window gives the value a random walk would have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet.errors import ConfigError
from quantfleet_data.features.base import Feature
from quantfleet_data.features.rolling import rolling_autocorrelation, rolling_moments
from quantfleet_data.features.windows import Array, column, log_change, rolling_mean, safe_ratio

__all__ = ["Hurst", "ReturnAutocorrelation", "ReturnKurtosis", "ReturnSkewness", "VarianceRatio"]


@register_feature("return_skewness")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReturnSkewness(Feature):
    """Skewness of the last log returns, m3 / m2^1.5; 0 where they are equal."""

    definition: ClassVar[str] = "moment skewness g1: Joanes & Gill (1998), The Statistician 47"
    smallest_bars: ClassVar[int] = 3
    bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        return rolling_moments(log_change(column(bars, "close")), self.bars)[0]


@register_feature("return_kurtosis")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReturnKurtosis(Feature):
    """Excess kurtosis of the last log returns, m4 / m2^2 - 3; 0 where they are equal."""

    definition: ClassVar[str] = "moment kurtosis g2: Joanes & Gill (1998), The Statistician 47"
    smallest_bars: ClassVar[int] = 4
    bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        return rolling_moments(log_change(column(bars, "close")), self.bars)[1]


@register_feature("return_autocorrelation")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReturnAutocorrelation(Feature):
    """Autocorrelation of the log returns at a shift of some bars; below 0 the market reverses, above 0 it runs on."""

    definition: ClassVar[str] = "Box, Jenkins & Reinsel, Time Series Analysis, eq. 2.1.11"
    bars: int = 63
    shift_bars: int = 1

    def __post_init__(self) -> None:
        Feature.__post_init__(self)
        if self.shift_bars >= self.bars:
            raise ConfigError(
                f"feature {self.kind}: shift_bars={self.shift_bars} leaves no pair in bars={self.bars}; "
                f"set shift_bars < {self.bars}."
            )

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        return rolling_autocorrelation(log_change(column(bars, "close")), self.bars, self.shift_bars)


@register_feature("variance_ratio")
@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceRatio(Feature):
    """Variance of returns over `step_bars` per bar against that of one bar: 1 for a random walk, below it reverses.

    Mean squares of overlapping log returns in the window, around zero.
    """

    definition: ClassVar[str] = "Lo & MacKinlay (1988), Stock market prices do not follow random walks, RFS 1"
    smallest_bars: ClassVar[int] = 2
    bars: int = 126
    step_bars: int = 5

    @property
    def lookback_bars(self) -> int:
        return self.bars + self.step_bars

    def values(self, bars: pl.DataFrame) -> Array:
        close = column(bars, "close")
        one, many = log_change(close), log_change(close, self.step_bars)
        squares = self.step_bars * rolling_mean(one * one, self.bars)
        return safe_ratio(rolling_mean(many * many, self.bars), squares, undefined=1.0)


@register_feature("hurst")
@dataclass(frozen=True, kw_only=True, slots=True)
class Hurst(Feature):
    """Generalised Hurst exponent of order 2: how the size of a move grows with its duration.

    0.5 for a random walk, above it the market trends, below it reverses. Half the least-squares slope of the logarithm
    of the mean squared log move over 1, 2, 4, 8 bars against the logarithm of the duration. 0.5 where nothing moved.
    """

    definition: ClassVar[str] = "Di Matteo (2007), Multi-scaling in finance, Quantitative Finance 7, eq. 3"
    durations_bars: ClassVar[tuple[int, ...]] = (1, 2, 4, 8)
    smallest_bars: ClassVar[int] = 2
    bars: int = 126

    @property
    def lookback_bars(self) -> int:
        return self.bars + self.durations_bars[-1]

    def values(self, bars: pl.DataFrame) -> Array:
        close = column(bars, "close")
        durations = [math.log(d) for d in self.durations_bars]
        centre = math.fsum(durations) / len(durations)
        spread = math.fsum((d - centre) ** 2 for d in durations)
        slope, still = np.zeros(close.shape), np.zeros(close.shape, dtype=np.bool_)
        for bars_apart, duration in zip(self.durations_bars, durations, strict=True):
            move = log_change(close, bars_apart)
            squares = rolling_mean(move * move, self.bars)
            still |= squares == 0.0
            slope += (duration - centre) * np.log(np.where(squares == 0.0, 1.0, squares)) / spread
        return np.where(still, 0.5, slope / 2.0)
