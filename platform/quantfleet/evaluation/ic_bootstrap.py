"""Stationary bootstrap of pooled information coefficients: how far an IC could be from what it is by luck of the period.

Shapes: N rows (a row is a symbol at a time), T distinct times, K paired forecasts of the same rows, R resamples.

Times are drawn in blocks, with all their symbols, as `bootstrap` draws bars: outcomes that overlap and symbols that move together
stay together. A correlation needs six sums only, which are added up time by time first, so that a block costs the same however
many rows it holds. Source: Politis and Romano (1994), "The Stationary Bootstrap", JASA 89(428).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.chance import random_keys
from quantfleet.evaluation.bootstrap import optimal_block_bars
from quantfleet.evaluation.forecast import information_coefficient

__all__ = ["IcInterval", "ic_block_bars", "ic_interval", "resample_ics"]

Array = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]

_FLAT = 1e-12
"""Below this share of the rows' own variance a resample holds equal values; its correlation is undefined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IcInterval:
    """A pooled IC and its percentile interval; all NaN where the IC is undefined."""

    estimate: float
    low: float
    high: float
    confidence: float
    block_bars: float


def ic_block_bars(expected_N: Array, realised_N: Array, time_N: npt.NDArray[Any], *, horizon_bars: int) -> float:
    """Mean block length for an IC: Politis and White's rule on what each time adds to the correlation, at least the horizon, over
    which outcomes overlap. Rows with a NaN are left out.
    """
    known = np.isfinite(expected_N) & np.isfinite(realised_N)
    if known.sum() < 2:
        return float(horizon_bars)
    x, y = expected_N[known].astype(np.float64), realised_N[known].astype(np.float64)
    _, place_N = np.unique(time_N[known], return_inverse=True)
    added_T: Doubles = np.bincount(place_N, (x - x.mean()) * (y - y.mean())).astype(np.float64)
    return max(float(horizon_bars), optimal_block_bars(added_T))


def resample_ics(
    expected_KN: Array, realised_N: Array, time_N: npt.NDArray[Any], *, block_bars: float, resamples: int, seed: int
) -> Doubles:
    """Draw pooled Pearson correlations of K forecasts with the same outcomes.

    Args:
        expected_KN: row k is forecast k, columns are the same rows.
        time_N: when each row was decided, in any order; rows of one time stay together.
        block_bars: mean block length in times, above 1.
    Returns: shape (R, K); NaN where a resample holds equal values only.
    Raises: ValueError: shapes differ, values that are not finite, fewer than two times, a block of one time or less, no resamples.
    """
    expected, realised = np.atleast_2d(np.asarray(expected_KN, np.float64)), np.asarray(realised_N, np.float64)
    if expected.shape[1:] != realised.shape or realised.shape != np.shape(time_N):
        raise ValueError(
            f"{expected.shape} forecasts, {realised.shape} outcomes and {np.shape(time_N)} times do not pair."
        )
    times, place_N = np.unique(time_N, return_inverse=True)
    finite = bool(np.isfinite(expected).all() and np.isfinite(realised).all())
    if len(times) < 2 or not 1.0 < block_bars < math.inf or resamples < 1 or not finite:
        raise ValueError(
            f"cannot resample {len(times)} times in blocks of {block_bars}, {resamples} times: it takes at least 2 times with "
            "finite rows, blocks of more than 1 time and 1 resample."
        )
    from quantfleet.evaluation import bootstrap_kernel as kernel  # pulls in numba, which takes half a second to import

    x_KN, y_N = expected - expected.mean(axis=1, keepdims=True), realised - realised.mean()
    rows = [np.ones_like(y_N), y_N, y_N**2, *(part for x in x_KN for part in (x, x**2, x * y_N))]
    rows += [np.zeros_like(y_N)] * (len(rows) % 2)  # the kernel takes columns in twos
    prefix = np.zeros((len(times) + 1, len(rows)))
    np.cumsum(np.stack([np.bincount(place_N, row) for row in rows], axis=1), axis=0, out=prefix[1:])
    drawn = np.empty((resamples, len(rows)))
    kernel.draw_blocks(prefix, *kernel.length_table(block_bars), random_keys(seed, np.arange(resamples)), drawn)
    half = len(rows) // 2
    column = {n: drawn[:, n // 2 + half * (n % 2)] for n in range(len(rows))}
    count, y, yy = column[0], column[1], column[2]
    ics = np.empty((resamples, len(x_KN)))
    for k, x_N in enumerate(x_KN):
        x, xx, xy = (column[3 + 3 * k + i] for i in range(3))
        var_x, var_y = xx / count - (x / count) ** 2, yy / count - (y / count) ** 2
        defined = (var_x > _FLAT * max(x_N.var(), 1e-300)) & (var_y > _FLAT * max(y_N.var(), 1e-300))
        scale = np.sqrt(np.where(defined, var_x * var_y, 1.0))
        ics[:, k] = np.where(defined, (xy / count - x * y / count**2) / scale, np.nan)
    return ics


def ic_interval(
    expected_N: Array,
    realised_N: Array,
    time_N: npt.NDArray[Any],
    *,
    horizon_bars: int,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> IcInterval:
    """Percentile interval of a pooled IC; rows without an outcome are left out, as in `information_coefficient`.

    Args:
        horizon_bars: over which an outcome reaches; blocks are at least as long.
    Returns: all NaN where the IC is undefined: a side is constant, or a forecast is NaN where the outcome is known.
    Raises: ValueError: shapes differ, or a confidence outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, both excluded.")
    known = np.isfinite(realised_N)
    x, y, time = expected_N[known], realised_N[known], time_N[known]
    estimate = information_coefficient(x, y)
    block = max(ic_block_bars(x, y, time, horizon_bars=horizon_bars), 1.0 + 1e-9)
    if math.isnan(estimate) or len(np.unique(time)) < 2:
        return IcInterval(estimate=math.nan, low=math.nan, high=math.nan, confidence=confidence, block_bars=block)
    drawn_R = resample_ics(x, y, time, block_bars=block, resamples=resamples, seed=seed)[:, 0]
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(drawn_R, [tail, 1.0 - tail])
    return IcInterval(estimate=estimate, low=float(low), high=float(high), confidence=confidence, block_bars=block)
