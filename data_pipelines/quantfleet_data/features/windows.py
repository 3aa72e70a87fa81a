"""Arithmetic over moving windows whose every value depends on its own window alone.

Running sums (TA-Lib's SMA and BBANDS, cumulative sums) carry rounding errors and a single NaN from the series' start to
its end, so a value would depend on where the history begins. Here each window is added up by itself, oldest bar first:
the same bars give the same bits wherever the series starts or stops, and a NaN touches only the windows that hold it.

Shapes: T bars, n bars in a window. Every function returns shape (T,), NaN until the first whole window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = [
    "Array",
    "column",
    "distance_from_mean",
    "lag",
    "log_change",
    "rolling_max",
    "rolling_mean",
    "rolling_mean_deviation",
    "rolling_min",
    "rolling_rms",
    "rolling_std",
    "rolling_sum",
    "safe_ratio",
]

Array: TypeAlias = npt.NDArray[np.float64]


def column(bars: pl.DataFrame, name: str) -> Array:
    """One column of bars as contiguous float64, null as NaN. May be a read-only view."""
    values: Array = np.ascontiguousarray(bars[name].cast(pl.Float64).to_numpy())
    return values


def lag(x_T: Array, bars: int) -> Array:
    """The value `bars` bars ago; NaN before there is one."""
    out = np.full(x_T.shape, np.nan)
    out[bars:] = x_T[: max(x_T.size - bars, 0)]
    return out


def log_change(x_T: Array, bars: int = 1) -> Array:
    """ln(x_t / x_{t-bars})."""
    change: Array = np.log(x_T / lag(x_T, bars))
    return change


def safe_ratio(numerator_T: Array, denominator_T: Array, *, undefined: float) -> Array:
    """numerator / denominator, and `undefined` where the denominator is exactly zero."""
    zero = denominator_T == 0.0
    ratio: Array = numerator_T / np.where(zero, 1.0, denominator_T)
    ratio[zero] = undefined
    return ratio


def _accumulate(x_T: Array, n: int, step: Callable[[Array, Array], object]) -> Array:
    """Walk the n bars of every window at once, oldest first: `step(total, value)` changes `total` in place."""
    out = np.full(x_T.shape, np.nan)
    windows = _windows(x_T, n)
    if windows > 0:
        total = x_T[:windows].copy()
        for k in range(1, n):
            step(total, x_T[k : k + windows])
        out[n - 1 :] = total
    return out


def rolling_sum(x_T: Array, n: int) -> Array:
    """Sum over the last n bars, the current one included."""
    return _accumulate(x_T, n, lambda total, value: np.add(total, value, out=total))


def rolling_mean(x_T: Array, n: int) -> Array:
    """Mean over the last n bars."""
    return rolling_sum(x_T, n) / n


def rolling_max(x_T: Array, n: int) -> Array:
    """Largest of the last n bars."""
    return _accumulate(x_T, n, lambda total, value: np.maximum(total, value, out=total))


def rolling_min(x_T: Array, n: int) -> Array:
    """Smallest of the last n bars."""
    return _accumulate(x_T, n, lambda total, value: np.minimum(total, value, out=total))


def rolling_rms(x_T: Array, n: int) -> Array:
    """Root of the mean square over the last n bars."""
    rms: Array = np.sqrt(rolling_sum(x_T * x_T, n) / n)
    return rms


def rolling_std(x_T: Array, n: int) -> Array:
    """Population standard deviation of the last n bars; exactly 0.0 when they are all equal."""
    total = np.zeros(_windows(x_T, n))
    for deviation in _deviations(x_T, n):
        total += deviation * deviation
    return _padded(np.sqrt(total / n), x_T.size)


def rolling_mean_deviation(x_T: Array, n: int) -> Array:
    """Mean absolute deviation of the last n bars from their mean; exactly 0.0 when they are all equal."""
    total = np.zeros(_windows(x_T, n))
    for deviation in _deviations(x_T, n):
        total += np.abs(deviation)
    return _padded(total / n, x_T.size)


def distance_from_mean(x_T: Array, n: int) -> Array:
    """The current value less the mean of the last n bars; exactly 0.0 when they are all equal."""
    return _padded(-_mean_from_newest(x_T, n), x_T.size)


def _windows(x_T: Array, n: int) -> int:
    return max(x_T.size - n + 1, 0)


def _mean_from_newest(x_T: Array, n: int) -> Array:
    """Mean of each window less its newest bar, so that equal bars give exact zeros. Shape (T - n + 1,)."""
    windows = _windows(x_T, n)
    newest = x_T[x_T.size - windows :]
    mean = np.zeros(windows)
    for k in range(n):
        mean += x_T[k : k + windows] - newest
    return mean / n


def _deviations(x_T: Array, n: int) -> Iterator[Array]:
    """Distance of each of the n bars, oldest first, from its window's mean."""
    windows = _windows(x_T, n)
    newest, mean = x_T[x_T.size - windows :], _mean_from_newest(x_T, n)
    for k in range(n):
        yield (x_T[k : k + windows] - newest) - mean


def _padded(windows: Array, size: int) -> Array:
    out = np.full(size, np.nan)
    out[size - windows.size :] = windows
    return out
