"""Permutation tests: what would chance alone have shown, on these very numbers?

Shapes: T bars, N rows, R resamples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.chance import random_keys

__all__ = ["permuted_correlation_p", "sign_flip_p"]

Array = npt.NDArray[np.floating[Any]]


def sign_flip_p(difference_T: Array, *, resamples: int, seed: int) -> float:
    """One-sided p-value of a mean above zero, where each difference could as well have had the other sign.

    Exact for independent differences that are symmetric about zero when there is no edge, whatever their tails.

    Args:
        difference_T: such as the returns of one strategy less those of another, bar by bar; NaN is left out.
    Returns: share of sign assignments whose mean is at least the observed one, which counts as one of them; NaN without a value.
    Raises: ValueError: no resamples.
    Source: Fisher (1935), "The Design of Experiments", section 21.
    """
    _need_resamples(resamples)
    values = np.asarray(difference_T, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan")
    from quantfleet.evaluation.inference import permutation_kernel as kernel  # pulls in numba

    # Sums in another order differ in their last bits: what is equal up to those counts as equal.
    bound = float(values.sum()) - 1e-12 * float(np.abs(values).sum())
    return (1 + int(kernel.count_flipped(values, random_keys(seed, np.arange(resamples)), bound))) / (resamples + 1)


def permuted_correlation_p(
    forecast_N: Array, realised_N: Array, *, resamples: int, seed: int, block_rows: int = 1
) -> float:
    """One-sided p-value of a correlation above zero, where the forecasts could as well have come in another order.

    Args:
        forecast_N, realised_N: pairs in order of time; pairs with a NaN are left out.
        block_rows: rows that stay together, 1 or more. Outcomes that overlap or forecasts that hardly move repeat themselves: take
            at least as many rows as they last, or the p-value is too small.
    Returns: share of permutations whose correlation is at least the observed one, which counts as one of them; NaN with fewer than
        three pairs or blocks, or where a side is constant.
    Raises: ValueError: shapes differ, or no resamples.
    """
    _need_resamples(resamples)
    if np.shape(forecast_N) != np.shape(realised_N) or block_rows < 1:
        raise ValueError(
            f"{np.shape(forecast_N)} forecasts cannot be compared with {np.shape(realised_N)} outcomes in blocks of {block_rows}."
        )
    known = ~(np.isnan(forecast_N) | np.isnan(realised_N))
    forecast, realised = (np.asarray(x, dtype=np.float64)[known] for x in (forecast_N, realised_N))
    kept = len(forecast) - len(forecast) % block_rows
    forecast, realised = forecast[:kept], realised[:kept]
    if kept < 3 * block_rows or np.ptp(forecast) == 0.0 or np.ptp(realised) == 0.0:
        return float("nan")
    from quantfleet.evaluation.inference import permutation_kernel as kernel  # pulls in numba

    forecast, realised = forecast - forecast.mean(), realised - realised.mean()
    bound = float(forecast @ realised) - 1e-12 * float(np.abs(forecast) @ np.abs(realised))
    key_R = random_keys(seed, np.arange(resamples))
    return (1 + int(kernel.count_permuted(forecast, realised, block_rows, key_R, bound))) / (resamples + 1)


def _need_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1.")
