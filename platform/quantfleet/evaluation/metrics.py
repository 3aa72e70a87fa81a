"""Trading metrics of a return series. Undefined is NaN, never 0.

Shapes: T bars. Returns are simple returns per bar as fractions (0.01 is 1 %), net of costs unless said otherwise.
A NaN among the returns (a ruined account, a broken curve) makes every metric of them NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "annual_return",
    "annual_volatility",
    "exposure",
    "hit_rate",
    "max_drawdown",
    "sharpe",
    "sortino",
    "total_return",
    "turnover_per_year",
]

Array = npt.NDArray[np.floating[Any]]


def _series(values_T: Array, *, at_least: int, what: str) -> npt.NDArray[np.float64]:
    series = np.asarray(values_T, dtype=np.float64)
    if series.ndim != 1 or len(series) < at_least:
        raise ValueError(f"{what} needs a series of at least {at_least} bars, got shape {series.shape}.")
    return series


def sharpe(returns_T: Array, *, bars_per_year: float) -> float:
    """Annualised Sharpe ratio of simple per-bar excess returns.

    Args:
        returns_T: shape (T,), fractions, net of costs; excess of the riskless return where cash earns one.
        bars_per_year: 252 for daily equities, 8760 for hourly crypto.
    Returns: dimensionless; NaN when all returns are equal, as volatility is zero then.
    Raises: ValueError: fewer than two bars.
    Source: Sharpe (1994), "The Sharpe Ratio"; standard deviation with T - 1.
    """
    returns = _series(returns_T, at_least=2, what="a Sharpe ratio")
    if np.ptp(returns) == 0.0:
        return math.nan
    return float(returns.mean() / returns.std(ddof=1) * math.sqrt(bars_per_year))


def sortino(returns_T: Array, *, bars_per_year: float) -> float:
    """Annualised Sortino ratio against a target of zero.

    Returns: mean over the root mean square of the losses (gains count as 0, all T bars in the mean); NaN when nothing
        was lost.
    Raises: ValueError: no bars.
    Source: Sortino and Price (1994), "Performance Measurement in a Downside Risk Framework".
    """
    returns = _series(returns_T, at_least=1, what="a Sortino ratio")
    downside = math.sqrt(np.mean(np.minimum(returns, 0.0) ** 2))
    return float(returns.mean() / downside * math.sqrt(bars_per_year)) if downside != 0.0 else math.nan


def total_return(returns_T: Array) -> float:
    """Compounded return over the whole series: 0.5 is a gain of 50 %. Raises: ValueError: no bars."""
    return float(np.prod(1.0 + _series(returns_T, at_least=1, what="a total return")) - 1.0)


def annual_return(returns_T: Array, *, bars_per_year: float) -> float:
    """Compound annual growth rate.

    Returns: a fraction per year; -1 when everything is lost, NaN when more than everything is, infinite when a few bars
        of huge gains compound beyond floating point.
    Raises: ValueError: no bars.
    """
    growth = np.float64(1.0 + total_return(returns_T))
    if not growth >= 0.0:
        return math.nan
    with np.errstate(over="ignore"):
        return float(growth ** (bars_per_year / len(returns_T)) - 1.0)


def annual_volatility(returns_T: Array, *, bars_per_year: float) -> float:
    """Standard deviation (T - 1) per bar times the root of bars per year. Raises: ValueError: fewer than two bars."""
    returns = _series(returns_T, at_least=2, what="a volatility")
    return float(returns.std(ddof=1) * math.sqrt(bars_per_year))


def max_drawdown(returns_T: Array) -> float:
    """Largest loss from a high of the compounded series to a later low; the start counts as a high.

    Returns: the loss as a positive fraction: 0.25 when a quarter was lost, 0 when the series never fell.
    Raises: ValueError: no bars.
    """
    wealth = np.concatenate([[1.0], np.cumprod(1.0 + _series(returns_T, at_least=1, what="a drawdown"))])
    return float(np.max(1.0 - wealth / np.maximum.accumulate(wealth)))


def turnover_per_year(turnover_T: Array, *, bars_per_year: float) -> float:
    """How often the capital is turned in a year: traded notional over equity, averaged per bar, times bars per year.

    A round trip of the whole capital (in and out) counts 2. Raises: ValueError: no bars.
    """
    return float(_series(turnover_T, at_least=1, what="a turnover").mean() * bars_per_year)


def exposure(exposure_T: Array) -> float:
    """Average share of the capital at work: gross exposure over equity per bar. Raises: ValueError: no bars."""
    return float(_series(exposure_T, at_least=1, what="an exposure").mean())


def hit_rate(returns_T: Array) -> float:
    """Share of gains among the bars that gained or lost; bars of exactly 0 (flat) are left out.

    Returns: a fraction; NaN when no bar gained or lost.
    Raises: ValueError: no bars.
    """
    returns = _series(returns_T, at_least=1, what="a hit rate")
    moved = returns[returns != 0.0]
    if not len(moved) or np.isnan(moved).any():
        return math.nan
    return float((moved > 0.0).mean())
