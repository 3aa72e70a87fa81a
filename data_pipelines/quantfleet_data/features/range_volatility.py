"""Volatility from the whole bar, drift and gaps included. Per bar, a fraction, known at the close of bar t.

`volatility` holds the estimators that assume no drift (Parkinson, Garman and Klass).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import Feature
from quantfleet_data.features.windows import Array, column, lag, rolling_mean, rolling_std

__all__ = ["RogersSatchell", "YangZhang"]


def _rogers_satchell_variance(bars: pl.DataFrame, n: int) -> Array:
    opened, close = column(bars, "open"), column(bars, "close")
    up, down, body = np.log(column(bars, "high") / opened), np.log(column(bars, "low") / opened), np.log(close / opened)
    return rolling_mean(up * (up - body) + down * (down - body), n)


@register_feature("rogers_satchell")
@dataclass(frozen=True, kw_only=True, slots=True)
class RogersSatchell(Feature):
    """Rogers and Satchell's volatility, per bar: free of the drift inside bars, blind to gaps between them.

    0 where bars whose open or close lies outside their range make the variance negative.
    """

    reads: ClassVar[tuple[str, ...]] = ("open", "high", "low", "close")
    definition: ClassVar[str] = "Rogers & Satchell (1991), Estimating variance from high, low and closing prices, AAP 1"
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars

    def values(self, bars: pl.DataFrame) -> Array:
        volatility: Array = np.sqrt(np.maximum(_rogers_satchell_variance(bars, self.bars), 0.0))
        return volatility


@register_feature("yang_zhang")
@dataclass(frozen=True, kw_only=True, slots=True)
class YangZhang(Feature):
    """Yang and Zhang's volatility, per bar: gaps, drift and range in one estimator of least variance.

    Variance of the gaps + k variance of open to close + (1 - k) Rogers-Satchell, with k = 0.34 / (1.34 + (n+1)/(n-1)).
    """

    reads: ClassVar[tuple[str, ...]] = ("open", "high", "low", "close")
    definition: ClassVar[str] = "Yang & Zhang (2000), Drift-independent volatility estimation, J. Business 73, eq. 7-10"
    smallest_bars: ClassVar[int] = 2
    bars: int = 21

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def values(self, bars: pl.DataFrame) -> Array:
        n, opened, close = self.bars, column(bars, "open"), column(bars, "close")
        sample = n / (n - 1.0)
        gaps = rolling_std(np.log(opened / lag(close, 1)), n) ** 2 * sample
        bodies = rolling_std(np.log(close / opened), n) ** 2 * sample
        k = 0.34 / (1.34 + (n + 1.0) / (n - 1.0))
        variance = gaps + k * bodies + (1.0 - k) * _rogers_satchell_variance(bars, n)
        volatility: Array = np.sqrt(np.maximum(variance, 0.0))
        return volatility
