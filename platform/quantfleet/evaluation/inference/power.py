"""Power: how long must one look, and how small an edge can be seen at all?"""

from __future__ import annotations

import math

from scipy.special import ndtr, ndtri

__all__ = ["detection_power", "years_to_detect"]


def years_to_detect(
    sharpe: float,
    *,
    bars_per_year: float,
    confidence: float = 0.95,
    power: float = 0.8,
    skewness: float = 0.0,
    kurtosis: float = 3.0,
) -> float:
    """Years until a true Sharpe ratio is told from none, in `power` of all cases, by a one-sided test.

    Args:
        sharpe: annualised, true ratio (or that of a difference of two return series).
        skewness, kurtosis: of the returns per bar, which are taken as independent; normal ones have 0 and 3.
    Returns: infinite for a ratio of 0 or less, NaN for NaN.
    Raises: ValueError: a confidence or power outside (0, 1), or no bars.
    Source: the variance, Lo (2002), "The Statistics of Sharpe Ratios", FAJ 58(4), with moments of Mertens (2002).
    """
    _check(confidence, bars_per_year)
    _check(power, bars_per_year)
    if math.isnan(sharpe):
        return math.nan
    if sharpe <= 0.0:
        return math.inf
    ratio = sharpe / math.sqrt(bars_per_year)
    reach = float(ndtri(confidence)) + float(ndtri(power)) * _spread(ratio, skewness, kurtosis)
    return (1.0 + (max(reach, 0.0) / ratio) ** 2) / bars_per_year


def detection_power(
    sharpe: float,
    *,
    years: float,
    bars_per_year: float,
    confidence: float = 0.95,
    skewness: float = 0.0,
    kurtosis: float = 3.0,
) -> float:
    """Chance that a test over so many years finds a true Sharpe ratio of this size: `years_to_detect` the other way round.

    Raises: ValueError: fewer than two bars, or a confidence outside (0, 1).
    """
    _check(confidence, bars_per_year)
    bars = years * bars_per_year
    if not bars >= 2.0:
        raise ValueError(f"{years} years hold {bars:g} bars: at least two are needed.")
    if math.isnan(sharpe):
        return math.nan
    ratio = sharpe / math.sqrt(bars_per_year)
    reach = ratio * math.sqrt(bars - 1.0) - float(ndtri(confidence))
    return float(ndtr(reach / _spread(ratio, skewness, kurtosis)))


def _spread(ratio: float, skewness: float, kurtosis: float) -> float:
    """Standard error of a Sharpe ratio per bar, times the root of the bars; 1 where the ratio is 0."""
    return math.sqrt(max(1.0 - skewness * ratio + (kurtosis - 1.0) / 4.0 * ratio**2, 1e-12))


def _check(chance: float, bars_per_year: float) -> None:
    if not 0.0 < chance < 1.0 or not bars_per_year > 0.0:
        raise ValueError(
            f"a confidence or power of {chance} must lie in (0, 1), and bars_per_year={bars_per_year} above 0."
        )
