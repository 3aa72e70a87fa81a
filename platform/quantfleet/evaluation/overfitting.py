"""Could it be luck? Sharpe ratios corrected for short samples and many trials, and the chance that a search overfitted.

Shapes: T bars, N strategies tried, S blocks of time, C ways to deal half of the blocks out.

Sharpe ratios here are per bar, not annualised: divide an annual one by the root of the bars per year.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import kurtosis, skew

__all__ = [
    "OverfittingResult",
    "deflated_sharpe",
    "expected_best_sharpe",
    "minimum_track_record_bars",
    "probabilistic_sharpe",
    "probability_of_overfitting",
]

Array = npt.NDArray[np.floating[Any]]

_EULER = 0.5772156649015329


def probabilistic_sharpe(returns_T: Array, *, benchmark: float = 0.0) -> float:
    """Chance that the true Sharpe ratio lies above a benchmark, given length, skewness and kurtosis of the sample.

    Args:
        returns_T: simple returns per bar, taken as independent.
        benchmark: Sharpe ratio per bar to beat.
    Returns: NaN when the ratio is undefined (equal or non-finite returns).
    Raises: ValueError: fewer than three bars.
    Source: Bailey and López de Prado (2012), "The Sharpe Ratio Efficient Frontier", J. of Risk 15(2).
    """
    ratio, spread = _ratio_and_spread(returns_T)
    return float(ndtr((ratio - benchmark) * math.sqrt(len(returns_T) - 1) / spread))


def minimum_track_record_bars(returns_T: Array, *, benchmark: float = 0.0, confidence: float = 0.95) -> float:
    """Bars it takes until a Sharpe ratio like this one can be told from the benchmark: the power of the sample.

    Returns: bars; divide by bars per year for years. Infinite when the ratio does not lie above the benchmark, NaN when it
        is undefined.
    Raises: ValueError: fewer than three bars, or a confidence outside (0.5, 1).
    Source: Bailey and López de Prado (2012), equation 11.
    """
    if not 0.5 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} must lie between 0.5 and 1.")
    ratio, spread = _ratio_and_spread(returns_T)
    if math.isnan(ratio):
        return math.nan
    return 1.0 + (spread * float(ndtri(confidence)) / (ratio - benchmark)) ** 2 if ratio > benchmark else math.inf


def expected_best_sharpe(*, trials: int, deviation: float) -> float:
    """Sharpe ratio that the best of so many worthless, independent trials is expected to show.

    Args:
        trials: how many were compared, 1 or more.
        deviation: standard deviation of the trials' ratios, per bar.
    Returns: per bar; 0 for one trial.
    Raises: ValueError: no trials, or a negative deviation.
    Source: Bailey and López de Prado (2014), "The Deflated Sharpe Ratio", J. of Portfolio Management 40(5).
    """
    if trials < 1 or not deviation >= 0.0:
        raise ValueError(f"trials={trials} must be at least 1 and deviation={deviation} 0 or more.")
    if trials == 1:
        return 0.0
    upper, outer = ndtri(1.0 - 1.0 / trials), ndtri(1.0 - 1.0 / (trials * math.e))
    return deviation * float((1.0 - _EULER) * upper + _EULER * outer)


def deflated_sharpe(returns_T: Array, *, trials: int, deviation: float) -> float:
    """Chance that the true Sharpe ratio is above what the best of all trials would show by luck alone.

    Args:
        returns_T: simple returns per bar of the strategy that was chosen.
        trials, deviation: as in `expected_best_sharpe`; count every trial, those that were thrown away as well.
    Returns: NaN when the ratio is undefined.
    Raises: ValueError: fewer than three bars, no trials, or a negative deviation.
    Source: Bailey and López de Prado (2014).
    """
    return probabilistic_sharpe(returns_T, benchmark=expected_best_sharpe(trials=trials, deviation=deviation))


def _ratio_and_spread(returns_T: Array) -> tuple[float, float]:
    """Sharpe ratio per bar, and its standard error times the root of T - 1."""
    returns = np.asarray(returns_T, dtype=np.float64)
    if returns.ndim != 1 or len(returns) < 3:
        raise ValueError(f"it takes a series of at least 3 bars, got shape {returns.shape}.")
    if not np.isfinite(returns).all() or np.ptp(returns) == 0.0:
        return math.nan, math.nan
    ratio = float(returns.mean() / returns.std(ddof=1))
    lean, tails = float(skew(returns)), float(kurtosis(returns, fisher=False))
    return ratio, math.sqrt(1.0 - lean * ratio + (tails - 1.0) / 4.0 * ratio**2)


@dataclass(frozen=True, slots=True)
class OverfittingResult:
    """How the best of a search fares on data that did not choose it."""

    probability: float
    """PBO: share of the splits in which the best in sample comes out at or below the median out of sample."""
    logit_C: npt.NDArray[np.float64]
    """Log-odds of the relative rank out of sample, split by split; at or below 0 is at or below the median."""
    blocks: int


def probability_of_overfitting(returns_TN: Array, *, blocks: int = 16) -> OverfittingResult:
    """Probability of backtest overfitting by combinatorially symmetric cross-validation, on Sharpe ratios.

    Time is cut into S blocks of equal length (the first bars are left out where T is no multiple of S); half of them choose
    the best strategy, the other half rank it among all, for every way to deal the halves out. Ratios come from sums per
    block, so a split costs S additions a strategy instead of T.

    Args:
        returns_TN: simple returns per bar of every strategy tried, those that were thrown away as well.
        blocks: S, even; 16 gives 12,870 splits.
    Raises: ValueError: an odd number of blocks, fewer than two bars a block or two strategies, returns that are not finite,
        or a strategy whose returns are all equal within half of the blocks.
    Source: Bailey, Borwein, López de Prado and Zhu (2017), "The Probability of Backtest Overfitting", J. of Computational
        Finance 20(4).
    """
    returns = np.asarray(returns_TN, dtype=np.float64)
    if returns.ndim != 2 or returns.shape[1] < 2 or not np.isfinite(returns).all():
        raise ValueError(f"it takes finite returns of at least 2 strategies, shape (T, N); got shape {returns.shape}.")
    if blocks < 2 or blocks % 2 or len(returns) < 2 * blocks:
        raise ValueError(f"blocks={blocks} must be even and at most half of the {len(returns)} bars.")
    from quantfleet.evaluation import (
        overfitting_kernel as kernel,
    )  # pulls in numba, which takes half a second to import

    length, strategies = len(returns) // blocks, returns.shape[1]
    kept = np.ascontiguousarray(returns[len(returns) - length * blocks :])
    mean_N = kept.mean(axis=0)
    sum_SN, square_SN = np.empty((blocks, strategies)), np.empty((blocks, strategies))
    kernel.block_sums(kept, mean_N, sum_SN, square_SN)
    chosen = np.array(list(itertools.combinations(range(blocks), blocks // 2)))
    rank_C = np.empty(len(chosen), np.int64)
    if not kernel.rank_best(chosen, sum_SN, square_SN, mean_N, length, rank_C):
        raise ValueError("a strategy has equal returns throughout half of the blocks: no Sharpe ratio; leave it out.")
    share_C = rank_C / (strategies + 1.0)
    logit_C = np.log(share_C / (1.0 - share_C))
    return OverfittingResult(probability=float((logit_C <= 0.0).mean()), logit_C=logit_C, blocks=blocks)
