"""Which of two forecasters, or strategies, is better? A classical test and two Bayesian answers.

Shapes: T bars or folds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.integrate import quad
from scipy.stats import t as student

__all__ = ["BayesianComparison", "DieboldMariano", "bayes_factor", "bayesian_comparison", "diebold_mariano"]

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class DieboldMariano:
    """Difference of two losses, first less second."""

    mean: float
    statistic: float
    """Corrected for small samples; negative where the first loses less."""
    p_value: float
    """Two-sided."""
    p_first_better: float
    """One-sided: chance of a difference this much in favour of the first if neither were better."""


def diebold_mariano(loss_a_T: Array, loss_b_T: Array, *, horizon_bars: int) -> DieboldMariano:
    """Compare the losses of two forecasts of the same outcomes.

    Args:
        loss_a_T, loss_b_T: losses (squared errors, negative returns, ...) bar by bar; bars where either is NaN are left out.
        horizon_bars: h; errors of forecasts h bars ahead overlap over h - 1 bars.
    Returns: NaN where the losses never differ, or differ by the same everywhere.
    Raises: ValueError: shapes differ, or fewer than two bars or than twice the horizon.
    Source: Diebold and Mariano (1995), JBES 13(3), with the correction of Harvey, Leybourne and Newbold (1997), IJF 13(2), and
        Student's distribution. Where the plain variance estimate is not positive, Bartlett's weights take its place.
    """
    if np.shape(loss_a_T) != np.shape(loss_b_T) or horizon_bars < 1:
        raise ValueError(
            f"losses of shape {np.shape(loss_a_T)} and {np.shape(loss_b_T)} at horizon_bars={horizon_bars}: it takes the same "
            "bars of both, and a horizon of at least 1."
        )
    difference = np.asarray(loss_a_T, dtype=np.float64) - np.asarray(loss_b_T, dtype=np.float64)
    difference = difference[~np.isnan(difference)]
    bars = len(difference)
    if bars < max(2, 2 * horizon_bars):
        raise ValueError(
            f"{bars} bars are too few to compare forecasts {horizon_bars} bars ahead: at least twice as many."
        )
    mean, away = float(difference.mean()), difference - difference.mean()
    if np.ptp(difference) == 0.0:
        return DieboldMariano(mean=mean, statistic=math.nan, p_value=math.nan, p_first_better=math.nan)
    covariance = np.array([away[lag:] @ away[: bars - lag] for lag in range(horizon_bars)]) / bars
    variance = covariance[0] + 2.0 * covariance[1:].sum()
    if variance <= 0.0:
        variance = covariance[0] + 2.0 * float(covariance[1:] @ (1.0 - np.arange(1, horizon_bars) / horizon_bars))
    h = horizon_bars
    correction = math.sqrt((bars + 1 - 2 * h + h * (h - 1) / bars) / bars)
    statistic = correction * mean / math.sqrt(variance / bars)
    below = float(student.cdf(statistic, bars - 1))
    return DieboldMariano(mean=mean, statistic=statistic, p_value=2.0 * min(below, 1.0 - below), p_first_better=below)


def bayes_factor(difference_T: Array, *, scale: float = math.sqrt(0.5)) -> float:
    """How many times likelier the differences are with an edge than with none (JZS, a Cauchy prior on the effect's size).

    Args:
        difference_T: independent differences; NaN is left out.
        scale: of the prior on mean over deviation. Edges in markets are small, and a wide prior speaks against small edges.
    Returns: above 3 is some evidence for a difference in either direction, below 1/3 some for none; NaN without variance.
    Raises: ValueError: fewer than two values, or a scale that is not positive.
    Source: Rouder et al. (2009), "Bayesian t tests for accepting and rejecting the null hypothesis", equation 1.
    """
    values = np.asarray(difference_T, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2 or not scale > 0.0:
        raise ValueError(f"{len(values)} values and scale={scale}: it takes at least two, and a positive scale.")
    if np.ptp(values) == 0.0:
        return math.nan
    count, freedom = len(values), len(values) - 1
    squared = (values.mean() / values.std(ddof=1)) ** 2 * count
    null = -0.5 * count * math.log1p(squared / freedom)

    def density(log_g: float) -> float:
        """Of the effect's variance g = exp(log_g), relative to the null: stays within floating point for any sample."""
        g = math.exp(log_g)
        spread = 1.0 + count * g * scale**2
        likelihood = -0.5 * math.log(spread) - 0.5 * count * math.log1p(squared / (spread * freedom))
        prior = -0.5 * math.log(2.0 * math.pi) - 0.5 * log_g - 0.5 / g
        return math.exp(min(likelihood + prior - null, 700.0))

    return float(quad(density, -12.0, 60.0, limit=500, points=[-6.0, 0.0, 6.0])[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class BayesianComparison:
    """Chances that the first is worse, practically equal, and better."""

    worse: float
    equal: float
    better: float


def bayesian_comparison(
    difference_T: Array, *, correlation: float = 0.0, equal_within: float = 0.0
) -> BayesianComparison:
    """Posterior of the mean difference: a Student distribution, wider where the scores share data.

    Args:
        difference_T: score of the first less that of the second, a fold or bar each; NaN is left out.
        correlation: of the scores; for k-fold cross-validation the share that is tested, 1 / k.
        equal_within: differences up to this size mean nothing in practice.
    Returns: NaN throughout where all differences are equal.
    Raises: ValueError: fewer than two values, a correlation outside [0, 1), or a negative `equal_within`.
    Source: Corani and Benavoli (2015), "A Bayesian approach for comparing cross-validated algorithms", Machine Learning 100;
        the correlation, Nadeau and Bengio (2003), Machine Learning 52(3).
    """
    values = np.asarray(difference_T, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2 or not 0.0 <= correlation < 1.0 or equal_within < 0.0:
        raise ValueError(
            f"{len(values)} values, correlation={correlation}, equal_within={equal_within}: it takes at least two values, a "
            "correlation in [0, 1), and no negative width."
        )
    if np.ptp(values) == 0.0:
        return BayesianComparison(worse=math.nan, equal=math.nan, better=math.nan)
    spread = values.std(ddof=1) * math.sqrt(1.0 / len(values) + correlation / (1.0 - correlation))
    worse = float(student.cdf((-equal_within - values.mean()) / spread, len(values) - 1))
    better = float(student.sf((equal_within - values.mean()) / spread, len(values) - 1))
    return BayesianComparison(worse=worse, equal=max(0.0, 1.0 - worse - better), better=better)
