"""A symbol against an index: what it does beyond the market. Known at the close of bar t.

The job joins the index's close of the same bar as the column `index_close` (null where the index has no bar then).
A window that holds a bar without an index is NaN, so its row is masked: nothing is known there, and nothing invented.
Returns are log returns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from quantfleet.contracts import register_feature
from quantfleet_data.features.base import Feature
from quantfleet_data.features.rolling import rolling_correlation
from quantfleet_data.features.windows import Array, column, log_change, rolling_mean, rolling_std, safe_ratio

__all__ = ["IdiosyncraticVolatility", "IndexAlpha", "IndexBeta", "IndexCorrelation", "RelativeStrength"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _AgainstIndex(Feature):
    """What the features against an index share: the two columns and their returns."""

    reads: ClassVar[tuple[str, ...]] = ("close", "index_close")
    smallest_bars: ClassVar[int] = 3
    bars: int = 63

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    def returns(self, bars: pl.DataFrame) -> tuple[Array, Array]:
        """One-bar log returns of the symbol and of the index."""
        return log_change(column(bars, "close")), log_change(column(bars, "index_close"))

    def beta(self, own_T: Array, index_T: Array) -> Array:
        """Least-squares slope of own returns on those of the index; 0 where the index did not move."""
        ratio = safe_ratio(rolling_std(own_T, self.bars), rolling_std(index_T, self.bars), undefined=0.0)
        return rolling_correlation(own_T, index_T, self.bars) * ratio


@register_feature("relative_strength")
@dataclass(frozen=True, kw_only=True, slots=True)
class RelativeStrength(_AgainstIndex):
    """Log return of the symbol over the window less that of the index; above 0 it did better."""

    definition: ClassVar[str] = "Levy (1967), Relative strength as a criterion for investment selection, J. Finance 22"
    smallest_bars: ClassVar[int] = 1
    bars: int = 21

    def values(self, bars: pl.DataFrame) -> Array:
        return log_change(column(bars, "close"), self.bars) - log_change(column(bars, "index_close"), self.bars)


@register_feature("index_beta")
@dataclass(frozen=True, kw_only=True, slots=True)
class IndexBeta(_AgainstIndex):
    """Beta to the index: slope of the symbol's returns on the index's; 0 where the index did not move."""

    definition: ClassVar[str] = "Sharpe (1963), A simplified model for portfolio analysis, Management Science 9"

    def values(self, bars: pl.DataFrame) -> Array:
        return self.beta(*self.returns(bars))


@register_feature("index_alpha")
@dataclass(frozen=True, kw_only=True, slots=True)
class IndexAlpha(_AgainstIndex):
    """Mean return per bar that beta does not explain: mean(own) - beta mean(index)."""

    definition: ClassVar[str] = "Jensen (1968), The performance of mutual funds, J. Finance 23; without a riskless rate"

    def values(self, bars: pl.DataFrame) -> Array:
        own, index = self.returns(bars)
        return rolling_mean(own, self.bars) - self.beta(own, index) * rolling_mean(index, self.bars)


@register_feature("index_correlation")
@dataclass(frozen=True, kw_only=True, slots=True)
class IndexCorrelation(_AgainstIndex):
    """Correlation of the symbol's returns with the index's, -1 to 1; 0 where either did not move."""

    definition: ClassVar[str] = "Pearson correlation of log returns"

    def values(self, bars: pl.DataFrame) -> Array:
        return rolling_correlation(*self.returns(bars), self.bars)


@register_feature("idiosyncratic_volatility")
@dataclass(frozen=True, kw_only=True, slots=True)
class IdiosyncraticVolatility(_AgainstIndex):
    """Standard deviation per bar of the return that the index does not explain, with n - 2 degrees of freedom."""

    definition: ClassVar[str] = "Ang, Hodrick, Xing & Zhang (2006), The cross-section of volatility, J. Finance 61"

    def values(self, bars: pl.DataFrame) -> Array:
        own, index = self.returns(bars)
        explained = rolling_correlation(own, index, self.bars)
        unexplained = np.sqrt(np.maximum(1.0 - explained * explained, 0.0))
        volatility: Array = rolling_std(own, self.bars) * unexplained * math.sqrt(self.bars / (self.bars - 2.0))
        return volatility
