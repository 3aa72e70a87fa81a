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
    "alpha_beta",
    "annual_return",
    "annual_volatility",
    "calmar",
    "drawdown_length_bars",
    "expected_shortfall",
    "exposure",
    "hit_rate",
    "max_drawdown",
    "omega",
    "profit_factor",
    "sharpe",
    "sortino",
    "tail_ratio",
    "total_return",
    "turnover_per_year",
    "value_at_risk",
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


def drawdown_length_bars(returns_T: Array) -> int:
    """Bars of the longest drawdown: the first that closes below the last high, to the last that does, both counted.

    Returns: 0 when the series never fell; one that is still under water at the end counts up to the end.
    Raises: ValueError: no bars, or a return that is not a number, after which nobody knows where the high is.
    """
    returns = _series(returns_T, at_least=1, what="a drawdown")
    if np.isnan(returns).any():
        raise ValueError(f"return {int(np.isnan(returns).argmax())} is not a number: the drawdown has no known length.")
    wealth = np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    under = np.concatenate([wealth < np.maximum.accumulate(wealth), [False]])
    edges = np.flatnonzero(np.diff(under.astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def calmar(returns_T: Array, *, bars_per_year: float) -> float:
    """Compound annual growth over the maximum drawdown, both of the whole series.

    Returns: NaN when the series never fell. Raises: ValueError: no bars.
    Source: Young (1991), "Calmar Ratio: A Smoother Tool", Futures 20(1).
    """
    loss = max_drawdown(returns_T)
    return annual_return(returns_T, bars_per_year=bars_per_year) / loss if loss != 0.0 else math.nan


def omega(returns_T: Array, *, threshold: float = 0.0) -> float:
    """What lies above a return per bar over what lies below it.

    Args:
        threshold: return per bar, not per year.
    Returns: 1 where both sides weigh the same; NaN when no bar lies below.
    Raises: ValueError: no bars.
    Source: Keating and Shadwick (2002), "A Universal Performance Measure".
    """
    beyond = _series(returns_T, at_least=1, what="an Omega ratio") - threshold
    below = -float(np.minimum(beyond, 0.0).sum())
    return float(np.maximum(beyond, 0.0).sum()) / below if below != 0.0 else math.nan


def profit_factor(returns_T: Array) -> float:
    """Sum of the gains over the sum of the losses, bar by bar; NaN without a loss. Raises: ValueError: no bars."""
    return omega(_series(returns_T, at_least=1, what="a profit factor"))


def tail_ratio(returns_T: Array, *, confidence: float = 0.95) -> float:
    """Size of the upper quantile over that of the lower one: above 1 the good bars are wilder than the bad ones.

    Returns: |quantile(c)| / |quantile(1 - c)|, quantiles interpolated; NaN where the lower one is 0.
    Raises: ValueError: no bars, or a confidence outside (0.5, 1).
    """
    returns = _tailed(returns_T, confidence, "a tail ratio")
    low, high = np.quantile(returns, [1.0 - confidence, confidence])
    return abs(float(high)) / abs(float(low)) if low != 0.0 else math.nan


def value_at_risk(returns_T: Array, *, confidence: float = 0.95) -> float:
    """Historical value at risk of one bar: the loss that is not exceeded in the share `confidence` of the bars.

    Returns: a positive fraction for a loss, negative when even that quantile is a gain; interpolated.
    Raises: ValueError: no bars, or a confidence outside (0.5, 1).
    """
    return -float(np.quantile(_tailed(returns_T, confidence, "a value at risk"), 1.0 - confidence))


def expected_shortfall(returns_T: Array, *, confidence: float = 0.95) -> float:
    """Historical expected shortfall (CVaR) of one bar: the mean loss of the bars at or beyond the value at risk.

    Returns: a positive fraction for a loss; at least the value at risk.
    Raises: ValueError: no bars, or a confidence outside (0.5, 1).
    Source: Acerbi and Tasche (2002), "On the coherence of expected shortfall", J. of Banking and Finance 26(7).
    """
    returns = _tailed(returns_T, confidence, "an expected shortfall")
    return -float(returns[~(returns > np.quantile(returns, 1.0 - confidence))].mean())


def alpha_beta(returns_T: Array, benchmark_T: Array, *, bars_per_year: float) -> tuple[float, float]:
    """Intercept and slope of the regression of the returns on the benchmark's.

    Args:
        returns_T, benchmark_T: simple excess returns of the same bars.
    Returns: alpha per year (mean per bar times bars per year, not compounded) and beta; NaN where the benchmark never
        moves.
    Raises: ValueError: fewer than two bars, or series of different length.
    Source: Jensen (1968), "The Performance of Mutual Funds in the Period 1945-1964".
    """
    returns = _series(returns_T, at_least=2, what="alpha and beta")
    benchmark = _series(benchmark_T, at_least=2, what="alpha and beta")
    if len(returns) != len(benchmark):
        raise ValueError(
            f"alpha and beta need the same bars; got {len(returns)} returns and {len(benchmark)} of the benchmark."
        )
    if np.ptp(benchmark) == 0.0:
        return math.nan, math.nan
    centred = benchmark - benchmark.mean()
    beta = float(centred @ (returns - returns.mean()) / (centred @ centred))
    return float(returns.mean() - beta * benchmark.mean()) * bars_per_year, beta


def _tailed(returns_T: Array, confidence: float, what: str) -> npt.NDArray[np.float64]:
    if not 0.5 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} of {what} must lie between 0.5 and 1; 0.95 looks at the worst 5 %.")
    return _series(returns_T, at_least=1, what=what)
