"""Scoring rules: how far a forecast lies from what came true. Lower is better. Undefined is NaN, never 0.

Shapes: N rows, M members of an ensemble, Q quantile levels.

A row whose outcome is not known (NaN) is left out; a forecast of NaN where the outcome is known makes the score NaN.
Quantile, normal and ensemble scores are proper: no one can better them in expectation by saying other than he believes.
Source: Gneiting and Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation", JASA 102(477).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

__all__ = ["crps_ensemble", "crps_normal", "crps_quantiles", "mean_absolute_error", "mean_squared_error", "pinball"]

Array = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]

_ROOT_PI = math.sqrt(math.pi)
_ROOT_TWO_PI = math.sqrt(2.0 * math.pi)


def mean_squared_error(forecast_N: Array, realised_N: Array) -> float:
    """Mean of the squared differences; NaN without a known row. Raises: ValueError: shapes differ."""
    forecast, realised = _known(forecast_N, realised_N)
    return _mean((forecast - realised) ** 2)


def mean_absolute_error(forecast_N: Array, realised_N: Array) -> float:
    """Mean of the absolute differences; NaN without a known row. Raises: ValueError: shapes differ."""
    forecast, realised = _known(forecast_N, realised_N)
    return _mean(np.abs(forecast - realised))


def pinball(quantile_N: Array, realised_N: Array, *, level: float) -> float:
    """Quantile loss: an outcome above the forecast costs `level` per unit, one below it `1 - level`.

    Args:
        quantile_N: forecasts of the quantile at `level`.
        level: between 0 and 1.
    Returns: the mean; NaN without a known row. Half the absolute error at the level 0.5.
    Raises: ValueError: shapes differ, or a level outside (0, 1).
    Source: Koenker and Bassett (1978), "Regression Quantiles", Econometrica 46(1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} of a quantile must lie between 0 and 1, both excluded.")
    forecast, realised = _known(quantile_N, realised_N)
    above = realised - forecast
    return _mean(np.maximum(level * above, (level - 1.0) * above))


def crps_quantiles(quantile_NQ: Array, realised_N: Array, *, levels: Sequence[float]) -> float:
    """Continuous ranked probability score of a forecast that is given by quantiles.

    Twice the pinball loss, averaged over the levels: the score's integral over all levels by a sum over those there are.

    Args:
        quantile_NQ: one column per level.
        levels: Q levels between 0 and 1, rising.
    Raises: ValueError: shapes differ, or levels that do not rise within (0, 1).
    """
    quantiles = np.asarray(quantile_NQ, dtype=np.float64)
    if not levels or any(low >= high for low, high in pairwise((0.0, *levels, 1.0))):
        raise ValueError(f"levels={tuple(levels)} must rise and lie between 0 and 1.")
    if quantiles.shape != (len(realised_N), len(levels)):
        raise ValueError(
            f"quantiles have shape {quantiles.shape}; {(len(realised_N), len(levels))} fits the outcomes and levels."
        )
    losses = [pinball(quantiles[:, q], realised_N, level=level) for q, level in enumerate(levels)]
    return 2.0 * float(np.mean(losses))


def crps_normal(mean_N: Array, deviation_N: Array, realised_N: Array) -> float:
    """Continuous ranked probability score of a normal forecast, in the unit of the outcome.

    Args:
        deviation_N: standard deviations, 0 or more; 0 is a forecast of one value, and scores its absolute error.
    Returns: the mean; NaN without a known row.
    Raises: ValueError: shapes differ, or a negative deviation.
    Source: Gneiting and Raftery (2007), equation 21.
    """
    if np.shape(mean_N) != np.shape(deviation_N):
        raise ValueError(f"{np.shape(mean_N)} means and {np.shape(deviation_N)} deviations do not fit each other.")
    mean, realised = _known(mean_N, realised_N)
    deviation = np.asarray(deviation_N, dtype=np.float64)[~np.isnan(realised_N)]
    if (deviation < 0.0).any():
        raise ValueError(f"a standard deviation of {deviation.min()} cannot be; the smallest is 0.")
    away = realised - mean
    z = away / np.where(deviation > 0.0, deviation, 1.0)
    score = deviation * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * np.exp(-0.5 * z * z) / _ROOT_TWO_PI - 1.0 / _ROOT_PI)
    return _mean(np.where(deviation == 0.0, np.abs(away), score))


def crps_ensemble(members_NM: Array, realised_N: Array) -> float:
    """Continuous ranked probability score of the empirical distribution of M members.

    Returns: E|X - y| - E|X - X'| / 2, both over the members; NaN without a known row.
    Raises: ValueError: shapes differ, or no members.
    Source: Gneiting and Raftery (2007), equation 20.
    """
    members = np.asarray(members_NM, dtype=np.float64)
    if members.ndim != 2 or len(members) != len(realised_N) or members.shape[1] < 1:
        raise ValueError(
            f"members have shape {members.shape}; it takes ({len(realised_N)}, M) with at least one member."
        )
    known = ~np.isnan(realised_N)
    ordered, realised = np.sort(members[known], axis=1), np.asarray(realised_N, dtype=np.float64)[known]
    count = ordered.shape[1]
    rank_M = 2.0 * np.arange(count) + 1.0 - count  # the sum of |x_i - x_j| over all pairs is 2 sum of rank_i x_(i)
    apart = np.abs(ordered - realised[:, None]).mean(axis=1)
    return _mean(apart - (ordered * rank_M).sum(axis=1) / count**2)


def _known(forecast_N: Array, realised_N: Array) -> tuple[Doubles, Doubles]:
    if np.shape(forecast_N) != np.shape(realised_N):
        raise ValueError(f"{np.shape(forecast_N)} forecasts cannot be compared with {np.shape(realised_N)} outcomes.")
    known = ~np.isnan(realised_N)
    return np.asarray(forecast_N)[known].astype(np.float64), np.asarray(realised_N)[known].astype(np.float64)


def _mean(loss: Doubles) -> float:
    return float(loss.mean()) if len(loss) else math.nan
